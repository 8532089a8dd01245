"""Magnitudes of float32 values: the largest, and histograms."""

import numpy as np
from numba import get_num_threads, prange

from ....errors import UsageError
from ..reference import bins_per_unit, real
from .compiled import compiled

_SIGN_OFF = np.uint32(0x7FFFFFFF)
_BLOCK = 2048
_MOST = 1 << 31
"""Values of a part at most, whose counts are uint32."""


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
    values: np.ndarray, bits: np.ndarray, top: int, gain: np.float32, bins: int, parts: int
) -> tuple[np.ndarray, np.ndarray]:
    # Four histograms per part, because consecutive increments of the same bin would stall; the last bin of each is of
    # what is not counted.
    counts = np.zeros((parts, 4, bins + 1), dtype=np.uint32)
    largest = np.zeros(parts, dtype=np.uint32)
    last, outside = np.float32(bins - 1), np.int32(bins)
    length = -(-values.size // parts)
    for part in prange(parts):
        # Bins first, a block at a time, because that loop alone compiles to vector instructions.
        index = np.empty(_BLOCK, dtype=np.uint32)
        first, second, third, fourth = counts[part, 0], counts[part, 1], counts[part, 2], counts[part, 3]
        maximum = np.uint32(0)
        end = min((part + 1) * length, values.size)
        for start in range(part * length, end, _BLOCK):
            size = min(_BLOCK, end - start)
            block, block_bits = values[start : start + size], bits[start : start + size]
            for place in range(size):
                magnitude = block_bits[place] & _SIGN_OFF
                inside = magnitude < top
                maximum = max(maximum, magnitude if inside else np.uint32(0))
                scaled = abs(block[place]) * gain
                index[place] = np.int32(scaled if scaled < last else last) if inside else outside
            for place in range(0, size - 3, 4):
                first[index[place]] += np.uint32(1)
                second[index[place + 1]] += np.uint32(1)
                third[index[place + 2]] += np.uint32(1)
                fourth[index[place + 3]] += np.uint32(1)
            for place in range(size & ~3, size):
                first[index[place]] += np.uint32(1)
        largest[part] = maximum
    return counts, largest


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
    parts = max(get_num_threads(), -(-flat.size // _MOST))
    # Magnitudes are compared by their bits, as integers, of which nan has more than infinity.
    counts, largest = _count_magnitudes(
        flat, flat.view("uint32"), limit.view("uint32"), bins_per_unit(bins, top), bins, parts
    )
    return counts[:, :, :bins].sum(axis=(0, 1), dtype="int64"), float(largest.max().view("float32"))
