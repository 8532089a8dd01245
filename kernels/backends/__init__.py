"""Compiled kernels: the same functions for each kind of processor, and the choice of the backend for an array.

`reference` defines each function in plain array code, for NumPy and CuPy; `numba` implements them for the CPU and
`triton` for NVIDIA GPUs. A backend without a faster version of a function uses that of the reference.
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


def limit_threads(count: int) -> None:
    """Let compiled kernels that this thread calls on the CPU use at most so many threads."""
    from .numba import threads

    threads.limit_threads(min(count, threads.thread_count()))


class Backend(Protocol):
    """Interface of all backends; see `reference` for the definition of each function."""

    def shared_ones(self, bits: Bits, others: OtherBits | None = None, *, budget: Budget = None) -> Counts:
        """Count the shared ones of every pair of rows of packed bits."""
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
        """Return the largest |x|; nan or infinity if any value is."""
        ...

    def count_magnitudes(self, values: Magnitudes, top: float, bins: int) -> tuple[BinCounts, float]:
        """Count |x| in equal bins from 0 to `top`, and return the largest counted |x|."""
        ...


def has_triton() -> bool:
    """Return whether Triton, which is not available on every system, and PyTorch are installed."""
    return find_spec("triton") is not None and find_spec("torch") is not None


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends whose packages are installed, the reference first."""
    return BACKENDS if has_triton() else BACKENDS[:-1]


def get_backend(name: str) -> Backend:
    """Return a backend by its name.

    Parameters
    ----------
    name : {"reference", "numba", "triton"}

    Raises
    ------
    UsageError
        If the backend is unknown.
    MissingPackageError
        If its packages are not installed.
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
        raise MissingPackageError(
            "backend 'triton' needs Triton and PyTorch; install them with: pip install 'aurevoir[gpu]'"
        )
    from .triton import backend as triton_backend

    return triton_backend


def backend_for(array: Array) -> Backend:
    """Return the fastest backend for an array: Numba for NumPy; Triton for CuPy, or else the reference."""
    if namespace(array) is np:
        return get_backend("numba")
    return get_backend("triton" if has_triton() else "reference")
