"""Validate the inputs of a classifier: images or features, labels, weights and the seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..errors import DataError, UsageError
from ..images.batches import ImageArray, ImageFiles, Images
from ..images.sources import class_folders


def images_and_labels(X: Any, y: Any) -> tuple[Any, Any]:
    """Return the training data and its labels as an array; a folder of class folders provides both.

    Raises
    ------
    DataError
        If `y` is None and `X` is not a folder.
    """
    if isinstance(X, str | Path) and y is None:
        found = class_folders(X)
        return found.paths, np.asarray(found.labels)
    if y is None:
        raise DataError("requires y to be passed, but the target y is None; only a folder names its classes")
    # Paths as NumPy holds them are no pixels.
    return X.tolist() if getattr(getattr(X, "dtype", None), "kind", "") == "U" else X, np.asarray(y)


def is_indicator(y: np.ndarray) -> bool:
    """Return whether targets are a multilabel indicator matrix of shape (n, c)."""
    return y.ndim == 2 and y.shape[1] > 1


def check_lengths(X: Any, labels: np.ndarray) -> None:
    """Raise DataError unless there is one label per image."""
    if len(X) != len(labels):
        raise DataError(f"{len(X)} images and {len(labels)} labels; give one label per image")


def checked_weights(weights: Any, n: int) -> np.ndarray:
    """Return the weights of n images as float64, by default 1.

    Raises
    ------
    UsageError
        If they are not n finite, non-negative numbers, or all are 0.
    """
    if weights is None:
        return np.ones(n)
    found: np.ndarray = np.asarray(weights, dtype="float64")
    if found.shape != (n,) or not (np.isfinite(found) & (found >= 0)).all():
        raise UsageError(f"sample_weight of shape {found.shape} must be {n} finite, non-negative numbers")
    if n and not found.any():
        raise UsageError("sample_weight is zero everywhere; give at least two images a positive weight")
    return found


def resolve_seed(random_state: Any) -> int:
    """Return the seed of a scikit-learn ``random_state``."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def is_features(X: Any) -> bool:
    """Return whether inputs are neither images nor paths: features, or invalid input that scikit-learn rejects."""
    if isinstance(X, str | Path):
        return False
    if isinstance(X, Sequence):
        return not (len(X) and isinstance(X[0], str | Path))
    return not (getattr(X, "ndim", 0) == 4 or getattr(getattr(X, "dtype", None), "kind", "") == "U")


def as_images(X: Any, shape: tuple[int, int, int], resize: Any, description: str | None) -> Images:
    """Return files or pixels as batches for an engine of that input shape.

    Raises
    ------
    UsageError
        If they are features.
    """
    if isinstance(X, np.ndarray) and X.ndim == 4:
        return ImageArray(X, description)
    if is_features(X):
        raise UsageError("the classifier was trained on images; give files or uint8 of shape (n, height, width, 3)")
    return ImageFiles(list(X), shape[:2], resize, description=description, channels=shape[2])
