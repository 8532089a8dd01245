"""Which training images to look at again: labels that leave-one-out contradicts, and copies.

The ranking of labels was chosen on photographs of scenes, magnetic tiles, pets, land from above, ants and bees, a
twentieth of whose labels had been changed, by how many of as many images, the first ones, were those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels.probability import fit_temperature, probabilities
from ..kernels.ridge import RidgePath
from .copies import Copy

KERNELS, POOLED_KERNELS = ("none", "exact"), ("none", "exact", "rbf")
"""The kernels whose leave-one-out scores are averaged: they err on different images."""
_OTHER = 0.5
"""What the score of the best other label counts, against that of the image's own. At 1, the difference would rank
images that look like two classes before those that look like another."""
_FOLDS, _PENALTY, _ITERATIONS = 5, 0.3, 300
_COSTLY = 10**9
"""Images times squared classes up to which a logistic regression takes no more than a minute."""
REASONS = {"labels": "label", "conflicts": "conflict", "leaks": "leak", "copies": "copy"}
"""Why an image is in a list of a review."""


@dataclass(frozen=True)
class Suspect:
    """A training image whose label leave-one-out contradicts.

    Attributes
    ----------
    image : int
        Index into the training images.
    label, suggested
        Its label, and the one that leave-one-out prefers; for multilabel targets lists of labels, of which one differs.
    probability, suggested_probability : float
        Of the two by leave-one-out; for multilabel targets that the label that differs is as given, or not.
    """

    image: int
    label: Any
    suggested: Any
    probability: float
    suggested_probability: float


@dataclass(frozen=True)
class Review:
    """What to look at again of the training images.

    Attributes
    ----------
    images : tuple of str
        The training images: their files, or numbers from 0.
    labels : list
        The label of each; for multilabel targets a list of its labels.
    suspects : list of Suspect
        The most suspicious first.
    conflicts : list of Copy
        Copies under another label.
    copies : list of Copy
        Copies under the same label.
    tested : tuple of str
        The images of the set that was compared.
    leaks : list of Copy
        Those of them that are copies of training images.
    skipped : dict
        Reason for each of them that could not be read.
    """

    images: tuple[str, ...]
    labels: list[Any]
    suspects: list[Suspect]
    conflicts: list[Copy]
    copies: list[Copy]
    tested: tuple[str, ...] = ()
    leaks: list[Copy] = field(default_factory=list)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def lists(self) -> dict[str, list[dict[str, Any]]]:
        """Return what was found by kind: ``labels``, ``conflicts``, ``leaks`` and ``copies``.

        Returns
        -------
        dict of list of dict
            Each has the ``path`` and ``label`` of a training image; of a label ``suggested``, ``probability`` and
            ``suggested_probability``, of all others the file of the ``other`` image, its ``other_label``, ``mirrored``,
            ``distance`` and ``difference``.
        """
        return {
            "labels": [
                {
                    **self._named(each.image),
                    "suggested": each.suggested,
                    "probability": each.probability,
                    "suggested_probability": each.suggested_probability,
                }
                for each in self.suspects
            ],
            "conflicts": [self._copied(each, each.image, each.original) for each in self.conflicts],
            "leaks": [self._leaked(each) for each in self.leaks],
            "copies": [self._copied(each, each.image, each.original) for each in self.copies],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each training image and ``reason`` to look at it, one of `REASONS`; see `lists`.

        Of a conflict there is a row for both images.
        """
        lists = self.lists()
        turned = [self._copied(each, each.original, each.image) for each in self.conflicts]
        lists["conflicts"] = [row for pair in zip(lists["conflicts"], turned, strict=True) for row in pair]
        return [{**row, "reason": REASONS[kind]} for kind, found in lists.items() for row in found]

    def _named(self, image: int) -> dict[str, Any]:
        return {"path": self.images[image], "label": self.labels[image]}

    def _copied(self, copy: Copy, image: int, other: int) -> dict[str, Any]:
        return {**self._named(image), "other": self.images[other], "other_label": self.labels[other], **_measured(copy)}

    def _leaked(self, copy: Copy) -> dict[str, Any]:
        other = self.tested[copy.image]
        return {**self._named(copy.original), "other": other, "other_label": None, **_measured(copy)}


