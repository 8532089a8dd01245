"""The ridge of a kernel on landmarks, some of the rows, for more rows than the dual's memory holds.

The solution is sought among functions f(x) = sum_j beta_j k(x, x_j) + b of p landmarks x_j with sum_j beta_j = 0, as
the coefficients of the dual have it, so that a constant added to the kernel changes nothing:

    minimise over beta and b:   sum_i s_i |y_i - f(x_i)|^2 + alpha beta' K beta

with the targets y and sample weights s of all n rows, and the kernel K of the landmarks (the Nystroem method: Williams
and Seeger, NIPS 2000; Rudi, Camoriano and Rosasco, NIPS 2015, arXiv:1507.04717). With H = I - 11'/p and the Cholesky
factor L of HKH + delta I, delta `JITTER` times the largest entry of the diagonal of HKH, this is the primal ridge
(see `ridge`) on the p features z(x) = L^-1 H (k(x, x_1), ..., k(x, x_p))', and beta = H L'^-1 w of its weights w. If
all rows are landmarks it is the dual, except that delta raises alpha by delta / s, relatively, where the kernel has
eigenvalue s.

Leave-one-out is exact given the landmarks: they are a fixed basis, and a row that is left out stays one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import get_blas_funcs

from ..array_types import Array, Coefficients, Features, LandmarkKernel, Targets
from ..arrays import namespace
from ..blas import product
from ..memory import Budget, blocks, rows_at_a_time
from ..row_blocks import RowSource
from .inputs import checked_rows, checked_weights, spread
from .inverse_factor import inverse_factor
from .passes import Share, here
from .path import RidgePath
from .primal import primal_path
from .sums import sums_of

JITTER = 1e-10
"""What is added to the diagonal of the landmarks' centred kernel, in parts of its largest entry."""


def landmark_path(
    kernel: LandmarkKernel,
    rows: RowSource,
    targets: Targets,
    alphas: ArrayLike | None = None,
    weights: Array | None = None,
    multilabel: bool = False,
    budget: Budget = None,
    share: Share = here,
) -> RidgePath:
    """Solve the ridge of a kernel on landmarks for every alpha; leave-one-out streams the rows.

    Parameters
    ----------
    kernel : float64 array of shape (p, p)
        Of the landmarks; it is overwritten.
    rows : RowSource
        Starts a pass over the kernel between all rows and the landmarks, in blocks of shape (rows, p), float64. The
        sums over the rows of a segment are added up in this order, and those of the segments in theirs. The CPU needs
        one pass and those of `primal_path`; so does a GPU.
    targets : array of shape (n, c)
        Blocks of rows become float64.
    alphas : array of shape (a,), optional
        By default `default_alphas` of the mean eigenvalue of the centred features z.
    weights : float64 array of shape (n,), optional
    multilabel : bool
        See `dual_path`.
    budget : int, str or None
    share : callable
        See `primal_path`.

    Returns
    -------
    RidgePath
        ``kernel(x, landmarks) @ coefficients + intercept`` are the scores of x. The coefficients, of shape (p, c), sum
        to zero.

    Raises
    ------
    UsageError, DataError
        See `dual_path`.
    """
    return LandmarkRidge(kernel, rows, targets, weights, share).path(alphas, multilabel, budget)


class LandmarkRidge:
    """The ridge of `landmark_path` in two steps: the sums over the rows, and the solution at every alpha.

    Parameters
    ----------
    kernel, rows, targets, weights, share
        See `landmark_path`.
    """

    def __init__(
        self,
        kernel: LandmarkKernel,
        rows: RowSource,
        targets: Targets,
        weights: Array | None = None,
        share: Share = here,
    ) -> None:
        self._share = share
        self._targets, self._weights = targets, checked_weights(weights, checked_rows(len(targets)), namespace(kernel))
        self._basis = _Basis(kernel)
        self._rows = RowSource(_FeatureRows(rows.make, self._basis), rows.arrays)
        self._sums = sums_of(self._rows, len(kernel), targets, self._weights, share)

    def path(self, alphas: ArrayLike | None = None, multilabel: bool = False, budget: Budget = None) -> RidgePath:
        """Solve for every alpha, and score each by leave-one-out; see `landmark_path`."""
        path = primal_path(
            self._sums, self._rows, self._targets, alphas, self._weights, multilabel, budget, self._share
        )
        coefficients = self._basis.combine(path.coefficients)
        shift = product(self._basis.means, coefficients)
        return replace(path, coefficients=coefficients, intercept=path.intercept - shift)


class _Basis:
    """The features z of a kernel with the landmarks, orthonormal in the space of the kernel."""

    def __init__(self, kernel: LandmarkKernel) -> None:
        xp, p = namespace(kernel), len(kernel)
        squares = xp.diagonal(kernel).mean()
        self.means = kernel.mean(axis=0)
        others = self.means - self.means.mean()
        for which in blocks(p, rows_at_a_time(kernel, 256)):
            kernel[which] -= self.means
            kernel[which] -= others[which, None]
        diagonal = xp.diagonal(kernel)
        size = spread(diagonal.mean(), squares) or 1.0
        jitter = JITTER * max(size, float(diagonal.max()))
        # The constant vector, which no feature has a part in, would make the factor singular.
        kernel += size / p
        kernel[xp.arange(p), xp.arange(p)] += jitter
        self._inverse = inverse_factor(kernel)

    def features(self, kernel: Features) -> Features:
        """Return the features z of rows of the kernel."""
        deviations = kernel - self.means
        deviations -= deviations.mean(axis=1)[:, None]
        return self._solved(deviations)

    def _solved(self, deviations: Features) -> Features:
        """Return rows times L'^-1: on the CPU in place, and without the half that is zero."""
        if namespace(deviations) is not np:
            return product(deviations, self._inverse.T)
        (trmm,) = get_blas_funcs(("trmm",), (self._inverse, deviations))
        in_columns = self._inverse.flags.f_contiguous
        triangle = self._inverse if in_columns else self._inverse.T
        columns = np.ascontiguousarray(deviations).T
        solved: Features = trmm(
            1.0, triangle, columns, lower=int(in_columns), trans_a=int(not in_columns), overwrite_b=1
        )
        return solved.T

    def combine(self, weights: Coefficients) -> Coefficients:
        """Return the coefficients of the landmarks for weights of the features, in C order."""
        coefficients = product(self._inverse.T, weights)
        found: Coefficients = namespace(weights).ascontiguousarray(coefficients - coefficients.mean(axis=0))
        return found


@dataclass(frozen=True)
class _FeatureRows:
    """Makes the features z of what the rows of the kernel are made of; see `RowSource`."""

    kernel_rows: Callable[..., Iterator[tuple[slice, Features]]]
    basis: _Basis

    def __call__(self, *arrays: Array | None) -> Iterator[tuple[slice, Features]]:
        for which, block in self.kernel_rows(*arrays):
            yield which, self.basis.features(block)
