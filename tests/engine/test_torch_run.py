"""Torch networks on a GPU: batches, graphs and buffers, on CPU tensors in the place of a GPU's."""

import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from aurevoir.calibration.graph.edit import prune  # noqa: E402
from aurevoir.calibration.graph.float16 import half_body  # noqa: E402
from aurevoir.engine.assemble import assemble  # noqa: E402
from aurevoir.engine.backbones import open_backbone  # noqa: E402
from aurevoir.engine.build import export_backbone  # noqa: E402
from aurevoir.engine.engine import Engine  # noqa: E402
from aurevoir.engine.load import load_engine  # noqa: E402
from aurevoir.engine.runtimes import on_torch  # noqa: E402
from aurevoir.engine.runtimes.torch_graph import TorchGraph  # noqa: E402
from aurevoir.engine.runtimes.torch_run import TorchRunner, exact_float32  # noqa: E402
from aurevoir.errors import AurevoirError, UsageError  # noqa: E402


class Device:
    """The host as a GPU whose streams are never late; what is not written holds a pattern."""

    name, capability = "the host", "sm00"

    def __init__(self):
        self.captured, self.replayed, self.fails, self.streams = [], 0, False, 0

    def scope(self):
        return nullcontext()

    def stream(self):
        return "the caller's"

    def new_stream(self):
        self.streams += 1
        return self.streams

    def on_stream(self, stream):
        return nullcontext()

    def synchronize(self, stream):
        pass

    def empty(self, shape, dtype, stream):
        return torch.full(shape, 77, dtype=getattr(torch, dtype))

    def pinned(self, shape, dtype):
        return np.full(shape, 78, dtype)

    def copy(self, target, source, stream):
        as_tensor = (torch.from_numpy(each) if isinstance(each, np.ndarray) else each for each in (target, source))
        next(as_tensor).copy_(next(as_tensor))

    def capture(self, function, stream):
        if self.fails:
            raise RuntimeError("not capturable")
        self.captured.append(stream)

        def replay(stream):
            self.replayed += 1
            function()

        return replay

    def from_foreign(self, array):
        return array.tensor

    def to_foreign(self, array, like):
        return array


class OnGpu:
    """Images that say that they are on a GPU."""

    __cuda_array_interface__ = ()

    def __init__(self, pixels):
        self.tensor = torch.from_numpy(pixels)


@pytest.fixture(scope="module")
def exported(tiny_onnx):
    return export_backbone(open_backbone(tiny_onnx))


@pytest.fixture(scope="module")
def many(pixels):
    return np.concatenate([np.roll(pixels, shift, axis=1) for shift in range(30)])


@pytest.fixture(scope="module")
def wanted(exported, many):
    """Features and bits of many images, in fp32 on the host."""
    engine = assemble(exported, "fp32", "torch", device="cpu")
    return {"features": engine(many), "bits": engine.bits(many)}


@pytest.fixture
def runner(exported):
    graph = TorchGraph(exported.graph, torch.float32)
    return TorchRunner(graph, (28, 28, 3), Device())


# Batches of other sizes may be computed by other kernels, which round otherwise.
ROUNDING = 1e-5


def check_bits(bits, wanted, which):
    differ = np.unpackbits(np.asarray(bits) ^ wanted["bits"][which], axis=1)[:, : wanted["features"].shape[1]]
    assert not differ[np.abs(wanted["features"][which]) > ROUNDING].any()


def check(outputs, wanted, which):
    np.testing.assert_allclose(np.asarray(outputs["features"]), wanted["features"][which], atol=ROUNDING)
    check_bits(outputs["bits"], wanted, which)


@pytest.mark.parametrize("count", [0, 1, 3, 64, 65, 256, 257, 600])
def test_batches_of_every_size_from_the_host_and_from_the_gpu(runner, many, wanted, count):
    for images in (many[:count], OnGpu(many[:count]), many[:count]):
        check(runner(images), wanted, slice(count))


def test_few_sizes_are_computed_and_each_is_a_graph(runner, many, wanted):
    sizes = {runner.launched(length) for length in range(1, runner.most + 1)}
    assert sizes == {1, 2, 4, 8, 16, 32, 64, 128, 192, 256}
    assert all(0 <= runner.launched(length) - length < max(64, length) for length in range(1, 257))
    for count in (5, 6, 7, 8, 250):
        check(runner(many[:count]), wanted, slice(count))
    # Buffers grew from 8 to 256 images: their addresses changed, and the first graph went.
    assert (len(runner.device.captured), runner.device.replayed) == (2, 3)
    check(runner(OnGpu(many[3:253])), wanted, slice(3, 253))
    assert runner.device.replayed == 4


def test_a_capture_that_fails_leaves_the_results_and_says_so_once(runner, many, wanted, caplog):
    runner.device.fails = True
    for count in (3, 3, 300):
        check(runner(many[:count]), wanted, slice(count))
    assert [record.message.count("not capturable") for record in caplog.records] == [1]


def test_threads_share_a_runner(runner, many, wanted):
    def work(start):
        for count in (3, 70, 1):
            check(runner(many[start : start + count]), wanted, slice(start, start + count))
        done.append(start)

    done = []
    threads = [threading.Thread(target=work, args=[start]) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 100, 200]


