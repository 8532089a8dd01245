# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Inner products of rows of packed bits and of speckle."""

from collections.abc import Callable

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from ...array_types import Array, Bits, Counts, OtherBits, OtherSpeckle, Speckle
from ...arrays import namespace
from ...memory import Budget, block_length, blocks, memory_budget
from .interop import stream_of
from .tiles import launch
from .widen import whole_lines, widen_bits, widen_speckle

# Products of signed bytes are at most 2^14, so int32 can sum 131,071 of them; rounded down to whole tiles.
_MOST_TERMS = 131_071 // 128 * 128


@triton.jit
def tile_origin(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the first row and the first column of the program's tile."""
    # Grouped by eight rows of tiles, so that concurrent programs share rows in the L2 cache.
    row, column = tl.swizzle2d(tl.program_id(1), tl.program_id(0), tl.num_programs(1), tl.num_programs(0), 8)
    return row * ROWS, column * COLUMNS


@triton.jit
def tile_product(
    rows, others, n, others_n, width, top, side,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Return the products of a tile's int8 rows, exact int32 sums over the whole width."""
    if not TMA:
        rows = tl.make_tensor_descriptor(rows, [n, width], [width, 1], [ROWS, DEPTH])
        others = tl.make_tensor_descriptor(others, [others_n, width], [width, 1], [COLUMNS, DEPTH])
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    for start in range(0, width, DEPTH):
        total = tl.dot(rows.load([top, start]), others.load([side, start]).T, total, out_dtype=tl.int32)
    return total


@triton.jit
def _multiply(
    rows, others, n, others_n, width, products,
    SYMMETRIC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    top, side = tile_origin(ROWS, COLUMNS)
    if SYMMETRIC and side >= top + ROWS:
        return
    product = tile_product(rows, others, n, others_n, width, top, side, ROWS, COLUMNS, DEPTH, TMA)
    row = (top + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (side + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
    inside = (row < n) & (column < others_n)
    tl.store(products + row * others_n + column, product, mask=inside)
    if SYMMETRIC:
        tl.store(products + column.T * n + row.T, product.T, mask=inside.T)


def shared_ones(bits: Bits, others: OtherBits | None = None, *, budget: Budget = None) -> Counts:
    """Count shared ones; see `reference.shared_ones`. The budget limits the blocks of columns as int8."""
    return _inner_products(widen_bits, 8, bits, others, budget)


def gram(speckle: Speckle, others: OtherSpeckle | None = None, *, budget: Budget = None) -> Counts:
    """Return exact inner products, also with other rows; see `reference.gram`. The budget is as for `shared_ones`."""
    return _inner_products(widen_speckle, 1, speckle, others, budget)


def _inner_products(
    widen: Callable[[Array], Array], each: int, left: Array, right: Array | None, budget: Budget
) -> Array:
    """Multiply the rows of two arrays after `widen`, which converts each column to `each` columns of int8."""
    xp = namespace(left)
    n, others_n = len(left), len(left if right is None else right)
    sums, products = xp.zeros((n, others_n), dtype="int64"), xp.empty((n, others_n), dtype="int32")
    if not sums.size:
        return sums
    stored = n + (0 if right is None else others_n)
    length = whole_lines(block_length(each * stored, memory_budget(budget, left) // 4, _MOST_TERMS // each))
    with stream_of(left):
        for columns in blocks(left.shape[1], length):
            rows = widen(left[:, columns])
            others = rows if right is None else widen(right[:, columns])
            launch(_multiply, rows, others, products, SYMMETRIC=right is None)
            sums += products
    return sums
