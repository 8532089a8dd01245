"""Turns of threads at what may be done by many at once, and at what must be done alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets many threads in at once, or one alone, which those that come later wait for."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = self._waiting = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Be inside with others, once nobody waits to be alone."""
        with self._condition:
            self._condition.wait_for(lambda: not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone, once the others have left."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._inside)
                yield
            finally:
                self._waiting -= 1
                self._condition.notify_all()
