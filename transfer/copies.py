"""Copies among images, such as resized, compressed or mirrored ones: proposed by bits, confirmed by pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engine.feature_map import FeatureMap
from ..images.batches import ImageFiles
from ..kernels.hamming import distance_blocks, mirrored, typical_distance
from ..kernels.memory import Budget
from .rows import Rows

SIDE = 16
"""Pixels of the sides to which pictures are reduced to compare them."""
NEAR, NEAR_MIRRORED, ALONE = 0.85, 1.0, 0.5
"""Distances of bits up to which two images may be copies, over the typical distance: of those whose pixels are compared
then, of mirrored ones, whose bits differ by more, and of those whose pixels cannot be compared."""
SAME = 0.25
"""Difference of pixels up to which two images are copies."""
_FLAT = 2.0
"""Least deviation of a picture's pixels: below, noise would tell pictures of one colour apart."""
_CENTRE = 128


@dataclass(frozen=True)
class Compared:
    """What is compared of n images.

    Attributes
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    pixels : float32 array of shape (n, 256) or None
        See `reduced`.
    """

    bits: np.ndarray
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class Copy:
    """An image, and one that it is a copy of.

    Attributes
    ----------
    image, original : int
        Indices; of two images of one set the later one is called the copy, which says nothing of which was first.
    mirrored : bool
    distance : float
        The number of bits that differ over the number of ones of both.
    difference : float or None
        Root mean square of the differences of pixels, over their standard deviation; None if one could not be read.
    """

    image: int
    original: int
    mirrored: bool
    distance: float
    difference: float | None


def reduced(paths: Sequence[Path | str], budget: Budget = None) -> np.ndarray:
    """Return files as small grayscale pictures, float32 of shape (n, 256), rows of nan where one cannot be read.

    Those of many files are in a file; see `transfer.rows`.
    """
    pixels = Rows.of({"pixels": ((SIDE * SIDE,), "float32")}, len(paths), budget)["pixels"]
    end = 0

    def skip(to: int) -> int:
        pixels.append(np.full((to - end, SIDE * SIDE), np.nan, "float32"))
        return to

    for indices, batch in ImageFiles(paths, (SIDE, SIDE), channels=1).batches(256):
        for index, picture in zip(indices.tolist(), batch.reshape(len(batch), -1), strict=True):
            end = skip(index)
            pixels.append(picture[None])
            end += 1
    skip(len(paths))
    return pixels.array()


def find_copies(
    images: Compared,
    labels: np.ndarray,
    places: FeatureMap | None = None,
    budget: Budget = None,
) -> tuple[list[Copy], list[Copy]]:
    """Find copies in a set of labelled images.

    Parameters
    ----------
    images : Compared
    labels : array of shape (n,) or (n, c)
    places : FeatureMap, optional
        Of the bits; without it mirrored copies are not found.
    budget : int, str or None
        Memory for a block of distances; see `memory_budget`.

    Returns
    -------
    same, other : lists of Copy
        The nearest earlier image of the same label, and of another label, of each image that has one.
    """
    n = len(images.bits)
    same, other = _Nearest(n), _Nearest(n)
    for found in _pairs(images, None, places, budget):
        alike = labels[found.first] == labels[found.second]
        alike = alike if alike.ndim == 1 else alike.all(axis=1)
        # The later image is the copy.
        same.take(found.turned().only(alike))
        other.take(found.turned().only(~alike))
    return same.copies(), other.copies()


def find_shared(
    images: Compared, others: Compared, places: FeatureMap | None = None, budget: Budget = None
) -> list[Copy]:
    """Find images that are copies of ones of another set, such as test images of training images.

    Returns
    -------
    list of Copy
        Of each of `images` that is a copy the nearest of `others`, its original.
    """
    nearest = _Nearest(len(images.bits))
    for found in _pairs(images, others, places, budget):
        nearest.take(found)
    return nearest.copies()


