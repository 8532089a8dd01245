"""Build serialized plans from ONNX graphs with TensorRT 10, TensorRT 11 and TensorRT-RTX.

The functions take the imported module as `trt`, and detect what it supports by its attributes, not by
its version number.
"""

import json
import logging
import re
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from tqdm import tqdm

from ...errors import AurevoirError, AurevoirWarning, SaveError, UsageError
from ...progress import progress_bar
from ...saving import write_atomically
from .base import Batches, Layer

BATCHES: Batches = (1, 16, 64)

LOG = logging.getLogger("aurevoir.tensorrt")
# Or Python would print warnings where a program has set up no logging.
LOG.addHandler(logging.NullHandler())
"""Messages of NVIDIA's libraries."""
_NOTES = logging.getLogger("aurevoir.engine")
_LOGS: dict[Any, Any] = {}


def build_plan(
    trt: Any,
    graph: bytes,
    *,
    batches: Batches = BATCHES,
    target: str | None = None,
    workspace: int | None = None,
    timing_cache: Path | None = None,
    progress: bool = False,
) -> bytes:
    """Build a plan from an ONNX graph, strongly typed: tensors keep their types in the graph.

    Parameters
    ----------
    trt : module
        ``tensorrt`` or ``tensorrt_rtx_bindings``.
    graph : bytes
        ONNX with one uint8 input of shape (batch, height, width, 3).
    batches : (int, int, int)
        Minimum, optimal and maximum batch size.
    target : str, optional
        The GPU architecture to build for, such as ``sm89``; by default this machine's GPU.
    workspace : int, optional
        Maximum GPU workspace per layer, in bytes; by default the library's limit.
    timing_cache : path, optional
        Timing cache file, read if it exists and updated after the build, so that later builds are
        faster.
    progress : bool
        Whether to show progress bars on stderr.

    Returns
    -------
    plan : bytes

    Raises
    ------
    UsageError
        If the batch sizes are not in order, or the library does not support the target.
    AurevoirError
        If the library rejects the graph or cannot build it; the message contains its errors.
    """
    if not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise UsageError(f"batches {batches} are not in order; give minimum, optimal and maximum, such as {BATCHES}")
    capability = None if target is None else _capability(trt, target)
    with nvidia_errors(trt) as errors:
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        # The parser owns the weights that the network points to.
        builder, network, parser = parsed_network(trt, graph, typed)
        config = builder.create_builder_config()
        set_batches(builder, network, config, batches)
        _set_options(trt, config, capability, workspace)
        timings = None if timing_cache is None else _read_timings(config, timing_cache)
        # It must live until the plan is built.
        monitor = _progress_monitor(trt) if progress else None
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        del parser
    if plan is None:
        raise AurevoirError("\n".join(["TensorRT could not build this network:", *errors]))
    if timing_cache is not None and timings is not None:
        try:
            write_atomically(timing_cache, bytes(timings.serialize()))
        except SaveError as error:
            warnings.warn(f"the timing cache {error}; the engine is complete", AurevoirWarning, stacklevel=2)
    return bytes(plan)


def parsed_network(trt: Any, graph: bytes, flags: int) -> tuple[Any, Any, Any]:
    """Parse an ONNX graph; return builder, network and parser, which must live as long as the network.

    Raises
    ------
    AurevoirError
        If the parser rejects the graph.
    """
    builder = trt.Builder(nvidia_log(trt))
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, nvidia_log(trt))
    if not parser.parse(graph):
        raise AurevoirError(_parser_message(parser))
    return builder, network, parser


