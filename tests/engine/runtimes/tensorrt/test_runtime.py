"""The runtimes 'tensorrt' and 'tensorrt-rtx': what they need, build and run, and what they say where it is missing."""

from importlib.metadata import PackageNotFoundError

import pytest

from aurevoir.engine.runtimes import on_tensorrt, on_tensorrt_rtx
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError


def test_without_a_driver_nothing_runs(rtx, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: False)
    assert on_tensorrt_rtx.precisions() == ()
    assert "no NVIDIA driver" in on_tensorrt_rtx.why_not()
    assert on_tensorrt_rtx.version().startswith("1.")


def test_a_gpu_that_rtx_has_no_kernels_for(rtx, trt, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(on_tensorrt, "open_device", lambda name="cuda": trt.device)
    assert "this machine's GPU is sm00" in on_tensorrt_rtx.why_not()
    trt.device.capability = "sm89"
    assert on_tensorrt_rtx.why_not() is None


def _installed(monkeypatch, versions, problem):
    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    def load(name):
        raise problem

    monkeypatch.setattr(on_tensorrt, "package_version", version)
    monkeypatch.setattr(on_tensorrt, "import_module", load)
    monkeypatch.setattr(on_tensorrt, "find_spec", lambda name: object() if versions else None)
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: True)


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({}, "not installed; install it with: pip install tensorrt"),
        ({"tensorrt": "11.4"}, "placeholder that downloads them from NVIDIA's own"),
        ({"tensorrt-cu12": "10.9"}, "tensorrt-cu12 is installed without its libraries"),
        ({"tensorrt": "11.4", "tensorrt-cu13-libs": "11.4"}, "does not load: libnvinfer.so.11"),
    ],
)
def test_what_is_missing_is_told(monkeypatch, graphs, versions, reason):
    _installed(monkeypatch, versions, ImportError("libnvinfer.so.11: cannot open"))
    assert reason in on_tensorrt.why_not()
    assert on_tensorrt.precisions() == ()
    assert on_tensorrt.targets() == ()
    with pytest.raises(MissingPackageError, match=reason):
        on_tensorrt.build(graphs["fp32"], "fp32")


def test_tensorrt_builds_neither_without_a_gpu_nor_for_another(trt, graphs, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "import_module", lambda name: trt)
    monkeypatch.setattr(on_tensorrt, "find_spec", lambda name: object())
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: False)
    with pytest.raises(AurevoirError, match="needs this machine's GPU to build without a target: no NVIDIA driver"):
        on_tensorrt.build(graphs["fp32"], "fp32")
    with pytest.raises(UsageError, match="target 'sm89': only runtime 'tensorrt-rtx'"):
        on_tensorrt.build(graphs["fp32"], "fp32", target="sm89")