@dataclass(frozen=True)
class _Pairs:
    """Pairs of images that are copies: arrays of one length."""

    first: np.ndarray
    second: np.ndarray
    mirrored: bool
    distances: np.ndarray
    differences: np.ndarray

    def only(self, which: np.ndarray) -> "_Pairs":
        return _Pairs(
            self.first[which], self.second[which], self.mirrored, self.distances[which], self.differences[which]
        )

    def turned(self) -> "_Pairs":
        return _Pairs(self.second, self.first, self.mirrored, self.distances, self.differences)


def _pairs(images: Compared, others: Compared | None, places: FeatureMap | None, budget: Budget) -> Iterator[_Pairs]:
    """Yield the copies of each block; in one set those whose first image is before the second."""
    if not len(images.bits) or (others is not None and not len(others.bits)):
        return
    right = images if others is None else others
    scale = typical_distance(right.bits)
    yield from _of_blocks(images, right, others is None, None, scale, budget)
    if places is not None and images.pixels is not None and right.pixels is not None:
        yield from _of_blocks(images, right, others is None, places, scale, budget)


def _of_blocks(
    left: Compared, right: Compared, one_set: bool, turned: FeatureMap | None, scale: float, budget: Budget
) -> Iterator[_Pairs]:
    """Yield the copies of each block; with `turned`, the places of features, those of which one is mirrored."""

    def mirror(bits: np.ndarray) -> np.ndarray:
        if turned is None:
            return bits
        return mirrored(bits, turned.channels, turned.height, turned.width, turned.channels_last)

    near = scale * (NEAR if turned is None else NEAR_MIRRORED)
    for rows, columns, distances in distance_blocks(left.bits, right.bits, one_set, budget, mirror):
        candidates = distances <= near
        if one_set:
            candidates &= np.arange(rows.start, rows.stop)[:, None] < np.arange(columns.start, columns.stop)
        differences = np.full(distances.shape, np.nan)
        if left.pixels is not None and right.pixels is not None:
            others = right.pixels[columns]
            if turned is not None:
                others = others.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(others.shape)
            differences = _differences(left.pixels[rows], others)
        unread = np.isnan(differences)
        found = candidates & (differences <= SAME)
        if turned is None:
            found |= candidates & unread & (distances <= ALONE * scale)
        i, j = np.nonzero(found)
        if len(i):
            yield _Pairs(i + rows.start, j + columns.start, turned is not None, distances[i, j], differences[i, j])


def _differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the root mean square differences of all pairs, over the smaller of their standard deviations."""
    left, right = first - _CENTRE, second - _CENTRE
    size = left.shape[1]
    squares = (np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * (left @ right.T)) / size
    deviations = np.minimum(left.std(axis=1)[:, None], right.std(axis=1))
    result: np.ndarray = np.sqrt(np.maximum(squares, 0)) / np.maximum(deviations, _FLAT)
    return result


class _Nearest:
    """The nearest original of each of n images, as pairs come."""

    def __init__(self, n: int) -> None:
        self._rank = np.full(n, np.inf)
        self._original = np.full(n, -1)
        self._mirrored = np.zeros(n, bool)
        self._distance, self._difference = np.zeros(n), np.full(n, np.nan)

    def take(self, pairs: _Pairs) -> None:
        """Take pairs, of which the first image is the copy."""
        # Those without pixels come after those with: their distances are compared among themselves.
        ranks = np.where(np.isnan(pairs.differences), 1 + pairs.distances, pairs.differences)
        order = np.lexsort((pairs.second, ranks, pairs.first))
        image, start = np.unique(pairs.first[order], return_index=True)
        best = order[start]
        nearer = ranks[best] < self._rank[image]
        image, best = image[nearer], best[nearer]
        self._rank[image], self._original[image] = ranks[best], pairs.second[best]
        self._mirrored[image] = pairs.mirrored
        self._distance[image], self._difference[image] = pairs.distances[best], pairs.differences[best]

    def copies(self) -> list[Copy]:
        """Return the images that have an original, the nearest first."""
        images = np.flatnonzero(self._original >= 0)
        return [
            Copy(
                int(image),
                int(self._original[image]),
                bool(self._mirrored[image]),
                float(self._distance[image]),
                None if np.isnan(self._difference[image]) else float(self._difference[image]),
            )
            for image in images[np.argsort(self._rank[images], kind="stable")]
        ]
