"""Reference implementation of the backend functions in plain array code, for NumPy and CuPy."""

from collections.abc import Callable
from functools import reduce

import numpy as np
import scipy.linalg

from ...errors import UsageError
from ..array_types import (
    Array,
    BinCounts,
    Bits,
    Counts,
    Features,
    Intensities,
    Magnitudes,
    Observed,
    OtherBits,
    PackedChainSigns,
    Speckle,
    SquareCounts,
    SquareMatrix,
)
from ..arrays import namespace
from ..bits import popcount, unpack
from ..camera import expose
from ..memory import Budget, block_length, blocks, memory_budget
from ..random_matrix import Entries, gaussian_rows, hadamard_length, sign_rows
from ..row_blocks import signed

# 1024 products of at most 128 * 128 sum to at most 2^24, up to which float32 is exact.
_EXACT_COLUMNS = 1024


def shared_ones(bits: Bits, others: OtherBits | None = None, *, budget: Budget = None) -> Counts:
    """Count the shared ones of every pair of rows of packed bits.

    Parameters
    ----------
    bits : uint8 array of shape (n, bytes)
    others : uint8 array of shape (n', bytes), optional
        By default `bits` itself, at half the cost.
    budget : int, str or None
        Memory for the blocks of unpacked columns; see `memory.memory_budget`.

    Returns
    -------
    counts : int64 array of shape (n, n')

    Notes
    -----
    Products are computed in float32; all partial sums are integers below 2^24 and therefore exact.
    """
    xp = namespace(bits)
    rows = len(bits) + (0 if others is None else len(others))
    length = block_length(40 * rows, memory_budget(budget, bits) // 8, min(bits.shape[1], 2**20))
    counts = xp.zeros((len(bits), len(bits if others is None else others)), dtype="int64")
    for columns in blocks(bits.shape[1], length):
        width = 8 * (columns.stop - columns.start)
        left = unpack(bits[:, columns], width, "float32")
        right = left if others is None else unpack(others[:, columns], width, "float32")
        counts += (left @ right.T).astype("int64")
    return counts


def gram(speckle: Speckle, *, budget: Budget = None) -> SquareCounts:
    """Return the exact inner products of the rows of ``speckle - 128``.

    Parameters
    ----------
    speckle : uint8 array of shape (n, k)
    budget : int, str or None
        Ignored; blocks of columns are small, so that float32 sums are exact.

    Returns
    -------
    products : int64 array of shape (n, n)
    """
    sums = namespace(speckle).zeros((len(speckle), len(speckle)), dtype="int64")
    for columns in blocks(speckle.shape[1], _EXACT_COLUMNS):
        block = signed(speckle[:, columns])
        sums += (block @ block.T).astype("int64")
    return sums


def dense(
    bits: Bits,
    m: int,
    k: int,
    seed: int,
    entries: Entries = "gaussian",
    gain: float | None = None,
    *,
    budget: Budget = None,
) -> Observed:
    """Project packed bits by a random complex matrix R: |Rx|^2, or a camera's speckle of it.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    m, k : int
        Numbers of features, at most 2^24, and of outputs.
    seed : int
        From 0 to 2^64 - 1.
    entries : {"gaussian", "signs"}
        Entries of R: Gaussian, quantized to int8, or random signs; see `random_matrix`.
    gain : float, optional
        Gain of the camera, ``min(255, rint(intensity * float32(gain)))``; None returns the intensities.
    budget : int, str or None
        Memory for the blocks of R; see `memory.memory_budget`.

    Returns
    -------
    array of shape (n, k)
        float32 intensities, or uint8 speckle.

    Notes
    -----
    An intensity is ``float32(re) * float32(re) + float32(im) * float32(im)`` of exact integer sums, each operation
    rounded. Products of bits and int8 are integers far below 2^24: float32 matrix products are exact.
    """
    if entries == "signs":
        return dense_signs(bits, m, k, seed, gain, budget, shared_ones, sign_rows)
    xp, x = namespace(bits), unpack(bits, m, "float32")
    outputs = xp.empty((len(bits), k), dtype="float32" if gain is None else "uint8")
    size = min(memory_budget(budget, bits) // 4, 2**28)
    for which in blocks(k, block_length(80 * m, size, k)):
        part = gaussian_rows(which, m, seed, xp).astype("float32")
        real, imaginary = (xp.square(x @ part[:, axis].T) for axis in (0, 1))
        outputs[:, which] = _exposed(real + imaginary, gain)
    return outputs


def dense_signs(
    bits: Bits,
    m: int,
    k: int,
    seed: int,
    gain: float | None,
    budget: Budget,
    count: Callable[..., Array],
    draw: Callable[..., Array],
) -> Observed:
    """Project packed bits by an R of signs, with the given functions to count shared ones and to draw rows of R.

    Notes
    -----
    With the bits of a row r of R, <r, x> = 2 |x & r| - |x|. The padding in the last byte of x is 0 and does not
    contribute.
    """
    xp, ones = namespace(bits), popcount(bits)[:, None]
    outputs = xp.empty((len(bits), k), dtype="float32" if gain is None else "uint8")
    for which in blocks(k, 1024):
        part = draw(which, m, seed, xp)
        sums = (2 * count(bits, part.reshape(2 * len(part), -1), budget=budget) - ones).astype("float32")
        outputs[:, which] = _exposed(xp.square(sums[:, ::2]) + xp.square(sums[:, 1::2]), gain)
    return outputs


def hadamard(bits: Bits, m: int, k: int, signs: PackedChainSigns, gain: float | None = None) -> Observed:
    """Project packed bits by pairs of chains of Walsh-Hadamard transforms and signs; see `projection.Hadamard`.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    m, k : int
        Numbers of features and of outputs.
    signs : uint8 NumPy array of shape (pairs, 2, 3, ceil(p / 8)), p the power of two at or above m
        `random_matrix.hadamard_signs` packed, lowest bit first; 1 means +1.
    gain : float, optional
        Gain of the camera; None returns the intensities.

    Returns
    -------
    array of shape (n, k)
        float32 intensities, or uint8 speckle.
    """
    xp, p = namespace(bits), hadamard_length(m)
    x = xp.zeros((len(bits), p), dtype="float32")
    x[:, :m] = unpack(bits, m)
    flips = 2 * np.unpackbits(signs, axis=-1, count=p, bitorder="little").astype("int8") - 1
    outputs = [sum(xp.square(_chain(x, chain)) for chain in pair) for pair in xp.asarray(flips)]
    return _exposed(xp.concatenate(outputs, axis=1)[:, :k], gain)


def _chain(x: Features, signs: Array) -> Features:
    return reduce(lambda y, sign: walsh_hadamard(y * sign), signs, x)


def walsh_hadamard(x: Features) -> Features:
    """Return the orthonormal Walsh-Hadamard transform of each row, in natural order.

    Parameters
    ----------
    x : float32 array of shape (n, p), p a power of two

    Notes
    -----
    H of length p is a Kronecker product of small H, each applied as a matrix product along its axis.
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


def _exposed(intensities: Intensities, gain: float | None) -> Observed:
    return intensities if gain is None else expose(intensities, gain)


def cholesky(matrix: SquareMatrix) -> SquareMatrix:
    """Return the lower Cholesky factor of a matrix.

    Parameters
    ----------
    matrix : float array of shape (n, n), symmetric
        It may be overwritten.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite to working precision.
    """
    if namespace(matrix) is np:
        # The matrix is symmetric, and LAPACK can overwrite its transpose, in Fortran order, in place.
        factor: SquareMatrix = scipy.linalg.cholesky(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        return factor
    import cupy  # type: ignore[import-not-found, unused-ignore]
    import cupyx  # type: ignore[import-not-found, unused-ignore]

    with cupyx.errstate(linalg="raise"):
        factor = cupy.linalg.cholesky(matrix)
    return factor


def largest_magnitude(values: Magnitudes) -> float:
    """Return the largest |x| of float32 values; nan or infinity if any value is."""
    return float(abs(real(values)).max()) if values.size else 0.0


def real(values: Array) -> Magnitudes:
    """Return values as float32; raise UsageError where they are complex, whose imaginary parts would be dropped."""
    if values.dtype.kind == "c":
        raise UsageError(f"values of dtype {values.dtype} have no float32 magnitudes; give real numbers")
    return values.astype("float32", copy=False)


def bins_per_unit(bins: int, top: float) -> np.float32:
    """Return ``bins / top``, finite also where `top` is tiny: infinity times 0 would be no bin."""
    return np.float32(min(bins / top, float(np.finfo("float32").max)))


def count_magnitudes(values: Magnitudes, top: float, bins: int) -> tuple[BinCounts, float]:
    """Count |x| in equal bins from 0 to `top`; values from `top` on and nan are not counted.

    Parameters
    ----------
    values : float32 array of any shape
    top : float
        A power of two, so that scaling is exact.
    bins : int

    Returns
    -------
    counts : int64 array of shape (bins,)
    largest : float
        The largest counted |x|.
    """
    sizes = abs(real(values).reshape(-1))
    # 2^128 is not a float32: there only infinity is excluded.
    counted = sizes[sizes < np.float32(top if top <= float(np.finfo("float32").max) else np.inf)]
    index = (counted * bins_per_unit(bins, top)).astype("int64").clip(0, bins - 1)
    return namespace(values).bincount(index, minlength=bins), float(counted.max()) if counted.size else 0.0
