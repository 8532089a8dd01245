"""Run images through an engine in batches."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..engine.engine import Engine
from ..images.batches import Images, ImageStream
from ..kernels.memory import Budget
from ..kernels.stopwatch import Stopwatch
from .kept_bits import KeptBits
from .rows import Rows


def embed(
    engine: Engine,
    images: Images,
    outputs: Sequence[str] = ("bits",),
    watch: Stopwatch | None = None,
    kept: KeptBits | None = None,
    budget: Budget = None,
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
    budget : int, str or None
        Memory limit; what takes more than a share of it is in files, see `transfer.rows`.

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
    watch = watch or Stopwatch()
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
    for batch_indices, pixels in watch.waiting("decode", images.batches(engine.batch_size)):
        with watch("engine"):
            found = first + batch_indices, engine.run(pixels, outputs)
            take(*found)
        if kept is not None:
            with watch("decode"):
                kept.add(*found)
    if kept is not None:
        kept.finish()
    return indices.array(), {name: result.array() for name, result in results.items()}


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
