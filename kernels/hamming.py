"""Hamming distances of packed bits, block by block, and the bits of mirrored feature maps."""

from collections.abc import Callable, Iterator

import numpy as np

from .array_types import Array, Bits, OtherBits, OtherRowCounts, RowCounts, SimilarityRows
from .arrays import namespace
from .bits import popcount, unpack
from .gram import overlap
from .memory import Budget, block_length, blocks, memory_budget

_BLOCK = 1024
"""Rows of a block."""
_BYTES = 32
"""Bytes a pair of rows, of the counts and what is computed of them."""


def distance_blocks(
    bits: Bits,
    others: OtherBits,
    upper: bool = False,
    budget: Budget = None,
    turned: Callable[[OtherBits], OtherBits] = lambda block: block,
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield the distances of all pairs of rows, a block of rows and others at a time.

    Parameters
    ----------
    bits : uint8 array of shape (n, bytes)
    others : uint8 array of shape (n', bytes)
    upper : bool
        Whether to leave out the blocks below the diagonal.
    budget : int, str or None
        Memory for a block; see `memory_budget`.
    turned : callable, optional
        What becomes of a block of others before it is compared, such as their mirror images; called once for each.

    Yields
    ------
    rows, columns : slice
    distances : float64 array of shape (rows, columns)
        The number of bits that differ over the number of ones of both: 0 for equal rows, 1 for rows that share no one.
    """
    length = max(1, int(block_length(_BYTES, memory_budget(budget, bits) // 8, _BLOCK**2) ** 0.5))
    ones = popcount(bits)
    for columns in blocks(len(others), length):
        block = turned(others[columns])
        other_ones = popcount(block)
        for rows in blocks(len(bits), length):
            if not (upper and columns.stop <= rows.start):
                yield rows, columns, _distances(bits[rows], block, ones[rows], other_ones)


def _distances(bits: Bits, others: OtherBits, ones: RowCounts, other_ones: OtherRowCounts) -> SimilarityRows:
    total = ones[:, None] + other_ones
    distances: Array = (total - 2 * overlap(bits, others)) / namespace(bits).maximum(total, 1)
    return distances


def typical_distance(bits: Bits, sample: int = 512) -> float:
    """Return the median distance of two different rows, of at most `sample` rows; see `distance_blocks`."""
    rows = bits[:: max(1, -(-len(bits) // sample))]
    if len(rows) < 2:
        return 1.0
    ones = popcount(rows)
    return float(np.median(_distances(rows, rows, ones, ones)[np.triu_indices(len(rows), 1)]))


def mirrored(bits: Bits, channels: int, height: int, width: int, channels_last: bool = False) -> Bits:
    """Return the bits of feature maps of which left and right are exchanged.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    channels, height, width : int
        Their product is m.
    channels_last : bool
        Whether the order of features is height, width, channels.

    Notes
    -----
    They are close to the bits of the mirrored images, but not equal: a network's filters are not symmetric.
    """
    m = channels * height * width
    shape = (-1, height, width, channels) if channels_last else (-1, channels, height, width)
    result = np.empty_like(bits)
    for rows in blocks(len(bits), _BLOCK):
        maps = unpack(bits[rows], m).reshape(shape)
        turned = maps[:, :, ::-1] if channels_last else maps[..., ::-1]
        result[rows] = np.packbits(turned.reshape(len(maps), m), axis=1)
    return result
