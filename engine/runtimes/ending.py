"""Native calls and the end of the interpreter: a daemon thread that returns from one then ends the process by SIGABRT.

The exit code would be lost, and a core written. So the end waits for the calls that are running, and daemon threads
begin no more.
"""

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 30.0
"""Seconds that the end of the interpreter waits at most."""


class _Calls:
    """The native calls that daemon threads are in; the end waits for other threads by itself."""

    def __init__(self) -> None:
        self._running, self._ended = 0, False
        self._changed = threading.Condition()

    @contextmanager
    def call(self) -> Iterator[None]:
        if not threading.current_thread().daemon:
            yield
            return
        with self._changed:
            # For good: the thread goes with the process.
            self._changed.wait_for(lambda: not self._ended)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: not self._running, LONGEST)


_CALLS = _Calls()
native_call = _CALLS.call
"""A context manager around each native call."""

atexit.register(_CALLS.end)
if hasattr(os, "register_at_fork"):
    # The threads of the parent are not in a child.
    os.register_at_fork(after_in_child=_CALLS.__init__)  # type: ignore[misc]
