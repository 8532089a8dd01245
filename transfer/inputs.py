"""What a classifier is given: images or features, their labels and weights, a seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..errors import DataError, UsageError
from ..images.batches import ImageArray, ImageFiles, Images
from ..images.sources import class_folders


def labelled(X: Any, y: Any) -> tuple[Any, Any]:
    """Return what is trained on, and its labels as an array; a folder of class folders names them itself.

    Raises
    ------
    DataError
        If there are no labels.
    """
    if isinstance(X, str | Path) and y is None:
        found = class_folders(X)
        return found.paths, np.asarray(found.labels)
    if y is None:
        raise DataError("requires y to be passed, but the target y is None; only a folder names its classes")
    return X, np.asarray(y)


def is_indicator(y: np.ndarray) -> bool:
    """Tell zeros and ones of shape (n, c) from labels."""
    return y.ndim == 2 and y.shape[1] > 1


def require_one_each(X: Any, labels: np.ndarray) -> None:
    """Refuse images of another number than labels."""
    if len(X) != len(labels):
        raise DataError(f"{len(X)} images and {len(labels)} labels; give one label an image")


def checked_weights(weights: Any, n: int) -> np.ndarray:
    """Return the weights of n images as float64, 1 where none are given.

    Raises
    ------
    UsageError
        If they are not n finite numbers, one or more above 0 and none below.
    """
    if weights is None:
        return np.ones(n)
    found: np.ndarray = np.asarray(weights, dtype="float64")
    if found.shape != (n,) or not (np.isfinite(found) & (found >= 0)).all():
        raise UsageError(f"sample_weight of shape {found.shape} must be {n} finite numbers, none negative")
    if n and not found.any():
        raise UsageError("sample_weight is zero everywhere; give at least two images a positive weight")
    return found


def seed_of(random_state: Any) -> int:
    """Return the seed that scikit-learn's ``random_state`` stands for."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def is_features(X: Any) -> bool:
    """Tell features, and whatever scikit-learn is to refuse, from images and their paths."""
    if isinstance(X, str | Path):
        return False
    if isinstance(X, Sequence):
        return not (len(X) and isinstance(X[0], str | Path))
    return not (getattr(X, "ndim", 0) == 4 or getattr(getattr(X, "dtype", None), "kind", "") == "U")


def as_images(X: Any, size: tuple[int, int], resize: Any, description: str | None) -> Images:
    """Return files or pixels as an engine takes them.

    Raises
    ------
    UsageError
        If they are features.
    """
    if isinstance(X, np.ndarray) and X.ndim == 4:
        return ImageArray(X, description)
    if is_features(X):
        raise UsageError("the classifier was trained on images; give files or uint8 of shape (n, height, width, 3)")
    return ImageFiles(list(X), size, resize, description=description)
