"""Run images through an engine in batches."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from ..cluster.spec import Cluster
from ..engine.engine import Engine
from ..images.batches import Images, ImageStream
from ..kernels.memory import Budget
from ..kernels.stopwatch import Stopwatch
from .clustered import computed_on, streamed_on
from .computed import Outputs, computed
from .kept_bits import KeptBits
from .rows import Rows


@dataclass
class Pace:
    """How fast images went through an engine, after the first batch, for which the engine is compiled.

    Attributes
    ----------
    images : int
        The images of the other batches.
    seconds : float
        What they took, reading of files included where it was not done before.
    """

    images: int = 0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Images per second; None if there was one batch at most."""
        return self.images / self.seconds if self.seconds > 0 else None


def embed(
    engine: Engine,
    images: Images,
    outputs: Sequence[str] = ("bits",),
    watch: Stopwatch | None = None,
    kept: KeptBits | None = None,
    pace: Pace | None = None,
    budget: Budget = None,
    cluster: Cluster | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return outputs of an engine for every readable image, all of one run.

    Parameters
    ----------
    engine : Engine
    images : ImageFiles or ImageArray
    outputs : sequence of str
        Some of ``engine.outputs``.
    watch : Stopwatch, optional
        Times waiting for images as ``decode`` and for the engine as ``engine``.
    kept : KeptBits, optional
        Those of these images, this engine and these outputs in a work folder; they are not computed again.
    pace : Pace, optional
        Is set to that of this call.
    budget : int, str or None
        Memory limit; what takes more than a share of it is in files, see `transfer.rows`.
    cluster : Cluster, optional
        Whose workers compute them; waiting for them is timed as ``cluster``. See `transfer.clustered`.

    Returns
    -------
    indices : int64 array of shape (n,)
        Indices of the readable images.
    values : dict of arrays
        By output, of its dtype and of shape (n, ...).

    Raises
    ------
    SaveError
        If these files fill the disk.
    """
    watch, pace = watch or Stopwatch(), pace or Pace()
    types = {name: engine.output_types[name] for name in engine.checked_outputs(outputs)}
    indices = Rows((), "int64", len(images))
    results = Rows.of(types, len(images), budget, None if kept is None else kept.folder)

    def take(which: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        indices.append(which)
        for name, result in results.items():
            result.append(values[name])

    first = 0
    if kept is not None:
        with watch("decode"):
            for block in kept.taken_over():
                take(*block)
            first, images = kept.rest()
    began = None
    with closing(_computed(engine, images, outputs, watch, cluster)) as batches:
        for batch_indices, found in batches:
            take(first + batch_indices, found)
            now = time.perf_counter()
            if began is None:
                began = now
            else:
                pace.images, pace.seconds = pace.images + len(batch_indices), now - began
            if kept is not None:
                with watch("decode"):
                    kept.add(first + batch_indices, found)
    if kept is not None:
        kept.finish()
    return indices.array(), {name: result.array() for name, result in results.items()}


def _computed(
    engine: Engine, images: Images | ImageStream, outputs: Sequence[str], watch: Stopwatch, cluster: Cluster | None
) -> Generator[Outputs, None, None]:
    if cluster is None:
        return computed(engine, images, outputs, watch)
    if isinstance(images, ImageStream):
        return streamed_on(cluster, engine, images, outputs)
    if not len(images):
        return computed(engine, images, outputs, watch)
    return computed_on(cluster, engine, images, outputs, watch)


def embed_blocks(
    engine: Engine,
    images: Images | ImageStream,
    outputs: Sequence[str],
    rows: int,
    cluster: Cluster | None = None,
) -> Generator[Outputs, None, None]:
    """Yield outputs of an engine as they come, in blocks of whole batches.

    Parameters
    ----------
    engine : Engine
    images : ImageFiles, ImageArray or ImageStream
    outputs : sequence of str
        Some of ``engine.outputs``.
    rows : int
        Readable images after which a block ends; it also ends with a batch that is not full.
    cluster : Cluster, optional
        Whose workers compute them; see `transfer.clustered`.

    Yields
    ------
    indices, values
        As `embed` returns them; of no image for a batch of a stream in which none is readable.
    """
    held: list[Outputs] = []

    def block() -> Outputs:
        if isinstance(images, ImageStream):
            images.finish(len(held))
        indices = np.concatenate([each for each, _ in held])
        return indices, {name: np.concatenate([values[name] for _, values in held]) for name in held[0][1]}

    with closing(_computed(engine, images, outputs, Stopwatch(), cluster)) as batches:
        for indices, values in batches:
            held.append((indices, values))
            if len(indices) < engine.batch_size or sum(len(each) for each, _ in held) >= rows:
                yield block()
                held.clear()
    if held:
        yield block()


def embed_bits(engine: Engine, images: Images, watch: Stopwatch | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the packed sign bits of every readable image, uint8 of shape (n, ceil(m / 8)); see `embed`."""
    indices, values = embed(engine, images, ("bits",), watch)
    return indices, values["bits"]
