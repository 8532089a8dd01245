"""Run images through an engine in batches."""

import numpy as np

from ..engine.engine import Engine
from ..images.batches import Images
from ..kernels.bits import packed_length
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
    return _embed(engine, images, watch or Stopwatch(), bits=True, kept=kept)


def embed_features(engine: Engine, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return the float32 features of every readable image, of shape (n, m); see `embed_bits`."""
    return _embed(engine, images, Stopwatch(), bits=False)


def _embed(
    engine: Engine, images: Images, watch: Stopwatch, bits: bool, kept: KeptBits | None = None
) -> tuple[np.ndarray, np.ndarray]:
    width, dtype = (packed_length(engine.features), "uint8") if bits else (engine.features, "float32")
    run = engine.bits if bits else engine
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
