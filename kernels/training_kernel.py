"""The kernel of a readout between new images and the training images, whole: what leave-one-out alone does not need."""

from dataclasses import dataclass, field

import numpy as np

from ..errors import UsageError
from .array_types import (
    Bits,
    ChannelMeans,
    RowWeights,
    SelfSimilarities,
    SimilarityRows,
    TrainingBits,
    TrainingChannels,
)
from .bits import popcount
from .blas import product
from .exact_kernel import exact_kernel
from .gram import overlap
from .memory import Budget
from .pooled import Standardization, mean_eigenvalue, radial_kernel, standardization
from .readout import POOLED, SUMS

KINDS = ("none", "exact", *POOLED)
"""The kinds of readouts whose kernel it is: of speckle it would take a projection of all training images."""


@dataclass
class TrainingKernel:
    """The kernel of a fitted readout, between any images and those it was fitted to.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    bits : uint8 array of shape (n, ceil(m / 8))
        Of the training images.
    pooled : float32 array of shape (n, channels) or None
        Their pooled features.
    weights : float64 array of shape (n,)
        Their weights in the fit.
    budget : int, str or None
        See `memory_budget`.

    Raises
    ------
    UsageError
        If it is the kind of another readout.
    """

    kind: str
    bits: TrainingBits
    pooled: TrainingChannels | None
    weights: RowWeights
    budget: Budget = None
    _sizes: dict[str, float] = field(default_factory=dict, init=False)
    _standardize: Standardization | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"prediction sets need the kernel between an image and all training images, which projection "
                f"{self.kind!r} does not have here; fit with one of {', '.join(KINDS)}"
            )
        if self.kind in POOLED:
            assert self.pooled is not None
            self._standardize = standardization(self.pooled, self.weights)

    def gram(self) -> SimilarityRows:
        """Return the kernel of the training images among themselves, float64 of shape (n, n)."""
        if self.kind not in SUMS:
            return self._part(self.kind, self.bits, self.pooled)
        total = np.zeros((len(self.bits), len(self.bits)))
        for part in SUMS[self.kind]:
            kernel = self._part(part, self.bits, self.pooled)
            self._sizes[part] = mean_eigenvalue(kernel, self.weights)
            kernel /= self._sizes[part]
            total += kernel
        return total

    def rows(self, bits: Bits, pooled: ChannelMeans | None) -> SimilarityRows:
        """Return the kernel between images and the training images, float64 of shape (images, n), after `gram`."""
        return sum(self._part(part, bits, pooled) / size for part, size in self._parts())  # type: ignore[return-value]

    def own(self, bits: Bits, pooled: ChannelMeans | None) -> SelfSimilarities:
        """Return the kernel of each image with itself, float64 of shape (images,), after `gram`."""
        return sum(self._own(part, bits, pooled) / size for part, size in self._parts())  # type: ignore[return-value]

    def _parts(self) -> list[tuple[str, float]]:
        return [(part, self._sizes.get(part, 1.0)) for part in SUMS.get(self.kind, (self.kind,))]

    def _part(self, kind: str, bits: Bits, pooled: ChannelMeans | None) -> SimilarityRows:
        if kind in ("none", "exact"):
            counts = overlap(bits, None if bits is self.bits else self.bits, self.budget)
            if kind == "exact":
                counts = exact_kernel(counts, popcount(bits), popcount(self.bits), out=counts)
            return counts.astype("float64")
        assert self._standardize is not None and pooled is not None and self.pooled is not None
        left, right = self._standardize(pooled), self._standardize(self.pooled)
        if kind == "rbf":
            return radial_kernel(left, right, self._standardize.gamma)
        return product(left.astype("float64"), right.astype("float64").T)

    def _own(self, kind: str, bits: Bits, pooled: ChannelMeans | None) -> SelfSimilarities:
        ones = popcount(bits).astype("float64")
        if kind in ("none", "exact"):
            return 2 * np.square(ones) if kind == "exact" else ones
        if kind == "rbf":
            return np.ones(len(bits))
        assert self._standardize is not None and pooled is not None
        own: SelfSimilarities = np.square(self._standardize(pooled).astype("float64")).sum(axis=1)
        return own
