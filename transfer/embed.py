"""Run images through an engine in batches."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ..engine.engine import Engine
from ..images.batches import Images, ImageStream
from ..kernels.stopwatch import Stopwatch
from .kept_bits import KeptBits

_Outputs = tuple[np.ndarray, dict[str, np.ndarray]]
"""Indices of images, and an engine's outputs of them by name."""


def embed(
    engine: Engine,
    images: Images,
    outputs: Sequence[str] = ("bits",),
    watch: Stopwatch | None = None,
    kept: KeptBits | None = None,
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

    Returns
    -------
    indices : int64 array of shape (n,)
        Indices of the readable images.
    values : dict of arrays
        By output, of its dtype and of shape (n, ...).
    """
    watch = watch or Stopwatch()
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
    for batch_indices, found in _computed(engine, images, outputs, watch):
        which = slice(filled, filled + len(batch_indices))
        indices[which] = first + batch_indices
        for name, result in results.items():
            result[which] = found[name]
        if kept is not None:
            with watch("decode"):
                kept.add(indices[which], {name: result[which] for name, result in results.items()})
        filled += len(batch_indices)
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
    run = _runner(engine, outputs)
    held: list[_Outputs] = []
    # One call after another: whoever reads a block asks the images what became of the files so far.
    for indices, pixels in images.batches(engine.batch_size):
        held.append((indices, run(pixels)))
        if len(indices) < engine.batch_size or sum(len(each) for each, _ in held) >= rows:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _computed(engine: Engine, images: Images, outputs: Sequence[str], watch: Stopwatch) -> Iterator[_Outputs]:
    """Yield indices and outputs batch by batch, in order, of as many calls at once as the engine gains from."""
    batches = watch.waiting("decode", images.batches(engine.batch_size))
    run = _runner(engine, outputs)
    if (calls := engine.calls_at_once) == 1:
        for indices, pixels in batches:
            with watch("engine"):
                values = run(pixels)
            yield indices, values
        return
    running: deque[tuple[np.ndarray, Future[dict[str, np.ndarray]]]] = deque()

    def finished() -> _Outputs:
        with watch("engine"):
            indices, future = running.popleft()
            return indices, future.result()

    with ThreadPoolExecutor(calls, thread_name_prefix="engine") as pool:
        for indices, pixels in batches:
            running.append((indices, pool.submit(run, pixels)))
            if len(running) == calls:
                yield finished()
        while running:
            yield finished()


def _runner(engine: Engine, outputs: Sequence[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return what computes outputs of a batch, which may be empty."""
    types = {name: engine.output_types[name] for name in engine.checked_outputs(outputs)}
    empty = {name: np.empty((0, *shape), dtype) for name, (shape, dtype) in types.items()}
    return lambda pixels: engine.run(pixels, outputs) if len(pixels) else empty


def _joined(parts: Sequence[_Outputs]) -> _Outputs:
    indices = np.concatenate([each for each, _ in parts])
    return indices, {name: np.concatenate([values[name] for _, values in parts]) for name in parts[0][1]}


def embed_bits(
    engine: Engine, images: Images, watch: Stopwatch | None = None, kept: KeptBits | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the packed sign bits of every readable image, uint8 of shape (n, ceil(m / 8)); see `embed`."""
    indices, values = embed(engine, images, ("bits",), watch, kept)
    return indices, values["bits"]
