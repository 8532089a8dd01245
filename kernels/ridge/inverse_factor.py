"""The inverse of the Cholesky factor of a positive definite matrix, on the CPU and on a GPU."""

import numpy as np
import scipy.linalg

from ..array_types import Array, SquareMatrix
from ..arrays import namespace
from ..backends import backend_for, reference

# Up to these orders, triangles are inverted by substitution and multiplied as full matrices; larger ones recursively.
_INVERTED_WHOLE, _MULTIPLIED_WHOLE = 1024, 2048


def inverse_factor(matrix: SquareMatrix) -> SquareMatrix:
    """Return L^-1 of ``L @ L.T = matrix``, L lower triangular.

    Parameters
    ----------
    matrix : float array of shape (n, n), symmetric
        It may be overwritten.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite to working precision.
    """
    return _by_lapack(matrix) if namespace(matrix) is np else _by_halves(matrix)


def _by_lapack(matrix: SquareMatrix) -> SquareMatrix:
    factor = reference.cholesky(matrix)
    (invert,) = scipy.linalg.get_lapack_funcs(("trtri",), (factor,))
    inverse: SquareMatrix
    inverse, failed = invert(factor, lower=1, overwrite_c=1)
    if failed:
        raise np.linalg.LinAlgError("singular")
    return inverse


def _by_halves(matrix: SquareMatrix) -> SquareMatrix:
    factor = backend_for(matrix).cholesky(matrix)
    if not factor.flags.c_contiguous:
        # CuPy writes products in C order: in Fortran order `_invert` takes 0.114 s, not 0.086 s (H200, n = 19,363).
        matrix[:] = factor
        factor = matrix
    _invert(factor)
    return factor


def _invert(lower: SquareMatrix) -> None:
    """Invert a lower triangle on a GPU, in place: the inverse of [A 0; B C] is [A^-1 0; -C^-1 B A^-1 C^-1].

    CuPy has no trtri, and that of cuSOLVER takes twice as long as these products (H200, n = 19,363).
    """
    if len(lower) <= _INVERTED_WHOLE:
        from cupyx.scipy.linalg import solve_triangular  # type: ignore[import-not-found, unused-ignore]

        lower[:] = solve_triangular(lower, namespace(lower).eye(len(lower), dtype=lower.dtype), lower=True)
        return
    first, last, below = _quarters(lower)
    _invert(first)
    _invert(last)
    _multiply_from_the_right(below, first)
    _multiply_from_the_left(last, below)
    below *= -1


def _quarters(lower: SquareMatrix) -> tuple[Array, Array, Array]:
    """Return A, C and B of a lower triangle [A 0; B C], as views."""
    half = len(lower) // 2
    return lower[:half, :half], lower[half:, half:], lower[half:, :half]


def _multiply_from_the_left(lower: Array, right: Array) -> None:
    """Store ``lower @ right`` in `right`: [A 0; B C] [X; Y] = [A X; B X + C Y]."""
    if len(lower) <= _MULTIPLIED_WHOLE:
        right[:] = lower @ right
        return
    first, last, below = _quarters(lower)
    upper_part, lower_part = right[: len(first)], right[len(first) :]
    _multiply_from_the_left(last, lower_part)
    lower_part += below @ upper_part
    _multiply_from_the_left(first, upper_part)


def _multiply_from_the_right(left: Array, lower: Array) -> None:
    """Store ``left @ lower`` in `left`: [X Y] [A 0; B C] = [X A + Y B, Y C]."""
    if len(lower) <= _MULTIPLIED_WHOLE:
        left[:] = left @ lower
        return
    first, last, below = _quarters(lower)
    left_part, right_part = left[:, : len(first)], left[:, len(first) :]
    _multiply_from_the_right(left_part, first)
    left_part += right_part @ below
    _multiply_from_the_right(right_part, last)
