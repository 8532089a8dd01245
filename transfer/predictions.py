"""Predictions of images as they come: a record of each, in the order of the paths."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..images.batches import LONGEST_BATCH
from .classifier import Classifier
from .multilabel import given_labels
from .prediction_sets import checked_coverage

Record = dict[str, Any]
"""What is said of an image: ``path`` and ``label``, ``score``, ``probability``, and what `Details` asks for; or
``path`` and ``error``. Where images may have several labels, ``label`` is a list, and ``labels`` has the numbers of
each."""

UNFAMILIAR = 0.01
"""An image of a p-value up to this is unfamiliar: so many of those that are like the training images are, at most."""


@dataclass(frozen=True, kw_only=True)
class Details:
    """What is said of an image besides its label.

    Parameters
    ----------
    top : int
        If more than 1, ``top`` is a list of so many labels with score and probability, the likeliest first.
    coverage : float, optional
        If given, ``set`` is the list of labels that cannot be ruled out; see `OpticalClassifier.prediction_sets`.
    by_class : bool
        See there.
    familiarity : bool
        Whether ``familiarity`` is the p-value of being as far from all training images, ``nearest`` the path of the
        nearest one, or its index where it is of an array, and ``unfamiliar`` whether the p-value is at most
        `UNFAMILIAR`; see `OpticalClassifier.familiarity`.
    """

    top: int = 1
    coverage: float | None = None
    by_class: bool = False
    familiarity: bool = False

    def __post_init__(self) -> None:
        if self.coverage is not None:
            checked_coverage(self.coverage)


def predictions(
    classifier: Classifier, paths: Iterable[Path | str], details: Details | None = None
) -> Iterator[list[Record]]:
    """Predict the labels of images of any number.

    Parameters
    ----------
    classifier : OpticalClassifier
        Trained on images.
    paths : iterable of paths
        Read as they are needed: no more than a block of images is held, or with ``classifier.cluster`` some shards a
        worker.
    details : Details, optional

    Yields
    ------
    records : list of dict
        Those of the next images, one a path: see `Record`, and for a file that cannot be read its path and ``error``.

    Raises
    ------
    UsageError
        If `details` asks for what the model does not have; see `OpticalClassifier.prediction_sets` and `familiarity`.
    """
    said, stream = _Said(classifier, details or Details()), classifier.image_stream(paths)
    with closing(classifier.iter_values(stream)) as blocks:
        for _, values in blocks:
            rows = iter(said.of(values))
            yield [
                {"path": path, **next(rows)} if error is None else {"path": path, "error": error}
                for path, error in stream.take()
            ]


class _Said:
    """Makes records of the outputs of an engine."""

    def __init__(self, classifier: Classifier, details: Details) -> None:
        self._classifier, self._details, self._top = classifier, details, details.top
        self._sets = None if details.coverage is None else classifier.set_predictor(details.by_class)
        self._neighbours = classifier.neighbours() if details.familiarity else None

    def of(self, values: Mapping[str, np.ndarray]) -> Iterator[Record]:
        """Yield what is said of each image."""
        scores = self._classifier.scores_of(values)
        # A model of an earlier version has no probabilities.
        has = self._classifier.temperature_ is not None
        chances = self._classifier.probabilities(scores) if has else [None] * len(scores)
        further = [self._labels_left(values), self._familiar(values)]
        for row, (own, likely) in enumerate(zip(scores, chances, strict=True)):
            yield {**self._label(own, likely), **{name: each[row] for part in further for name, each in part.items()}}

    def _label(self, scores: np.ndarray, probabilities: np.ndarray | None) -> Record:
        classes = self._classifier.classes_
        order = np.argsort(-scores, kind="stable")[: self._top].tolist()
        labels = classes[order].tolist()

        def numbers(index: int) -> dict[str, float | None]:
            chance = None if probabilities is None else float(probabilities[index])
            return {"score": float(scores[index]), "probability": chance}

        found: Record = {"label": labels[0], **numbers(order[0])}
        if self._classifier.multilabel_:
            found |= given_labels(classes, scores, probabilities)
        if self._top > 1:
            found["top"] = [{"label": label, **numbers(index)} for label, index in zip(labels, order, strict=True)]
        return found

    def _labels_left(self, values: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        if self._sets is None:
            return {}
        assert self._details.coverage is not None
        left = self._sets.p_values(values) > 1 - self._details.coverage
        return {"set": [self._classifier.classes_[row].tolist() for row in left]}

    def _familiar(self, values: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        if self._neighbours is None:
            return {}
        found, paths = self._neighbours(values["bits"]), self._classifier.training_.paths
        nearest = found.nearest.tolist()
        return {
            "familiarity": found.p_values.tolist(),
            "unfamiliar": (found.p_values <= UNFAMILIAR).tolist(),
            "nearest": nearest if paths is None else [paths[index] for index in nearest],
        }


class BlockEnds:
    """Where the blocks of `predictions` end, by which of the files can be read.

    Parameters
    ----------
    classifier : OpticalClassifier
    """

    def __init__(self, classifier: Classifier) -> None:
        engine = classifier.engine_
        assert engine is not None
        self._batch, self._rows = engine.batch_size, classifier.rows_at_once()
        self._files = self._readable = self._held = 0

    def __call__(self, readable: bool) -> bool:
        """Return whether the next file, which can be read or not, is the last of its block."""
        self._files, self._readable = self._files + 1, self._readable + readable
        if self._readable < self._batch and self._files < LONGEST_BATCH:
            return False
        self._held += self._readable
        ends = self._readable < self._batch or self._held >= self._rows
        self._files = self._readable = 0
        self._held = 0 if ends else self._held
        return ends
