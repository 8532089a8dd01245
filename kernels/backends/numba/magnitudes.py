"""Magnitudes of float32 values: the largest, and histograms."""

import numpy as np

from ....errors import UsageError
from ..reference import bins_per_unit, real
from .compiled import compiled
from .threads import in_parts

_SIGN_OFF = np.uint32(0x7FFFFFFF)
_BLOCK = 2048
_LEAST = 1 << 15
"""Values of a part at least, which are counted in less time than a thread takes to begin."""
_MOST = 1 << 31
"""Values of a part at most, whose counts are uint32."""


@compiled()
def _largest_magnitude_bits(bits: np.ndarray) -> np.uint32:
    # Without the sign bit, float32 values order like integers, with nan and infinity above all numbers.
    found = np.uint32(0)
    for index in range(bits.size):
        found = max(found, bits[index] & _SIGN_OFF)
    return found


@compiled()
def _count_magnitudes(
    values: np.ndarray, bits: np.ndarray, top: int, gain: np.float32, bins: int
) -> tuple[np.ndarray, np.uint32]:
    # Four histograms, because consecutive increments of the same bin would stall; the last bin of each is of what is
    # not counted.
    counts = np.zeros((4, bins + 1), dtype=np.uint32)
    last, outside = np.float32(bins - 1), np.int32(bins)
    # Bins first, a block at a time, because that loop alone compiles to vector instructions.
    index = np.empty(_BLOCK, dtype=np.uint32)
    first, second, third, fourth = counts[0], counts[1], counts[2], counts[3]
    largest = np.uint32(0)
    for start in range(0, values.size, _BLOCK):
        size = min(_BLOCK, values.size - start)
        block, block_bits = values[start : start + size], bits[start : start + size]
        for place in range(size):
            magnitude = block_bits[place] & _SIGN_OFF
            inside = magnitude < top
            largest = max(largest, magnitude if inside else np.uint32(0))
            scaled = abs(block[place]) * gain
            index[place] = np.int32(scaled if scaled < last else last) if inside else outside
        for place in range(0, size - 3, 4):
            first[index[place]] += np.uint32(1)
            second[index[place + 1]] += np.uint32(1)
            third[index[place + 2]] += np.uint32(1)
            fourth[index[place + 3]] += np.uint32(1)
        for place in range(size & ~3, size):
            first[index[place]] += np.uint32(1)
    for place in range(bins):
        first[place] += second[place] + third[place] + fourth[place]
    return first[:bins], largest


def largest_magnitude(values: np.ndarray) -> float:
    """Return the largest |x|; see `reference.largest_magnitude`."""
    if values.size == 0:
        return 0.0
    bits = np.ascontiguousarray(real(values)).reshape(-1).view("uint32")
    largest = in_parts(lambda start, stop: _largest_magnitude_bits(bits[start:stop]), bits.size, _LEAST)
    return _value(max(largest))


def count_magnitudes(values: np.ndarray, top: float, bins: int) -> tuple[np.ndarray, float]:
    """Count |x| in equal bins, and return the largest counted; see `reference.count_magnitudes`."""
    if bins < 1 or not top > 0:
        raise UsageError(f"{bins} bins up to {top}; both must be positive")
    flat = np.ascontiguousarray(real(values)).reshape(-1)
    # 2^128 is not a float32.
    limit = np.float32(top if top <= float(np.finfo("float32").max) else np.inf)
    # Magnitudes are compared by their bits, as integers, of which nan has more than infinity.
    bits, top_bits, gain = flat.view("uint32"), limit.view("uint32"), bins_per_unit(bins, top)

    def counted(start: int, stop: int) -> tuple[np.ndarray, np.uint32]:
        return _count_magnitudes(flat[start:stop], bits[start:stop], top_bits, gain, bins)

    total, largest = np.zeros(bins, "int64"), np.uint32(0)
    for counts, found in in_parts(counted, flat.size, _LEAST, _MOST):
        total += counts
        largest = max(largest, found)
    return total, _value(largest)


def _value(bits: np.uint32) -> float:
    return float(np.uint32(bits).view("float32"))
