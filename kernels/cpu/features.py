"""What the processor can do."""

from llvmlite.binding import get_host_cpu_features


def has_int8_dot_product() -> bool:
    """Return whether the processor multiplies unsigned by signed bytes and sums in 32 bits (VNNI or better)."""
    features = get_host_cpu_features()
    return any(features.get(name) for name in ("avx512vnni", "avxvnni", "amx-int8", "dotprod", "i8mm"))
