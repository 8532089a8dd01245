"""Choose a few cuts of a backbone, some of each stage: to compare, or to pool besides the features."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ..errors import UsageError
from .backbones.base import Backbone, Cut

STAGES = 3
"""The last stages of a network are compared: earlier ones have not enough layers to tell classes."""
CANDIDATES = 6
_LEAST_FEATURES = 1024
_EXPANDED = 2
"""More than so many times the channels of the layers around it has what is inside a block."""


def layers_before(backbone: Backbone, cut: str | None = None) -> list[str]:
    """Return the names of the candidates before a cut that have no more values than its features.

    Larger ones are left out since reading them takes long. There is none where the network does not list the cut, or no
    other one before it.
    """
    try:
        *before, last = cut_candidates(backbone, end=cut)
    except UsageError:
        return []
    return [each.name for each in before if each.features <= last.features]


def cut_candidates(backbone: Backbone, count: int = CANDIDATES, end: str | None = None) -> list[Cut]:
    """Return cuts of the last `STAGES` stages of a backbone up to a cut, which is the last of them.

    A stage is what has one resolution, and its cuts lie evenly in multiply-accumulates: the last one, and those before
    it that make `count` of all stages. The insides of blocks that expand their channels are left out.

    Parameters
    ----------
    backbone : Backbone
    count : int
        At most so many, but one a stage.
    end : str, optional
        By default the default cut.

    Raises
    ------
    UsageError
        If the network has no default cut, or no other cut before it.
    """
    known, default = backbone.cuts(), backbone.resolve(end)
    last = next((index for index, cut in enumerate(known) if backbone.resolve(cut.name) == default), None)
    if last is None:
        raise UsageError(f"{backbone.name} does not list its default cut {default!r}; name a cut (`aurevoir cuts`)")
    found = known[last]
    before = [cut for cut in known[:last] if cut.macs < found.macs and _places(cut, backbone.size) > 1]
    stages = _stages([*before, found], backbone.size)[-STAGES:]
    chosen: list[Cut] = []
    for stage in stages:
        start = chosen[-1].macs if chosen else stage[0].macs
        chosen += _even(stage, start, max(1, count // len(stages)))
    chosen = chosen[-count:]
    if len(chosen) < 2:
        raise UsageError(f"{backbone.name} has only one cut to choose, {found.name!r}; leave cut 'auto' out")
    return chosen


def _places(cut: Cut, size: tuple[int, int]) -> int:
    """Return how many places an image has at a cut: of maps height times width, of tokens their number."""
    shape = cut.shape
    if len(shape) != 3:
        return shape[0] if len(shape) == 2 else 1
    height, width = size
    last = shape[0] * width == shape[1] * height and shape[1] * width != shape[2] * height
    return shape[0] * shape[1] if last else shape[1] * shape[2]


def _stages(cuts: Sequence[Cut], size: tuple[int, int]) -> list[list[Cut]]:
    """Return the cuts worth comparing, stage by stage; the last cut is one in any case."""
    found, last = [], cuts[-1]
    for _, group in groupby(cuts, key=lambda cut: _places(cut, size)):
        # What follows a layer at no cost, such as its norm, stands for it.
        stage = list({cut.macs: cut for cut in group}.values())
        stage = [cut for cut in _outside_blocks(stage, last) if cut.features >= _LEAST_FEATURES or cut is last]
        if stage:
            found.append(stage)
    return found


def _outside_blocks(stage: Sequence[Cut], last: Cut) -> list[Cut]:
    """Return the cuts of a stage without those inside blocks that expand their channels, such as MobileNet's."""
    runs = [list(group) for _, group in groupby(stage, key=lambda cut: cut.features)]
    kept = []
    for index, run in enumerate(runs):
        before, after = runs[index - 1][0] if index else None, runs[index + 1][0] if run is not runs[-1] else None
        grows = before is None or run[0].features > _EXPANDED * before.features
        shrinks = len(run) == 1 if after is None else run[0].features > _EXPANDED * after.features
        if len(runs) == 1 or run[-1] is last or not (grows and shrinks):
            kept += run
    return kept


def _even(stage: Sequence[Cut], start: int, count: int) -> list[Cut]:
    """Return up to `count` cuts of a stage: the last, and those nearest to where equal parts of its work end."""
    wanted = np.linspace(start, stage[-1].macs, count + 1)[1:]
    nearest = [min(stage, key=lambda cut: abs(cut.macs - macs)) for macs in wanted]
    return [cut for cut in stage if cut in nearest]
