"""Choose the cut of a network by leave-one-out on the training images, from one inference of each."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..engine.backbones.base import Cut
from ..engine.build import EngineBuilder
from ..engine.child import lasting_child
from ..engine.cut_candidates import cut_candidates
from ..engine.engine import Engine
from ..engine.multi_cut import JoinedCuts, draft_cuts
from ..engine.spec import EngineSpec
from ..images.batches import ImageFiles, Images
from ..images.decoded import DecodedImages
from ..kernels.bits import packed_length
from ..kernels.memory import Budget, memory_budget
from ..kernels.ridge import RidgePath
from ..kernels.ridge.form import POOLED
from ..kernels.stopwatch import Stopwatch
from ..work import Work
from .embed import embed
from .inputs import as_images
from .kept_bits import KeptBits

AUTO_CUT = "auto"
SAMPLE = 2000
"""Images at most on which cuts are compared."""
_SHARE = 4
"""The bits of all cuts of the sample take at most this part of the memory budget."""
TOLERANCE = 0.5
"""Standard errors by which a cheaper cut may be below the best. Over nine pairs of photographs and backbones, half of
one cost no test accuracy compared with the best itself, and a whole one 0.3 points more."""
_WITHIN = "half a standard error"
_MANY = 512
"""From so many images on, alphas are searched by halving: only the best one's score is of interest."""
OUTPUTS = ("bits", "pooled")

Embedded = tuple[np.ndarray, dict[str, np.ndarray]]
"""Indices of the readable images, and what was computed of them, by output."""
Solved = tuple[str, RidgePath]
"""The kernel and its ridge."""
Solve = Callable[[np.ndarray, int, np.ndarray, tuple[int, ...], np.ndarray], Solved]
"""Solves the ridge of the bits, number of features, channel means and their layers of some images, given by index."""


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
    """

    cut: str
    features: int
    macs: int
    loo_accuracy: float
    projection: str
    behind: float
    standard_error: float


@dataclass(frozen=True)
class CutChoice:
    """The cut that was chosen, and why.

    Attributes
    ----------
    scores : tuple of CutScore
        Of the cuts that were compared, the shallowest first.
    chosen : str
    images, of : int
        How many of the training images they were compared on.
    """

    scores: tuple[CutScore, ...]
    chosen: str
    images: int
    of: int

    @property
    def reason(self) -> str:
        """Why the cut was chosen, in one sentence."""
        found = {score.cut: score for score in self.scores}
        best = min(self.scores, key=lambda score: (score.behind, score.macs))
        taken, deepest = found[self.chosen], self.scores[-1]
        cost = f"{taken.macs / max(1, deepest.macs):.0%} of the multiply-accumulates of {deepest.cut}"
        if taken is best:
            return (
                f"cut {taken.cut}: the highest leave-one-out accuracy, and no cheaper cut within {_WITHIN}, at {cost}"
            )
        return f"cut {taken.cut}: within {_WITHIN} of {best.cut}, which scored highest, at {cost}"

    def lines(self) -> list[str]:
        """Describe what each cut scored, a line each."""
        return [
            f"{score.cut}: leave-one-out {score.loo_accuracy:.4f} with {score.projection}, {100 * score.behind:.1f} "
            f"points below the best (standard error {100 * score.standard_error:.1f}), {score.macs / 1e9:.3f} GMACs"
            for score in self.scores
        ]


@dataclass(frozen=True)
class CutValues:
    """Bits and channel means of images at several cuts.

    Attributes
    ----------
    indices : int64 array of shape (n,)
        Of the readable images.
    bits, pooled : list of arrays of shape (n, ...)
        Of each cut.
    """

    indices: np.ndarray
    bits: list[np.ndarray]
    pooled: list[np.ndarray]


def embed_cuts(
    joined: JoinedCuts, images: Images, watch: Stopwatch | None = None, work: Work | None = None
) -> CutValues:
    """Run images through several cuts at once."""
    kept = None if work is None else KeptBits(work, "cuts", joined.engine, images, OUTPUTS)
    indices, values = embed(joined.engine, images, OUTPUTS, watch, kept)
    return CutValues(
        indices,
        [np.ascontiguousarray(values["bits"][:, which]) for which in joined.bits],
        [np.ascontiguousarray(values["pooled"][:, which]) for which in joined.pooled],
    )


def stratified_sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the sorted indices of at most `count` images, of each class its share; of a multilabel matrix, of all."""
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
    if len(order) > count:
        order = order[np.linspace(0, len(order) - 1, count).astype(int)]
    chosen: np.ndarray = np.sort(order)
    return chosen


