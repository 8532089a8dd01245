"""What benchmarks of growth share: contestants that may fail, exponents, threads, and the log-log figure."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ...engine.timing import alternate, ratios, spread
from ...errors import UsageError
from .failures import reason

LINES = {"aurevoir": "-", "peer": "--"}
MARKERS = "osD^vP*X"
# What takes less is run so often in a turn that a turn takes as long, but not more often than this.
_LEAST_SECONDS, _MOST_LOOPS = 0.05, 1000


@dataclass
class Contestant:
    """A row of the table, what makes that which runs for it, and the share of the row's work that a run does.

    Parameters
    ----------
    row : dict
        Has a ``name``.
    make : callable
        Returns what is timed; may raise.
    scale : float
        What a run's seconds are multiplied by, where it does a part of the work.
    """

    row: dict[str, Any]
    make: Callable[[], Callable[[], Any]]
    scale: float = 1.0
    run: Callable[[], Any] | None = field(default=None, repr=False)
    found: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The row's name."""
        return str(self.row["name"])


def prepare(contestants: Sequence[Contestant], keep: bool = False) -> None:
    """Make and run each once; one that fails keeps its row, with the reason. `keep` keeps what a run returned."""
    for each in contestants:
        try:
            each.run = each.make()
            found = each.run()
            each.found = found if keep else None
        except Exception as error:  # Whatever a library raises, the others' rows stand.
            each.run, each.row["error"] = None, reason(error)


def measure(contestants: Sequence[Contestant], base: str | None, repeats: int, progress: bool = True) -> None:
    """Time those that run in turn; note median seconds, their spread and how many times faster than `base`."""
    running = {each.name: each for each in contestants if each.run is not None}
    loops = {name: _loops(each.run) for name, each in running.items() if each.run}
    turns = {name: partial(_repeat, each.run, loops[name]) for name, each in running.items() if each.run}
    seconds = {
        name: [running[name].scale * value / loops[name] for value in values]
        for name, values in alternate(turns, repeats, progress).items()
    }
    for name, each in running.items():
        each.row |= {"seconds": median(seconds[name]), "spread": spread(seconds[name]), "repeats": repeats}
        if base in seconds:
            each.row[f"times_{base.replace(' ', '_')}"] = ratios(seconds[name], seconds[base])


def _loops(run: Callable[[], Any]) -> int:
    start = time.perf_counter()
    run()
    return min(_MOST_LOOPS, math.ceil(_LEAST_SECONDS / max(time.perf_counter() - start, 1e-9)))


def _repeat(run: Callable[[], Any], loops: int) -> None:
    for _ in range(loops):
        run()


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the slope of log seconds over log size by least squares; None for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def draw_growth(axes: Any, series: Mapping[str, tuple[str, Sequence[float], Sequence[float]]]) -> None:
    """Draw seconds over sizes, both logarithmic, with fitted exponents in the legend.

    Parameters
    ----------
    axes : matplotlib axes
    series : mapping
        From a name to (group of `LINES`, sizes, seconds).
    """
    for place, (name, (group, sizes, seconds)) in enumerate(series.items()):
        slope = exponent(sizes, seconds)
        label = name if slope is None else f"{name}: exponent {slope:.2f}"
        axes.plot(sizes, seconds, MARKERS[place % 8] + LINES[group], markersize=5, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({size for _, sizes, _ in series.values() for size in sizes})
    axes.set_xticks(ticks, [f"{size:,d}" for size in ticks], rotation=30)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Give BLAS, Numba and torch so many threads; None leaves each its own choice. Yields Numba's number."""
    import numba
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, import-not-found, unused-ignore]

    before = numba.get_num_threads()
    if count is None:
        yield before
        return
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined, unused-ignore]
    if not 1 <= count <= most:
        raise UsageError(f"{count} threads cannot be had; give 1 to {most}")
    numba.set_num_threads(count)
    try:
        with threadpool_limits(count), _torch_threads(count):
            yield count
    finally:
        numba.set_num_threads(before)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
