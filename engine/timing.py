"""Timing side by side: contestants take turns, so that a machine's drift falls on all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from tqdm import tqdm


def alternate(
    contestants: Mapping[str, Callable[[], Any]], rounds: int = 7, progress: bool = True
) -> dict[str, list[float]]:
    """Time callables in turn, A B C A B C ...

    Each turn runs a contestant twice and counts the second: the first finds the caches, and the
    other libraries' threads still spinning, as the contestant before left them.

    Parameters
    ----------
    contestants : mapping of callables
    rounds : int
        Counted runs of each.
    progress : bool

    Returns
    -------
    seconds : dict of lists, one entry a round
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in tqdm(range(rounds), desc="rounds", disable=not progress):
        for name, run in contestants.items():
            run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: list[float], peer: list[float]) -> dict[str, float]:
    """Return how many times faster than a peer, pair by pair: least, median and most."""
    pairs = [theirs / ours for ours, theirs in zip(seconds, peer, strict=True)]
    return {"min": min(pairs), "median": median(pairs), "max": max(pairs)}
