"""Threads that share the work of compiled kernels, which hold no GIL.

Numba's own parallel loops take up to five times as long to compile, and their threads do not survive a fork.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, TypeVar

from numba.core import config

from ....limits import processors

Found = TypeVar("Found")

# Of each thread, so that one that is held up does not hold up the others, and an interrupt comes in between.
_PARTS = 4


class _Limit(threading.local):
    count: int | None = None


_LIMIT = _Limit()


@cache
def most_threads() -> int:
    """Return how many threads kernels may use: as many as there are `processors`, at most ``NUMBA_NUM_THREADS``."""
    settings: Any = config
    return min(int(settings.NUMBA_NUM_THREADS), processors())


def thread_count() -> int:
    """Return how many threads kernels use that this thread calls."""
    return most_threads() if _LIMIT.count is None else max(1, min(_LIMIT.count, most_threads()))


def limit_threads(count: int | None) -> None:
    """Let kernels that this thread calls use at most so many threads; None takes the limit away."""
    _LIMIT.count = count


def in_parts(work: Callable[[int, int], Found], count: int, least: int = 1, most: int | None = None) -> list[Found]:
    """Call a function for parts of ``range(count)``, in this thread and others.

    Parameters
    ----------
    work : callable
        Called with the first index of a part and the one after its last; it has to release the GIL.
    count : int
    least, most : int
        Length of a part, where `count` allows it.

    Returns
    -------
    list
        What the function returned, in the order of the parts.
    """
    threads = thread_count()
    parts = max(1, min(_PARTS * threads, count // least), 0 if most is None else -(-count // most))
    edges = [count * part // parts for part in range(parts + 1)]
    # At its end an iterator of a list holds nothing, nor does what the pool begins after that.
    left = iter([(part, partial(work, edges[part], edges[part + 1])) for part in range(parts)])
    ended: SimpleQueue[tuple[int, int, Found | None, BaseException | None]] = SimpleQueue()

    def take() -> None:
        for part, call in left:
            try:
                ended.put((1, part, call(), None))
            except BaseException as error:
                # Nobody begins another part.
                ended.put((1 + sum(1 for _ in left), part, None, error))

    # Where no thread can be started, as when the interpreter ends, this one does all.
    with suppress(RuntimeError):
        for _ in range(min(threads, parts) - 1):
            _pool().submit(take)
    take()
    return _collected(ended, parts)


def _collected(ended: "SimpleQueue[tuple[int, int, Any, BaseException | None]]", parts: int) -> list[Any]:
    """Return what all parts came to in their order, or raise the first error, when none is at work any more."""
    found: dict[int, Any] = {}
    failed: list[BaseException] = []
    while parts:
        count, part, value, error = ended.get()
        parts -= count
        found[part] = value
        failed += [] if error is None else [error]
    if failed:
        try:
            raise failed[0]
        finally:
            # A traceback that holds its own error would keep all arrays.
            del failed, error
    return [found[part] for part in sorted(found)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(most_threads(), thread_name_prefix="kernel")


if hasattr(os, "register_at_fork"):
    # The threads of a pool do not survive a fork.
    os.register_at_fork(after_in_child=_pool.cache_clear)
