"""Find runtimes by name and choose among them; `base` defines their interface."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain

import numpy as np

from ...errors import AurevoirError, MissingPackageError, UsageError
from ...kept import Store
from ...kernels.forked import check_process
from .base import (
    GRAPH_RUNTIMES,
    PLAN_RUNTIMES,
    PRECISIONS,
    RUNTIMES,
    Compiled,
    GraphRuntime,
    PlanRuntime,
    Precision,
    RuntimeName,
)
from .device import has_nvidia_driver, open_device
from .gpu_run import GpuRunner
from .native_errors import native_errors
from .processor import has_int8_dot_product, saturates

HOST_BATCH, GPU_BATCH = 16, 512
"""Batch sizes; a GPU computes one half of `GPU_BATCH` while the other is transferred."""

NO_GPU = "PyTorch finds no NVIDIA GPU of compute capability 8.0 or more"
"""Why a graph runtime has no precision here."""

ON_HOST: tuple[RuntimeName, ...] = ("openvino", "onnxruntime")
"""Runtimes with int8 kernels for the CPU."""


def graph_runtime(name: str) -> GraphRuntime:
    """Return a graph runtime by name; an unknown name raises UsageError."""
    match name:
        case "openvino":
            from . import on_openvino

            return on_openvino
        case "onnxruntime":
            from . import on_onnxruntime

            return on_onnxruntime
        case "torch":
            from . import on_torch

            return on_torch
        case "triton":
            from . import on_triton

            return on_triton
    raise _unknown(name)


def compile_graph(
    name: str,
    graph: bytes,
    precision: Precision,
    device: str = "cpu",
    settings: Mapping[str, int] | None = None,
    store: Store | None = None,
) -> Compiled | GpuRunner:
    """Compile an ONNX graph for a graph runtime; see `GraphRuntime.compile`.

    With a `store`, what is compiled is kept there, and taken from there, if the runtime can do so.

    Raises
    ------
    AurevoirError
        If the runtime cannot compile the graph, or later run it; the message says what it refuses. Likewise in a
        process that was forked from one that had used the runtime.
    """
    module = graph_runtime(name)
    check_process(name)
    with native_errors(name, "compile"):
        options = {"store": store} if store is not None and module.KEEPS else {}
        compiled = module.compile(graph, precision, device, settings, **options)
    if isinstance(compiled, GpuRunner):
        return compiled

    def run(images: np.ndarray, into: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        check_process(name)
        with native_errors(name, "run"):
            return compiled(images) if into is None else compiled(images, into)

    return run


def check_settings(name: str, device: str, settings: Mapping[str, int | None]) -> dict[str, int]:
    """Return those of ``threads`` and ``streams`` that are given, for a runtime on a device.

    Raises
    ------
    UsageError
        If one is below 1, or the runtime does not take it there.
    """
    given = {each: value for each, value in settings.items() if value is not None}
    taken = graph_runtime(name).SETTINGS if device == "cpu" and not builds_plans(name) else ()
    for each, value in given.items():
        if value < 1:
            raise UsageError(f"{each} {value} is less than 1")
        if each not in taken:
            raise UsageError(f"{each} {value} has no effect with runtime {name!r} on device {device!r}; leave it out")
    return given


def calls_at_once(name: str, device: str) -> int:
    """Return how many calls of a compiled graph at the same time are faster than one after another."""
    return graph_runtime(name).CALLS if device == "cpu" and not builds_plans(name) else 1


def plan_runtime(name: str) -> PlanRuntime:
    """Return a plan runtime by name; an unknown name raises UsageError."""
    match name:
        case "tensorrt":
            from . import on_tensorrt

            return on_tensorrt
        case "tensorrt-rtx":
            from . import on_tensorrt_rtx

            return on_tensorrt_rtx
    raise _unknown(name)


def runtime(name: str) -> GraphRuntime | PlanRuntime:
    """Return a runtime's module by name; an unknown name raises UsageError."""
    return plan_runtime(name) if builds_plans(name) else graph_runtime(name)


def builds_plans(name: str) -> bool:
    """Return whether a runtime builds a GPU-specific plan before it runs."""
    return name in PLAN_RUNTIMES


def check_runtime(name: str) -> RuntimeName:
    """Return the name of a runtime, or raise UsageError if it is unknown."""
    if name not in RUNTIMES:
        raise _unknown(name)
    return name


def _unknown(name: str) -> UsageError:
    return UsageError(f"runtime {name!r} is not known; choose one of auto, {', '.join(RUNTIMES)}")


def installed(name: str) -> bool:
    """Return whether the library of a runtime is installed, without importing it."""
    return find_spec(runtime(name).PACKAGE) is not None


