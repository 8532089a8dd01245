"""Matrix products, by the BLAS that the rest of the work uses."""

import numpy as np

from .array_types import Array
from .arrays import namespace


def product(left: Array, right: Array) -> Array:
    """Return the matrix product of two float arrays, the left of one or two dimensions, the right of two.

    Notes
    -----
    NumPy and SciPy bring an OpenBLAS each, whose threads spin for 0.1 s after their last work. On two cores those of
    NumPy slowed LAPACK, which is SciPy's, to a half (15 alphas, n = 750: 0.11 s, and 0.058 s without). So on the CPU
    products are SciPy's as well. NumPy's ``x @ x.T`` alone is quicker: it computes one half of the result.
    """
    if namespace(left) is not np:
        multiplied: Array = left @ right
        return multiplied
    if left.ndim == 1:
        return product(left[None], right).reshape(-1)
    from scipy.linalg import get_blas_funcs

    (gemm,) = get_blas_funcs(("gemm",), (left, right))
    # BLAS is column-major: it takes the transposes, as they lie in memory, and returns that of the product.
    (first, turn_first), (second, turn_second) = (
        (array.T, False) if array.flags.c_contiguous else (array, True) for array in (right, left)
    )
    transposed: Array = gemm(1.0, first, second, trans_a=turn_first, trans_b=turn_second)
    return transposed.T
