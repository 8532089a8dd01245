"""The three-block Walsh-Hadamard projection of packed bits, each row within the caches."""

import numpy as np
from numba import njit, prange


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
def _hadamard(
    bits: np.ndarray, m: int, signs: np.ndarray, gain: np.float32, intensities: np.ndarray, speckle: np.ndarray
) -> None:
    pairs, chains, steps, length = signs.shape
    scale = np.float32(1 / np.sqrt(length))
    k = max(intensities.shape[1], speckle.shape[1])
    for row in prange(len(bits)):
        ones, light = np.zeros(length, dtype=np.float32), np.empty(length, dtype=np.float32)
        for place in range(m):
            ones[place] = (bits[row, place >> 3] >> (7 - (place & 7))) & 1
        one, other = np.empty(length, dtype=np.float32), np.empty(length, dtype=np.float32)
        for pair in range(pairs):
            light[:] = 0
            for chain in range(chains):
                values = ones
                for step in range(steps):
                    for place in range(length):
                        one[place] = values[place] * signs[pair, chain, step, place] * scale
                    values = _walsh_hadamard(one, other)
                for place in range(length):
                    light[place] += values[place] * values[place]
            start = pair * length
            for place in range(start, min(start + length, k)):
                if speckle.size:
                    speckle[row, place] = np.uint8(min(np.rint(light[place - start] * gain), np.float32(255)))
                else:
                    intensities[row, place] = light[place - start]


def hadamard(bits: np.ndarray, m: int, signs: np.ndarray, k: int, gain: float | None = None) -> np.ndarray:
    """Compute the intensities, or the speckle, of `projection.Hadamard`.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    m : int
    signs : int8 array of shape (pairs, 2, 3, p)
    k : int
    gain : float, optional
        Of the camera; None returns the intensities.

    Returns
    -------
    array of shape (n, k)
        float32 intensities, or uint8 speckle.
    """
    seen = np.empty((len(bits), k), dtype="float32" if gain is None else "uint8")
    none = np.empty((0, 0), dtype="uint8" if gain is None else "float32")
    pair = (seen, none) if gain is None else (none, seen)
    _hadamard(np.ascontiguousarray(bits), m, signs, np.float32(gain or 0), *pair)
    return seen
