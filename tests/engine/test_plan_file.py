"""Engine files that hold a plan: built ahead of time for another GPU, checked before native code reads them."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from aurevoir import build_engine, load_engine
from aurevoir.engine.load import read_engine
from aurevoir.engine.runtimes import has_nvidia_driver, on_tensorrt_rtx
from aurevoir.engine.runtimes.gpu_run import GpuRunner
from aurevoir.errors import AurevoirError, UsageError

pytest.importorskip("tensorrt_rtx_bindings")


@pytest.fixture(scope="module")
def path(tiny_onnx, pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "e.engine"
    build_engine(tiny_onnx, precision="int8", target="sm89", calibration=pixels, out=path)
    return path


class Loaded(GpuRunner):
    """A plan that computes nothing."""

    def __init__(self):
        pass

    def __call__(self, images, wanted=None):
        return {name: np.zeros((len(images), 196), "float32") for name in wanted}


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, as far as everything but NVIDIA's own code is concerned."""
    machine = SimpleNamespace(capability="sm89", loaded=[], built=[])

    def load(plan, device):
        machine.loaded.append(plan)
        return Loaded()

    def build(graph, precision, **options):
        machine.built.append((precision, options["target"]))
        return b"new plan"

    monkeypatch.setattr(on_tensorrt_rtx, "why_not", lambda: None)
    monkeypatch.setattr(on_tensorrt_rtx, "precisions", lambda: ("fp32", "fp16", "int8"))
    monkeypatch.setattr(on_tensorrt_rtx, "load", load)
    monkeypatch.setattr(on_tensorrt_rtx, "build", build)
    for place in ("aurevoir.engine.engine", "aurevoir.engine.machine", "aurevoir.engine.runtimes"):
        monkeypatch.setattr(f"{place}.open_device", lambda name: machine)
    return machine


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_is_built_for_a_gpu_that_is_not_here(tiny_onnx, pixels, tmp_path, precision):
    out = tmp_path / "e.engine"
    build_engine(tiny_onnx, precision=precision, target="sm120", calibration=pixels, out=out)
    engine = read_engine(out)
    made = engine.manifest
    assert (made.runtime, made.target, made.precision) == ("tensorrt-rtx", "sm120", precision)
    assert made.runtime_version == on_tensorrt_rtx.version()
    assert len(engine.plan) > 1000
    assert list(engine.parts()) == ["model.onnx", *(["calibration.json"] if precision == "int8" else []), "plan.bin"]
    assert made.activation_dtype == ("int8" if precision == "int8" else None)


@pytest.mark.skipif(has_nvidia_driver(), reason="there is a GPU")
def test_a_plan_does_not_load_without_a_gpu(path):
    with pytest.raises(UsageError, match="runtime 'tensorrt-rtx' cannot run on this machine: no NVIDIA driver"):
        load_engine(path)


def test_a_plan_loads_on_its_gpu(path, gpu, pixels):
    engine = load_engine(path)
    assert engine.device == "cuda"
    assert engine(pixels).shape == (20, 196)
    assert gpu.loaded == [read_engine(path).plan]
    assert not gpu.built


@pytest.mark.parametrize(("field", "value"), [("capability", "sm120"), ("version", "9.9")])
def test_a_plan_of_another_gpu_or_version_is_refused_or_rebuilt(path, gpu, pixels, monkeypatch, field, value):
    if field == "version":
        monkeypatch.setattr(on_tensorrt_rtx, "version", lambda: value)
    else:
        gpu.capability = value
    with pytest.raises(AurevoirError, match=rf"for sm89 GPUs; here are .*{value}.*rebuild=True"):
        load_engine(path)
    assert not gpu.loaded
    engine = load_engine(path, rebuild=True)
    engine(pixels)
    assert gpu.built == [("int8", None)]
    assert gpu.loaded == [b"new plan"]
    assert (engine.manifest.target, engine.manifest.runtime_version) == (gpu.capability, on_tensorrt_rtx.version())


def test_a_pickle_holds_the_plan_and_is_refused_on_another_gpu(path, gpu, pixels):
    data = pickle.dumps(load_engine(path))
    assert pickle.loads(data)(pixels).shape == (20, 196)
    assert gpu.loaded == [read_engine(path).plan]
    assert not gpu.built
    gpu.capability = "sm120"
    with pytest.raises(AurevoirError, match="the pickled engine: its plan was built by .* here are .*sm120"):
        pickle.loads(data)


def test_graphs_of_one_family_of_runtimes_are_not_run_by_the_other(path, tiny_onnx, tmp_path, gpu):
    with pytest.raises(AurevoirError, match="built for tensorrt-rtx, whose int8 graph onnxruntime does not support"):
        load_engine(path, runtime="onnxruntime")
    build_engine(tiny_onnx, out=tmp_path / "fp32.engine")
    assert load_engine(tmp_path / "fp32.engine", runtime="tensorrt-rtx", trusted=True).runtime == "tensorrt-rtx"


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_changed_plan_is_refused_before_native_code(path, gpu, tmp_path, place):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    (tmp_path / "e.engine").write_bytes(data)
    with pytest.raises(AurevoirError, match="a byte of it has changed"):
        load_engine(tmp_path / "e.engine")
    assert not gpu.loaded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "sm90"}, "target 'sm90' is not one that runtime 'tensorrt-rtx' builds for.*sm89"),
        (
            {"target": "sm89", "runtime": "openvino"},
            "runtime 'openvino' cannot build ahead of time; use 'tensorrt-rtx'",
        ),
        ({"target": "sm89", "precision": "bf16"}, "builds fp32, fp16, int8 for sm89, not bf16"),
        (
            {"target": "sm89", "precision": "int8", "min_sign_agreement": 0.9},
            "measure on this machine, and target 'sm89' builds for another",
        ),
        (
            {"target": "sm89", "precision": "int8", "prefer_faster": True},
            "measure on this machine, and target 'sm89' builds for another",
        ),
    ],
)
def test_what_cannot_be_built_ahead_is_named(tiny_onnx, options, message):
    with pytest.raises(UsageError, match=message):
        build_engine(tiny_onnx, **options)


def test_layers_that_overflow_float16_are_named_and_the_plan_still_builds(pixels, tmp_path):
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    nn.init.constant_(net[0].weight, 1e4)
    nn.init.constant_(net[2].weight, 1e-5)
    options = {"cut": "2", "size": 28, "target": "sm89", "calibration": pixels, "out": tmp_path / "e.engine"}
    for precision in ("fp16", "int8"):
        made = build_engine(net, precision=precision, **options).manifest
        assert made.in_float32
        assert all(name.startswith("backbone/") for name in made.in_float32)
    assert build_engine(net, precision="fp32", **options).manifest.in_float32 == ()
