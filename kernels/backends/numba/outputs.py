"""Output arrays of projections."""

import numpy as np


def outputs(n: int, k: int, gain: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return arrays for float32 intensities and uint8 speckle of shape (n, k); the one that is not needed is empty.

    With the `gain` of a camera speckle is needed, with None intensities.
    """
    none = (0, 0)
    return np.empty((n, k) if gain is None else none, "float32"), np.empty(none if gain is None else (n, k), "uint8")
