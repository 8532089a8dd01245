"""Check that this machine can run an engine that was built elsewhere."""

from typing import TYPE_CHECKING

from ..calibration.quantize import LEVELS
from ..errors import AurevoirError
from .runtimes import check_device, plan_runtime, require_runtime, weight_levels
from .runtimes.device import open_device

if TYPE_CHECKING:
    from .engine import Engine


def check_machine(engine: "Engine", source: object) -> None:
    """Check runtime, device and processor; error messages name `source`.

    Raises
    ------
    UsageError
        If the runtime does not support the precision or the device here.
    AurevoirError
        If products of the int8 weights would overflow on this processor.
    MissingPackageError
        If the runtime is not installed.
    """
    require_runtime(engine.runtime, engine.precision)
    check_device(engine.runtime, engine.device)
    limit = weight_levels(engine.runtime)
    # Older files do not record the levels, which were always 127.
    if engine.precision == "int8" and (engine.manifest.weight_levels or LEVELS) > limit:
        raise AurevoirError(
            f"{source} was built on a processor with an int8 dot product (VNNI), and this one has none: products of "
            f"weights beyond {limit} overflow in {engine.runtime}; build it again on this machine"
        )


def plan_mismatch(engine: "Engine") -> str:
    """Describe why an engine's plan does not fit this machine; empty if it does."""
    if engine.plan is None:
        return ""
    made = engine.manifest
    version, here = plan_runtime(made.runtime).version(), open_device(engine.device).capability
    if (version, here) == (made.runtime_version, made.target):
        return ""
    return (
        f"its plan was built by {made.runtime} {made.runtime_version} for {made.target} GPUs; "
        f"here are {made.runtime} {version} and {here}"
    )