def _measured(copy: Copy) -> dict[str, Any]:
    return {"mirrored": copy.mirrored, "distance": copy.distance, "difference": copy.difference}


def averaged(paths: Sequence[RidgePath]) -> np.ndarray:
    """Return the mean of the leave-one-out scores of several kernels, float64 of shape (n, c)."""
    scores: np.ndarray = np.mean([np.asarray(path.loo_scores, "float64") for path in paths], axis=0)
    return scores


def suspicion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how much speaks for each image's own label; the least is the most suspicious.

    Parameters
    ----------
    scores : float array of shape (n, c)
        Leave-one-out scores.
    labels : int64 array of shape (n,) or (n, c)

    Returns
    -------
    array of shape (n,)
        The sum of two parts, each over its standard deviation: the score of the own label less half of that of the best
        other one; and the logarithm of the own label's probability by logistic regression on the scores of all classes,
        cross-validated, which knows what classes are often confused. Of fewer than `_FOLDS` images of a class, or very
        many images and classes, the first part alone. For multilabel targets it is the least of the labels' scores,
        those of labels that it has not negated.
    """
    if labels.ndim == 2:
        least: np.ndarray = ((2 * labels - 1) * scores).min(axis=1)
        return least
    own, other = _own_and_other(scores, labels)
    result: np.ndarray = _of(scores, own) - _OTHER * _of(scores, other)
    n, c = scores.shape
    if np.bincount(labels, minlength=c).min() < _FOLDS or n * c**2 > _COSTLY:
        return result
    return result / (result.std() or 1) + (chances := _log_chances(scores, labels)) / (chances.std() or 1)


def _log_chances(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the logarithm of the probability of each own label, by logistic regression that has not seen the image."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    model = LogisticRegression(C=_PENALTY, max_iter=_ITERATIONS)
    found = cross_val_predict(model, scores / (scores.std() or 1), labels, cv=folds, method="predict_log_proba")
    return _of(found, labels)


def _own_and_other(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the own label of each image, and the best other one."""
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return labels, others.argmax(axis=1)


def _of(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
    picked: np.ndarray = scores[np.arange(len(scores)), columns]
    return picked


def suspects(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: Sequence[Any]) -> list[Suspect]:
    """Return the images whose label leave-one-out contradicts, the most suspicious first.

    Parameters
    ----------
    scores : float64 array of shape (n, c)
        Leave-one-out scores.
    labels : int64 array of shape (n,) or (n, c)
        Indices of the classes, or a multilabel indicator matrix.
    weights : float64 array of shape (n,)
        Of the images, for the temperature of the probabilities.
    classes : sequence of length c
    """
    multilabel = labels.ndim == 2
    chances = probabilities(scores, fit_temperature(scores, labels, weights), multilabel)
    if multilabel:
        return _of_several(scores, chances, labels, classes)
    own, other = _own_and_other(scores, labels)
    contradicted = _of(scores, own) < _of(scores, other)
    order = np.argsort(suspicion(scores, labels), kind="stable")
    return [
        Suspect(int(i), classes[own[i]], classes[other[i]], float(chances[i, own[i]]), float(chances[i, other[i]]))
        for i in order[contradicted[order]]
    ]


def _of_several(scores: np.ndarray, chances: np.ndarray, labels: np.ndarray, classes: Sequence[Any]) -> list[Suspect]:
    signed = (2 * labels - 1) * scores
    found = []
    for i in np.argsort(signed.min(axis=1), kind="stable"):
        if signed[i].min() >= 0:
            break
        column = int(signed[i].argmin())
        changed = labels[i].copy()
        changed[column] = 1 - changed[column]
        given = float(chances[i, column] if labels[i, column] else 1 - chances[i, column])
        found.append(Suspect(int(i), named(labels[i], classes), named(changed, classes), given, 1 - given))
    return found


def named(row: np.ndarray, classes: Sequence[Any]) -> list[Any]:
    """Return the names of an image's labels."""
    return [name for name, has in zip(classes, row, strict=True) if has]
