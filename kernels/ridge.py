"""Ridge classification in closed form: leave-one-out picks alpha.

Targets are +1 for a row's own class and -1 elsewhere; the intercept is not penalised. With weights
s of the rows (1 where none are given), S = diag(s), u = sqrt(s) / |sqrt(s)|, rows less their weighted
mean and times sqrt(s), K the Gram of those rows, X the rows themselves and Y the targets treated
alike,

    dual:    c = (K + alpha I)^-1 Y,        residual_i = c_i / (G_ii - u_i^2 / alpha) / sqrt(s_i)
    primal:  w = (X'X + alpha I)^-1 X'Y,    residual_i = (y_i - f(x_i)) / (1 - h_i)

where G = (K + alpha I)^-1 and h is the diagonal of the hat matrix. Both residuals are those of a
fit without row i (Rifkin & Lippert 2007, MIT-CSAIL-TR-2007-025; u_i^2 / alpha is the share of the
free intercept). It is never subtracted here: G is taken of K + alpha I + t uu', t > 0, which moves
only the eigenvalue of u, and what remains to subtract, u_i^2 / (alpha + t), stays small, so that a
tiny alpha costs the residuals no digits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from .arrays import Array, RowBlocks, blocks, namespace, product, rows_at_a_time
from .resolvent import MANY_ALPHAS, Cholesky, Resolvent, Spectrum, refine
from .statistics import Statistics
from .tally import Tally

SEARCHES = ("auto", "all", "halving")
_HALVED_ROWS = 2048
# A climb looks at three alphas: no more are not worth a search.
_CLIMBED = 3
# So few rows are solved in no time by what rounds least.
_FEW_ROWS = 64
# Below the first, nothing is won by float32; beyond the second, eigenvectors and the factors of small alphas, which
# they fail, cost more than factors alone.
_SINGLE_ROWS, _SPECTRAL_ROWS = 512, 4096
_LEAST_FREEDOM = 1e-12
# Rows of a Gram that the CPU centres at a time, within its caches.
_BLOCK = 64
# Where float64 is this many times slower, factors in float32 pay for their refinement: on consumer GPUs 32 to 64; on
# an H100 or H200 it is 2, and both take 0.2 s at n = 19,363.
_SLOW_DOUBLE = 8


@dataclass(frozen=True)
class RidgePath:
    """What leave-one-out says of every alpha, and the solution at the best.

    Attributes
    ----------
    alphas : float64 array of shape (a,)
    loo_accuracies : float64 array of shape (a,)
        Share of rows that a fit without them labels rightly; nan where the system is singular, or
        where a search passed the alpha over.
    loo_errors : float64 array of shape (a,)
        Mean squared leave-one-out residual; nan likewise.
    best : int
        Where the accuracy is highest; among equals, where the error is least. With several labels
        a row, where the error is least.
    coefficients : float64 array of shape (n, c) or (k, c)
        Dual: weights of the training rows, which sum to zero. Primal: weights of the features.
    intercept : float64 array of shape (c,)
    """

    alphas: Array
    loo_accuracies: Array
    loo_errors: Array
    best: int
    coefficients: Array
    intercept: Array

    @property
    def alpha(self) -> float:
        """The best alpha."""
        return float(self.alphas[self.best])

    @property
    def loo_accuracy(self) -> float:
        """Leave-one-out accuracy at the best alpha."""
        return float(self.loo_accuracies[self.best])


def one_vs_rest(labels: Array, classes: int) -> Array:
    """Return targets of shape (n, classes): +1 at a row's label, -1 elsewhere, as float64."""
    xp = namespace(labels)
    return xp.where(labels[:, None] == xp.arange(classes), 1.0, -1.0)


def default_alphas(mean_eigenvalue: float) -> Array:
    """Return 15 alphas from 1e-5 to 1e2 times the mean eigenvalue of the centred Gram.

    A scale of the data's own: the same classifier results whatever the units of the features.
    """
    return np.logspace(-5, 2, 15) * (mean_eigenvalue or 1.0)


