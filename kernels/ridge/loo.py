"""Leave-one-out accuracy and error at an alpha."""

import numpy as np

from ..array_types import Array, RowWeights, Targets
from ..arrays import namespace


class LooScore:
    """Leave-one-out accuracy and error at one alpha, accumulated over blocks of rows, and scores if they are kept."""

    def __init__(self, multilabel: bool, keeps_scores: bool = True) -> None:
        self._multilabel, self._keeps_scores = multilabel, keeps_scores
        self._correct = self._squares = self._weight = 0.0
        self._predicted: list[Array] = []

    def add(self, targets: Targets, residuals: Targets, weights: RowWeights) -> None:
        """Add rows with leave-one-out residuals of shape (rows, c)."""
        xp = namespace(residuals)
        predicted = targets - residuals
        if self._keeps_scores:
            self._predicted.append(predicted.astype("float32"))
        if self._multilabel:
            correct = ((predicted > 0) == (targets > 0)).mean(axis=1)
        else:
            correct = predicted.argmax(axis=1) == targets.argmax(axis=1)
        self._correct += float(weights @ correct.astype("float64"))
        self._squares += float(weights @ xp.square(residuals).mean(axis=1))
        self._weight += float(weights.sum())

    def extend(self, other: "LooScore") -> None:
        """Add the rows of another score after these. Its arrays are copied: they may be another process'."""
        if other.scores is not None:
            self._predicted.append(other.scores)
        self._correct += other._correct
        self._squares += other._squares
        self._weight += other._weight

    @property
    def scores(self) -> Array | None:
        """The leave-one-out scores of all rows, float32 of shape (n, c), if they are kept."""
        if not self._keeps_scores:
            return None
        return namespace(self._predicted[0]).concatenate(self._predicted)

    @property
    def finite(self) -> bool:
        """Whether all residuals are finite."""
        return bool(np.isfinite(self._squares))

    @property
    def accuracy(self) -> float:
        """Fraction of rows, or of labels, that are correct."""
        return self._correct / self._weight

    @property
    def error(self) -> float:
        """Mean squared residual."""
        return self._squares / self._weight

    @property
    def rank(self) -> tuple[float, ...]:
        """Sort key of alphas; greater is better."""
        return (-self.error,) if self._multilabel else (self.accuracy, -self.error)
