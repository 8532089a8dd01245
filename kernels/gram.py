"""Exact integer Grams: of packed bits, and of uint8 speckle."""

from typing import Any

import numpy as np

from ..errors import UsageError
from .arrays import Array, has_triton, namespace
from .bits import _unpack
from .memory import Budget, block_length, blocks, memory_budget
from .row_blocks import signed

# 1024 products of at most 128 * 128 stay within the 2^24 up to which float32 counts exactly.
_EXACT_COLUMNS = 1024


def overlap(bits: Array, others: Array | None = None, budget: Budget = None) -> Array:
    """Count the ones that each two rows share: the exact inner products <x, x'>.

    Parameters
    ----------
    bits : uint8 array of shape (n, bytes)
    others : uint8 array of shape (n', bytes), optional
        None stands for `bits` itself, at half the cost.
    budget : int, str or None
        Memory for the blocks of columns that a GPU unpacks; see `memory_budget`.

    Returns
    -------
    counts : int64 array of shape (n, n')

    Notes
    -----
    On the CPU, vectors of 512 or 256 bits are combined and their ones counted; on a GPU, int8 tensor cores count them
    (Triton). Without Triton columns are unpacked block by block to float32 and multiplied: every
    partial sum is an integer below 2^24, so float32 holds it exactly, in any order of summation.
    """
    xp = namespace(bits)
    if others is not None and others.shape[1] != bits.shape[1]:
        raise UsageError(f"bits of {others.shape[1]} and of {bits.shape[1]} bytes a row do not go together")
    if xp is np:
        from .backends.numba.products import shared_ones

        return shared_ones(bits, others)
    if has_triton():
        from .backends.triton.products import shared_ones as shared_ones_on_gpu

        return shared_ones_on_gpu(bits, others, budget)
    return _overlap_by_products(xp, bits, others, budget)


def _overlap_by_products(xp: Any, bits: Array, others: Array | None, budget: Budget) -> Array:
    rows = len(bits) + (0 if others is None else len(others))
    length = block_length(40 * rows, memory_budget(budget, bits) // 8, min(bits.shape[1], 2**20))
    counts = xp.zeros((len(bits), len(bits if others is None else others)), dtype="int64")
    for columns in blocks(bits.shape[1], length):
        left = _unpack(bits[:, columns]).astype("float32")
        right = left if others is None else _unpack(others[:, columns]).astype("float32")
        counts += (left @ right.T).astype("int64")
    return counts


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
        from .backends.triton.products import gram as gram_on_gpu

        return gram_on_gpu(speckle, budget=budget)
    sums = xp.zeros((len(speckle), len(speckle)), dtype="int64")
    for columns in blocks(speckle.shape[1], _EXACT_COLUMNS):
        block = signed(speckle[:, columns])
        sums += (block @ block.T).astype("int64")
    return sums