def sample_size(cuts: Sequence[Cut], budget: Budget = None) -> int:
    """Return how many images cuts are compared on at most: `SAMPLE`, or fewer whose bits fit the memory budget."""
    each = sum(packed_length(cut.features) for cut in cuts)
    return max(2, min(SAMPLE, memory_budget(budget) // _SHARE // each))


def choosing_kernels(projection: str) -> tuple[str, ...]:
    """Return the kernels whose better one scores a cut: for ``auto`` bits and pooled features, which decide its choice.

    For a random projection it is the exact kernel, its limit.
    """
    if projection == "auto":
        return ("none", "rbf")
    return (projection,) if projection in ("none", "exact", *POOLED) else ("exact",)


def choosing_search(images: int, search: str) -> str:
    """Return how alphas are searched to score a cut."""
    return "halving" if images >= _MANY else search


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


@dataclass(frozen=True)
class Chosen:
    """A choice, the builder of its engine, and if the sample is all images, what the joined engine computed of them."""

    choice: CutChoice
    builder: EngineBuilder
    values: Embedded | None
    skipped: dict[str, str] = field(default_factory=dict)

    def values_of(self, engine: Engine, images: Images, outputs: Sequence[str]) -> "Embedded | None":
        """Return what the joined engine computed of all images, if the engine computes the same, to the last bit.

        That is tried on the first batch. In fp32 it does; in narrower precisions a runtime may round between layers
        where an output is taken.
        """
        if self.values is None:
            return None
        known, values = self.values
        first = next(iter(replace(images, description=None).batches(engine.batch_size)), None)
        if first is None:
            return None
        rows, found = np.searchsorted(known, first[0]), engine.run(first[1], outputs)
        if not all(np.array_equal(found[name], values[name][rows]) for name in outputs):
            return None
        if isinstance(images, ImageFiles):
            images.skipped.update(self.skipped)
        return known, {name: values[name] for name in outputs}


@lasting_child()
def choose_cut(
    builder: EngineBuilder,
    spec: EngineSpec,
    inputs: Any,
    labels: np.ndarray,
    weights: np.ndarray,
    solve: Solve,
    *,
    seed: int = 0,
    budget: Budget = None,
    watch: Stopwatch | None = None,
    work: Work | None = None,
    progress: bool = False,
    decoded: DecodedImages | None = None,
) -> Chosen:
    """Compare cuts by leave-one-out on one inference of each image, and choose the cheapest that is good enough.

    Parameters
    ----------
    builder : EngineBuilder
        Of the network at its default cut.
    spec : EngineSpec
    inputs : list of paths or uint8 array of shape (n, height, width, channels)
    labels : int array of shape (n,) or (n, c)
    weights : float64 array of shape (n,)
    solve : callable
        Solves the ridge of some of the images at one cut.
    seed : int
        Of the sample.
    budget : int, str or None
        The bits of the sample at all cuts take a quarter of it at most.
    watch : Stopwatch, optional
    work : Work, optional
        Keeps what the joined engine computed.
    progress : bool
        Whether to show progress on stderr.
    decoded : DecodedImages, optional
        Keeps the pixels of the sample, for who reads them after.

    Raises
    ------
    UsageError
        If the network has no default cut, or only one cut; or the calibration is a table, which is of one cut.
    """
    cuts = cut_candidates(builder.backbone)
    builder.decode_ahead(spec)
    builders = builder.at_cuts([cut.name for cut in cuts])
    plain = replace(spec, min_sign_agreement=None, prefer_faster=False, measure=False)
    joined = draft_cuts(builders, plain)[1]
    which = stratified_sample(labels, sample_size(cuts, budget), seed)
    sample = inputs[which] if isinstance(inputs, np.ndarray) else [inputs[index] for index in which]
    made = joined.engine.manifest
    decoder, description = None if decoded is None else decoded.keep, f"{len(cuts)} cuts" if progress else None
    images = as_images(sample, made.input_shape, made.resize, description, decoder)
    values = embed_cuts(joined, images, watch, work)
    rows = which[values.indices]
    counted = weights[rows] > 0
    rows = rows[counted]
    if not len(rows):
        # What is wrong with the images, whoever embeds them all says.
        return Chosen(CutChoice((), cuts[-1].name, len(rows), len(labels)), builders[-1], None)
    solved = [
        solve(bits[counted], cut.features, pooled[counted], layers, rows)
        for cut, bits, pooled, layers in zip(cuts, values.bits, values.pooled, joined.layers, strict=True)
    ]
    chosen, scores = scored(cuts, solved, labels[rows], weights[rows])
    choice = CutChoice(scores, cuts[chosen].name, len(rows), len(labels))
    if progress and sys.stderr is not None:
        sys.stderr.write("".join(f"{line}\n" for line in [*choice.lines(), choice.reason]))
    whole = {"bits": values.bits[chosen], "pooled": values.pooled[chosen]} if len(which) == len(labels) else None
    return Chosen(
        choice,
        builders[chosen],
        None if whole is None else (values.indices, whole),
        dict(images.skipped),
    )


def scored(
    cuts: Sequence[Cut], solved: Sequence[Solved], labels: np.ndarray, weights: np.ndarray
) -> tuple[int, tuple[CutScore, ...]]:
    """Return the index of the cut to choose, and what each scored."""
    right = np.stack([correct(path, labels) for _, path in solved])
    chosen, behind, errors = cheapest_within_error(right, [cut.macs for cut in cuts], weights)
    return chosen, tuple(
        CutScore(cut.name, cut.features, cut.macs, path.loo_accuracy, kernel, float(lost), float(error))
        for cut, (kernel, path), lost, error in zip(cuts, solved, behind, errors, strict=True)
    )
