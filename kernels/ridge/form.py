"""The form in which a ridge is solved, and what it takes, planned before any work.

``dual``
    The n x n system of all rows, exactly, with any kernel or with speckle of more components than rows.
``primal``
    The k x k system of features, exactly: of speckle of k components, or of k pooled features.
``landmarks``
    A kernel on some of the rows, see `ridge.landmarks`: where the dual does not fit the memory budget.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ...errors import BudgetError
from ..memory import Budget, block_length, format_bytes, memory_budget
from .dual import HALVED_ROWS

FormName = Literal["dual", "primal", "landmarks"]
RADIAL = ("rbf", "layers")
"""Radial kernels: of pooled features, and of those of several layers."""
POOLED = ("pooled", *RADIAL, "bits+rbf", "exact+rbf")
"""Kernels that read pooled features, alone or with the bits."""
SUMS = {"bits+rbf": ("none", "rbf"), "exact+rbf": ("exact", "rbf")}
"""Kernels that are sums, and of which two."""
KERNELS = ("none", "exact", *POOLED)
"""Projections whose ridge is that of a kernel; all others but ``auto`` make speckle."""
COMPARED_ROWS = 4096
"""Rows at most on which ``auto`` compares kernels: five solves of all rows would take five times as long as one."""
RACED_ROWS = 2048
"""Of twice as many rows or more, those on which kernels are compared first; one that is clearly worse is then left."""
MOST_LANDMARKS, LEAST_LANDMARKS = 4096, 32
"""Landmarks at most, and what is refused as too few."""
WHOLE = 64
"""More landmarks than these are a multiple of them: BLAS then rounds alike with 1, 2, 4, 8 or 16 threads."""
LANDMARK_BLOCK = 512
"""Rows whose kernel with the landmarks is held at a time, whatever the budget, so that sums do not depend on it."""
ALPHAS = 15
"""Those that are tried by default."""
# Centring, refining and squaring read the dual's system from memory: in the time of so many products an entry.
_PASSES = 3000
# What is left of the budget is for blocks of speckle.
_SHARE_OF_COMPONENTS = 0.75


@dataclass(frozen=True)
class RidgeForm:
    """How the ridge of n rows is solved.

    Attributes
    ----------
    name : {"dual", "primal", "landmarks"}
    order : int
        Rows of the system: n, k or p.
    components : int or None
        Outputs k of the projection, where there is one.
    compared : int
        Rows on which ``auto`` compares kernels; 0 where there is nothing to compare.
    parts : dict of int
        Bytes at the peak, by part. The bits and pooled features themselves are not counted.
    operations : dict of int
        Multiplications with additions, by stage: of bits in ``gram``, or of speckle, which is counted as 8 bits a
        component; of floats in ``statistics``, the sums over rows, in ``solve``, and in ``leave-one-out``.
    reason : str
        Why it is this form.
    row_passes : int
        Over rows that are not held: one for sums, and those that score alphas on the CPU.
    """

    name: FormName
    order: int
    components: int | None
    compared: int
    parts: Mapping[str, int] = field(default_factory=dict)
    operations: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    row_passes: int = 1

    @property
    def bytes(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def holds_speckle(self) -> bool:
        """Whether the speckle of all rows is held, and not projected again for each pass over the rows."""
        return "speckle" in self.parts

    @property
    def shared_stages(self) -> tuple[str, ...]:
        """The stages of `operations` that are passes over rows, which a cluster's workers compute; see `passes`."""
        if self.name == "dual" or self.holds_speckle:
            return ()
        return ("gram", "statistics", "leave-one-out")

    def describe(self) -> str:
        """Return the form in a few words."""
        if self.name == "landmarks":
            return f"a kernel on {self.order:,d} landmarks, {format_bytes(self.bytes)}"
        speckle = "" if self.components is None else f" of {self.components:,d} components"
        return f"the {self.name} {self.order:,d} x {self.order:,d} system{speckle}, {format_bytes(self.bytes)}"


def plan_ridge(
    n: int,
    m: int,
    classes: int,
    projection: object = "auto",
    n_components: int | None = None,
    channels: int | None = None,
    budget: Budget = None,
    on_gpu: bool = False,
) -> RidgeForm:
    """Plan the ridge of `fitting.fit_readout`, which solves it in this form.

    Parameters
    ----------
    n, m, classes : int
        Numbers of rows, features and classes.
    projection : str or callable
        As in `fitting.fit_readout`; all names but ``auto`` and `KERNELS` are of speckle.
    n_components : int, optional
        Outputs of a projection. By default m / 2, or as many as the budget holds if rows outnumber them.
    channels : int, optional
        Number of pooled features. ``pooled`` is solved in the primal if rows outnumber them.
    budget : int, str or None
        See `memory_budget`.
    on_gpu : bool
        Whether arrays are CuPy's.

    Returns
    -------
    RidgeForm

    Raises
    ------
    BudgetError
        If no form fits the budget; the message names what would.
    """
    size = memory_budget(budget)
    planner = _Planner(n, m, classes, size, on_gpu)
    if projection != "auto" and projection not in KERNELS:
        return planner.of_speckle(n_components)
    if projection == "pooled" and channels is not None and channels < n and n > COMPARED_ROWS:
        try:
            return planner.primal(channels, None)
        except BudgetError:
            # Fewer landmarks than channels may fit.
            return planner.of_kernel(False)
    return planner.of_kernel(projection == "auto")


