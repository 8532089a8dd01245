# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The fused steps in Triton; see `plan.Step`.

Tensors have their channels last; a row is a place of an image, `ld` apart from the next one. int8 products are summed
exactly in int32, float16 ones in float32. PAIRS says that the GPU rounds and saturates two floats in one instruction,
as those from compute capability 8.6 do.
"""

from inspect import signature

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

_SIZES = ["M", "H", "W", "OUT_H", "OUT_W", "STEP_H", "STEP_W", "PAD_H", "PAD_W", "SPREAD_H", "SPREAD_W", "TOP", "LEFT"]


def _kernel(function):
    """Compile a kernel once for all sizes of images; of channels it matters whether they are divisible by 16."""
    return triton.jit(function, do_not_specialize=[name for name in _SIZES if name in signature(function).parameters])


@triton.jit
def to_floats(x, PAIRS: tl.constexpr):
    """Return stored values as float32."""
    if PAIRS and x.dtype == tl.int8:
        # 2^23 + 128 + level is a float whose last byte is the level with its sign inverted.
        return tl.inline_asm_elementwise(
            """{
                .reg .b32 u;
                xor.b32 u, $4, 0x80808080;
                prmt.b32 $0, u, 0x4B000000, 0x7440;
                prmt.b32 $1, u, 0x4B000000, 0x7441;
                prmt.b32 $2, u, 0x4B000000, 0x7442;
                prmt.b32 $3, u, 0x4B000000, 0x7443;
                sub.f32 $0, $0, 0f4B000080;
                sub.f32 $1, $1, 0f4B000080;
                sub.f32 $2, $2, 0f4B000080;
                sub.f32 $3, $3, 0f4B000080;
            }""",
            "=&r,=&r,=&r,=&r,r", [x], dtype=tl.float32, is_pure=True, pack=4,
        )  # fmt: skip
    return x.to(tl.float32)


@triton.jit
def clip(x, low, high, CLIP: tl.constexpr):
    """Return clipped floats; CLIP is 0 for no limits, 1 for the lower one, and 2 for both."""
    if CLIP:
        x = tl.maximum(x, low)
    return tl.minimum(x, high) if CLIP == 2 else x


@triton.jit
def to_levels(x, low, high, CLIP: tl.constexpr, PAIRS: tl.constexpr):
    """Return clipped values as int8, ties to even; CLIP is 0 for the limits of int8, 1 for low 0, and 2 for others."""
    if CLIP == 2 or not PAIRS:
        x = tl.minimum(tl.maximum(x, low), high)
    if PAIRS:
        if CLIP == 1:
            return tl.inline_asm_elementwise(
                """{
                    .reg .b32 a, b, c, d;
                    cvt.rni.s32.f32 a, $1;
                    cvt.rni.s32.f32 b, $2;
                    cvt.rni.s32.f32 c, $3;
                    cvt.rni.s32.f32 d, $4;
                    cvt.pack.sat.s8.s32.b32 c, d, c, 0;
                    cvt.pack.sat.s8.s32.b32 a, b, a, c;
                    prmt.b32 b, a, 0, 0xBA98;
                    not.b32 b, b;
                    and.b32 $0, a, b;
                }""",
                "=r,f,f,f,f", [x], dtype=tl.int8, is_pure=True, pack=4,
            )  # fmt: skip
        return tl.inline_asm_elementwise(
            """{
                .reg .b32 a, b, c, d;
                cvt.rni.s32.f32 a, $1;
                cvt.rni.s32.f32 b, $2;
                cvt.rni.s32.f32 c, $3;
                cvt.rni.s32.f32 d, $4;
                cvt.pack.sat.s8.s32.b32 c, d, c, 0;
                cvt.pack.sat.s8.s32.b32 $0, b, a, c;
            }""",
            "=r,f,f,f,f", [x], dtype=tl.int8, is_pure=True, pack=4,
        )  # fmt: skip
    # 1.5 * 2^23: of a sum with it, the last bits of the mantissa are the number.
    return (x + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)


@triton.jit
def store(pointer, value, low, high, mask, CLIP: tl.constexpr, PAIRS: tl.constexpr):
    """Store clipped values, as levels where int8 is stored."""
    if pointer.dtype.element_ty == tl.int8:
        tl.store(pointer, to_levels(value, low, high, CLIP, PAIRS), mask=mask)
    else:
        tl.store(pointer, clip(value, low, high, CLIP).to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def finish(
    total, out, first, place, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high, N,
    RESIDUAL: tl.constexpr, CLIP: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Apply the epilogue to sums of places by columns, and store them; places count from the first one."""
    known = column < N
    value = total.to(tl.float32) * tl.load(gain + column, mask=known, other=0.0)[None, :]
    value += tl.load(shift + column, mask=known, other=0.0)[None, :]
    if RESIDUAL:
        at = residual + first.to(tl.int64) * residual_ld
        other = tl.load(at + place[:, None] * residual_ld + column[None, :], mask=inside, other=0)
        value += to_floats(other, PAIRS) * residual_gain
    at = out + first.to(tl.int64) * out_ld
    store(at + place[:, None] * out_ld + column[None, :], value, low, high, inside, CLIP, PAIRS)


