"""The optical random projection y = |Rx|^2, its camera, and its limit for many components.

For a complex Gaussian R the expected product of two outputs, E[y_i(x) y_i(x')], is proportional to
|x|^2 |x'|^2 + <x, x'>^2 (Saade et al. 2016, arXiv:1510.06664): `exact_kernel`, what ever more
components tend to. `Dense` draws R as the optics do; `Hadamard` replaces R by three products of a
Walsh-Hadamard transform and random signs (Yu et al. 2016, arXiv:1610.09072), in O(m log m) a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.linalg

from .arrays import Array, has_triton, namespace
from .bits import packed_length, popcount, unpack
from .camera import Camera
from .gram import overlap
from .memory import Budget, block_length, blocks, memory_budget
from .philox import philox
from .random_matrix import gaussian_levels, rows_and_parts

_SAMPLE_ROWS = 64
# Shorter transforms, of fewer values than a vector holds, are left to NumPy.
_LEAST_LENGTH = 16


class Projection(Protocol):
    """Bits of m features in, k intensities out, and what a camera sees of them."""

    m: int
    k: int
    seed: int
    kind: ClassVar[str]

    def row_bytes(self) -> int:
        """Return the working memory, in bytes, of one row."""
        ...

    def intensities(self, bits: Array, budget: Budget = None) -> Array:
        """Return float32 intensities of shape (n, k) for packed bits of n rows.

        The memory budget is for the blocks of R that a GPU holds at a time; see `arrays.memory_budget`.
        """
        ...

    def speckle(self, bits: Array, camera: Camera, budget: Budget = None) -> Array:
        """Return what the camera sees of them: uint8 of shape (n, k)."""
        return camera.expose(self.intensities(bits, budget))


@dataclass(frozen=True)
class Hadamard(Projection):
    """|H D3 H D2 H D1 x|^2 with H Walsh-Hadamard and D random signs, summed over two such chains.

    The chains stand for the real and the imaginary part of R. Inputs are padded with zeros to a
    power of two p; where k exceeds p, further independent pairs of chains follow.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        Of the signs, drawn from a counter-based generator (Philox).
    """

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str] = "hadamard"

    @property
    def length(self) -> int:
        """The length p of the transform: the power of two at or above m."""
        return 1 << max(0, self.m - 1).bit_length()

    @cached_property
    def signs(self) -> Array:
        """Signs D as int8 of shape (pairs, 2, 3, p)."""
        shape = (-(-self.k // self.length), 2, 3, self.length)
        random = np.random.Generator(np.random.Philox(key=self.seed))
        packed = random.integers(0, 256, size=-(-int(np.prod(shape)) // 8), dtype="uint8")
        drawn = np.unpackbits(packed)[: int(np.prod(shape))].reshape(shape)
        return (2 * drawn.view("int8") - 1).astype("int8")

    @cached_property
    def _packed_signs(self) -> Array:
        return np.packbits(self.signs > 0, axis=-1, bitorder="little")

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return 4 * (5 * self.length + 2 * self.k)

    def intensities(self, bits: Array, budget: Budget = None) -> Array:
        """Return float32 intensities of shape (n, k); see `Projection`."""
        xp = namespace(bits)
        if xp is np and self.length >= _LEAST_LENGTH:
            from .backends.numba.hadamard import hadamard

            return hadamard(bits, self._packed_signs, self.k)
        x = xp.zeros((len(bits), self.length), dtype="float32")
        x[:, : self.m] = unpack(bits, self.m)
        outputs = [sum(xp.square(self._chain(x, signs)) for signs in pair) for pair in xp.asarray(self.signs)]
        return xp.concatenate(outputs, axis=1)[:, : self.k]

    def speckle(self, bits: Array, camera: Camera, budget: Budget = None) -> Array:
        """Return uint8 speckle of shape (n, k); see `Projection`. On the CPU no intensity is written."""
        if namespace(bits) is not np or type(camera) is not Camera or self.length < _LEAST_LENGTH:
            return super().speckle(bits, camera, budget)
        from .backends.numba.hadamard import hadamard

        return hadamard(bits, self._packed_signs, self.k, camera.gain)

    def _chain(self, x: Array, signs: Array) -> Array:
        return reduce(lambda y, sign: walsh_hadamard(y * sign), signs, x)


def walsh_hadamard(x: Array) -> Array:
    """Return the orthonormal Walsh-Hadamard transform of each row, in natural order.

    Parameters
    ----------
    x : float32 array of shape (n, p), p a power of two

    Notes
    -----
    H of length p is a Kronecker product of small H; each is one matrix product along its own axis.
    """
    xp = namespace(x)
    n, p = x.shape
    left, right = p, 1
    while left > 1:
        radix = min(left, 64)
        left //= radix
        small = xp.asarray(scipy.linalg.hadamard(radix, dtype="float32") / np.float32(np.sqrt(radix)))
        x = xp.matmul(small, x.reshape(n * left, radix, right)) if right > 1 else x.reshape(-1, radix) @ small
        right *= radix
    return x.reshape(n, p)


@dataclass(frozen=True)
class Dense(Projection):
    """|Rx|^2 with R complex, its parts Gaussian and quantized to int8, as a scattering medium's.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        R is drawn from Philox4x32-10 with key `seed`. Sixteen entries of row i, columns 16 j and on,
        are the bytes at counter (j, i, part, 0), part 0 for the real part and 1 for the imaginary;
        a byte stands for one of 256 equally likely values: the same R whatever the blocks, the
        machine or the array library.
    """

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str] = "dense"

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return self.m + 12 * self.k

    def rows(self, which: slice, xp: Any = np) -> Array:
        """Return rows of R as int8 of shape (rows, 2, m): real part, imaginary part."""
        blocks_ = xp.arange(-(-self.m // 16))
        drawn = philox((blocks_, *rows_and_parts(which, xp), 0), self.seed, xp)
        return xp.asarray(gaussian_levels())[drawn.reshape(len(drawn), 2, -1)[:, :, : self.m]]

    def intensities(self, bits: Array, budget: Budget = None) -> Array:
        """Return float32 intensities of shape (n, k); see `Projection`.

        Notes
        -----
        Products of bits and int8 are integers far below 2^24: float32 matrix products are exact.
        """
        xp = namespace(bits)
        if xp is np:
            from .backends.numba.dense import dense

            return dense(bits, self.k, self.seed, gaussian_levels())
        if has_triton():
            from .backends.triton.products import dense_intensities

            return dense_intensities(bits, self.m, self.k, self.seed, budget=budget)
        x = unpack(bits, self.m, "float32")
        outputs = xp.empty((len(bits), self.k), dtype="float32")
        size = min(memory_budget(budget, bits) // 4, 2**28)
        for which in blocks(self.k, block_length(80 * self.m, size, self.k)):
            part = self.rows(which, xp).astype("float32")
            outputs[:, which] = sum(xp.square(x @ part[:, axis].T) for axis in (0, 1))
        return outputs

    def speckle(self, bits: Array, camera: Camera, budget: Budget = None) -> Array:
        """Return uint8 speckle of shape (n, k); see `Projection`. No intensity is written."""
        if type(camera) is not Camera or not (namespace(bits) is np or has_triton()):
            return super().speckle(bits, camera, budget)
        if namespace(bits) is np:
            from .backends.numba.dense import dense

            return dense(bits, self.k, self.seed, gaussian_levels(), camera.gain)
        from .backends.triton.products import dense_speckle

        return dense_speckle(bits, self.m, self.k, self.seed, camera.gain, budget=budget)


@dataclass(frozen=True)
class DenseSigns(Projection):
    """|Rx|^2 with R complex, its parts +1 and -1 at random.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        As for `Dense`, but the 128 bits at counter (j, i, part, 1) are columns 128 j and on of row i,
        the highest bit of a byte first; a bit 1 stands for +1.
    """

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str] = "dense-signs"

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return self.m + 12 * self.k

    def rows(self, which: slice, xp: Any = np) -> Array:
        """Return rows of R as packed bits, uint8 of shape (rows, 2, ceil(m / 8)): real part, imaginary part."""
        if xp is np:
            from .backends.numba.dense import sign_rows

            drawn = sign_rows(which, self.m, self.seed)
        else:
            drawn = philox((xp.arange(-(-self.m // 128)), *rows_and_parts(which, xp), 1), self.seed, xp)
        return drawn.reshape(len(drawn), 2, -1)[:, :, : packed_length(self.m)]

    def intensities(self, bits: Array, budget: Budget = None) -> Array:
        """Return float32 intensities of shape (n, k); see `Projection`.

        Notes
        -----
        The ones that x shares with a row r of R count for it and the others against it:
        <r, x> = 2 |x & r| - |x|. What fills the last byte of x is 0 and counts for neither.
        """
        xp = namespace(bits)
        if xp is not np and has_triton():
            from .backends.triton.products import dense_intensities

            return dense_intensities(bits, self.m, self.k, self.seed, "signs", budget)
        outputs, ones = xp.empty((len(bits), self.k), dtype="float32"), popcount(bits)[:, None]
        for which in blocks(self.k, 1024):
            part = self.rows(which, xp)
            sums = (2 * overlap(bits, part.reshape(2 * len(part), -1), budget) - ones).astype("float32")
            outputs[:, which] = xp.square(sums[:, ::2]) + xp.square(sums[:, 1::2])
        return outputs


def expose_sample(projection: Projection, bits: Array, budget: Budget = None) -> Camera:
    """Fit a camera's exposure to the first rows of the training bits."""
    return Camera.exposed(projection.intensities(bits[:_SAMPLE_ROWS], budget))


def project(
    projection: Projection, camera: Camera, bits: Array, budget: Budget = None
) -> Iterator[tuple[slice, Array]]:
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
