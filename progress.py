"""Progress on stderr: bars on a terminal, elsewhere a plain line for what takes long."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SLOW = 5.0
"""Seconds from which a stage is reported where stderr is not a terminal."""
_INTERVAL = 30.0


class _Lines(tqdm):
    """A bar that prints plain lines: one every `_INTERVAL` seconds, and one at the end of what took long."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._began = self._shown = time.time()
        self._said = -1
        super().__init__(*args, mininterval=_INTERVAL, maxinterval=_INTERVAL, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the state as a line, if the last one is long ago."""
        if time.time() - self._shown >= _INTERVAL:
            self._print()

    def close(self) -> None:
        """Print the last line if the work was slow, and that has not been said."""
        if not getattr(self, "disable", True) and time.time() - self._began >= SLOW and self._said != self.n:
            self._print()
        self.leave, self.delay = False, float("inf")
        super().close()

    def _print(self) -> None:
        self._shown, self._said = time.time(), self.n
        elapsed = max(self._shown - self._began, 1e-9)
        total = "" if self.total is None else f"/{self.total}"
        rate = f"{self.n / elapsed:.1f} {self.unit}/s"
        sys.stderr.write(f"{self.desc or 'progress'}: {self.n}{total} {self.unit}, {elapsed:.0f} s, {rate}\n")


def progress_bar(items: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """Return a tqdm progress bar; where stderr is not a terminal it prints lines. Without `show` it is disabled."""
    if show and not on_terminal():
        return _Lines(items, **options)
    return tqdm(items, disable=not show, **options)


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def report_stage(stage: str, seconds: float) -> None:
    """Print a line on stderr for a stage that took longer than `SLOW`, unless a terminal shows bars there."""
    if seconds >= SLOW and not on_terminal():
        sys.stderr.write(f"{stage}: {seconds:.1f} s\n")
