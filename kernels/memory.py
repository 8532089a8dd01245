"""How much memory a piece of work may take, and the blocks that it goes in."""

import os
import re
from typing import SupportsIndex

import numpy as np

from ..errors import BudgetError, UsageError
from .array_types import Array
from .arrays import namespace

Budget = SupportsIndex | str | None
"""Memory for a piece of work; see `memory_budget`."""

DEFAULT_BUDGET = 4 * 2**30
FREE_SHARE = 0.8
"""Share of a GPU's free memory that work on it may take by default; PyTorch's own pool lives in the rest."""
GPU_ROWS = 2048
"""Rows of a block that keep a GPU busy; the CPU's blocks are of few rows, which stay in its caches."""
_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def memory_budget(budget: Budget = None, array: Array | None = None) -> int:
    """Return a memory budget in bytes.

    Parameters
    ----------
    budget : int, str or None
        Bytes, or text such as ``"4GiB"``. None takes the environment variable
        ``AUREVOIR_MEMORY``, else 4 GiB: a constant, so that block sizes do not change between runs.
    array : array, optional
        What the work is on. For a CuPy array the last resort is `FREE_SHARE` of the memory that its GPU
        has free, instead of 4 GiB.

    Raises
    ------
    UsageError
        If the budget is not a positive size.
    """
    value = os.environ.get("AUREVOIR_MEMORY") if budget is None else budget
    if value is None:
        return DEFAULT_BUDGET if array is None or namespace(array) is np else _free_on_gpu()
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(value))
    size = float(match[1]) * _UNITS.get(match[2].upper(), 0) if match else 0.0
    if not 1 <= size < 2**63:
        raise UsageError(f"memory budget {value!r} is not a size; give bytes, or for example '4GiB'")
    return int(size)


def _free_on_gpu() -> int:
    import cupy  # type: ignore[import-not-found, unused-ignore]

    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(FREE_SHARE * (free + cupy.get_default_memory_pool().free_bytes()))


def block_length(bytes_each: int, budget: int, most: int) -> int:
    """Return how many items of `bytes_each` fit the budget: at least 1, at most `most`."""
    return max(1, min(most, budget // max(1, bytes_each)))


def require(needed: int, budget: int, what: str, remedy: str) -> None:
    """Refuse work that does not fit the budget before anything is allocated.

    Raises
    ------
    BudgetError
        If `needed` bytes exceed the budget; the message states both, and the remedy.
    """
    if needed > budget:
        raise BudgetError(
            f"{what} needs {_in_words(needed)} and the memory budget is {_in_words(budget)}; "
            f"{remedy}, or raise the budget (AUREVOIR_MEMORY)"
        )


def _in_words(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def blocks(total: int, length: int) -> list[slice]:
    """Cut ``range(total)`` into slices of at most `length`."""
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]


def rows_at_a_time(array: Array, on_host: int) -> int:
    """Return the rows of a block for work done in place: `on_host` of them on the CPU, `GPU_ROWS` on a GPU."""
    return on_host if namespace(array) is np else GPU_ROWS