def test_float32_is_computed_as_such_whatever_the_process_has_set(runner, many, monkeypatch):
    seen = []

    def network(pixels):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()))
        return original(pixels)

    original, runner.network = runner.network, network
    network.outputs = original.outputs
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        runner(many[:3])
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert seen == [(False, False, False)]
    with pytest.raises(ZeroDivisionError), exact_float32():
        raise ZeroDivisionError
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_an_engine_hands_its_images_over_whole(exported, many, wanted, runner):
    engine = assemble(exported, "fp32", "torch", device="cpu")
    bits = prune(exported.graph, ["bits"])
    engine._compiled["bits"] = TorchRunner(TorchGraph(bits, torch.float32), (28, 28, 3), Device())
    check_bits(engine.bits(many), wanted, slice(None))
    check_bits(engine.bits(OnGpu(many)), wanted, slice(None))
    with pytest.raises(UsageError, match=r"this engine takes uint8 of shape \(batch, 28, 28, 3\)"):
        engine.bits(many.astype("float32"))
    with pytest.raises(UsageError, match="this engine runs on 'cpu' by 'torch'"):
        engine(OnGpu(many))


def test_a_float16_graph_is_computed_in_the_types_that_it_has(exported, many, wanted, monkeypatch):
    convolutions = [node for node in exported.graph.graph.node if node.op_type == "Conv"]
    full = [convolutions[0].output[0]]
    for kept in ([], full):
        graph = half_body(exported.graph, kept)
        features, bits = on_torch.compile(graph.SerializeToString(), "fp16", "cpu")(many)
        assert (features.dtype, bits.dtype) == (np.float32, np.uint8)
        error = np.linalg.norm(features - wanted["features"]) / np.linalg.norm(wanted["features"])
        assert 1e-6 < error < 5e-3
        np.testing.assert_array_equal(bits, np.packbits(features > 0, axis=1))
    dtypes = {name: tensor.dtype for name, tensor in TorchGraph(graph, None).named_buffers()}
    assert {torch.float16, torch.float32} <= set(dtypes.values())


def test_an_overflow_of_float16_is_kept_in_float32(tiny_onnx, tmp_path, many, monkeypatch):
    """As for TensorRT: what leaves float16's range on the images stays in float32."""
    from aurevoir import build_engine

    model = onnx.load(tiny_onnx)
    weights = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [4, 3, 3, 3])
    values = onnx.numpy_helper.to_array(weights) * 6e4
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    path = tmp_path / "large.onnx"
    onnx.save(model, path)
    monkeypatch.setattr(on_torch, "precisions", lambda: ("fp32", "fp16", "bf16"))
    engine = build_engine(path, precision="fp16", runtime="torch", calibration=many[:40], device="cpu", smoke=False)
    assert engine.manifest.in_float32
    assert np.isfinite(engine(many)).all()
    assert engine.manifest.sign_agreement > 0.98


def test_torch_computes_a_padded_batch_no_differently(runner, many, wanted):
    """Rows that are not asked for may hold anything."""
    runner(np.full_like(many[:200], 255))
    check(runner(many[:130]), wanted, slice(130))


def settings():
    """What torch says of its precisions, by both kinds of names; None where it refuses."""
    cudnn, found = torch.backends.cudnn, []
    for read in (lambda: cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return [cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision, *found]


SETTINGS = {
    "nothing": "",
    "allowed": "B.cudnn.allow_tf32 = B.cuda.matmul.allow_tf32 = True",
    "matmul": 'B.cuda.matmul.fp32_precision = "tf32"',
    "everything": 'B.fp32_precision = "tf32"',
    "cudnn": 'B.cudnn.fp32_precision = "tf32"',
    "convolutions": 'B.cudnn.conv.fp32_precision = "ieee"',
    "medium": 'torch.set_float32_matmul_precision("medium")',
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_the_process_is_left_as_it_was(name, root):
    """In a process of its own: torch does not take all of them back."""
    code = f"""
import sys
sys.path.insert(0, {str(root / "tests" / "engine")!r})
import torch
from aurevoir.engine.runtimes.torch_run import exact_float32
from test_torch_run import settings
B = torch.backends
{SETTINGS[name]}
before = settings()
with exact_float32():
    assert settings() == ["ieee", "ieee", False, "highest"], settings()
    with exact_float32():
        pass
    assert settings() == ["ieee", "ieee", False, "highest"], settings()
assert settings() == before, (settings(), before)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_thread_that_leaves_takes_nothing_from_one_that_stays():
    inside, leave, seen = threading.Event(), threading.Event(), []

    def stay():
        with exact_float32():
            inside.set()
            leave.wait(60)
            seen.append(settings()[0])

    before = settings()
    thread = threading.Thread(target=stay)
    with exact_float32():
        thread.start()
        inside.wait(60)
    leave.set()
    thread.join()
    assert seen == ["ieee"]
    assert settings() == before


def test_an_fp16_engine_of_a_float_graph_moves_to_torch_and_not_to_tensorrt(exported, many, tmp_path, monkeypatch):
    monkeypatch.setattr(on_torch, "precisions", lambda: ("fp32", "fp16", "bf16"))
    made = assemble(exported, "fp32", "torch", device="cpu")
    engine = Engine(replace(made.manifest, precision="fp16", runtime="openvino"), made.graph)
    engine.save(tmp_path / "e.engine")
    moved = load_engine(tmp_path / "e.engine", "cpu", "torch")
    assert (moved.runtime, moved.precision) == ("torch", "fp16")
    assert np.isfinite(moved(many[:4])).all()
    # As torch's were written once: a float graph is no float16 plan.
    Engine(replace(engine.manifest, runtime="torch"), made.graph).save(tmp_path / "old.engine")
    monkeypatch.setattr("aurevoir.engine.load.choose_runtime", lambda name, *rest: name)
    with pytest.raises(AurevoirError, match="whose fp16 graph tensorrt does not take"):
        load_engine(tmp_path / "old.engine", runtime="tensorrt")
