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
                # Four columns at a time: a word of the row is read once for all of them.
                for column in range(side, min(side + _TILE, len(right)), 4):
                    last = len(right) - 1
                    second, third, fourth = min(column + 1, last), min(column + 2, last), min(column + 3, last)
                    a, b, c, d = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
                    for place in range(start, stop):
                        word = left[row, place]
                        a += _ones(word & right[column, place])  # type: ignore[call-arg]
                        b += _ones(word & right[second, place])
                        c += _ones(word & right[third, place])
                        d += _ones(word & right[fourth, place])
                    for step, ones in enumerate((a, b, c, d)):
                        if column + step < len(right):
                            counts[row, column + step] += np.int64(ones)


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


@njit(cache=True, nogil=True)
def _walsh_hadamard(values: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """Return the transform, not normalised, in one of the two arrays; both are overwritten.

    Every pass is the same: it adds and subtracts neighbours (Pease 1968), here two passes in one.
    """
    done, quarter = 1, len(values) // 4
    while done * 4 <= len(values):
        for place in range(quarter):
            a, b, c, d = values[4 * place], values[4 * place + 1], values[4 * place + 2], values[4 * place + 3]
            spare[place] = (a + b) + (c + d)
            spare[place + quarter] = (a - b) + (c - d)
            spare[place + 2 * quarter] = (a + b) - (c + d)
            spare[place + 3 * quarter] = (a - b) - (c - d)
        values, spare = spare, values
        done *= 4
    if done < len(values):
        half = len(values) // 2
        for place in range(half):
            left, right = values[2 * place], values[2 * place + 1]
            spare[place] = left + right
            spare[place + half] = left - right
        values = spare
    return values


@njit(parallel=True, cache=True, nogil=True)
def _hadamard_intensities(bits: np.ndarray, m: int, signs: np.ndarray, intensities: np.ndarray) -> None:
    pairs, chains, steps, length = signs.shape
    scale = np.float32(1 / np.sqrt(length))
    for row in prange(len(bits)):
        ones = np.zeros(length, dtype=np.float32)
        for place in range(m):
            ones[place] = (bits[row, place >> 3] >> (7 - (place & 7))) & 1
        one, other = np.empty(length, dtype=np.float32), np.empty(length, dtype=np.float32)
        for pair in range(pairs):
            start = pair * length
            stop = min(start + length, intensities.shape[1])
            for chain in range(chains):
                values = ones
                for step in range(steps):
                    for place in range(length):
                        one[place] = values[place] * signs[pair, chain, step, place] * scale
                    values = _walsh_hadamard(one, other)
                for place in range(start, stop):
                    size = values[place - start] * values[place - start]
                    intensities[row, place] = size + (intensities[row, place] if chain else np.float32(0))


def hadamard_intensities(bits: np.ndarray, m: int, signs: np.ndarray, k: int) -> np.ndarray:
    """Compute the intensities of `projection.Hadamard`, each row within the caches.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    m : int
    signs : int8 array of shape (pairs, 2, 3, p)
    k : int

    Returns
    -------
    intensities : float32 array of shape (n, k)
    """
    intensities = np.empty((len(bits), k), dtype="float32")
    _hadamard_intensities(np.ascontiguousarray(bits), m, signs, intensities)
    return intensities
