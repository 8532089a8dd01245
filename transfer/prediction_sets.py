"""Prediction sets: the labels of an image that cannot be ruled out."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import UsageError
from ..kernels.memory import Budget, block_length, blocks, memory_budget
from ..kernels.ridge.conformal import ConformalRidge, require_memory
from ..kernels.training_kernel import TrainingKernel
from .training import Training

_ROWS = 256


class PredictionSets:
    """The classes that full conformal prediction cannot rule out; see `kernels.ridge.conformal`.

    Parameters
    ----------
    training : Training
        What the classifier has learnt from.
    weights : float64 array of shape (n,)
        The weights of the fit.
    kind : str
        The readout's.
    classes : int
        Number of classes c.
    alpha, temperature : float
    by_class : bool
        Whether the guarantee is to hold for each class.
    budget : int, str or None
        See `kernels.memory.memory_budget`.

    Raises
    ------
    UsageError
        If the readout has no kernel, or labels do not exclude each other.
    BudgetError
        If the inverse of the n x n system does not fit the budget.
    """

    def __init__(
        self,
        training: Training,
        weights: np.ndarray,
        kind: str,
        classes: int,
        alpha: float,
        temperature: float,
        by_class: bool = False,
        budget: Budget = None,
        layers: Sequence[int] = (),
    ) -> None:
        if training.labels.ndim == 2:
            raise UsageError("prediction sets are of labels that exclude each other, and these images have several")
        self._kernel = TrainingKernel(kind, training.bits, training.pooled, weights, budget, layers=layers)
        require_memory(len(training), budget)
        gram = self._kernel.gram()
        self._ridge = ConformalRidge(gram, alpha, training.labels, classes, weights, temperature, by_class)
        self._rows = block_length(4 * 8 * len(training), memory_budget(budget), _ROWS)
        self._classes = classes

    def p_values(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the p-value of each class, float64 of shape (n, c), given ``bits`` and ``pooled`` of n images."""
        bits, pooled = values["bits"], values.get("pooled")
        parts = [np.empty((0, self._classes))]
        for which in blocks(len(bits), self._rows):
            means = None if pooled is None else pooled[which]
            rows, own = self._kernel.rows(bits[which], means), self._kernel.own(bits[which], means)
            parts.append(self._ridge.p_values(rows, own))
        return np.concatenate(parts)


def checked_coverage(coverage: float) -> float:
    """Return a coverage, or raise UsageError unless it is between 0 and 1."""
    if not 0 < coverage < 1:
        raise UsageError(f"coverage {coverage:g} is not between 0 and 1; give for example 0.95")
    return coverage
