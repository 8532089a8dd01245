"""Running a plan of TensorRT or TensorRT-RTX on images in host memory or on the GPU."""

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import AurevoirError, UsageError
from ...kernels.arrays import blocks
from .device import Device, on_gpu
from .tensorrt_plan import LOG, nvidia_errors, nvidia_log

MOST_GRAPHS = 8
"""CUDA graphs that a thread keeps, one a batch size; batches of other sizes run without."""

_ALIGNMENT = 256
_TYPES = {"FLOAT": "float32", "UINT8": "uint8"}
_capturing = threading.Lock()


class PlanRunner:
    """A loaded plan; safe to share between threads, each of which gets buffers of its own.

    Parameters
    ----------
    trt : module
        The library that built the plan.
    plan : bytes
    device : Device

    Attributes
    ----------
    engine : trt.ICudaEngine
    input_shape : (height, width, 3)
    outputs : dict
        Shape without the batch, and dtype, of each output.
    most : int
        The largest batch that the plan takes; larger ones are cut.

    Raises
    ------
    AurevoirError
        If the plan is of another GPU or version, or damaged.
    """

    def __init__(self, trt: Any, plan: bytes, device: Device) -> None:
        self.trt, self.device = trt, device
        with device.scope(), nvidia_errors(trt) as errors:
            self._runtime = trt.Runtime(nvidia_log(trt))
            self.engine = engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            mend = "a plan serves the GPU and the library version that it was built for; build it anew"
            raise AurevoirError("\n".join([f"the plan does not load on {device.name}: {mend}", *errors]))
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        self.input = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self.outputs = {
            name: (tuple(engine.get_tensor_shape(name))[1:], _TYPES[engine.get_tensor_dtype(name).name])
            for name in names
            if name != self.input
        }
        self.most, *shape = tuple(engine.get_tensor_profile_shape(self.input, 0)[2])
        self.input_shape = tuple(shape)
        # TensorRT-RTX captures graphs by itself. Where contexts cannot share memory, one for each graph is too many.
        self.library_captures = hasattr(trt, "CudaGraphStrategy")
        self.captures = hasattr(trt.IExecutionContext, "set_device_memory") and not self.library_captures
        self._local, self._lock = threading.local(), threading.Lock()

    def __call__(self, images: Any, wanted: Sequence[str] | None = None) -> dict[str, Any]:
        """Compute outputs of the plan.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, 3)
            On the host, or on the GPU in any library's array; the latter is not copied, and computed
            on the caller's current stream without waiting for it.
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
            If TensorRT fails; the message holds its own words.
        """
        foreign = on_gpu(images)
        with self.device.scope():
            if not hasattr(self._local, "worker"):
                self._local.worker = _Worker(self)
            names = list(self.outputs if wanted is None else wanted)
            worker = self._local.worker
            return worker.on_device(images, names) if foreign else worker.on_host(np.asarray(images), names)

    def check(self, images: Any) -> None:
        """Refuse images of another dtype or shape."""
        dtype = str(images.dtype).removeprefix("torch.")
        if dtype != "uint8" or tuple(images.shape[1:]) != self.input_shape:
            raise UsageError(
                f"images of dtype {dtype} and shape {tuple(images.shape)}; this plan takes uint8 of shape "
                f"(batch, {', '.join(map(str, self.input_shape))})"
            )

    def new_context(self, memory: Any, captured: bool = False) -> Any:
        """Return an execution context that works in `memory`, and with `captured` captures CUDA graphs by itself."""
        with self._lock, nvidia_errors(self.trt) as errors:
            context = self.engine.create_execution_context(*self._settings(captured))
        if context is None:
            raise AurevoirError("\n".join(["TensorRT made no execution context:", *errors]))
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self.device.pointer(memory), self.memory_size())
        return context

    def _settings(self, captured: bool) -> tuple[Any, ...]:
        if not hasattr(self.trt.IExecutionContext, "set_device_memory"):
            return ()
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not captured or not hasattr(self.trt, "CudaGraphStrategy"):
            return (strategy,)
        settings = self.engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(strategy)
        settings.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return (settings,)

    def memory_size(self) -> int:
        """Return the bytes that a context needs for what lies between input and outputs."""
        return getattr(self.engine, "device_memory_size_v2", 0)


