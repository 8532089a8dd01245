# mypy: disable-error-code="no-untyped-def"
"""Fast bodies for NVIDIA GPUs, in Triton; each has a plain NumPy reference in the tests.

They take and return CuPy arrays, on CuPy's current stream (under ``TRITON_INTERPRET=1``, NumPy arrays).
Every product is one of int8 rows on the tensor cores. Bits and speckle are widened to int8 beforehand,
once an element: inside the product each would be unpacked again for every tile that meets it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from triton.tools.tensor_descriptor import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    TensorDescriptor,
)

from ....errors import UsageError
from ...arrays import Array, namespace
from ...memory import Budget, block_length, blocks, memory_budget
from ...random_matrix import gaussian_levels

# Products of signed bytes reach 2^14, so that int32 holds 131,071 of them: here whole tiles.
_MOST_TERMS = 131_071 // 128 * 128
# Rows of int8 are whole lines of 128 bytes; a program widens or draws 64 of them, 64 bytes a thread.
_LINE, _STRETCH = 128, 64 * 128
# Contracted to fused multiply-adds, intensities and speckle would not be NumPy's.
_UNFUSED = {"enable_fp_fusion": False}


class Tile(NamedTuple):
    """What one program multiplies: rows by columns of the result, `depth` columns of the operands at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    tma: bool

    def constants(self) -> dict[str, int]:
        """Return the compile-time arguments of a product."""
        return {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth, "TMA": self.tma}

    def options(self) -> dict[str, int]:
        """Return the compiler's options for a product."""
        return {"num_warps": self.warps, "num_stages": self.stages, **_UNFUSED}


# Hopper is short of bandwidth from its L2 cache, so its tile is the largest whose sums its registers hold:
# 128 in each thread of two warpgroups. Four stages of 48 KiB, brought by the tensor memory accelerator, fill its
# shared memory. Elsewhere three stages of 16 KiB, which every GPU from Ampere on has.
LARGE = Tile(128, 256, 128, warps=8, stages=4, tma=True)
SMALL = Tile(128, 128, 64, warps=4, stages=3, tma=False)


def chosen_tile() -> Tile:
    """Return the tile for the current GPU."""
    import torch

    major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    # Descriptors made in the kernel, as `_product` makes them, ask for memory from an allocator from Hopper on.
    return LARGE if major in (9, 10) else SMALL._replace(tma=major >= 9)


