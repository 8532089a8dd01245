"""What is timed side by side: contestants that may fail, and that take turns."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from ...engine.timing import alternate, ratios, spread
from ...progress import progress_bar
from ..contract import Row

Run = Callable[..., Any]

# What takes less is run so often in a turn that a turn takes as long, but not more often than this.
_LEAST_SECONDS, _MOST_LOOPS = 0.05, 1000


@dataclass
class Contestant:
    """A row of the table, what makes that which runs for it, and the share of the row's work that a run does.

    Parameters
    ----------
    row : Row
        Has a ``name``.
    make : callable
        Returns what is timed; may raise.
    scale : float
        What a run's seconds are multiplied by, where it does a part of the work.
    """

    row: Row
    make: Callable[[], Run]
    scale: float = 1.0
    run: Run | None = field(default=None, repr=False)
    found: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The row's name."""
        return str(self.row["name"])


def prepare(
    contestants: Iterable[Contestant],
    calls: Sequence[tuple[Any, ...]] = ((),),
    keep: bool = False,
    description: str | None = None,
) -> None:
    """Make each and run it once on the arguments of each call, so that none fails where it is timed.

    Parameters
    ----------
    contestants : iterable of Contestant
        One that fails keeps its row, with the reason.
    calls : sequence of tuples
    keep : bool
        Whether to keep what the last run returned.
    description : str, optional
        Of the progress bar; None means no bar.
    """
    for each in (bar := progress_bar(contestants, desc=description, show=description is not None)):
        bar.set_postfix_str(each.name)
        with each.row.attempt():
            run = each.make()
            for arguments in calls:
                found = run(*arguments)
            each.run, each.found = run, found if keep else None


def running(contestants: Iterable[Contestant]) -> dict[str, Contestant]:
    """Return by name those that did not fail."""
    return {each.name: each for each in contestants if each.run is not None}


def take_turns(
    contestants: Iterable[Contestant], *arguments: Any, rounds: int, calls: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of those that did not fail, in turn on the same arguments; see `alternate`."""
    turns = {each.name: partial(each.run, *arguments) for each in contestants if each.run is not None}
    return alternate(turns, rounds, calls=calls)


def measure(contestants: Sequence[Contestant], base: str | None, repeats: int, progress: bool = True) -> None:
    """Time in turn those that did not fail; note median seconds, spread and how many times faster than `base`."""
    runs = {each.name: each.run for each in contestants if each.run is not None}
    loops = {name: _loops(run) for name, run in runs.items()}
    turns = {name: partial(_repeat, run, loops[name]) for name, run in runs.items()}
    contending = running(contestants)
    seconds = {
        name: [contending[name].scale * value / loops[name] for value in values]
        for name, values in alternate(turns, repeats, progress).items()
    }
    for name, each in contending.items():
        each.row.note(seconds=median(seconds[name]), spread=spread(seconds[name]), repeats=repeats)
        if base in seconds:
            each.row.cells[f"times_{base.replace(' ', '_')}"] = ratios(seconds[name], seconds[base])


def _loops(run: Run) -> int:
    start = time.perf_counter()
    run()
    return min(_MOST_LOOPS, math.ceil(_LEAST_SECONDS / max(time.perf_counter() - start, 1e-9)))


def _repeat(run: Run, loops: int) -> None:
    for _ in range(loops):
        run()
