"""Run torch networks on a GPU."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from .device import Device
from .gpu_run import Enqueue, GpuRunner, check_rows

MAX_BATCH = 256
"""Largest batch: on an H200 twice as many images are at most 10 % faster, and use twice the memory."""

_FINE = 64


class Network(Protocol):
    """A torch module from images to outputs, which it names."""

    outputs: list[str]

    def __call__(self, images: Any) -> list[Any]:
        """Compute the outputs."""

    def buffers(self) -> Iterator[Any]:
        """Yield its arrays."""


class TorchRunner(GpuRunner):
    """A torch network on a GPU, with a CUDA graph for each batch size; see `GpuRunner`.

    Float32 is computed without TF32, whatever the settings of the process.

    Parameters
    ----------
    network : Network
        On the device.
    input_shape : (height, width, 3)
    device : Device
        A device through torch.
    """

    def __init__(self, network: Network, input_shape: tuple[int, int, int], device: Device) -> None:
        self.network = network
        gpu = next(network.buffers()).device
        with device.scope(), exact_float32():
            found = network(torch.zeros((1, *input_shape), dtype=torch.uint8, device=gpu))
        outputs = {
            name: (tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))
            for name, value in zip(network.outputs, found, strict=True)
        }
        super().__init__(device, input_shape, outputs, MAX_BATCH, captures=True, in_place=False)

    def padded_batch(self, length: int) -> int:
        """Round up to a power of two, or above 64 to a multiple of 64, to limit the number of graphs."""
        return 1 << (length - 1).bit_length() if length <= _FINE else -(-length // _FINE) * _FINE

    def new_thread_context(self, stream: Any) -> "_TorchContext":
        """Return the execution state of one thread; see `GpuRunner`."""
        return _TorchContext(self)


class _TorchContext:
    """Execution state of one thread; torch manages its memory."""

    def __init__(self, runner: TorchRunner) -> None:
        self.runner: Any = weakref.proxy(runner)

    def bind(
        self, length: int, pixels: Any, outputs: dict[str, Any], *, repeated: bool = False, captured: bool = False
    ) -> Enqueue:
        """Return a function that runs the network; see `ThreadContext`."""
        network, device = self.runner.network, self.runner.device

        def enqueue(stream: Any) -> None:
            with device.on_stream(stream), exact_float32():
                for name, value in zip(network.outputs, network(pixels[:length]), strict=True):
                    check_rows(len(value), length)
                    outputs[name][:length] = value

        return enqueue


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 without TF32, and without gradients.

    The settings are global: the first thread to enter changes them, and the last to leave restores them.
    """
    _exact.enter()
    try:
        with torch.no_grad():
            yield
    finally:
        _exact.leave()


class _Exact:
    """Counts the threads that need exact float32, and stores the previous settings."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = _precisions(), _readable(_allows_tf32), _readable(torch.get_float32_matmul_precision)
                # torch has older and newer names for these settings, and its operators fail if the two disagree.
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


def _backends() -> list[Any]:
    cudnn: Any = torch.backends.cudnn
    return [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]


def _precisions() -> list[str]:
    return [backend.fp32_precision for backend in _backends()]


def _set_precisions(values: list[str]) -> None:
    for backend, value in zip(_backends(), values, strict=True):
        backend.fp32_precision = value


def _allows_tf32() -> bool:
    return bool(torch.backends.cudnn.allow_tf32)


def _readable(read: Callable[[], Any]) -> Any:
    """Read a setting by its older name, or return None if torch rejects that because the newer name was used."""
    try:
        return read()
    except RuntimeError:
        return None
