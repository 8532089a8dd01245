"""Splits of labelled images, and means over them."""

from collections.abc import Sequence

import numpy as np

from ...images.sources import LabelledPaths
from ...transfer.evaluate import split
from ..contract import Cells

Parts = list[tuple[np.ndarray, np.ndarray]]
"""Indices of the training and of the test images of each split."""


def readable_splits(labelled: LabelledPaths, kept: np.ndarray, count: int) -> tuple[np.ndarray, Parts]:
    """Return class numbers of the images that could be read, and 80:20 splits of those by seeds from 0.

    Parameters
    ----------
    labelled : LabelledPaths
    kept : int array of shape (n,)
        Which of them could be read.
    count : int

    Returns
    -------
    labels : int array of shape (n,)
    parts : list of (train, test)
        Indices among the n images.
    """
    indices = {path: index for index, path in enumerate(labelled.paths)}
    rank = np.full(len(labelled.paths), -1)
    rank[kept] = np.arange(len(kept))
    parts = []
    for seed in range(count):
        train, test = (rank[[indices[path] for path in part.paths]] for part in split(labelled, seed))
        parts.append((train[train >= 0], test[test >= 0]))
    return np.unique(labelled.labels, return_inverse=True)[1][kept], parts


def standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    """Return the standard error of the mean of independent values; None for fewer than two."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def over_splits(accuracies: Sequence[float]) -> Cells:
    """Return the cells of accuracies over splits: their mean, its standard error, and all."""
    return {
        "accuracy": float(np.mean(accuracies)),
        "standard_error": standard_error(accuracies),
        "accuracies": list(accuracies),
    }


def paired(values: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray) -> Cells:
    """Return the mean of paired differences and its standard error."""
    differences = np.subtract(values, reference)
    return {"mean": float(differences.mean()), "standard_error": standard_error(differences)}
