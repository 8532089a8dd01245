# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The fused steps in Triton; see `plan.Step`.

Tensors have their channels last; a row is a place of an image, `ld` apart from the next one. int8 products are summed
exactly in int32, float16 ones in float32.
"""

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]


@triton.jit
def rounded(x):
    """Return whole numbers of at most 2^22 as int8, ties to even."""
    # 1.5 * 2^23: of a sum with it, the last bits of the mantissa are the number.
    return (x + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)


@triton.jit
def store(pointer, value, low, high, mask):
    """Store clipped values, as levels where int8 is stored."""
    value = tl.minimum(tl.maximum(value, low), high)
    if pointer.dtype.element_ty == tl.int8:
        tl.store(pointer, rounded(value), mask=mask)
    else:
        tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def finish(
    total, out, row, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high, N,
    RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Apply the epilogue to sums of rows by columns, and store them."""
    known = column < N
    value = total.to(tl.float32) * tl.load(gain + column, mask=known, other=0.0)[None, :]
    value += tl.load(shift + column, mask=known, other=0.0)[None, :]
    if RESIDUAL:
        other = tl.load(residual + row[:, None] * residual_ld + column[None, :], mask=inside, other=0)
        value += other.to(tl.float32) * residual_gain
    store(out + row[:, None] * out_ld + column[None, :], value, low, high, inside)


