"""Exact integer Grams: of packed bits, and of uint8 speckle."""

from ..errors import UsageError
from .array_types import AnyBits, Bits, Counts, Speckle, SquareCounts
from .backends import backend_for
from .memory import Budget


def overlap(bits: Bits, others: AnyBits | None = None, budget: Budget = None) -> Counts:
    """Count the shared ones of every pair of rows, their exact inner products <x, x'>.

    Parameters
    ----------
    bits : uint8 array of shape (n, bytes)
    others : uint8 array of shape (n', bytes), optional
        By default `bits` itself, at half the cost.
    budget : int, str or None
        Memory for the blocks of columns that a GPU unpacks; see `memory_budget`.

    Returns
    -------
    counts : int64 array of shape (n, n')

    Raises
    ------
    UsageError
        If the rows of the two have different lengths.

    Notes
    -----
    On the CPU this uses vector AND and popcount of 512 or 256 bits, on a GPU int8 tensor cores (Triton). Without
    Triton, blocks of columns are unpacked to float32 and multiplied.
    """
    if others is not None and others.shape[1] != bits.shape[1]:
        raise UsageError(
            f"bits of {others.shape[1]} and of {bits.shape[1]} bytes per row have different numbers of features"
        )
    return backend_for(bits).shared_ones(bits, others, budget=budget)


def gram(speckle: Speckle, budget: Budget = None) -> SquareCounts:
    """Return the exact inner products of the rows of ``speckle - 128``.

    Parameters
    ----------
    speckle : uint8 array of shape (n, k)
    budget : int, str or None
        Memory for the blocks that a GPU converts to int8; see `memory_budget`.

    Returns
    -------
    products : int64 array of shape (n, n)

    Notes
    -----
    This uses int8 dot products if the processor supports them, int8 tensor cores on a GPU (Triton), and otherwise
    float32 matrix products of blocks of columns small enough that every sum is exact.
    """
    return backend_for(speckle).gram(speckle, budget=budget)
