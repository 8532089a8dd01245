# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Convert packed bits and speckle to rows of int8, padded to whole lines."""

import numpy as np
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from ...array_types import Array
from ...arrays import namespace
from .interop import as_tensor
from .tiles import UNFUSED

# Rows of int8 are whole lines of 128 bytes; a program converts or draws 64 lines, 64 bytes per thread.
LINE, CHUNK = 128, 64 * 128


@triton.jit
def unpack_bytes(packed, BYTES: tl.constexpr):
    """Return the bits of packed bytes, highest first, as int32."""
    shifts = 7 - tl.arange(0, 8)
    return ((packed.to(tl.int32)[:, None] >> shifts[None, :]) & 1).reshape(8 * BYTES)


@triton.jit
def _widen_bits_kernel(bits, ones, length, stride, width, BYTES: tl.constexpr):
    row, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * BYTES
    index = start + tl.arange(0, BYTES)
    packed = tl.load(bits + row * stride + index, mask=index < length, other=0)
    column = 8 * start + tl.arange(0, 8 * BYTES)
    tl.store(ones + row * width + column, unpack_bytes(packed, BYTES).to(tl.int8), mask=column < width)


def whole_lines(length: int) -> int:
    """Return a length rounded down to whole lines, at least one."""
    return max(LINE, length // LINE * LINE)


def padded(width: int) -> int:
    """Return a width rounded up to whole lines."""
    return -(-width // LINE) * LINE


def widen_bits(bits: Array) -> Array:
    """Return packed bits as int8 zeros and ones, zero-padded to whole lines."""
    xp, (n, length) = namespace(bits), bits.shape
    ones = xp.empty((n, padded(8 * length)), dtype="int8")
    grid = (n, triton.cdiv(ones.shape[1], CHUNK))
    packed = as_tensor(bits if bits.strides[1] == 1 else xp.ascontiguousarray(bits))
    _widen_bits_kernel[grid](
        packed, as_tensor(ones), length, packed.stride(0), ones.shape[1], BYTES=CHUNK // 8, **UNFUSED
    )
    return ones


def widen_speckle(speckle: Array) -> Array:
    """Return speckle - 128 as int8, zero-padded to whole lines."""
    xp, (n, length) = namespace(speckle), speckle.shape
    rows = xp.empty((n, padded(length)), dtype="int8")
    xp.bitwise_xor(speckle, np.uint8(0x80), out=rows.view("uint8")[:, :length])
    rows[:, length:] = 0
    return rows
