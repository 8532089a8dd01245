"""Timing side by side: contestants take turns, so that a machine's drift falls on all of them alike."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from tqdm import tqdm


def alternate(contestants: dict[str, Callable[[], Any]], rounds: int = 7, warm_up: int = 1) -> dict[str, list[float]]:
    """Time callables in turn, A B C A B C ...

    Parameters
    ----------
    contestants : dict of callables
    rounds : int
        Counted runs of each.
    warm_up : int
        Runs of each before, not counted.

    Returns
    -------
    seconds : dict of lists, one entry a round
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in tqdm(range(-warm_up, rounds), desc="rounds"):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: list[float], peer: list[float]) -> dict[str, float]:
    """Return how many times faster than a peer, pair by pair: least, median and most."""
    pairs = [theirs / ours for ours, theirs in zip(seconds, peer, strict=True)]
    return {"min": min(pairs), "median": median(pairs), "max": max(pairs)}
