"""What a classifier said of labelled images: accuracy with its interval, classes, confusions, mistakes, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .multilabel import accuracy_interval


@dataclass(frozen=True)
class ClassOutcome:
    """How the images of one class went.

    Attributes
    ----------
    name : str
    images, right : int
    accuracy : float or None
        None without images.
    interval : (float, float) or None
        Of the accuracy; see `accuracy_interval`.
    mistaken_for : str or None
        The class that most of the others were taken for, the first of equals.
    """

    name: str
    images: int
    right: int
    accuracy: float | None
    interval: tuple[float, float] | None
    mistaken_for: str | None


@dataclass(frozen=True)
class Confusion:
    """How often one class was taken for another."""

    label: str
    predicted: str
    images: int


@dataclass(frozen=True)
class Bin:
    """Images whose highest probability lies in a range.

    Attributes
    ----------
    probability : float
        The mean of their highest probabilities.
    accuracy : float
    images : int
    interval : (float, float)
        Of the accuracy; see `accuracy_interval`.
    """

    probability: float
    accuracy: float
    images: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class Outcomes:
    """What a classifier said of n labelled images: test images by its scores, or training images by leave-one-out.

    Attributes
    ----------
    classes : array of shape (c,)
    labels : int64 array of shape (n,) or (n, c)
        Indices of the classes, or a multilabel indicator matrix, of which this tells its length and `multilabel` alone;
        `multilabel.evaluate_labels` tells the rest.
    scores, probabilities : float arrays of shape (n, c)
    paths : sequence of n str, or None
    """

    classes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray
    paths: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether images may have several labels."""
        return self.labels.ndim == 2

    @cached_property
    def predicted(self) -> np.ndarray:
        """Indices of the classes with the highest scores, int64 of shape (n,)."""
        found: np.ndarray = self.scores.argmax(axis=1)
        return found

    @property
    def right(self) -> int:
        """The number of images that were labelled right."""
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """The share of images that were labelled right."""
        return self.right / len(self)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy; see `accuracy_interval`."""
        return accuracy_interval(self.right, len(self))

    @cached_property
    def confusion(self) -> np.ndarray:
        """Images by class (rows) and predicted class (columns), int64 of shape (c, c)."""
        found = np.zeros((len(self.classes), len(self.classes)), "int64")
        np.add.at(found, (self.labels, self.predicted), 1)
        return found

    def per_class(self) -> list[ClassOutcome]:
        """Return how each class went, in the order of the classes."""
        found = []
        for index, row in enumerate(self.confusion):
            images, right, others = int(row.sum()), int(row[index]), row.copy()
            others[index] = 0
            mistaken = self._name(int(others.argmax())) if others.any() else None
            accuracy, interval = (right / images, accuracy_interval(right, images)) if images else (None, None)
            found.append(ClassOutcome(self._name(index), images, right, accuracy, interval, mistaken))
        return found

    def confusions(self) -> list[Confusion]:
        """Return which class was taken for which other, the most frequent first."""
        others = self.confusion.copy()
        np.fill_diagonal(others, 0)
        order = np.argsort(-others, axis=None, kind="stable")[: int((others > 0).sum())]
        rows, columns = np.unravel_index(order, others.shape)
        return [
            Confusion(self._name(row), self._name(column), int(others[row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]

    def mistakes(self) -> np.ndarray:
        """Return the indices of the images that were labelled otherwise, the surest first, int64 of shape (k,).

        How sure is the difference of the probabilities of the predicted class and of the image's own.
        """
        rows = np.flatnonzero(self.predicted != self.labels)
        margins = self.probabilities[rows, self.predicted[rows]] - self.probabilities[rows, self.labels[rows]]
        found: np.ndarray = rows[np.argsort(-margins, kind="stable")]
        return found

    def most_probable(self, index: int, most: int) -> list[tuple[str, float]]:
        """Return the classes of the highest probabilities of an image, and these."""
        row = self.probabilities[index]
        return [(self._name(each), float(row[each])) for each in np.argsort(-row, kind="stable")[:most].tolist()]

    def name(self, index: int) -> str:
        """Return the name of an image's own class."""
        return self._name(int(self.labels[index]))

    def calibration(self, bins: int) -> list[Bin]:
        """Return the images in bins of equal width by their highest probability; those of none are left out."""
        surest, hits = self.probabilities.max(axis=1), self.predicted == self.labels
        which = np.minimum((surest * bins).astype("int64"), bins - 1)
        found = []
        for each in np.unique(which):
            inside = which == each
            images, right = int(inside.sum()), int(hits[inside].sum())
            found.append(Bin(float(surest[inside].mean()), right / images, images, accuracy_interval(right, images)))
        return found

    def calibration_error(self, bins: int = 15) -> float:
        """Return the expected calibration error: how far bins of `calibration` are off, on average over the images."""
        found = self.calibration(bins)
        return sum(each.images * abs(each.accuracy - each.probability) for each in found) / len(self)

    def log_loss(self) -> float:
        """Return the mean negative logarithm of the probability of an image's own class."""
        own = self.probabilities[np.arange(len(self)), self.labels]
        return float(-np.log(np.maximum(own, np.finfo("float64").tiny)).mean())

    def _name(self, index: int) -> str:
        return str(self.classes[index])
