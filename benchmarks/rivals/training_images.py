"""Labelled images to train on: their classes, the split, and their batches."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from ...errors import DataError, UsageError
from ...images.batches import ImageArray, ImageFiles
from ...transfer.inputs import check_lengths

ImageSource = np.ndarray | ImageArray | ImageFiles


@dataclass(frozen=True)
class LabelledImages:
    """Some of the images, by index, with the class numbers of all."""

    images: np.ndarray | ImageFiles
    targets: np.ndarray
    indices: np.ndarray

    @classmethod
    def of(cls, images: ImageSource, targets: np.ndarray | None = None) -> "LabelledImages":
        """Take images with their class numbers, or without any.

        Raises
        ------
        UsageError
            If the images are of no kind that is known.
        DataError
            If there are none, or not as many as class numbers.
        """
        pixels = images.pixels if isinstance(images, ImageArray) else images
        if not isinstance(pixels, ImageFiles):
            found = f"{getattr(pixels, 'dtype', type(pixels).__name__)} of shape {np.shape(pixels)}"
            if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[3:] != (3,):
                raise UsageError(f"images are {found}; give ImageFiles or uint8 of shape (n, height, width, 3)")
        if targets is not None:
            check_lengths(pixels, targets)
        if not len(pixels):
            raise DataError("there are no images (0 given); give at least one")
        return cls(pixels, np.empty(0, "int64") if targets is None else targets, np.arange(len(pixels)))

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield indices and pixels, which are the caller's own; what cannot be read is left out."""
        indices = self.indices if order is None else self.indices[order]
        if isinstance(self.images, np.ndarray):
            for start in range(0, len(indices), size):
                chosen = indices[start : start + size]
                yield chosen, self.images[chosen]
            return
        files = replace(self.images, paths=[self.images.paths[index] for index in indices], description=None)
        for where, pixels in files.batches(size):
            yield indices[where], pixels

    def digest(self) -> str:
        """Return a digest of pixels, or of files' names and sizes, with class numbers and indices."""
        if isinstance(self.images, np.ndarray):
            content: Any = np.ascontiguousarray(self.images).data
        else:
            named = [(str(path), Path(path).stat().st_size) for path in self.images.paths]
            content = repr((named, self.images.size, self.images.resize)).encode()
        return digest_of(content, self.targets.tobytes(), self.indices.tobytes())


def classes_of(labels: Any) -> np.ndarray:
    """Return the classes in their order.

    Raises
    ------
    DataError
        If there are fewer than two, or the labels are not one an image.
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise DataError(f"labels have the shape {values.shape}; give one label an image")
    classes = np.unique(values)
    if len(classes) < 2:
        found = f"only one class, {classes[0]!s}, is" if len(classes) else "no label is"
        raise DataError(f"{found} in the training labels; a classifier needs two classes or more")
    return classes


def encode(labels: Any, classes: np.ndarray) -> np.ndarray:
    """Return each label's index in the classes.

    Raises
    ------
    DataError
        If a label is not among them.
    """
    values = np.asarray(labels)
    strange = np.setdiff1d(values, classes)
    if len(strange):
        raise DataError(f"class {strange[0]!s} is not one of the training labels: {', '.join(map(str, classes))}")
    return np.searchsorted(classes, values)


def split(
    images: ImageSource, targets: np.ndarray, classes: np.ndarray, valid: float | tuple[ImageSource, Any], seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Return what is trained on and what is validated on.

    Parameters
    ----------
    images, targets
        See `LabelledImages`.
    classes : array of shape (c,)
    valid : float or (images, labels)
        Share of the images, each class alike, or other images.
    seed : int

    Raises
    ------
    UsageError, DataError
        If the share is not one, or there are too few images to split.
    """
    data = LabelledImages.of(images, targets)
    if isinstance(valid, tuple):
        return data, LabelledImages.of(valid[0], encode(valid[1], classes))
    if not 0 < valid < 1:
        raise UsageError(f"valid {valid!r} is not a share between 0 and 1; give one, or (images, labels)")
    counts = np.bincount(targets)
    if counts.min() < 2:
        raise DataError(
            f"class {classes[counts.argmin()]!s} has one image; to split off validation images it needs two, "
            "or give valid=(images, labels)"
        )
    held = max(round(valid * len(targets)), len(classes))
    if len(targets) - held < len(classes):
        raise DataError(
            f"{len(targets)} images are too few to split {held} off for {len(classes)} classes; "
            "give more, or valid=(images, labels)"
        )
    train, rest = train_test_split(data.indices, test_size=held, stratify=targets, random_state=seed)
    return replace(data, indices=train), replace(data, indices=rest)


def digest_of(*parts: Any) -> str:
    """Return a digest of several buffers of bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
