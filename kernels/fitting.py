"""Fit readouts to packed bits or channel means, and labels: `fit_readout`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError
from .array_types import (
    Array,
    Bits,
    ChannelMeans,
    Coefficients,
    Features,
    Gram,
    Intercept,
    Labels,
    LabelSets,
    RowWeights,
    SimilarityRows,
    Speckle,
    SquareCounts,
    Standardized,
    Targets,
    Weights,
)
from .arrays import namespace
from .bits import popcount
from .blas import product
from .camera import Camera
from .exact_kernel import exact_kernel
from .gram import gram, overlap
from .memory import Budget, blocks, memory_budget, rows_at_a_time
from .pooled import Standardization, Standardizations, mean_eigenvalue, radial_kernel
from .projection import Projection, expose_sample, project, repeats
from .readout import (
    PROJECTIONS,
    PROJECTORS,
    BitsReadout,
    ExactReadout,
    PooledReadout,
    Projector,
    RadialReadout,
    Readout,
    SpeckleReadout,
    SumReadout,
)
from .ridge import RidgePath, dual_path, primal_path
from .ridge.form import POOLED, RACED_ROWS, RADIAL, SUMS, RidgeForm, plan_ridge, require_dual
from .ridge.inputs import checked_weights
from .ridge.landmarks import LandmarkRidge
from .ridge.passes import Share, blocks_alike, here
from .ridge.sums import RowSums, sums_of, total
from .row_blocks import RowBlocks, RowSource, bit_rows, combine_rows, few_columns, speckle_rows
from .training_kernel import TrainingKernel

AUTO, AUTO_POOLED, AUTO_LAYERS = ("none", "exact"), ("pooled", "rbf", "bits+rbf"), ("layers",)
"""The kernels among which ``auto`` selects: of bits, of pooled features besides, and of those of several layers."""
Timer = Callable[[str], AbstractContextManager[object]]


def fit_readout(
    bits: Bits,
    m: int,
    labels: Labels | LabelSets,
    classes: int,
    projection: str | Projector = "auto",
    n_components: int | None = None,
    alphas: ArrayLike | None = None,
    seed: int = 0,
    budget: Budget = None,
    weights: Array | None = None,
    search: str = "auto",
    camera: Camera | None = None,
    timer: Timer = lambda stage: nullcontext(),
    pooled: ChannelMeans | None = None,
    share: Share = here,
    layers: Sequence[int] = (),
) -> tuple[Readout, RidgePath]:
    """Fit a ridge on a projection of bits, or a kernel; leave-one-out selects alpha, and for ``auto`` the kernel.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    m : int
        Number of features.
    labels : integer array of shape (n,) or (n, classes)
        From 0 to ``classes - 1``, or a multilabel indicator matrix.
    classes : int
    projection : str or callable
        One of `PROJECTIONS`, or with `pooled` of `POOLED`: ``pooled`` is linear in the pooled features, ``rbf`` a
        radial kernel of them, ``layers`` one of those of several layers, ``bits+rbf`` and ``exact+rbf`` the sum of
        ``rbf`` with the kernel of ``none`` or ``exact``, each over the mean eigenvalue of its centred Gram. ``auto``
        selects among `auto_kernels` by leave-one-out, on at most `ridge.form.COMPARED_ROWS` of the rows, of which a
        kernel that is worse by more than two standard errors on `ridge.form.RACED_ROWS` sees only these. A kernel whose
        n x n system does not fit the budget is solved on landmarks, some of the rows; see `ridge.landmarks` and, for
        how many, `ridge.form`. A callable returns a projection for (m, k, seed); if that has a ``camera``, no exposure
        is fitted.
    n_components : int, optional
        Number of outputs k of ``hadamard``, ``dense`` and a callable. By default m / 2, or fewer if rows outnumber
        what the budget holds; see `ridge.form.plan_ridge`. Speckle that does not fit the budget is projected again
        for each pass over the rows, where a noisy camera's noise differs.
    alphas : array of shape (a,), optional
    seed : int
    budget : int, str or None
        Memory limit; see `memory_budget`.
    weights : float64 array of shape (n,), optional
        Positive sample weights.
    search : {"auto", "all", "halving"}
        Search for alpha; see `dual_path`.
    camera : Camera, optional
        By default the exposure is fitted to the first rows.
    timer : callable, optional
        Called with ``project``, ``gram`` or ``solve``; returns a context manager for that stage.
    pooled : float32 array of shape (n, channels), optional
        Pooled features of the rows.
    share : callable
        Where passes over rows are computed that are not held: of a kernel on landmarks, of pooled features in the
        primal, and of speckle that is projected for each pass; see `ridge.passes`.
    layers : sequence of int
        Of `pooled`, the number of channels of each of several layers, the last of them that of the bits; by default all
        are of that. ``pooled`` and ``rbf`` read the last, ``layers`` all.

    Returns
    -------
    readout : Readout
    path : RidgePath
        For ``auto``, its `loo_accuracy_of` has what each kernel scored.

    Raises
    ------
    UsageError
        If the projection is unknown or lacks pooled features, `n_components` is not positive or the seed is negative.
    BudgetError
        If the ridge's system does not fit the budget.
    """
    if not callable(projection) and projection not in (*PROJECTIONS, *POOLED):
        raise UsageError(f"projection {projection!r} is not known; choose one of {', '.join((*PROJECTIONS, *POOLED))}")
    if projection in POOLED and pooled is None:
        raise UsageError(
            f"projection {projection!r} needs pooled features, which are an output of engines; give images, or choose "
            f"one of {', '.join(PROJECTIONS)}"
        )
    if n_components is not None and n_components < 1:
        raise UsageError(f"n_components {n_components} must be at least 1, or None for half the features")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; give 0 or more")
    if projection == "layers" and len(layers) < 2:
        raise UsageError(
            "projection 'layers' needs the channel means of several layers; give those, with the number of channels "
            "of each, or choose 'rbf'"
        )
    size = memory_budget(budget, bits)
    data = _Data(bits, m, classes, pooled, weights, size, tuple(layers))
    form = data.plan(projection, n_components)
    ridge = _Ridge(labels, classes, alphas, weights, search, labels.ndim == 2, share)
    if callable(projection) or projection in PROJECTORS:
        make = projection if callable(projection) else PROJECTORS[projection]
        assert form.components is not None
        return _fit_speckle(bits, make(m, form.components, seed), form, ridge, camera, size, timer)
    if projection != "auto":
        return _fit_kernel(projection, data, form, ridge, seed, timer)
    kinds = auto_kernels(pooled is not None, len(layers) > 1)
    if form.name == "dual" and form.compared == len(bits):
        kernels = data.kernels
        paths = {kind: kernels.path(kind, ridge, timer) for kind in kinds}
        kind = _best(paths)
        return kernels.fitted(kind, replace(paths[kind], loo_accuracy_of=_accuracies(paths)), timer)
    kind, paths = _compared(data, kinds, form.compared, ridge, seed, timer)
    ridge, scores = replace(ridge, start=paths[kind].best), _accuracies(paths)
    del paths
    readout, solved = _fit_kernel(kind, data, data.plan(kind), ridge, seed, timer)
    return readout, replace(solved, loo_accuracy_of=scores)


def auto_kernels(pooled: bool, layers: bool) -> tuple[str, ...]:
    """Return the kernels among which ``auto`` selects, with pooled features, and with those at several cuts."""
    return (*AUTO, *(AUTO_POOLED if pooled else ()), *(AUTO_LAYERS if layers else ()))


def kernel_paths(
    bits: Bits,
    m: int,
    labels: Labels | LabelSets,
    classes: int,
    kinds: Sequence[str],
    budget: Budget = None,
    weights: Array | None = None,
    search: str = "auto",
    pooled: ChannelMeans | None = None,
    layers: Sequence[int] = (),
) -> dict[str, RidgePath]:
    """Solve the ridge with several kernels, one after the other, for their leave-one-out scores.

    Parameters
    ----------
    kinds : sequence of str
        Some of ``none`` and ``exact``, and with `pooled` of `POOLED`.
    bits, m, labels, classes, budget, weights, search, pooled, layers
        As in `fit_readout`.

    Returns
    -------
    paths : dict of RidgePath
        By kind.

    Raises
    ------
    BudgetError
        If the ridge's system does not fit the budget.
    """
    size = memory_budget(budget, bits)
    require_dual(len(bits), classes, size, namespace(bits) is not np, "compare fewer images")
    data = _Data(bits, m, classes, pooled, weights, size, tuple(layers))
    kernels = _Kernels(bits, m, pooled, weights, size, data.standardizations)
    ridge = _Ridge(labels, classes, None, weights, search, labels.ndim == 2)
    return {kind: kernels.path(kind, ridge, lambda stage: nullcontext()) for kind in kinds}


@dataclass(frozen=True)
class _Ridge:
    """Labels and options of the ridge."""

    labels: Labels | LabelSets
    classes: int
    alphas: ArrayLike | None
    weights: Array | None
    search: str
    multilabel: bool
    share: Share = here
    start: int | None = None

    def only(self, rows: Array) -> "_Ridge":
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
        targets = self.targets.astype("float64")
        return dual_path(gram, targets, self.alphas, self.weights, self.search, self.multilabel, self.start)

    def primal(self, sums: RowSums, rows: RowSource, budget: int, share: Share = here) -> RidgePath:
        return primal_path(sums, rows, self.targets, self.alphas, self.weights, self.multilabel, budget, share)

    def on_landmarks(self, kernel: SimilarityRows, rows: RowSource, budget: int, timer: Timer) -> RidgePath:
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
class _Data:
    """What a ridge is fitted to."""

    bits: Bits
    m: int
    classes: int
    pooled: ChannelMeans | None
    weights: Array | None
    budget: int
    layers: tuple[int, ...] = ()

    def only(self, rows: Array) -> "_Data":
        """Return that of some rows."""
        pooled, weights = (None if each is None else each[rows] for each in (self.pooled, self.weights))
        return replace(self, bits=self.bits[rows], pooled=pooled, weights=weights)

    @property
    def kernels(self) -> "_Kernels":
        """The kernels of the rows."""
        return _Kernels(self.bits, self.m, self.pooled, self.weights, self.budget, self.standardizations)

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


@dataclass(frozen=True)
class _ChannelRows:
    """Standardizes blocks of pooled features; see `RowSource`."""

    standardize: Standardization

    def __call__(self, pooled: ChannelMeans) -> Iterator[tuple[slice, Features]]:
        for which in blocks_alike(len(pooled)):
            yield which, self.standardize(pooled[which]).astype("float64")


class _Kernels:
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

    def _channels(self, kind: str) -> tuple[Standardization, Standardized]:
        """Return the standardization for a kernel, and the channels so standardized, which are kept for the next."""
        assert self._pooled is not None and self._standardizations is not None
        own = self._standardizations.of(kind)
        if self._standardized is None or self._standardized[0] is not own:
            self._standardized = own, own(self._pooled)
        return self._standardized

    def path(self, kind: str, ridge: _Ridge, timer: Timer) -> RidgePath:
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
        return _pooled_readout(standardize, product(channels.astype("float64").T, coefficients), intercept)


def _best(paths: Mapping[str, RidgePath]) -> str:
    """Return the kernel of the highest leave-one-out accuracy, the first of equals."""
    return max(paths, key=lambda kind: paths[kind].loo_accuracy)


def _accuracies(paths: Mapping[str, RidgePath]) -> dict[str, float]:
    return {kind: path.loo_accuracy for kind, path in paths.items()}


def _compared(
    data: _Data, kinds: Sequence[str], count: int, ridge: _Ridge, seed: int, timer: Timer
) -> tuple[str, dict[str, RidgePath]]:
    """Solve kernels on some of the rows, where they are many first on fewer; return the best kernel, and all paths."""
    paths: dict[str, RidgePath] = {}
    left, found = list(kinds), paths
    for size in (RACED_ROWS, count) if count >= 2 * RACED_ROWS else (count,):
        rows = sampled_rows(data.bits, size, seed)
        kernels, own = data.only(rows).kernels, ridge.only(rows)
        starts = {kind: paths[kind].best if kind in paths else None for kind in left}
        found = {kind: kernels.path(kind, replace(own, start=starts[kind]), timer) for kind in left}
        paths |= found
        if len(left := _rivals(found, own)) == 1:
            break
    return _best(found), paths


def _rivals(paths: Mapping[str, RidgePath], ridge: _Ridge) -> list[str]:
    """Return the best kernel and those whose leave-one-out accuracy is less by up to two standard errors."""
    right = {kind: ridge.correct(path) for kind, path in paths.items()}
    xp, best = namespace(right[_best(paths)]), right[_best(paths)]
    weights = xp.ones(len(best)) if ridge.weights is None else ridge.weights
    shares = weights / weights.sum()

    def is_close(kind: str) -> bool:
        less = best - right[kind]
        mean = shares @ less
        return float(mean) <= 2 * float(xp.sqrt(xp.square(shares * (less - mean)).sum()))

    return [kind for kind in paths if is_close(kind)]


def sampled_rows(bits: Bits, count: int, seed: int) -> Array:
    """Return the indices of the rows that are landmarks or compared, in order; fewer of a seed are among more."""
    return namespace(bits).asarray(np.sort(np.random.default_rng(seed).permutation(len(bits))[:count]))


def _fit_kernel(
    kind: str, data: _Data, form: RidgeForm, ridge: _Ridge, seed: int, timer: Timer
) -> tuple[Readout, RidgePath]:
    """Solve the ridge of a kernel in its form."""
    if form.name == "dual":
        kernels = data.kernels
        return kernels.fitted(kind, kernels.path(kind, ridge, timer), timer)
    if form.name == "landmarks":
        return _fit_landmarks(kind, data, sampled_rows(data.bits, form.order, seed), ridge, timer)
    with timer("gram"):
        sums = sums_of(data.channels, form.order, ridge.targets, ridge.shares(data.bits), ridge.share)
    with timer("solve"):
        path = ridge.primal(sums, data.channels, data.budget, ridge.share)
    standardize = data.standardize(kind)
    assert standardize is not None
    return _pooled_readout(standardize, path.coefficients, path.intercept), path


def _pooled_readout(standardize: Standardization, weights: Weights, intercept: Intercept) -> PooledReadout:
    """Return the readout of weights of standardized channels."""
    weights = standardize.scale[:, None] * weights
    return PooledReadout(weights, intercept - product(standardize.mean, weights))


def _fit_landmarks(kind: str, data: _Data, landmarks: Array, ridge: _Ridge, timer: Timer) -> tuple[Readout, RidgePath]:
    bits, pooled, weights = data.bits[landmarks], data.pooled_of(landmarks), ridge.shares(data.bits)[landmarks]
    kernel = TrainingKernel(kind, bits, pooled, weights, data.budget, data.standardize(kind))
    read = None if kind in ("pooled", *RADIAL) else data.bits, data.pooled if kind in POOLED else None
    rows = RowSource(_KernelRows(kernel), read)
    path = ridge.on_landmarks(kernel.gram(), rows, data.budget, timer)
    kernels = _Kernels(bits, data.m, pooled, weights, data.budget, data.standardizations)
    kernels.sizes = kernel.sizes
    return kernels.fitted(kind, path, timer)


@dataclass(frozen=True)
class _KernelRows:
    """Computes the kernel of blocks of rows with the landmarks; see `RowSource`."""

    kernel: TrainingKernel

    def __call__(self, bits: Bits | None, pooled: ChannelMeans | None) -> Iterator[tuple[slice, Features]]:
        (n,) = {len(each) for each in (bits, pooled) if each is not None}
        for which in blocks_alike(n):
            yield which, self.kernel.rows(*(None if each is None else each[which] for each in (bits, pooled)))


def _fit_speckle(
    bits: Bits,
    projection: Projection,
    form: RidgeForm,
    ridge: _Ridge,
    camera: Camera | None,
    budget: int,
    timer: Timer,
) -> tuple[Readout, RidgePath]:
    n, k = len(bits), projection.k
    with timer("project"):
        camera = camera or getattr(projection, "camera", None) or expose_sample(projection, bits, budget)
        speckle = namespace(bits).empty((n if form.holds_speckle else 0, k), dtype="uint8")
        for which, block in project(projection, camera, bits[: len(speckle)], budget):
            speckle[which] = block
        saturation = float((speckle == 255).sum()) / max(1, speckle.size)
    if not form.holds_speckle:
        return _stream_speckle(bits, projection, camera, ridge, budget, timer)
    if form.name == "dual":
        with timer("gram"):
            products = gram(speckle, budget)
        with timer("solve"):
            path = ridge.dual(products)
            weights = combine_rows(speckle_rows(speckle, few_columns(speckle, budget)), k, path.coefficients)
    else:
        with timer("solve"):
            sums = RowSums.of(speckle, ridge.targets, ridge.weights_of_sums, budget)
            path = ridge.primal(sums, speckle_rows(speckle, budget, ridge.classes), budget)
        weights = path.coefficients
    return SpeckleReadout(projection, camera, weights, path.intercept, saturation), path


@dataclass(frozen=True)
class _ProjectedRows:
    """Projects blocks of bits to speckle; see `RowSource`."""

    projection: Projection
    camera: Camera
    budget: int

    def __call__(self, bits: Bits) -> Iterator[tuple[slice, Speckle]]:
        yield from project(self.projection, self.camera, bits, self.budget // 2)


@dataclass(frozen=True)
class _SignedRows:
    """Yields speckle - 128 of projected blocks, in parts that leave room for so many targets; see `RowSource`."""

    projected: _ProjectedRows
    targets: int

    def __call__(self, bits: Bits) -> Iterator[tuple[slice, Features]]:
        for which, block in self.projected(bits):
            for part, values in speckle_rows(block, self.projected.budget, self.targets)():
                yield slice(which.start + part.start, which.start + part.stop), values


@dataclass(frozen=True)
class _SpeckleSums:
    """Sums rows of speckle and counts saturated values; see `ridge.passes.Work`."""

    budget: int
    weighted: bool

    def __call__(self, rows: RowBlocks, targets: Targets, weights: RowWeights) -> tuple[RowSums, int]:
        sums, saturated = None, 0
        for which, block in rows():
            saturated += int((block == 255).sum())
            part = RowSums.of(block, targets[which], weights[which] if self.weighted else None, self.budget)
            sums = part if sums is None else sums + part
            del part
        assert sums is not None
        return sums, saturated


def _stream_speckle(
    bits: Bits, projection: Projection, camera: Camera, ridge: _Ridge, budget: int, timer: Timer
) -> tuple[Readout, RidgePath]:
    """Solve the primal ridge of speckle that is not held, but projected for each pass over the rows."""
    share = ridge.share if repeats(projection, camera) else here
    projected = _ProjectedRows(projection, camera, budget)
    work = _SpeckleSums(budget, ridge.weights_of_sums is not None)
    saturated = 0

    def parts() -> Iterator[RowSums]:
        nonlocal saturated
        for sums, count in share(work, RowSource(projected, (bits,)), ridge.targets, ridge.shares(bits)):
            saturated += count
            yield sums

    with timer("gram"):
        sums = total(parts())
    with timer("solve"):
        path = ridge.primal(sums, RowSource(_SignedRows(projected, ridge.classes), (bits,)), budget, share)
    saturation = saturated / max(1, len(bits) * projection.k)
    return SpeckleReadout(projection, camera, path.coefficients, path.intercept, saturation), path
