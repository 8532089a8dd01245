"""Tile sizes of the fused steps: what fits most, and on a GPU what is fastest there."""

import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Tile(NamedTuple):
    """Tile of one program: places, filters, and depth of a block of the sum."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


class Work(NamedTuple):
    """What a convolution's best tile depends on.

    Attributes
    ----------
    places, filters, channels, taps : int
        Places of the whole batch.
    before, residual : bool
    read, stored : str
        Types.
    """

    places: int
    filters: int
    channels: int
    taps: int
    before: bool
    residual: bool
    read: str
    stored: str


def tiles_for(work: Work) -> Sequence[Tile]:
    """Return the tiles to try, the first of which is the one to take untried."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        # Each program costs Python's time, whatever its size.
        rows, columns = (1 << max(4, min(10, (each - 1).bit_length())) for each in (work.places, work.filters))
        return [Tile(rows, columns, 128 if work.channels % 128 == 0 else 32, 4, 1)]
    columns = 1 << max(5, min(7, (work.filters - 1).bit_length()))
    large = _products(work, columns) if work.taps == 1 else _windows(work, columns)
    if work.places >= _FULL * 128:
        return large
    depth = 128 if work.channels % 128 == 0 else large[0].depth
    small = [Tile(64, columns, large[0].depth, 4, 4), Tile(64, 32, depth, 4, 4)]
    return [*small, Tile(32, 32, depth, 4, 4), Tile(16, 64, depth, 4, 4), large[0]]


def _products(work: Work, columns: int) -> list[Tile]:
    tiles = [Tile(64, columns, 64, 4, 4), Tile(128, columns, 64, 4, 3), Tile(128, columns, 64, 8, 3)]
    tiles.append(Tile(64, columns, 128, 4, 3))
    if work.channels % 64:
        tiles.append(Tile(128, columns, 32, 4, 4))
    if work.filters > 128:
        tiles.append(Tile(128, 256, 64, 8, 3))
    return tiles


def _windows(work: Work, columns: int) -> list[Tile]:
    depth = next((each for each in (128, 64, 32) if work.channels % each == 0), 64)
    tiles = [Tile(128, columns, min(depth, 64), 4, 3), Tile(64, columns, depth, 4, 4)]
    # Of one stage, what is read goes through the first cache, which neighbouring windows share.
    tiles += [Tile(128, columns, depth, 8, stages) for stages in (3, 1)]
    return [*tiles, Tile(256, columns, depth, 8, 3)]


_FULL = 132
"""Programs that fill an H100."""


class Tuner:
    """The fastest tile of each kind of convolution, by timing each once.

    Parameters
    ----------
    seconds : callable
        From a launch to its time; infinite where the GPU has not the resources.
    """

    def __init__(self, seconds: Callable[[Callable[[], None]], float]) -> None:
        self._seconds = seconds
        self.chosen: dict[Work, Tile] = {}

    def tune(self, work: Work, launch: Callable[[Tile], None]) -> Tile:
        """Return the fastest tile, timed where this work has not been seen."""
        if work not in self.chosen:
            self.chosen[work] = min(tiles_for(work), key=lambda tile: self._seconds(lambda: launch(tile)))
        return self.chosen[work]

    def nearest(self, work: Work) -> Tile:
        """Return the tile of the most similar number of places, and where none was timed the one to take untried."""
        alike = [each for each in self.chosen if each._replace(places=work.places) == work]
        if not alike:
            return tiles_for(work)[0]
        return self.chosen[min(alike, key=lambda each: abs(math.log(each.places / work.places)))]


def window_tile(places: int, channels: int) -> tuple[int, int]:
    """Return the places and channels of one program of a window's kernel."""
    columns = min(64, 1 << (channels - 1).bit_length())
    if os.environ.get("TRITON_INTERPRET") == "1":
        return 1 << max(4, min(12, (places - 1).bit_length())), columns
    return 2048 // columns, columns
