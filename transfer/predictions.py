"""Predictions of images as they come: a record of each, in the order of the paths."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..images.batches import LONGEST_BATCH
from .classifier import OpticalClassifier
from .multilabel import given_labels

Record = dict[str, Any]
"""What is said of an image: ``path`` and ``label``, ``score``, ``probability``, and ``top`` if asked for; or ``path``
and ``error``. Where images may have several labels, ``label`` is a list, and ``labels`` has the numbers of each."""


def predictions(classifier: OpticalClassifier, paths: Iterable[Path | str], top: int = 1) -> Iterator[list[Record]]:
    """Predict the labels of images of any number.

    Parameters
    ----------
    classifier : OpticalClassifier
        Trained on images.
    paths : iterable of paths
        Read as they are needed: no more than a block of images is held.
    top : int
        The number of likeliest labels; for more than 1 a record has ``top``.

    Yields
    ------
    records : list of dict
        Those of the next images, one a path: see `record`, and for a file that cannot be read its path and ``error``.
    """
    stream = classifier.image_stream(paths)
    for _, scores in classifier.iter_scores(stream):
        yield list(_records(classifier, stream.take(), scores, top))


def _records(
    classifier: OpticalClassifier, files: Sequence[tuple[str, str | None]], scores: np.ndarray, top: int
) -> Iterator[Record]:
    # A model of an earlier version has no probabilities.
    chances = None if classifier.temperature_ is None else classifier.probabilities(scores)
    rows = iter(range(len(scores)))
    for path, error in files:
        if error is not None:
            yield {"path": path, "error": error}
        else:
            row = next(rows)
            yield record(classifier, path, scores[row], None if chances is None else chances[row], top)


def record(
    classifier: OpticalClassifier, path: str, scores: np.ndarray, probabilities: np.ndarray | None, top: int = 1
) -> Record:
    """Return what is said of an image.

    Parameters
    ----------
    classifier : OpticalClassifier
    path : str
    scores : float64 array of shape (c,)
    probabilities : float64 array of shape (c,), or None
    top : int
        If more than 1, ``top`` is a list of so many labels with score and probability, the likeliest first.
    """
    order = np.argsort(-scores, kind="stable")[:top].tolist()

    def numbers(index: int) -> dict[str, float | None]:
        chance = None if probabilities is None else float(probabilities[index])
        return {"score": float(scores[index]), "probability": chance}

    found: Record = {"path": path, "label": classifier.classes_[order[0]].item(), **numbers(order[0])}
    if classifier.multilabel_:
        found |= given_labels(classifier.classes_, scores, probabilities)
    if top > 1:
        labels = classifier.classes_[order].tolist()
        found["top"] = [{"label": label, **numbers(index)} for label, index in zip(labels, order, strict=True)]
    return found


class BlockEnds:
    """Where the blocks of `predictions` end, by which of the files can be read.

    Parameters
    ----------
    classifier : OpticalClassifier
    """

    def __init__(self, classifier: OpticalClassifier) -> None:
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
