"""Shards that the workers of a cluster compute, in order, whatever becomes of the workers."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import Any, NamedTuple, Protocol

from .. import __version__
from ..errors import AurevoirError
from ..images.sources import warn
from .connection import required_ray
from .spec import Cluster
from .worker import Job, Worker

TRIES = 2
"""How often a shard ends its worker before it is halved, and an image before it counts as unreadable."""
_AHEAD = 16
"""Shards a worker that are out or kept before the first of them is done."""
_QUEUE = 2
"""Shards that a worker has: one to work on, and the next."""
_START = 300
"""Seconds that there may be no worker which has started."""
_STARTS = 3
"""Workers that end in a row while they start, before the fit ends."""
_PASSING = (OSError, MemoryError)
"""Errors that a machine may have and another not: the worker is taken for lost."""
_CPUS = 4
"""Processors of a worker, unless its machine has fewer."""


class Driver(Protocol):
    """What is asked of whoever shares out images."""

    def shard(self, start: int, stop: int) -> Any:
        """Return what a worker is sent of some images."""

    def refusal(self, first: Any) -> str | None:
        """Return why a worker with such a first result is not to be used, or None."""

    def contradiction(self, start: int, result: Any) -> str | None:
        """Return why the result of a shard, which begins with such an image, is not to be used, or None."""

    def unusable(self, index: int, why: str) -> Any:
        """Return the result of one image that ends every worker that it is given."""


@dataclass(order=True)
class _Task:
    """Some images, and how often they have ended a worker."""

    start: int
    stop: int = field(compare=False)
    tries: int = field(default=0, compare=False)
    suspect: bool = field(default=False, compare=False)


class _Waiting:
    """Shards that no worker has: those that were given back, which are the first ones, and then those to come."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._spans: Iterator[tuple[int, int]] = iter(spans)
        self._tasks: list[_Task] = []

    def first(self) -> _Task | None:
        """Return the next shard, which stays here; None if there is none."""
        if not self._tasks:
            self._tasks = [_Task(*span) for span in islice(self._spans, 1)]
        return self._tasks[0] if self._tasks else None

    def pop(self) -> _Task:
        """Take the one that `first` returns."""
        return heappop(self._tasks)

    def push(self, task: _Task) -> None:
        """Give one back."""
        heappush(self._tasks, task)


@dataclass(eq=False)
class _Running:
    """An actor; until `opening` has come, it has no shard."""

    actor: Any
    opening: Any
    machine: str = "in the cluster"
    shards: deque[tuple[Any, _Task]] = field(default_factory=deque)


class Resources(NamedTuple):
    """The number of workers, and what each of them gets."""

    workers: int
    cpus: int
    gpus: float


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Raise an error of Ray's own as one of the cluster."""
    try:
        yield
    except required_ray().exceptions.RayError as error:
        raise AurevoirError(f"the cluster failed: {str(error).strip().splitlines()[0]}; see its logs") from error


def _machines() -> list[dict[str, float]]:
    """Return what the machines of the connected cluster have."""
    with _ray_errors():
        return [node["Resources"] for node in required_ray().nodes() if node["Alive"]]


def least_processors() -> int:
    """Return the processors of the smallest machine of the connected cluster, as a power of two; 1 if none has any."""
    smallest = min((int(node["CPU"]) for node in _machines() if node.get("CPU", 0) >= 1), default=1)
    return 1 << (smallest.bit_length() - 1)


def resources(cluster: Cluster, on_gpu: bool) -> Resources:
    """Return what workers of the connected cluster get.

    Raises
    ------
    AurevoirError
        If no machine of it has as much, or they have no room for so many workers.
    """
    nodes = _machines()
    gpus = (1.0 if cluster.gpus_per_worker is None else cluster.gpus_per_worker) if on_gpu else 0.0
    rooms = [(node.get("CPU", 0), int(node.get("GPU", 0) / gpus) if gpus else None) for node in nodes]
    # A machine's processors are divided among those of its workers that have a GPU.
    shares = [int(cpu if places is None else cpu / max(places, 1)) for cpu, places in rooms if places != 0 and cpu >= 1]
    cpus = cluster.cpus_per_worker or max(1, min([*shares, *([] if gpus else [_CPUS])], default=1))
    if not any(cpu >= 1 for cpu, _ in rooms):
        raise AurevoirError("the cluster has no machine with processors; add one with `ray start --address HEAD:PORT`")
    wanted = cluster.workers or 1
    while cluster.cpus_per_worker is None and cpus > 1 and _held(rooms, cpus) < wanted:
        cpus -= 1
    if (held := _held(rooms, cpus)) < wanted:
        each = f"{cpus} processors" + (f" and {gpus:g} GPUs" if gpus else "")
        if not held:
            raise AurevoirError(
                f"no machine of the cluster has the {each} of one worker; give fewer (cpus_per_worker, "
                "gpus_per_worker), or start larger machines"
            )
        there = f"{sum(cpu for cpu, _ in rooms):g} processors"
        there += f" and {sum(node.get('GPU', 0) for node in nodes):g} GPUs" if gpus else ""
        raise AurevoirError(
            f"workers {wanted:,d} are more than the cluster has room for: {held:,d} with {each} each, of {there} in "
            f"{len(nodes)} machines; give fewer, or add machines first"
        )
    return Resources(cluster.workers or held, cpus, gpus)


