"""A network of torch's, loaded on a GPU."""

import threading
import weakref
from collections.abc import Callable, Iterator
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
    """Compute float32 without TF32, and without gradients.

    The settings are the process's: changed as the first thread comes in, and set again as the last goes out.
    """
    _exact.enter()
    try:
        with torch.no_grad():
            yield
    finally:
        _exact.leave()


class _Exact:
    """Counts who needs exact float32, and knows what the process had set before."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = _precisions(), _readable(_allows_tf32), _readable(torch.get_float32_matmul_precision)
                # By torch's older names first: its operators refuse settings of which the two kinds of names disagree.
                torch.backends.cudnn.allow_tf32 = False
                torch.set_float32_matmul_precision("highest")
                _set_precisions(["ieee"] * 3)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            precisions, allowed, matmul = self._before
            if allowed is not None:
                torch.backends.cudnn.allow_tf32 = allowed
            if matmul is not None:
                torch.set_float32_matmul_precision(matmul)
            _set_precisions(precisions)


_exact = _Exact()


def _places() -> list[Any]:
    cudnn: Any = torch.backends.cudnn
    return [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]


def _precisions() -> list[str]:
    return [place.fp32_precision for place in _places()]


def _set_precisions(values: list[str]) -> None:
    for place, value in zip(_places(), values, strict=True):
        place.fp32_precision = value


def _allows_tf32() -> bool:
    return bool(torch.backends.cudnn.allow_tf32)


def _readable(read: Callable[[], Any]) -> Any:
    """Return a setting by its older name; None where the process has used the newer, after which torch refuses it."""
    try:
        return read()
    except RuntimeError:
        return None
