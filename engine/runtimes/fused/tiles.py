"""Tile sizes of the fused steps: what fits most, and on a GPU what is fastest there."""

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
    depth = 64 if work.channels % 64 == 0 or work.taps == 1 else 32
    large, small = Tile(128, columns, depth, 8 if columns == 128 else 4, 3), Tile(64, columns, depth, 4, 4)
    few = work.places < _FULL * large.rows
    tried = [small, large] if few else [large, small]
    tried.append(large._replace(warps=4 if large.warps == 8 else 8))
    tried.append(large._replace(stages=4))
    if depth == 64 and work.channels % 128 == 0:
        tried.append(large._replace(depth=128))
    if work.filters > 128:
        tried.append(large._replace(columns=256, warps=8))
    return tried


_FULL = 132
"""Programs that fill an H100."""


class Tuner:
    """The fastest tile of each kind of convolution, by timing each once."""

    def __init__(self, seconds: Callable[[Callable[[], None]], float]) -> None:
        self._seconds = seconds
        self.chosen: dict[Work, Tile] = {}

    def tune(self, work: Work, launch: Callable[[Tile], None]) -> Tile:
        """Return the fastest tile, timed where this kind has not been seen."""
        if work not in self.chosen:
            self.chosen[work] = min(tiles_for(work), key=lambda tile: self._seconds(lambda: launch(tile)))
        return self.chosen[work]


def window_tile(places: int, channels: int) -> tuple[int, int]:
    """Return the places and channels of one program of a window's kernel."""
    columns = min(64, 1 << (channels - 1).bit_length())
    if os.environ.get("TRITON_INTERPRET") == "1":
        return 1 << max(4, min(12, (places - 1).bit_length())), columns
    return 2048 // columns, columns
