# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Rows of a random matrix R, drawn by Philox4x32-10; see `random_matrix`."""

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from ...array_types import Array, ArrayLibrary
from ...random_matrix import Entries, gaussian_levels
from .interop import as_tensor
from .tiles import UNFUSED
from .widen import CHUNK, unpack_bytes


@triton.jit
def _random_bytes(seed, counter, row, part, kind, COUNTERS: tl.constexpr):
    w0, w1, w2, w3 = tl.philox(seed, counter + tl.arange(0, COUNTERS), row, part, kind)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(4 * COUNTERS)
    shifts = (8 * tl.arange(0, 4)).to(tl.uint32)
    return ((words[:, None] >> shifts[None, :]) & 255).to(tl.int32).reshape(16 * COUNTERS)


@triton.jit
def _draw_kernel(matrix, levels, seed, first, width, SIGNS: tl.constexpr, COUNTERS: tl.constexpr):
    line, counter = tl.program_id(0), tl.program_id(1) * COUNTERS
    drawn = _random_bytes(seed, counter, first + line // 2, line % 2, SIGNS, COUNTERS)
    values = 2 * unpack_bytes(drawn, 16 * COUNTERS) - 1 if SIGNS else tl.load(levels + drawn)
    column = counter * (128 if SIGNS else 16) + tl.arange(0, COUNTERS * (128 if SIGNS else 16))
    tl.store(matrix + line.to(tl.int64) * width + column, values.to(tl.int8), mask=column < width)


def draw_rows(xp: ArrayLibrary, which: slice, width: int, seed: int, entries: Entries) -> Array:
    """Draw rows of R as int8 of shape (2 rows, width), alternating real and imaginary parts."""
    matrix = xp.empty((2 * (which.stop - which.start), width), dtype="int8")
    levels, signs = as_tensor(xp.asarray(gaussian_levels())), int(entries == "signs")
    counters = CHUNK // (128 if signs else 16)
    grid = (len(matrix), triton.cdiv(width, CHUNK))
    _draw_kernel[grid](
        as_tensor(matrix), levels, int(seed), which.start, width, SIGNS=signs, COUNTERS=counters, **UNFUSED
    )
    return matrix
