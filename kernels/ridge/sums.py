"""Sums over rows of speckle or other features, the additive sufficient statistics of the primal ridge."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from scipy.linalg import get_blas_funcs

from ...errors import DataError
from ..array_types import (
    ArrayLibrary,
    FeatureCrosses,
    FeatureProducts,
    Features,
    FeatureSums,
    RowWeights,
    Speckle,
    Targets,
    TargetSums,
)
from ..arrays import namespace
from ..blas import product
from ..gram import gram
from ..memory import Budget, block_length, blocks, memory_budget, rows_at_a_time
from ..row_blocks import RowBlocks, RowSource, signed
from .passes import Share, here


@dataclass(frozen=True)
class RowSums:
    """Sums over rows x of speckle - 128 and their targets y.

    Without weights all sums are exact integers: adding the sums of several sets of rows, in any order,
    gives exactly the sums of all rows. With weights, or of other features than speckle, they are float64.

    Attributes
    ----------
    weight : int or float
        Number of rows, or the sum of their weights.
    sums : array of shape (k,)
        Sum of x.
    products : array of shape (k, k)
        Sum of xx'.
    crosses : array of shape (k, c)
        Sum of xy'.
    target_sums : array of shape (c,)
        Sum of y.
    """

    weight: float
    sums: FeatureSums
    products: FeatureProducts
    crosses: FeatureCrosses
    target_sums: TargetSums

    @classmethod
    def of(
        cls, speckle: Speckle, targets: Targets, weights: RowWeights | None = None, budget: Budget = None
    ) -> "RowSums":
        """Sum over rows.

        Parameters
        ----------
        speckle : uint8 array of shape (n, k)
        targets : array of shape (n, c)
            Integer values, such as those of `ridge.one_vs_rest`.
        weights : float64 array of shape (n,), optional
        budget : int, str or None
            Memory for a block of rows; see `memory_budget`.
        """
        n, k = speckle.shape
        length = block_length(16 * (k + targets.shape[1]), memory_budget(budget, speckle) // 8, max(1, n))
        parts = (
            cls._of_block(speckle[which], targets[which], None if weights is None else weights[which], budget)
            for which in blocks(n, length) or [slice(0, 0)]
        )
        total = next(parts)
        for part in parts:
            total = total + part
        return total

    @classmethod
    def _of_block(cls, speckle: Speckle, targets: Targets, weights: RowWeights | None, budget: Budget) -> "RowSums":
        xp = namespace(speckle)
        rows, targets = signed(speckle).astype("float64"), targets.astype("float64")
        if weights is not None:
            scaled = rows * xp.sqrt(weights)[:, None]
            weighted = targets * weights[:, None]
            return cls(
                float(weights.sum()),
                product(weights, rows),
                scaled.T @ scaled,
                product(rows.T, weighted),
                weighted.sum(axis=0),
            )
        return cls(
            len(speckle),
            rows.sum(axis=0).astype("int64"),
            gram(xp.ascontiguousarray(speckle.T), budget),
            product(rows.T, targets).astype("int64"),
            targets.sum(axis=0).astype("int64"),
        )

    @classmethod
    def of_features(cls, rows: RowBlocks, width: int, targets: Targets, weights: RowWeights) -> "RowSums":
        """Sum over rows of any features x, in float64, one block after the other.

        Parameters
        ----------
        rows : callable
            Starts a pass over blocks of float64 rows of shape (rows, width).
        width : int
        targets : array of shape (n, c)
        weights : float64 array of shape (n,)
        """
        xp = namespace(weights)
        sums, crosses = xp.zeros(width), xp.zeros((width, targets.shape[1]))
        products = _Products(width, xp)
        for which, block in rows():
            weighted = targets[which] * weights[which, None]
            sums += product(weights[which], block)
            crosses += product(block.T, weighted)
            products.add(block * xp.sqrt(weights[which])[:, None])
        return cls(float(weights.sum()), sums, products.total(), crosses, product(weights, targets.astype("float64")))

    def __add__(self, other: "RowSums") -> "RowSums":
        """Return the sums of both sets of rows.

        Raises
        ------
        DataError
            If their numbers of components or of targets differ.
        """
        if self.crosses.shape != other.crosses.shape:
            raise DataError(
                f"sums of {self.crosses.shape} and of {other.crosses.shape} components and targets cannot "
                "be added; compute both with the same projection and classes"
            )
        return RowSums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def centred(self) -> tuple[FeatureProducts, FeatureCrosses]:
        """Return X'X, of shape (k, k), and X'Y, of shape (k, c), of centred rows and targets, as float64."""
        means = self.sums / self.weight
        covariance = self.products.astype("float64")
        for which in blocks(len(covariance), rows_at_a_time(covariance, 256)):
            covariance[which] -= self.sums[which, None] * means
        return covariance, self.crosses - self.sums[:, None] * (self.target_sums / self.weight)


@dataclass(frozen=True)
class _Summing:
    """Sums rows of features of so many columns; see `passes.Work`."""

    width: int

    def __call__(self, rows: RowBlocks, targets: Targets, weights: RowWeights) -> RowSums:
        return RowSums.of_features(rows, self.width, targets, weights)


def sums_of(rows: RowSource, width: int, targets: Targets, weights: RowWeights, share: Share = here) -> RowSums:
    """Return the sums of `RowSums.of_features` over rows, segment by segment."""
    return total(share(_Summing(width), rows, targets, weights))


def total(parts: Iterable[RowSums]) -> RowSums:
    """Return the sums of all parts, of which there is one at least, in their order."""
    remaining = iter(parts)
    found = next(remaining)
    # What a loop's variable or `reduce` would still hold while the next part is made, is a third matrix.
    while (part := next(remaining, None)) is not None:
        found = found + part
        del part
    return found


class _Products:
    """The sum of X'X over blocks X of float64 rows: on the CPU in place, and one half of it."""

    def __init__(self, width: int, xp: ArrayLibrary) -> None:
        self._on_host = xp is np
        self._sum = np.zeros((width, width), order="F") if self._on_host else xp.zeros((width, width))

    def add(self, rows: Features) -> None:
        """Add those of a block."""
        if not self._on_host:
            self._sum += rows.T @ rows
            return
        (syrk,) = get_blas_funcs(("syrk",), (rows,))
        self._sum = syrk(1.0, np.ascontiguousarray(rows).T, beta=1.0, c=self._sum, lower=1, overwrite_c=1)

    def total(self) -> FeatureProducts:
        """Return the sum, of shape (width, width)."""
        for which in blocks(len(self._sum), 256) if self._on_host else ():
            square = self._sum[which, which]
            square[:] = np.tril(square) + np.tril(square, -1).T
            self._sum[which, which.stop :] = self._sum[which.stop :, which].T
        return self._sum
