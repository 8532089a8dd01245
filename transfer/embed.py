"""Run images through an engine in batches."""

import numpy as np

from ..calibration.graph.edit import POOLED
from ..engine.engine import Engine
from ..images.batches import Images
from ..kernels.stopwatch import Stopwatch
from .kept_bits import KeptBits


def embed_bits(
    engine: Engine, images: Images, watch: Stopwatch | None = None, kept: KeptBits | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sign bits of every readable image.

    Parameters
    ----------
    engine : Engine
    images : ImageFiles or ImageArray
    watch : Stopwatch, optional
        Times waiting for images as ``decode`` and inference as ``engine``.
    kept : KeptBits, optional
        Those of these images and this engine in a work folder; they are not computed again.

    Returns
    -------
    indices : int64 array of shape (n,)
        Indices of the readable images.
    bits : uint8 array of shape (n, ceil(m / 8))
    """
    return _embed(engine, images, watch or Stopwatch(), "bits", kept)


def embed_features(engine: Engine, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return the float32 features of every readable image, of shape (n, m); see `embed_bits`."""
    return _embed(engine, images, Stopwatch(), "features")


def embed_pooled(engine: Engine, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return the float32 channel means of every readable image, of shape (n, channels); see `embed_bits`."""
    return _embed(engine, images, Stopwatch(), POOLED)


def _embed(
    engine: Engine, images: Images, watch: Stopwatch, output: str, kept: KeptBits | None = None
) -> tuple[np.ndarray, np.ndarray]:
    (width,), dtype = engine.output_types[output]
    run = {"bits": engine.bits, POOLED: engine.pooled}.get(output, engine)
    indices = np.empty(len(images), "int64")
    results = np.empty((len(images), width), dtype)
    filled, first = 0, 0
    if kept is not None:
        with watch("decode"):
            known, values = kept.taken_over()
            filled = len(known)
            indices[:filled], results[:filled] = known, values
            first, images = kept.rest()
    for batch_indices, pixels in watch.waiting("decode", images.batches(engine.batch_size)):
        with watch("engine"):
            which = slice(filled, filled + len(pixels))
            indices[which], results[which] = first + batch_indices, run(pixels)
        if kept is not None:
            with watch("decode"):
                kept.add(indices[which], results[which])
        filled += len(pixels)
    if kept is not None:
        kept.finish()
    return indices[:filled], results[:filled]