@_kernel
def product(
    x, weight, before_gain, before_shift, before_low, before_high, gain, shift, residual, residual_gain, out, low, high,
    M, N, C, x_ld, residual_ld, out_ld,
    BEFORE: tl.constexpr, BEFORE_CLIP: tl.constexpr, RESIDUAL: tl.constexpr, CLIP: tl.constexpr, PAIRS: tl.constexpr,
    WHOLE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Multiply M places by N filters of C channels: a 1x1 convolution at every place.

    With BEFORE, a gain and a shift by channel, limits and rounding are applied to what is read. WHOLE says that DEPTH
    divides C, and COLUMNS N.
    """
    tile = tl.swizzle2d(tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1), 8)
    first = tile[0] * ROWS
    place = tl.arange(0, ROWS)
    column = tile[1] * COLUMNS + tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEPTH)
    is_place = place < M - first
    at = x + first.to(tl.int64) * x_ld + (place[:, None] * x_ld + deep[None, :])
    filters_at = weight + (column[:, None] * C + deep[None, :])
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32 if weight.dtype.element_ty == tl.float16 else tl.int32)
    for start in range(0, C, DEPTH):
        if WHOLE:
            value = tl.load(at, mask=is_place[:, None], other=0)
            filters = tl.load(filters_at)
        else:
            known = start + deep < C
            value = tl.load(at, mask=is_place[:, None] & known[None, :], other=0)
            filters = tl.load(filters_at, mask=(column < N)[:, None] & known[None, :], other=0)
        if BEFORE:
            if WHOLE:
                factor = tl.load(before_gain + start + deep)
                term = tl.load(before_shift + start + deep)
            else:
                factor = tl.load(before_gain + start + deep, mask=start + deep < C, other=0.0)
                term = tl.load(before_shift + start + deep, mask=start + deep < C, other=0.0)
            scaled = to_floats(value, PAIRS) * factor[None, :] + term[None, :]
            if weight.dtype.element_ty == tl.int8:
                value = to_levels(scaled, before_low, before_high, BEFORE_CLIP, PAIRS)
            else:
                value = clip(scaled, before_low, before_high, BEFORE_CLIP).to(tl.float16)
        total = tl.dot(value, filters.T, total, out_dtype=total.dtype)
        at += DEPTH
        filters_at += DEPTH
    inside = is_place[:, None] & (column < N)[None, :]
    finish(
        total, out, first, place, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high,
        N, RESIDUAL, CLIP, PAIRS,
    )  # fmt: skip


@_kernel
def convolution(
    x, weight, gain, shift, residual, residual_gain, out, low, high,
    M, N, C, x_ld, residual_ld, out_ld, H, W, OUT_H, OUT_W, STEP_H, STEP_W, PAD_H, PAD_W, SPREAD_H, SPREAD_W,
    KERNEL_W: tl.constexpr, TAPS: tl.constexpr, PARTS: tl.constexpr, PIXEL: tl.constexpr, PAIRED: tl.constexpr,
    RESIDUAL: tl.constexpr, CLIP: tl.constexpr, PAIRS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Convolve to M places by N filters of shape (taps, C).

    A block of the sum is one of PARTS of a tap's channels, or where PARTS is 0 of several taps. Where PIXEL is not 0,
    places are PIXEL apart, less than the C channels that are read from each, and PAIRED says that every second is read.
    """
    tile = tl.swizzle2d(tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1), 8)
    first = tile[0] * ROWS
    place = tl.arange(0, ROWS)
    column = tile[1] * COLUMNS + tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEPTH)
    is_place = place < M - first
    row = first + place
    image = first // OUT_W // OUT_H
    top, left = row // OUT_W % OUT_H * STEP_H - PAD_H, row % OUT_W * STEP_W - PAD_W
    corner = (row // OUT_W // OUT_H - image) * H
    step: tl.constexpr = 2 * PIXEL if PAIRED else PIXEL
    if PIXEL:
        x += tl.multiple_of(image.to(tl.int64) * H * W * PIXEL, step)
    else:
        x += image.to(tl.int64) * H * W * x_ld
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32 if x.dtype.element_ty == tl.float16 else tl.int32)
    for start in range(0, (TAPS * PARTS if PARTS else TAPS * C), 1 if PARTS else DEPTH):
        if PARTS:
            tap = start // PARTS
            channel = start % PARTS * DEPTH + deep
            y, z = top + tap // KERNEL_W * SPREAD_H, left + tap % KERNEL_W * SPREAD_W
            if PIXEL:
                offset = tl.multiple_of(((corner + y) * W + z) * PIXEL, step)
                mask = is_place[:, None]
            else:
                offset = ((corner + y) * W + z) * x_ld
                mask = (is_place & (y >= 0) & (y < H) & (z >= 0) & (z < W))[:, None]
            value = tl.load(x + (offset[:, None] + channel[None, :]), mask=mask, other=0)
            at = start * DEPTH + deep
            filters = tl.load(weight + column[:, None] * (TAPS * C) + at[None, :], mask=(column < N)[:, None], other=0)
        else:
            at = start + deep
            known = at < TAPS * C
            tap, channel = at // C, at % C
            y = top[:, None] + (tap // KERNEL_W * SPREAD_H)[None, :]
            z = left[:, None] + (tap % KERNEL_W * SPREAD_W)[None, :]
            mask = is_place[:, None] & known[None, :] & (y >= 0) & (y < H) & (z >= 0) & (z < W)
            value = tl.load(x + (((corner[:, None] + y) * W + z) * x_ld + channel[None, :]), mask=mask, other=0)
            filters = tl.load(
                weight + column[:, None] * (TAPS * C) + at[None, :],
                mask=(column < N)[:, None] & known[None, :],
                other=0,
            )
        total = tl.dot(value, filters.T, total, out_dtype=total.dtype)
    inside = is_place[:, None] & (column < N)[None, :]
    finish(
        total, out, first, place, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high,
        N, RESIDUAL, CLIP, PAIRS,
    )  # fmt: skip


@_kernel
def convolution_3x3(
    x, weight, gain, shift, residual, residual_gain, out, low, high, M, N, C, x_ld, residual_ld, out_ld, H, W,
    PARTS: tl.constexpr, RESIDUAL: tl.constexpr, CLIP: tl.constexpr, PAIRS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Convolve M places by N filters of 3x3, at every place, with a border of zeros.

    What is read for a row of a filter serves its three taps: their sums are kept apart, and those of the left and the
    right tap are added to the next and the previous place at the end. A program has two places more than it stores.
    """
    tile = tl.swizzle2d(tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1), 8)
    first = tile[0] * (ROWS - 2) - 1
    place = tl.arange(0, ROWS)
    column = tile[1] * COLUMNS + tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEPTH)
    row = first + place
    y, z = row // W % H, row % W
    is_place = (row >= 0) & (row < M)
    at = x + first.to(tl.int64) * x_ld + (place[:, None] * x_ld + deep[None, :])
    known = (column < N)[:, None]
    filters_at = weight + column[:, None] * (9 * C) + deep[None, :]
    kind: tl.constexpr = tl.float32 if x.dtype.element_ty == tl.float16 else tl.int32
    left = tl.zeros((ROWS, COLUMNS), dtype=kind)
    middle = tl.zeros((ROWS, COLUMNS), dtype=kind)
    right = tl.zeros((ROWS, COLUMNS), dtype=kind)
    for step in range(3 * PARTS):
        tap, channel = step // PARTS, step % PARTS * DEPTH
        above = y + tap - 1
        there = is_place & (above >= 0) & (above < H)
        value = tl.load(at + ((tap - 1) * W * x_ld + channel), mask=there[:, None], other=0)
        from_here = filters_at + (tap * 3 * C + channel)
        left = tl.dot(value, tl.load(from_here, mask=known, other=0).T, left, out_dtype=kind)
        middle = tl.dot(value, tl.load(from_here + C, mask=known, other=0).T, middle, out_dtype=kind)
        right = tl.dot(value, tl.load(from_here + 2 * C, mask=known, other=0).T, right, out_dtype=kind)
    index = tl.broadcast_to(place[:, None], (ROWS, COLUMNS))
    total = middle + tl.where((z > 0)[:, None], tl.gather(left, tl.maximum(index - 1, 0), 0), 0)
    total += tl.where((z < W - 1)[:, None], tl.gather(right, tl.minimum(index + 1, ROWS - 1), 0), 0)
    inside = (is_place & (place > 0) & (place < ROWS - 1))[:, None] & (column < N)[None, :]
    finish(
        total, out, first, place, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high,
        N, RESIDUAL, CLIP, PAIRS,
    )  # fmt: skip


@_kernel
def window(
    x, weight, gain, shift, residual, residual_gain, out, low, high,
    M, C, x_ld, residual_ld, out_ld, H, W, OUT_H, OUT_W, STEP_H, STEP_W, PAD_H, PAD_W, SPREAD_H, SPREAD_W,
    KERNEL_W: tl.constexpr, TAPS: tl.constexpr, KIND: tl.constexpr, RESIDUAL: tl.constexpr, CLIP: tl.constexpr,
    PAIRS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum windows channel by channel: KIND 0 by weights of shape (taps, C), 1 as they are, and 2 is their maximum."""
    first = tl.program_id(0) * ROWS
    place = tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (place < M - first)[:, None] & (column < C)[None, :]
    row = first + place
    image = first // OUT_W // OUT_H
    top, left = row // OUT_W % OUT_H * STEP_H - PAD_H, row % OUT_W * STEP_W - PAD_W
    corner = (row // OUT_W // OUT_H - image) * H
    x += image.to(tl.int64) * H * W * x_ld
    if x.dtype.element_ty == tl.int8:
        total = tl.full((ROWS, COLUMNS), -128 if KIND == 2 else 0, dtype=tl.int32)
    else:
        total = tl.full((ROWS, COLUMNS), float("-inf") if KIND == 2 else 0.0, dtype=tl.float32)
    for tap in range(TAPS):
        y, z = top + tap // KERNEL_W * SPREAD_H, left + tap % KERNEL_W * SPREAD_W
        there = inside & ((y >= 0) & (y < H) & (z >= 0) & (z < W))[:, None]
        value = tl.load(x + (((corner + y) * W + z) * x_ld)[:, None] + column[None, :], mask=there, other=0)
        value = value.to(total.dtype)
        if KIND == 0:
            filters = tl.load(weight + tap * C + column, mask=column < C, other=0).to(total.dtype)
            total += value * filters[None, :]
        elif KIND == 1:
            total += value
        else:
            total = tl.maximum(total, tl.where(there, value, total))
    finish(
        total, out, first, place, column, inside, out_ld, gain, shift, residual, residual_gain, residual_ld, low, high,
        C, RESIDUAL, CLIP, PAIRS,
    )  # fmt: skip


@_kernel
def pixels(
    x, out, gain, shift, low, high, M, H, W, OUT_H, OUT_W, TOP, LEFT,
    CHANNELS: tl.constexpr, PIXEL: tl.constexpr, CLIP: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Store images of CHANNELS with a border of zeros around them, and PIXEL channels of which the last are zeros."""
    first = tl.program_id(0) * ROWS
    place = tl.arange(0, ROWS)
    channel = tl.arange(0, PIXEL)
    row = first + place
    image = first // OUT_W // OUT_H
    y, z = row // OUT_W % OUT_H - TOP, row % OUT_W - LEFT
    there = (row < M) & (y >= 0) & (y < H) & (z >= 0) & (z < W)
    offset = (((row // OUT_W // OUT_H - image) * H + y) * W + z) * CHANNELS
    mask = there[:, None] & (channel < CHANNELS)[None, :]
    x += image.to(tl.int64) * H * W * CHANNELS
    value = tl.load(x + offset[:, None] + channel[None, :], mask=mask, other=0).to(tl.float32)
    value = value * tl.load(gain + channel)[None, :] + tl.load(shift + channel)[None, :]
    value = tl.where(mask, value, 0.0)
    at = out + first.to(tl.int64) * PIXEL
    store(at + place[:, None] * PIXEL + channel[None, :], value, low, high, (row < M)[:, None], CLIP, PAIRS)


@_kernel
def tail(
    x, gain, shift, low, high, features, bits, pooled, C, x_ld, share,
    PLACES: tl.constexpr, GROUP: tl.constexpr, BYTES: tl.constexpr, ROWS: tl.constexpr,
    FEATURES: tl.constexpr, BITS: tl.constexpr, POOLED: tl.constexpr,
):  # fmt: skip
    """Write an image's features of GROUP channels, channel by channel, their sign bits, and means of positive parts.

    The signs of eight channels are PLACES whole bytes; BYTES of them, and ROWS places, are computed at a time.
    """
    image, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * GROUP
    x += image * PLACES * x_ld
    if FEATURES or BITS:
        start = image * C * PLACES + first * PLACES
        for done in range(0, GROUP // 8 * PLACES, BYTES):
            byte = done + tl.arange(0, BYTES)
            known = byte < tl.minimum(C - first, GROUP) // 8 * PLACES
            packed = tl.zeros((BYTES,), dtype=tl.int32)
            for bit in tl.static_range(8):
                index = 8 * byte + bit
                channel = first + index // PLACES
                value = tl.load(x + index % PLACES * x_ld + channel, mask=known, other=0).to(tl.float32)
                value *= tl.load(gain + channel, mask=known, other=0.0)
                value += tl.load(shift + channel, mask=known, other=0.0)
                value = tl.minimum(tl.maximum(value, low), high)
                if FEATURES:
                    tl.store(features + start + index, value, mask=known)
                packed += tl.where(value > 0, 128 >> bit, 0)
            if BITS:
                at = bits + image * (C * PLACES // 8) + first // 8 * PLACES
                tl.store(at + byte, packed.to(tl.uint8), mask=known)
    if POOLED:
        channel = first + tl.arange(0, GROUP)
        factor = tl.load(gain + channel, mask=channel < C, other=0.0)
        term = tl.load(shift + channel, mask=channel < C, other=0.0)
        total = tl.zeros((GROUP,), dtype=tl.float32)
        for done in range(0, PLACES, ROWS):
            place = done + tl.arange(0, ROWS)
            inside = (place < PLACES)[:, None] & (channel < C)[None, :]
            value = tl.load(x + place[:, None] * x_ld + channel[None, :], mask=inside, other=0).to(tl.float32)
            value = tl.minimum(tl.maximum(value * factor[None, :] + term[None, :], low), high)
            total += tl.sum(tl.where(inside, tl.maximum(value, 0.0), 0.0), 0)
        tl.store(pooled + image * C + channel, total * share, mask=channel < C)
