"""The process of the command line: its standard streams, which may be closed, and the signals that end it."""

import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

_AGAIN = 0.02
"""Seconds after which a signal that came during an import is looked at again."""


class Ended(KeyboardInterrupt):
    """A signal that asks the process to end; what cleans up behind an interrupt does so behind it too."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Forgiving(io.TextIOBase):
    """A stream whose writer never fails: nobody loses a result because its notes have no reader."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._stream.encoding)


@contextmanager
def own_process() -> Iterator[None]:
    """Make the streams and signals of this process fit for a command; behind it no interrupt changes the exit code.

    A closed descriptor of 0 to 2 leads nowhere from here on, or the next file that is opened would take its number, and
    what native code says on it.
    """
    _open_streams()
    for number in (signal.SIGINT, *_ENDING):
        # Who started it with nohup wants SIGHUP ignored.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
            # OpenVINO's telemetry forks, asks a child that hangs to end, and waits for that at exit.
            os.register_at_fork(after_in_child=partial(signal.signal, number, signal.SIG_DFL))
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGALRM, *_ENDING):
            signal.signal(number, signal.SIG_IGN)
        # An interpreter that ends looks for cycles among all that libraries have defined, several times, to free what
        # the system is about to take back. Exit functions and finalizers run all the same.
        gc.freeze()


def _end(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        # Native code that calls Python while it is loaded ends the process at an exception: ask again soon.
        signal.signal(signal.SIGALRM, lambda _, later: _end(number, later))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        return
    # Threads that wait for a server are waited for.
    if (remote := sys.modules.get(f"{__package__.rpartition('.')[0]}.images.remote")) is not None:
        remote.give_up()
    # What is interrupted while it is made fails in its finalizer as well, and Python would print that.
    sys.unraisablehook = lambda _: None
    raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether the command is importing; whoever imports the program that runs it does not count."""
    while frame is not None and frame.f_globals.get("__name__") != f"{__package__}.main":
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _open_streams() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is what it gets.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        # Names of files and classes may hold what the locale cannot encode.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    elif not isinstance(sys.stderr, _Forgiving):
        sys.stderr = _Forgiving(sys.stderr)
