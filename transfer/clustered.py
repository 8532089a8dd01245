"""Images through an engine on the workers of a cluster.

The driver has the engine, of which each machine is sent the file once, and hands out shards of the images: paths, which
every machine must find where the driver does, or pixels. What comes back is cut into the batches of a single machine,
in its order: what is made of them does not depend on which worker computed what, or when.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from tqdm import tqdm

from ..cluster.connection import connected
from ..cluster.pool import Pool, Resources, resources
from ..cluster.spec import Cluster
from ..engine.engine import Engine
from ..engine.load import open_engine
from ..engine.runtimes import runtime
from ..errors import UsageError
from ..images.batches import ImageArray, ImageFiles, Images, ImageStream
from ..images.decode import UnreadableImageError, decode
from ..images.remote import path_of
from ..kernels.stopwatch import Stopwatch
from ..progress import progress_bar
from .computed import Outputs, computed

STAGE = "cluster"
"""Of a stopwatch: the seconds of waiting for workers."""
_VARIABLES = ("AUREVOIR_MEMORY",)
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

    @property
    def name(self) -> str:
        return "embed"

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
    n, batch = len(images), engine.batch_size
    with connected(cluster):
        room = resources(cluster, _on_gpu(engine))
        driver = _Driver(engine, images, engine.checked_outputs(outputs), cluster.any_processor)
        length = _length(n, room.workers, batch)
        spans = ((start, min(start + length, n)) for start in range(0, n, length))
        bar = progress_bar(total=n, desc=images.description, unit="img", show=images.description is not None)
        # Of its own: each wait is as long as a shard takes, and none is worth a line.
        waits = Stopwatch()
        with bar, closing(_results(room, engine, driver, spans, length)) as shards:
            yield from _batches(_placed(waits.waiting(STAGE, shards), driver, bar), batch)
        watch.seconds[STAGE] = watch.seconds.get(STAGE, 0.0) + waits.seconds[STAGE]


def streamed_on(
    cluster: Cluster, engine: Engine, stream: ImageStream, outputs: Sequence[str]
) -> Generator[Outputs, None, None]:
    """Yield indices and outputs of the batches in which `ImageStream.batches` would yield the pixels.

    Shards grow with the images so far. Paths are read, and results held, of some shards a worker; see `computed_on`.
    """
    batch, names = engine.batch_size, engine.checked_outputs(outputs)
    paths = _Window(stream.paths)
    if not paths.read(batch):
        return
    with connected(cluster):
        room = resources(cluster, _on_gpu(engine))
        images = ImageFiles(paths, stream.size, stream.resize, channels=stream.channels)
        driver = _Driver(engine, images, names, cluster.any_processor)
        spans, longest = _spans(paths, room.workers, batch), batch * max(1, _SHARD // batch)
        types = {name: engine.output_types[name] for name in names}
        with closing(_results(room, engine, driver, spans, longest)) as shards:
            for kept in stream.gathered(_files(shards, driver, paths), batch):
                indices = np.array([index for index, _ in kept], "int64")
                # Of no image it still has the shape of its rows.
                yield (
                    indices,
                    {
                        name: np.array([row[name] for _, row in kept], dtype).reshape(len(kept), *shape)
                        for name, (shape, dtype) in types.items()
                    },
                )


def _on_gpu(engine: Engine) -> bool:
    return engine.device.startswith("cuda")


def _length(images: int, workers: int, batch: int) -> int:
    """Return the images of a shard, where there are so many."""
    return batch * max(1, min(_SHARD, images // (_SHARDS * workers)) // batch)


def _results(
    room: Resources, engine: Engine, driver: "_Driver", spans: Iterable[tuple[int, int]], length: int
) -> Generator[tuple[int, int, _Result], None, None]:
    """Yield start, end and result of shards, in order."""
    # A worker sees its own GPU only.
    device = "cuda" if _on_gpu(engine) else engine.device
    job = _Embedding(device, driver.outputs, room.cpus, driver.sample)
    environment = {name: os.environ.get(name) for name in _VARIABLES}
    with Pool(room, job, engine.to_bytes(), environment, driver) as pool:
        yield from pool.results(spans, length, engine.batch_size)


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


class _Window(Sequence[Path | str]):
    """The paths of a stream that were read, and are not forgotten, by their indices among all."""

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self._source, self._held, self._first = iter(paths), list[Path | str](), 0

    def __len__(self) -> int:
        return self._first + len(self._held)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return self._held[which.start - self._first : which.stop - self._first]
        return self._held[which - self._first]

    def read(self, end: int) -> int:
        """Read the paths before an index; return the number of all that were read."""
        self._held += islice(self._source, max(0, end - len(self)))
        return len(self)

    def forget(self, end: int) -> None:
        """Let go of the paths before an index."""
        del self._held[: end - self._first]
        self._first = end


def _spans(paths: _Window, workers: int, batch: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of shards, which are read as they are taken."""
    start = 0
    while (stop := min(paths.read(end := start + _length(start, workers, batch)), end)) > start:
        yield start, stop
        start = stop


def _files(
    shards: Iterable[tuple[int, int, _Result]], driver: "_Driver", paths: _Window
) -> Iterator[tuple[Path | str, dict[str, np.ndarray] | UnreadableImageError]]:
    """Yield the files of shards, each with its outputs or why it cannot be read."""
    for start, stop, result in shards:
        reasons, rows = driver.reasons(start, result), iter(range(len(result.indices)))
        for place, path in enumerate(paths[start:stop]):
            if place in reasons:
                yield path, UnreadableImageError(reasons[place])
            else:
                row = next(rows)
                yield path, {name: values[row] for name, values in result.values.items()}
        paths.forget(stop)


class _Driver:
    """What shares out the images, and knows what workers have to say; see `cluster.pool.Driver`."""

    def __init__(self, engine: Engine, images: Images, outputs: tuple[str, ...], any_processor: bool) -> None:
        self._images, self.outputs, self._any_processor = images, outputs, any_processor
        self._types = {name: engine.output_types[name] for name in outputs}
        few = min(engine.batch_size, len(images))
        self.sample = self.shard(0, few)
        self._own = _First(_embedded(engine, self.shard(0, few), outputs), _versions(engine))
        self._reasons: dict[int, str] = {}

    def shard(self, start: int, stop: int) -> Images:
        images = self._images
        if isinstance(images, ImageArray):
            return ImageArray(images.pixels[start:stop])
        paths = [path_of(path).absolute() for path in images.paths[start:stop]]
        return ImageFiles(paths, images.size, images.resize, channels=images.channels)

    def refusal(self, first: _First) -> str | None:
        own, versions = self._own
        for index, reason in first.result.unreadable.items():
            if index not in own.unreadable:
                # Of a stream the first paths are forgotten before a worker that replaces another opens.
                assert isinstance(self.sample, ImageFiles)
                return f"it cannot read {self.sample.paths[index]}, which the driver reads: {reason}"
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
        for place, reason in self.reasons(start, result).items():
            self._images.skipped[str(self._path(start + place))] = reason

    def reasons(self, start: int, result: _Result) -> dict[int, str]:
        """Return why images of a shard cannot be read, by their places in it; once for each shard."""
        return {place: self._reasons.pop(start + place) for place in sorted(result.unreadable)}

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
