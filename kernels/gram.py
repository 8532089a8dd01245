"""The exact integer Gram of uint8 speckle, and linear maps of bits and speckle, block by block.

Speckle s is used as the signed byte s - 128. The shift is the same in every column, so whatever is
centred afterwards is unchanged by it, and products of signed bytes are four times smaller.
"""

import numpy as np

from .arrays import (
    GPU_ROWS,
    Array,
    Budget,
    RowBlocks,
    block_length,
    blocks,
    has_triton,
    memory_budget,
    namespace,
    product,
)
from .bits import unpack

# 1024 products of at most 128 * 128 stay within the 2^24 up to which float32 counts exactly.
_EXACT_COLUMNS = 1024
# A budget of the CPU's for passes that multiply rows by few columns: their blocks stay in the caches, and in
# memory that is used again. Fresh memory costs them more than their arithmetic, up to ten times as much.
_FEW_COLUMNS = 2**27


def signed(speckle: Array) -> Array:
    """Return speckle - 128 as float32; the input is uint8 of any shape."""
    return (speckle ^ 0x80).view("int8").astype("float32")


def gram(speckle: Array, budget: Budget = None) -> Array:
    """Return the exact inner products of the rows of ``speckle - 128``.

    Parameters
    ----------
    speckle : uint8 array of shape (n, k)
    budget : int, str or None
        Memory for what a GPU widens to int8 at a time; see `memory_budget`.

    Returns
    -------
    products : int64 array of shape (n, n)

    Notes
    -----
    By int8 dot products where the processor has them, by int8 tensor cores on a GPU (Triton), else by
    float32 matrix products of so few columns that every sum is exact.
    """
    xp = namespace(speckle)
    if xp is np:
        from .backends.numba import products

        if products.has_dot_product():
            return products.gram(speckle)
    elif has_triton():
        from .backends.triton import gram as gram_on_gpu

        return gram_on_gpu(speckle, budget=budget)
    sums = xp.zeros((len(speckle), len(speckle)), dtype="int64")
    for columns in blocks(speckle.shape[1], _EXACT_COLUMNS):
        block = signed(speckle[:, columns])
        sums += (block @ block.T).astype("int64")
    return sums


def bit_rows(bits: Array, m: int, budget: Budget = None) -> RowBlocks:
    """Return a pass over packed bits that unpacks a few rows at a time."""
    slices = _row_slices(bits, m, few_columns(bits, budget))
    return lambda: ((which, unpack(bits[which], m, "float32")) for which in slices)


def speckle_rows(speckle: Array, budget: Budget = None) -> RowBlocks:
    """Return a pass over speckle - 128, a block of rows at a time."""
    width = speckle.shape[1]
    return lambda: ((which, signed(speckle[which])) for which in _row_slices(speckle, width, budget))


def few_columns(data: Array, budget: Budget = None) -> int:
    """Return the budget of a pass that multiplies blocks of `data` by few columns."""
    size = memory_budget(budget, data)
    return min(size, _FEW_COLUMNS) if namespace(data) is np else size


def _row_slices(data: Array, width: int, budget: Budget) -> list[slice]:
    most = max(1, len(data)) if namespace(data) is np else GPU_ROWS
    # A block stands as float32 and, where it meets float64, once more as that.
    return blocks(len(data), block_length(12 * width, memory_budget(budget, data) // 8, most))


def combine_rows(rows: RowBlocks, width: int, coefficients: Array) -> Array:
    """Return the weighted sum of rows X'c, as float64 of shape (width, c).

    With the coefficients of a dual ridge these are its weights.
    """
    xp = namespace(coefficients)
    weights = xp.zeros((width, coefficients.shape[1]))
    for which, block in rows():
        weights += product(block.astype("float64").T, coefficients[which])
    return weights


def score_rows(rows: RowBlocks, n: int, weights: Array, intercept: Array) -> Array:
    """Return ``X @ weights + intercept`` as float64 of shape (n, c)."""
    scores = namespace(weights).empty((n, weights.shape[1]))
    for which, block in rows():
        scores[which] = product(block.astype("float64"), weights) + intercept
    return scores
