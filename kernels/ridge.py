"""Ridge classification in closed form: one Cholesky per alpha, leave-one-out picks alpha.

Targets are +1 for a row's own class and -1 elsewhere; the intercept is not penalised. With H the
centring matrix, J the matrix of 1/n, K the Gram of the rows and Y the targets,

    dual:    c = (HKH + alpha I)^-1 H Y,      residual_i = c_i / (G_ii - 1 / (n alpha))
    primal:  w = (X'HX + alpha I)^-1 X'H Y,   residual_i = (y_i - f(x_i)) / (1 - h_i)

where G = (HKH + alpha I)^-1 and h is the diagonal of the hat matrix. Both residuals are those of a
fit without row i (Rifkin & Lippert 2007, MIT-CSAIL-TR-2007-025; the 1 / (n alpha) is the share of
the free intercept). It is never subtracted here: G is taken of HKH + alpha I + t J, t > 0, which
moves only the eigenvalue of the constant vector, and what remains to subtract, 1 / (n (alpha + t)),
stays small, so that a tiny alpha
costs the residuals no digits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..errors import DataError, UsageError
from .arrays import Array, RowBlocks, namespace

# The diagonal of L^-1 spreads like the square root of the condition number; past 1e14 no digit is left.
_WIDEST_SPREAD = 1e7
_LEAST_FREEDOM = 1e-12


@dataclass(frozen=True)
class RidgePath:
    """What leave-one-out says of every alpha, and the solution at the best.

    Attributes
    ----------
    alphas : float64 array of shape (a,)
    loo_accuracies : float64 array of shape (a,)
        Share of rows that a fit without them labels rightly; nan where the system is singular.
    loo_errors : float64 array of shape (a,)
        Mean squared leave-one-out residual.
    best : int
        Where the accuracy is highest; among equals, where the error is least.
    coefficients : float64 array of shape (n, c) or (k, c)
        Dual: weights of the training rows, which sum to zero. Primal: weights of the features.
    intercept : float64 array of shape (c,)
    """

    alphas: Array
    loo_accuracies: Array
    loo_errors: Array
    best: int
    coefficients: Array
    intercept: Array

    @property
    def alpha(self) -> float:
        """The best alpha."""
        return float(self.alphas[self.best])

    @property
    def loo_accuracy(self) -> float:
        """Leave-one-out accuracy at the best alpha."""
        return float(self.loo_accuracies[self.best])


def one_vs_rest(labels: Array, classes: int) -> Array:
    """Return targets of shape (n, classes): +1 at a row's label, -1 elsewhere, as float64."""
    xp = namespace(labels)
    return xp.where(labels[:, None] == xp.arange(classes), 1.0, -1.0)


def default_alphas(mean_eigenvalue: float) -> Array:
    """Return 15 alphas from 1e-5 to 1e2 times the mean eigenvalue of the centred Gram.

    A scale of the data's own: the same classifier results whatever the units of the features.
    """
    return np.logspace(-5, 2, 15) * (mean_eigenvalue or 1.0)


def dual_path(gram: Array, targets: Array, alphas: Array | None = None) -> RidgePath:
    """Solve the dual for every alpha from one Gram.

    Parameters
    ----------
    gram : integer or float array of shape (n, n)
        Inner products of the rows, or any positive semi-definite kernel of them; not centred.
    targets : float64 array of shape (n, c)
        See `one_vs_rest`.
    alphas : array of shape (a,), optional
        None takes `default_alphas` of the centred Gram.

    Returns
    -------
    RidgePath
        ``kernel(x, rows) @ coefficients + intercept`` are the scores of x.

    Raises
    ------
    UsageError
        If an alpha is negative or not finite.
    DataError
        If the Gram is not finite, or the system is singular at every alpha.
    """
    xp = namespace(gram)
    n = _checked_rows(len(gram))
    means = gram.mean(axis=0, dtype="float64")
    centred = gram - means
    centred -= centred.mean(axis=1, keepdims=True)
    scale = float(xp.trace(centred)) / n
    alphas = _checked_alphas(alphas, scale)
    target_means = targets.mean(axis=0)

    def solve(alpha: float) -> tuple[Array, Array]:
        inverse = _inverse_factor(centred, alpha, constant=(scale or 1.0) / n)
        coefficients = inverse.T @ (inverse @ (targets - target_means))
        diagonal = xp.einsum("ij,ij->j", inverse, inverse) - 1 / (n * (alpha + (scale or 1.0)))
        return coefficients, coefficients / diagonal[:, None]

    return _best(alphas, targets, means, solve)


