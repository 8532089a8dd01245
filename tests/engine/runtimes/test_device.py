"""Which library gives the GPU, and which arrays are on it."""

from types import SimpleNamespace

import pytest
from gpu_fake import Foreign

from aurevoir.engine.runtimes import device as devices
from aurevoir.engine.runtimes.device import on_gpu, open_device
from aurevoir.errors import MissingPackageError, UsageError


def test_the_library_that_is_in_use_gives_the_device(monkeypatch):
    here = {"torch": True, "cupy": True}
    monkeypatch.setattr(devices, "find_spec", lambda name: here[name] or None)
    monkeypatch.setattr(devices, "_TorchDevice", lambda index: ("torch", index))
    monkeypatch.setattr(devices, "_CupyDevice", lambda index: ("cupy", index))
    monkeypatch.setattr(devices, "sys", SimpleNamespace(modules={"torch": None}))
    assert open_device() == ("torch", None)
    monkeypatch.setattr(devices, "sys", SimpleNamespace(modules={}))
    assert open_device("cuda:3") == ("cupy", 3)
    here["cupy"] = False
    assert open_device("cuda:0") == ("torch", 0)

    def fail(index):
        raise RuntimeError("no GPU")

    monkeypatch.setattr(devices, "_TorchDevice", fail)
    with pytest.raises(UsageError, match=r"'cuda' cannot be used here \(torch: no GPU\)"):
        open_device()
    here["torch"] = False
    with pytest.raises(MissingPackageError, match="aurevoir\\[gpu\\]"):
        open_device()
    with pytest.raises(UsageError, match="device 'cpu'"):
        open_device("cpu")


def test_which_arrays_are_on_the_gpu(pixels):
    import torch

    assert not any(map(on_gpu, (pixels, torch.from_numpy(pixels), pixels.tolist())))
    assert on_gpu(Foreign(pixels))
    assert on_gpu(SimpleNamespace(__dlpack_device__=lambda: (2, 0)))