def _held(rooms: Sequence[tuple[float, int | None]], cpus: int) -> int:
    """Return the workers for which machines have room, by the processors of each and the places on its GPUs."""
    return sum(int(cpu // cpus) if places is None else min(places, int(cpu // cpus)) for cpu, places in rooms)


class Pool:
    """The workers of one job; a context manager, which ends them.

    Parameters
    ----------
    room : Resources
    job : Job
    content : bytes
        Sent to each machine once.
    environment : dict of str or None
        Variables that a worker sets first, or removes.
    driver : Driver
    """

    def __init__(
        self, room: Resources, job: Job, content: bytes, environment: dict[str, str | None], driver: Driver
    ) -> None:
        ray = self._ray = required_ray()
        self._driver, self._room, self._name = driver, room, job.name
        options = {"num_cpus": room.cpus, "num_gpus": room.gpus, "scheduling_strategy": "SPREAD"}
        self._class = ray.remote(**options)(Worker)
        with _ray_errors():
            self._given = __version__, environment, ray.put(job), ray.put(content)
        self._running: list[_Running] = []
        self._accepted = False
        self._failed_starts = self._losses = 0
        self._last = ""

    def __enter__(self) -> "Pool":
        for _ in range(self._room.workers):
            self._add()
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self._running:
            self._end(worker)
        self._running = []

    def _add(self) -> None:
        actor = self._class.remote()
        opening = actor.open.options(name=f"{self._name}: open").remote(*self._given)
        self._running.append(_Running(actor, opening))

    def _end(self, worker: _Running) -> None:
        # Where there is no connection any more, the workers are gone, and Ray would make a new one.
        if self._ray.is_initialized():
            with suppress(Exception):
                self._ray.kill(worker.actor)

    def results(
        self, spans: Iterable[tuple[int, int]], length: int, batch: int | None, ahead: int = _AHEAD
    ) -> Generator[tuple[int, int, Any], None, None]:
        """Yield start, end and result of shards of images, in order.

        Parameters
        ----------
        spans : iterable of pairs of int
            Start and end of each shard, which begins where the one before ends; taken as workers need them.
        length : int
            Of the longest shard, a multiple of `batch`.
        batch : int or None
            A shard that ends its workers is halved where a batch ends, if it is longer than one; with None it is not.
        ahead : int
            Shards a worker that are out or kept before the first of them is done.

        Raises
        ------
        AurevoirError
            If no worker can be used, or they end without finishing anything.
        """
        with _ray_errors():
            yield from self._results(spans, length, batch, ahead)

    def _results(
        self, spans: Iterable[tuple[int, int]], length: int, batch: int | None, ahead: int
    ) -> Generator[tuple[int, int, Any], None, None]:
        waiting, done = _Waiting(spans), dict[int, tuple[int, Any]]()
        at, limit, open_at = 0, ahead * length * self._room.workers, time.monotonic()
        patience = _patience(length) * self._room.workers
        while True:
            while at in done:
                stop, result = done.pop(at)
                yield at, stop, result
                at = stop
            self._hand_out(waiting, at + limit)
            if not (done or any(worker.shards for worker in self._running) or waiting.first()):
                return
            for worker in self._ready():
                if worker.opening is not None:
                    self._opened(worker)
                    continue
                task, result = self._finished(worker, waiting, batch)
                if task is not None:
                    done[task.start] = task.stop, result
            if any(worker.opening is None for worker in self._running):
                open_at = time.monotonic()
            elif time.monotonic() - open_at > _START:
                raise AurevoirError(self._none_started())
            if self._losses > patience:
                raise AurevoirError(
                    f"{self._losses} workers ended without finishing a shard; the last one {self._last}"
                )

    def _hand_out(self, waiting: _Waiting, limit: int) -> None:
        """Give shards that begin before a limit to workers, the first ones first."""
        for depth in range(_QUEUE):
            for worker in self._running:
                if worker.opening is not None or len(worker.shards) != depth or (task := waiting.first()) is None:
                    continue
                # One that may end a worker is alone there: with it goes the answer of the one before.
                alone = task.suspect or any(other.suspect for _, other in worker.shards)
                if task.start < limit and not (depth and alone):
                    waiting.pop()
                    shard = self._driver.shard(task.start, task.stop)
                    run = worker.actor.run.options(name=f"{self._name}: {task.start}-{task.stop - 1}")
                    worker.shards.append((run.remote(shard), task))

    def _ready(self) -> list[_Running]:
        """Wait for a moment, and return the workers that have something to say."""
        by_reference = {
            worker.opening or worker.shards[0][0]: worker
            for worker in self._running
            if worker.opening is not None or worker.shards
        }
        ready, _ = self._ray.wait(list(by_reference), num_returns=1, timeout=1.0)
        return [by_reference[each] for each in ready]

    def _opened(self, worker: _Running) -> None:
        """Hear whether a worker has opened its job; end one that is not to be used."""
        ray = self._ray
        try:
            said = ray.get(worker.opening)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            self._remove(worker)
            self._last = f"{worker.machine}: {_cause(error)}"
            if self._running:
                # Another would start where there is room, which is there again.
                warn(f"a worker is not used, it ends while it starts; {self._last}")
                return
            if self._failed_starts > _STARTS:
                raise AurevoirError(f"workers end while they start; the last one {self._last}") from None
            self._add()
            return
        worker.opening, worker.machine = None, f"on {said.machine}"
        fault = said.fault or self._driver.refusal(said.first)
        if fault is None:
            self._accepted, self._failed_starts = True, 0
            return
        self._remove(worker)
        if not self._running and not self._accepted:
            raise AurevoirError(f"the worker {worker.machine} cannot be used: {fault}")
        warn(f"the worker {worker.machine} is not used: {fault}")
        if not self._running:
            # A machine that had a good one may take another.
            self._failed_starts += 1
            if self._failed_starts > _STARTS:
                raise AurevoirError(f"no worker is left; the last one {worker.machine} cannot be used: {fault}")
            self._add()

    def _finished(self, worker: _Running, waiting: _Waiting, batch: int | None) -> tuple[_Task | None, Any]:
        """Return the shard that a worker has finished, with its result; none if it has been lost."""
        ray = self._ray
        reference, task = worker.shards[0]
        try:
            result = ray.get(reference)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            # An error is no lost process: what another machine would raise too is not tried again.
            if isinstance(cause, Exception) and not isinstance(cause, (*_PASSING, ray.exceptions.RayError)):
                own = isinstance(cause, AurevoirError)
                said = " ".join(str(cause).split()) if own else f"{type(cause).__name__}: {_cause(error)}"
                raise AurevoirError(f"the worker {worker.machine}: {said}") from None
            return self._lost(worker, error, waiting, batch)
        worker.shards.popleft()
        self._losses = 0
        if (why := self._driver.contradiction(task.start, result)) is not None:
            task.tries += 1
            if task.tries >= TRIES:
                raise AurevoirError(f"the worker {worker.machine} {why}")
            waiting.push(task)
            return None, None
        return task, result

    def _lost(
        self, worker: _Running, error: Exception, waiting: _Waiting, batch: int | None
    ) -> tuple[_Task | None, Any]:
        """Give back the shards of a worker that ended, of which it worked on the first, and start another."""
        self._last, self._losses = f"{worker.machine}: {_cause(error)}", self._losses + 1
        (_, task), *others = worker.shards
        for _, other in others:
            waiting.push(other)
        self._remove(worker)
        self._add()
        task.tries, task.suspect = task.tries + 1, True
        if task.tries < TRIES:
            waiting.push(task)
        elif batch is not None and (length := task.stop - task.start) > 1:
            half = length // 2 if length <= batch else -(-length // 2 // batch) * batch
            waiting.push(_Task(task.start, task.start + half, suspect=True))
            waiting.push(_Task(task.start + half, task.stop, suspect=True))
        else:
            why = f"it ends the process that reads it, {TRIES} times; the last one {self._last}"
            return task, self._driver.unusable(task.start, why)
        return None, None

    def _remove(self, worker: _Running) -> None:
        self._running.remove(worker)
        self._end(worker)

    def _none_started(self) -> str:
        cpus, gpus = self._room.cpus, self._room.gpus
        free = self._ray.available_resources()
        return (
            f"no worker has started within {_START} seconds: each takes {cpus} processors and {gpus:g} GPUs, and "
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free; ask for less, or wait for others' jobs"
        )


def _patience(length: int) -> int:
    """Return how many workers may end in a row: those that find some bad images; beyond, it is not the images."""
    return TRIES * 2 * (length.bit_length() + 2)


def _cause(error: Exception) -> str:
    """Return the line of one of Ray's errors that says what happened."""
    lines = [line.strip() for line in str(getattr(error, "cause", None) or error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError", "The actor is dead"))]
    return (telling or lines[-1:] or [type(error).__name__])[-1][:300]
