"""Inner products of rows of packed bits and of speckle, with vector instructions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ....errors import UsageError
from .compiled import compiled
from .emit import I8, I32, I64, constant, load, loop, offset, splat, store, when, zeros
from .features import numba_features
from .threads import in_parts

_FEATURES = numba_features()
_BYTES = 64 if _FEATURES.get("avx512f") else 32
_DOT_PRODUCT = bool(_FEATURES.get("avx512vnni") and _FEATURES.get("avx512vl")) or bool(_FEATURES.get("avxvnni"))
# The 16 sums and 8 operands of four rows and four columns fit in registers.
_SIDE = 4
# Chunks of two tiles of rows fit in the inner caches, and the sums of a chunk in 32 bits.
_TILE, _CHUNK = 64, 2048
# Products of bytes of a part, a fraction of a second.
_PART = 1 << 31


def has_dot_product() -> bool:
    """Return whether Numba can use dot products of bytes (VNNI)."""
    return _DOT_PRODUCT


def _emit_tile(
    builder: Any, arguments: Any, vector: ir.VectorType, prepare: Callable[..., Any], add: Callable[..., Any]
) -> None:
    """Emit the 4 x 4 sums over two sets of four rows, written as int32.

    The arguments are the addresses of the rows, their length in bytes, at least that of a vector, and the output
    address; ``prepare`` transforms the values of the second four rows, and ``add(sum, own, others)`` is one step.
    """
    *rows, length, out = arguments
    whole = builder.and_(length, constant(-_BYTES))
    total = builder.module.declare_intrinsic(
        f"llvm.vector.reduce.add.v{vector.count}{vector.element}", (), ir.FunctionType(vector.element, [vector])
    )

    def step(index: Any, found: list[Any], kept: Callable[[Any], Any]) -> list[Any]:
        values = [load(builder, builder.add(row, index), vector) for row in rows]
        others = [prepare(each) for each in values[_SIDE:]]
        pairs = [(own, other) for own in map(kept, values[:_SIDE]) for other in others]
        return [add(sum_, *pair) for sum_, pair in zip(found, pairs, strict=True)]

    def rest() -> list[Any]:
        # The last vector of a row has bytes that the loop has added, and then those that are left.
        places, start = ir.VectorType(I8, _BYTES), builder.sub(length, constant(_BYTES))
        added = splat(builder, builder.trunc(builder.sub(whole, start), I8), _BYTES)
        left = builder.icmp_unsigned(">=", ir.Constant(places, list(range(_BYTES))), added)
        mask = builder.bitcast(builder.sext(left, places), vector)
        return step(start, found, lambda values: builder.and_(values, mask))

    found = loop(
        builder, whole, _BYTES, [zeros(vector)] * _SIDE**2, lambda index, sums: step(index, sums, lambda values: values)
    )
    found = when(builder, builder.icmp_signed("<", whole, length), found, rest)
    for index, value in enumerate(found):
        sum_ = builder.call(total, [value])
        sum_ = sum_ if vector.element == I32 else builder.trunc(sum_, I32)
        store(builder, sum_, offset(builder, out, constant(index), 4))


_TILE_SIGNATURE = types.void(*[types.intp] * 10)


@intrinsic  # type: ignore[misc, unused-ignore]
def _dot_products(
    typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, length: Any, sums: Any
) -> Any:
    """Multiply uint8 rows a to d by rows e to h minus 128."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not _DOT_PRODUCT:
            # Compiled together with `_shared_counts` but never called; the instruction would make LLVM abort.
            return context.get_dummy_value()
        vector, bytes_ = ir.VectorType(I32, _BYTES // 4), ir.VectorType(I8, _BYTES)
        step = builder.module.declare_intrinsic(
            f"llvm.x86.avx512.vpdpbusd.{8 * _BYTES}", (), ir.FunctionType(vector, [vector] * 3)
        )
        signs = builder.bitcast(ir.Constant(bytes_, [0x80] * _BYTES), vector)
        _emit_tile(
            builder,
            arguments,
            vector,
            lambda values: builder.xor(values, signs),
            lambda *each: builder.call(step, each),
        )
        return context.get_dummy_value()

    return _TILE_SIGNATURE, generate


@intrinsic  # type: ignore[misc, unused-ignore]
def _shared_counts(
    typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, length: Any, sums: Any
) -> Any:
    """Count the ones that rows a to d share with rows e to h."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(I64, _BYTES // 8)
        count = builder.module.declare_intrinsic(
            f"llvm.ctpop.v{vector.count}i64", (), ir.FunctionType(vector, [vector])
        )
        _emit_tile(
            builder,
            arguments,
            vector,
            lambda values: values,
            lambda sum_, own, others: builder.add(sum_, builder.call(count, [builder.and_(own, others)])),
        )
        return context.get_dummy_value()

    return _TILE_SIGNATURE, generate


@compiled()
def _add_products(bits: bool, left: np.ndarray, right: np.ndarray, tiles: np.ndarray, products: np.ndarray) -> None:
    (n, k), others = left.shape, len(right)
    for tile in range(len(tiles)):
        top, side = tiles[tile, 0] * _TILE, tiles[tile, 1] * _TILE
        sums, end = np.empty((_SIDE, _SIDE), np.int32), k - k % _BYTES
        for start in range(0, end, _CHUNK):
            length = _CHUNK if start + _CHUNK < end else k - start
            rows, columns = left.ctypes.data + start, right.ctypes.data + start
            for row in range(top, min(top + _TILE, n), _SIDE):
                a, b, c, d = row, min(row + 1, n - 1), min(row + 2, n - 1), min(row + 3, n - 1)
                a, b, c, d = rows + k * a, rows + k * b, rows + k * c, rows + k * d
                for column in range(side, min(side + _TILE, others), _SIDE):
                    last = others - 1
                    e, f, g, h = column, min(column + 1, last), min(column + 2, last), min(column + 3, last)
                    e, f, g, h = columns + k * e, columns + k * f, columns + k * g, columns + k * h
                    if bits:
                        _shared_counts(a, b, c, d, e, f, g, h, length, sums.ctypes.data)  # type: ignore[call-arg]
                    else:
                        _dot_products(a, b, c, d, e, f, g, h, length, sums.ctypes.data)  # type: ignore[call-arg]
                    for i in range(min(_SIDE, n - row)):
                        for j in range(min(_SIDE, others - column)):
                            products[row + i, column + j] += sums[i, j]


def _summed(bits: bool, left: np.ndarray, right: np.ndarray | None, shift: np.ndarray | None = None) -> np.ndarray:
    """Return the products of all rows, minus `shift` per column; without `right`, `left` with itself, symmetrically."""
    others, k = left if right is None else right, left.shape[-1]
    if left.ndim != 2 or others.ndim != 2 or others.shape[1] != k or not left.dtype == others.dtype == np.uint8:
        raise UsageError(
            f"rows of dtype {left.dtype} and shape {left.shape} have no exact products with rows of dtype "
            f"{others.dtype} and shape {others.shape}; both must be uint8 of one length"
        )
    rows, columns = (-(-len(side) // _TILE) for side in (left, others))
    pairs = np.tri(rows, columns, dtype=bool) if right is None else np.ones((rows, columns), dtype=bool)
    # Of one tile NumPy's array is in C order, of several in Fortran's: two types, which would both be compiled.
    tiles = np.ascontiguousarray(np.argwhere(pairs))
    products = np.zeros((len(left), len(others)), dtype="int64")
    first, second = (np.ascontiguousarray(side if k >= _BYTES else _padded(side)) for side in (left, others))
    most = max(1, _PART // (_TILE * _TILE * max(1, k)))
    in_parts(lambda start, stop: _add_products(bits, first, second, tiles[start:stop], products), len(tiles), most=most)
    if right is None:
        for top, side in tiles * _TILE:
            part = products[top : top + _TILE, side : side + _TILE]
            part -= 0 if shift is None else shift[side : side + _TILE]
            products[side : side + _TILE, top : top + _TILE] = part.T
    return products


def _padded(data: np.ndarray) -> np.ndarray:
    """Return rows zero-padded to one vector."""
    return np.pad(data, ((0, 0), (0, _BYTES - data.shape[1])))


def shared_ones(bits: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Count the shared ones of every pair of rows of packed bits; see `reference.shared_ones`."""
    return _summed(True, bits, others)


def gram(speckle: np.ndarray) -> np.ndarray:
    """Return exact inner products, on a processor that `has_dot_product`; see `reference.gram`."""
    # Rows are multiplied by rows minus 128, so 128 times the sum of a row remains to be subtracted.
    return _summed(False, speckle, None, 128 * (speckle.sum(axis=1, dtype="int64") - 128 * speckle.shape[1]))
