"""What leave-one-out says of every alpha, and the solution at the best."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ..array_types import Alphas, Array, Coefficients, Intercept
from ..arrays import namespace
from .loo import LooScore

Scored = tuple[int, LooScore, Array]
"""An alpha's index, its leave-one-out score and its solution."""


@dataclass(frozen=True)
class RidgePath:
    """What leave-one-out says of every alpha, and the solution at the best.

    Attributes
    ----------
    alphas : float64 array of shape (a,)
    loo_accuracies : float64 array of shape (a,)
        Share of rows that a fit without them labels rightly; nan where the system is singular, or
        where a search skipped the alpha.
    loo_errors : float64 array of shape (a,)
        Mean squared leave-one-out residual; nan likewise.
    best : int
        Where the accuracy is highest; among equals, where the error is least. With several labels
        a row, where the error is least.
    coefficients : float64 array of shape (n, c) or (k, c)
        Dual: weights of the training rows, which sum to zero. Primal: weights of the features.
    intercept : float64 array of shape (c,)
    """

    alphas: Alphas
    loo_accuracies: Alphas
    loo_errors: Alphas
    best: int
    coefficients: Coefficients
    intercept: Intercept

    @property
    def alpha(self) -> float:
        """The best alpha."""
        return float(self.alphas[self.best])

    @property
    def loo_accuracy(self) -> float:
        """Leave-one-out accuracy at the best alpha."""
        return float(self.loo_accuracies[self.best])


def best_path(alphas: Alphas, scored: Iterable[Scored]) -> RidgePath:
    """Return the path of the alphas that were scored; refuse one without any."""
    accuracies, errors = np.full(len(alphas), np.nan), np.full(len(alphas), np.nan)
    rank: tuple[float, ...] = (-np.inf,)
    best, kept = -1, None
    for index, score, solution in scored:
        accuracies[index], errors[index] = score.accuracy, score.error
        if score.rank > rank:
            best, kept, rank = int(index), solution, score.rank
    if kept is None:
        raise DataError(
            f"the ridge system is singular at every alpha of {alphas}; give larger alphas, or rows that differ"
        )
    # On its own and in C order, as it will be read from a file: products then round alike.
    kept = namespace(kept).ascontiguousarray(kept)
    return RidgePath(alphas, accuracies, errors, best, kept, kept[0])
