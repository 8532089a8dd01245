"""The kernel of a readout between any images and its training images or landmarks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import UsageError
from .array_types import (
    Bits,
    ChannelMeans,
    RowCounts,
    RowWeights,
    SelfSimilarities,
    SimilarityRows,
    Standardized,
    TrainingBits,
    TrainingChannels,
)
from .arrays import namespace
from .bits import popcount
from .blas import product
from .exact_kernel import exact_kernel
from .gram import overlap
from .memory import Budget
from .pooled import Standardization, Standardizations, mean_eigenvalue, radial_kernel
from .ridge.form import KERNELS, POOLED, RADIAL, SUMS

KINDS = KERNELS
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
    standardize : Standardization, optional
        Of the pooled features; by default that of these images.
    layers : sequence of int
        See `Standardizations`.

    Attributes
    ----------
    sizes : dict of float
        After `gram`, by what each kernel of a sum is divided.

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
    standardize: Standardization | None = None
    layers: Sequence[int] = ()
    sizes: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"prediction sets need the kernel between an image and all training images, which projection "
                f"{self.kind!r} does not have here; fit with one of {', '.join(KINDS)}"
            )
        if self.kind in POOLED:
            assert self.pooled is not None
            made = Standardizations(self.pooled, self.weights, self.layers)
            self.standardize = self.standardize or made.of(self.kind)

    @cached_property
    def _norms(self) -> RowCounts:
        return popcount(self.bits)

    @cached_property
    def _channels(self) -> Standardized:
        assert self.standardize is not None and self.pooled is not None
        return self.standardize(self.pooled)

    def gram(self) -> SimilarityRows:
        """Return the kernel of the training images among themselves, float64 of shape (n, n)."""
        if self.kind not in SUMS:
            return self._part(self.kind, self.bits, self.pooled)
        total = namespace(self.bits).zeros((len(self.bits), len(self.bits)))
        for part in SUMS[self.kind]:
            kernel = self._part(part, self.bits, self.pooled)
            self.sizes[part] = mean_eigenvalue(kernel, self.weights)
            kernel /= self.sizes[part]
            total += kernel
        return total

    def rows(self, bits: Bits | None, pooled: ChannelMeans | None) -> SimilarityRows:
        """Return the kernel between images and the training images, float64 of shape (images, n), after `gram`.

        What a kernel does not read, bits or pooled features, may be None.
        """
        return sum(self._part(part, bits, pooled) / size for part, size in self._parts())  # type: ignore[return-value]

    def own(self, bits: Bits, pooled: ChannelMeans | None) -> SelfSimilarities:
        """Return the kernel of each image with itself, float64 of shape (images,), after `gram`."""
        return sum(self._own(part, bits, pooled) / size for part, size in self._parts())  # type: ignore[return-value]

    def _parts(self) -> list[tuple[str, float]]:
        return [(part, self.sizes.get(part, 1.0)) for part in SUMS.get(self.kind, (self.kind,))]

    def _part(self, kind: str, bits: Bits | None, pooled: ChannelMeans | None) -> SimilarityRows:
        if kind in ("none", "exact"):
            assert bits is not None
            counts = overlap(bits, None if bits is self.bits else self.bits, self.budget)
            if kind == "exact":
                counts = exact_kernel(counts, popcount(bits), self._norms, out=counts)
            return counts.astype("float64")
        assert self.standardize is not None and pooled is not None
        right = self._channels
        left = right if pooled is self.pooled else self.standardize(pooled)
        if kind in RADIAL:
            return radial_kernel(left, right, self.standardize.gamma)
        return product(left.astype("float64"), right.astype("float64").T)

    def _own(self, kind: str, bits: Bits, pooled: ChannelMeans | None) -> SelfSimilarities:
        ones = popcount(bits).astype("float64")
        if kind in ("none", "exact"):
            return 2 * namespace(bits).square(ones) if kind == "exact" else ones
        if kind in RADIAL:
            return namespace(bits).ones(len(bits))
        assert self.standardize is not None and pooled is not None
        own: SelfSimilarities = namespace(bits).square(self.standardize(pooled).astype("float64")).sum(axis=1)
        return own
