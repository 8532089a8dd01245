"""Split labelled images and evaluate classifiers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import DataError
from ..images.batches import ImageFiles
from ..images.duplicates import conflicting_labels, shared_files
from ..images.labelled import labelled_images, labelled_parts
from ..images.sources import LabelledPaths, as_set, warn
from .multilabel import LabelEvaluation, accuracy_interval, evaluate_labels, indicator
from .splits import draw_split

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
    found = split_data(data, test, seed)
    return found.train, found.test


class Split(NamedTuple):
    """Training images and test images.

    Attributes
    ----------
    train, test : LabelledPaths
    apart : bool
        Whether the test images were given as such, and not split off.
    """

    train: LabelledPaths
    test: LabelledPaths
    apart: bool


def split_data(data: Path | str, test: Path | str | None = None, seed: int = 0) -> Split:
    """List training and test images, and say whether these were given apart; see `train_and_test`."""
    train, tested = labelled_parts(data) if test is None else (labelled_images(data), labelled_images(test, "test"))
    _check_training(train, data)
    apart = tested is not None
    if tested is not None:
        tested = _alike(tested, train, test or data)
        if strange := sorted(set(tested.names) - set(train.names)):
            where = f"{test} contains" if test else f"the test part of {data} contains"
            count = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            raise DataError(
                f"{where} the class {strange[0]!r}{count}, of which there is no training image; add some, or leave its "
                "test images out"
            )
    else:
        train, tested = split(train, seed)
    if len(tested.paths) < FEW:
        warn(f"the accuracy on only {len(tested.paths)} test images says little; give more images, or --test")
    if shared := shared_files(train.paths, tested.paths):
        warn(
            f"{len(shared)} of {len(tested.paths)} test images are also training images, first {_pair(*shared[0])}: "
            "the accuracy will be too high; remove the copies"
        )
    return Split(train, tested, apart)


def training_images(data: Path | str) -> LabelledPaths:
    """List the training images alone, of two or more classes; see `train_and_test`."""
    train = labelled_images(data)
    _check_training(train, data)
    return train


def _check_training(train: LabelledPaths, data: Path | str) -> None:
    """Refuse a single class, and warn of images under several."""
    if len(train.names) < 2:
        raise DataError(f"{data} contains only one class, {', '.join(train.names)!r}; a classifier needs two or more")
    if conflicts := conflicting_labels(train.paths, train.labels):
        where = "have copies with other labels" if train.multilabel else "are in more than one class"
        warn(f"{len(conflicts)} images {where}, first {_pair(*conflicts[0])}; keep each in one")


def _pair(first: Path, second: Path) -> str:
    return f"{first} and {second}" if first != second else str(first)


def _alike(tested: LabelledPaths, train: LabelledPaths, name: Path | str) -> LabelledPaths:
    """Return test images with as many labels an image as the training images may have."""
    if tested.multilabel and not train.multilabel:
        raise DataError(f"{name} gives images several labels, and the training images have one each; give one to each")
    labels = [*map(as_set, tested.labels)] if train.multilabel else tested.labels
    return replace(tested, labels=labels)


def split(data: LabelledPaths, seed: int = 0) -> tuple[LabelledPaths, LabelledPaths]:
    """Split labelled images 80:20, stratified by class; see `train_and_test`.

    Where images may have several labels they are stratified by the rarest label of each that several images have.
    """
    if data.multilabel:
        return _split_sets(data, seed)
    counts = Counter(data.labels)
    for name, count in counts.items():
        if count < 2:
            raise DataError(f"class {name!r} has only one image; add a second to split off test images, or give --test")
    tested = round(TEST_SHARE * len(data.paths))
    if min(tested, len(data.paths) - tested) < len(counts):
        raise DataError(f"{len(data.paths)} images are too few to split for {len(counts)} classes; give --test")
    train, test = draw_split(len(data.paths), tested, data.labels, seed)
    return data.take(train), data.take(test)


def _split_sets(data: LabelledPaths, seed: int) -> tuple[LabelledPaths, LabelledPaths]:
    n = len(data.paths)
    tested = max(1, round(TEST_SHARE * n))
    too_few = DataError(f"{n} images are too few to split; give --test")
    if n < 3:
        raise too_few
    counts = Counter(name for label in data.labels for name in as_set(label))
    rarest = [min(as_set(label), key=lambda name: (counts[name], name), default="") for label in data.labels]
    sizes = Counter(rarest)
    # One that few images have cannot be in both parts.
    strata = [name if sizes[name] > 1 / TEST_SHARE else "" for name in rarest]
    alike = strata if min(Counter(strata).values()) > 1 and len(set(strata)) <= min(tested, n - tested) else None
    train, test = draw_split(n, tested, alike, seed)
    lacking = set(data.names).difference(data.take(train).names)
    moved = {row for row in test if lacking.intersection(as_set(data.labels[row]))}
    if len(moved) == len(test):
        raise too_few
    return data.take([*train, *sorted(moved)]), data.take(row for row in test if row not in moved)


class Scorer(Protocol):
    """What is evaluated: an `OpticalClassifier`, whose attributes and methods these are."""

    classes_: np.ndarray
    temperature_: float | None

    @property
    def multilabel_(self) -> bool:
        """Whether an image may have several labels."""

    def image_files(self, paths: Sequence[Path | str]) -> ImageFiles:
        """Return files as the classifier's engine takes them."""

    def score_images(self, images: ImageFiles, work: Path | str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the readable images, and their scores."""

    def iter_values(self, images: ImageFiles) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Yield the indices of the readable images and their bits, block by block, and what else `scores_of` takes."""

    def scores_of(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the scores of a block."""

    def labels(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to labels."""

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to probabilities."""


def _hashes(bits: np.ndarray) -> np.ndarray:
    return np.fromiter((hash(row.tobytes()) for row in bits), "int64", len(bits))


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which values are among known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(values), bool)
    found: np.ndarray = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return found


class Evaluating:
    """An evaluation as it goes: images are scored block by block, and only counts of them are kept.

    Where images may have several labels their scores are kept, since average precision ranks all of them.

    Parameters
    ----------
    classifier : OpticalClassifier
    data : LabelledPaths
    work : path, optional
        A work folder that keeps the bits of all images; they are then one block.
    training : uint8 array of shape (n, ceil(m / 8)), optional
        Bits of training images, to count those that are evaluated.

    Attributes
    ----------
    trained : int
        Images so far whose bits are those of a training image, without a work folder.

    Raises
    ------
    DataError
        If a class is unknown to the classifier.
    """

    def __init__(
        self,
        classifier: Scorer,
        data: LabelledPaths,
        work: Path | str | None = None,
        training: np.ndarray | None = None,
    ) -> None:
        self._classifier, self._data, self._work = classifier, data, work
        self._files = classifier.image_files(data.paths)
        self._numbers = {label: number for number, label in enumerate(classifier.classes_.tolist())}
        if data.multilabel and not classifier.multilabel_:
            raise DataError("the images have several labels each, and the model gives one; fit one on such images")
        if strange := sorted(set(data.names) - set(self._numbers)):
            raise DataError(
                f"class {strange[0]!r} is not one of the model's classes: {', '.join(map(str, self._numbers))}"
            )
        self._confusion = np.zeros((len(self._numbers), len(self._numbers)), "int64")
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        self._training = np.sort(_hashes(np.empty((0, 1), "uint8") if training is None else training))
        self._done = self.trained = 0
        self._failure: BaseException | None = None
        self._blocks = self._evaluated()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield records of images: ``path``, ``label``, and ``predicted`` and ``probability``, or ``error``."""
        return self._blocks

    def _evaluated(self) -> Iterator[list[dict[str, Any]]]:
        try:
            for indices, scores in self._scored():
                yield self._counted(indices, scores)
            yield self._unreadable(len(self._files))
        except BaseException as error:
            self._failure = error
            raise

    def _scored(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        classifier = self._classifier
        if self._work is not None:
            yield classifier.score_images(self._files, self._work)
            return
        for indices, values in classifier.iter_values(self._files):
            self.trained += int(_among(_hashes(values["bits"]), self._training).sum())
            yield indices, classifier.scores_of(values)

    def _counted(self, indices: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        classifier, records = self._classifier, list[dict[str, Any]]()
        predicted, places = self._named(scores), indices.tolist()
        # A model of an earlier version has no probabilities.
        chances = [None] * len(places)
        if classifier.temperature_ is not None:
            chances = classifier.probabilities(scores).max(axis=1).tolist()
        if classifier.multilabel_:
            self._kept.append((indices, scores))
        for index, found, chance in zip(places, predicted, chances, strict=True):
            records += self._unreadable(index)
            path, label = str(self._files.paths[index]), self._label(index)
            if not classifier.multilabel_:
                self._confusion[self._numbers[label], self._numbers[found]] += 1
            records.append({"path": path, "label": label, "predicted": found, "probability": chance})
            self._done = index + 1
        return records

    def _unreadable(self, end: int) -> list[dict[str, Any]]:
        """Return the records of the files up to an index, which could not be read."""
        which = range(self._done, end)
        self._done = end
        paths, skipped = self._files.paths, self._files.skipped
        return [{"path": str(paths[i]), "label": self._label(i), "error": skipped[str(paths[i])]} for i in which]

    def _label(self, index: int) -> Any:
        """Return the label of an image, or the list of its labels."""
        label = self._data.labels[index]
        return sorted(as_set(label), key=self._numbers.__getitem__) if self._classifier.multilabel_ else label

    def _named(self, scores: np.ndarray) -> list[Any]:
        """Return the label that each image is given, or the list of its labels."""
        classifier = self._classifier
        if classifier.multilabel_:
            return [classifier.classes_[row > 0].tolist() for row in scores]
        labels: list[Any] = classifier.labels(scores).tolist()
        return labels

    def result(self) -> Evaluation | LabelEvaluation:
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
        skipped = dict(self._files.skipped)
        totals = self._confusion.sum(axis=1)
        if not totals.any() and not any(len(indices) for indices, _ in self._kept):
            raise DataError(f"none of the {len(self._files)} test files is a readable image; check the folder")
        if self._classifier.multilabel_:
            indices, scores = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
            truth = indicator(self._data.labels, list(self._numbers))[indices]
            return evaluate_labels(truth, scores, skipped)
        right = np.diag(self._confusion)
        per_class = [float(hit / total) if total else None for hit, total in zip(right, totals, strict=True)]
        return Evaluation(float(right.sum() / totals.sum()), per_class, self._confusion, skipped)


def evaluate(classifier: Scorer, data: LabelledPaths, work: Path | str | None = None) -> Evaluation | LabelEvaluation:
    """Evaluate a classifier on every readable image; a work folder keeps their bits.

    A classifier that gives several labels an image has a `LabelEvaluation`.

    Raises
    ------
    DataError
        If a class is unknown to the classifier, or no image can be read.
    """
    return Evaluating(classifier, data, work).result()
