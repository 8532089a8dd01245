"""How many threads libraries use while they are timed."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import UsageError


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Limit BLAS, compiled kernels and torch to some threads; None leaves each its own choice. Yields the kernels'."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, import-not-found, unused-ignore]

    from ...kernels.backends.numba.threads import limit_threads, most_threads, thread_count

    if count is None:
        yield thread_count()
        return
    before, most = thread_count(), most_threads()
    if not 1 <= count <= most:
        raise UsageError(f"{count} threads are not possible; give 1 to {most}")
    limit_threads(count)
    try:
        with threadpool_limits(count), _torch_threads(count):
            yield count
    finally:
        limit_threads(before)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
