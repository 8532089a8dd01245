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


class Recorded:
    """What CuPy's memory and streams are asked for; addresses from 1000 on are the GPU's, those below the host's."""

    def __init__(self):
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(pointerGetAttributes=lambda at: SimpleNamespace(device=0 if at >= 1000 else -2)),
            UnownedMemory=lambda *arguments: arguments,
            MemoryPointer=lambda memory, offset: (memory, offset),
            ExternalStream=lambda handle, device: ("external", handle, device),
            Stream=SimpleNamespace(null="the default"),
        )

    def ndarray(self, shape, dtype, pointer):
        return shape, dtype.name, pointer


def test_cupy_takes_addresses_and_streams_of_a_caller():
    device = object.__new__(devices._CupyDevice)
    device._cupy, device._device, device.name = Recorded(), SimpleNamespace(id=0), "a GPU"
    # Nothing is copied: a pointer to memory that CuPy does not own.
    assert device.at(1000, (2, 3), "float32") == ((2, 3), "float32", ((1000, 24, None, 0), 0))
    with pytest.raises(UsageError, match="0x8 is no address of memory on a GPU: it is the host's or another GPU's"):
        device.at(8, (1,), "uint8")
    assert device.external_stream(77) == ("external", 77, 0)
    assert device.external_stream(0) == "the default"


def test_torch_takes_addresses_and_streams_of_a_caller(monkeypatch):
    # The host's memory is below 1000, and another GPU's from 2000.
    monkeypatch.setattr(devices, "_owner", lambda address: None if address < 1000 else int(address >= 2000))

    def as_tensor(array, device):
        return SimpleNamespace(described=array.__cuda_array_interface__)

    cuda = SimpleNamespace(ExternalStream=lambda *given: given, default_stream=lambda device: ("default", device))
    gpu = SimpleNamespace(index=0)
    device = object.__new__(devices._TorchDevice)
    device._torch, device._device, device.name = SimpleNamespace(as_tensor=as_tensor, cuda=cuda), gpu, "a GPU"
    assert device.at(1000, (2, 3), "int64").described == {
        "shape": (2, 3),
        "typestr": "<i8",
        "data": (1000, False),
        "version": 2,
    }
    for address in (8, 2000):
        with pytest.raises(UsageError, match=f"{address:#x} is no address of memory on a GPU: it is the host's or "):
            device.at(address, (1,), "uint8")
    assert device.external_stream(77) == (77, gpu)
    assert device.external_stream(0) == ("default", gpu)
