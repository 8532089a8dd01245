"""How many threads libraries use while they are timed."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import UsageError


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Limit BLAS, Numba and torch to some threads; None leaves each its own choice. Yields Numba's number."""
    import numba
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, import-not-found, unused-ignore]

    before = numba.get_num_threads()
    if count is None:
        yield before
        return
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined, unused-ignore]
    if not 1 <= count <= most:
        raise UsageError(f"{count} threads are not possible; give 1 to {most}")
    numba.set_num_threads(count)
    try:
        with threadpool_limits(count), _torch_threads(count):
            yield count
    finally:
        numba.set_num_threads(before)


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
