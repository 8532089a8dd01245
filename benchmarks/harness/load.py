"""Callers that load something for a while: each sends the next call after the last, or calls arrive at a rate."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass
class Load:
    """What some seconds of load have shown.

    Parameters
    ----------
    seconds : float
        From the first call to the end of the last.
    latencies : list of float
        Seconds of each call; under arrivals at a rate from when it was due, not from when a caller was free.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Calls per second."""
        return len(self.latencies) / self.seconds


def closed_load(run: Callable[[], Any], callers: int, seconds: float) -> Load:
    """Let each of some callers call again as soon as its last call has ended."""
    end = [0.0]

    def calls(record: Callable[[float], None]) -> None:
        while (start := time.perf_counter()) < end[0]:
            run()
            record(time.perf_counter() - start)

    return _together(run, callers, calls, lambda start: end.__setitem__(0, start + seconds))


def open_load(run: Callable[[], Any], callers: int, rate: float, seconds: float, seed: int = 0) -> Load:
    """Let calls arrive at a rate, at random, whether or not earlier ones have ended; the next free caller takes each.

    The gaps are exponential, as of a Poisson process. Latency counts from the arrival: what a slow call keeps waiting
    is in it (no "coordinated omission").

    Parameters
    ----------
    run : callable
    callers : int
        Calls that can run at the same time; others wait in a queue.
    rate : float
        Arrivals per second.
    seconds : float
        The time over which calls arrive.
    seed : int
    """
    arrivals = poisson_arrivals(rate, seconds, seed)
    numbers, start = itertools.count(), [0.0]

    def calls(record: Callable[[float], None]) -> None:
        while (number := next(numbers)) < len(arrivals):
            due = start[0] + arrivals[number]
            time.sleep(max(0.0, due - time.perf_counter()))
            run()
            record(time.perf_counter() - due)

    return _together(run, callers, calls, lambda now: start.__setitem__(0, now))


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Return the times of arrivals at a rate within some seconds, at least one."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, max(1, int(rate * seconds + 6 * (rate * seconds) ** 0.5 + 6)))
    times = np.cumsum(gaps)
    within = times[times < seconds]
    return within if len(within) else np.zeros(1)


def _together(
    run: Callable[[], Any],
    callers: int,
    calls: Callable[[Callable[[float], None]], None],
    begin: Callable[[float], None],
) -> Load:
    """Let callers, each warm, begin together; return what they record."""
    load, started = Load(), [0.0]

    def start() -> None:
        started[0] = time.perf_counter()
        begin(started[0])

    met = threading.Barrier(callers, start)

    def work() -> None:
        own: list[float] = []
        try:
            # A caller's first call makes the buffers of its thread.
            run()
            met.wait()
            calls(own.append)
        except BaseException:
            met.abort()
            raise
        load.latencies.extend(own)

    with ThreadPoolExecutor(callers) as pool:
        done = [pool.submit(work) for _ in range(callers)]
        failed = [error for each in done if (error := each.exception()) is not None]
        load.seconds = time.perf_counter() - started[0]
    # What broke the barrier is the reason, not that it was broken.
    for error in sorted(failed, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise error
    return load


def percentiles(latencies: Sequence[float]) -> dict[str, float | None]:
    """Return percentiles in milliseconds by name; None for one that so few calls do not have."""
    return {
        f"p{each:g}": 1000 * float(np.percentile(latencies, each))
        if round(len(latencies) * (100 - each), 6) >= 100
        else None
        for each in PERCENTILES
    }
