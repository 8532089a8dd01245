"""Timing side by side: contestants take turns, so that a machine's drift falls on all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np

from ..progress import progress_bar

PAUSE = 0.3
"""Seconds before a turn, in which the threads of the library before it stop spinning."""


def alternate(
    contestants: Mapping[str, Callable[[], Any]], rounds: int = 7, progress: bool = True, calls: int = 1
) -> dict[str, list[float]]:
    """Time callables in turn, A B C A B C ...

    Each turn begins with a pause and a run that does not count, which finds the caches and the
    threads as the contestant before left them.

    Parameters
    ----------
    contestants : mapping of callables
    rounds : int
        Turns of each.
    progress : bool
    calls : int
        Counted runs in a turn, each timed by itself.

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
    """Return how many times faster than a peer, pair by pair: least, median and most."""
    pairs = [theirs / ours for ours, theirs in zip(seconds, peer, strict=True)]
    return {"min": min(pairs), "median": median(pairs), "max": max(pairs)}


def spread(seconds: list[float]) -> float:
    """Return the distance between the quartiles as a share of the median."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return float((high - low) / middle)
