"""What cuts score by leave-one-out, and the rule by which one is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.backbones.base import Cut
from ..kernels.ridge import RidgePath

TOLERANCE = 0.5
"""Standard errors by which a cheaper cut may be below the best. Over nine pairs of photographs and backbones, half of
one cost no test accuracy compared with the best itself, and a whole one 0.3 points more."""
_WITHIN = "half a standard error"

Solved = tuple[str, RidgePath]
"""The kernel and its ridge."""


@dataclass(frozen=True)
class Candidate:
    """A cut, and the earlier ones whose channel means are pooled too."""

    cut: Cut
    layers: tuple[Cut, ...] = ()

    @property
    def cost(self) -> int:
        """Multiply-accumulates, and the additions of the earlier means."""
        return self.cut.macs + sum(layer.features for layer in self.layers)


@dataclass(frozen=True)
class CutScore:
    """What a cut scored.

    Attributes
    ----------
    cut : str
    features, macs : int
        See `Cut`.
    loo_accuracy : float
        Leave-one-out accuracy on the sample.
    projection : str
        The kernel that scored it.
    behind, standard_error : float
        How much lower it is than that of the best cut, and the standard error of this difference over the images.
    layers : int
        The earlier layers whose channel means are pooled too.
    """

    cut: str
    features: int
    macs: int
    loo_accuracy: float
    projection: str
    behind: float
    standard_error: float
    layers: int = 0

    @property
    def name(self) -> str:
        """The cut, and how many layers are pooled with it."""
        also = f" with the means of {self.layers} earlier layer{'s' if self.layers > 1 else ''}"
        return self.cut + (also if self.layers else "")


@dataclass(frozen=True)
class CutChoice:
    """The cut that was chosen, and why.

    Attributes
    ----------
    scores : tuple of CutScore
        Of the cuts that were compared, the cheapest first.
    chosen : str
    images, of : int
        How many of the training images they were compared on.
    layers : int
        The earlier layers whose channel means are pooled too.
    """

    scores: tuple[CutScore, ...]
    chosen: str
    images: int
    of: int
    layers: int = 0

    @property
    def reason(self) -> str:
        """Why the cut was chosen, in one sentence."""
        if not self.scores:
            return f"cut {self.chosen}: none of the images that cuts are compared on can be read"
        best = min(self.scores, key=lambda score: (score.behind, score.macs, score.layers))
        taken = next(score for score in self.scores if (score.cut, score.layers) == (self.chosen, self.layers))
        deepest = self.scores[-1]
        cost = f"{taken.macs / max(1, deepest.macs):.0%} of the multiply-accumulates of {deepest.cut}"
        cost += ", and the time of the means" if taken.layers else ""
        if taken is best:
            return (
                f"cut {taken.name}: the highest leave-one-out accuracy, and no cheaper cut within {_WITHIN}, at {cost}"
            )
        return f"cut {taken.name}: within {_WITHIN} of {best.name}, which scored highest, at {cost}"

    def lines(self) -> list[str]:
        """Describe what each cut scored, a line each."""
        return [
            f"{score.name}: leave-one-out {score.loo_accuracy:.4f} with kernel {score.projection}, "
            f"{100 * score.behind:.1f} points below the best (standard error {100 * score.standard_error:.1f}), "
            f"{score.macs / 1e9:.3f} GMACs"
            for score in self.scores
        ]


def correct(path: RidgePath, labels: np.ndarray) -> np.ndarray:
    """Return how right leave-one-out was on each image: 1 or 0, and of several labels the share of right ones."""
    scores = path.loo_scores
    assert scores is not None
    if labels.ndim == 2:
        found: np.ndarray = ((scores > 0) == (labels > 0)).mean(axis=1)
        return found
    single: np.ndarray = (scores.argmax(axis=1) == labels).astype("float64")
    return single


def cheapest_within_error(
    correct: np.ndarray, costs: Sequence[float], weights: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the cheapest candidate within `TOLERANCE` standard errors of the best.

    Parameters
    ----------
    correct : float array of shape (candidates, n)
        How right each was on each image.
    costs : sequence of float
    weights : float array of shape (n,)

    Returns
    -------
    chosen : int
    behind, errors : float arrays of shape (candidates,)
        How much lower each is than the best, and the standard error of this difference, which is paired: over images
        that both get right or wrong it is 0.
    """
    share = weights / weights.sum()
    means = correct @ share
    # Of equals the cheapest is the best.
    best = max(range(len(costs)), key=lambda index: (means[index], -costs[index]))
    lost = correct[best] - correct
    behind = lost @ share
    errors = np.sqrt(np.square((lost - behind[:, None]) * share).sum(axis=1))
    within = [index for index in range(len(costs)) if behind[index] <= TOLERANCE * errors[index]]
    return min(within, key=lambda index: costs[index]), behind, errors


def scored(
    candidates: Sequence[Candidate], solved: Sequence[Solved], labels: np.ndarray, weights: np.ndarray
) -> tuple[int, tuple[CutScore, ...]]:
    """Return the index of the candidate to choose, and what each scored."""
    right = np.stack([correct(path, labels) for _, path in solved])
    chosen, behind, errors = cheapest_within_error(right, [each.cost for each in candidates], weights)
    return chosen, tuple(
        CutScore(
            cut=each.cut.name,
            features=each.cut.features,
            macs=each.cut.macs,
            loo_accuracy=path.loo_accuracy,
            projection=kernel,
            behind=float(lost),
            standard_error=float(error),
            layers=len(each.layers),
        )
        for each, (kernel, path), lost, error in zip(candidates, solved, behind, errors, strict=True)
    )
