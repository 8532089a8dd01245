"""|Rx|^2 of packed bits in exact integers, with R generated on the fly and never stored.

Eight columns of R have 256 partial sums, one for each value of a byte of bits: a table of these
replaces eight multiplications by one addition (Arlazarov et al. 1970, "four Russians").
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ....errors import UsageError
from ...bits import packed_length
from ...philox import KEY_STEPS, MULTIPLIERS, ROUNDS, WORD
from .compiled import compiled
from .emit import I8, I16, I32, I64, constant, load, loop, offset, store, zeros
from .outputs import outputs
from .threads import in_parts

# 16 outputs with real and imaginary parts: 32 sums of 16 bits.
_OUTPUTS = 16
_LANES = 2 * _OUTPUTS
_NARROW, _WIDE = ir.VectorType(I16, _LANES), ir.VectorType(I32, _LANES)
# 16 bytes are drawn at a time: two tables.
_COLUMNS = 16
# The sums of this many bytes of bits, eight values of at most 127 each, fit in 16 bits.
_FLUSH = 32
# The sums of this many rows fit in the L2 cache, and amortize the cost of the shared tables.
_ROWS = 8192

_M0, _M1 = (np.uint64(value) for value in MULTIPLIERS)
_W0, _W1 = (np.uint32(value) for value in KEY_STEPS)


@intrinsic  # type: ignore[misc, unused-ignore]
def _make_table(typing_context: Any, columns: Any, table: Any) -> Any:
    """Write the 256 sums of 8 x 32 int8 at `columns`; the first column is a byte's highest bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, out = arguments
        store(builder, zeros(_NARROW), out)
        for bit in range(8):
            size = constant(1 << bit)
            values = load(builder, builder.add(first, constant((7 - bit) * _LANES)), ir.VectorType(I8, _LANES))
            values = builder.sext(values, _NARROW)

            def body(index: Any, _: list[Any], size: Any = size, values: Any = values) -> list[Any]:
                sums = load(builder, offset(builder, out, index, 2 * _LANES), _NARROW)
                store(builder, builder.add(sums, values), offset(builder, out, builder.add(index, size), 2 * _LANES))
                return []

            loop(builder, size, 1, [], body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic  # type: ignore[misc, unused-ignore]
def _add_entries(typing_context: Any, codes: Any, others: Any, tables: Any, sums: Any, rows: Any) -> Any:
    """Add the table entries of each row's two bytes to its 32 int16 sums."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *both, first, out, count = arguments

        def body(row: Any, _: list[Any]) -> list[Any]:
            at = offset(builder, out, row, 2 * _LANES)
            total = load(builder, at, _NARROW)
            for table, column in enumerate(both):
                code = builder.zext(load(builder, builder.add(column, row), I8), I64)
                entry = builder.add(code, constant(256 * table))
                total = builder.add(total, load(builder, offset(builder, first, entry, 2 * _LANES), _NARROW))
            store(builder, total, at)
            return []

        loop(builder, count, 1, [], body)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@intrinsic  # type: ignore[misc, unused-ignore]
def _flush(typing_context: Any, sums: Any, totals: Any, rows: Any) -> Any:
    """Add the int16 sums to the int32 totals, and reset the sums to zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        narrow, wide, count = arguments

        def body(row: Any, _: list[Any]) -> list[Any]:
            source, target = offset(builder, narrow, row, 2 * _LANES), offset(builder, wide, row, 4 * _LANES)
            added = builder.sext(load(builder, source, _NARROW), _WIDE)
            store(builder, builder.add(load(builder, target, _WIDE), added), target)
            store(builder, zeros(_NARROW), source)
            return []

        loop(builder, count, 1, [], body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@compiled(inline="always")
def _philox(
    c0: np.uint32, c1: np.uint32, c2: np.uint32, c3: np.uint32, key: tuple[np.uint32, np.uint32]
) -> tuple[np.uint32, np.uint32, np.uint32, np.uint32]:
    k0, k1 = key
    for _ in range(ROUNDS):
        left, right = _M0 * np.uint64(c0), _M1 * np.uint64(c2)
        c0, c1, c2, c3 = (
            np.uint32((right >> np.uint64(32)) ^ c1 ^ k0),
            np.uint32(right),
            np.uint32((left >> np.uint64(32)) ^ c3 ^ k1),
            np.uint32(left),
        )
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    return c0, c1, c2, c3


@compiled()
def _draw(block: int, first: int, key: tuple[np.uint32, np.uint32], levels: np.ndarray, columns: np.ndarray) -> None:
    """Draw 16 columns of R for both parts of 16 outputs; see `philox.philox` and `projection.Dense`."""
    words = np.empty((4, _LANES), dtype=np.uint32)
    for lane in range(_LANES):
        row, part = np.uint32(first + lane % _OUTPUTS), np.uint32(lane // _OUTPUTS)
        words[0, lane], words[1, lane], words[2, lane], words[3, lane] = _philox(
            np.uint32(block), row, part, np.uint32(0), key
        )
    for column in range(_COLUMNS):
        shift = np.uint32(8 * (column % 4))
        for lane in range(_LANES):
            columns[column, lane] = levels[(words[column // 4, lane] >> shift) & np.uint32(0xFF)]


@compiled()
def _draw_signs(start: int, key: tuple[np.uint32, np.uint32], words: np.ndarray) -> None:
    rows, parts, blocks, _ = words.shape
    for row in range(rows):
        for part in range(parts):
            for block in range(blocks):
                drawn = _philox(np.uint32(block), np.uint32(start + row), np.uint32(part), np.uint32(1), key)
                out = words[row, part, block]
                out[0], out[1], out[2], out[3] = drawn


@compiled()
def _dense(
    first: int,
    stop: int,
    codes: np.ndarray,
    key: tuple[np.uint32, np.uint32],
    levels: np.ndarray,
    gain: np.float32,
    intensities: np.ndarray,
    speckle: np.ndarray,
) -> None:
    count, rows = codes.shape
    k = max(intensities.shape[1], speckle.shape[1])
    for group in range(first, stop):
        columns = np.empty((_COLUMNS, _LANES), np.int8)
        tables = np.empty((2, 256, _LANES), np.int16)
        sums, totals = np.zeros((rows, _LANES), np.int16), np.zeros((rows, _LANES), np.int32)
        for index in range(0, count, 2):
            _draw(index // 2, group * _OUTPUTS, key, levels, columns)
            for table in range(2):
                _make_table(columns[8 * table :].ctypes.data, tables[table].ctypes.data)  # type: ignore[call-arg]
            at = codes.ctypes.data + index * rows
            _add_entries(at, at + rows, tables.ctypes.data, sums.ctypes.data, rows)  # type: ignore[call-arg]
            if index % _FLUSH == _FLUSH - 2 or index + 2 == count:
                _flush(sums.ctypes.data, totals.ctypes.data, rows)
        for row in range(rows):
            for output in range(group * _OUTPUTS, min((group + 1) * _OUTPUTS, k)):
                real = np.float32(totals[row, output % _OUTPUTS])
                imaginary = np.float32(totals[row, _OUTPUTS + output % _OUTPUTS])
                intensity = real * real + imaginary * imaginary
                if speckle.size:
                    speckle[row, output] = np.uint8(min(np.rint(intensity * gain), np.float32(255)))
                else:
                    intensities[row, output] = intensity


def dense(bits: np.ndarray, k: int, seed: int, levels: np.ndarray, gain: float | None = None) -> np.ndarray:
    """Project packed bits by a Gaussian R; see `reference.dense`. Levels below -127 could overflow a sum."""
    if bits.dtype != np.uint8 or bits.ndim != 2 or not bits.shape[1] or k < 1 or levels.shape != (256,):
        raise UsageError(
            f"bits of dtype {bits.dtype} and shape {bits.shape}, k = {k} and levels of shape {levels.shape} do not "
            "belong together"
        )
    intensities, speckle = outputs(len(bits), k, gain)
    for start in range(0, len(bits), _ROWS):
        rows = slice(start, start + _ROWS)
        block = bits[rows]
        # Two tables are used at a time, so the number of bytes is padded with zeros to an even number.
        codes = np.zeros((bits.shape[1] + bits.shape[1] % 2, len(block)), dtype="uint8")
        codes[: bits.shape[1]] = block.T
        given = (codes, _key(seed), levels, np.float32(gain or 0), intensities[rows], speckle[rows])
        in_parts(lambda first, stop, given=given: _dense(first, stop, *given), -(-k // _OUTPUTS))  # type: ignore[misc]
    return intensities if gain is None else speckle


def sign_rows(which: slice, m: int, seed: int, xp: Any = np) -> np.ndarray:
    """Draw rows of R as `random_matrix.sign_rows` does."""
    words = np.empty((which.stop - which.start, 2, -(-m // 128), 4), dtype="<u4")
    in_parts(lambda start, stop: _draw_signs(which.start + start, _key(seed), words[start:stop]), len(words))
    return words.view("uint8").reshape(len(words), 2, -1)[:, :, : packed_length(m)]


def _key(seed: int) -> tuple[np.uint32, np.uint32]:
    return np.uint32(seed & WORD), np.uint32(seed >> 32 & WORD)
