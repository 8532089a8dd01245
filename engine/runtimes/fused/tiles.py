"""Tile sizes of the fused steps: what fits most, and on a GPU what is fastest there."""

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ....kept import Store, key_of


class Tile(NamedTuple):
    """Tile of one program: places, filters, and depth of a block of the sum.

    With `by_row`, a 3x3 convolution reads once for the three taps of a row; see `kernels.convolution_3x3`.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    by_row: bool = False


class Work(NamedTuple):
    """What a convolution's best tile depends on.

    Attributes
    ----------
    places, filters, channels, taps : int
        Places of the whole batch.
    everywhere, before, residual : bool
        Whether there is a window around every place.
    read, stored : str
        Types.
    """

    places: int
    filters: int
    channels: int
    taps: int
    everywhere: bool
    before: bool
    residual: bool
    read: str
    stored: str


def tiles_for(work: Work) -> Sequence[Tile]:
    """Return the tiles to try, the first of which is the one to take untried."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        # Each program costs Python's time, whatever its size.
        rows, columns = (1 << max(4, min(10, (each - 1).bit_length())) for each in (work.places, work.filters))
        depth = 128 if work.channels % 128 == 0 else 32
        return [Tile(rows, columns, depth, 4, 1, _by_row(work) and work.channels % depth == 0)]
    return tiles_on_a_gpu(work)


def tiles_on_a_gpu(work: Work) -> Sequence[Tile]:
    """Return the tiles to try on a GPU, the first of which is the one to take untried."""
    columns = 1 << max(5, min(7, (work.filters - 1).bit_length()))
    large = _products(work, columns) if work.taps == 1 and work.everywhere else _windows(work, columns)
    if work.places >= _FULL * 128:
        return large
    depth = 128 if work.channels % 128 == 0 else large[0].depth
    small = [Tile(64, columns, large[0].depth, 4, 4), Tile(32, 32, depth, 4, 4), Tile(16, 64, depth, 4, 4)]
    if _by_row(work) and work.channels % depth == 0:
        small.append(Tile(32, 32, depth, 4, 3, True))
    return small


def _products(work: Work, columns: int) -> list[Tile]:
    tiles = [Tile(64, columns, 64, 4, 4), Tile(128, columns, 64, 4, 3)]
    tiles += [Tile(128, columns, 32, 4, stages) for stages in (4, 6)]
    return [*tiles, Tile(128, 256, 64, 8, 3)] if work.filters > 128 else tiles


def _windows(work: Work, columns: int) -> list[Tile]:
    depth = next((each for each in (128, 64, 32) if work.channels % each == 0), 64)
    shallow = min(depth, 64)
    tiles = [Tile(128, columns, shallow, 4, 3), Tile(64, columns, depth, 4, 4), Tile(128, columns, depth, 8, 3)]
    if depth == 32:
        # So few sums are bound by waiting: all that is read is asked for at once.
        tiles += [Tile(128, columns, depth, warps, 7) for warps in (4, 8)]
    if _by_row(work) and work.channels % depth == 0:
        few = min(columns, 64)
        tiles += [Tile(128, few, depth, 8, 3, True), Tile(128, few, shallow, 4, 3, True)]
        tiles += [Tile(256, few, shallow, 8, 3, True), Tile(64, few, depth, 4, 3, True)]
    return tiles


def _by_row(work: Work) -> bool:
    return work.taps == 9 and work.everywhere


_MOST = 2**40
"""Places of a batch, at most."""
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


def take_tiles(chosen: dict[Work, Tile], tune: Callable[[], None], of: Sequence[Any], store: Store | None) -> None:
    """Fill in the fastest tiles: those of an earlier run where there are any, and else those that are timed now.

    Parameters
    ----------
    chosen : dict
        Filled by `tune`.
    tune : callable
    of : list
        What times depend on besides versions and the machine.
    store : Store or None
    """
    key = key_of("tiles", *of)
    if store is not None and (entry := store.get(KIND, key)) is not None and (kept := _unpacked(entry)) is not None:
        chosen.update(kept)
        return
    tune()
    if store is not None:
        store.put(KIND, key, json.dumps(list(chosen.items())).encode())


def _unpacked(entry: bytes) -> dict[Work, Tile] | None:
    """Return the tiles of an entry, each one that would be tried; None where it holds anything else."""
    try:
        pairs = [(Work(*work), Tile(*tile)) for work, tile in json.loads(entry)]
        if not all(type(each) is int and 1 <= each <= _MOST for work, _ in pairs for each in work[:4]):
            return None
        # Not what was read: 64.0 and 64 are equal.
        return {work: next(each for each in tiles_for(work) if each == tile) for work, tile in pairs}
    except Exception:  # as many kinds as there are values that are no work
        return None


KIND = "tiles"
"""Of entries of the cache."""


def window_tile(places: int, channels: int) -> tuple[int, int]:
    """Return the places and channels of one program of a window's kernel."""
    columns = min(64, 1 << (channels - 1).bit_length())
    if os.environ.get("TRITON_INTERPRET") == "1":
        return 1 << max(4, min(12, (places - 1).bit_length())), columns
    return 2048 // columns, columns
