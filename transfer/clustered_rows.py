"""Passes of the ridge over many rows on the workers of a cluster.

The driver has the rows, and sends each worker the segments that it works on, and once what is the same for all: the
landmarks or the projection, and the solution. The results of segments are put together in the order of the rows, so
that a model does not depend on which worker computed what, or when.

OpenBLAS rounds products of odd shapes by its number of threads. With multiples of 64, as numbers of landmarks are
(`ridge.form.WHOLE`), 1, 2, 4, 8 and 16 threads gave the same bits, and 3 did not: workers use a power of two.
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..cluster.connection import connected
from ..cluster.pool import Pool, resources
from ..cluster.spec import Cluster
from ..errors import AurevoirError
from ..kernels.array_types import RowWeights, Targets
from ..kernels.backends import limit_threads
from ..kernels.blas import blas_threads
from ..kernels.memory import blocks
from ..kernels.ridge import passes
from ..kernels.row_blocks import RowSource
from ..progress import progress_bar

_AHEAD = 2
"""Segments a worker that are out or kept before the first of them is done: a result may be a matrix of sums."""
_FIRST = 512
"""Rows by which workers are compared with the driver."""


class _Segment(NamedTuple):
    """What a worker is sent: arrays of the rows."""

    arrays: tuple[np.ndarray | None, ...]
    targets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class _Pass:
    """A pass over rows; see `cluster.worker.Job`."""

    work: passes.Work
    make: Any
    threads: int
    sample: _Segment

    def open(self, content: bytes) -> "_Pass":
        limit_threads(self.threads)
        return self

    def first(self) -> str:
        return digest(self.run(self.sample))

    def run(self, shard: _Segment) -> Any:
        with blas_threads(self.threads):
            return self.work(RowSource(self.make, shard.arrays), shard.targets, shard.weights)


@dataclass(frozen=True)
class _Driver:
    """What hands out segments; see `cluster.pool.Driver`."""

    rows: RowSource
    targets: Targets
    weights: RowWeights
    own: str | None

    def shard(self, start: int, stop: int) -> _Segment:
        which = slice(start, stop)
        return _Segment(self.rows[which].arrays, self.targets[which], self.weights[which])

    def refusal(self, first: str) -> str | None:
        if self.own in (None, first):
            return None
        return (
            f"its sums over the first {min(_FIRST, len(self.targets))} rows differ from the driver's; use processors "
            "of one kind and one version of NumPy and SciPy, or allow any_processor"
        )

    def contradiction(self, start: int, result: Any) -> str | None:
        return None

    def unusable(self, index: int, why: str) -> Any:
        raise AurevoirError(
            f"rows from {index:,d} cannot be summed on the cluster: a worker ended on them, {why}; give workers more "
            "memory, or continue without the cluster"
        )


@contextmanager
def sharing(cluster: Cluster | None, n: int, show: bool) -> Iterator[passes.Share]:
    """Yield what computes passes over n rows, if they are several segments on a cluster's workers, or shows a bar.

    Parameters
    ----------
    cluster : Cluster or None
    n : int
    show : bool
        Whether passes over several segments show a bar.
    """
    many = n > passes.SEGMENT
    with connected(cluster if many else None):
        share = passes.here if cluster is None or not many else share_on(cluster)
        yield _shown(share) if show and many else share


def share_on(cluster: Cluster) -> passes.Share:
    """Return what computes passes over rows on a connected cluster; those of arrays on a GPU stay here."""

    def share(work: passes.Work, rows: RowSource, targets: Targets, weights: RowWeights) -> Iterator[Any]:
        where = partial(_shared, cluster) if isinstance(targets, np.ndarray) else passes.here
        return where(work, rows, targets, weights)

    return share


def _shown(share: passes.Share) -> passes.Share:
    def shown(work: passes.Work, rows: RowSource, targets: Targets, weights: RowWeights) -> Iterator[Any]:
        lengths = [which.stop - which.start for which in blocks(len(targets), passes.SEGMENT)]
        with progress_bar(total=len(targets), desc="ridge", unit="row") as bar:
            for length, result in zip(lengths, share(work, rows, targets, weights), strict=True):
                yield result
                bar.update(length)

    return shown


def _shared(
    cluster: Cluster, work: passes.Work, rows: RowSource, targets: Targets, weights: RowWeights
) -> Generator[Any, None, None]:
    n, length = len(targets), passes.SEGMENT
    room = resources(cluster, on_gpu=False)
    own = _Driver(rows, targets, weights, None)
    job = _Pass(work, rows.make, 1 << (room.cpus.bit_length() - 1), own.shard(0, min(n, _FIRST)))
    driver = own if cluster.any_processor else _Driver(rows, targets, weights, job.first())
    spans = ((which.start, which.stop) for which in blocks(n, length))
    with (
        Pool(room, job, b"", {}, driver) as pool,
        closing(pool.results(spans, length, None, _AHEAD)) as segments,
    ):
        for _, _, result in segments:
            yield result


def digest(result: Any) -> str:
    """Return the SHA-256 of the numbers of a result: of arrays, numbers, and what holds them."""
    found = hashlib.sha256()
    for part in _numbers(result):
        found.update(part)
    return found.hexdigest()


def _numbers(value: Any) -> Iterator[bytes]:
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif hasattr(value, "__dict__"):
        yield from _numbers([*vars(value).values()])
    else:
        yield repr(value).encode()
