"""Solvers with (A + alpha I)^-1 of a symmetric A: Cholesky for one alpha, an eigendecomposition for many.

On two cores (AVX-512, OpenBLAS) at n = 3000, Cholesky with its inverse takes 0.13 s in float32 and 0.23 s in
float64 per alpha, and one eigendecomposition 1.1 s and 2.2 s. So seven or more alphas use an eigendecomposition.
In float32 it is less accurate than a factor for small alphas, and a factor is computed where it fails; at
n = 6000, outside the caches, it takes 10.6 s and a factor 0.88 s. So Cholesky is used from n = 4096 on, for few
alphas, and on GPUs, where eigendecompositions are slow.
"""

from collections.abc import Iterator
from copy import copy
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.linalg

from ..array_types import (
    Alphas,
    Array,
    Diagonals,
    FloatRows,
    QuadraticForms,
    Solutions,
    SquareMatrix,
    StackedTargets,
    Targets,
)
from ..arrays import namespace
from ..blas import product
from .inverse_factor import inverse_factor

MANY_ALPHAS = 7
# The range of a Cholesky factor's diagonal is about the root of the condition number; beyond 1e13 no digits are left.
_WIDEST_SPREAD = 3e6


@runtime_checkable
class Solver(Protocol):
    """Solves ``(matrix + alpha I) x = y`` for every alpha of `alphas`, float64 of shape (a,)."""

    alphas: Alphas

    def solve(self, targets: StackedTargets) -> Solutions:
        """Return the solutions, of shape (n, a, c), for targets of shape (n, a or 1, c)."""
        ...

    def each(self, targets: Targets) -> Iterator[Targets]:
        """Yield the solution of shape (n, c) at each alpha, of which only one is held at a time."""
        ...

    def inverse_diagonals(self) -> Diagonals:
        """Return the diagonals of the inverses, of shape (n, a)."""
        ...

    def quadratic_forms(self, rows: FloatRows) -> QuadraticForms:
        """Return x' (matrix + alpha I)^-1 x of each row x, of shape (rows, a)."""
        ...


class CholeskySolver:
    """Solver for one alpha, with the inverse of the Cholesky factor.

    Parameters
    ----------
    matrix : float64 array of shape (n, n), symmetric
    alpha : float
    dtype : {"float64", "float32"}
        Precision of the factor.

    Raises
    ------
    numpy.linalg.LinAlgError
        If ``matrix + alpha I`` is not positive definite to working precision.
    """

    def __init__(self, matrix: SquareMatrix, alpha: float, dtype: str = "float64") -> None:
        xp = namespace(matrix)
        self.alphas = np.array([alpha])
        shifted = matrix.astype(dtype)
        shifted[xp.arange(len(matrix)), xp.arange(len(matrix))] += alpha
        self._inverse = inverse_factor(shifted)
        diagonal = xp.abs(xp.diagonal(self._inverse))
        if not float(diagonal.max()) < _WIDEST_SPREAD * float(diagonal.min()):
            raise np.linalg.LinAlgError("singular to working precision")

    def solve(self, targets: StackedTargets) -> Solutions:
        """Return the solutions; see `Solver`."""
        half = product(self._inverse, targets[:, 0].astype(self._inverse.dtype))
        return product(self._inverse.T, half)[:, None]

    def each(self, targets: Targets) -> Iterator[Targets]:
        """Yield the solution; see `Solver`."""
        yield self.solve(targets[:, None])[:, 0]

    def inverse_diagonals(self) -> Diagonals:
        """Return the diagonal of the inverse; see `Solver`."""
        return _squared_columns(self._inverse)[:, None]

    def quadratic_forms(self, rows: FloatRows) -> QuadraticForms:
        """Return the quadratic forms; see `Solver`."""
        xp = namespace(rows)
        forms: Array = xp.square(product(rows, self._inverse.T)).sum(axis=1)
        return forms[:, None]


def _squared_columns(matrix: SquareMatrix) -> Array:
    """Return the squared norm of each column, without a temporary matrix of squares."""
    xp = namespace(matrix)
    return np.einsum("ij,ij->j", matrix, matrix) if xp is np else xp.square(xp.linalg.norm(matrix, axis=0))


