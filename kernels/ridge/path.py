"""Leave-one-out scores of every alpha, and the solution at the best one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import DataError
from ..array_types import Alphas, Array, Coefficients, Intercept, LooScores
from ..arrays import namespace
from .inputs import shown
from .loo import LooScore

Scored = tuple[int, LooScore, Array]
"""An alpha's index, its leave-one-out score and its solution."""


@dataclass(frozen=True)
class RidgePath:
    """Leave-one-out scores of every alpha, and the solution at the best one.

    Attributes
    ----------
    alphas : float64 array of shape (a,)
    loo_accuracies : float64 array of shape (a,)
        Leave-one-out accuracy of each alpha; nan if the system is singular or the search skipped the
        alpha.
    loo_errors : float64 array of shape (a,)
        Mean squared leave-one-out residual; nan likewise.
    best : int
        Index of the alpha with the highest accuracy, and among equals the smallest error. For
        multilabel targets, the smallest error.
    coefficients : float64 array of shape (n, c) or (k, c)
        Dual: weights of the training rows, which sum to zero. Primal: weights of the features.
    intercept : float64 array of shape (c,)
    loo_scores : float32 array of shape (n, c) or None
        Leave-one-out scores of the training rows at the best alpha; None if read from a file.
    loo_accuracy_of : dict of float
        Leave-one-out accuracy of each kernel at its best alpha, where it selected among kernels.
    """

    alphas: Alphas
    loo_accuracies: Alphas
    loo_errors: Alphas
    best: int
    coefficients: Coefficients
    intercept: Intercept
    loo_scores: LooScores | None = None
    loo_accuracy_of: Mapping[str, float] = field(default_factory=dict)

    @property
    def alpha(self) -> float:
        """The best alpha."""
        return float(self.alphas[self.best])

    @property
    def loo_accuracy(self) -> float:
        """Leave-one-out accuracy at the best alpha."""
        return float(self.loo_accuracies[self.best])


def best_path(alphas: Alphas, scored: Iterable[Scored]) -> RidgePath:
    """Return the path of the scored alphas; raise DataError if there are none."""
    accuracies, errors = np.full(len(alphas), np.nan), np.full(len(alphas), np.nan)
    rank: tuple[float, ...] = (-np.inf,)
    best, kept, loo = -1, None, None
    for index, score, solution in scored:
        accuracies[index], errors[index] = score.accuracy, score.error
        if score.rank > rank:
            best, kept, loo, rank = int(index), solution, score, score.rank
    if kept is None or loo is None:
        raise DataError(
            f"the ridge system is singular at every alpha of {shown(alphas)}; give larger alphas, or rows that differ"
        )
    # A copy in C order, as when read from a file, so that products round identically.
    kept = namespace(kept).ascontiguousarray(kept)
    return RidgePath(alphas, accuracies, errors, best, kept, kept[0], loo.scores)