def known_targets(trt: Any) -> tuple[str, ...]:
    """Return the GPU architectures, such as ``sm89``, that the library builds for on any machine."""
    if not hasattr(trt, "ComputeCapability"):
        return ()
    return tuple(name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM"))


def describe_plan(trt: Any, engine: Any) -> list[Layer]:
    """Return ``name``, ``type`` and ``precision`` of each layer; None if the plan does not report it.

    Parameters
    ----------
    trt : module
    engine : trt.ICudaEngine
        A deserialized engine, which requires its GPU.
    """
    return [_described(layer) for layer in _reported(trt, engine)]


def onnx_nodes(trt: Any, engine: Any) -> dict[str, tuple[str, ...]]:
    """Return the ONNX nodes that each layer was made of, by its name; what a plan does not say is read in the name."""
    found = {}
    for layer in _reported(trt, engine):
        name = layer if isinstance(layer, str) else layer.get("Name", "")
        metadata = "" if isinstance(layer, str) else layer.get("Metadata", "")
        nodes = re.findall(r"\[ONNX Layer: ([^\]\x1e\x1f]+)", metadata) or name.split(" + ")
        found[name] = tuple(dict.fromkeys(each.strip() for each in nodes))
    return found


def _reported(trt: Any, engine: Any) -> list[Any]:
    inspector = engine.create_engine_inspector()
    layers: list[Any] = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
    return layers


def _described(layer: Any) -> Layer:
    if isinstance(layer, str):
        return {"name": layer, "type": None, "precision": None}
    output = (layer.get("Outputs") or [{}])[0]
    # The key before TensorRT 11; its value includes the memory layout.
    precision = output.get("Datatype", output.get("Format/Datatype"))
    return {"name": layer.get("Name"), "type": layer.get("LayerType"), "precision": precision}


def layer_profiler(trt: Any) -> Any:
    """Return a ``trt.IProfiler`` whose ``seconds`` are those of each layer, by name, of all runs it has seen."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.seconds: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.seconds[layer_name] = self.seconds.get(layer_name, 0.0) + ms / 1000

    return Profiler()


def nvidia_log(trt: Any) -> Any:
    """Return the ``trt.ILogger`` that forwards messages to the Python logger ``aurevoir.tensorrt``.

    There is one per library and it is never freed, since NVIDIA's code keeps a reference to the first.
    """
    if trt not in _LOGS:
        _LOGS.setdefault(trt, _new_log(trt))
    return _LOGS[trt]


def _new_log(trt: Any) -> Any:
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.CRITICAL,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.INFO,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.readers: dict[int, deque[str]] = {}

        def log(self, severity: Any, message: str) -> None:
            LOG.log(levels[severity], "%s", message)
            if levels[severity] >= logging.ERROR:
                for reader in list(self.readers.values()):
                    reader.append(message)

    return Log()


@contextmanager
def nvidia_errors(trt: Any) -> Iterator[deque[str]]:
    """Collect the last errors that the library logs inside the block."""
    errors: deque[str] = deque(maxlen=5)
    readers = nvidia_log(trt).readers
    readers[id(errors)] = errors
    try:
        yield errors
    finally:
        del readers[id(errors)]


def _progress_monitor(trt: Any) -> Any:
    bars: dict[str, tqdm] = {}
    lock = Lock()

    class Monitor(trt.IProgressMonitor):
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock:
                bars[phase_name] = progress_bar(total=num_steps, desc=phase_name, unit="step", leave=not parent_phase)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with lock:
                bars[phase_name].update()
            return True

        def phase_finish(self, phase_name: str) -> None:
            with lock:
                bars.pop(phase_name).close()

    return Monitor()


def _parser_message(parser: Any) -> str:
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [
        f"node {fault.node_name()!r}, operator {fault.node_operator()}: {fault.code().name}: {fault.desc()}"
        for fault in faults
    ]
    return "\n".join(["TensorRT does not support this network; try runtime 'openvino' or 'torch':", *lines])


def set_batches(builder: Any, network: Any, config: Any, batches: Batches) -> Any:
    """Add an optimization profile for the batch sizes of a network, and return it."""
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    profile.set_shape(images.name, *((batch, *tuple(images.shape)[1:]) for batch in batches))
    config.add_optimization_profile(profile)
    return profile


def _set_options(trt: Any, config: Any, capability: Any, workspace: int | None) -> None:
    # For the layer precisions of `describe_plan`.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 would round the operands of fp32 to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if capability is not None and hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)


def _capability(trt: Any, target: str) -> Any:
    if not hasattr(trt, "ComputeCapability"):
        raise UsageError(f"target {target!r}: only runtime 'tensorrt-rtx' builds ahead of time for other GPUs")
    known = known_targets(trt)
    if target not in known:
        raise UsageError(f"target {target!r} is not one that this TensorRT-RTX builds for: {', '.join(known)}")
    return getattr(trt.ComputeCapability, target.upper())


def _read_timings(config: Any, path: Path) -> Any:
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        _NOTES.warning("the timing cache %s is damaged, or of another GPU or version; it is rebuilt", path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache
