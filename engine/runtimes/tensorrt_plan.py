"""From an ONNX graph to a serialized plan, with NVIDIA's own builder: TensorRT 10, 11 and TensorRT-RTX.

The functions take the imported module as `trt`; what one version lacks is asked of it, not looked up
by its number.
"""

import json
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from tqdm import tqdm

from ...errors import AurevoirError, UsageError
from ...files import write_atomically
from ...progress import progress_bar
from .base import Batches, Layer

BATCHES: Batches = (1, 16, 64)

LOG = logging.getLogger("aurevoir.tensorrt")
"""What NVIDIA's libraries log."""
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
    """Build a plan from an ONNX graph; every tensor keeps the type that the graph gives it.

    Parameters
    ----------
    trt : module
        ``tensorrt`` or ``tensorrt_rtx_bindings``.
    graph : bytes
        ONNX, of one uint8 input of shape (batch, height, width, 3).
    batches : (int, int, int)
        The smallest, the usual and the largest batch.
    target : str, optional
        The GPU architecture to build for, such as ``sm89``; None is the GPU of this machine.
    workspace : int, optional
        Bytes of device memory that one layer may take for scratch; None leaves it to the library.
    timing_cache : path, optional
        A file of kernel timings, read where it exists and written after the build, so that the next
        build need not time them again.
    progress : bool
        Show bars on stderr.

    Returns
    -------
    plan : bytes

    Raises
    ------
    UsageError
        If the batches are not in order, or the library does not build for the target.
    AurevoirError
        If the library refuses the graph or cannot build it; the message holds its own words.
    """
    if not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise UsageError(f"batches {batches}; give the smallest, the usual and the largest, such as {BATCHES}")
    capability = None if target is None else _capability(trt, target)
    with nvidia_errors(trt) as errors:
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        # The parser owns the weights that the network points to.
        builder, network, parser = parsed_network(trt, graph, typed)
        config = builder.create_builder_config()
        set_batches(builder, network, config, batches)
        _set_options(trt, config, capability, workspace)
        timings = None if timing_cache is None else _read_timings(config, timing_cache)
        # It has to live until the plan is built.
        monitor = _progress_monitor(trt) if progress else None
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        del parser
    if plan is None:
        raise AurevoirError("\n".join(["TensorRT could not build this network:", *errors]))
    if timing_cache is not None and timings is not None:
        write_atomically(timing_cache, bytes(timings.serialize()))
    return bytes(plan)


def parsed_network(trt: Any, graph: bytes, flags: int) -> tuple[Any, Any, Any]:
    """Return a builder, its network of an ONNX graph, and the parser, to be kept while the network is used.

    Raises
    ------
    AurevoirError
        If the parser refuses the graph.
    """
    builder = trt.Builder(nvidia_log(trt))
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, nvidia_log(trt))
    if not parser.parse(graph):
        raise AurevoirError(_refusal(parser))
    return builder, network, parser


def known_targets(trt: Any) -> tuple[str, ...]:
    """Return the GPU architectures, such as ``sm89``, that the library builds for on any machine."""
    if not hasattr(trt, "ComputeCapability"):
        return ()
    return tuple(name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM"))


def describe_plan(trt: Any, engine: Any) -> list[Layer]:
    """Return ``name``, ``type`` and ``precision`` of each layer; None for what the plan does not tell.

    Parameters
    ----------
    trt : module
    engine : trt.ICudaEngine
        Deserialized, which needs its GPU.
    """
    inspector = engine.create_engine_inspector()
    report = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return [_described(layer) for layer in report["Layers"]]


def _described(layer: Any) -> Layer:
    if isinstance(layer, str):
        return {"name": layer, "type": None, "precision": None}
    output = (layer.get("Outputs") or [{}])[0]
    # The key is from before 11; its value holds the memory layout too.
    precision = output.get("Datatype", output.get("Format/Datatype"))
    return {"name": layer.get("Name"), "type": layer.get("LayerType"), "precision": precision}


def nvidia_log(trt: Any) -> Any:
    """Return the ``trt.ILogger`` that hands everything to Python's logging, as ``aurevoir.tensorrt``.

    One a library, kept for ever: NVIDIA's code holds on to the first that it is given.
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


def _refusal(parser: Any) -> str:
    faults = [parser.get_error(place) for place in range(parser.num_errors)]
    lines = [
        f"node {fault.node_name()!r}, operator {fault.node_operator()}: {fault.code().name}: {fault.desc()}"
        for fault in faults
    ]
    return "\n".join(["TensorRT does not take this network; runtime 'openvino' or 'torch' may:", *lines])


def set_batches(builder: Any, network: Any, config: Any, batches: Batches) -> Any:
    """Add the profile of a network's batches, from the smallest to the largest, and return it."""
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    profile.set_shape(images.name, *((batch, *tuple(images.shape)[1:]) for batch in batches))
    config.add_optimization_profile(profile)
    return profile


def _set_options(trt: Any, config: Any, capability: Any, workspace: int | None) -> None:
    # So that `describe_plan` can tell in what precision each layer runs.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # fp32 is to be fp32: TF32 would round factors to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if capability is not None and hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)


def _capability(trt: Any, target: str) -> Any:
    if not hasattr(trt, "ComputeCapability"):
        raise UsageError(f"target {target!r}: only runtime 'tensorrt-rtx' builds for a GPU that is not here")
    known = known_targets(trt)
    if target not in known:
        raise UsageError(f"target {target!r} is not one that this TensorRT-RTX builds for: {', '.join(known)}")
    return getattr(trt.ComputeCapability, target.upper())


def _read_timings(config: Any, path: Path) -> Any:
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        _NOTES.warning("the timing cache %s is damaged, or of another GPU or version; it is made anew", path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache
