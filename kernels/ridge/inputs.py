"""Targets, alphas and weights of a ridge, and their validation."""

import numpy as np
from numpy.typing import ArrayLike

from ...errors import DataError, UsageError
from ..array_types import Alphas, Array, ArrayLibrary, Labels, RowWeights, Targets
from ..arrays import namespace

_WIDEST_WEIGHTS = 1e100


def one_vs_rest(labels: Labels, classes: int) -> Targets:
    """Return targets of shape (n, classes): +1 at a row's label, -1 elsewhere, as float64."""
    xp = namespace(labels)
    return xp.where(labels[:, None] == xp.arange(classes), 1.0, -1.0)


def default_alphas(mean_eigenvalue: float) -> Alphas:
    """Return 15 alphas from 1e-5 to 1e2 times the mean eigenvalue of the centred Gram.

    Scaled to the data, so that the classifier does not depend on the units of the features.
    """
    return np.logspace(-5, 2, 15) * (mean_eigenvalue or 1.0)


def spread(scale: Array, size: Array) -> float:
    """Return the mean eigenvalue, or 0 if it is only the rounding error of identical rows."""
    return 0.0 if float(scale) < 1e-13 * float(size) else float(scale)


def checked_rows(n: int) -> int:
    """Return the number of rows; raise DataError if there are too few for leave-one-out."""
    if n < 2:
        raise DataError(f"{n} row(s) to train on; leave-one-out needs at least 2")
    return n


def checked_alphas(alphas: ArrayLike | None, scale: float) -> Alphas:
    """Return alphas as float64 of shape (a,), by default for a mean eigenvalue; raise UsageError if invalid."""
    if not np.isfinite(scale):
        raise DataError("the Gram contains nan or inf; check the features for values that are not finite")
    if alphas is None:
        return default_alphas(scale)
    try:
        if np.iscomplexobj(alphas):
            raise TypeError
        found = np.atleast_1d(np.asarray(alphas, dtype="float64"))
    except (TypeError, ValueError):
        raise UsageError(f"alphas {shown(alphas)} must be one or more finite, non-negative numbers") from None
    alphas = found
    if alphas.ndim != 1 or alphas.size == 0 or not np.all(np.isfinite(alphas) & (alphas >= 0)):
        raise UsageError(f"alphas {shown(alphas)} must be one or more finite, non-negative numbers")
    return alphas


def shown(alphas: object) -> str:
    """Return alphas as text on one line, of very many the first and last ones."""
    return " ".join(str(alphas).split())


def checked_weights(weights: Array | None, n: int, xp: ArrayLibrary) -> RowWeights:
    """Return the weights of n rows as float64, by default 1; raise UsageError if invalid."""
    if weights is None:
        return xp.ones(n)
    weights = xp.asarray(weights, dtype="float64")
    if weights.shape != (n,) or not bool((xp.isfinite(weights) & (weights > 0)).all()):
        raise UsageError(f"weights of shape {weights.shape} must be {n} positive finite numbers, one per row")
    least, most = float(weights.min()), float(weights.max())
    if most > _WIDEST_WEIGHTS * least:
        raise UsageError(
            f"weights from {least:.3g} to {most:.3g} span more orders of magnitude than float64 can solve; leave out "
            "rows that hardly count, or give weights that differ less"
        )
    return weights
