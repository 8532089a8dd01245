"""Split labelled images and evaluate classifiers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from sklearn.metrics import confusion_matrix
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
    """What is evaluated: an `OpticalClassifier`, whose methods these are."""

    classes_: np.ndarray

    def image_files(self, paths: Sequence[Path | str]) -> ImageFiles:
        """Return files as the classifier's engine takes them."""

    def score_images(self, images: ImageFiles, work: Path | str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the readable images, and their scores."""

    def labels(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to labels."""


def evaluate(classifier: Scorer, data: LabelledPaths, work: Path | str | None = None) -> Evaluation:
    """Evaluate a classifier on every readable image; a work folder keeps their bits.

    Raises
    ------
    DataError
        If a class is unknown to the classifier, or no image can be read.
    """
    files = classifier.image_files(data.paths)
    strange = sorted(set(data.labels) - set(classifier.classes_.tolist()))
    if strange:
        raise DataError(
            f"class {strange[0]!r} is not one of the model's classes: {', '.join(map(str, classifier.classes_))}"
        )
    indices, scores = classifier.score_images(files, work)
    if not len(indices):
        raise DataError(f"none of the {len(files)} test files is a readable image; check the folder")
    truth = np.array(data.labels)[indices]
    confusion = confusion_matrix(truth, classifier.labels(scores), labels=classifier.classes_)
    totals = confusion.sum(axis=1)
    right = np.diag(confusion)
    per_class = [float(hit / total) if total else None for hit, total in zip(right, totals, strict=True)]
    return Evaluation(float(right.sum() / totals.sum()), per_class, confusion, dict(files.skipped))