@triton.jit
def convolution(
    x, weight, before_gain, before_shift, before_low, before_high, gain, shift, residual, residual_gain, out, low, high,
    M, N, C, x_ld, residual_ld, out_ld, H, W, OUT_H, OUT_W, STEP_H, STEP_W, PAD_H, PAD_W, SPREAD_H, SPREAD_W,
    KERNEL_W: tl.constexpr, TAPS: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr,
    PLAIN: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Convolve M places by N filters of shape (taps, C).

    With BEFORE, a gain and a shift by channel, limits and rounding are applied to what is read; TAPS is then 1. PLAIN
    is a 1x1 convolution at every place. With WHOLE, DEPTH divides C, so that a block of the sum is of one tap.
    """
    tile = tl.swizzle2d(tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1), 8)
    row = tile[0] * ROWS + tl.arange(0, ROWS).to(tl.int64)
    column = tile[1] * COLUMNS + tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEPTH)
    is_row = row < M
    at_x = row % OUT_W
    at_y = row // OUT_W % OUT_H
    image = row // OUT_W // OUT_H
    top, left = at_y * STEP_H - PAD_H, at_x * STEP_W - PAD_W
    if x.dtype.element_ty == tl.float16:
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    else:
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    if BEFORE:
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32 if weight.dtype.element_ty == tl.float16 else tl.int32)
    for start in range(0, TAPS * C, DEPTH):
        known = start + deep < TAPS * C
        if PLAIN:
            pointer = x + row[:, None] * x_ld + (start + deep)[None, :]
            mask = is_row[:, None] & known[None, :]
            channel = start + deep
        elif WHOLE:
            tap = start // C
            channel = start - tap * C + deep
            y, z = top + tap // KERNEL_W * SPREAD_H, left + tap % KERNEL_W * SPREAD_W
            pointer = x + ((image * H + y) * W + z)[:, None] * x_ld + channel[None, :]
            mask = (is_row & (y >= 0) & (y < H) & (z >= 0) & (z < W))[:, None]
        else:
            tap = (start + deep) // C
            channel = (start + deep) % C
            y = top[:, None] + (tap // KERNEL_W * SPREAD_H)[None, :]
            z = left[:, None] + (tap % KERNEL_W * SPREAD_W)[None, :]
            pointer = x + ((image * H)[:, None] + y).to(tl.int64) * W * x_ld + z * x_ld + channel[None, :]
            mask = is_row[:, None] & known[None, :] & (y >= 0) & (y < H) & (z >= 0) & (z < W)
        value = tl.load(pointer, mask=mask, other=0)
        if BEFORE:
            scaled = value.to(tl.float32) * tl.load(before_gain + channel, mask=known, other=0.0)[None, :]
            scaled += tl.load(before_shift + channel, mask=known, other=0.0)[None, :]
            scaled = tl.minimum(tl.maximum(scaled, before_low), before_high)
            value = rounded(scaled) if weight.dtype.element_ty == tl.int8 else scaled.to(tl.float16)
        filters = tl.load(
            weight + column[:, None] * (TAPS * C) + (start + deep)[None, :],
            mask=(column < N)[:, None] & known[None, :], other=0,
        )  # fmt: skip
        total = tl.dot(value, filters.T, total, out_dtype=total.dtype)
    inside = is_row[:, None] & (column < N)[None, :]
    finish(
        total, out, row, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high, N,
        RESIDUAL,
    )  # fmt: skip


@triton.jit
def window(
    x, weight, gain, shift, residual, residual_gain, out, low, high,
    M, C, x_ld, residual_ld, out_ld, H, W, OUT_H, OUT_W, STEP_H, STEP_W, PAD_H, PAD_W, SPREAD_H, SPREAD_W,
    KERNEL_W: tl.constexpr, TAPS: tl.constexpr, KIND: tl.constexpr, RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum windows channel by channel: KIND 0 by weights of shape (taps, C), 1 as they are, and 2 is their maximum."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < M)[:, None] & (column < C)[None, :]
    at_x = row % OUT_W
    at_y = row // OUT_W % OUT_H
    image = row // OUT_W // OUT_H
    top, left = at_y * STEP_H - PAD_H, at_x * STEP_W - PAD_W
    if x.dtype.element_ty == tl.int8:
        total = tl.full((ROWS, COLUMNS), -128 if KIND == 2 else 0, dtype=tl.int32)
    else:
        total = tl.full((ROWS, COLUMNS), float("-inf") if KIND == 2 else 0.0, dtype=tl.float32)
    for tap in range(TAPS):
        y, z = top + tap // KERNEL_W * SPREAD_H, left + tap % KERNEL_W * SPREAD_W
        there = inside & ((y >= 0) & (y < H) & (z >= 0) & (z < W))[:, None]
        value = tl.load(x + ((image * H + y) * W + z)[:, None] * x_ld + column[None, :], mask=there, other=0)
        value = value.to(total.dtype)
        if KIND == 0:
            filters = tl.load(weight + tap * C + column, mask=column < C, other=0).to(total.dtype)
            total += value * filters[None, :]
        elif KIND == 1:
            total += value
        else:
            total = tl.maximum(total, tl.where(there, value, total))
    finish(
        total, out, row, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high, C,
        RESIDUAL,
    )  # fmt: skip


@triton.jit
def tail(
    x, gain, shift, low, high, features, bits, pooled, C, x_ld, share,
    PLACES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write an image's features of eight channels, channel by channel, their sign bits, and means of positive parts.

    The signs of eight channels are PLACES whole bytes.
    """
    image, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    byte = tl.arange(0, BLOCK)
    packed = tl.zeros((BLOCK,), dtype=tl.int32)
    start = image * C * PLACES + group * 8 * PLACES
    for bit in tl.static_range(8):
        index = 8 * byte + bit
        channel = group * 8 + index // PLACES
        known = byte < PLACES
        value = tl.load(x + (image * PLACES + index % PLACES) * x_ld + channel, mask=known, other=0).to(tl.float32)
        value = value * tl.load(gain + channel, mask=known, other=0.0) + tl.load(shift + channel, mask=known, other=0.0)
        value = tl.minimum(tl.maximum(value, low), high)
        tl.store(features + start + index, value, mask=known)
        packed += tl.where(value > 0, 128 >> bit, 0)
    tl.store(bits + image * (C * PLACES // 8) + group * PLACES + byte, packed.to(tl.uint8), mask=byte < PLACES)
    for each in tl.static_range(8):
        channel = group * 8 + each
        value = tl.load(x + (image * PLACES + byte) * x_ld + channel, mask=byte < PLACES, other=0).to(tl.float32)
        value = value * tl.load(gain + channel) + tl.load(shift + channel)
        value = tl.where(byte < PLACES, tl.maximum(tl.minimum(tl.maximum(value, low), high), 0.0), 0.0)
        tl.store(pooled + image * C + channel, tl.sum(value) * share)
