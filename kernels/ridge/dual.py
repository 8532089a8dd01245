"""The dual ridge, with alpha selected by leave-one-out from one Gram; see `ridge`."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from ...errors import UsageError
from ..array_types import Alphas, Array, Gram, Targets
from ..arrays import namespace
from ..blas import product
from ..memory import blocks, rows_at_a_time
from .inputs import checked_alphas, checked_rows, checked_weights, spread
from .loo import LooScore
from .path import RidgePath, Scored, best_path
from .solvers import MANY_ALPHAS, CholeskySolver, EighSolver, Solver, accurate, refine

SEARCHES = ("auto", "all", "halving")
HALVED_ROWS = 2048
"""Rows from which a search for alpha begins on fewer of them."""
# Hill climbing scores three alphas, so a search over no more than three gains nothing.
_CLIMBED = 3
# Systems of so few rows are solved quickly by the most accurate method.
_FEW_ROWS = 64
# Below the first, float32 gains nothing; above the second, an eigendecomposition, which also needs factors for
# small alphas, costs more than factors alone.
_SINGLE_ROWS, _SPECTRAL_ROWS = 512, 4096
# Each step of refinement multiplies all targets at all alphas by the system three times, which costs more than float64
# saves where targets times alphas outnumber rows. A factor serves one alpha, which counts as so many.
_MANY_TARGETS = 4
# Rows per block for centring a Gram within the CPU's caches.
_BLOCK = 64
# If float64 is slower by this factor, float32 factors with refinement are faster. The ratio is 32 to 64 on consumer
# GPUs, and 2 on an H100 or H200, where both take 0.2 s at n = 19,363.
_SLOW_DOUBLE = 8


def dual_path(
    gram: Gram,
    targets: Targets,
    alphas: ArrayLike | None = None,
    weights: Array | None = None,
    search: str = "auto",
    multilabel: bool = False,
    start: int | None = None,
) -> RidgePath:
    """Solve the dual ridge for every alpha, or for those of a search, from one Gram.

    Parameters
    ----------
    gram : integer or float array of shape (n, n)
        Uncentred inner products of the rows, or any positive semi-definite kernel of them.
    targets : float64 array of shape (n, c)
        See `one_vs_rest`.
    alphas : array of shape (a,), optional
        By default `default_alphas` of the centred Gram.
    weights : float64 array of shape (n,), optional
        Positive sample weights, for the fit and for leave-one-out.
    search : {"auto", "all", "halving"}
        ``all`` scores every alpha on all rows. ``halving`` scores every alpha on a quarter of the rows
        and the best four on half of them, then climbs from the best one on all rows until both its
        neighbours are worse; ``auto`` uses it from 2048 rows on.
    multilabel : bool
        Whether a row may have several labels or none. Alpha is then selected by the leave-one-out
        error, and the accuracy is the fraction of labels whose sign is correct.
    start : int, optional
        Index of the alpha from which `search` climbs where it would halve, such as the best on some of the rows.

    Returns
    -------
    RidgePath
        ``kernel(x, rows) @ coefficients + intercept`` are the scores of x.

    Raises
    ------
    UsageError
        If an alpha, a weight or `start` is invalid, or `search` is unknown.
    DataError
        If the Gram is not finite, or the system is singular at every alpha.

    Notes
    -----
    Large systems are factored in float32 and refined to float64; if that does not converge for an alpha,
    it is factored in float64.
    """
    if search not in SEARCHES:
        raise UsageError(f"search {search!r} is not known; choose one of {', '.join(SEARCHES)}")
    system = _Dual(gram, targets, weights)
    alphas = checked_alphas(alphas, system.scale)
    if start is not None and not 0 <= start < len(alphas):
        raise UsageError(f"start {start} is no index of {len(alphas)} alphas; give 0 to {len(alphas) - 1}")
    halving = search == "halving" or (search == "auto" and len(gram) >= HALVED_ROWS)
    if halving and len(alphas) > _CLIMBED:
        first = _halving_start(gram, targets, alphas, weights, multilabel) if start is None else start
        path = best_path(alphas, _climb(system, alphas, first, multilabel))
    else:
        path = best_path(alphas, system.leave_one_out(alphas, range(len(alphas)), multilabel))
    coefficients = path.coefficients * system.roots
    return replace(path, coefficients=coefficients, intercept=system.target_means - product(system.means, coefficients))


def _halving_start(gram: Gram, targets: Targets, alphas: Alphas, weights: Array | None, multilabel: bool) -> int:
    """Return the index of the best alpha on half of the rows, by successive halving."""
    order, indices = np.random.default_rng(0).permutation(len(gram)), list(range(len(alphas)))
    for share, kept in ((4, 4), (2, 1)):
        rows = namespace(gram).asarray(np.sort(order[: max(2, len(gram) // share)]))
        system = _Dual(gram[rows[:, None], rows], targets[rows], None if weights is None else weights[rows])
        ranks = {index: score.rank for index, score, _ in system.leave_one_out(alphas, indices, multilabel)}
        if not ranks:
            return int(np.argmax(alphas))
        indices = sorted(ranks, key=lambda index: ranks[index], reverse=True)[:kept]
    return indices[0]


def _climb(system: "_Dual", alphas: Alphas, start: int, multilabel: bool) -> Iterator[Scored]:
    """Yield scores by hill climbing from `start`, until both neighbours of the best alpha are worse.

    The best alpha on fewer rows may differ from that on all rows, especially if rows outnumber features.
    """
    order = np.argsort(alphas, kind="stable").tolist()
    low = high = position = order.index(start)
    ranks: dict[int, tuple[float, ...]] = {}
    while True:
        for result in system.leave_one_out(alphas, [order[position]], multilabel):
            ranks[position] = result[1].rank
            yield result
        best = max(ranks, key=lambda tried: ranks[tried]) if ranks else high
        if best == high and high + 1 < len(alphas):
            high = position = high + 1
        elif best == low and low > 0:
            low = position = low - 1
        else:
            return


class _Dual:
    """The centred and weighted system of the dual; see `ridge`."""

    def __init__(self, gram: Gram, targets: Targets, weights: Array | None) -> None:
        xp, n = namespace(gram), checked_rows(len(gram))
        self.weights = checked_weights(weights, n, xp)
        total = self.weights.sum()
        self.roots, self.constant = xp.sqrt(self.weights)[:, None], xp.sqrt(self.weights / total)
        pieces = blocks(n, rows_at_a_time(gram, _BLOCK))
        parts = (product(self.weights[rows], gram[rows].astype("float64")) for rows in pieces)
        self.means = sum(parts, start=xp.zeros(n)) / total
        others = self.means - self.weights @ self.means / total
        squares = xp.diagonal(gram)
        self.scale = spread(self.weights @ (squares - self.means - others) / n, self.weights @ squares / n)
        self.shift = self.scale or 1.0
        self.matrix = xp.empty((n, n))
        for rows in pieces:
            part = gram[rows] - self.means
            part -= others[rows, None]
            part *= self.roots[rows] * self.roots[:, 0]
            part += (self.shift * self.constant[rows, None]) * self.constant
            self.matrix[rows] = part
        self._too_small = -1.0
        self.original, self.target_means = targets, product(self.weights, targets) / total
        self.targets = (targets - self.target_means) * self.roots

    def leave_one_out(self, alphas: Alphas, indices: Sequence[int], multilabel: bool) -> Iterator[Scored]:
        """Yield (index, leave-one-out score, solution) for every alpha whose system is not singular."""
        for index, solution, diagonal in self._solved(alphas, indices):
            share = namespace(solution).square(self.constant) / (alphas[index] + self.shift)
            scale = 1 / ((diagonal - share)[:, None] * self.roots)
            score = LooScore(multilabel)
            for rows in blocks(len(solution), rows_at_a_time(solution, 256)):
                score.add(self.original[rows], solution[rows] * scale[rows], self.weights[rows])
            if score.finite:
                yield index, score, solution

    def _solved(self, alphas: Alphas, indices: Sequence[int]) -> Iterator[tuple[int, Array, Array]]:
        pending = list(indices)
        yield from (self._unrefined if self._has_many_targets(len(pending)) else self._refined)(alphas, pending)
        for index in pending:
            try:
                exact = CholeskySolver(self.matrix, float(alphas[index]))
            except np.linalg.LinAlgError:
                continue
            yield index, next(exact.each(self.targets)), exact.inverse_diagonals()[:, 0]

    def _has_many_targets(self, alphas: int) -> bool:
        n, c = self.targets.shape
        return namespace(self.matrix) is np and c * max(alphas, _MANY_TARGETS) > n

    def _unrefined(self, alphas: Alphas, pending: list[int]) -> Iterator[tuple[int, Array, Array]]:
        """Solve in float64 by one eigendecomposition, and take what is solved off `pending`."""
        if len(pending) < MANY_ALPHAS or not _FEW_ROWS <= len(self.matrix) <= _SPECTRAL_ROWS:
            return
        solver = EighSolver(self.matrix, alphas[pending])
        trusted, diagonals = accurate(self.matrix, solver, self.targets), solver.inverse_diagonals()
        for column, (index, solution) in enumerate(zip(tuple(pending), solver.each(self.targets), strict=True)):
            if trusted[column]:
                pending.remove(index)
                yield index, solution, diagonals[:, column]

    def _refined(self, alphas: Alphas, pending: list[int]) -> Iterator[tuple[int, Array, Array]]:
        """Solve by what is faster than float64 factors and refine, and take what is solved off `pending`."""
        for chosen, solver in self._fast(alphas, pending):
            found, trusted = refine(self.matrix, solver, self.targets)
            diagonals = solver.inverse_diagonals().astype("float64")
            for column, index in enumerate(chosen):
                if trusted[column]:
                    pending.remove(index)
                    yield index, found[:, column], diagonals[:, column]

    def _fast(self, alphas: Alphas, pending: list[int]) -> Iterator[tuple[list[int], Solver]]:
        """Yield solvers that are cheaper than float64 factors, to be refined, for the alphas still `pending`."""
        n, on_host = len(self.matrix), namespace(self.matrix) is np
        if on_host and len(pending) >= MANY_ALPHAS and _FEW_ROWS <= n <= _SPECTRAL_ROWS:
            yield list(pending), EighSolver(self.matrix, alphas[pending], "float64" if n < _SINGLE_ROWS else "float32")
        # For small alphas a factor is more accurate than eigenvectors in float32, but its accuracy falls with alpha:
        # from the first failure on, those as small are solved in float64.
        if n < _SINGLE_ROWS or not (on_host or _double_is_slow()):
            return
        for index in sorted(pending, key=lambda each: alphas[each], reverse=True):
            if alphas[index] <= self._too_small:
                return
            with suppress(np.linalg.LinAlgError):
                yield [index], CholeskySolver(self.matrix, float(alphas[index]), "float32")
            if index in pending:
                self._too_small = float(alphas[index])


def _double_is_slow() -> bool:
    """Return whether float64 is so slow on the current GPU that float32 with refinement is faster."""
    import cupy  # type: ignore[import-not-found, unused-ignore]

    # If the driver does not report the ratio, assume that float64 is slow; refinement is correct on every GPU.
    return bool(cupy.cuda.Device().attributes.get("SingleToDoublePrecisionPerfRatio", _SLOW_DOUBLE) >= _SLOW_DOUBLE)
