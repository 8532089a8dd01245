"""Fast bodies for the CPU, compiled by Numba; each has a plain NumPy reference in the tests."""

from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import get_num_threads, njit, prange, types
from numba.extending import intrinsic

_SIGN_OFF = np.uint32(0x7FFFFFFF)

# Two tiles of rows, a stretch of words each, stay in the nearer caches while every pair of rows meets.
_TILE, _STRETCH = 32, 256


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
def _count_magnitudes(
    values: np.ndarray, top: np.float32, gain: np.float32, bins: int, parts: int
) -> tuple[np.ndarray, np.ndarray]:
    # Two tables a part: neighbouring values often fall into one bin, and would wait for each other.
    counts = np.zeros((parts, 2, bins), dtype=np.int64)
    largest = np.zeros(parts, dtype=np.float32)
    length = -(-values.size // parts)
    for part in prange(parts):
        most = np.float32(0)
        for place in range(part * length, min((part + 1) * length, values.size)):
            size = abs(values[place])
            if size <= top:
                most = max(most, size)
                counts[part, place & 1, min(np.int64(size * gain), np.int64(bins - 1))] += 1
        largest[part] = most
    return counts.sum(axis=0).sum(axis=0), largest


def largest_magnitude(values: np.ndarray) -> float:
    """Return the largest |x| of float32 values; nan or infinity where one is among them."""
    if values.size == 0:
        return 0.0
    flat = np.ascontiguousarray(values, dtype="float32").reshape(-1)
    return float(np.uint32(_largest_magnitude_bits(flat.view("uint32"), get_num_threads())).view("float32"))


def count_magnitudes(values: np.ndarray, top: float, bins: int) -> tuple[np.ndarray, float]:
    """Count |x| in equal bins from 0 to `top`; values at `top` go to the last bin, larger ones and nan to none.

    Parameters
    ----------
    values : float32 array of any shape
    top : float
        A power of two, so that scaling is exact.
    bins : int

    Returns
    -------
    counts : int64 array of shape (bins,)
    largest : float
        The largest |x| that is counted.
    """
    flat = np.ascontiguousarray(values, dtype="float32").reshape(-1)
    # 2^128 is no float32, and infinity must not be counted.
    limit = np.float32(min(top, float(np.finfo("float32").max)))
    counts, largest = _count_magnitudes(flat, limit, np.float32(bins / top), bins, get_num_threads())
    return counts, float(largest.max())


@intrinsic  # type: ignore[misc, unused-ignore]
def _ones(typing_context: Any, word: Any) -> Any:
    """Return the number of ones in a 64-bit word, by the processor's own instruction where it has one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(parallel=True, cache=True, nogil=True)
def _shared_ones(left: np.ndarray, right: np.ndarray, tiles: np.ndarray, counts: np.ndarray) -> None:
    words = left.shape[1]
    for tile in prange(len(tiles)):
        top, side = tiles[tile, 0] * _TILE, tiles[tile, 1] * _TILE
        for start in range(0, words, _STRETCH):
            stop = min(start + _STRETCH, words)
            for row in range(top, min(top + _TILE, len(left))):
                for column in range(side, min(side + _TILE, len(right))):
                    shared = np.uint64(0)
                    for word in range(start, stop):
                        shared += _ones(left[row, word] & right[column, word])  # type: ignore[call-arg]
                    counts[row, column] += np.int64(shared)


def shared_ones(bits: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Count the ones that each two rows of packed bits share.

    Parameters
    ----------
    bits : uint8 array of shape (n, bytes)
    others : uint8 array of shape (n', bytes), optional
        None stands for `bits` itself, at half the cost.

    Returns
    -------
    counts : int64 array of shape (n, n')
    """
    left = _words(bits)
    right = left if others is None else _words(others)
    rows, columns = (-(-len(side) // _TILE) for side in (left, right))
    tiles = np.argwhere(np.tri(rows, columns, dtype=bool) if others is None else np.ones((rows, columns), dtype=bool))
    counts = np.zeros((len(left), len(right)), dtype="int64")
    _shared_ones(left, right, tiles, counts)
    if others is None:
        # Tiles on the diagonal are whole; the others are mirrored.
        for top, side in tiles[tiles[:, 0] > tiles[:, 1]] * _TILE:
            counts[side : side + _TILE, top : top + _TILE] = counts[top : top + _TILE, side : side + _TILE].T
    return counts


def _words(bits: np.ndarray) -> np.ndarray:
    """Return rows of bytes as rows of 64-bit words, without a copy where they are such already."""
    spare = -bits.shape[1] % 8
    padded = np.pad(bits, ((0, 0), (0, spare))) if spare else np.ascontiguousarray(bits)
    return padded.view("uint64")