def primal_path(rows: RowBlocks, k: int, targets: Array, alphas: Array | None = None) -> RidgePath:
    """Solve the primal for every alpha, streaming the rows: once for the moments, once an alpha.

    Parameters
    ----------
    rows : callable
        Starts a pass over the rows, in blocks of shape (rows, k); they are summed in float64.
    k : int
        Number of features.
    targets : float64 array of shape (n, c)
    alphas : array of shape (a,), optional

    Returns
    -------
    RidgePath
        ``x @ coefficients + intercept`` are the scores of x.

    Raises
    ------
    UsageError, DataError
        As `dual_path`.
    """
    xp = namespace(targets)
    n = _checked_rows(len(targets))
    target_means = targets.mean(axis=0)
    means = sum((block.sum(axis=0, dtype="float64") for _, block in rows()), start=xp.zeros(k)) / n
    covariance, cross = xp.zeros((k, k)), xp.zeros((k, targets.shape[1]))
    for which, block in rows():
        deviation = block - means
        covariance += deviation.T @ deviation
        cross += deviation.T @ (targets[which] - target_means)
    alphas = _checked_alphas(alphas, float(xp.trace(covariance)) / n)

    def solve(alpha: float) -> tuple[Array, Array]:
        inverse = _inverse_factor(covariance, alpha)
        weights = inverse.T @ (inverse @ cross)
        residuals = xp.empty_like(targets)
        for which, block in rows():
            deviation = block - means
            leverage = 1 / n + xp.square(deviation @ inverse.T).sum(axis=1)
            error = targets[which] - target_means - deviation @ weights
            # A row whose leverage is 1 is fitted whatever its target: nothing is left to divide.
            free = xp.where(1 - leverage > _LEAST_FREEDOM, 1 - leverage, xp.nan)
            residuals[which] = error / free[:, None]
        return weights, residuals

    return _best(alphas, targets, means, solve)


def _checked_rows(n: int) -> int:
    if n < 2:
        raise DataError(f"{n} row(s) to train on; leave-one-out needs at least 2")
    return n


def _checked_alphas(alphas: Array | None, scale: float) -> Array:
    if not np.isfinite(scale):
        raise DataError("the Gram holds nan or inf; check the features for values that are not finite")
    if alphas is None:
        return default_alphas(scale)
    alphas = np.atleast_1d(np.asarray(alphas, dtype="float64"))
    if alphas.ndim != 1 or alphas.size == 0 or not np.all(np.isfinite(alphas) & (alphas >= 0)):
        raise UsageError(f"alphas {alphas} must be finite numbers, none negative, at least one of them")
    return alphas


def _best(alphas: Array, targets: Array, means: Array, solve: Callable[[float], tuple[Array, Array]]) -> RidgePath:
    """Score every alpha by ``solve(alpha) -> (coefficients, leave-one-out residuals)``; keep the best."""
    xp = namespace(targets)
    truth = targets.argmax(axis=1)
    accuracies, errors = np.full(len(alphas), np.nan), np.full(len(alphas), np.nan)
    best, kept, score = -1, None, (-np.inf, -np.inf)
    for place, alpha in enumerate(alphas):
        try:
            coefficients, residuals = solve(float(alpha))
        except np.linalg.LinAlgError:
            continue
        if not bool(xp.isfinite(residuals).all()):
            continue
        accuracies[place] = float(((targets - residuals).argmax(axis=1) == truth).mean())
        errors[place] = float(xp.square(residuals).mean())
        if (accuracies[place], -errors[place]) > score:
            best, kept, score = place, coefficients, (accuracies[place], -errors[place])
    if kept is None:
        raise DataError(
            f"the ridge system is singular at every alpha of {alphas}; give larger alphas, or rows that differ"
        )
    return RidgePath(alphas, accuracies, errors, best, kept, targets.mean(axis=0) - means @ kept)


def _inverse_factor(matrix: Array, alpha: float, constant: float = 0.0) -> Array:
    """Return L^-1 of ``matrix + alpha I + constant 11'`` = LL'.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite to working precision.
    """
    xp = namespace(matrix)
    shifted = matrix + constant
    shifted[xp.arange(len(matrix)), xp.arange(len(matrix))] += alpha
    if xp is np:
        # Symmetric, so its transpose is the same matrix in the order that LAPACK overwrites in place.
        factor = scipy.linalg.cholesky(shifted.T, lower=True, overwrite_a=True, check_finite=False)
        inverse, failed = scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
    else:
        inverse, failed = _cupy_inverse_factor(shifted), 0
    diagonal = xp.abs(xp.diagonal(inverse))
    if failed or not float(diagonal.max()) < _WIDEST_SPREAD * float(diagonal.min()):
        raise np.linalg.LinAlgError("singular to working precision")
    return inverse


def _cupy_inverse_factor(shifted: Array) -> Array:
    import cupy  # type: ignore[import-not-found, unused-ignore]
    import cupyx  # type: ignore[import-not-found, unused-ignore]
    from cupyx.scipy.linalg import solve_triangular  # type: ignore[import-not-found, unused-ignore]

    with cupyx.errstate(linalg="raise"):
        factor = cupy.linalg.cholesky(shifted)
    return solve_triangular(factor, cupy.eye(len(shifted)), lower=True)
