"""Choose the cut of a network by leave-one-out on the training images, from one inference of each.

For the projection ``auto`` the deepest cut is a candidate twice: by itself, and with the means of layers before it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..engine.backbones.base import Cut
from ..engine.build import EngineBuilder
from ..engine.child import lasting_child
from ..engine.cut_candidates import cut_candidates, layers_before
from ..engine.engine import Engine
from ..engine.multi_cut import JoinedCuts, draft_cuts
from ..engine.spec import EngineSpec
from ..images.batches import ImageFiles, Images
from ..images.decoded import DecodedImages
from ..kernels.bits import packed_length
from ..kernels.memory import Budget, memory_budget
from ..kernels.ridge.form import POOLED
from ..kernels.stopwatch import Stopwatch
from ..work import Work
from .cut_scores import Candidate, CutChoice, Solved, scored
from .embed import embed
from .inputs import as_images
from .kept_bits import KeptBits

AUTO_CUT = "auto"
SAMPLE = 2000
"""Images at most on which cuts are compared."""
_SHARE = 4
"""The bits of all cuts of the sample take at most this part of the memory budget."""
_MANY = 512
"""From so many images on, alphas are searched by halving: only the best one's score is of interest."""
OUTPUTS = ("bits", "pooled")

Embedded = tuple[np.ndarray, dict[str, np.ndarray]]
"""Indices of the readable images, and what was computed of them, by output."""
Solve = Callable[[np.ndarray, int, np.ndarray, tuple[int, ...], np.ndarray, Sequence[str]], Solved]
"""Solves the ridge of the bits, number of features, channel means and their layers of some images, given by index, with
the best of some kernels."""


@dataclass(frozen=True)
class CutValues:
    """Bits and channel means of images of several candidates.

    Attributes
    ----------
    indices : int64 array of shape (n,)
        Of the readable images.
    bits, pooled : list of arrays of shape (n, ...)
        Of each candidate.
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
    # Candidates of one cut have one array of bits.
    bits = {which.start: np.ascontiguousarray(values["bits"][:, which]) for which in joined.bits}
    return CutValues(
        indices,
        [bits[which.start] for which in joined.bits],
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


def choosing_kernels(projection: str, layers: bool = False) -> tuple[str, ...]:
    """Return the kernels whose best one scores a cut: for ``auto`` bits and pooled features, which decide its choice.

    With `layers` also the kernel of those of several layers. For a random projection it is the exact kernel, its limit.
    """
    if projection == "auto":
        return ("none", "rbf", "layers") if layers else ("none", "rbf")
    return (projection,) if projection in ("none", "exact", *POOLED) else ("exact",)


def choosing_search(images: int, search: str) -> str:
    """Return how alphas are searched to score a cut."""
    return "halving" if images >= _MANY else search


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


def candidate_builders(builder: EngineBuilder, cuts: Sequence[Cut], projection: str) -> list[EngineBuilder]:
    """Return a builder of each cut, and for ``auto`` one of the last with the means of earlier layers.

    Of a network that is to pool layers, all do.
    """
    names = [cut.name for cut in cuts]
    if projection == "auto" and not builder.network.pool_layers and layers_before(builder.backbone, names[-1]):
        return builder.at_cuts([*names, names[-1]], [*([False] * len(names)), True])
    return builder.at_cuts(names)


def candidates_of(builders: Sequence[EngineBuilder]) -> list[Candidate]:
    """Return the candidates that builders are of."""
    known = {cut.name: cut for cut in builders[0].backbone.cuts()}
    return [Candidate(known[str(each.network.cut)], tuple(known[cut] for cut in each.layers)) for each in builders]


def draft_candidates(builders: Sequence[EngineBuilder], cuts: Sequence[Cut], spec: EngineSpec) -> JoinedCuts:
    """Return one engine of all candidates, which computes what two of the last cut have in common once."""
    joined = draft_cuts([*builders[: len(cuts) - 1], builders[-1]], spec)[1]
    if len(builders) == len(cuts):
        return joined
    bits, (*earlier, means), (*before, layers) = joined.bits, joined.pooled, joined.layers
    own = slice(means.stop - layers[-1], means.stop)
    return replace(joined, bits=[*bits, bits[-1]], pooled=[*earlier, own, means], layers=[*before, (), layers])


@lasting_child()
def choose_cut(
    builder: EngineBuilder,
    spec: EngineSpec,
    inputs: Any,
    labels: np.ndarray,
    weights: np.ndarray,
    solve: Solve,
    *,
    projection: str = "auto",
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
    projection : str
        That of the classifier; see `choosing_kernels` and `candidate_builders`.
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
    builders = candidate_builders(builder, cuts, projection)
    candidates = candidates_of(builders)
    plain = replace(spec, min_sign_agreement=None, prefer_faster=False, measure=False)
    joined = draft_candidates(builders, cuts, plain)
    counted = np.flatnonzero(weights > 0)
    which = counted[stratified_sample(labels[counted], sample_size(cuts, budget), seed)]
    sample = inputs[which] if isinstance(inputs, np.ndarray) else [inputs[index] for index in which]
    made = joined.engine.manifest
    decoder, description = None if decoded is None else decoded.keep, f"{len(cuts)} cuts" if progress else None
    images = as_images(sample, made.input_shape, made.resize, description, decoder)
    values = embed_cuts(joined, images, watch, work)
    rows = which[values.indices]
    if not len(rows):
        # What is wrong with the images, whoever embeds them all says.
        return Chosen(CutChoice((), cuts[-1].name, len(rows), len(labels)), builders[len(cuts) - 1], None)

    def solve_counted(candidate: Candidate, index: int, kernels: Sequence[str]) -> Solved:
        bits, pooled = values.bits[index], values.pooled[index]
        return solve(bits, candidate.cut.features, pooled, joined.layers[index], rows, kernels)

    solved = solved_candidates(candidates, projection, solve_counted)
    chosen, scores = scored(candidates, solved, labels[rows], weights[rows])
    taken = candidates[chosen]
    choice = CutChoice(scores, taken.cut.name, len(rows), len(labels), len(taken.layers))
    if progress and sys.stderr is not None:
        sys.stderr.write("".join(f"{line}\n" for line in [*choice.lines(), choice.reason]))
    whole = {"bits": values.bits[chosen], "pooled": values.pooled[chosen]} if len(which) == len(labels) else None
    return Chosen(
        choice,
        builders[chosen],
        None if whole is None else (values.indices, whole),
        dict(images.skipped),
    )


def solved_candidates(
    candidates: Sequence[Candidate], projection: str, solve: Callable[[Candidate, int, Sequence[str]], Solved]
) -> list[Solved]:
    """Return the best kernel of each candidate, and its ridge, given what solves one by the best of some kernels."""
    solved: list[Solved] = []
    for index, candidate in enumerate(candidates):
        # The other kernels of a cut with earlier layers are those of the cut by itself, before it.
        again = index > 0 and candidate.cut is candidates[index - 1].cut
        kernels = ("layers",) if again else choosing_kernels(projection, bool(candidate.layers))
        solved.append(solve(candidate, index, kernels))
    return solved