@dataclass(frozen=True)
class _Slot:
    pixels: np.ndarray
    staged: Any
    results: dict[str, np.ndarray]


class _Worker:
    """One thread's contexts and buffers.

    All contexts share one block of memory, so the work of a thread must never be on two streams at a time.
    """

    def __init__(self, runner: PlanRunner) -> None:
        # No cycle of references: GPU memory goes when the runner goes.
        self.runner: Any = weakref.proxy(runner)
        self.device = runner.device
        self.pending: Any = None
        self.upload, self.compute = self.device.new_stream(), self.device.new_stream()
        self.memory = self.device.empty((max(1, runner.memory_size()),), "uint8", self.compute)
        self.device.synchronize(self.compute)
        self.contexts: dict[bool, Any] = {}
        # A graph uses up its context: NVIDIA allows no other shape nor address in it afterwards.
        self.graphs: dict[int, tuple[Callable[[], None], Any]] = {}
        self.capacity = 0

    def __del__(self) -> None:
        self._settle()

    def _settle(self, stream: Any = None) -> None:
        """Wait for what still runs, unless it is on the stream that comes next."""
        if self.pending is not None and self.pending != stream:
            self.device.synchronize(self.pending)
            self.pending = None

    def on_device(self, images: Any, wanted: list[str]) -> dict[str, Any]:
        runner, device, stream = self.runner, self.device, self.device.stream()
        array = device.from_foreign(images)
        runner.check(array)
        self._settle(stream)
        self.pending = stream
        results = self._outputs(len(array), stream, wanted)
        parts = blocks(len(array), runner.most)
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
            self._enqueue(self._context(), len(pixels), pixels, outputs, stream)
            if not whole:
                for name in wanted:
                    device.copy(results[name][which], outputs[name], stream)
        return {name: device.to_foreign(result, images) for name, result in results.items()}

    def on_host(self, images: np.ndarray, wanted: list[str]) -> dict[str, np.ndarray]:
        runner, device = self.runner, self.device
        runner.check(images)
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
            self._launch(length)
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
        self.graphs.clear()
        capacity = min(self.runner.most, max(length, 2 * self.capacity))
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

    def _launch(self, length: int) -> None:
        if length in self.graphs:
            self.graphs[length][0]()
            return
        captures = self.runner.captures and len(self.graphs) < MOST_GRAPHS
        context = self.runner.new_context(self.memory) if captures else self._context(self.runner.library_captures)
        self._enqueue(context, length, self.pixels, self.outputs, self.compute)
        if captures:
            self._capture(length, context)

    def _context(self, captured: bool = False) -> Any:
        if captured not in self.contexts:
            self.contexts[captured] = self.runner.new_context(self.memory, captured)
        return self.contexts[captured]

    def _enqueue(self, context: Any, length: int, pixels: Any, outputs: dict[str, Any], stream: Any) -> None:
        name, shape = self.runner.input, (length, *self.runner.input_shape)
        with nvidia_errors(self.runner.trt) as errors:
            good = context.set_input_shape(name, shape)
            for each, array in {name: pixels, **outputs}.items():
                good = context.set_tensor_address(each, self.device.pointer(array)) and good
            good = good and context.execute_async_v3(self.device.handle(stream))
        if not good:
            raise AurevoirError("\n".join([f"TensorRT did not run a batch of {length} images:", *errors]))

    def _capture(self, length: int, context: Any) -> None:
        """Keep as a CUDA graph what a context has just run, as NVIDIA asks for, in this shape."""

        def enqueue() -> None:
            if not context.execute_async_v3(self.device.handle(self.compute)):
                raise AurevoirError("TensorRT refused")

        # torch captures one graph at a time.
        with _capturing:
            try:
                self.graphs[length] = self.device.capture(enqueue, self.compute), context
            except Exception as problem:  # Each library has errors of its own.
                self.contexts[False] = context
                if self.runner.captures:
                    LOG.warning("no CUDA graph could be captured (%s); batches are enqueued each time", problem)
                self.runner.captures = False


def _collect(results: dict[str, np.ndarray], part: tuple[_Slot, slice] | None) -> None:
    if part is not None:
        slot, which = part
        for name, result in results.items():
            result[which] = slot.results[name][: which.stop - which.start]