def require_runtime(name: str, precision: str) -> GraphRuntime | PlanRuntime:
    """Return a runtime after checking that it is installed and supports a precision on this machine.

    Raises
    ------
    UsageError
        If the name or precision is unknown, or the runtime does not support it on this machine.
    MissingPackageError
        If it is not installed; the message contains the command that installs it.
    """
    check_precision(precision)
    module = runtime(name)
    if not installed(name):
        raise MissingPackageError(f"runtime {name!r} is not installed; install it with: {module.INSTALL}")
    if precision not in module.precisions():
        if builds_plans(name) and (reason := plan_runtime(name).why_not()):
            raise UsageError(f"runtime {name!r} cannot run on this machine: {reason}")
        if not module.precisions():
            raise UsageError(f"runtime {name!r} cannot run on this machine: {NO_GPU}; choose another runtime")
        others = [other for other in RUNTIMES if installed(other) and precision in runtime(other).precisions()]
        remedy = f"{precision} runs on {', '.join(others)}" if others else f"nothing installed here runs {precision}"
        raise UsageError(f"runtime {name!r} runs {', '.join(module.precisions())} on this machine; {remedy}")
    return module


def check_device(name: str, device: str) -> None:
    """Raise UsageError if a runtime does not have a device on this machine."""
    if builds_plans(name):
        open_device(device)
        return
    devices = runtime(name).devices()
    if device not in devices:
        raise UsageError(
            f"runtime {name!r} has no device {device!r} on this machine; choose one of {', '.join(devices)}"
        )


def check_precision(precision: str) -> Precision:
    """Return a precision, or raise UsageError if it is unknown."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
    return precision


def choose_runtime(
    name: str,
    precision: str,
    among: Sequence[RuntimeName] = RUNTIMES,
    device: str | None = None,
    graph: bytes | None = None,
) -> RuntimeName:
    """Return the name of a runtime, for ``auto`` the best installed one that supports the precision.

    Parameters
    ----------
    name : str
    precision : str
    among : sequence of str
        Candidates for ``auto``.
    device : str, optional
        Target device; by default a GPU if an installed runtime supports this machine's, and otherwise the CPU.
    graph : bytes, optional
        An ONNX graph that ``auto`` passes over a runtime for if it refuses an operator of it.

    Raises
    ------
    UsageError
        If none supports the precision there; ``auto`` never falls back from the GPU to the CPU.
    MissingPackageError
        If no runtime is installed.
    AurevoirError
        If every runtime that supports the precision refuses the graph: what the first one says.
    """
    check_precision(precision)
    if name != "auto":
        require_runtime(name, precision)
        return check_runtime(name)
    on_gpu = [each for each in _runtimes_on_gpu() if each in among]
    on_host = [each for each in among if installed(each) and not builds_plans(each)]
    if device is None:
        candidates = on_gpu or on_host
    elif device.startswith("cuda"):
        candidates = on_gpu
    else:
        candidates = [each for each in on_host if device in runtime(each).devices()]
    # One after the other: to ask torch, it is imported, which takes a second.
    able = (each for each in candidates if precision in precisions_on(each, device))
    if (best := next(able, None)) is not None:
        return best if graph is None else _first_that_takes(graph, chain([best], able))
    if not any(map(installed, RUNTIMES)):
        raise MissingPackageError(f"no runtime is installed; install one with: {runtime('openvino').INSTALL}")
    if on_gpu and candidates is on_gpu:
        raise UsageError(_not_on_gpu(precision, on_gpu, on_host))
    where = f"on device {device!r} of this machine" if device else "on this machine"
    raise UsageError(f"no runtime {where} runs {precision}; `aurevoir doctor` lists the precisions of each runtime")


def _first_that_takes(graph: bytes, candidates: Iterable[RuntimeName]) -> RuntimeName:
    refused: AurevoirError | None = None
    for name in candidates:
        try:
            if not builds_plans(name):
                with native_errors(name, "read"):
                    graph_runtime(name).check(graph)
        except AurevoirError as error:
            refused = refused or error
        else:
            return name
    raise refused or AssertionError("no candidates")


def calibration_runtime(name: str) -> RuntimeName:
    """Return the runtime to calibrate for; ``auto`` chooses one on the CPU if none supports int8 on the GPU."""
    on_gpu = any("int8" in runtime(each).precisions() for each in _runtimes_on_gpu())
    return choose_runtime(name, "int8", device=None if on_gpu else "cpu")


def precisions_on(name: str, device: str | None) -> list[Precision]:
    """Return the precisions that a runtime supports on a device, by default its first."""
    slow = ("fp16",) if name == "torch" and device == "cpu" else ()
    return [precision for precision in runtime(name).precisions() if precision not in slow]


def _runtimes_on_gpu() -> list[RuntimeName]:
    """Return the runtimes that can use this machine's GPU, best first."""
    if not has_nvidia_driver():
        return []
    found: list[RuntimeName] = [name for name in PLAN_RUNTIMES if installed(name) and runtime(name).precisions()]
    if installed("torch") and default_device("torch") == "cuda":
        found.append("torch")
    return [*found, "triton"] if installed("triton") and runtime("triton").precisions() else found


