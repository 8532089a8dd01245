"""Matrix products with the same BLAS as LAPACK."""

from contextlib import AbstractContextManager

import numpy as np

from .array_types import Array
from .arrays import namespace


def blas_threads(count: int) -> AbstractContextManager[object]:
    """Return a context in which products on the CPU use so many threads."""
    # Only libraries that are loaded are limited.
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(count, user_api="blas")
    return limits


def product(left: Array, right: Array) -> Array:
    """Return the matrix product of two float arrays; the left has one or two dimensions, the right two.

    Notes
    -----
    NumPy and SciPy each include an OpenBLAS, whose threads spin for 0.1 s after a call. On two cores, NumPy's threads
    halved the speed of SciPy's LAPACK (15 alphas, n = 750: 0.11 s compared with 0.058 s). Products on the CPU
    therefore also use SciPy. Only ``x @ x.T`` is faster in NumPy, which computes half of the result.
    """
    if namespace(left) is not np:
        multiplied: Array = left @ right
        return multiplied
    if left.ndim == 1:
        return product(left[None], right).reshape(-1)
    from scipy.linalg import get_blas_funcs

    (gemm,) = get_blas_funcs(("gemm",), (left, right))
    # BLAS is column-major: in memory the operands are their transposes, and the result is the transposed product.
    (first, transpose_first), (second, transpose_second) = (
        (array.T, False) if array.flags.c_contiguous else (array, True) for array in (right, left)
    )
    transposed: Array = gemm(1.0, first, second, trans_a=transpose_first, trans_b=transpose_second)
    return transposed.T
