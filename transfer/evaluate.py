"""Split labelled images and evaluate classifiers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.stats import binomtest
from sklearn.model_selection import train_test_split

from ..errors import DataError
from ..images.batches import ImageFiles
from ..images.duplicates import conflicting_labels, shared_files
from ..images.labelled import labelled_images
from ..images.sources import LabelledPaths, find_splits, test_part, warn

TEST_SHARE = 0.2
FEW = 5
"""Number of test images below which their accuracy is not to be trusted."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a classifier on labelled images.

    Attributes
    ----------
    accuracy : float
    per_class : list of float or None
        Accuracy on each class; None for a class without images.
    confusion : int64 array of shape (c, c)
        Images by true class (rows) and predicted class (columns).
    skipped : dict
        Reason for each file that could not be read.
    """

    accuracy: float
    per_class: list[float | None]
    confusion: np.ndarray
    skipped: dict[str, str]

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the accuracy; see `accuracy_interval`."""
        return accuracy_interval(int(np.trace(self.confusion)), int(self.confusion.sum()))


def accuracy_interval(right: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of an accuracy: in which that on all such images lies with this confidence."""
    found = binomtest(right, images).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def train_and_test(
    data: Path | str, test: Path | str | None = None, seed: int = 0
) -> tuple[LabelledPaths, LabelledPaths]:
    """List training and test images.

    Parameters
    ----------
    data : path
        A folder of class folders, or a table of paths and labels; see `labelled_images`. If it has parts such as
        ``train`` and ``val``, it is trained on the first and without `test` tested on the second.
    test : path, optional
        The same for test images; by default `data` is split 80:20, stratified by class. A test image that is also
        a training image, a copy of one, or an image under two labels gives a warning.
    seed : int
        Random seed of the split.

    Raises
    ------
    UsageError
        If a folder does not exist.
    DataError
        If there is only one class, a class with one image would have to be split, or `test`
        contains a class that `data` does not.
    """
    if test is None:
        test = test_part(find_splits(data))
        if test is not None:
            warn(f"testing on {test}")
    train = labelled_images(data)
    counts = Counter(train.labels)
    if len(counts) < 2:
        raise DataError(f"{data} contains only one class, {next(iter(counts))!r}; a classifier needs two or more")
    if conflicts := conflicting_labels(train.paths, train.labels):
        warn(f"{len(conflicts)} images are in more than one class, first {_pair(*conflicts[0])}; keep each in one")
    if test is not None:
        tested = labelled_images(test, "test")
        strange = sorted(set(tested.labels) - set(counts))
        if strange:
            raise DataError(f"{test} contains the class {strange[0]!r}, which is not in {data}; remove its folder")
    else:
        train, tested = split(train, seed)
    if len(tested.paths) < FEW:
        warn(f"the accuracy on only {len(tested.paths)} test images says little; give more images, or --test")
    if shared := shared_files(train.paths, tested.paths):
        warn(
            f"{len(shared)} of {len(tested.paths)} test images are also training images, first {_pair(*shared[0])}: "
            "the accuracy will be too high; remove the copies"
        )
    return train, tested


def _pair(first: Path, second: Path) -> str:
    return f"{first} and {second}" if first != second else str(first)


def split(data: LabelledPaths, seed: int = 0) -> tuple[LabelledPaths, LabelledPaths]:
    """Split labelled images 80:20, stratified by class; see `train_and_test`."""
    counts = Counter(data.labels)
    for name, count in counts.items():
        if count < 2:
            raise DataError(f"class {name!r} has only one image; add a second to split off test images, or give --test")
    tested = round(TEST_SHARE * len(data.paths))
    if min(tested, len(data.paths) - tested) < len(counts):
        raise DataError(f"{len(data.paths)} images are too few to split for {len(counts)} classes; give --test")
    parts = train_test_split(data.paths, data.labels, test_size=tested, stratify=data.labels, random_state=seed)
    return LabelledPaths(parts[0], parts[2]), LabelledPaths(parts[1], parts[3])


class Scorer(Protocol):
    """What is evaluated: an `OpticalClassifier`, whose attributes and methods these are."""

    classes_: np.ndarray
    temperature_: float | None

    def image_files(self, paths: Sequence[Path | str]) -> ImageFiles:
        """Return files as the classifier's engine takes them."""

    def score_images(self, images: ImageFiles, work: Path | str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the readable images, and their scores."""

    def iter_scores(self, images: ImageFiles) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the same block by block."""

    def labels(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to labels."""

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to probabilities."""


class Evaluating:
    """An evaluation as it goes: images are scored block by block, and only counts of them are kept.

    Parameters
    ----------
    classifier : OpticalClassifier
    data : LabelledPaths
    work : path, optional
        A work folder that keeps the bits of all images; they are then one block.

    Raises
    ------
    DataError
        If a class is unknown to the classifier.
    """

    def __init__(self, classifier: Scorer, data: LabelledPaths, work: Path | str | None = None) -> None:
        self._classifier, self._data, self._work = classifier, data, work
        self._files = classifier.image_files(data.paths)
        self._numbers = {label: number for number, label in enumerate(classifier.classes_.tolist())}
        if strange := sorted(set(data.labels) - set(self._numbers)):
            raise DataError(
                f"class {strange[0]!r} is not one of the model's classes: {', '.join(map(str, self._numbers))}"
            )
        self._confusion = np.zeros((len(self._numbers), len(self._numbers)), "int64")
        self._done = 0
        self._failure: BaseException | None = None
        self._blocks = self._evaluated()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield records of images: ``path``, ``label``, and ``predicted`` and ``probability``, or ``error``."""
        return self._blocks

    def _evaluated(self) -> Iterator[list[dict[str, Any]]]:
        scored = self._classifier.iter_scores(self._files)
        try:
            for indices, scores in (
                scored if self._work is None else [self._classifier.score_images(self._files, self._work)]
            ):
                yield self._counted(indices, scores)
            yield self._unreadable(len(self._files))
        except BaseException as error:
            self._failure = error
            raise

    def _scored(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self._work is None:
            return self._classifier.iter_scores(self._files)
        return iter([self._classifier.score_images(self._files, self._work)])

    def _counted(self, indices: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        classifier, records = self._classifier, list[dict[str, Any]]()
        predicted, places = classifier.labels(scores).tolist(), indices.tolist()
        # A model of an earlier version has no probabilities.
        chances = [None] * len(places)
        if classifier.temperature_ is not None:
            chances = classifier.probabilities(scores).max(axis=1).tolist()
        for index, found, chance in zip(places, predicted, chances, strict=True):
            records += self._unreadable(index)
            path, label = str(self._files.paths[index]), self._data.labels[index]
            self._confusion[self._numbers[label], self._numbers[found]] += 1
            records.append({"path": path, "label": label, "predicted": found, "probability": chance})
            self._done = index + 1
        return records

    def _unreadable(self, end: int) -> list[dict[str, Any]]:
        """Return the records of the files up to an index, which could not be read."""
        which = range(self._done, end)
        self._done = end
        paths, labels = self._files.paths, self._data.labels
        skipped = self._files.skipped
        return [{"path": str(paths[i]), "label": labels[i], "error": skipped[str(paths[i])]} for i in which]

    def result(self) -> Evaluation:
        """Evaluate what is left, and return the result.

        Raises
        ------
        DataError
            If no image can be read.
        """
        for _ in self._blocks:
            pass
        if self._failure is not None:
            raise self._failure
        totals = self._confusion.sum(axis=1)
        if not totals.any():
            raise DataError(f"none of the {len(self._files)} test files is a readable image; check the folder")
        right = np.diag(self._confusion)
        per_class = [float(hit / total) if total else None for hit, total in zip(right, totals, strict=True)]
        skipped = dict(self._files.skipped)
        return Evaluation(float(right.sum() / totals.sum()), per_class, self._confusion, skipped)


def evaluate(classifier: Scorer, data: LabelledPaths, work: Path | str | None = None) -> Evaluation:
    """Evaluate a classifier on every readable image; a work folder keeps their bits.

    Raises
    ------
    DataError
        If a class is unknown to the classifier, or no image can be read.
    """
    return Evaluating(classifier, data, work).result()
