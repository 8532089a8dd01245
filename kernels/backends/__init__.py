"""The compiled kernels: the same few functions for each kind of processor, and which of them an array goes to.

`reference` states in plain array code, for NumPy and CuPy, what each function computes; `numba` computes it on the
CPU and `triton` on NVIDIA GPUs. A backend that has nothing faster for a function takes that of the reference.
"""

from importlib.util import find_spec
from typing import Protocol

import numpy as np

from ...errors import MissingPackageError, UsageError
from ..array_types import (
    Array,
    BinCounts,
    Bits,
    Counts,
    Magnitudes,
    Observed,
    OtherBits,
    PackedChainSigns,
    Speckle,
    SquareCounts,
    SquareMatrix,
)
from ..arrays import namespace
from ..memory import Budget
from ..random_matrix import Entries

BACKENDS = ("reference", "numba", "triton")


class Backend(Protocol):
    """What every backend computes; `reference` has the meaning of each function."""

    def shared_ones(self, bits: Bits, others: OtherBits | None = None, *, budget: Budget = None) -> Counts:
        """Count the ones that each two rows of packed bits share."""
        ...

    def gram(self, speckle: Speckle, *, budget: Budget = None) -> SquareCounts:
        """Return the exact inner products of the rows of ``speckle - 128``."""
        ...

    def dense(
        self,
        bits: Bits,
        m: int,
        k: int,
        seed: int,
        entries: Entries = "gaussian",
        gain: float | None = None,
        *,
        budget: Budget = None,
    ) -> Observed:
        """Project packed bits by a random complex matrix; with a camera's `gain`, return speckle."""
        ...

    def hadamard(self, bits: Bits, m: int, k: int, signs: PackedChainSigns, gain: float | None = None) -> Observed:
        """Project packed bits by chains of Walsh-Hadamard transforms; with a camera's `gain`, return speckle."""
        ...

    def cholesky(self, matrix: SquareMatrix) -> SquareMatrix:
        """Return the lower Cholesky factor of a matrix, which may be overwritten."""
        ...

    def largest_magnitude(self, values: Magnitudes) -> float:
        """Return the largest |x|; nan or infinity where one is among the values."""
        ...

    def count_magnitudes(self, values: Magnitudes, top: float, bins: int) -> tuple[BinCounts, float]:
        """Count |x| in equal bins from 0 to `top`, and return the largest |x| that is counted."""
        ...


def has_triton() -> bool:
    """Return whether CuPy's arrays can go through kernels in Triton, which is not made for every system."""
    return find_spec("triton") is not None and find_spec("torch") is not None


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends whose packages are installed, the plainest first."""
    return BACKENDS if has_triton() else BACKENDS[:-1]


def get_backend(name: str) -> Backend:
    """Return a backend by its name.

    Parameters
    ----------
    name : {"reference", "numba", "triton"}

    Raises
    ------
    UsageError
        If there is no backend of that name.
    MissingPackageError
        If the packages that it needs are not installed.
    """
    if name == "reference":
        from . import reference

        return reference
    if name == "numba":
        from .numba import backend as numba_backend

        return numba_backend
    if name != "triton":
        raise UsageError(f"backend {name!r} is not known; choose one of {', '.join(BACKENDS)}")
    if not has_triton():
        raise MissingPackageError("backend 'triton' needs Triton and PyTorch: pip install 'aurevoir[gpu]'")
    from .triton import backend as triton_backend

    return triton_backend


def backend_for(array: Array) -> Backend:
    """Return the fastest backend for an array: Numba's for NumPy's; for CuPy's Triton's, else the reference."""
    if namespace(array) is np:
        return get_backend("numba")
    return get_backend("triton" if has_triton() else "reference")
