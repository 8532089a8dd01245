"""Splitting labelled images, and measuring a classifier on them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split

from ..errors import DataError
from ..images.sources import LabelledPaths, class_folders

if TYPE_CHECKING:
    from .classifier import OpticalClassifier

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Evaluation:
    """What a classifier does on labelled images.

    Attributes
    ----------
    accuracy : float
    per_class : list of float or None
        Share of each class that is labelled rightly; None for a class without images.
    confusion : int64 array of shape (c, c)
        Images by true class (rows) and predicted class (columns).
    skipped : dict
        Unreadable files, each with the reason.
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
        A folder of class folders.
    test : path, optional
        Another of the same classes; None splits `data` 80:20, each class alike.
    seed : int
        Of the split.

    Raises
    ------
    UsageError
        If a folder does not exist.
    DataError
        If there is one class only, a class of one image has to be split, or `test` holds a class
        that `data` does not.
    """
    train = class_folders(data)
    counts = Counter(train.labels)
    if len(counts) < 2:
        raise DataError(f"{data} holds one class only, {next(iter(counts))!r}; a classifier needs two or more")
    if test is not None:
        tested = class_folders(test)
        strange = sorted(set(tested.labels) - set(counts))
        if strange:
            raise DataError(f"{test} holds the class {strange[0]!r}, which is not among those of {data}")
        return train, tested
    return split(train, seed)


def split(data: LabelledPaths, seed: int = 0) -> tuple[LabelledPaths, LabelledPaths]:
    """Split labelled images 80:20, each class alike; see `train_and_test`."""
    counts = Counter(data.labels)
    for name, count in counts.items():
        if count < 2:
            raise DataError(f"class {name!r} holds one image; to split off test images it needs two, or give --test")
    tested = round(TEST_SHARE * len(data.paths))
    if min(tested, len(data.paths) - tested) < len(counts):
        raise DataError(f"{len(data.paths)} images are too few to split for {len(counts)} classes; give --test")
    parts = train_test_split(data.paths, data.labels, test_size=tested, stratify=data.labels, random_state=seed)
    return LabelledPaths(parts[0], parts[2]), LabelledPaths(parts[1], parts[3])


def evaluate(classifier: "OpticalClassifier", data: LabelledPaths) -> Evaluation:
    """Measure a classifier on every readable image.

    Raises
    ------
    DataError
        If a class is not the classifier's, or no image can be read.
    """
    files = classifier.image_files(data.paths)
    strange = sorted(set(data.labels) - set(classifier.classes_.tolist()))
    if strange:
        raise DataError(f"class {strange[0]!r} is not one of the model's: {', '.join(classifier.classes_)}")
    indices, scores = classifier.score_images(files)
    if not len(indices):
        raise DataError(f"none of the {len(files)} test files holds a readable image")
    truth = np.array(data.labels)[indices]
    confusion = confusion_matrix(truth, classifier.labels(scores), labels=classifier.classes_)
    totals = confusion.sum(axis=1)
    right = np.diag(confusion)
    per_class = [float(hit / total) if total else None for hit, total in zip(right, totals, strict=True)]
    return Evaluation(float(right.sum() / totals.sum()), per_class, confusion, dict(files.skipped))
