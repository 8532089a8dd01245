"""Which array library an array belongs to, and how much memory its work may take."""

import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import BudgetError, MissingPackageError, UsageError

Array = Any
"""A NumPy array, or a CuPy array on a GPU."""

Budget = int | str | None
"""Memory for a piece of work; see `memory_budget`."""

RowBlocks = Callable[[], Iterator[tuple[slice, Array]]]
"""A pass over rows: each call starts anew and yields (which rows, their values as float32)."""

DEFAULT_BUDGET = 4 * 2**30
FREE_SHARE = 0.8
"""Share of a GPU's free memory that work on it may take by default; PyTorch's own pool lives in the rest."""
GPU_ROWS = 2048
"""Rows of a block that keep a GPU busy; the CPU's blocks are of few rows, which stay in its caches."""
_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def namespace(array: Array) -> Any:
    """Return the module, ``numpy`` or ``cupy``, whose array this is."""
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy  # type: ignore[import-not-found, unused-ignore]

        return cupy
    return np


def on_device(array: np.ndarray, device: str) -> Array:
    """Return a NumPy array as the array library of a device has it.

    Parameters
    ----------
    array : array
    device : {"cpu", "cuda"}
        ``cuda`` is the current NVIDIA GPU, through CuPy.

    Raises
    ------
    UsageError
        If the device is not known, or there is no such GPU.
    MissingPackageError
        If CuPy is not installed.
    """
    if device == "cpu":
        return array
    if device != "cuda":
        raise UsageError(f"device {device!r} is not known; choose cpu or cuda")
    try:
        import cupy  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingPackageError(f"device 'cuda' needs CuPy ({error}): pip install 'aurevoir[gpu]'") from error
    try:
        return cupy.asarray(array)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UsageError(f"device 'cuda' cannot be used here ({error}); use 'cpu'") from error


def on_host(array: Array) -> np.ndarray:
    """Return an array of either library as NumPy's."""
    return array if namespace(array) is np else array.get()


def product(left: Array, right: Array) -> Array:
    """Return the matrix product of two float arrays, the left of one or two dimensions, the right of two.

    Notes
    -----
    NumPy and SciPy bring an OpenBLAS each, whose threads spin for 0.1 s after their last work. On two cores those of
    NumPy slowed LAPACK, which is SciPy's, to a half (15 alphas, n = 750: 0.11 s, and 0.058 s without). So on the CPU
    products are SciPy's as well. NumPy's ``x @ x.T`` alone is quicker: it computes one half of the result.
    """
    if namespace(left) is not np:
        return left @ right
    if left.ndim == 1:
        return product(left[None], right)[0]
    from scipy.linalg import get_blas_funcs

    (gemm,) = get_blas_funcs(("gemm",), (left, right))
    # BLAS counts columns first: it is given the transposes, as they lie in memory, and returns that of the product.
    (first, turn_first), (second, turn_second) = (
        (array.T, False) if array.flags.c_contiguous else (array, True) for array in (right, left)
    )
    return gemm(1.0, first, second, trans_a=turn_first, trans_b=turn_second).T


def rows_at_a_time(array: Array, on_host: int) -> int:
    """Return the rows of a block for work in place: `on_host` of them on the CPU, `GPU_ROWS` on a GPU."""
    return on_host if namespace(array) is np else GPU_ROWS


def wait_for(device: str) -> None:
    """Wait until what the current stream of a device was given is done; see `on_device`."""
    if device != "cpu":
        import cupy  # type: ignore[import-not-found, unused-ignore]

        cupy.cuda.get_current_stream().synchronize()


def has_cupy() -> bool:
    """Return whether CuPy is installed, without importing it."""
    return find_spec("cupy") is not None


def has_triton() -> bool:
    """Return whether CuPy's arrays can go through kernels in Triton, which is not made for every system."""
    return find_spec("triton") is not None and find_spec("torch") is not None


def memory_budget(budget: Budget = None, array: Array | None = None) -> int:
    """Return a memory budget in bytes.

    Parameters
    ----------
    budget : int, str or None
        Bytes, or text such as ``"4GiB"``. None takes the environment variable
        ``AUREVOIR_MEMORY``, else 4 GiB: a constant, so that block sizes do not change between runs.
    array : array, optional
        What the work is on. For a CuPy array the last resort is `FREE_SHARE` of the memory that its GPU
        has free, in place of the 4 GiB.

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


def require(needed: int, budget: int, what: str, mend: str) -> None:
    """Refuse work that does not fit the budget before anything is allocated.

    Raises
    ------
    BudgetError
        If `needed` bytes exceed the budget; the message says both, and how to mend it.
    """
    if needed > budget:
        raise BudgetError(
            f"{what} needs {_in_words(needed)} and the memory budget is {_in_words(budget)}; "
            f"{mend}, or raise the budget (AUREVOIR_MEMORY)"
        )


def _in_words(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def blocks(total: int, length: int) -> list[slice]:
    """Cut ``range(total)`` into slices of at most `length`."""
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]
