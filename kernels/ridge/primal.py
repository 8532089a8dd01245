"""The primal ridge: leave-one-out picks alpha, from sums over the rows; see `ridge`."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..arrays import Array, namespace
from ..blas import product
from ..row_blocks import RowBlocks
from .inputs import checked_alphas, checked_rows, checked_weights, spread
from .loo import Tally
from .path import RidgePath, best_path
from .solvers import Cholesky, Resolvent, Spectrum
from .sums import Statistics

_LEAST_FREEDOM = 1e-12


def primal_path(
    statistics: Statistics,
    rows: RowBlocks,
    targets: Array,
    alphas: Array | None = None,
    weights: Array | None = None,
    multilabel: bool = False,
) -> RidgePath:
    """Solve the primal for every alpha from the statistics of the rows; leave-one-out streams the rows.

    Parameters
    ----------
    statistics : Statistics
        Of the same rows, targets and weights.
    rows : callable
        Starts a pass over the rows, in blocks of shape (rows, k). On the CPU there is one pass, on a
        GPU one an alpha.
    targets : float64 array of shape (n, c)
    alphas : array of shape (a,), optional
    weights : float64 array of shape (n,), optional
    multilabel : bool
        As `dual_path`.

    Returns
    -------
    RidgePath
        ``x @ coefficients + intercept`` are the scores of x.

    Raises
    ------
    UsageError, DataError
        As `dual_path`.
    """
    checked_rows(len(targets))
    system = _Primal(statistics, rows, targets, checked_weights(weights, len(targets), namespace(targets)))
    trace, n = namespace(targets).trace, len(targets)
    alphas = checked_alphas(alphas, spread(trace(system.covariance) / n, trace(statistics.products) / n))
    path = best_path(alphas, system.tallies(alphas, np.arange(len(alphas)), multilabel))
    return replace(path, intercept=system.target_means - product(system.means, path.coefficients))


class _Primal:
    """The centred system of the primal; see the head of this module."""

    def __init__(self, statistics: Statistics, rows: RowBlocks, targets: Array, weights: Array) -> None:
        self.rows, self.targets, self.weights = rows, targets, weights
        self.total = statistics.weight
        self.means, self.target_means = statistics.sums / self.total, statistics.target_sums / self.total
        self.covariance, self.cross = statistics.centred()

    def tallies(self, alphas: Array, places: Array, multilabel: bool) -> Iterator[tuple[int, "Tally", Array]]:
        """Yield (place, leave-one-out, solution) for every alpha whose system is not singular."""
        for chosen, resolvent in self._resolvents(alphas, places):
            solutions = resolvent.solve(self.cross[:, None])
            tallies = [Tally(multilabel) for _ in chosen]
            for which, block in self.rows():
                deviations, weights = block - self.means, self.weights[which]
                leverages = weights[:, None] * (1 / self.total + resolvent.forms(deviations))
                for column, tally in enumerate(tallies):
                    errors = self.targets[which] - self.target_means - product(deviations, solutions[:, column])
                    tally.add(self.targets[which], errors / _freedom(leverages[:, column])[:, None], weights)
            for column, place in enumerate(chosen):
                if tallies[column].sound:
                    yield place, tallies[column], solutions[:, column]

    def _resolvents(self, alphas: Array, places: Array) -> Iterator[tuple[Array, Resolvent]]:
        if namespace(self.covariance) is np:
            yield places, Spectrum(self.covariance, alphas[places])
            return
        for place in places:
            try:
                yield [place], Cholesky(self.covariance, float(alphas[place]))
            except np.linalg.LinAlgError:
                continue


def _freedom(leverages: Array) -> Array:
    # A row whose leverage is 1 is fitted whatever its target: nothing is left to divide.
    xp = namespace(leverages)
    return xp.where(1 - leverages > _LEAST_FREEDOM, 1 - leverages, xp.nan)
