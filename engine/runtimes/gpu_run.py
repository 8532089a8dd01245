"""Running a network that is loaded on a GPU, on images in host memory or on the GPU."""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...errors import UsageError
from ...kernels.memory import blocks
from .device import Device, on_gpu

MOST_GRAPHS = 8
"""CUDA graphs that a thread keeps, one a batch size; batches of other sizes run without."""

Enqueue = Callable[[Any], None]
"""Puts the work on one batch on a stream."""

_ALIGNMENT = 256
_LOG = logging.getLogger("aurevoir.gpu")
_capturing = threading.Lock()


def check_images(images: Any, shape: tuple[int, int, int]) -> None:
    """Refuse images of another dtype than uint8 or another shape than (batch, height, width, 3)."""
    dtype = str(images.dtype).removeprefix("torch.")
    if dtype != "uint8" or tuple(images.shape[1:]) != shape:
        raise UsageError(
            f"images of dtype {dtype} and shape {tuple(images.shape)}; this engine takes uint8 of shape "
            f"(batch, {', '.join(map(str, shape))})"
        )


class Lane(Protocol):
    """What one thread runs a network with; its work must never be on two streams at a time."""

    def bind(
        self, length: int, pixels: Any, outputs: dict[str, Any], *, repeated: bool = False, captured: bool = False
    ) -> Enqueue:
        """Return what computes the first `length` rows of `outputs` from those of `pixels`.

        `repeated` says that the same arrays come again, `captured` that a CUDA graph is to be made of it.
        """


class GpuRunner:
    """A network on a GPU; safe to share between threads, each of which gets buffers of its own.

    Parameters
    ----------
    device : Device
    input_shape : (height, width, 3)
    outputs : dict
        Shape without the batch, and dtype, of each output.
    most : int
        The largest batch; larger ones are cut.
    captures : bool
        Whether batches are kept as CUDA graphs.
    in_place : bool
        Whether lanes take whatever addresses images on the GPU have. Else these are copied, on the GPU, to where the
        graphs read.
    """

    def __init__(
        self,
        device: Device,
        input_shape: tuple[int, int, int],
        outputs: dict[str, tuple[tuple[int, ...], str]],
        most: int,
        captures: bool,
        in_place: bool,
    ) -> None:
        self.device, self.input_shape, self.outputs = device, input_shape, outputs
        self.most, self.captures, self.in_place = most, captures, in_place
        self._local = threading.local()

    def new_lane(self, stream: Any) -> Lane:
        """Return a lane for one thread, whose memory is for use on `stream`."""
        raise NotImplementedError

    def launched(self, length: int) -> int:
        """Return the number of rows that are computed for a batch of `length`; see `most`."""
        return length

    def __call__(self, images: Any, wanted: Sequence[str] | None = None) -> dict[str, Any]:
        """Compute outputs.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, 3)
            On the host, or on the GPU in any library's array; the latter is computed on the caller's current
            stream without waiting for it.
        wanted : sequence of str, optional
            The outputs to bring out; None stands for all.

        Returns
        -------
        outputs : dict of arrays, a row an image
            NumPy's for images on the host; else torch's or CuPy's, see `Device.to_foreign`.

        Raises
        ------
        UsageError
            If the dtype or the shape is another.
        AurevoirError
            If the library fails; the message holds its own words.
        """
        foreign = on_gpu(images)
        with self.device.scope():
            if not hasattr(self._local, "worker"):
                self._local.worker = _Worker(self)
            names = list(self.outputs if wanted is None else wanted)
            worker: _Worker = self._local.worker
            return worker.on_device(images, names) if foreign else worker.on_host(np.asarray(images), names)


@dataclass(frozen=True)
class _Slot:
    pixels: np.ndarray
    staged: Any
    results: dict[str, np.ndarray]


