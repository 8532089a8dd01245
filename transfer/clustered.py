"""Images through an engine on the workers of a cluster.

The driver has the engine, of which each machine is sent the file once, and hands out shards of the images: paths, which
every machine must find where the driver does, or pixels. What comes back is cut into the batches of a single machine,
in its order: what is made of them does not depend on which worker computed what, or when.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from tqdm import tqdm

from ..cluster.connection import connected, required_ray
from ..cluster.pool import Pool, resources
from ..cluster.spec import Cluster
from ..engine.engine import Engine
from ..engine.load import open_engine
from ..engine.runtimes import runtime
from ..errors import AurevoirError, UsageError
from ..images.batches import ImageArray, ImageFiles, Images
from ..images.decode import UnreadableImageError, decode
from ..kernels.memory import blocks
from ..kernels.stopwatch import Stopwatch
from ..progress import progress_bar
from .computed import Outputs, computed

STAGE = "cluster"
"""Of a stopwatch: the seconds of waiting for workers."""
VARIABLES = ("AUREVOIR_MEMORY",)
"""Of the driver, for its workers: what an image may take decides whether it is read."""
_SHARD = 512
"""The most images of a shard, but where a batch is larger: seconds of a processor's work."""
_SHARDS = 16
"""Shards of a worker, where there are images enough: the last one alone is waited for."""


class _Result(NamedTuple):
    """What a worker returns of a shard: outputs of its readable images, and the others, all by their indices in it."""

    indices: np.ndarray
    values: dict[str, np.ndarray]
    unreadable: dict[int, str]


class _First(NamedTuple):
    """What a worker says of itself: outputs of the first images, and what reads and computes them."""

    result: _Result
    versions: dict[str, str]


@dataclass(frozen=True)
class _Embedding:
    """What workers do; see `cluster.worker.Job`."""

    device: str
    outputs: tuple[str, ...]
    threads: int
    sample: Images

    def open(self, content: bytes) -> "_Embedder":
        # What crashes here ends this worker alone, so nothing is tried in a process of its own first.
        engine = open_engine(content, "the engine of the fit", self.device, trusted=True)
        with suppress(UsageError):
            # Some runtimes take the processors that they find.
            engine = engine.with_threads(self.threads)
        return _Embedder(engine, self)


@dataclass
class _Embedder:
    """An engine that embeds shards."""

    engine: Engine
    job: _Embedding

    def first(self) -> _First:
        return _First(self.run(self.job.sample), _versions(self.engine))

    def run(self, shard: Images) -> _Result:
        images = replace(shard, workers=self.job.threads) if isinstance(shard, ImageFiles) else shard
        return _embedded(self.engine, images, self.job.outputs)


