"""Images through an engine, batch by batch."""

import numpy as np

from ..engine.engine import Engine
from ..images.batches import Images
from ..kernels.bits import packed_length
from ..kernels.stopwatch import Stopwatch


def embed_bits(engine: Engine, images: Images, watch: Stopwatch | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sign bits of every readable image.

    Parameters
    ----------
    engine : Engine
    images : ImageFiles or ImageArray
    watch : Stopwatch, optional
        Counts the wait for images as ``decode`` and the network as ``engine``.

    Returns
    -------
    indices : int64 array of shape (n,)
        Which images these are; those missing could not be read.
    bits : uint8 array of shape (n, ceil(m / 8))
    """
    return _embed(engine, images, watch or Stopwatch(), bits=True)


def embed_features(engine: Engine, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return the float32 features of every readable image; n x m floats, see `embed_bits`."""
    return _embed(engine, images, Stopwatch(), bits=False)


def _embed(engine: Engine, images: Images, watch: Stopwatch, bits: bool) -> tuple[np.ndarray, np.ndarray]:
    width, dtype = (packed_length(engine.features), "uint8") if bits else (engine.features, "float32")
    run = engine.bits if bits else engine
    indices = np.empty(len(images), "int64")
    results = np.empty((len(images), width), dtype)
    filled = 0
    for places, pixels in watch.waiting("decode", images.batches(engine.batch_size)):
        with watch("engine"):
            which = slice(filled, filled + len(pixels))
            indices[which], results[which] = places, run(pixels)
        filled += len(pixels)
    return indices[:filled], results[:filled]
