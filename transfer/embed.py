"""Run images through an engine in batches."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.engine import Engine
from ..images.batches import Images, ImageStream
from ..kernels.stopwatch import Stopwatch
from .kept_bits import KeptBits


@dataclass
class Pace:
    """How fast images went through an engine, after the first batch, for which the engine is compiled.

    Attributes
    ----------
    images : int
        The images of the other batches.
    engine_seconds : float
        Seconds in the engine; threads decode meanwhile.
    seconds : float
        Those, and seconds of waiting for decoded images.
    """

    images: int = 0
    engine_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Images per second of the engine; None if there was one batch at most."""
        return self.images / self.engine_seconds if self.engine_seconds > 0 else None

    @property
    def with_decoding(self) -> float | None:
        """Images per second with waiting for decoded images; None if there was one batch at most."""
        return self.images / self.seconds if self.seconds > 0 else None


def embed(
    engine: Engine,
    images: Images,
    outputs: Sequence[str] = ("bits",),
    watch: Stopwatch | None = None,
    kept: KeptBits | None = None,
    pace: Pace | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return outputs of an engine for every readable image, all of one run.

    Parameters
    ----------
    engine : Engine
    images : ImageFiles or ImageArray
    outputs : sequence of str
        Some of ``engine.outputs``.
    watch : Stopwatch, optional
        Times waiting for images as ``decode`` and inference as ``engine``.
    kept : KeptBits, optional
        Those of these images, this engine and these outputs in a work folder; they are not computed again.
    pace : Pace, optional
        Is set to that of this call.

    Returns
    -------
    indices : int64 array of shape (n,)
        Indices of the readable images.
    values : dict of arrays
        By output, of its dtype and of shape (n, ...).
    """
    watch, pace = watch or Stopwatch(), pace or Pace()
    types = {name: engine.output_types[name] for name in engine.checked_outputs(outputs)}
    indices = np.empty(len(images), "int64")
    results = {name: np.empty((len(images), *shape), dtype) for name, (shape, dtype) in types.items()}
    filled, first = 0, 0
    if kept is not None:
        with watch("decode"):
            known, values = kept.taken_over()
            filled = len(known)
            indices[:filled] = known
            for name, result in results.items():
                result[:filled] = values[name]
            first, images = kept.rest()
    began = None
    for batch_indices, pixels in watch.waiting("decode", images.batches(engine.batch_size)):
        called = time.perf_counter()
        with watch("engine"):
            which = slice(filled, filled + len(pixels))
            indices[which], found = first + batch_indices, engine.run(pixels, outputs)
            for name, result in results.items():
                result[which] = found[name]
        done = time.perf_counter()
        if began is None:
            began = done
        else:
            pace.images += len(pixels)
            pace.engine_seconds += done - called
            pace.seconds = done - began
        if kept is not None:
            with watch("decode"):
                kept.add(indices[which], {name: result[which] for name, result in results.items()})
        filled += len(pixels)
    if kept is not None:
        kept.finish()
    return indices[:filled], {name: result[:filled] for name, result in results.items()}


def embed_blocks(
    engine: Engine, images: Images | ImageStream, outputs: Sequence[str], rows: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield outputs of an engine as they come, in blocks of whole batches.

    Parameters
    ----------
    engine : Engine
    images : ImageFiles, ImageArray or ImageStream
    outputs : sequence of str
        Some of ``engine.outputs``.
    rows : int
        Readable images after which a block ends; it also ends with a batch that is not full.

    Yields
    ------
    indices, values
        As `embed` returns them; of no image for a batch of a stream in which none is readable.
    """
    types = {name: engine.output_types[name] for name in engine.checked_outputs(outputs)}
    empty = {name: np.empty((0, *shape), dtype) for name, (shape, dtype) in types.items()}
    held: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    for indices, pixels in images.batches(engine.batch_size):
        held.append((indices, engine.run(pixels, outputs) if len(pixels) else empty))
        if len(indices) < engine.batch_size or sum(len(each) for each, _ in held) >= rows:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(parts: Sequence[tuple[np.ndarray, dict[str, np.ndarray]]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    indices = np.concatenate([each for each, _ in parts])
    return indices, {name: np.concatenate([values[name] for _, values in parts]) for name in parts[0][1]}


def embed_bits(
    engine: Engine, images: Images, watch: Stopwatch | None = None, kept: KeptBits | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the packed sign bits of every readable image, uint8 of shape (n, ceil(m / 8)); see `embed`."""
    indices, values = embed(engine, images, ("bits",), watch, kept)
    return indices, values["bits"]
