"""What the processor can do, and what of it Numba uses."""

from collections.abc import Mapping
from typing import Any

from llvmlite.binding import get_host_cpu_features
from numba.core import config


def numba_features() -> Mapping[str, bool]:
    """Return which instructions Numba compiles to: the processor's, unless the environment names others.

    Code that needs another one ends the process when it is compiled.
    """
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return {name[1:]: name[0] == "+" for name in settings.CPU_FEATURES.split(",") if name}
    found: Mapping[str, bool] = get_host_cpu_features()
    return {name: has and (bool(settings.ENABLE_AVX) or not name.startswith("avx")) for name, has in found.items()}


def has_int8_dot_product() -> bool:
    """Return whether the processor multiplies unsigned by signed bytes and sums in 32 bits (VNNI or better)."""
    features = get_host_cpu_features()
    return any(features.get(name) for name in ("avx512vnni", "avxvnni", "amx-int8", "dotprod", "i8mm"))
