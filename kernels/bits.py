"""Sign bits of features, packed.

A bit is 1 if the feature is strictly positive, so the zeros of a ReLU are 0. Bits are packed eight to a
byte, highest bit first, as by ``numpy.packbits``; the last byte is padded with 0.
"""

import numpy as np

from ..errors import UsageError
from .array_types import Array, Bits, Features, RowCounts
from .arrays import namespace
from .memory import blocks


def packed_length(m: int) -> int:
    """Return the number of bytes that hold `m` bits."""
    return -(-m // 8)


def check_bits(bits: Array, m: int) -> None:
    """Raise UsageError unless an array holds packed bits of m features."""
    if str(bits.dtype) != "uint8" or bits.ndim != 2 or m < 1 or bits.shape[1] != packed_length(m):
        raise UsageError(
            f"an array of dtype {bits.dtype} and shape {bits.shape} does not hold the packed bits of {m:,d} features, "
            f"which are uint8 of shape (n, {packed_length(m)})"
        )


def pack_signs(features: Features) -> Bits:
    """Encode the signs of features as packed bits.

    Parameters
    ----------
    features : array of shape (n, m)

    Returns
    -------
    bits : uint8 array of shape (n, ceil(m / 8))
        Bit 1 where ``features > 0``.
    """
    if namespace(features) is np:
        return np.packbits(features > 0, axis=1)
    return _pack(features > 0)


def unpack(bits: Bits, m: int, dtype: str = "uint8") -> Features:
    """Return packed bits as an array of zeros and ones, of shape (n, m)."""
    ones = np.unpackbits(bits, axis=1) if namespace(bits) is np else _unpack(bits)
    return ones[:, :m].astype(dtype, copy=False)


# CuPy's packbits and unpackbits have no axis argument.
def _pack(ones: Array) -> Bits:
    xp, (n, m) = namespace(ones), ones.shape
    padded = xp.zeros((n, 8 * packed_length(m)), dtype="uint8")
    padded[:, :m] = ones
    values = xp.left_shift(1, xp.arange(7, -1, -1)).astype("uint8")
    bits: Bits = (padded.reshape(n, packed_length(m), 8) * values).sum(axis=2, dtype="uint8")
    return bits


def _unpack(bits: Bits) -> Features:
    xp = namespace(bits)
    # Converted afterwards: CuPy 14 with NumPy 2.5 does not support a step of -1 for uint8.
    shifts = xp.arange(7, -1, -1).astype("uint8")
    ones: Features = (bits[:, :, None] >> shifts) & xp.uint8(1)
    return ones.reshape(len(bits), 8 * bits.shape[1])


def popcount(bits: Bits) -> RowCounts:
    """Return the number of ones in each row, |x|^2, as int64 of shape (n,)."""
    counts = namespace(bits).zeros(len(bits), dtype="int64")
    for rows in blocks(len(bits), 4096):
        for columns in blocks(bits.shape[1], 4096):
            counts[rows] += _ones(bits[rows, columns]).sum(axis=1, dtype="int64")
    return counts


def _ones(bits: Array) -> Array:
    """Return the number of ones in each byte."""
    xp = namespace(bits)
    if xp is np:
        return np.bitwise_count(bits)
    ones_of_byte: Array = _unpack(xp.arange(256, dtype="uint8")[:, None]).sum(axis=1, dtype="uint8")
    return ones_of_byte[bits]


def agreement(bits: Bits, others: Bits, m: int) -> float:
    """Return the fraction of the m bits per row that are equal in two packed arrays."""
    return 1 - int(_ones(bits ^ others).sum(dtype="int64")) / max(1, len(bits) * m)
