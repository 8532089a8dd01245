"""Choose a kernel by leave-one-out on some of the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..array_types import Array, Bits
from ..arrays import namespace
from ..ridge import RidgePath
from ..ridge.form import RACED_ROWS
from .problem import FitData, RidgeProblem, Timer
from .square import SquareKernels


def best_kernel(paths: Mapping[str, RidgePath]) -> str:
    """Return the kernel of the highest leave-one-out accuracy, the first of equals."""
    return max(paths, key=lambda kind: paths[kind].loo_accuracy)


def accuracies(paths: Mapping[str, RidgePath]) -> dict[str, float]:
    """Return the leave-one-out accuracy of each kernel."""
    return {kind: path.loo_accuracy for kind, path in paths.items()}


def compared_kernels(
    data: FitData, kinds: Sequence[str], count: int, ridge: RidgeProblem, seed: int, timer: Timer
) -> tuple[str, dict[str, RidgePath]]:
    """Solve kernels on some of the rows, where they are many first on fewer; return the best kernel, and all paths."""
    paths: dict[str, RidgePath] = {}
    left, found = list(kinds), paths
    for size in (RACED_ROWS, count) if count >= 2 * RACED_ROWS else (count,):
        rows = sampled_rows(data.bits, size, seed)
        kernels, own = SquareKernels.of(data.only(rows)), ridge.only(rows)
        starts = {kind: paths[kind].best if kind in paths else None for kind in left}
        found = {kind: kernels.path(kind, replace(own, start=starts[kind]), timer) for kind in left}
        paths |= found
        if len(left := _rivals(found, own)) == 1:
            break
    return best_kernel(found), paths


def _rivals(paths: Mapping[str, RidgePath], ridge: RidgeProblem) -> list[str]:
    """Return the best kernel and those whose leave-one-out accuracy is less by up to two standard errors."""
    right = {kind: ridge.correct(path) for kind, path in paths.items()}
    xp, best = namespace(right[best_kernel(paths)]), right[best_kernel(paths)]
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