class _Worker:
    """One thread's lane and buffers."""

    def __init__(self, runner: GpuRunner) -> None:
        # No cycle of references: GPU memory goes when the runner goes.
        self.runner: Any = weakref.proxy(runner)
        self.device = runner.device
        self.pending: Any = None
        self.upload, self.compute = self.device.new_stream(), self.device.new_stream()
        self.lane = runner.new_lane(self.compute)
        # With each graph what it was made of, which must live as long.
        self.graphs: dict[int, tuple[Enqueue, Enqueue]] = {}
        self.capacity = 0

    def __del__(self) -> None:
        self._settle()

    def _settle(self, stream: Any = None) -> None:
        """Wait for what still runs, unless it is on the stream that comes next."""
        if self.pending is not None and self.pending != stream:
            self.device.synchronize(self.pending)
            self.pending = None

    def on_device(self, images: Any, wanted: list[str]) -> dict[str, Any]:
        """Compute images on the GPU on the caller's stream."""
        device, stream = self.device, self.device.stream()
        array = device.from_foreign(images)
        check_images(array, self.runner.input_shape)
        self._settle(stream)
        self.pending = stream
        compute = self._in_place if self.runner.in_place else self._through_buffers
        results = compute(array, wanted, stream)
        return {name: device.to_foreign(result, images) for name, result in results.items()}

    def _in_place(self, array: Any, wanted: list[str], stream: Any) -> dict[str, Any]:
        runner, device = self.runner, self.device
        results, parts = self._outputs(len(array), stream, wanted), blocks(len(array), runner.most)
        for which in parts:
            pixels = array[which]
            if device.pointer(pixels) % _ALIGNMENT:
                pixels = device.empty(tuple(pixels.shape), "uint8", stream)
                device.copy(pixels, array[which], stream)
            # A part of the results need not start at a multiple of the alignment.
            whole = len(parts) == 1
            spare = self._outputs(
                len(pixels), stream, [name for name in runner.outputs if not whole or name not in wanted]
            )
            outputs = spare | (results if whole else {})
            self.lane.bind(len(pixels), pixels, outputs)(stream)
            if not whole:
                for name in wanted:
                    device.copy(results[name][which], outputs[name], stream)
        return results

    def _through_buffers(self, array: Any, wanted: list[str], stream: Any) -> dict[str, Any]:
        results = self._outputs(len(array), stream, wanted)
        self._reserve(min(len(array), self.runner.most))
        for which in blocks(len(array), self.runner.most):
            length = which.stop - which.start
            self.device.copy(self.pixels[:length], array[which], stream)
            self._launch(length, stream)
            for name in wanted:
                self.device.copy(results[name][which], self.outputs[name][:length], stream)
        return results

    def on_host(self, images: np.ndarray, wanted: list[str]) -> dict[str, np.ndarray]:
        """Compute images in host memory; while the GPU computes a part, the next is brought in and the last out."""
        runner, device = self.runner, self.device
        check_images(images, runner.input_shape)
        self._settle()
        self._reserve(min(len(images), runner.most))
        described = {name: runner.outputs[name] for name in wanted}
        results = {name: np.empty((len(images), *shape), dtype) for name, (shape, dtype) in described.items()}
        last: tuple[_Slot, slice] | None = None
        for turn, which in enumerate(blocks(len(images), runner.most)):
            slot, length = self.slots[turn % 2], which.stop - which.start
            # The GPU computes the last part meanwhile.
            slot.pixels[:length] = images[which]
            device.copy(slot.staged[:length], slot.pixels[:length], self.upload)
            device.synchronize(self.upload)
            device.synchronize(self.compute)
            device.copy(self.pixels[:length], slot.staged[:length], self.compute)
            self._launch(length, self.compute)
            for name in wanted:
                device.copy(slot.results[name][:length], self.outputs[name][:length], self.compute)
            _collect(results, last)
            last = slot, which
        device.synchronize(self.compute)
        _collect(results, last)
        return results

    def _outputs(self, length: int, stream: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
        described = {name: self.runner.outputs[name] for name in (self.runner.outputs if names is None else names)}
        return {name: self.device.empty((length, *shape), dtype, stream) for name, (shape, dtype) in described.items()}

    def _reserve(self, length: int) -> None:
        """Grow the buffers, which have the same addresses until they grow again."""
        if length <= self.capacity:
            return
        if self.pending is not None:
            self.device.synchronize(self.pending)
        self.graphs.clear()
        capacity = min(self.runner.most, max(self.runner.launched(length), 2 * self.capacity))
        shape, device = (capacity, *self.runner.input_shape), self.device
        self.pixels, self.outputs = device.empty(shape, "uint8", self.compute), self._outputs(capacity, self.compute)
        self.slots = [
            _Slot(
                device.pinned(shape, "uint8"),
                device.empty(shape, "uint8", self.compute),
                {name: device.pinned((capacity, *rest), dtype) for name, (rest, dtype) in self.runner.outputs.items()},
            )
            for _ in range(2)
        ]
        # The memory may come from an array that work on this stream still uses.
        device.synchronize(self.compute)
        self.capacity = capacity

    def _launch(self, length: int, stream: Any) -> None:
        size = self.runner.launched(length)
        if size in self.graphs:
            self.graphs[size][0](stream)
            return
        captured = self.runner.captures and len(self.graphs) < MOST_GRAPHS
        enqueue = self.lane.bind(size, self.pixels, self.outputs, repeated=True, captured=captured)
        enqueue(stream)
        if captured:
            self._capture(size, enqueue, stream)

    def _capture(self, size: int, enqueue: Enqueue, stream: Any) -> None:
        """Keep as a CUDA graph what has just run, as NVIDIA asks for, in this shape."""
        # What was enqueued may lie on another stream, and a lane works on one at a time.
        self.device.synchronize(stream)
        # torch captures one graph at a time.
        with _capturing:
            try:
                self.graphs[size] = self.device.capture(lambda: enqueue(self.compute), self.compute), enqueue
            except Exception as problem:  # Each library has errors of its own.
                if self.runner.captures:
                    _LOG.warning("no CUDA graph could be captured (%s); batches are enqueued each time", problem)
                self.runner.captures = False


def _collect(results: dict[str, np.ndarray], part: tuple[_Slot, slice] | None) -> None:
    if part is not None:
        slot, which = part
        for name, result in results.items():
            result[which] = slot.results[name][: which.stop - which.start]
