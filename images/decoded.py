"""Pixels of image files that are read more than once, and files decoded in the background before they are read."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import AurevoirError
from ..kernels.memory import Budget, memory_budget
from ..limits import processors
from .archives import signature
from .decode import Resize, decode

Decoder = Callable[[Path | str, tuple[int, int], Resize, int], np.ndarray]
"""Returns the pixels of a file for a size, resize mode and number of channels; see `decode.decode`."""

SHARE = 8
"""The pixels that are kept take at most this part of the memory budget."""
_NICENESS = 10

_Key = tuple[str, tuple[int, int], Resize, int]
_Signature = tuple[int, int, int, int] | None
_Decoded = tuple[_Signature, np.ndarray]
"""The signature that a file had before it was decoded, and its pixels."""


class DecodedImages:
    """Pixels of the files of one fit, in a share of the memory budget; what does not fit is decoded when it is read.

    A file that has changed since it was decoded is decoded again. Pixels that are shared are read-only.

    Parameters
    ----------
    budget : int, str or None
        See `memory_budget`.
    ahead : bool
        Whether files are decoded in the background at all: not where others will read them.
    """

    def __init__(self, budget: Budget = None, ahead: bool = True) -> None:
        self._limit, self._ahead = memory_budget(budget) // SHARE, ahead
        self._kept: dict[_Key, Future[_Decoded]] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._running = threading.Event()
        self._running.set()
        self._pool = ThreadPoolExecutor(max(1, processors() - 1), thread_name_prefix="ahead", initializer=_step_back)

    def __enter__(self) -> "DecodedImages":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._running.set()
        self._pool.shutdown(cancel_futures=True)
        self._kept.clear()

    def ahead(self, paths: Sequence[Path | str], size: tuple[int, int], resize: Resize, channels: int) -> None:
        """Begin to decode files in the background, in their order, as many as fit."""
        for path in paths if self._ahead else ():
            key = (str(path), size, resize, channels)
            with self._lock:
                if key in self._kept:
                    continue
                if not self._room_for(key):
                    return
                self._kept[key] = self._pool.submit(self._decoded, path, size, resize, channels)

    def keep(self, path: Path | str, size: tuple[int, int], resize: Resize, channels: int) -> np.ndarray:
        """Return the pixels of a file, and keep them if they fit; errors are those of `decode`."""
        key = (str(path), size, resize, channels)
        with self._lock:
            future = self._kept.get(key)
        if (pixels := _pixels_of(future, path)) is not None:
            return pixels
        found = _decoded(path, size, resize, channels)
        done: Future[_Decoded] = Future()
        done.set_result(found)
        with self._lock:
            if key in self._kept or self._room_for(key):
                self._kept[key] = done
        return found[1]

    def take(self, path: Path | str, size: tuple[int, int], resize: Resize, channels: int) -> np.ndarray:
        """Return the pixels of a file, and keep them no longer; errors are those of `decode`."""
        key = (str(path), size, resize, channels)
        with self._lock:
            if (future := self._kept.pop(key, None)) is not None:
                self._bytes -= _bytes(key)
        pixels = _pixels_of(future, path)
        return decode(path, size, resize, channels) if pixels is None else pixels

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Begin no file in the background while a block runs, such as one that measures speed."""
        self._running.clear()
        try:
            yield
        finally:
            self._running.set()

    def _room_for(self, key: _Key) -> bool:
        """Set memory aside for the pixels of a file; return whether they fit."""
        if self._bytes + _bytes(key) > self._limit:
            return False
        self._bytes += _bytes(key)
        return True

    def _decoded(self, path: Path | str, size: tuple[int, int], resize: Resize, channels: int) -> _Decoded:
        self._running.wait()
        return _decoded(path, size, resize, channels)


def _bytes(key: _Key) -> int:
    _, (height, width), _, channels = key
    return height * width * channels


def _decoded(path: Path | str, size: tuple[int, int], resize: Resize, channels: int) -> _Decoded:
    # Signed before it is read: what is written meanwhile changes the signature.
    signed = _signature(path)
    return signed, decode(path, size, resize, channels)


def _signature(path: Path | str) -> _Signature:
    try:
        return signature(path)
    except (AurevoirError, OSError, ValueError):
        return None


def _pixels_of(future: "Future[_Decoded] | None", path: Path | str) -> np.ndarray | None:
    """Return the pixels of a file that has not changed; None if it is to be decoded by who asks, now or again."""
    if future is None or future.cancel():
        return None
    try:
        signed, pixels = future.result()
    except (AurevoirError, CancelledError):
        # It may be readable by now; if not, the error is that of this moment.
        return None
    return pixels if signed is not None and signed == _signature(path) else None


def _step_back() -> None:
    """Let a thread run where all others leave a core idle, if the system can."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