class EighSolver:
    """Solver for many alphas, with the eigendecomposition of the matrix; on the CPU only.

    Parameters
    ----------
    matrix : float64 array of shape (n, n), symmetric
    alphas : float64 array of shape (a,)
    dtype : {"float64", "float32"}
        Precision of the decomposition. Results of alphas without accurate digits are nan.
    """

    def __init__(self, matrix: SquareMatrix, alphas: Alphas, dtype: str = "float64") -> None:
        self.alphas = alphas
        columns = np.asfortranarray(matrix, dtype=dtype)
        is_copy = columns is not matrix and not np.may_share_memory(columns, matrix)
        values, self._vectors = scipy.linalg.eigh(columns, driver="evd", overwrite_a=is_copy, check_finite=False)
        shifted = values[:, None].astype("float64") + alphas
        regular = shifted.min(axis=0) * _WIDEST_SPREAD**2 > shifted.max(axis=0)
        self._inverses = np.where(regular, 1 / np.where(shifted == 0, 1, shifted), np.nan).astype(dtype)

    def solve(self, targets: StackedTargets) -> Solutions:
        """Return the solutions; see `Solver`."""
        n, _, c = targets.shape
        rotated = product(self._vectors.T, targets.reshape(n, -1).astype(self._vectors.dtype))
        scaled = rotated.reshape(targets.shape) * self._inverses[:, :, None]
        return product(self._vectors, scaled.reshape(n, -1)).reshape(n, -1, c)

    def each(self, targets: Targets) -> Iterator[Targets]:
        """Yield the solutions; see `Solver`."""
        rotated = product(self._vectors.T, targets.astype(self._vectors.dtype))
        for inverses in self._inverses.T:
            yield product(self._vectors, rotated * inverses[:, None])

    def only(self, which: slice) -> "EighSolver":
        """Return the solver of some of the alphas, with the same eigenvectors."""
        part = copy(self)
        part.alphas, part._inverses = self.alphas[which], self._inverses[:, which]
        return part

    def inverse_diagonals(self) -> Diagonals:
        """Return the diagonals of the inverses; see `Solver`."""
        return self._quadratic_forms(self._vectors)

    def quadratic_forms(self, rows: FloatRows) -> QuadraticForms:
        """Return the quadratic forms; see `Solver`."""
        return self._quadratic_forms(product(rows, self._vectors))

    def _quadratic_forms(self, rotated: FloatRows) -> QuadraticForms:
        return product(np.square(rotated), self._inverses)


# A first correction below this means that the digits that leave-one-out needs are correct.
_TRUSTED = 1e-4
# Each correction gains equally many digits: after one below this, the solution is accurate to float64.
_SETTLED = 1e-6
_STEPS = 6


def refine(matrix: SquareMatrix, solver: Solver, targets: Targets) -> tuple[Solutions, Array]:
    """Solve in float64 with a less accurate solver, by iterative refinement.

    Parameters
    ----------
    matrix : float64 array of shape (n, n)
    solver : Solver
        Solver in float32.
    targets : float64 array of shape (n, c)

    Returns
    -------
    solutions : float64 array of shape (n, a, c)
    trusted : bool array of shape (a,)
        Whether the solver is accurate to four digits and the refinement converged.
    """
    xp, (n, c) = namespace(matrix), targets.shape
    alphas = xp.asarray(solver.alphas)
    wanted = xp.broadcast_to(targets[:, None], (n, len(alphas), c))
    found = solver.solve(wanted).astype("float64")
    trusted = settled = xp.zeros(len(alphas), dtype=bool)
    for step in range(_STEPS):
        residuals = wanted - product(matrix, found.reshape(n, -1)).reshape(found.shape) - alphas[:, None] * found
        corrections = solver.solve(residuals)
        found += corrections
        sizes = _norms(corrections) / xp.maximum(_norms(found), np.finfo("float64").tiny)
        trusted = sizes < _TRUSTED if step == 0 else trusted
        settled = sizes < _SETTLED
        if bool(settled[trusted].all()):
            break
    return found, trusted & settled


def accurate(matrix: SquareMatrix, solver: Solver, targets: Targets) -> Array:
    """Return for each alpha whether the solutions need no refinement, judged by one random combination of the targets.

    For many targets, refinement takes far longer than a float64 solver, and as many arrays of shape (n, a, c).
    """
    xp = namespace(matrix)
    mixed = product(targets, xp.asarray(np.random.default_rng(0).standard_normal((targets.shape[1], 1))))
    found = solver.solve(mixed[:, None])
    residuals = (
        mixed[:, None] - product(matrix, found[:, :, 0])[:, :, None] - xp.asarray(solver.alphas)[:, None] * found
    )
    return _norms(solver.solve(residuals)) < _SETTLED * xp.maximum(_norms(found), np.finfo("float64").tiny)


def _norms(values: Solutions) -> Array:
    xp = namespace(values)
    return xp.sqrt(xp.square(values, dtype="float64").sum(axis=(0, 2)))
