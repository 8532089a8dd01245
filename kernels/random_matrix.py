"""Reproducible random matrices of projections, independent of the machine and the array library."""

from statistics import NormalDist
from typing import Literal

import numpy as np

from .array_types import ArrayLibrary, ChainSigns, GaussianRows, Levels, SignRows
from .arrays import NUMPY
from .bits import packed_length
from .philox import philox

Entries = Literal["gaussian", "signs"]
"""Entries of a random matrix R: Gaussian, quantized to int8, or random signs."""


def gaussian_levels() -> Levels:
    """Return the 256 levels of an int8 Gaussian with sigma 40: the medians of equiprobable intervals."""
    normal = NormalDist(sigma=40)
    return np.array([round(normal.inv_cdf((i + 0.5) / 256)) for i in range(256)], dtype="int8")


def gaussian_rows(which: slice, m: int, seed: int, xp: ArrayLibrary = NUMPY) -> GaussianRows:
    """Return rows of a Gaussian R as int8 of shape (rows, 2, m): real part, imaginary part.

    Notes
    -----
    The sixteen entries of row i from column 16 j on are the bytes at counter (j, i, part, 0) of Philox4x32-10
    with key `seed`; part is 0 for the real and 1 for the imaginary part. Each byte is the index of a level.
    """
    drawn = _drawn(which, -(-m // 16), 0, seed, xp)
    return xp.asarray(gaussian_levels())[drawn[:, :, :m]]


def sign_rows(which: slice, m: int, seed: int, xp: ArrayLibrary = NUMPY) -> SignRows:
    """Return rows of an R of signs as packed bits, uint8 of shape (rows, 2, ceil(m / 8)): real part, imaginary part.

    Notes
    -----
    As in `gaussian_rows`, but the 128 bits at counter (j, i, part, 1) are the columns from 128 j on of row i,
    highest bit first; a bit of 1 means +1.
    """
    return _drawn(which, -(-m // 128), 1, seed, xp)[:, :, : packed_length(m)]


def _drawn(which: slice, columns: int, kind: int, seed: int, xp: ArrayLibrary) -> SignRows:
    """Return the random bytes of some rows, of shape (rows, 2, 16 columns)."""
    rows = xp.arange(which.start, which.stop)[:, None, None]
    return philox((xp.arange(columns), rows, xp.arange(2)[:, None], kind), seed, xp).reshape(len(rows), 2, -1)


def hadamard_length(m: int) -> int:
    """Return the length p of a Walsh-Hadamard transform of m features: the power of two at or above m."""
    return 1 << max(0, m - 1).bit_length()


def hadamard_signs(m: int, k: int, seed: int) -> ChainSigns:
    """Return the signs of the chains of transforms, int8 of shape (pairs, 2, 3, p)."""
    p = hadamard_length(m)
    shape = (-(-k // p), 2, 3, p)
    random = np.random.Generator(np.random.Philox(key=seed))
    packed = random.integers(0, 256, size=-(-int(np.prod(shape)) // 8), dtype="uint8")
    drawn = np.unpackbits(packed)[: int(np.prod(shape))].reshape(shape)
    return (2 * drawn.view("int8") - 1).astype("int8")
