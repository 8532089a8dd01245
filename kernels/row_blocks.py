"""Linear maps of bits and speckle in blocks of rows.

Speckle s is used as the signed byte s - 128. Centring removes this constant shift, and products of signed
bytes are four times smaller.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from .array_types import Array, Bits, Coefficients, Features, Intensities, Intercept, Scores, Speckle, Weights
from .arrays import namespace
from .bits import unpack
from .blas import product
from .memory import GPU_ROWS, Budget, block_length, blocks, memory_budget

RowBlocks = Callable[[], Iterator[tuple[slice, Features]]]
"""A pass over rows: each call starts a new pass, which yields (slice of rows, their values as float32)."""


@dataclass(frozen=True)
class RowSource:
    """A pass over rows, see `RowBlocks`, that can be divided.

    Parameters
    ----------
    make : callable
        Yields (slice of rows, their values) of the arrays; it is pickled where rows are shared out.
    arrays : tuple of array or None
        Each has a row for every row of the pass.
    """

    make: Callable[..., Iterator[tuple[slice, Features]]]
    arrays: tuple[Array | None, ...]

    def __call__(self) -> Iterator[tuple[slice, Features]]:
        """Start a pass."""
        return self.make(*self.arrays)

    def __getitem__(self, which: slice) -> "RowSource":
        """Return the pass over some of the rows, which begins at 0."""
        return RowSource(self.make, tuple(None if each is None else each[which] for each in self.arrays))


# Budget for passes on the CPU that multiply rows by few columns, so that blocks stay in the caches and reuse
# memory. Allocating new memory would take up to ten times as long as the arithmetic.
_FEW_COLUMNS = 2**27


def signed(speckle: Speckle) -> Intensities:
    """Return speckle - 128 as float32; the input is uint8."""
    return (speckle ^ 0x80).view("int8").astype("float32")


def bit_rows(bits: Bits, m: int, budget: Budget = None) -> RowBlocks:
    """Return a pass over packed bits that unpacks blocks of rows."""
    slices = _row_slices(bits, m, few_columns(bits, budget))
    return lambda: ((which, unpack(bits[which], m, "float32")) for which in slices)


def speckle_rows(speckle: Speckle, budget: Budget = None, targets: int = 0) -> RowSource:
    """Return a pass over speckle - 128 in blocks of rows, which leave room for errors of as many targets."""
    return RowSource(partial(_signed_blocks, budget, targets), (speckle,))


def _signed_blocks(budget: Budget, targets: int, speckle: Speckle) -> Iterator[tuple[slice, Features]]:
    for which in _row_slices(speckle, speckle.shape[1] + 3 * targets, budget):
        yield which, signed(speckle[which])


def few_columns(data: Array, budget: Budget = None) -> int:
    """Return the budget of a pass that multiplies blocks of `data` by few columns."""
    size = memory_budget(budget, data)
    return min(size, _FEW_COLUMNS) if namespace(data) is np else size


def _row_slices(data: Array, width: int, budget: Budget) -> list[slice]:
    limit = max(1, len(data)) if namespace(data) is np else GPU_ROWS
    # A block is held as float32 and possibly as a float64 copy.
    return blocks(len(data), block_length(12 * width, memory_budget(budget, data) // 8, limit))


def combine_rows(rows: RowBlocks, width: int, coefficients: Coefficients) -> Weights:
    """Return the weighted sum of rows X'c, as float64 of shape (width, c).

    For the coefficients of a dual ridge these are the primal weights.
    """
    xp = namespace(coefficients)
    weights = xp.zeros((width, coefficients.shape[1]))
    for which, block in rows():
        weights += product(block.astype("float64").T, coefficients[which])
    return weights


def score_rows(rows: RowBlocks, n: int, weights: Weights, intercept: Intercept) -> Scores:
    """Return ``X @ weights + intercept`` as float64 of shape (n, c)."""
    scores = namespace(weights).empty((n, weights.shape[1]))
    for which, block in rows():
        scores[which] = product(block.astype("float64"), weights) + intercept
    return scores
