"""Interleaved timing: contestants run in turn, so that drift of the machine affects all alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from ..progress import progress_bar

PAUSE = 0.3
"""Seconds before each turn, for threads of the previous library to stop spinning."""


def alternate(
    contestants: Mapping[str, Callable[[], Any]], rounds: int = 7, progress: bool = True, calls: int = 1
) -> dict[str, list[float]]:
    """Time callables in turn, A B C A B C ...

    Each turn begins with a pause and an untimed warm-up run.

    Parameters
    ----------
    contestants : mapping of callables
    rounds : int
        Turns per contestant.
    progress : bool
    calls : int
        Timed runs per turn.

    Returns
    -------
    seconds : dict of lists, ``rounds * calls`` entries each
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in progress_bar(range(rounds), desc=f"timing {' against '.join(contestants)}", show=progress):
        for name, run in contestants.items():
            time.sleep(PAUSE)
            run()
            for _ in range(calls):
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: list[float], peer: list[float]) -> dict[str, float]:
    """Return the minimum, median and maximum speedup over a peer, run by run."""
    pairs = [theirs / ours for ours, theirs in zip(seconds, peer, strict=True)]
    return {"min": min(pairs), "median": median(pairs), "max": max(pairs)}


def spread(seconds: list[float]) -> float:
    """Return the interquartile range relative to the median."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return float((high - low) / middle)


def is_faster(rates: Sequence[float], peer: Sequence[float]) -> bool | None:
    """Return whether one is faster than its peer in every turn; None where the turns disagree.

    Parameters
    ----------
    rates, peer : sequence of float
        Images per second, turn by turn.
    """
    if all(ours > theirs for ours, theirs in zip(rates, peer, strict=True)):
        return True
    return False if all(ours < theirs for ours, theirs in zip(rates, peer, strict=True)) else None
