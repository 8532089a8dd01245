"""A network of torch's, loaded on a GPU."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .device import Device
from .gpu_run import Enqueue, GpuRunner
from .torch_graph import TorchGraph

MOST = 256
"""Images of a batch: on an H200 twice as many are no more than a tenth faster, and take twice the memory."""

_FINE = 64


class TorchRunner(GpuRunner):
    """A torch network on a GPU, a CUDA graph for each batch size; see `GpuRunner`.

    Float32 is computed as such: without TF32, whatever the process has set, as TensorRT's fp32 is.

    Parameters
    ----------
    network : TorchGraph
        On the device.
    input_shape : (height, width, 3)
    device : Device
        Torch's.
    """

    def __init__(self, network: TorchGraph, input_shape: tuple[int, int, int], device: Device) -> None:
        self.network = network
        place = next(network.buffers()).device
        with device.scope(), exact_float32():
            found = network(torch.zeros((1, *input_shape), dtype=torch.uint8, device=place))
        outputs = {
            name: (tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))
            for name, value in zip(network.outputs, found, strict=True)
        }
        super().__init__(device, input_shape, outputs, MOST, captures=True, in_place=False)

    def launched(self, length: int) -> int:
        """Return a power of two up to 64 or a multiple of 64: few sizes, of which each is a graph."""
        return 1 << (length - 1).bit_length() if length <= _FINE else -(-length // _FINE) * _FINE

    def new_lane(self, stream: Any) -> "_TorchLane":
        """Return a lane for one thread; see `GpuRunner`."""
        return _TorchLane(self)


class _TorchLane:
    """What one thread runs: torch keeps the memory in between."""

    def __init__(self, runner: TorchRunner) -> None:
        self.runner: Any = weakref.proxy(runner)

    def bind(
        self, length: int, pixels: Any, outputs: dict[str, Any], *, repeated: bool = False, captured: bool = False
    ) -> Enqueue:
        """Return what runs the network; see `Lane`."""
        network, device = self.runner.network, self.runner.device

        def enqueue(stream: Any) -> None:
            with device.on_stream(stream), exact_float32():
                for name, value in zip(network.outputs, network(pixels[:length]), strict=True):
                    outputs[name][:length] = value

        return enqueue


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 without TF32, and without gradients; what the process had set is set again afterwards."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = before