def plan_leave_one_out(alphas: int, order: int, n: int, classes: int, budget: int) -> tuple[int, bool]:
    """Plan the passes over n rows that score alphas, such that what they hold takes a quarter of the budget.

    Returns
    -------
    at_once : int
        The alphas of a pass, whose solutions are held.
    keeps_scores : bool
        Whether the scores of all alphas are held; otherwise one more pass is for those of the best.
    """
    solutions, scores = 3 * 8 * order * classes, 4 * n * classes
    return block_length(solutions, budget // 4, alphas), alphas * (solutions + scores) <= budget // 4


def scoring_passes(order: int, n: int, classes: int, budget: int) -> int:
    """Return how many passes over n rows score `ALPHAS` alphas on the CPU."""
    at_once, keeps_scores = plan_leave_one_out(ALPHAS, order, n, classes, budget)
    return -(-ALPHAS // at_once) + (not keeps_scores)


def require_dual(n: int, classes: int, budget: int, on_gpu: bool, remedy: str) -> None:
    """Raise BudgetError, which ends in the remedy, if the dual of n rows does not fit the budget."""
    planner = _Planner(n, 0, classes, budget, on_gpu)
    planner.require(planner.dual_parts(n), f"the {n} x {n} ridge system of {classes} classes", remedy)


@dataclass(frozen=True)
class _Planner:
    """The sizes of a ridge, and its forms."""

    n: int
    m: int
    classes: int
    budget: int
    on_gpu: bool

    def of_kernel(self, compare: bool) -> RidgeForm:
        parts = self.dual_parts(self.n)
        if (needed := sum(parts.values())) <= self.budget:
            compared = min(self.n, COMPARED_ROWS) if compare else 0
            reason = f"the system of all {self.n:,d} rows fits the memory budget, {format_bytes(self.budget)}"
            return RidgeForm("dual", self.n, None, compared, parts, self._dual_operations(self.m), reason)
        most = min(self.n, MOST_LANDMARKS)
        p = _largest(most, self.budget, lambda order: sum(self._landmark_parts(order).values()))
        if p < min(self.n, LEAST_LANDMARKS):
            self._refuse_landmarks(min(self.n, LEAST_LANDMARKS))
        p = p // WHOLE * WHOLE or p
        # The sample is solved in the dual before the landmarks are.
        compared = _largest(min(self.n, COMPARED_ROWS), self.budget, lambda rows: sum(self.dual_parts(rows).values()))
        scoring = scoring_passes(p, self.n, self.classes, self.budget)
        operations = {
            "gram": (1 + scoring) * self.n * p * self.m,
            "statistics": self.n * p * p,
            "solve": 10 * p**3,
            "leave-one-out": self.n * p * (scoring * 3 * p // 2 + ALPHAS * (1 + self.classes)),
        }
        reason = (
            f"the system of all {self.n:,d} rows takes {format_bytes(needed)} and the memory budget is "
            f"{format_bytes(self.budget)}; {p:,d} rows are landmarks, "
            + ("the most that are taken" if p == MOST_LANDMARKS else "as many as fit")
        )
        compared = compared if compare else 0
        return RidgeForm("landmarks", p, None, compared, self._landmark_parts(p), operations, reason, 1 + scoring)

    def of_speckle(self, k: int | None) -> RidgeForm:
        if k is None:
            k = self._fitting_components()
        if self.n >= k:
            form = self.primal(k, k)
            held = {**form.parts, "speckle": self.n * k}
            return replace(form, parts=held) if sum(held.values()) <= self.budget else form
        parts = {**self.dual_parts(self.n, speckle=self.n * k), "speckle": self.n * k}
        self.require(parts, f"{self.n} x {k} speckle with its {self.n} x {self.n} ridge system")
        reason = f"{k:,d} components outnumber {self.n:,d} rows"
        return RidgeForm("dual", self.n, k, 0, parts, self._dual_operations(8 * k), reason)

    def primal(self, k: int, components: int | None) -> RidgeForm:
        parts = self._primal_parts(k)
        most = _largest(k, self.budget, lambda order: sum(self._primal_parts(order).values()))
        if components is None or not most:
            images = _largest(self.n, self.budget, lambda n: sum(replace(self, n=n)._primal_parts(k).values()))
            remedy = f"take at most {images:,d} images" if images >= k else "use projection='auto'"
        else:
            remedy = f"lower n_components to at most {most}, or use projection='auto'"
        self.require(parts, f"the {k} x {k} ridge system of {self.n} rows and {self.classes} classes", remedy)
        scoring = scoring_passes(k, self.n, self.classes, self.budget)
        operations = {
            "statistics": self.n * k * k // 2,
            "solve": 9 * k**3,
            "leave-one-out": self.n * k * (scoring * k + ALPHAS * (1 + self.classes)),
        }
        if components is not None:
            # The products of speckle are of integers, and exact.
            operations = {"gram": 8 * operations.pop("statistics"), **operations}
        what = "pooled features" if components is None else "components"
        reason = f"{self.n:,d} rows outnumber {k:,d} {what}, whose system holds all of them exactly"
        return RidgeForm("primal", k, components, 0, parts, operations, reason, 1 + scoring)

    def _fitting_components(self) -> int:
        """Return m / 2 if its system fits or rows do not outnumber what does, and otherwise what does."""
        half = max(1, self.m // 2)
        if self.n < half and sum(self.dual_parts(self.n, self.n * half).values()) + self.n * half <= self.budget:
            return half
        most = min(half, self.n)
        share = int(_SHARE_OF_COMPONENTS * self.budget)
        return _largest(most, share, lambda k: sum(self._primal_parts(k).values())) or most

    def dual_parts(self, n: int, speckle: int = 0) -> dict[str, int]:
        # The int64 Gram, and its float64 centred copy and factor. LAPACK factors in place; on a GPU the factor is a
        # copy, and inverting it needs a further half matrix.
        system = (5 if self.on_gpu else 3) * 8 * n * n
        return {"system": system, **self._targets(n, n, system + speckle)}

    def _primal_parts(self, k: int) -> dict[str, int]:
        # The sums and their centred copy; the eigenvectors and twice as much that LAPACK works in. On a GPU as above.
        system = 5 * 8 * k * k
        return {"system": system, **self._targets(self.n, k, system)}

    def _landmark_parts(self, p: int) -> dict[str, int]:
        # Those of a primal, and the inverse factor of the landmarks' kernel.
        system = 6 * 8 * p * p
        block = min(self.n, LANDMARK_BLOCK) * (6 * 8 * p + self.m // 4)
        return {
            "system": system,
            "block": block,
            "landmarks": 2 * p * (self.m // 8),
            **self._targets(self.n, p, system + block),
        }

    def _targets(self, n: int, order: int, others: int) -> dict[str, int]:
        """Return the memory of int8 targets, float64 targets, solutions, the best of them and its scores.

        Those of a few classes are left out: they are less than what the blocks of a solve take besides.
        """
        targets = (1 + 2 * 4) * n * self.classes + 4 * 8 * order * self.classes
        return {"targets": targets} if targets > others // 8 else {}

    def _dual_operations(self, width: int) -> dict[str, int]:
        # Few rows: one eigendecomposition for all alphas. Many: a factor of all rows for each of three alphas or more,
        # and of fewer to choose where to begin, which are counted as five.
        solve = 9 * self.n**3 if self.n < HALVED_ROWS else 5 * self.n**3 // 3
        each = _PASSES + 2 * ALPHAS * self.classes
        return {"gram": self.n * self.n * width // 2, "solve": solve + each * self.n**2}

    def require(self, parts: Mapping[str, int], what: str, remedy: str | None = None) -> None:
        needed = sum(parts.values())
        if needed > self.budget:
            raise BudgetError(
                f"{what} needs {format_bytes(needed)} and the memory budget is {format_bytes(self.budget)}; "
                f"{remedy or 'lower n_components'}, or raise the budget (AUREVOIR_MEMORY)"
            )

    def _refuse_landmarks(self, p: int) -> None:
        most = _largest(self.n, self.budget, lambda n: sum(replace(self, n=n)._landmark_parts(p).values()))
        remedy = f"take at most {most:,d} images" if most >= p else "take fewer classes"
        self.require(
            self._landmark_parts(p), f"the ridge of {self.n} rows and {self.classes} classes on {p} landmarks", remedy
        )


def _largest(most: int, budget: int, needed: Callable[[int], int]) -> int:
    """Return the largest number from 1 to `most` whose need fits the budget, or 0."""
    return bisect_right(range(1, most + 1), budget, key=needed)
