"""Instruction sets of the processor, and those that Numba uses."""

from collections.abc import Mapping
from typing import Any

from llvmlite.binding import get_host_cpu_features
from numba.core import config


def numba_features() -> Mapping[str, bool]:
    """Return the instruction sets that Numba uses: the processor's, unless the environment overrides them.

    Compiling code that needs any other one aborts the process.
    """
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return {name[1:]: name[0] == "+" for name in settings.CPU_FEATURES.split(",") if name}
    found: Mapping[str, bool] = get_host_cpu_features()
    return {name: has and (bool(settings.ENABLE_AVX) or not name.startswith("avx")) for name, has in found.items()}


def host_features() -> Mapping[str, bool]:
    """Return the instruction sets of the processor by LLVM's names."""
    found: Mapping[str, bool] = get_host_cpu_features()
    return found


def has_int8_dot_product() -> bool:
    """Return whether the processor has dot products of bytes with 32-bit sums (VNNI or better)."""
    features = host_features()
    return any(features.get(name) for name in ("avx512vnni", "avxvnni", "amx-int8", "dotprod", "i8mm"))
