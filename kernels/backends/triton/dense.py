# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Project packed bits by blocks of rows of a random matrix R, stored as int8."""

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from ....errors import UsageError
from ...array_types import Bits, Observed
from ...arrays import namespace
from ...memory import Budget, block_length, blocks, memory_budget
from ...random_matrix import Entries
from .draw import draw_rows
from .interop import stream_of
from .products import tile_origin, tile_product
from .tiles import launch
from .widen import padded, whole_lines, widen_bits


@triton.jit
def _expose(
    rows, matrix, n, lines, width, outputs, stride, gain,
    CAMERA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    top, side = tile_origin(ROWS, COLUMNS)
    product = tile_product(rows, matrix, n, lines, width, top, side, ROWS, COLUMNS, DEPTH, TMA)
    real, imaginary = tl.split(product.to(tl.float32).reshape(ROWS, COLUMNS // 2, 2))
    values = real * real + imaginary * imaginary
    if CAMERA:
        # At 2^23 the last bit of a float32 is 1, so adding it rounds half to even, like rint.
        values = ((tl.minimum(values * gain, 255.0) + 8388608.0) - 8388608.0).to(tl.uint8)
    row = (top + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (side // 2 + tl.arange(0, COLUMNS // 2))[None, :]
    tl.store(outputs + row * stride + column, values, mask=(row < n) & (2 * column < lines))


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
    """Project packed bits by a random complex matrix R; results equal `reference.dense` bit for bit.

    Parameters
    ----------
    bits, m, k, seed, entries, gain
        See `reference.dense`.
    budget : int, str or None
        Memory for the blocks of R and of rows, as int8; see `memory.memory_budget`.

    Raises
    ------
    UsageError
        If the entries are unknown, or the seed has more than 64 bits.
    """
    if entries not in ("gaussian", "signs"):
        raise UsageError(f"entries {entries!r} of a projection are not known; choose gaussian or signs")
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed {seed} must be between 0 and 2^64 - 1")
    xp, n = namespace(bits), len(bits)
    outputs = xp.zeros((n, k), dtype="float32" if gain is None else "uint8")
    if 0 in (n, k, m):
        return outputs
    width, size = padded(8 * bits.shape[1]), memory_budget(budget, bits) // 4
    with stream_of(bits):
        for components in blocks(k, whole_lines(block_length(2 * width, size, k))):
            matrix = draw_rows(xp, components, width, seed, entries)
            for which in blocks(n, whole_lines(block_length(width, size, n))):
                part = outputs[which, components]
                launch(_expose, widen_bits(bits[which]), matrix, part, k, float(gain or 0), CAMERA=gain is not None)
    return outputs
