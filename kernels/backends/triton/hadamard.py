# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The three-round Walsh-Hadamard projection of packed bits in four passes over memory.

A transform of p = high x low values is one of every row of `low` values and one of every column of `high`, and a
program transforms some rows or columns in registers. Between two random signs the order of both is free, as sums of the
second round are exact: one pass ends a round along the axis along which it begins the next.
"""

import numpy as np
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from ....errors import UsageError
from ...array_types import Array, Bits, Observed, PackedChainSigns
from ...arrays import namespace
from ...bits import check_bits
from ...memory import blocks
from ...random_matrix import hadamard_length
from .. import reference
from .interop import as_tensor, stream_of
from .tiles import UNFUSED
from .widen import unpack_bytes

# Signs are read as words of 32, so rows and columns have at least as many values; longer ones than 1,024 would not fit
# in registers.
LEAST, MOST = 32 * 32, 1024 * 1024
# Values of a program: of rows, and at most of columns, 32 of which are whole lines of memory.
_OF_ROWS, _OF_COLUMNS, _COLUMNS = 2**13, 2**14, 32
# Values of a block of rows and of one chain; two chains of them take 384 MiB.
_BLOCK = 2**25
# Of the second axis of a grid.
_MOST_PROGRAMS = 2**16 - 1


@triton.jit
def _transform_last(x, ROWS: tl.constexpr, OTHERS: tl.constexpr, COUNT: tl.constexpr, LOG: tl.constexpr):
    """Transform the last axis of (ROWS, OTHERS, COUNT) values, in the order of the processor's stages."""
    for _ in tl.static_range(LOG):
        # The lowest bit of the index becomes its highest: after as many stages all are where they were.
        even, odd = tl.split(x.reshape(ROWS, OTHERS, COUNT // 2, 2))
        x = tl.join(even + odd, even - odd).permute(0, 1, 3, 2).reshape(ROWS, OTHERS, COUNT)
    return x


@triton.jit
def _transform(x, LINES: tl.constexpr, LOG: tl.constexpr):
    """Transform each of LINES lines of 2^LOG values, in two steps of which each is within threads."""
    LOW: tl.constexpr = LOG // 2
    HIGH: tl.constexpr = LOG - LOW
    x = _transform_last(x.reshape(LINES, 2**HIGH, 2**LOW), LINES, 2**HIGH, 2**LOW, LOW)
    x = _transform_last(x.permute(2, 0, 1), 2**LOW, LINES, 2**HIGH, HIGH)
    return x.permute(1, 2, 0).reshape(LINES, 2**HIGH * 2**LOW)


@triton.jit
def _flip(x, signs, first, LINES: tl.constexpr, COUNT: tl.constexpr, STEP: tl.constexpr):
    """Negate values where the bit of a sign, lowest first, is 0; lines are rows if STEP is 1, or else columns."""
    if STEP == 1:
        words = tl.load(signs + first // 32 + tl.arange(0, LINES * COUNT // 32))
        kept = (words[:, None] >> tl.arange(0, 32)[None, :]).reshape(LINES, COUNT) & 1
    else:
        words = tl.load(signs + (first + tl.arange(0, COUNT) * STEP) // 32)
        kept = (words[None, :] >> (first % 32 + tl.arange(0, LINES))[:, None]) & 1
    return tl.where(kept != 0, x, -x)


@triton.jit
def _open_kernel(
    bits, length, stride, signs, halves, LOW: tl.constexpr, HIGH: tl.constexpr, LINES: tl.constexpr
):  # fmt: skip
    """Apply the first signs to bits and transform rows; sums of up to 1,024 signs are exact in float16."""
    COUNT: tl.constexpr = 2**LOW
    first, chained = tl.program_id(0) * LINES * COUNT, tl.program_id(1).to(tl.int64)
    index = first // 8 + tl.arange(0, LINES * COUNT // 8)
    packed = tl.load(bits + chained // 2 * stride + index, mask=index < length, other=0)
    x = unpack_bytes(packed, LINES * COUNT // 8).to(tl.float32).reshape(LINES, COUNT)
    x = _flip(x, signs + chained % 2 * 3 * (COUNT * 2**HIGH // 32), first, LINES, COUNT, 1)
    at = first + tl.arange(0, LINES)[:, None] * COUNT + tl.arange(0, COUNT)[None, :]
    tl.store(halves + chained * (COUNT * 2**HIGH) + at, _transform(x, LINES, LOW).to(tl.float16))


@triton.jit
def _turn_kernel(
    source, target, signs, ROUND: tl.constexpr, LOG: tl.constexpr, OTHER: tl.constexpr, STEP: tl.constexpr,
    LINES: tl.constexpr,
):  # fmt: skip
    """End a round along rows (STEP 1) or columns, apply the signs of ROUND and begin it along the same."""
    COUNT: tl.constexpr = 2**LOG
    LENGTH: tl.constexpr = COUNT * 2**OTHER
    first, chained = tl.program_id(0) * LINES * (COUNT if STEP == 1 else 1), tl.program_id(1).to(tl.int64)
    line = tl.arange(0, LINES) * (COUNT if STEP == 1 else 1)
    at = chained * LENGTH + first + line[:, None] + (tl.arange(0, COUNT) * STEP)[None, :]
    x = _transform(tl.load(source + at).to(tl.float32), LINES, LOG)
    x = _flip(x, signs + (chained % 2 * 3 + ROUND) * (LENGTH // 32), first, LINES, COUNT, STEP)
    tl.store(target + at, _transform(x, LINES, LOG))


@triton.jit
def _close_kernel(
    values, outputs, stride, k, scale, gain,
    LOG: tl.constexpr, OTHER: tl.constexpr, LINES: tl.constexpr, CAMERA: tl.constexpr,
):  # fmt: skip
    """Transform columns of both chains and store the sums of their squares, or what a camera sees of them."""
    COUNT: tl.constexpr = 2**LOG
    LENGTH: tl.constexpr = COUNT * 2**OTHER
    row, first = tl.program_id(1).to(tl.int64), tl.program_id(0) * LINES
    at = first + tl.arange(0, LINES)[:, None] + (tl.arange(0, COUNT) * 2**OTHER)[None, :]
    real = _transform(tl.load(values + 2 * row * LENGTH + at), LINES, LOG)
    imaginary = _transform(tl.load(values + (2 * row + 1) * LENGTH + at), LINES, LOG)
    light = (real * real + imaginary * imaginary) * scale
    if CAMERA:
        # At 2^23 the last bit of a float32 is 1, so adding it rounds half to even, like rint.
        light = ((tl.minimum(light * gain, 255.0) + 8388608.0) - 8388608.0).to(tl.uint8)
    tl.store(outputs + row * stride + at, light, mask=at < k)


def hadamard(bits: Bits, m: int, k: int, signs: PackedChainSigns, gain: float | None = None) -> Observed:
    """Project packed bits by chains of Walsh-Hadamard transforms, equal to those of the CPU bit for bit.

    Parameters
    ----------
    bits, m, k, signs, gain
        See `reference.hadamard`, which computes transforms shorter than 1,024 and longer than 1,048,576.

    Raises
    ------
    UsageError
        If bits, signs and k do not belong together.

    Notes
    -----
    Sums are of float32. Those of the first two rounds are integers of at most ``p sqrt(ones)``, exact in any order: for
    p up to 65,536 of any bits, and beyond of all but contrived ones. The last round adds in the order of the CPU.
    """
    check_bits(bits, m)
    p = hadamard_length(m)
    if not LEAST <= p <= MOST:
        return reference.hadamard(bits, m, k, signs, gain)
    if signs.dtype != "uint8" or signs.shape[1:] != (2, 3, p // 8) or not 0 < k <= len(signs) * p:
        raise UsageError(
            f"signs of dtype {signs.dtype} and shape {signs.shape} are not those of transforms of {p:,d} values to "
            f"k = {k:,d} outputs: uint8 of shape (pairs, 2, 3, {p // 8}), each pair for {p:,d} outputs"
        )
    xp, n = namespace(bits), len(bits)
    outputs = xp.empty((n, k), dtype="float32" if gain is None else "uint8")
    words = xp.asarray(np.ascontiguousarray(signs).view("int32").reshape(len(signs), -1))
    rows = max(1, min(n, _BLOCK // p, _MOST_PROGRAMS // 2))
    with stream_of(bits):
        halves, values = (xp.empty((2 * rows, p), dtype=dtype) for dtype in ("float16", "float32"))
        packed = bits if bits.strides[1] == 1 else xp.ascontiguousarray(bits)
        for which in blocks(n, rows):
            for pair, chains in enumerate(words):
                part = outputs[which, pair * p : (pair + 1) * p]
                _project(packed[which], chains, halves, values, part, p, gain)
    return outputs


def _project(
    bits: Array, signs: Array, halves: Array, values: Array, outputs: Array, p: int, gain: float | None
) -> None:
    """Fill the outputs of one pair of chains for a block of rows."""
    low = p.bit_length() // 2
    high = p.bit_length() - 1 - low
    read, flips, small, whole = (as_tensor(array) for array in (bits, signs, halves, values))
    seen = as_tensor(outputs)
    rows, columns = min(2**high, _OF_ROWS >> low), min(_COLUMNS, _OF_COLUMNS >> high)
    along_rows, along_columns = (2**high // rows, 2 * len(bits)), (2**low // columns, 2 * len(bits))
    by_rows, by_columns = _options(rows << low), _options(columns << high)
    _open_kernel[along_rows](read, bits.shape[1], read.stride(0), flips, small, low, high, rows, **by_rows)
    _turn_kernel[along_columns](small, whole, flips, 1, high, low, 2**low, columns, **by_columns)
    _turn_kernel[along_rows](whole, whole, flips, 2, low, high, 1, rows, **by_rows)
    # Three transforms, each 1 / sqrt(p), squared: a power of two, so scaling is exact.
    scale, width, camera = float(p) ** -3, outputs.shape[1], gain is not None
    _close_kernel[along_columns[0], len(bits)](
        whole, seen, seen.stride(0), width, scale, float(gain or 0), high, low, columns, camera, **by_columns
    )


def _options(values: int) -> dict[str, int]:
    """Return the compiler's options for a program of as many values: 32 a thread."""
    return {"num_warps": max(1, values // 1024), **UNFUSED}