def _not_on_gpu(precision: str, on_gpu: Sequence[RuntimeName], on_host: Sequence[RuntimeName]) -> str:
    """Return the message that no installed runtime supports a precision on the GPU."""
    runs = "; ".join(f"{name} runs {', '.join(runtime(name).precisions())}" for name in on_gpu)
    others = [name for name in on_host if name not in on_gpu and precision in runtime(name).precisions()]
    remedies = [f"choose another precision ({runs})"]
    if precision in ("fp16", "int8"):
        remedies.append(f"install TensorRT ({runtime('tensorrt').INSTALL})")
    if others:
        remedies.append(f"choose a runtime that uses the CPU ({', '.join(others)})")
    return f"no runtime installed here runs {precision} on this machine's GPU; {', or '.join(remedies)}"


def choose_builder(name: str, precision: str, target: str) -> RuntimeName:
    """Return the runtime that builds ahead of time for a target GPU, chosen for ``auto``.

    Raises
    ------
    UsageError
        If the runtime does not support the precision or the target.
    MissingPackageError
        If it is not installed.
    """
    check_precision(precision)
    chosen = check_runtime("tensorrt-rtx" if name == "auto" else name)
    if not builds_plans(chosen):
        raise UsageError(f"target {target!r}: runtime {chosen!r} cannot build ahead of time; use 'tensorrt-rtx'")
    module = plan_runtime(chosen)
    if not installed(chosen):
        raise MissingPackageError(f"runtime {chosen!r} is not installed; install it with: {module.INSTALL}")
    if target not in module.targets():
        known = ", ".join(module.targets()) or "none"
        raise UsageError(f"target {target!r} is not one that runtime {chosen!r} builds for ahead of time: {known}")
    if precision not in module.buildable():
        raise UsageError(f"runtime {chosen!r} builds {', '.join(module.buildable())} for {target}, not {precision}")
    return chosen


def wants_float16_body(name: str, precision: str) -> bool:
    """Return whether engines of a runtime and precision use a graph with a float16 body."""
    return precision != "fp32" and (builds_plans(name) or (name, precision) == ("torch", "fp16"))


def takes_body(name: str, precision: str, half: bool) -> bool:
    """Return whether a runtime runs a precision from a graph with (`half`) or without a float16 body."""
    return wants_float16_body(name, precision) if half else precision == "fp32" or not builds_plans(name)


def batch_size(device: str) -> int:
    """Return the recommended batch size on a device."""
    return GPU_BATCH if device.startswith("cuda") else HOST_BATCH


def default_device(name: str) -> str:
    """Return the default device of a runtime on this machine."""
    return next(iter(runtime(name).devices()), "cuda" if builds_plans(name) else "cpu")


def reference_runtime(graph: bytes) -> RuntimeName:
    """Return the installed runtime that computes the fp32 reference of a graph."""
    exact = [name for name in GRAPH_RUNTIMES if name != "triton" and installed(name)]
    return _first_that_takes(graph, exact or ["torch"])


def narrowest_float(name: str, device: str | None = None) -> Precision:
    """Return the best 16-bit float precision that a runtime supports on this machine, or else fp32.

    On a GPU fp16 is preferred: its sign agreement on DenseNet169 is 0.996, that of bf16 0.972. On a CPU bf16 is, for
    which x86 processors with both have matrix units: there OpenVINO runs fp16 slower than fp32.
    """
    on_cpu = (device or default_device(name)) == "cpu"
    best_first: tuple[Precision, ...] = ("bf16", "fp16", "fp32") if on_cpu else ("fp16", "bf16", "fp32")
    return next(precision for precision in best_first if precision in precisions_on(name, device))


def takes_unsigned(name: str) -> bool:
    """Return whether a runtime supports uint8 activations, with twice the levels, without loss on this processor.

    TensorRT supports only signed activations; for processors without VNNI see `weight_levels`.
    """
    return name in ON_HOST and has_int8_dot_product(name)


def weight_levels(name: str) -> int:
    """Return the largest magnitude of int8 weights whose products a runtime sums without overflow on this processor.

    See `processor.saturates`.
    """
    from ...calibration.quantize import LEVELS, NARROW_LEVELS

    return NARROW_LEVELS if name in ON_HOST and saturates(name) else LEVELS