@triton.jit
def _origin(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # Eight tiles high: programs that run together share the rows that they read, in the L2 cache.
    row, column = tl.swizzle2d(tl.program_id(1), tl.program_id(0), tl.num_programs(1), tl.num_programs(0), 8)
    return row * ROWS, column * COLUMNS


@triton.jit
def _product(
    rows, others, n, others_n, width, top, side,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
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
    top, side = _origin(ROWS, COLUMNS)
    if SYMMETRIC and side >= top + ROWS:
        return
    product = _product(rows, others, n, others_n, width, top, side, ROWS, COLUMNS, DEPTH, TMA)
    row = (top + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (side + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
    inside = (row < n) & (column < others_n)
    tl.store(products + row * others_n + column, product, mask=inside)
    if SYMMETRIC:
        tl.store(products + column.T * n + row.T, product.T, mask=inside.T)


@triton.jit
def _expose(
    rows, matrix, n, lines, width, outputs, stride, gain,
    CAMERA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    top, side = _origin(ROWS, COLUMNS)
    product = _product(rows, matrix, n, lines, width, top, side, ROWS, COLUMNS, DEPTH, TMA)
    real, imaginary = tl.split(product.to(tl.float32).reshape(ROWS, COLUMNS // 2, 2))
    values = real * real + imaginary * imaginary
    if CAMERA:
        # At 2^23 the last place of a float32 is 1: adding it rounds halves to even, as rint does.
        values = ((tl.minimum(values * gain, 255.0) + 8388608.0) - 8388608.0).to(tl.uint8)
    row = (top + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (side // 2 + tl.arange(0, COLUMNS // 2))[None, :]
    tl.store(outputs + row * stride + column, values, mask=(row < n) & (2 * column < lines))


@triton.jit
def _unpack(packed, BYTES: tl.constexpr):
    places = 7 - tl.arange(0, 8)
    return ((packed.to(tl.int32)[:, None] >> places[None, :]) & 1).reshape(8 * BYTES)


@triton.jit
def _widen_bits(bits, ones, length, stride, width, BYTES: tl.constexpr):
    row, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * BYTES
    place = start + tl.arange(0, BYTES)
    packed = tl.load(bits + row * stride + place, mask=place < length, other=0)
    column = 8 * start + tl.arange(0, 8 * BYTES)
    tl.store(ones + row * width + column, _unpack(packed, BYTES).to(tl.int8), mask=column < width)


@triton.jit
def _random_bytes(seed, counter, row, part, kind, COUNTERS: tl.constexpr):
    w0, w1, w2, w3 = tl.philox(seed, counter + tl.arange(0, COUNTERS), row, part, kind)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(4 * COUNTERS)
    places = (8 * tl.arange(0, 4)).to(tl.uint32)
    return ((words[:, None] >> places[None, :]) & 255).to(tl.int32).reshape(16 * COUNTERS)


@triton.jit
def _draw(matrix, levels, seed, first, width, SIGNS: tl.constexpr, COUNTERS: tl.constexpr):
    line, counter = tl.program_id(0), tl.program_id(1) * COUNTERS
    drawn = _random_bytes(seed, counter, first + line // 2, line % 2, SIGNS, COUNTERS)
    values = 2 * _unpack(drawn, 16 * COUNTERS) - 1 if SIGNS else tl.load(levels + drawn)
    column = counter * (128 if SIGNS else 16) + tl.arange(0, COUNTERS * (128 if SIGNS else 16))
    tl.store(matrix + line.to(tl.int64) * width + column, values.to(tl.int8), mask=column < width)


def shared_ones(bits: Array, others: Array | None = None, budget: Budget = None) -> Array:
    """Count the ones that each two rows of packed bits share.

    Parameters
    ----------
    bits : uint8 array of shape (n, bytes)
        As ``numpy.packbits`` packs them; what fills the last byte is 0.
    others : uint8 array of shape (n', bytes), optional
        None stands for `bits` itself, at half the cost.
    budget : int, str or None
        Memory for the columns that stand as int8 at one time; see `arrays.memory_budget`.

    Returns
    -------
    counts : int64 array of shape (n, n')
    """
    return _inner_products(_ones, 8, bits, others, budget)


def gram(speckle: Array, others: Array | None = None, budget: Budget = None) -> Array:
    """Return the exact inner products of the rows of ``speckle - 128``.

    Parameters
    ----------
    speckle : uint8 array of shape (n, k)
    others : uint8 array of shape (n', k), optional
        None stands for `speckle` itself, at half the cost.
    budget : int, str or None
        Memory for the columns that stand as int8 at one time; see `arrays.memory_budget`.

    Returns
    -------
    products : int64 array of shape (n, n')
    """
    return _inner_products(_signed, 1, speckle, others, budget)


def dense_speckle(
    bits: Array, m: int, k: int, seed: int, gain: float, entries: str = "gaussian", budget: Budget = None
) -> Array:
    """Project packed bits by a random complex matrix R and expose a camera: the speckle of |Rx|^2.

    Parameters
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
        As ``numpy.packbits`` packs them; what fills the last byte is 0.
    m : int
        Number of features, at most 2^24.
    k : int
        Number of outputs.
    seed : int
        From 0 to 2^64 - 1.
    gain : float
        Of the camera, ``min(255, rint(intensity * float32(gain)))``.
    entries : {"gaussian", "signs"}
        What R holds: int8 of a Gaussian, or +1 and -1.
    budget : int, str or None
        Memory for the blocks of R and of rows that stand as int8; see `arrays.memory_budget`.

    Returns
    -------
    speckle : uint8 array of shape (n, k)

    Raises
    ------
    UsageError
        If the entries are not known, or the seed has more than 64 bits.

    Notes
    -----
    R is the same in every library and on every machine. Entry j of row i, of its real part (0) or its
    imaginary part (1), is read off the 16 bytes, little-endian, of Philox4x32-10 (Salmon et al. 2011)
    with the seed as its key and

    - gaussian: the counter (j // 16, i, part, 0); byte j % 16 is the place in `gaussian_levels`;
    - signs: the counter (j // 128, i, part, 1); +1 where bit j % 128, in the order of
      ``numpy.unpackbits``, is 1.

    The intensity is ``float32(re) * float32(re) + float32(im) * float32(im)`` of exact int32 sums, each
    operation rounded: NumPy's, to the last bit.
    """
    return _dense(bits, m, k, seed, gain, entries, budget)


def dense_intensities(
    bits: Array, m: int, k: int, seed: int, entries: str = "gaussian", budget: Budget = None
) -> Array:
    """Return what the camera of `dense_speckle` sees: float32 intensities of shape (n, k)."""
    return _dense(bits, m, k, seed, None, entries, budget)


def _inner_products(
    widen: Callable[[Array], Array], each: int, left: Array, right: Array | None, budget: Budget
) -> Array:
    """Multiply the rows of two arrays, whose every column `widen` makes `each` columns of int8."""
    xp = namespace(left)
    n, others_n = len(left), len(left if right is None else right)
    sums, products = xp.zeros((n, others_n), dtype="int64"), xp.empty((n, others_n), dtype="int32")
    if not sums.size:
        return sums
    stored = n + (0 if right is None else others_n)
    length = _whole_lines(block_length(each * stored, memory_budget(budget, left) // 4, _MOST_TERMS // each))
    with stream_of(left):
        for columns in blocks(left.shape[1], length):
            rows = widen(left[:, columns])
            others = rows if right is None else widen(right[:, columns])
            _launch(_multiply, rows, others, products, SYMMETRIC=right is None)
            sums += products
    return sums


def _dense(bits: Array, m: int, k: int, seed: int, gain: float | None, entries: str, budget: Budget) -> Array:
    if entries not in ("gaussian", "signs"):
        raise UsageError(f"entries {entries!r} of a projection are not known; choose gaussian or signs")
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed {seed} must lie between 0 and 2^64 - 1")
    xp, n = namespace(bits), len(bits)
    outputs = xp.zeros((n, k), dtype="float32" if gain is None else "uint8")
    if 0 in (n, k, m):
        return outputs
    width, size = _padded(8 * bits.shape[1]), memory_budget(budget, bits) // 4
    with stream_of(bits):
        for components in blocks(k, _whole_lines(block_length(2 * width, size, k))):
            matrix = _rows_of_r(xp, components, width, seed, entries)
            for which in blocks(n, _whole_lines(block_length(width, size, n))):
                part = outputs[which, components]
                _launch(_expose, _ones(bits[which]), matrix, part, k, float(gain or 0), CAMERA=gain is not None)
    return outputs


def _whole_lines(length: int) -> int:
    return max(_LINE, length // _LINE * _LINE)


def _padded(width: int) -> int:
    return -(-width // _LINE) * _LINE


def _ones(bits: Array) -> Array:
    """Return packed bits as zeros and ones, int8, zeros up to a whole number of lines."""
    xp, (n, length) = namespace(bits), bits.shape
    ones = xp.empty((n, _padded(8 * length)), dtype="int8")
    grid = (n, triton.cdiv(ones.shape[1], _STRETCH))
    packed = as_tensor(bits if bits.strides[1] == 1 else xp.ascontiguousarray(bits))
    _widen_bits[grid](packed, as_tensor(ones), length, packed.stride(0), ones.shape[1], BYTES=_STRETCH // 8, **_UNFUSED)
    return ones


def _signed(speckle: Array) -> Array:
    """Return speckle - 128 as int8, zeros up to a whole number of lines."""
    xp, (n, length) = namespace(speckle), speckle.shape
    rows = xp.empty((n, _padded(length)), dtype="int8")
    xp.bitwise_xor(speckle, np.uint8(0x80), out=rows.view("uint8")[:, :length])
    rows[:, length:] = 0
    return rows


def _rows_of_r(xp: Any, which: slice, width: int, seed: int, entries: str) -> Array:
    """Draw rows of R as int8 of shape (2 rows, width): of each its real part, then its imaginary part."""
    matrix = xp.empty((2 * (which.stop - which.start), width), dtype="int8")
    levels, signs = as_tensor(xp.asarray(gaussian_levels())), int(entries == "signs")
    counters = _STRETCH // (128 if signs else 16)
    grid = (len(matrix), triton.cdiv(width, _STRETCH))
    _draw[grid](as_tensor(matrix), levels, int(seed), which.start, width, SIGNS=signs, COUNTERS=counters, **_UNFUSED)
    return matrix


def _launch(kernel: Any, rows: Array, others: Array, result: Array, *numbers: float, **constants: bool) -> None:
    """Launch a product of int8 rows of one width."""
    tile = chosen_tile()
    operands = [as_tensor(rows), as_tensor(others)]
    if tile.tma:
        operands = [
            TensorDescriptor.from_tensor(operand, [length, tile.depth])
            for operand, length in zip(operands, (tile.rows, tile.columns), strict=True)
        ]
    grid = (triton.cdiv(len(others), tile.columns), triton.cdiv(len(rows), tile.rows))
    kernel[grid](
        *operands,
        len(rows),
        *others.shape,
        as_tensor(result),
        *numbers,
        **constants,
        **tile.constants(),
        **tile.options(),
    )


def as_tensor(array: Array) -> Any:
    """Return the array as Triton knows it, without a copy."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(array)


@contextmanager
def stream_of(array: Array) -> Iterator[None]:
    """Make CuPy's device and stream those that Triton, which asks PyTorch, launches on."""
    if namespace(array) is np:
        yield
        return
    import cupy  # type: ignore[import-not-found, unused-ignore]
    import torch

    with array.device as device:
        stream = cupy.cuda.get_current_stream().ptr
        with torch.cuda.stream(torch.cuda.get_stream_from_external(stream, device.id)):
            yield
