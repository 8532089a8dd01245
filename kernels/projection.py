"""The optical random projection y = |Rx|^2 of packed bits, simulated.

`Dense` has a Gaussian R, like the optics; `Hadamard` replaces R by three products of a Walsh-Hadamard transform
and random signs (Yu et al. 2016, arXiv:1610.09072), in O(m log m) per row. The limit for many components is
`exact_kernel`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from ..errors import UsageError
from .array_types import Bits, Intensities, PackedChainSigns, Speckle
from .backends import backend_for
from .bits import check_bits
from .camera import Camera
from .memory import Budget, block_length, blocks, memory_budget, require
from .random_matrix import Entries, hadamard_length, hadamard_signs

_SAMPLE_ROWS = 64


@runtime_checkable
class Projection(Protocol):
    """A random projection of the bits of m features to k intensities, and their speckle."""

    m: int
    k: int
    seed: int
    kind: ClassVar[str]

    def row_bytes(self) -> int:
        """Return the working memory, in bytes, of one row."""
        ...

    def intensities(self, bits: Bits, budget: Budget = None) -> Intensities:
        """Return float32 intensities of shape (n, k) for packed bits of n rows.

        The memory budget limits the blocks of R on a GPU; see `memory.memory_budget`.
        """
        ...

    def speckle(self, bits: Bits, camera: Camera, budget: Budget = None) -> Speckle:
        """Return the camera's image of the intensities: uint8 of shape (n, k)."""
        return camera.expose(self.intensities(bits, budget))


class _Simulated(Projection):
    """A projection that a backend computes in one pass with the rounding of an ideal camera."""

    def __post_init__(self) -> None:
        whole = all(isinstance(value, int | np.integer) for value in (self.m, self.k, self.seed))
        if not whole or self.m < 1 or self.k < 1 or not 0 <= self.seed < 2**64:
            raise UsageError(
                f"a projection of m = {self.m} features to k = {self.k} components with seed {self.seed}: "
                "m and k must be integers of at least 1, and the seed one between 0 and 2^64 - 1"
            )
        what = f"one row of a {self.kind} projection of m = {self.m} features to k = {self.k} components"
        require(self.row_bytes() + self._own_bytes(), memory_budget(), what, "lower n_components")

    def _own_bytes(self) -> int:
        """Return the bytes of what is drawn once and kept."""
        return 0

    def _compute(self, bits: Bits, gain: float | None, budget: Budget) -> Intensities:
        """Return float32 intensities, or the uint8 speckle of a camera's gain."""
        raise NotImplementedError

    def intensities(self, bits: Bits, budget: Budget = None) -> Intensities:
        """Return float32 intensities of shape (n, k); see `Projection`."""
        check_bits(bits, self.m)
        return self._compute(bits, None, budget)

    def speckle(self, bits: Bits, camera: Camera, budget: Budget = None) -> Speckle:
        """Return uint8 speckle of shape (n, k); see `Projection`. Compiled backends do not store the intensities."""
        if type(camera) is not Camera:
            return super().speckle(bits, camera, budget)
        check_bits(bits, self.m)
        return self._compute(bits, camera.gain, budget)


@dataclass(frozen=True)
class Hadamard(_Simulated):
    """|H D3 H D2 H D1 x|^2 with H Walsh-Hadamard and D random signs, summed over two such chains.

    The two chains correspond to the real and imaginary parts of R. Inputs are zero-padded to a power of
    two p; if k exceeds p, further independent pairs of chains are used.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        Seed of the signs, drawn from a counter-based generator (Philox).
    """

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str] = "hadamard"

    @property
    def length(self) -> int:
        """The length p of the transform: the power of two at or above m."""
        return hadamard_length(self.m)

    @cached_property
    def _packed_signs(self) -> PackedChainSigns:
        return np.packbits(hadamard_signs(self.m, self.k, self.seed) > 0, axis=-1, bitorder="little")

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return 4 * (5 * self.length + 2 * self.k)

    def _own_bytes(self) -> int:
        # Signs of two chains of three products are drawn as bytes and packed to bits.
        return 6 * self.length * -(-self.k // self.length)

    def _compute(self, bits: Bits, gain: float | None, budget: Budget) -> Intensities:
        return backend_for(bits).hadamard(bits, self.m, self.k, self._packed_signs, gain)


class _RandomMatrix(_Simulated):
    entries: ClassVar[Entries]

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return self.m + 12 * self.k

    def _compute(self, bits: Bits, gain: float | None, budget: Budget) -> Intensities:
        return backend_for(bits).dense(bits, self.m, self.k, self.seed, self.entries, gain, budget=budget)


@dataclass(frozen=True)
class Dense(_RandomMatrix):
    """|Rx|^2 with complex R whose parts are Gaussian, quantized to int8, as for a scattering medium.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        Key of Philox4x32-10; R does not depend on the blocks, the machine or the array library. See
        `random_matrix.gaussian_rows`.
    """

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str] = "dense"
    entries: ClassVar[Entries] = "gaussian"


@dataclass(frozen=True)
class DenseSigns(_RandomMatrix):
    """|Rx|^2 with complex R whose parts are random signs.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        As for `Dense`; see `random_matrix.sign_rows`.
    """

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str] = "dense-signs"
    entries: ClassVar[Entries] = "signs"


def expose_sample(projection: Projection, bits: Bits, budget: Budget = None) -> Camera:
    """Fit a camera's exposure to the first rows of the training bits."""
    return Camera.exposed(projection.intensities(bits[:_SAMPLE_ROWS], budget))


def repeats(projection: Projection, camera: Camera) -> bool:
    """Return whether the speckle of a row is the same each time, in every process."""
    return isinstance(projection, _Simulated) and type(camera) is Camera


def project(
    projection: Projection, camera: Camera, bits: Bits, budget: Budget = None
) -> Iterator[tuple[slice, Speckle]]:
    """Project packed bits in blocks of rows that fit the memory budget.

    Yields
    ------
    which : slice
        The rows of the block.
    speckle : uint8 array of shape (rows, k)
    """
    size = memory_budget(budget, bits)
    length = block_length(projection.row_bytes(), size // 4, max(1, len(bits)))
    for which in blocks(len(bits), length):
        yield which, projection.speckle(bits[which], camera, size)
