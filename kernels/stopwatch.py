"""Where the time of a fit goes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from .arrays import wait_for

STAGES = ("decode", "calibrate", "build", "engine", "project", "gram", "solve")

T = TypeVar("T")


class Stopwatch:
    """Sums wall-clock seconds by stage.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Where stages put their work: at the end of each, ``cuda`` waits for what it began there.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._device = device
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the seconds inside a ``with`` block to a stage."""
        start = time.perf_counter()
        try:
            yield
            wait_for(self._device)
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def waiting(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Pass items on; what is counted is the wait for each."""
        iterator = iter(items)
        while True:
            with self(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def total(self) -> dict[str, float]:
        """Return the seconds of each stage, and as ``total`` those since the start."""
        return {**self.seconds, "total": time.perf_counter() - self._start}
