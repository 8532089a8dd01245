"""Run a network on a GPU, for images in host or GPU memory."""

import logging
import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from ...errors import AurevoirError, UsageError
from ...kernels.memory import blocks
from .device import Device, on_gpu

MAX_GRAPHS = 8
"""CUDA graphs per thread, one for each batch size; further sizes run without a graph."""

Enqueue = Callable[[Any], None]
"""Enqueues the work of one batch on a stream."""

_ALIGNMENT = 256
_LOG = logging.getLogger("aurevoir.gpu")
_capture_lock = threading.Lock()


def host_array(images: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Return images in host memory as a NumPy array, without a copy where they allow it.

    Parameters
    ----------
    images : array
        A NumPy array, or what has DLPack, the array interface or the buffer protocol. A buffer without a shape of its
        own, such as ``array.array`` or ``bytes``, holds whole images of `shape` one after the other.
    shape : (height, width, channels)

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    if isinstance(images, np.ndarray):
        return images
    try:
        if hasattr(images, "__dlpack__"):
            return np.from_dlpack(images)
        if hasattr(images, "__array__") or hasattr(images, "__array_interface__") or isinstance(images, list | tuple):
            return np.asarray(images)
        view = memoryview(images)
        flat = view.ndim == 1 and view.itemsize == 1 and view.nbytes and view.nbytes % math.prod(shape) == 0
        return np.asarray(view.cast("B", (view.nbytes // math.prod(shape), *shape)) if flat else view)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        what = f"images of type {type(images).__name__} cannot be read: {error}"
        raise UsageError(f"{what}; give a NumPy array, or what has DLPack or the buffer protocol") from None


def check_images(images: Any, shape: tuple[int, int, int]) -> None:
    """Raise UsageError unless images are uint8 of shape (batch, height, width, channels)."""
    dtype = str(images.dtype).removeprefix("torch.")
    if dtype != "uint8" or tuple(images.shape[1:]) != shape:
        raise UsageError(
            f"images of dtype {dtype} and shape {tuple(images.shape)}; this engine takes uint8 of shape "
            f"(batch, {', '.join(map(str, shape))})"
        )


def check_rows(rows: int, images: int) -> None:
    """Raise AurevoirError unless an output has as many rows as there are images."""
    if rows != images:
        raise AurevoirError(
            f"the network returned {rows} rows for {images} images: a batch size is fixed inside its graph; export it "
            "with a dynamic batch"
        )


def write_rows(target: np.ndarray, rows: np.ndarray) -> None:
    """Copy an output to where it belongs, unless it was written there; it must have as many rows."""
    check_rows(len(rows), len(target))
    if rows.ctypes.data != target.ctypes.data:
        target[...] = rows


class ThreadContext(Protocol):
    """Execution state of one thread; its work must not be on two streams at the same time."""

    def bind(
        self, length: int, pixels: Any, outputs: dict[str, Any], *, repeated: bool = False, captured: bool = False
    ) -> Enqueue:
        """Return a function that computes the first `length` rows of `outputs` from those of `pixels`.

        With `repeated` the same arrays are used again; with `captured` the work is captured as a CUDA graph.
        """


class GpuRunner:
    """A network on a GPU; thread-safe, with separate buffers for each thread.

    Parameters
    ----------
    device : Device
    input_shape : (height, width, 3)
    outputs : dict
        Shape, without the batch axis, and dtype of each output.
    max_batch : int
        The largest batch; larger ones are split.
    captures : bool
        Whether to capture CUDA graphs.
    in_place : bool
        Whether images on the GPU are read at their own addresses. Otherwise they are first copied, on the GPU, to
        the buffers that the graphs read.
    """

    def __init__(
        self,
        device: Device,
        input_shape: tuple[int, int, int],
        outputs: dict[str, tuple[tuple[int, ...], str]],
        max_batch: int,
        captures: bool,
        in_place: bool,
    ) -> None:
        self.device, self.input_shape, self.outputs = device, input_shape, outputs
        self.max_batch, self.captures, self.in_place = max_batch, captures, in_place
        self._local = threading.local()

    def new_thread_context(self, stream: Any) -> ThreadContext:
        """Return the execution state of one thread, with memory for use on `stream`."""
        raise NotImplementedError

    def padded_batch(self, length: int) -> int:
        """Return the batch size that is run for `length` images."""
        return length

    def __call__(self, images: Any, wanted: Sequence[str] | None = None) -> dict[str, Any]:
        """Compute outputs.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, 3)
            On the host, or on the GPU as any library's array, for which the work is enqueued on the caller's
            current stream without waiting.
        wanted : sequence of str, optional
            The outputs to return; by default all.

        Returns
        -------
        outputs : dict of arrays with one row per image
            NumPy arrays for images on the host, or else torch or CuPy arrays; see `Device.to_foreign`.

        Raises
        ------
        UsageError
            If the dtype or the shape does not match.
        AurevoirError
            If the library fails; the message contains its error.
        """
        foreign = on_gpu(images)
        with self.device.scope():
            names = list(self.outputs if wanted is None else wanted)
            if foreign:
                return self._worker().on_device(images, names)
            return self._worker().on_host(host_array(images, self.input_shape), names)

    def run_pointers(self, addresses: Mapping[str, int], batch: int, stream: int | None = None) -> None:
        """Compute outputs of images on the GPU into memory there, both the caller's, without waiting.

        Parameters
        ----------
        addresses : mapping of int
            Of ``images`` and of the outputs to compute.
        batch : int
        stream : int, optional
            The ``cudaStream_t`` to enqueue the work on; by default the caller's current stream.

        Raises
        ------
        UsageError
            If an address is not of this GPU's memory, as far as its library can tell.
        AurevoirError
            If the library fails; the message contains its error.
        """
        device, described = self.device, {"images": (self.input_shape, "uint8"), **self.outputs}
        with device.scope():
            own = device.stream() if stream is None else device.external_stream(stream)
            arrays = {
                name: device.at(address, (batch, *described[name][0]), described[name][1])
                for name, address in addresses.items()
            }
            self._worker().into(arrays.pop("images"), arrays, own)

    def _worker(self) -> "_Worker":
        if not hasattr(self._local, "worker"):
            self._local.worker = _Worker(self)
        worker: _Worker = self._local.worker
        return worker


@dataclass(frozen=True)
class _Staging:
    pixels: np.ndarray
    staged: Any
    results: dict[str, np.ndarray]


class _Worker:
    """Execution state and buffers of one thread."""

    def __init__(self, runner: GpuRunner) -> None:
        # A weak reference avoids a cycle, so that GPU memory is freed together with the runner.
        self.runner: Any = weakref.proxy(runner)
        self.device = runner.device
        self.pending: Any = None
        self.streams: tuple[Any, ...] = ()
        self.upload, self.compute = self.streams = self.device.new_stream(), self.device.new_stream()
        self.context = runner.new_thread_context(self.compute)
        # Each graph with the captured function, which must live as long.
        self.graphs: dict[int, tuple[Enqueue, Enqueue]] = {}
        self.capacity = 0

    def __del__(self) -> None:
        self._wait_for_pending()
        for stream in self.streams:
            self.device.release(stream)

    def _wait_for_pending(self, stream: Any = None) -> None:
        """Wait for pending work, unless it is on the next stream."""
        if self.pending is not None and self.pending != stream:
            self.device.synchronize(self.pending)
            self.pending = None

    def on_device(self, images: Any, wanted: list[str]) -> dict[str, Any]:
        """Compute images on the GPU on the caller's stream."""
        device, stream = self.device, self.device.stream()
        array = device.from_foreign(images)
        check_images(array, self.runner.input_shape)
        results = self._outputs(len(array), stream, wanted)
        self.into(array, results, stream)
        return {name: device.to_foreign(result, images) for name, result in results.items()}

    def into(self, array: Any, results: dict[str, Any], stream: Any) -> None:
        """Compute outputs of images on the GPU into arrays there, on a stream."""
        self._wait_for_pending(stream)
        self.pending = stream
        (self._in_place if self.runner.in_place else self._through_buffers)(array, results, stream)

    def _in_place(self, array: Any, results: dict[str, Any], stream: Any) -> None:
        runner, device = self.runner, self.device
        parts = blocks(len(array), runner.max_batch)
        # A slice of the results need not be aligned, nor need memory of the caller's.
        direct = {
            name: result
            for name, result in results.items()
            if len(parts) == 1 and not device.pointer(result) % _ALIGNMENT
        }
        for which in parts:
            pixels = array[which]
            if device.pointer(pixels) % _ALIGNMENT:
                pixels = device.empty(tuple(pixels.shape), "uint8", stream)
                device.copy(pixels, array[which], stream)
            spare = self._outputs(len(pixels), stream, [name for name in runner.outputs if name not in direct])
            self.context.bind(len(pixels), pixels, spare | direct)(stream)
            for name in [each for each in results if each not in direct]:
                device.copy(results[name][which], spare[name], stream)

    def _through_buffers(self, array: Any, results: dict[str, Any], stream: Any) -> None:
        self._reserve(min(len(array), self.runner.max_batch))
        for which in blocks(len(array), self.runner.max_batch):
            length = which.stop - which.start
            self.device.copy(self.pixels[:length], array[which], stream)
            self._launch(length, stream)
            for name, result in results.items():
                self.device.copy(result[which], self.outputs[name][:length], stream)

    def on_host(self, images: np.ndarray, wanted: list[str]) -> dict[str, np.ndarray]:
        """Compute images in host memory, overlapping transfers with computation."""
        runner, device = self.runner, self.device
        check_images(images, runner.input_shape)
        self._wait_for_pending()
        self._reserve(min(len(images), runner.max_batch))
        described = {name: runner.outputs[name] for name in wanted}
        results = {name: np.empty((len(images), *shape), dtype) for name, (shape, dtype) in described.items()}
        last: tuple[_Staging, slice] | None = None
        for turn, which in enumerate(blocks(len(images), runner.max_batch)):
            slot, length = self.slots[turn % 2], which.stop - which.start
            # Meanwhile the GPU computes the previous part.
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
        """Grow the buffers; their addresses are constant until they grow again."""
        if length <= self.capacity:
            return
        if self.pending is not None:
            self.device.synchronize(self.pending)
        self.graphs.clear()
        capacity = min(self.runner.max_batch, max(self.runner.padded_batch(length), 2 * self.capacity))
        shape, device = (capacity, *self.runner.input_shape), self.device
        self.pixels, self.outputs = device.empty(shape, "uint8", self.compute), self._outputs(capacity, self.compute)
        self.slots = [
            _Staging(
                device.pinned(shape, "uint8"),
                device.empty(shape, "uint8", self.compute),
                {name: device.pinned((capacity, *rest), dtype) for name, (rest, dtype) in self.runner.outputs.items()},
            )
            for _ in range(2)
        ]
        # The allocator may reuse memory that pending work on this stream still reads.
        device.synchronize(self.compute)
        self.capacity = capacity

    def _launch(self, length: int, stream: Any) -> None:
        size = self.runner.padded_batch(length)
        if size in self.graphs:
            self.graphs[size][0](stream)
            return
        captured = self.runner.captures and len(self.graphs) < MAX_GRAPHS
        enqueue = self.context.bind(size, self.pixels, self.outputs, repeated=True, captured=captured)
        enqueue(stream)
        if captured:
            self._capture(size, enqueue, stream)

    def _capture(self, size: int, enqueue: Enqueue, stream: Any) -> None:
        """Capture a CUDA graph, after a run with the same shape, as NVIDIA requires."""
        # The previous work may be on another stream, and a context works on one at a time.
        self.device.synchronize(stream)
        # torch can capture only one graph at a time.
        with _capture_lock:
            try:
                self.graphs[size] = self.device.capture(partial(enqueue, self.compute), self.compute), enqueue
            except Exception as problem:  # Each library has its own error types.
                if self.runner.captures:
                    _LOG.warning("no CUDA graph could be captured (%s); batches run without graphs", problem)
                self.runner.captures = False


def _collect(results: dict[str, np.ndarray], part: tuple[_Staging, slice] | None) -> None:
    if part is not None:
        slot, which = part
        for name, result in results.items():
            result[which] = slot.results[name][: which.stop - which.start]
