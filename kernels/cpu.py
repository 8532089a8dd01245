"""Fast bodies for the CPU, compiled by Numba; each has a plain NumPy reference in the tests."""

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import get_num_threads, njit, prange

_SIGN_OFF = np.uint32(0x7FFFFFFF)


def has_int8_dot_product() -> bool:
    """Return whether the processor multiplies unsigned by signed bytes and sums in 32 bits (VNNI or better)."""
    features = get_host_cpu_features()
    return any(features.get(name) for name in ("avx512vnni", "avxvnni", "amx-int8", "dotprod", "i8mm"))


@njit(parallel=True, cache=True, nogil=True)
def _largest_magnitude_bits(bits: np.ndarray, parts: int) -> int:
    # Without its sign bit a float32 orders as an integer does, nan and infinity above all numbers.
    largest = np.zeros(parts, dtype=np.uint32)
    length = -(-bits.size // parts)
    for part in prange(parts):
        found = np.uint32(0)
        for place in range(part * length, min((part + 1) * length, bits.size)):
            found = max(found, bits[place] & _SIGN_OFF)
        largest[part] = found
    return largest.max()


@njit(parallel=True, cache=True, nogil=True)
def _count_magnitudes(values: np.ndarray, gain: np.float32, bins: int, parts: int) -> np.ndarray:
    # Two tables a part: neighbouring values often fall into one bin, and would wait for each other.
    counts = np.zeros((parts, 2, bins), dtype=np.int64)
    length = -(-values.size // parts)
    for part in prange(parts):
        for place in range(part * length, min((part + 1) * length, values.size)):
            bin_ = min(np.int64(abs(values[place]) * gain), np.int64(bins - 1))
            counts[part, place & 1, bin_] += 1
    return counts.sum(axis=0).sum(axis=0)


def largest_magnitude(values: np.ndarray) -> float:
    """Return the largest |x| of float32 values; nan or infinity where one is among them."""
    if values.size == 0:
        return 0.0
    flat = np.ascontiguousarray(values, dtype="float32").reshape(-1)
    return float(np.uint32(_largest_magnitude_bits(flat.view("uint32"), get_num_threads())).view("float32"))


def count_magnitudes(values: np.ndarray, top: float, bins: int) -> np.ndarray:
    """Count |x| in equal bins from 0 to `top`, which no value exceeds; values at `top` go to the last bin.

    Parameters
    ----------
    values : float32 array of any shape
    top : float
        A power of two, so that scaling is exact.
    bins : int

    Returns
    -------
    counts : int64 array of shape (bins,)
    """
    flat = np.ascontiguousarray(values, dtype="float32").reshape(-1)
    return _count_magnitudes(flat, np.float32(bins / top), bins, get_num_threads())
