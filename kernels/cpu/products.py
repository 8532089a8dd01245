"""The Gram of bytes by the processor's instruction for int8 dot products (VNNI)."""

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, prange, types
from numba.extending import intrinsic

from .emit import I8, I32, constant, load, loop, offset, store, zeros

_FEATURES = get_host_cpu_features()
_BYTES = 64 if _FEATURES.get("avx512vnni") else 32
# Four rows against four columns: sixteen sums and eight operands stay in registers.
_SIDE = 4
# Two tiles of rows, a stretch of bytes each, stay in the nearer caches; a stretch's sums fit 32 bits.
_TILE, _STRETCH = 64, 2048


def available() -> bool:
    """Return whether this processor has the instruction that is used here."""
    return bool(_FEATURES.get("avx512vnni") and _FEATURES.get("avx512vl")) or bool(_FEATURES.get("avxvnni"))


@intrinsic  # type: ignore[misc, unused-ignore]
def _dot_products(
    typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, length: Any, sums: Any
) -> Any:
    """Write the 4 x 4 dot products, as int32, of uint8 rows at a, b, c, d and of those at e, f, g, h less 128."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *rows, count, out = arguments
        vector, bytes_ = ir.VectorType(I32, _BYTES // 4), ir.VectorType(I8, _BYTES)
        multiply = builder.module.declare_intrinsic(
            f"llvm.x86.avx512.vpdpbusd.{8 * _BYTES}", (), ir.FunctionType(vector, [vector] * 3)
        )
        total = builder.module.declare_intrinsic(
            f"llvm.vector.reduce.add.v{_BYTES // 4}i32", (), ir.FunctionType(I32, [vector])
        )
        signs = builder.bitcast(ir.Constant(bytes_, [0x80] * _BYTES), vector)

        def turn(place: Any, found: list[Any]) -> list[Any]:
            ours, theirs = (
                [load(builder, builder.add(row, place), vector) for row in side]
                for side in (rows[:_SIDE], rows[_SIDE:])
            )
            theirs = [builder.xor(values, signs) for values in theirs]
            pairs = [(values, others) for values in ours for others in theirs]
            return [builder.call(multiply, [sum_, *pair]) for sum_, pair in zip(found, pairs, strict=True)]

        found = loop(builder, count, _BYTES, [zeros(vector)] * _SIDE**2, turn)
        for place, value in enumerate(found):
            store(builder, builder.call(total, [value]), offset(builder, out, constant(place), 4))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 10), generate


@njit(parallel=True, cache=True, nogil=True)
def _add_products(data: np.ndarray, tiles: np.ndarray, products: np.ndarray) -> None:
    n, k = data.shape
    for tile in prange(len(tiles)):
        top, side = tiles[tile, 0] * _TILE, tiles[tile, 1] * _TILE
        sums = np.empty((_SIDE, _SIDE), np.int32)
        for start in range(0, k, _STRETCH):
            length = min(_STRETCH, k - start)
            at = data.ctypes.data + start
            for row in range(top, min(top + _TILE, n), _SIDE):
                for column in range(side, min(side + _TILE, n), _SIDE):
                    _dot_products(  # type: ignore[call-arg]
                        at + k * row,
                        at + k * min(row + 1, n - 1),
                        at + k * min(row + 2, n - 1),
                        at + k * min(row + 3, n - 1),
                        at + k * column,
                        at + k * min(column + 1, n - 1),
                        at + k * min(column + 2, n - 1),
                        at + k * min(column + 3, n - 1),
                        length,
                        sums.ctypes.data,
                    )
                    for i in range(min(_SIDE, n - row)):
                        for j in range(min(_SIDE, n - column)):
                            products[row + i, column + j] += sums[i, j]


def gram(speckle: np.ndarray) -> np.ndarray:
    """Return the exact inner products of the rows of ``speckle - 128``.

    Parameters
    ----------
    speckle : uint8 array of shape (n, k)

    Returns
    -------
    products : int64 array of shape (n, n)
    """
    n, k = speckle.shape
    tiles = np.argwhere(np.tri(-(-n // _TILE), dtype=bool))
    products = np.zeros((n, n), dtype="int64")
    whole = k - k % _BYTES
    if whole:
        _add_products(np.ascontiguousarray(speckle[:, :whole]), tiles, products)
    if whole < k:
        # Zeros of the unsigned side add nothing to any product.
        _add_products(np.pad(speckle[:, whole:], ((0, 0), (0, whole + _BYTES - k))), tiles, products)
    # The instruction multiplies unsigned by signed bytes: the rows' 128 is still to be taken away.
    shift = 128 * (speckle.sum(axis=1, dtype="int64") - 128 * k)
    for top, side in tiles * _TILE:
        part = products[top : top + _TILE, side : side + _TILE]
        part -= shift[side : side + _TILE]
        products[side : side + _TILE, top : top + _TILE] = part.T
    return products
