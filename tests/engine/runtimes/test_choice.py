"""Which runtime ``auto`` takes: never one that leaves a GPU for the CPU unasked."""

import pytest

from aurevoir.benchmarks.harness import device as benchmark_device
from aurevoir.benchmarks.harness.device import runtimes_of
from aurevoir.cli.main import main
from aurevoir.engine import runtimes
from aurevoir.engine.runtimes import (
    calibration_runtime,
    choose_runtime,
    narrowest_float,
    on_openvino,
    on_tensorrt,
    on_torch,
    takes_body,
    wants_float16_body,
)
from aurevoir.errors import MissingPackageError, UsageError


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A machine with an NVIDIA GPU, the packages named, and torch on CUDA if it is one of them."""

    def make(*packages, plans=()):
        monkeypatch.setattr(runtimes, "has_nvidia_driver", lambda: True)
        for module in (runtimes, benchmark_device):
            monkeypatch.setattr(module, "installed", lambda name: name in packages)
        monkeypatch.setattr(on_torch, "precisions", lambda: ("fp32", "fp16", "bf16"))
        monkeypatch.setattr(on_torch, "devices", lambda: ("cuda", "cuda:0", "cpu"))
        monkeypatch.setattr(on_tensorrt, "precisions", lambda: plans)
        monkeypatch.setattr(on_tensorrt, "devices", lambda: ("cuda",) if plans else ())

    return make


def test_torch_runs_floats_on_the_gpu_and_int8_is_refused_with_what_would_run_it(on_a_gpu):
    on_a_gpu("torch", "onnxruntime")
    for precision in ("fp32", "fp16", "bf16"):
        assert choose_runtime("auto", precision) == "torch"
        assert choose_runtime("auto", precision, device="cuda") == "torch"
    with pytest.raises(UsageError) as caught:
        choose_runtime("auto", "int8")
    assert str(caught.value) == (
        "no runtime installed here runs int8 on this machine's GPU; choose another precision (torch runs fp32, fp16, "
        f"bf16), or install TensorRT ({on_tensorrt.INSTALL}), or choose a runtime that uses the CPU (onnxruntime)"
    )
    assert choose_runtime("auto", "int8", device="cpu") == "onnxruntime"
    assert choose_runtime("onnxruntime", "int8") == "onnxruntime"
    assert choose_runtime("auto", "fp32", device="cpu") == "onnxruntime"


def test_tensorrt_comes_first_where_it_runs_the_precision(on_a_gpu):
    on_a_gpu("torch", "onnxruntime", "tensorrt", plans=("fp32", "fp16", "int8"))
    assert [choose_runtime("auto", each) for each in ("fp32", "fp16", "bf16", "int8")] == [
        "tensorrt",
        "tensorrt",
        "torch",
        "tensorrt",
    ]
    assert choose_runtime("auto", "int8", among=["torch", "tensorrt"], device="cuda") == "tensorrt"


def test_without_a_runtime_for_the_gpu_the_cpu_is_no_surprise(on_a_gpu):
    on_a_gpu("onnxruntime")
    assert choose_runtime("auto", "int8") == "onnxruntime"
    with pytest.raises(UsageError, match="no runtime on device 'cuda' of this machine runs int8; `aurevoir doctor`"):
        choose_runtime("auto", "int8", device="cuda")
    on_a_gpu()
    with pytest.raises(MissingPackageError, match="install one with: pip install openvino"):
        choose_runtime("auto", "int8")


def test_the_command_line_says_it_in_one_line(on_a_gpu, tiny_onnx, capsys):
    on_a_gpu("torch", "onnxruntime")
    assert main(["build", str(tiny_onnx), "--precision", "int8", "--out", "never.engine"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("aurevoir build: error: no runtime installed here runs int8 on this machine's GPU")
    assert err.count("\n") == 1


def test_of_two_narrow_floats_fp16_is_taken(on_a_gpu):
    on_a_gpu("torch")
    assert narrowest_float("torch") == "fp16"
    assert wants_float16_body("torch", "fp16")
    assert wants_float16_body("tensorrt", "int8")
    assert not any(
        wants_float16_body(*pair) for pair in (("torch", "bf16"), ("openvino", "int8"), ("tensorrt", "fp32"))
    )


@pytest.mark.parametrize(
    ("has", "best"), [(("fp32", "fp16", "bf16"), "bf16"), (("fp32", "fp16"), "fp16"), (("fp32", "int8"), "fp32")]
)
def test_on_a_cpu_bf16_is_taken(monkeypatch, has, best):
    monkeypatch.setattr(on_openvino, "precisions", lambda: has)
    assert narrowest_float("openvino", "cpu") == best


def test_a_calibration_is_made_where_nothing_on_the_gpu_runs_int8(on_a_gpu):
    on_a_gpu("torch", "onnxruntime")
    assert calibration_runtime("auto") == "onnxruntime"
    on_a_gpu("torch", "onnxruntime", "tensorrt", plans=("fp32", "fp16", "int8"))
    assert calibration_runtime("auto") == "tensorrt"
    assert calibration_runtime("onnxruntime") == "onnxruntime"


def test_fp16_is_not_for_torch_on_the_cpu(on_a_gpu):
    on_a_gpu("torch")
    assert narrowest_float("torch", "cpu") == "bf16"
    assert narrowest_float("torch", "cuda") == "fp16"
    with pytest.raises(UsageError, match="no runtime on device 'cpu' of this machine runs fp16"):
        choose_runtime("auto", "fp16", device="cpu")


def test_benchmarks_on_the_cpu_leave_plans_out(on_a_gpu):
    on_a_gpu("torch", "onnxruntime", "tensorrt", plans=("fp32", "fp16", "int8"))
    assert runtimes_of("cuda") == ["torch", "tensorrt"]
    assert runtimes_of("cpu") == ["onnxruntime", "torch"]


def test_a_graph_moves_to_what_computes_its_types():
    def takers(precision, half):
        return {name for name in runtimes.RUNTIMES if takes_body(name, precision, half)}

    assert takers("fp16", half=True) == {"torch", "tensorrt", "tensorrt-rtx"}
    assert takers("fp16", half=False) == {"openvino", "onnxruntime", "torch", "triton"}
    assert takers("int8", half=True) == {"tensorrt", "tensorrt-rtx"}
    assert takers("fp32", half=False) == set(runtimes.RUNTIMES)


def test_what_has_no_gpu_says_so_and_is_not_to_be_installed_again(capsys):
    pytest.importorskip("triton")
    pytest.importorskip("torch")
    if runtimes.runtime("triton").precisions():
        pytest.skip("there is a GPU")
    assert main(["doctor"]) == 0
    line = next(each for each in capsys.readouterr().out.splitlines() if each.startswith("triton"))
    assert line.endswith(f"does not run here: {runtimes.NO_GPU}")
