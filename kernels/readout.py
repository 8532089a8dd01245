"""Readouts map bits to scores through a projection and a ridge.

`fitting.fit_readout` fits one. There are readouts linear in the bits, with the exact optical kernel, and linear in
speckle; linear in pooled features, and with a radial kernel of them; and sums of two of these.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..errors import UsageError
from .array_types import (
    Bits,
    ChannelMeans,
    Channels,
    Coefficients,
    Intercept,
    RowCounts,
    Scores,
    TrainingBits,
    TrainingChannels,
    Weights,
)
from .arrays import namespace, on_device, on_host
from .bits import popcount
from .blas import product
from .camera import Camera
from .exact_kernel import exact_kernel
from .gram import overlap
from .memory import Budget, blocks
from .pooled import Standardization, radial_kernel
from .projection import Dense, DenseSigns, Hadamard, Projection, project
from .ridge import RidgePath
from .ridge.form import SUMS
from .row_blocks import bit_rows, few_columns, score_rows, speckle_rows

PROJECTIONS = ("auto", "none", "exact", "hadamard", "dense", "dense-signs")
_BYTES_OF_ROW, _MOST_ROWS = 1 << 17, 1024
Projector = Callable[[int, int, int], Projection]
PROJECTORS: dict[str, Projector] = {"hadamard": Hadamard, "dense": Dense, "dense-signs": DenseSigns}


@runtime_checkable
class Readout(Protocol):
    """Maps packed bits to scores."""

    @property
    def kind(self) -> str:
        """The projection's name."""
        ...

    def scores(self, bits: Bits, budget: Budget = None, pooled: ChannelMeans | None = None) -> Scores:
        """Return float64 scores of shape (n, c) for the packed bits of n rows, and if `uses_pooled` pooled features."""
        ...

    @property
    def uses_pooled(self) -> bool:
        """Whether scores are computed of pooled features, alone or with the bits."""
        ...


@dataclass(frozen=True)
class BitsReadout:
    """Scores linear in the bits: ``x @ weights + intercept``."""

    m: int
    weights: Weights
    intercept: Intercept
    kind: ClassVar[str] = "none"
    uses_pooled: ClassVar[bool] = False

    def scores(self, bits: Bits, budget: Budget = None, pooled: ChannelMeans | None = None) -> Scores:
        """Return scores; see `Readout`."""
        return score_rows(bit_rows(bits, self.m, budget), len(bits), self.weights, self.intercept)


@dataclass(frozen=True)
class ExactReadout:
    """Scores with the exact kernel of the training bits: ``k(x, rows) @ coefficients + intercept``."""

    rows: TrainingBits
    coefficients: Coefficients
    intercept: Intercept
    kind: ClassVar[str] = "exact"
    uses_pooled: ClassVar[bool] = False

    @cached_property
    def _norms(self) -> RowCounts:
        return popcount(self.rows)

    def scores(self, bits: Bits, budget: Budget = None, pooled: ChannelMeans | None = None) -> Scores:
        """Return scores; see `Readout`."""
        xp = namespace(bits)
        result = [xp.empty((0, len(self.intercept)))]
        for which in blocks(len(bits), 1024):
            block = bits[which]
            counts = overlap(block, self.rows, budget)
            kernel = exact_kernel(counts, popcount(block), self._norms, out=counts)
            result.append(product(kernel.astype("float64"), self.coefficients) + self.intercept)
        return xp.concatenate(result)


@dataclass(frozen=True)
class SpeckleReadout:
    """Scores linear in the speckle of a projection: ``(s - 128) @ weights + intercept``."""

    projection: Projection
    camera: Camera
    weights: Weights
    intercept: Intercept
    saturation: float = 0.0
    """Fraction of the training speckle that is saturated."""
    uses_pooled: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The projection's name."""
        return self.projection.kind

    def scores(self, bits: Bits, budget: Budget = None, pooled: ChannelMeans | None = None) -> Scores:
        """Return scores; see `Readout`."""
        xp = namespace(bits)
        result = [xp.empty((0, len(self.intercept)))]
        for _, speckle in project(self.projection, self.camera, bits, budget):
            rows = speckle_rows(speckle, few_columns(speckle, budget))
            result.append(score_rows(rows, len(speckle), self.weights, self.intercept))
        return xp.concatenate(result)


