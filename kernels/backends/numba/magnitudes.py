"""Magnitudes of float32 values: the largest, and histograms."""

import numpy as np
from numba import get_num_threads, prange

from ....errors import UsageError
from ..reference import bins_per_unit, real
from .compiled import compiled

_SIGN_OFF = np.uint32(0x7FFFFFFF)


@compiled(parallel=True)
def _largest_magnitude_bits(bits: np.ndarray, parts: int) -> int:
    # Without the sign bit, float32 values order like integers, with nan and infinity above all numbers.
    largest = np.zeros(parts, dtype=np.uint32)
    length = -(-bits.size // parts)
    for part in prange(parts):
        found = np.uint32(0)
        for index in range(part * length, min((part + 1) * length, bits.size)):
            found = max(found, bits[index] & _SIGN_OFF)
        largest[part] = found
    result: int = largest.max()
    return result


@compiled(parallel=True)
def _count_magnitudes(
    values: np.ndarray, top: np.float32, gain: np.float32, bins: int, parts: int
) -> tuple[np.ndarray, np.ndarray]:
    # Two histograms per part, because consecutive increments of the same bin would stall.
    counts = np.zeros((parts, 2, bins), dtype=np.int64)
    largest = np.zeros(parts, dtype=np.float32)
    length = -(-values.size // parts)
    for part in prange(parts):
        maximum = np.float32(0)
        for index in range(part * length, min((part + 1) * length, values.size)):
            size = abs(values[index])
            if size < top:
                maximum = max(maximum, size)
                counts[part, index & 1, min(np.int64(size * gain), np.int64(bins - 1))] += 1
        largest[part] = maximum
    return counts.sum(axis=0).sum(axis=0), largest


def largest_magnitude(values: np.ndarray) -> float:
    """Return the largest |x|; see `reference.largest_magnitude`."""
    if values.size == 0:
        return 0.0
    flat = np.ascontiguousarray(real(values)).reshape(-1)
    return float(np.uint32(_largest_magnitude_bits(flat.view("uint32"), get_num_threads())).view("float32"))


def count_magnitudes(values: np.ndarray, top: float, bins: int) -> tuple[np.ndarray, float]:
    """Count |x| in equal bins, and return the largest counted; see `reference.count_magnitudes`."""
    if bins < 1 or not top > 0:
        raise UsageError(f"{bins} bins up to {top}; both must be positive")
    flat = np.ascontiguousarray(real(values)).reshape(-1)
    # 2^128 is not a float32.
    limit = np.float32(top if top <= float(np.finfo("float32").max) else np.inf)
    counts, largest = _count_magnitudes(flat, limit, bins_per_unit(bins, top), bins, get_num_threads())
    return counts, float(largest.max())
