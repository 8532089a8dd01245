"""Passes of the ridge over many rows on the workers of a cluster.

The driver has the rows, and sends each worker the segments that it works on, and once what is the same for all: the
landmarks or the projection, and the solution. The results of segments are put together in the order of the rows, so
that a model does not depend on which worker computed what, or when.

OpenBLAS rounds products of odd shapes by its number of threads. With multiples of 64, as numbers of landmarks are
(`ridge.form.WHOLE`) and of rows (`ridge.passes.blocks_alike`), 1, 2, 4, 8 and 16 threads gave the same bits, and 3 did
not: workers use a power of two.
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..cluster.connection import connected
from ..cluster.pool import Pool, Resources, least_processors, resources
from ..cluster.spec import Cluster
from ..errors import AurevoirError
from ..kernels.array_types import RowWeights, Targets
from ..kernels.backends import limit_threads
from ..kernels.blas import blas_threads
from ..kernels.memory import Budget, blocks, memory_budget
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

    @property
    def name(self) -> str:
        return "sums of the ridge"

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
    own: str | None = None

    def shard(self, start: int, stop: int) -> _Segment:
        which = slice(start, stop)
        return _Segment(self.rows[which].arrays, self.targets[which], self.weights[which])

    def refusal(self, first: str) -> str | None:
        if self.own in (None, first):
            return None
        return (
            f"its results of the first {min(_FIRST, len(self.targets))} rows differ from the driver's; use processors "
            "of one kind and one version of NumPy and SciPy, or allow any_processor"
        )

    def contradiction(self, start: int, result: Any) -> str | None:
        return None

    def unusable(self, index: int, why: str) -> Any:
        stop = min(index + passes.segment(len(self.targets)), len(self.targets))
        raise AurevoirError(
            f"workers end on rows {index:,d} to {stop:,d} of the ridge: {why}; each may take the memory budget "
            "(--memory), so lower it, or fit without the cluster: with a work folder nothing is embedded again"
        )


@contextmanager
def sharing(cluster: Cluster | None, n: int, show: bool, budget: Budget = None) -> Iterator[passes.Share]:
    """Yield what computes passes over n rows: here, or if they are several segments on a cluster's workers.

    Parameters
    ----------
    cluster : Cluster or None
        Connected to when it is needed: not by arrays on a GPU, or a ridge without such passes.
    n : int
    show : bool
        Whether passes over several segments show a bar.
    budget : int, str or None
        Bounds the results that are kept until their turn comes; see `memory_budget`.
    """
    many = n > passes.SEGMENT
    with ExitStack() as connections:

        def shared(work: passes.Work, rows: RowSource, targets: Targets, weights: RowWeights) -> Iterator[Any]:
            if cluster is None or not isinstance(targets, np.ndarray):
                return passes.here(work, rows, targets, weights)
            connections.enter_context(connected(cluster))
            return _shared(cluster, memory_budget(budget), work, rows, targets, weights)

        share = shared if many else passes.here
        yield _shown(share) if show and many else share


def _shown(share: passes.Share) -> passes.Share:
    def shown(work: passes.Work, rows: RowSource, targets: Targets, weights: RowWeights) -> Iterator[Any]:
        lengths = [which.stop - which.start for which in blocks(len(targets), passes.segment(len(targets)))]
        with progress_bar(total=len(targets), desc="ridge", unit="row") as bar:
            for length, result in zip(lengths, share(work, rows, targets, weights), strict=True):
                yield result
                bar.update(length)

    return shown


def _shared(
    cluster: Cluster, budget: int, work: passes.Work, rows: RowSource, targets: Targets, weights: RowWeights
) -> Generator[Any, None, None]:
    n, length = len(targets), passes.segment(len(targets))
    driver = _Driver(rows, targets, weights)
    room = _room(cluster)
    job = _Pass(work, rows.make, 1 << (room.cpus.bit_length() - 1), driver.shard(0, min(n, _FIRST)))
    own = job.run(job.sample)
    room, ahead = _bounded(room, sum(map(len, _numbers(own))), budget)
    if not cluster.any_processor:
        driver = replace(driver, own=digest(own))
    del own
    spans = ((which.start, which.stop) for which in blocks(n, length))
    with (
        Pool(room, job, b"", {}, driver) as pool,
        closing(pool.results(spans, length, None, ahead)) as segments,
    ):
        for _, _, result in segments:
            yield result


def _room(cluster: Cluster) -> Resources:
    """Return one worker a machine, of all its processors, or fewer if asked for: each may take the whole budget."""
    cpus = cluster.cpus_per_worker or least_processors()
    room = resources(replace(cluster, workers=None, cpus_per_worker=cpus), on_gpu=False)
    return room._replace(workers=min(room.workers, cluster.workers or room.workers))


def _bounded(room: Resources, size: int, budget: int) -> tuple[Resources, int]:
    """Return workers, and segments of each that may be out, such that results of so many bytes fit half of a budget."""
    most = max(1, budget // 2 // max(1, size))
    workers = min(room.workers, most)
    return room._replace(workers=workers), min(_AHEAD, most // workers)


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
