"""Several labels an image: what a classifier gives to each, and how right it is."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from ..errors import DataError
from ..images.sources import Label, LabelledPaths, as_set


@dataclass(frozen=True)
class LabelScore:
    """How right one label is over images.

    Attributes
    ----------
    images : int
        How many have it.
    average_precision : float or None
        The area under precision over recall, as its score ranks the images; None without images that have it.
    precision : float or None
        Of the images that are given it, the share that have it; None without such images.
    recall : float or None
        Of the images that have it, the share that are given it; None without such images.
    """

    images: int
    average_precision: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class LabelEvaluation:
    """Evaluation of a classifier on images that may have several labels.

    Attributes
    ----------
    accuracy : float
        The share of images with all their labels right.
    mean_average_precision : float or None
        The mean over the labels that images have.
    labels : list of LabelScore
        In the order of the classes.
    confusion : int64 array of shape (c, 2, 2)
        Of each label, images by whether they have it (rows) and are given it (columns).
    images : int
    skipped : dict
        Reason for each file that could not be read.
    """

    accuracy: float
    mean_average_precision: float | None
    labels: list[LabelScore]
    confusion: np.ndarray
    images: int
    skipped: dict[str, str]

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the accuracy; see `accuracy_interval`."""
        return accuracy_interval(round(self.accuracy * self.images), self.images)


def accuracy_interval(right: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of an accuracy: in which that on all such images lies with this confidence.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22, 1927.
    """
    share, deviations = right / images, float(ndtri(0.5 + 0.5 * confidence))
    width = 2 * (images + deviations**2)
    middle = (2 * images * share + deviations**2) / width
    reach = deviations / width * math.sqrt(4 * images * share * (1 - share) + deviations**2)
    return (middle - reach if right else 0.0), (middle + reach if right < images else 1.0)


def indicator(labels: Sequence[Label], names: Sequence[str]) -> np.ndarray:
    """Return which labels images have, int64 of shape (n, c) of zeros and ones.

    Raises
    ------
    DataError
        If a label is not among the names.
    """
    place = {name: index for index, name in enumerate(names)}
    found = np.zeros((len(labels), len(names)), "int64")
    for row, label in enumerate(labels):
        for name in as_set(label):
            if name not in place:
                raise DataError(f"label {name!r} is not one of {', '.join(map(str, names))}")
            found[row, place[name]] = 1
    return found


def named_indicator(sets: Sequence[Label]) -> tuple[np.ndarray, np.ndarray]:
    """Return which labels images have, as `indicator`, and the names, sorted.

    Raises
    ------
    DataError
        If there are fewer than two names.
    """
    names = sorted({name for label in sets for name in as_set(label)})
    if len(names) < 2:
        raise DataError(f"the images have {len(names)} labels together; give two or more")
    return indicator(sets, names), np.array(names)


def encoded(data: LabelledPaths) -> tuple[list[str], np.ndarray]:
    """Return the class names, and labels as indices of them or as an indicator matrix."""
    if data.multilabel:
        return data.names, indicator(data.labels, data.names)
    names, labels = np.unique(np.array(data.labels), return_inverse=True)
    return names.tolist(), labels


def evaluate_labels(truth: np.ndarray, scores: np.ndarray, skipped: dict[str, str]) -> LabelEvaluation:
    """Compare scores of n images with the labels that they have.

    Parameters
    ----------
    truth : int64 array of shape (n, c)
        Of zeros and ones.
    scores : float64 array of shape (n, c)
        Those above 0 give a label.
    skipped : dict
    """
    from sklearn.metrics import multilabel_confusion_matrix

    given = (scores > 0).astype("int64")
    confusion = multilabel_confusion_matrix(truth, given)
    labels = list(_label_scores(truth, scores, confusion))
    precisions = [each.average_precision for each in labels if each.average_precision is not None]
    mean = float(np.mean(precisions)) if precisions else None
    return LabelEvaluation(float((given == truth).all(axis=1).mean()), mean, labels, confusion, len(truth), skipped)


def _label_scores(truth: np.ndarray, scores: np.ndarray, confusion: np.ndarray) -> Iterator[LabelScore]:
    from sklearn.metrics import average_precision_score

    for own, ranked, ((_, false), (missed, right)) in zip(truth.T, scores.T, confusion.tolist(), strict=True):
        images, told = right + missed, right + false
        yield LabelScore(
            images,
            float(average_precision_score(own, ranked)) if images else None,
            right / told if told else None,
            right / images if images else None,
        )


def given_labels(classes: np.ndarray, scores: np.ndarray, probabilities: np.ndarray | None) -> dict[str, Any]:
    """Return what an image's prediction has: the names that it is given, and ``labels`` with the numbers of each.

    Parameters
    ----------
    classes : array of shape (c,)
    scores : float64 array of shape (c,)
    probabilities : float64 array of shape (c,), or None

    Returns
    -------
    dict
        ``label``, a list of names, those with the highest scores first, of which there may be none; and ``labels``, a
        list of dict with ``label``, ``score`` and ``probability`` of each.
    """
    order = np.argsort(-scores, kind="stable")
    labels = [
        {
            "label": classes[each].item(),
            "score": float(scores[each]),
            "probability": None if probabilities is None else float(probabilities[each]),
        }
        for each in order[scores[order] > 0]
    ]
    return {"label": [each["label"] for each in labels], "labels": labels}
