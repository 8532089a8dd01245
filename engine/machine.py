"""Check that this machine can run an engine that was built elsewhere."""

from ..calibration.quantize import LEVELS
from ..errors import AurevoirError
from .manifest import Manifest
from .runtimes import check_device, default_device, plan_runtime, require_runtime, weight_levels
from .runtimes.device import open_device


def check_machine(made: Manifest, device: str | None, source: object) -> None:
    """Check runtime, processor and device, by default the runtime's first; error messages name `source`.

    Raises
    ------
    UsageError
        If the runtime does not support the precision or the device here.
    AurevoirError
        If products of the int8 weights would overflow on this processor.
    MissingPackageError
        If the runtime is not installed.
    """
    require_runtime(made.runtime, made.precision)
    check_device(made.runtime, device or default_device(made.runtime))
    limit = weight_levels(made.runtime)
    # Older files do not record the levels, which were always 127.
    if made.precision == "int8" and (made.weight_levels or LEVELS) > limit:
        raise AurevoirError(
            f"{source} was built on a processor with an int8 dot product (VNNI), and {made.runtime} has none here: "
            f"products of weights beyond {limit} overflow; build it again on this machine, or see `aurevoir doctor`"
        )


def plan_mismatch(made: Manifest, device: str) -> str:
    """Describe why a plan that a manifest describes does not fit this machine's device; empty if it does."""
    version, here = plan_runtime(made.runtime).version(), open_device(device).capability
    if (version, here) == (made.runtime_version, made.target):
        return ""
    return (
        f"its plan was built by {made.runtime} {made.runtime_version} for {made.target} GPUs; "
        f"here are {made.runtime} {version} and {here}"
    )
