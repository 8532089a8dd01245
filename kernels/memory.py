"""Memory budgets, and splitting work into blocks."""

import os
from typing import SupportsIndex

import numpy as np

from .. import limits
from ..errors import BudgetError, UsageError
from ..sizes import parse_size
from .array_types import Array
from .arrays import namespace

Budget = SupportsIndex | str | None
"""Memory limit of a computation; see `memory_budget`."""

DEFAULT_BUDGET = 4 * 2**30
SHARE = 2
"""The default takes at most this part of the memory that a container or another control group has."""
FREE_SHARE = 0.8
"""Fraction of a GPU's free memory to use by default; the rest is left for PyTorch's pool."""
GPU_ROWS = 2048
"""Rows per block on a GPU; blocks on the CPU are smaller, to stay in its caches."""


def memory_budget(budget: Budget = None, array: Array | None = None) -> int:
    """Return a memory budget in bytes.

    Parameters
    ----------
    budget : int, str or None
        Bytes, or a string such as ``"4GiB"``. By default the environment variable
        ``AUREVOIR_MEMORY``, or else 4 GiB, a constant so that block sizes are reproducible; half of the memory
        that the container or other control group of this process has, where that is less.
    array : array, optional
        Array to work on. For a CuPy array the default is `FREE_SHARE` of the free memory of its GPU
        instead.

    Raises
    ------
    UsageError
        If the budget is not a positive number of bytes.
    """
    value = os.environ.get("AUREVOIR_MEMORY") if budget is None else budget
    if value is None:
        return _on_host() if array is None or namespace(array) is np else _free_on_gpu()
    size = parse_size(value)
    if size is None or not 1 <= size < 2**63:
        where = " (AUREVOIR_MEMORY)" if budget is None else ""
        raise UsageError(
            f"memory budget {value!r} is invalid{where}; give a number of bytes from 1 up, or one with KiB, MiB, GiB, "
            "KB, MB or GB, such as 4GiB"
        )
    return int(size)


def _on_host() -> int:
    return min(DEFAULT_BUDGET, max(1, limits.memory() // SHARE)) if limits.memory() else DEFAULT_BUDGET


def _free_on_gpu() -> int:
    import cupy  # type: ignore[import-not-found, unused-ignore]

    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(FREE_SHARE * (free + cupy.get_default_memory_pool().free_bytes()))


def block_length(bytes_each: int, budget: int, limit: int) -> int:
    """Return how many items of `bytes_each` fit the budget: at least 1, at most `limit`."""
    return max(1, min(limit, budget // max(1, bytes_each)))


def require(needed: int, budget: int, description: str, remedy: str) -> None:
    """Raise BudgetError if a computation does not fit the budget, before anything is allocated.

    Raises
    ------
    BudgetError
        If `needed` bytes exceed the budget; the message gives both, and the remedy.
    """
    if needed > budget:
        raise BudgetError(
            f"{description} needs {format_bytes(needed)} and the memory budget is {format_bytes(budget)}; "
            f"{remedy}, or raise the budget (AUREVOIR_MEMORY)"
        )


def format_bytes(size: int) -> str:
    """Return a number of bytes for people, such as ``1.5 GiB``."""
    units = ((2**60, "EiB"), (2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    if size >= 1 << 80:
        # Shapes in files may multiply to numbers of any length.
        return "more than 2^80 bytes"
    return next((f"{size / each:.1f} {name}" for each, name in units if size >= each), f"{size} bytes")


def blocks(total: int, length: int) -> list[slice]:
    """Split ``range(total)`` into slices of at most `length`."""
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]


def rows_at_a_time(array: Array, on_host: int) -> int:
    """Return the rows per block for in-place work: `on_host` on the CPU, `GPU_ROWS` on a GPU."""
    return on_host if namespace(array) is np else GPU_ROWS
