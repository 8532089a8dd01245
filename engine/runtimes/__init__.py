"""The runtimes, one a module: this page finds them by name and chooses among them; `base` says what one holds."""

from collections.abc import Sequence
from importlib.util import find_spec

from ...errors import MissingPackageError, UsageError
from .base import PLAN_RUNTIMES, PRECISIONS, RUNTIMES, GraphRuntime, PlanRuntime, Precision, RuntimeName
from .device import has_nvidia_driver, open_device

HOST_BATCH, GPU_BATCH = 16, 512
"""Images to give an engine at a time; of `GPU_BATCH` a GPU computes one half while the other is brought in."""

# Those that have int8 kernels for the host's processor.
_ON_HOST = ("openvino", "onnxruntime")


def graph_runtime(name: str) -> GraphRuntime:
    """Return a runtime that computes graphs by its name; one that is not known is a UsageError."""
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
    raise _unknown(name)


def plan_runtime(name: str) -> PlanRuntime:
    """Return a runtime of NVIDIA's by its name; one that is not known is a UsageError."""
    match name:
        case "tensorrt":
            from . import on_tensorrt

            return on_tensorrt
        case "tensorrt-rtx":
            from . import on_tensorrt_rtx

            return on_tensorrt_rtx
    raise _unknown(name)


def runtime(name: str) -> GraphRuntime | PlanRuntime:
    """Return a runtime's module by its name; one that is not known is a UsageError."""
    return plan_runtime(name) if builds_plans(name) else graph_runtime(name)


def builds_plans(name: str) -> bool:
    """Return whether a runtime builds a plan for one kind of GPU before it runs."""
    return name in PLAN_RUNTIMES


def check_runtime(name: str) -> RuntimeName:
    """Return the name of a runtime, or refuse one that is not known."""
    if name not in RUNTIMES:
        raise _unknown(name)
    return name


def _unknown(name: str) -> UsageError:
    return UsageError(f"runtime {name!r} is not known; choose one of auto, {', '.join(RUNTIMES)}")


def installed(name: str) -> bool:
    """Return whether the library of a runtime can be imported, without importing it."""
    return find_spec(runtime(name).PACKAGE) is not None


def require_runtime(name: str, precision: str) -> GraphRuntime | PlanRuntime:
    """Return a runtime that is installed and runs a precision here.

    Raises
    ------
    UsageError
        If the name or the precision is not known, or this runtime cannot run it here.
    MissingPackageError
        If it is not installed; the message holds the line that installs it.
    """
    check_precision(precision)
    module = runtime(name)
    if not installed(name):
        raise MissingPackageError(f"runtime {name!r} is not installed; install it with: {module.INSTALL}")
    if precision not in module.precisions():
        if builds_plans(name) and (reason := plan_runtime(name).why_not()):
            raise UsageError(f"runtime {name!r} runs nothing on this machine: {reason}")
        others = [other for other in RUNTIMES if installed(other) and precision in runtime(other).precisions()]
        mend = f"{precision} runs on {', '.join(others)}" if others else f"nothing installed here runs {precision}"
        raise UsageError(f"runtime {name!r} runs {', '.join(module.precisions())} on this machine; {mend}")
    return module


def check_device(name: str, device: str) -> None:
    """Refuse a device that a runtime does not have here."""
    if builds_plans(name):
        open_device(device)
        return
    devices = runtime(name).devices()
    if device not in devices:
        raise UsageError(f"device {device!r} is not one of runtime {name!r} here: {', '.join(devices)}")


def check_precision(precision: str) -> Precision:
    """Return a precision, or refuse one that is not known."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
    return precision


def choose_runtime(
    name: str, precision: str, among: Sequence[RuntimeName] = RUNTIMES, device: str | None = None
) -> RuntimeName:
    """Return the name itself, or for ``auto`` the best runtime present among some that runs the precision.

    Parameters
    ----------
    name : str
    precision : str
    among : sequence of str
    device : str, optional
        Where it is to run; None stands for a GPU, if a runtime that is installed can use the one here, else the CPU.

    Raises
    ------
    UsageError
        If none runs the precision there: nothing moves from the GPU to the CPU unasked.
    MissingPackageError
        If no runtime is installed.
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
    for candidate in candidates:
        if precision in precisions_on(candidate, device):
            return candidate
    if not any(map(installed, RUNTIMES)):
        raise MissingPackageError(f"no runtime is installed; install one with: {runtime('openvino').INSTALL}")
    if on_gpu and candidates is on_gpu:
        raise UsageError(_not_on_gpu(precision, on_gpu, on_host))
    where = f"on device {device!r} of this machine" if device else "on this machine"
    raise UsageError(f"no runtime {where} runs {precision}; `aurevoir doctor` lists what runs here")


def calibrated_for(name: str) -> RuntimeName:
    """Return the runtime that a calibration is for; for ``auto`` on a GPU that has none for int8, one on the CPU."""
    on_gpu = any("int8" in runtime(each).precisions() for each in _runtimes_on_gpu())
    return choose_runtime(name, "int8", device=None if on_gpu else "cpu")


