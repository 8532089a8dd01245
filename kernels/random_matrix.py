"""What random projections multiply by, drawn from a seed: the same whatever the machine or the array library."""

from statistics import NormalDist
from typing import Any

import numpy as np

from .arrays import Array


def rows_and_parts(which: slice, xp: Any) -> tuple[Array, Array]:
    """Return the second and third words of the counters of rows of R, of shapes (rows, 1, 1) and (2, 1)."""
    return xp.arange(which.start, which.stop)[:, None, None], xp.arange(2)[:, None]


def gaussian_levels() -> Array:
    """Return the 256 values of an int8 Gaussian: medians of equally likely cells, sigma = 40."""
    normal = NormalDist(sigma=40)
    return np.array([round(normal.inv_cdf((i + 0.5) / 256)) for i in range(256)], dtype="int8")
