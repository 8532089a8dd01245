"""What a ridge is fitted to: rows of bits and channel means, labels, and options."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ...errors import UsageError
from ..array_types import (
    Array,
    Bits,
    ChannelMeans,
    Features,
    Gram,
    Labels,
    LabelSets,
    RowWeights,
    SimilarityRows,
    Targets,
)
from ..arrays import namespace
from ..bits import check_bits
from ..pooled import Standardization, Standardizations
from ..readout import Projector
from ..ridge import RidgePath, dual_path, primal_path
from ..ridge.form import RidgeForm, plan_ridge
from ..ridge.inputs import checked_weights
from ..ridge.landmarks import LandmarkRidge
from ..ridge.passes import Share, blocks_alike, here
from ..ridge.sums import RowSums
from ..row_blocks import RowSource

Timer = Callable[[str], AbstractContextManager[object]]
"""Called with the name of a stage."""


@dataclass(frozen=True)
class RidgeProblem:
    """Labels and options of the ridge."""

    labels: Labels | LabelSets
    classes: int
    alphas: ArrayLike | None
    weights: Array | None
    search: str
    multilabel: bool
    share: Share = here
    start: int | None = None

    def only(self, rows: Array) -> "RidgeProblem":
        """Return that of some rows."""
        return replace(self, labels=self.labels[rows], weights=None if self.weights is None else self.weights[rows])

    @cached_property
    def targets(self) -> Targets:
        """+1 and -1, made once the budget has been checked."""
        return _signs(self.labels, self.classes)

    def correct(self, path: RidgePath) -> Array:
        """Return how much of each row leave-one-out has right, of 0 to 1, as float64 of shape (n,)."""
        scores = path.loo_scores
        assert scores is not None
        if self.multilabel:
            right: Array = ((scores > 0) == (self.labels > 0)).mean(axis=1)
        else:
            right = (scores.argmax(axis=1) == self.labels).astype("float64")
        return right

    def dual(self, gram: Gram) -> RidgePath:
        """Solve the n x n system of a kernel."""
        targets = self.targets.astype("float64")
        return dual_path(gram, targets, self.alphas, self.weights, self.search, self.multilabel, self.start)

    def primal(self, sums: RowSums, rows: RowSource, budget: int, share: Share = here) -> RidgePath:
        """Solve the system of the columns, of sums over rows."""
        return primal_path(sums, rows, self.targets, self.alphas, self.weights, self.multilabel, budget, share)

    def on_landmarks(self, kernel: SimilarityRows, rows: RowSource, budget: int, timer: Timer) -> RidgePath:
        """Solve the system of a kernel between landmarks, which `rows` yields with all rows."""
        with timer("gram"):
            system = LandmarkRidge(kernel, rows, self.targets, self.weights, self.share)
        with timer("solve"):
            return system.path(self.alphas, self.multilabel, budget)

    @cached_property
    def weights_of_sums(self) -> Array | None:
        """The weights, or None where all are 1: then sums over rows of speckle are exact integers."""
        return None if self.weights is None or bool((self.weights == 1).all()) else self.weights

    def shares(self, bits: Bits) -> RowWeights:
        """Return the weights, of ones if there are none."""
        return checked_weights(self.weights, len(bits), namespace(bits))


@dataclass(frozen=True)
class FitData:
    """What a ridge is fitted to."""

    bits: Bits
    m: int
    classes: int
    pooled: ChannelMeans | None
    weights: Array | None
    budget: int
    layers: tuple[int, ...] = ()

    def only(self, rows: Array) -> "FitData":
        """Return that of some rows."""
        pooled, weights = (None if each is None else each[rows] for each in (self.pooled, self.weights))
        return replace(self, bits=self.bits[rows], pooled=pooled, weights=weights)

    def plan(self, projection: str | Projector, n_components: int | None = None) -> RidgeForm:
        """Return the form of the ridge of a projection."""
        channels = None if self.pooled is None else self.layers[-1] if self.layers else self.pooled.shape[1]
        on_gpu = namespace(self.bits) is not np
        return plan_ridge(len(self.bits), self.m, self.classes, projection, n_components, channels, self.budget, on_gpu)

    @cached_property
    def standardizations(self) -> Standardizations | None:
        """The standardizations of the pooled features."""
        weights = namespace(self.bits).ones(len(self.bits)) if self.weights is None else self.weights
        return None if self.pooled is None else Standardizations(self.pooled, weights, self.layers)

    def standardize(self, kind: str) -> Standardization | None:
        """Return the standardization of the pooled features for a kernel."""
        return None if self.standardizations is None else self.standardizations.of(kind)

    def pooled_of(self, rows: slice | Array) -> ChannelMeans | None:
        """Return the pooled features of some rows."""
        return None if self.pooled is None else self.pooled[rows]

    @property
    def channels(self) -> RowSource:
        """The standardized channels in blocks of rows, float64."""
        assert self.pooled is not None and self.standardizations is not None
        return RowSource(_ChannelRows(self.standardizations.of("pooled")), (self.pooled,))


def check_rows(
    bits: Bits,
    m: int,
    labels: Labels | LabelSets,
    classes: int,
    pooled: ChannelMeans | None,
    weights: Array | None,
    layers: Sequence[int],
) -> None:
    """Raise UsageError where rows, labels, channel means and weights do not belong together."""
    check_bits(bits, m)
    for name, given in (("labels", labels), ("rows of pooled features", pooled), ("weights", weights)):
        if given is not None and len(given) != len(bits):
            raise UsageError(f"{len(given)} {name} for {len(bits)} rows of bits; give one a row")
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise UsageError(f"labels of shape {labels.shape} for {classes} classes; give a column a class")
    elif labels.dtype.kind not in "iu":
        raise UsageError(f"labels of dtype {labels.dtype}; give integers from 0 to {classes - 1}")
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise UsageError(f"labels from {found} for {classes} classes; give integers from 0 to {classes - 1}")
    if pooled is not None and (pooled.ndim != 2 or (layers and (min(layers) < 1 or sum(layers) != pooled.shape[1]))):
        raise UsageError(
            f"pooled features of shape {pooled.shape} are not rows of {' + '.join(map(str, layers)) or 'the'} channels"
        )


def _signs(labels: Labels | LabelSets, classes: int) -> Targets:
    """Return the targets, +1 and -1, as int8: for many classes as float64 they would outgrow the speckle."""
    if labels.ndim == 2:
        return 2 * (labels > 0).astype("int8") - 1
    xp = namespace(labels)
    targets = xp.zeros((len(labels), classes), dtype="int8")
    targets -= 1
    targets[xp.arange(len(labels)), labels] = 1
    return targets


@dataclass(frozen=True)
class _ChannelRows:
    """Standardizes blocks of pooled features; see `RowSource`."""

    standardize: Standardization

    def __call__(self, pooled: ChannelMeans) -> Iterator[tuple[slice, Features]]:
        for which in blocks_alike(len(pooled)):
            yield which, self.standardize(pooled[which]).astype("float64")