def dual_path(
    gram: Array,
    targets: Array,
    alphas: Array | None = None,
    weights: Array | None = None,
    search: str = "auto",
    multilabel: bool = False,
) -> RidgePath:
    """Solve the dual for every alpha, or for the one that a search on fewer rows leaves, from one Gram.

    Parameters
    ----------
    gram : integer or float array of shape (n, n)
        Inner products of the rows, or any positive semi-definite kernel of them; not centred.
    targets : float64 array of shape (n, c)
        See `one_vs_rest`.
    alphas : array of shape (a,), optional
        None takes `default_alphas` of the centred Gram.
    weights : float64 array of shape (n,), optional
        Positive weights of the rows, in the fit and in what leave-one-out counts.
    search : {"auto", "all", "halving"}
        ``all`` scores every alpha on all rows. ``halving`` scores every alpha on a quarter of them,
        the best four on a half, and on all rows the best of those and its neighbours, until these
        are worse than it; ``auto`` does so from 2048 rows.
    multilabel : bool
        Whether a row may have several labels or none. Then the least leave-one-out error picks
        alpha, and the accuracy is the share of labels whose sign is right.

    Returns
    -------
    RidgePath
        ``kernel(x, rows) @ coefficients + intercept`` are the scores of x.

    Raises
    ------
    UsageError
        If an alpha or a weight is not a sound one, or `search` is not known.
    DataError
        If the Gram is not finite, or the system is singular at every alpha.

    Notes
    -----
    Large systems are factored in float32 and their solutions refined to float64; an alpha where that
    does not converge is factored in float64.
    """
    if search not in SEARCHES:
        raise UsageError(f"search {search!r} is not known; choose one of {', '.join(SEARCHES)}")
    system = _Dual(gram, targets, weights)
    alphas = _checked_alphas(alphas, system.scale)
    halving = search == "halving" or (search == "auto" and len(gram) >= _HALVED_ROWS)
    if halving and len(alphas) > _CLIMBED:
        start = _promising(gram, targets, alphas, weights, multilabel)
        path = _best(alphas, _climb(system, alphas, start, multilabel))
    else:
        path = _best(alphas, system.tallies(alphas, np.arange(len(alphas)), multilabel))
    coefficients = path.coefficients * system.roots
    return replace(path, coefficients=coefficients, intercept=system.target_means - product(system.means, coefficients))


