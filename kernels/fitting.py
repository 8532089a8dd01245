"""Fit readouts to packed bits or channel means, and labels: `fit_readout`."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError
from .array_types import Array, Bits, ChannelMeans, Features, Labels, LabelSets
from .arrays import namespace
from .camera import Camera
from .fit.comparison import accuracies, best_kernel, compared_kernels, sampled_rows
from .fit.problem import FitData, RidgeProblem, Timer, check_rows
from .fit.speckle import fit_speckle
from .fit.square import SquareKernels, pooled_readout
from .memory import Budget, memory_budget
from .readout import PROJECTIONS, PROJECTORS, Projector, Readout
from .ridge import RidgePath
from .ridge.form import POOLED, RADIAL, RidgeForm, require_dual
from .ridge.passes import Share, blocks_alike, here
from .ridge.sums import sums_of
from .row_blocks import RowSource
from .training_kernel import TrainingKernel

AUTO, AUTO_POOLED, AUTO_LAYERS = ("none", "exact"), ("pooled", "rbf", "bits+rbf"), ("layers",)
"""The kernels among which ``auto`` selects: of bits, of pooled features besides, and of those of several layers."""


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
        If the projection is unknown or lacks pooled features, `n_components` is not positive, the seed is negative, or
        the arrays do not belong together.
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
    check_rows(bits, m, labels, classes, pooled, weights, layers)
    size = memory_budget(budget, bits)
    data = FitData(bits, m, classes, pooled, weights, size, tuple(layers))
    form = data.plan(projection, n_components)
    ridge = RidgeProblem(labels, classes, alphas, weights, search, labels.ndim == 2, share)
    if callable(projection) or projection in PROJECTORS:
        make = projection if callable(projection) else PROJECTORS[projection]
        assert form.components is not None
        return fit_speckle(bits, make(m, form.components, seed), form, ridge, camera, size, timer)
    if projection != "auto":
        return _fit_kernel(projection, data, form, ridge, seed, timer)
    kinds = auto_kernels(pooled is not None, len(layers) > 1)
    if form.name == "dual" and form.compared == len(bits):
        kernels = SquareKernels.of(data)
        paths = {kind: kernels.path(kind, ridge, timer) for kind in kinds}
        kind = best_kernel(paths)
        return kernels.fitted(kind, replace(paths[kind], loo_accuracy_of=accuracies(paths)), timer)
    kind, paths = compared_kernels(data, kinds, form.compared, ridge, seed, timer)
    ridge, scores = replace(ridge, start=paths[kind].best), accuracies(paths)
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
    data = FitData(bits, m, classes, pooled, weights, size, tuple(layers))
    kernels = SquareKernels.of(data)
    ridge = RidgeProblem(labels, classes, None, weights, search, labels.ndim == 2)
    return {kind: kernels.path(kind, ridge, lambda stage: nullcontext()) for kind in kinds}


def _fit_kernel(
    kind: str, data: FitData, form: RidgeForm, ridge: RidgeProblem, seed: int, timer: Timer
) -> tuple[Readout, RidgePath]:
    """Solve the ridge of a kernel in its form."""
    if form.name == "dual":
        kernels = SquareKernels.of(data)
        return kernels.fitted(kind, kernels.path(kind, ridge, timer), timer)
    if form.name == "landmarks":
        return _fit_landmarks(kind, data, sampled_rows(data.bits, form.order, seed), ridge, timer)
    with timer("gram"):
        sums = sums_of(data.channels, form.order, ridge.targets, ridge.shares(data.bits), ridge.share)
    with timer("solve"):
        path = ridge.primal(sums, data.channels, data.budget, ridge.share)
    standardize = data.standardize(kind)
    assert standardize is not None
    return pooled_readout(standardize, path.coefficients, path.intercept), path


def _fit_landmarks(
    kind: str, data: FitData, landmarks: Array, ridge: RidgeProblem, timer: Timer
) -> tuple[Readout, RidgePath]:
    bits, pooled, weights = data.bits[landmarks], data.pooled_of(landmarks), ridge.shares(data.bits)[landmarks]
    kernel = TrainingKernel(kind, bits, pooled, weights, data.budget, data.standardize(kind))
    read = None if kind in ("pooled", *RADIAL) else data.bits, data.pooled if kind in POOLED else None
    rows = RowSource(_KernelRows(kernel), read)
    path = ridge.on_landmarks(kernel.gram(), rows, data.budget, timer)
    kernels = SquareKernels(bits, data.m, pooled, weights, data.budget, data.standardizations)
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
