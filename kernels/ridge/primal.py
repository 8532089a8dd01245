"""The primal ridge, with alpha selected by leave-one-out from sums over the rows; see `ridge`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from ..array_types import Alphas, Array, FeatureSums, RowWeights, Solutions, Targets, TargetSums
from ..arrays import namespace
from ..blas import product
from ..memory import Budget, blocks, memory_budget
from ..row_blocks import RowBlocks, RowSource
from .form import plan_leave_one_out
from .inputs import checked_alphas, checked_rows, checked_weights, spread
from .loo import LooScore
from .passes import Share, here
from .path import RidgePath, Scored, best_path
from .solvers import CholeskySolver, EighSolver, Solver
from .sums import RowSums

_LEAST_FREEDOM = 1e-12


def primal_path(
    sums: RowSums,
    rows: RowSource,
    targets: Targets,
    alphas: ArrayLike | None = None,
    weights: Array | None = None,
    multilabel: bool = False,
    budget: Budget = None,
    share: Share = here,
) -> RidgePath:
    """Solve the primal ridge for every alpha from sums over rows; leave-one-out streams the rows.

    Parameters
    ----------
    sums : RowSums
        Sums of the same rows, targets and weights.
    rows : RowSource
        Starts a pass over the rows, in blocks of shape (rows, k). The CPU needs one pass, two where the scores of all
        alphas do not fit a quarter of the budget, and more where their solutions do not; a GPU one per alpha.
    targets : array of shape (n, c)
        Blocks of rows become float64.
    alphas : array of shape (a,), optional
    weights : float64 array of shape (n,), optional
    multilabel : bool
        See `dual_path`.
    budget : int, str or None
        Memory for the solutions at the alphas that a pass over the rows scores; see `memory_budget`.
    share : callable
        Where passes over the rows are computed; see `passes`.

    Returns
    -------
    RidgePath
        ``x @ coefficients + intercept`` are the scores of x.

    Raises
    ------
    UsageError, DataError
        See `dual_path`.
    """
    checked_rows(len(targets))
    size = memory_budget(budget, targets)
    system = _Primal(sums, rows, targets, checked_weights(weights, len(targets), namespace(targets)), share)
    trace, n = namespace(targets).trace, len(targets)
    alphas = checked_alphas(alphas, spread(trace(system.covariance) / n, trace(sums.products) / n))
    at_once, keeps = plan_leave_one_out(len(alphas), len(sums.sums), n, targets.shape[1], size)
    path = best_path(alphas, system.leave_one_out(alphas, range(len(alphas)), multilabel, at_once, keeps))
    if path.loo_scores is None:
        ((_, score, _),) = system.leave_one_out(alphas, range(path.best, path.best + 1), multilabel)
        path = replace(path, loo_scores=score.scores)
    return replace(path, intercept=system.target_means - product(system.means, path.coefficients))


class _Primal:
    """The centred system of the primal; see `ridge`."""

    def __init__(self, sums: RowSums, rows: RowSource, targets: Targets, weights: RowWeights, share: Share) -> None:
        self.share = share
        self.spectral: EighSolver | None = None
        self.rows, self.targets, self.weights = rows, targets, weights
        self.total = sums.weight
        self.means, self.target_means = sums.sums / self.total, sums.target_sums / self.total
        self.covariance, self.cross = sums.centred()

    def leave_one_out(
        self, alphas: Alphas, indices: range, multilabel: bool, at_once: int = 1, keeps_scores: bool = True
    ) -> Iterator[Scored]:
        """Yield (index, leave-one-out score, solution) for every alpha whose system is not singular."""
        for chosen, solver in self._solvers(alphas, indices, at_once):
            solutions = solver.solve(self.cross[:, None])
            made = partial(LooScore, multilabel, keeps_scores or len(chosen) == 1)
            work = _LeaveOneOut(self.total, self.means, self.target_means, solver, solutions, made)
            scores = [made() for _ in chosen]
            for part in self.share(work, self.rows, self.targets, self.weights):
                for score, of_segment in zip(scores, part, strict=True):
                    score.extend(of_segment)
            for column, index in enumerate(chosen):
                if scores[column].finite:
                    yield index, scores[column], solutions[:, column]

    def _solvers(self, alphas: Alphas, indices: range, at_once: int) -> Iterator[tuple[range, Solver]]:
        if namespace(self.covariance) is np:
            self.spectral = self.spectral or EighSolver(self.covariance, alphas)
            for part in blocks(len(indices), at_once):
                chosen = indices[part]
                yield chosen, self.spectral.only(slice(chosen.start, chosen.stop))
            return
        for index in indices:
            try:
                yield range(index, index + 1), CholeskySolver(self.covariance, float(alphas[index]))
            except np.linalg.LinAlgError:
                continue


@dataclass(frozen=True)
class _LeaveOneOut:
    """Scores rows at some alphas; see `passes.Work`."""

    total: float
    means: FeatureSums
    target_means: TargetSums
    solver: Solver
    solutions: Solutions
    made: Callable[[], LooScore]

    def __call__(self, rows: RowBlocks, targets: Targets, weights: RowWeights) -> list[LooScore]:
        scores = [self.made() for _ in range(self.solutions.shape[1])]
        for which, block in rows():
            deviations = block - self.means
            leverages = weights[which, None] * (1 / self.total + self.solver.quadratic_forms(deviations))
            for column, score in enumerate(scores):
                errors = targets[which] - self.target_means - product(deviations, self.solutions[:, column])
                score.add(targets[which], errors / _freedom(leverages[:, column])[:, None], weights[which])
        return scores


def _freedom(leverages: Array) -> Array:
    # A row of leverage 1 is fitted exactly, so its leave-one-out residual is undefined.
    xp = namespace(leverages)
    return xp.where(1 - leverages > _LEAST_FREEDOM, 1 - leverages, xp.nan)