def precisions_on(name: str, device: str | None) -> list[Precision]:
    """Return the precisions that a runtime runs on a device; None stands for its first."""
    slow = ("fp16",) if name == "torch" and device == "cpu" else ()
    return [precision for precision in runtime(name).precisions() if precision not in slow]


def _runtimes_on_gpu() -> list[RuntimeName]:
    """Return the runtimes that run on a GPU of this machine, the best first."""
    if not has_nvidia_driver():
        return []
    found: list[RuntimeName] = [name for name in PLAN_RUNTIMES if installed(name) and runtime(name).precisions()]
    return [*found, "torch"] if installed("torch") and default_device("torch") == "cuda" else found


def _not_on_gpu(precision: str, on_gpu: Sequence[RuntimeName], on_host: Sequence[RuntimeName]) -> str:
    """Say that nothing here runs a precision on the GPU, and what would."""
    runs = "; ".join(f"{name} runs {', '.join(runtime(name).precisions())}" for name in on_gpu)
    others = [name for name in on_host if name not in on_gpu and precision in runtime(name).precisions()]
    mends = [f"choose another precision ({runs})"]
    if precision in ("fp16", "int8"):
        mends.append(f"install TensorRT ({runtime('tensorrt').INSTALL})")
    if others:
        mends.append(f"name a runtime to use the CPU ({', '.join(others)})")
    return f"no runtime installed here runs {precision} on this machine's GPU; {', or '.join(mends)}"


def choose_builder(name: str, precision: str, target: str) -> RuntimeName:
    """Return the runtime that builds a precision for a GPU that is not here; for ``auto`` find it.

    Raises
    ------
    UsageError
        If the runtime cannot.
    MissingPackageError
        If it is not installed.
    """
    check_precision(precision)
    chosen = check_runtime("tensorrt-rtx" if name == "auto" else name)
    if not builds_plans(chosen):
        raise UsageError(f"target {target!r}: runtime {chosen!r} builds nothing ahead; 'tensorrt-rtx' does")
    module = plan_runtime(chosen)
    if not installed(chosen):
        raise MissingPackageError(f"runtime {chosen!r} is not installed; install it with: {module.INSTALL}")
    if target not in module.targets():
        known = ", ".join(module.targets()) or "none"
        raise UsageError(f"target {target!r} is not one that runtime {chosen!r} builds for without its GPU: {known}")
    if precision not in module.buildable():
        raise UsageError(f"runtime {chosen!r} builds {', '.join(module.buildable())} for {target}, not {precision}")
    return chosen


def wants_float16_body(name: str, precision: str) -> bool:
    """Return whether an engine of a runtime is made of a graph whose body is in float16."""
    return precision != "fp32" and (builds_plans(name) or (name, precision) == ("torch", "fp16"))


def takes_body(name: str, precision: str, half: bool) -> bool:
    """Return whether a runtime computes a precision from a graph with a float16 body, or from one without."""
    return wants_float16_body(name, precision) if half else precision == "fp32" or not builds_plans(name)


def batch_size(device: str) -> int:
    """Return the number of images to give an engine on a device at a time."""
    return GPU_BATCH if device.startswith("cuda") else HOST_BATCH


def default_device(name: str) -> str:
    """Return the device that a runtime uses here unless told otherwise."""
    return next(iter(runtime(name).devices()), "cuda" if builds_plans(name) else "cpu")


def reference_runtime() -> RuntimeName:
    """Return the installed runtime that fp32 is computed with where others are measured against it."""
    return "openvino" if installed("openvino") else "onnxruntime" if installed("onnxruntime") else "torch"


def narrowest_float(name: str, device: str | None = None) -> Precision:
    """Return the 16-bit float precision that a runtime runs here, else fp32.

    Where there are two, fp16: of DenseNet169's signs it keeps 0.996, bf16 0.972.
    """
    narrowest_first: tuple[Precision, ...] = ("fp16", "bf16", "fp32")
    return next(precision for precision in narrowest_first if precision in precisions_on(name, device))


def takes_unsigned(name: str) -> bool:
    """Return whether a runtime takes unsigned activations at no loss here, which have twice the levels.

    TensorRT takes signed activations only; for processors without VNNI see `weight_levels`.
    """
    return name in _ON_HOST and _has_int8_dot_product()


def weight_levels(name: str) -> int:
    """Return the largest magnitude of int8 weights that a runtime multiplies exactly here.

    Without VNNI, x86 processors sum products of unsigned by signed bytes in pairs, in 16 bits that two large ones
    overflow, and the runtimes make signed activations unsigned first.
    """
    from ...calibration.quantize import LEVELS, NARROW_LEVELS

    return NARROW_LEVELS if name in _ON_HOST and not _has_int8_dot_product() else LEVELS


def _has_int8_dot_product() -> bool:
    from ...kernels.backends.numba.features import has_int8_dot_product

    return has_int8_dot_product()
