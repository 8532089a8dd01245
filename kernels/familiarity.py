"""How near an image is to the training images, by the cosine of their bits.

An image of none of the classes gets a label and a probability too; it shows in that no training image is near. The
p-value of an image is the share of the training images, or of a sample of them, and itself, whose nearest other one is
no nearer than its own: for an image exchangeable with them it is at most e with probability at most e (conformal
anomaly detection; R. Laxhammar and G. Falkman, 2015).
"""

from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .array_types import Bits, Indices, Similarities, TrainingBits
from .bits import popcount
from .gram import overlap
from .memory import Budget, block_length, blocks, memory_budget

_ROWS = 1024
COMPARED = 1024
"""Training images at most whose nearest others are found: a p-value of 0.001 is small enough."""


@dataclass(frozen=True)
class Familiarity:
    """How familiar images are.

    Attributes
    ----------
    p_values : float64 array of shape (n,)
        At most e for a share e of images like the training images.
    similarities : float64 array of shape (n,)
        Cosine of the bits of each image and of its nearest training image, from 0 to 1.
    nearest : int64 array of shape (n,)
        Index of that training image.
    """

    p_values: Similarities
    similarities: Similarities
    nearest: Indices


class Neighbours:
    """The nearest training images of images.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
        Of the training images.
    budget : int, str or None
        See `memory_budget`. No more than a block of similarities is held.

    Raises
    ------
    DataError
        If there are fewer than two training images.
    """

    def __init__(self, bits: TrainingBits, budget: Budget = None) -> None:
        if len(bits) < 2:
            raise DataError("how familiar an image is needs two training images or more")
        self._bits, self._budget = bits, budget
        self._roots = np.sqrt(popcount(bits))
        some = np.sort(np.random.default_rng(0).permutation(len(bits))[:COMPARED])
        nearest = [self._nearest(bits[some[which]], some[which])[1] for which in self._blocks(len(some))]
        self._sorted = np.sort(np.concatenate(nearest))

    def __call__(self, bits: Bits) -> Familiarity:
        """Return how familiar images are, given their bits, uint8 of shape (images, ceil(m / 8))."""
        parts = [self._nearest(bits[which]) for which in self._blocks(len(bits))]
        nearest = np.concatenate([np.empty(0, "int64"), *(index for index, _ in parts)])
        similarities = np.concatenate([np.empty(0), *(similarity for _, similarity in parts)])
        as_far = np.searchsorted(self._sorted, similarities, side="right")
        return Familiarity((as_far + 1) / (len(self._sorted) + 1), similarities, nearest)

    def _blocks(self, rows: int) -> list[slice]:
        each = 3 * 8 * len(self._bits)
        return list(blocks(rows, block_length(each, memory_budget(self._budget), _ROWS)))

    def _nearest(self, bits: Bits, own: Indices | None = None) -> tuple[Indices, Similarities]:
        """Return index and similarity of the nearest training image, other than their `own`."""
        roots = np.outer(np.sqrt(popcount(bits)), self._roots)
        similarities = overlap(bits, self._bits, self._budget) / np.maximum(roots, 1)
        rows = np.arange(len(bits))
        if own is not None:
            similarities[rows, own] = -1
        nearest = similarities.argmax(axis=1)
        return nearest, similarities[rows, nearest]