def computed_on(
    cluster: Cluster, engine: Engine, images: Images, outputs: Sequence[str], watch: Stopwatch
) -> Generator[Outputs, None, None]:
    """Yield indices and outputs batch by batch, as `computed` does, of a cluster's workers.

    Parameters
    ----------
    cluster : Cluster
    engine : Engine
    images : ImageFiles or ImageArray
    outputs : sequence of str
        Some of ``engine.outputs``.
    watch : Stopwatch
        Times waiting for workers as ``cluster``.

    Raises
    ------
    AurevoirError
        If there is no such cluster, none of its workers can be used, or they cannot finish.
    """
    names, batch = engine.checked_outputs(outputs), engine.batch_size
    on_gpu = engine.device.startswith("cuda")
    with connected(cluster):
        room = resources(cluster, on_gpu)
        driver = _Driver(engine, images, names, cluster.any_processor)
        # A worker sees its own GPU only.
        device = "cuda" if on_gpu else engine.device
        job = _Embedding(device, names, room.cpus, driver.sample)
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        length = batch * max(1, min(_SHARD, len(images) // (_SHARDS * room.workers)) // batch)
        bar = progress_bar(total=len(images), desc=images.description, unit="img", show=images.description is not None)
        with bar, Pool(room, job, engine.to_bytes(), environment, driver) as pool:
            # Of its own: each wait is as long as a shard takes, and none is worth a line.
            waits = Stopwatch()
            with closing(
                pool.results(((s.start, s.stop) for s in blocks(len(images), length)), length, batch)
            ) as shards:
                yield from _batches(_placed(waits.waiting(STAGE, named(shards)), driver, bar), batch)
            watch.seconds[STAGE] = watch.seconds.get(STAGE, 0.0) + waits.seconds[STAGE]


def named(shards: Iterable[tuple[int, int, Any]]) -> Iterator[tuple[int, int, Any]]:
    """Yield shards; an error of Ray's own is one of the cluster."""
    try:
        yield from shards
    except required_ray().exceptions.RayError as error:
        raise AurevoirError(f"the cluster failed: {str(error).strip().splitlines()[0]}; see its logs") from error


def _placed(shards: Iterable[tuple[int, int, _Result]], driver: "_Driver", bar: tqdm) -> Iterator[Outputs]:
    """Yield the outputs of shards by the indices of all images, and record what cannot be read."""
    for start, stop, result in shards:
        driver.record(start, result)
        bar.update(stop - start)
        yield start + result.indices, result.values


def _batches(parts: Iterable[Outputs], size: int) -> Iterator[Outputs]:
    """Cut outputs into batches of so many images; the last one may be smaller."""
    held: list[Outputs] = []
    for part in parts:
        held.append(part)
        indices = np.concatenate([each for each, _ in held])
        values = {name: np.concatenate([found[name] for _, found in held]) for name in part[1]}
        whole = len(indices) // size * size
        for start in range(0, whole, size):
            which = slice(start, start + size)
            yield indices[which], {name: value[which] for name, value in values.items()}
        held = [(indices[whole:], {name: value[whole:] for name, value in values.items()})]
    yield from (each for each in held if len(each[0]))


class _Driver:
    """What shares out the images, and knows what workers have to say; see `cluster.pool.Driver`."""

    def __init__(self, engine: Engine, images: Images, outputs: tuple[str, ...], any_processor: bool) -> None:
        self._images, self._any_processor = images, any_processor
        self._types = {name: engine.output_types[name] for name in outputs}
        few = min(engine.batch_size, len(images))
        self.sample = self.shard(0, few)
        self._own = _First(_embedded(engine, self.shard(0, few), outputs), _versions(engine))
        self._reasons: dict[int, str] = {}

    def shard(self, start: int, stop: int) -> Images:
        images = self._images
        if isinstance(images, ImageArray):
            return ImageArray(images.pixels[start:stop])
        paths = [Path(path).absolute() for path in images.paths[start:stop]]
        return ImageFiles(paths, images.size, images.resize, channels=images.channels)

    def refusal(self, first: _First) -> str | None:
        own, versions = self._own
        for index, reason in first.result.unreadable.items():
            if index not in own.unreadable:
                return f"it cannot read {self._path(index)}, which the driver reads: {reason}"
        if self._any_processor:
            return None
        for name, version in versions.items():
            if (theirs := first.versions.get(name)) != version:
                return f"it has {name} {theirs}, and the driver {version}; install one version, or allow any_processor"
        for name, values in own.values.items():
            others = first.result.values[name]
            if values.shape != others.shape or values.tobytes() != others.tobytes():
                differing = _difference(name, values, others)
                return (
                    f"{differing} of the first {len(values)} images differ from the driver's; use processors of one "
                    "kind, or allow any_processor"
                )
        return None

    def contradiction(self, start: int, result: _Result) -> str | None:
        for place, reason in result.unreadable.items():
            if (why := self._why_unreadable(start + place)) is None:
                return (
                    f"cannot read {self._path(start + place)}, which the driver reads: {reason}; all machines must see "
                    "the images at the same paths"
                )
            # As this machine names it.
            self._reasons[start + place] = why
        return None

    def unusable(self, index: int, why: str) -> _Result:
        self._reasons[index] = why
        none = {name: np.empty((0, *shape), dtype) for name, (shape, dtype) in self._types.items()}
        return _Result(np.empty(0, "int64"), none, {0: why})

    def record(self, start: int, result: _Result) -> None:
        """Say of the images of a shard that cannot be read why."""
        for place in sorted(result.unreadable):
            self._images.skipped[str(self._path(start + place))] = self._reasons.pop(start + place)

    def _path(self, index: int) -> Path | str:
        assert isinstance(self._images, ImageFiles)
        return self._images.paths[index]

    def _why_unreadable(self, index: int) -> str | None:
        images = self._images
        assert isinstance(images, ImageFiles)
        try:
            decode(images.paths[index], images.size, images.resize, images.channels)
        except UnreadableImageError as error:
            return str(error)
        return None


def _embedded(engine: Engine, images: Images, outputs: Sequence[str]) -> _Result:
    parts = [*computed(engine, images, outputs, Stopwatch())]
    types = {name: engine.output_types[name] for name in outputs}
    indices = np.concatenate([np.empty(0, "int64"), *(each for each, _ in parts)])
    values = {
        name: np.concatenate([np.empty((0, *shape), dtype), *(found[name] for _, found in parts)])
        for name, (shape, dtype) in types.items()
    }
    skipped = images.skipped
    paths = images.paths if isinstance(images, ImageFiles) and skipped else ()
    return _Result(indices, values, {i: skipped[str(path)] for i, path in enumerate(paths) if str(path) in skipped})


def _versions(engine: Engine) -> dict[str, str]:
    return {engine.runtime: runtime(engine.runtime).version(), "Pillow": PIL.__version__}


def _difference(name: str, values: np.ndarray, others: np.ndarray) -> str:
    if values.shape != others.shape:
        return name
    if name == "bits":
        differing = int(np.unpackbits(values ^ others).sum())
        return f"{differing:,d} of {8 * values.size:,d} signs"
    return f"{int((values != others).sum()):,d} of {values.size:,d} values of {name}"
