"""Kernels between all rows of a fit, and the ridges and readouts of them."""

from ..array_types import (
    Array,
    Bits,
    ChannelMeans,
    Coefficients,
    Gram,
    Intercept,
    SquareCounts,
    Standardized,
    Weights,
)
from ..arrays import namespace
from ..bits import popcount
from ..blas import product
from ..exact_kernel import exact_kernel
from ..gram import overlap
from ..memory import blocks, rows_at_a_time
from ..pooled import Standardization, Standardizations, mean_eigenvalue, radial_kernel
from ..readout import BitsReadout, ExactReadout, PooledReadout, RadialReadout, Readout, SumReadout
from ..ridge import RidgePath
from ..ridge.form import RADIAL, SUMS
from ..row_blocks import bit_rows, combine_rows
from .problem import FitData, RidgeProblem, Timer


class SquareKernels:
    """The kernels of the training rows, and their readouts."""

    def __init__(
        self,
        bits: Bits,
        m: int,
        pooled: ChannelMeans | None,
        weights: Array | None,
        budget: int,
        standardizations: Standardizations | None,
    ) -> None:
        self._bits, self._m, self._budget = bits, m, budget
        self._weights = namespace(bits).ones(len(bits)) if weights is None else weights
        self.sizes: dict[str, float] = {}
        self._counts: SquareCounts | None = None
        self._pooled, self._standardizations = pooled, standardizations
        self._standardized: tuple[Standardization, Standardized] | None = None

    @classmethod
    def of(cls, data: FitData) -> "SquareKernels":
        """Return the kernels of all rows of a fit."""
        return cls(data.bits, data.m, data.pooled, data.weights, data.budget, data.standardizations)

    def _channels(self, kind: str) -> tuple[Standardization, Standardized]:
        """Return the standardization for a kernel, and the channels so standardized, which are kept for the next."""
        assert self._pooled is not None and self._standardizations is not None
        own = self._standardizations.of(kind)
        if self._standardized is None or self._standardized[0] is not own:
            self._standardized = own, own(self._pooled)
        return self._standardized

    def path(self, kind: str, ridge: RidgeProblem, timer: Timer) -> RidgePath:
        """Solve the ridge with a kernel."""
        kernel = self._gram(kind, timer)
        with timer("solve"):
            return ridge.dual(kernel)

    def _gram(self, kind: str, timer: Timer) -> Gram:
        if kind in SUMS:
            total = self._unit(SUMS[kind][0], timer)
            total += self._unit(SUMS[kind][1], timer)
            return total
        if kind == "none":
            self._counts = self._overlap(timer)
            return self._counts
        if kind == "exact":
            counts, norms = self._overlap(timer), popcount(self._bits)
            with timer("project"):
                return exact_kernel(counts, norms, norms, out=counts)
        # Where kernels were left out, none may have used those of the kernel before.
        self._counts = None
        with timer("gram"):
            standardize, channels = self._channels(kind)
            if kind in RADIAL:
                return radial_kernel(channels, channels, standardize.gamma)
            values = channels.astype("float64")
            return product(values, values.T)

    def _overlap(self, timer: Timer) -> SquareCounts:
        """Return the overlaps of the bits for good: those of a kernel before, or new ones."""
        counts, self._counts = self._counts, None
        if counts is None:
            with timer("gram"):
                counts = overlap(self._bits, budget=self._budget)
        return counts

    def _unit(self, kind: str, timer: Timer) -> Gram:
        """Return a kernel over its mean eigenvalue, as float64, which takes the memory of its integers."""
        kernel = self._gram(kind, timer)
        self._counts = None
        with timer("gram"):
            values = kernel.view("float64")
            for which in blocks(len(kernel), rows_at_a_time(kernel, 256)):
                values[which] = kernel[which].astype("float64")
            self.sizes[kind] = mean_eigenvalue(values, self._weights)
            values /= self.sizes[kind]
        return values

    def fitted(self, kind: str, path: RidgePath, timer: Timer) -> tuple[Readout, RidgePath]:
        """Return the readout of a solution, and the solution."""
        if kind not in SUMS:
            return self._readout(kind, path.coefficients, path.intercept, timer), path
        of_bits, of_pooled = SUMS[kind]
        first = self._readout(of_bits, path.coefficients / self.sizes[of_bits], path.intercept, timer)
        second = self._readout(of_pooled, path.coefficients / self.sizes[of_pooled], 0 * path.intercept, timer)
        assert isinstance(first, BitsReadout | ExactReadout) and isinstance(second, RadialReadout)
        return SumReadout(first, second), path

    def _readout(self, kind: str, coefficients: Coefficients, intercept: Intercept, timer: Timer) -> Readout:
        if kind == "none":
            with timer("solve"):
                weights = combine_rows(bit_rows(self._bits, self._m, self._budget), self._m, coefficients)
            return BitsReadout(self._m, weights, intercept)
        if kind == "exact":
            return ExactReadout(self._bits, coefficients, intercept)
        standardize, channels = self._channels(kind)
        if kind in RADIAL:
            return RadialReadout(standardize.mean, standardize.scale, channels, coefficients, intercept, kind)
        return pooled_readout(standardize, product(channels.astype("float64").T, coefficients), intercept)


def pooled_readout(standardize: Standardization, weights: Weights, intercept: Intercept) -> PooledReadout:
    """Return the readout of weights of standardized channels."""
    weights = standardize.scale[:, None] * weights
    return PooledReadout(weights, intercept - product(standardize.mean, weights))
