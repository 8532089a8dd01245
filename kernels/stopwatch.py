"""Measure the time of each stage of a fit."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..progress import report_stage
from .arrays import synchronize

STAGES = ("decode", "calibrate", "build", "engine", "project", "gram", "solve")

T = TypeVar("T")


class Stopwatch:
    """Accumulates wall-clock seconds by stage.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Device of the stages; each stage on ``cuda`` ends with a synchronization.
    report : bool
        Whether to print a line on stderr for what takes long, where it is not a terminal.
    """

    def __init__(self, device: str = "cpu", report: bool = False) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._device, self._report = device, report
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds inside a ``with`` block to a stage."""
        start = time.perf_counter()
        try:
            yield
            synchronize(self._device)
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
        if self._report:
            report_stage(stage, spent)

    def waiting(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and add the time spent waiting for each to a stage."""
        iterator = iter(items)
        while True:
            with self(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def total(self) -> dict[str, float]:
        """Return the seconds of each stage, and the ``total`` since the start."""
        return {**self.seconds, "total": time.perf_counter() - self._start}
