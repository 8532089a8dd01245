"""Run plans of TensorRT and TensorRT-RTX."""

import threading
import weakref
from typing import Any

import numpy as np

from ...errors import AurevoirError, UsageError
from .base import WARM_RUNS, LayerTime
from .device import Device
from .gpu_run import Enqueue, GpuRunner, check_rows
from .tensorrt_plan import describe_plan, layer_profiler, nvidia_errors, nvidia_log, onnx_nodes

_TYPES = {"FLOAT": "float32", "UINT8": "uint8", "INT64": "int64"}


class PlanRunner(GpuRunner):
    """A loaded plan; see `GpuRunner`.

    Parameters
    ----------
    trt : module
        The library that built the plan.
    plan : bytes
    device : Device

    Attributes
    ----------
    engine : trt.ICudaEngine

    Raises
    ------
    AurevoirError
        If the plan is for another GPU or version, or corrupted.
    """

    def __init__(self, trt: Any, plan: bytes, device: Device) -> None:
        self.trt = trt
        with device.scope(), nvidia_errors(trt) as errors:
            self._runtime = trt.Runtime(nvidia_log(trt))
            self.engine = engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            remedy = "a plan works only on the GPU and library version it was built for; build it again"
            raise AurevoirError("\n".join([f"the plan does not load on {device.name}: {remedy}", *errors]))
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.input = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        outputs = {
            name: (tuple(engine.get_tensor_shape(name))[1:], _TYPES[engine.get_tensor_dtype(name).name])
            for name in names
            if name != self.input
        }
        max_batch, *shape = tuple(engine.get_tensor_profile_shape(self.input, 0)[2])
        for name in outputs:
            rows = engine.get_tensor_shape(name)[0]
            check_rows(max_batch if rows == -1 else rows, max_batch)
        # TensorRT-RTX captures graphs itself. If contexts cannot share memory, one per graph would need too much.
        self.library_captures = hasattr(trt, "CudaGraphStrategy")
        captures = hasattr(trt.IExecutionContext, "set_device_memory") and not self.library_captures
        height, width, channels = shape
        super().__init__(device, (height, width, channels), outputs, max_batch, captures, in_place=True)
        self._lock = threading.Lock()

    def new_thread_context(self, stream: Any) -> "_PlanContext":
        """Return the execution state of one thread; see `GpuRunner`."""
        return _PlanContext(self, stream)

    def new_context(self, memory: Any, captured: bool = False) -> Any:
        """Return an execution context that uses `memory`, and with `captured` captures CUDA graphs itself."""
        with self._lock, nvidia_errors(self.trt) as errors:
            context = self.engine.create_execution_context(*self._settings(captured))
        if context is None:
            raise AurevoirError(
                "\n".join(["TensorRT created no execution context; the GPU may be out of memory:", *errors])
            )
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
        """Return the bytes that a context needs for intermediate tensors."""
        return getattr(self.engine, "device_memory_size_v2", 0)

    def layer_times(self, images: np.ndarray, calls: int) -> list[LayerTime]:
        """Return the time of every layer on images of one batch, in the order of execution, by NVIDIA's profiler."""
        device, batch = self.device, len(images)
        if batch > self.max_batch:
            raise UsageError(f"batch {batch} is more than {self.max_batch}, the plan's maximum; give at most that")
        profiler = layer_profiler(self.trt)
        with device.scope():
            stream = device.new_stream()
            own = _PlanContext(self, stream)
            context = self.new_context(own.memory)
            staged, pixels = device.pinned(images.shape, "uint8"), device.empty(images.shape, "uint8", stream)
            staged[...] = images
            device.copy(pixels, staged, stream)
            outputs = {
                name: device.empty((batch, *shape), dtype, stream) for name, (shape, dtype) in self.outputs.items()
            }
            enqueue = own.bind_to(context, batch, {self.input: pixels, **outputs})
            for run in range(WARM_RUNS + calls):
                if run == WARM_RUNS:
                    context.profiler = profiler
                enqueue(stream)
                device.synchronize(stream)
            device.release(stream)
        nodes = onnx_nodes(self.trt, self.engine)
        about = {layer["name"]: layer for layer in describe_plan(self.trt, self.engine)}
        return [
            LayerTime(
                name,
                about.get(name, {}).get("type"),
                about.get(name, {}).get("precision"),
                seconds / calls,
                nodes.get(name, (name,)),
            )
            for name, seconds in profiler.seconds.items()
        ]


class _PlanContext:
    """The execution contexts of one thread, which share memory."""

    def __init__(self, runner: PlanRunner, stream: Any) -> None:
        # A weak reference avoids a cycle, so that GPU memory is freed together with the runner.
        self.runner: Any = weakref.proxy(runner)
        self.device = runner.device
        self.memory = self.device.empty((max(1, runner.memory_size()),), "uint8", stream)
        self.device.synchronize(stream)
        self.contexts: dict[bool, Any] = {}

    def bind(
        self, length: int, pixels: Any, outputs: dict[str, Any], *, repeated: bool = False, captured: bool = False
    ) -> Enqueue:
        """Return a function that runs the plan; see `ThreadContext`."""
        # A captured context is fixed: NVIDIA allows no other shape or address afterwards.
        context = self.runner.new_context(self.memory) if captured else self._context(repeated)
        return self.bind_to(context, length, {self.runner.input: pixels, **outputs})

    def bind_to(self, context: Any, length: int, arrays: dict[str, Any]) -> Enqueue:
        """Return a function that runs the plan by one execution context, on arrays by the names of tensors."""
        self._address(context, length, arrays)

        def enqueue(stream: Any) -> None:
            with nvidia_errors(self.runner.trt) as errors:
                good = context.execute_async_v3(self.device.handle(stream))
            if not good:
                raise AurevoirError("\n".join([f"TensorRT did not run a batch of {length} images:", *errors]))

        return enqueue

    def _context(self, repeated: bool) -> Any:
        captured = repeated and self.runner.library_captures
        if captured not in self.contexts:
            self.contexts[captured] = self.runner.new_context(self.memory, captured)
        return self.contexts[captured]

    def _address(self, context: Any, length: int, arrays: dict[str, Any]) -> None:
        with nvidia_errors(self.runner.trt) as errors:
            good = context.set_input_shape(self.runner.input, (length, *self.runner.input_shape))
            for name, array in arrays.items():
                good = context.set_tensor_address(name, self.device.pointer(array)) and good
        if not good:
            raise AurevoirError("\n".join([f"TensorRT does not accept a batch of {length} images:", *errors]))