def _promising(gram: Array, targets: Array, alphas: Array, weights: Array | None, multilabel: bool) -> int:
    """Return the place of the alpha that leave-one-out prefers on a half of the rows."""
    order, places = np.random.default_rng(0).permutation(len(gram)), np.arange(len(alphas))
    for share, kept in ((4, 4), (2, 1)):
        rows = namespace(gram).asarray(np.sort(order[: max(2, len(gram) // share)]))
        system = _Dual(gram[rows[:, None], rows], targets[rows], None if weights is None else weights[rows])
        ranks = {place: tally.rank for place, tally, _ in system.tallies(alphas, places, multilabel)}
        if not ranks:
            return int(np.argmax(alphas))
        places = np.array(sorted(ranks, key=lambda place: ranks[place], reverse=True)[:kept])
    return int(places[0])


def _climb(system: "_Dual", alphas: Array, start: int, multilabel: bool) -> Iterator[tuple[int, "Tally", Array]]:
    """Yield what leave-one-out says at `start` and at ever further alphas until its neighbours are worse than the best.

    The best alpha of fewer rows may lie beside that of all, most of all where their number passes that of features.
    """
    order = np.argsort(alphas, kind="stable")
    low = high = place = int(np.flatnonzero(order == start)[0])
    ranks: dict[int, tuple[float, ...]] = {}
    while True:
        for result in system.tallies(alphas, order[place : place + 1], multilabel):
            ranks[place] = result[1].rank
            yield result
        best = max(ranks, key=lambda tried: ranks[tried]) if ranks else high
        if best == high and high + 1 < len(alphas):
            high = place = high + 1
        elif best == low and low > 0:
            low = place = low - 1
        else:
            return


class _Dual:
    """The centred and weighted system of the dual; see the head of this module."""

    def __init__(self, gram: Array, targets: Array, weights: Array | None) -> None:
        xp, n = namespace(gram), _checked_rows(len(gram))
        self.weights = _checked_weights(weights, n, xp)
        total = self.weights.sum()
        self.roots, self.constant = xp.sqrt(self.weights)[:, None], xp.sqrt(self.weights / total)
        pieces = blocks(n, rows_at_a_time(gram, _BLOCK))
        parts = (product(self.weights[rows], gram[rows].astype("float64")) for rows in pieces)
        self.means = sum(parts, start=xp.zeros(n)) / total
        others = self.means - self.weights @ self.means / total
        squares = xp.diagonal(gram)
        self.scale = _spread(self.weights @ (squares - self.means - others) / n, self.weights @ squares / n)
        self.shift = self.scale or 1.0
        self.matrix = xp.empty((n, n))
        for rows in pieces:
            part = gram[rows] - self.means
            part -= others[rows, None]
            part *= self.roots[rows] * self.roots[:, 0]
            part += (self.shift * self.constant[rows, None]) * self.constant
            self.matrix[rows] = part
        self.original, self.target_means = targets, product(self.weights, targets) / total
        self.targets = (targets - self.target_means) * self.roots

    def tallies(self, alphas: Array, places: Array, multilabel: bool) -> Iterator[tuple[int, "Tally", Array]]:
        """Yield (place, leave-one-out, solution) for every alpha whose system is not singular."""
        for place, solution, diagonal in self._solved(alphas, places):
            share = namespace(solution).square(self.constant) / (alphas[place] + self.shift)
            residuals = solution / (diagonal - share)[:, None] / self.roots
            tally = Tally(multilabel)
            tally.add(self.original, residuals, self.weights)
            if tally.sound:
                yield place, tally, solution

    def _solved(self, alphas: Array, places: Array) -> Iterator[tuple[int, Array, Array]]:
        pending = list(places)
        for chosen, resolvent in self._fast(alphas, pending):
            found, trusted = refine(self.matrix, resolvent, self.targets)
            diagonals = resolvent.diagonals().astype("float64")
            for column, place in enumerate(chosen):
                if trusted[column]:
                    pending.remove(place)
                    yield place, found[:, column], diagonals[:, column]
        for place in pending:
            try:
                exact = Cholesky(self.matrix, float(alphas[place]))
            except np.linalg.LinAlgError:
                continue
            yield place, exact.solve(self.targets[:, None])[:, 0], exact.diagonals()[:, 0]

    def _fast(self, alphas: Array, pending: list[int]) -> Iterator[tuple[list[int], Resolvent]]:
        """Yield what costs less than a factor in float64 an alpha, to be refined, for what is `pending` by then."""
        n, on_host = len(self.matrix), namespace(self.matrix) is np
        if on_host and len(pending) >= MANY_ALPHAS and _FEW_ROWS <= n <= _SPECTRAL_ROWS:
            yield list(pending), Spectrum(self.matrix, alphas[pending], "float64" if n < _SINGLE_ROWS else "float32")
        # A factor keeps digits of small alphas that eigenvectors in float32 lose. The smaller the alpha the fewer it
        # keeps: after one that it fails, the rest is float64's.
        single = n >= _SINGLE_ROWS and (on_host or _double_is_slow())
        for place in sorted(pending, key=lambda each: alphas[each], reverse=True) if single else ():
            try:
                yield [place], Cholesky(self.matrix, float(alphas[place]), "float32")
            except np.linalg.LinAlgError:
                return
            if place in pending:
                return


def _double_is_slow() -> bool:
    """Return whether the current GPU computes in float64 so much slower that float32 with refinement wins."""
    import cupy  # type: ignore[import-not-found, unused-ignore]

    # Where the driver does not tell, it is taken for slow: refinement is right on every GPU.
    return bool(cupy.cuda.Device().attributes.get("SingleToDoublePrecisionPerfRatio", _SLOW_DOUBLE) >= _SLOW_DOUBLE)


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
    _checked_rows(len(targets))
    system = _Primal(statistics, rows, targets, _checked_weights(weights, len(targets), namespace(targets)))
    trace, n = namespace(targets).trace, len(targets)
    alphas = _checked_alphas(alphas, _spread(trace(system.covariance) / n, trace(statistics.products) / n))
    path = _best(alphas, system.tallies(alphas, np.arange(len(alphas)), multilabel))
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


def _best(alphas: Array, tallies: Iterable[tuple[int, Tally, Array]]) -> RidgePath:
    accuracies, errors = np.full(len(alphas), np.nan), np.full(len(alphas), np.nan)
    rank: tuple[float, ...] = (-np.inf,)
    best, kept = -1, None
    for place, tally, solution in tallies:
        accuracies[place], errors[place] = tally.accuracy, tally.error
        if tally.rank > rank:
            best, kept, rank = int(place), solution, tally.rank
    if kept is None:
        raise DataError(
            f"the ridge system is singular at every alpha of {alphas}; give larger alphas, or rows that differ"
        )
    # On its own and in C order, as it will be read from a file: products then round alike.
    kept = namespace(kept).ascontiguousarray(kept)
    return RidgePath(alphas, accuracies, errors, best, kept, kept[0])


def _spread(scale: Array, size: Array) -> float:
    """Return the mean eigenvalue, 0 where it is no more than what rounding leaves of rows that are all alike."""
    return 0.0 if float(scale) < 1e-13 * float(size) else float(scale)


def _checked_rows(n: int) -> int:
    if n < 2:
        raise DataError(f"{n} row(s) to train on; leave-one-out needs at least 2")
    return n


def _checked_alphas(alphas: Array | None, scale: float) -> Array:
    if not np.isfinite(scale):
        raise DataError("the Gram holds nan or inf; check the features for values that are not finite")
    if alphas is None:
        return default_alphas(scale)
    alphas = np.atleast_1d(np.asarray(alphas, dtype="float64"))
    if alphas.ndim != 1 or alphas.size == 0 or not np.all(np.isfinite(alphas) & (alphas >= 0)):
        raise UsageError(f"alphas {alphas} must be finite numbers, none negative, at least one of them")
    return alphas


def _checked_weights(weights: Array | None, n: int, xp: Any) -> Array:
    if weights is None:
        return xp.ones(n)
    weights = xp.asarray(weights, dtype="float64")
    if weights.shape != (n,) or not bool((xp.isfinite(weights) & (weights > 0)).all()):
        raise UsageError(f"weights of shape {weights.shape} must be {n} positive finite numbers, one a row")
    return weights