@dataclass(frozen=True)
class PooledReadout:
    """Scores linear in pooled features: ``pooled @ weights + intercept``."""

    weights: Weights
    intercept: Intercept
    kind: ClassVar[str] = "pooled"
    uses_pooled: ClassVar[bool] = True

    def scores(self, bits: Bits, budget: Budget = None, pooled: ChannelMeans | None = None) -> Scores:
        """Return scores; see `Readout`."""
        channels = _required(pooled)[:, -len(self.weights) :]
        return product(channels.astype("float64"), self.weights) + self.intercept


@dataclass(frozen=True)
class RadialReadout:
    """Scores with a radial kernel of pooled features: ``k(x, rows) @ coefficients + intercept``.

    The kernel ``rbf`` is of the last channels, those of the features, and ``layers`` of all.
    """

    mean: Channels
    scale: Channels
    rows: TrainingChannels
    coefficients: Coefficients
    intercept: Intercept
    kind: str = "rbf"
    uses_pooled: ClassVar[bool] = True

    def scores(self, bits: Bits, budget: Budget = None, pooled: ChannelMeans | None = None) -> Scores:
        """Return scores; see `Readout`."""
        xp, pooled = namespace(self.rows), _required(pooled)
        standardize, result = Standardization(self.mean, self.scale), [xp.empty((0, len(self.intercept)))]
        for which in blocks(len(pooled), 1024):
            kernel = radial_kernel(standardize(pooled[which]), self.rows, standardize.gamma)
            result.append(product(kernel, self.coefficients) + self.intercept)
        return xp.concatenate(result)


@dataclass(frozen=True)
class SumReadout:
    """Scores with the sum of two kernels: that of bits, with the intercept, and a radial one of pooled features."""

    of_bits: BitsReadout | ExactReadout
    of_pooled: RadialReadout
    uses_pooled: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """The projection's name."""
        return next(name for name, parts in SUMS.items() if parts == (self.of_bits.kind, self.of_pooled.kind))

    @property
    def intercept(self) -> Intercept:
        """The intercept of both."""
        return self.of_bits.intercept

    def scores(self, bits: Bits, budget: Budget = None, pooled: ChannelMeans | None = None) -> Scores:
        """Return scores; see `Readout`."""
        return self.of_bits.scores(bits, budget) + self.of_pooled.scores(bits, budget, pooled)


def rows_of_call(readout: Readout) -> int:
    """Return how many rows to score at once, where they come one after another.

    A call reads the readout's arrays, or draws its random matrix, whatever the number of rows: with so many that is
    little work for each of them.
    """
    return max(1, min(_MOST_ROWS, _call_bytes(readout) // _BYTES_OF_ROW))


def _call_bytes(readout: Readout) -> int:
    if isinstance(readout, SumReadout):
        return _call_bytes(readout.of_bits) + _call_bytes(readout.of_pooled)
    assert isinstance(readout, BitsReadout | ExactReadout | SpeckleReadout | PooledReadout | RadialReadout)
    drawn = getattr(readout, "projection", None)
    entries = 2 * drawn.m * drawn.k if isinstance(drawn, Dense | DenseSigns) else 0
    return entries + sum(getattr(getattr(readout, each.name), "nbytes", 0) for each in fields(readout))


def _required(pooled: ChannelMeans | None) -> ChannelMeans:
    if pooled is None:
        raise UsageError("this readout is of pooled features; give those of the images")
    return pooled


def readout_on(readout: Readout, device: str) -> Readout:
    """Return the readout with its arrays on a device; see `arrays.on_device`."""
    if isinstance(readout, SumReadout):
        return SumReadout(readout_on(readout.of_bits, device), readout_on(readout.of_pooled, device))  # type: ignore[arg-type]
    assert isinstance(readout, BitsReadout | ExactReadout | SpeckleReadout | PooledReadout | RadialReadout)
    values = {each.name: getattr(readout, each.name) for each in fields(readout)}
    moved: dict[str, Any] = {
        name: on_device(on_host(value), device) for name, value in values.items() if hasattr(value, "ndim")
    }
    return replace(readout, **moved)


def path_on_host(path: RidgePath) -> RidgePath:
    """Return the path with NumPy arrays."""
    scores = None if path.loo_scores is None else on_host(path.loo_scores)
    return replace(path, coefficients=on_host(path.coefficients), intercept=on_host(path.intercept), loo_scores=scores)
