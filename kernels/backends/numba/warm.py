"""Compile the kernels of a fit by calling them on arrays of the types that a fit has: python -m ... MODULE ..."""

import sys
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np

from .ahead import Kernel, mark_compiled


def warm(kernels: Sequence[str] = get_args(Kernel)) -> None:
    """Compile the kernels of some modules, those that are not in Numba's cache, and keep them there."""
    from .compiled import is_all_kept

    for name in kernels:
        _CALLS[name]()
        if is_all_kept():
            mark_compiled(name)


def _magnitudes() -> None:
    from .magnitudes import count_magnitudes, largest_magnitude

    values = np.ones(4, dtype="float32")
    largest_magnitude(values)
    count_magnitudes(values, 2.0, 2)


def _products() -> None:
    from .products import shared_ones

    shared_ones(np.zeros((2, 64), dtype="uint8"))


def _hadamard() -> None:
    from .hadamard import hadamard

    hadamard(np.zeros((2, 8), dtype="uint8"), np.zeros((1, 2, 3, 8), dtype="uint8"), 64)


def _dense() -> None:
    from .dense import dense, sign_rows

    dense(np.zeros((2, 8), dtype="uint8"), 16, 0, np.zeros(256, dtype="int8"))
    sign_rows(slice(0, 2), 64, 0)


_CALLS: dict[str, Callable[[], None]] = {
    "magnitudes": _magnitudes,
    "products": _products,
    "hadamard": _hadamard,
    "dense": _dense,
}

if __name__ == "__main__":
    warm(sys.argv[1:])
