"""Counting the ones that rows of packed bits share."""

from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

# Two tiles of rows, a stretch of words each, stay in the nearer caches while every pair of rows meets.
_TILE, _STRETCH = 32, 256


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
