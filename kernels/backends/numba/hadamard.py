"""The three-block Walsh-Hadamard projection of packed bits, one row at a time within the caches."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ....errors import UsageError
from ...random_matrix import hadamard_length
from .compiled import compiled
from .emit import F32, I1, I16, constant, load, loop, offset, store
from .outputs import outputs
from .threads import in_parts

_LANES = 16
_CHAINS, _STEPS = 2, 3
# Transformed values of a part, a fraction of a second.
_PART = 1 << 26
_FLOATS = ir.VectorType(F32, _LANES)


def _mask(builder: Any, address: Any) -> Any:
    """Load 16 bits as a vector, lowest first."""
    return builder.bitcast(load(builder, address, I16), ir.VectorType(I1, _LANES))


def _shuffled(builder: Any, values: Any, indices: list[int]) -> Any:
    return builder.shuffle_vector(values, values, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), indices))


def _butterflies(builder: Any, values: list[Any]) -> list[Any]:
    """Transform a list of vectors elementwise; its length is a power of two."""
    half = 1
    while half < len(values):
        values = [
            builder.fsub(values[i ^ half], values[i]) if i & half else builder.fadd(values[i], values[i ^ half])
            for i in range(len(values))
        ]
        half *= 2
    return values


@intrinsic  # type: ignore[misc, unused-ignore]
def _expand(typing_context: Any, bits: Any, values: Any, vectors: Any) -> Any:
    """Write packed bits, highest first, as float32 zeros and ones."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, count = arguments

        def body(index: Any, _: list[Any]) -> list[Any]:
            ones = builder.uitofp(_mask(builder, offset(builder, source, index, 2)), _FLOATS)
            store(builder, _shuffled(builder, ones, [i ^ 7 for i in range(_LANES)]), offset(builder, target, index, 64))
            return []

        loop(builder, count, 1, [], body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic  # type: ignore[misc, unused-ignore]
def _within_vectors(typing_context: Any, values: Any, signs: Any, vectors: Any) -> Any:
    """Apply signs to float32 values, with bit 0 for -1, and transform every 16 values."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, flips, count = arguments

        def body(index: Any, _: list[Any]) -> list[Any]:
            at = offset(builder, data, index, 64)
            found = load(builder, at, _FLOATS)
            found = builder.select(_mask(builder, offset(builder, flips, index, 2)), found, builder.fneg(found))
            for half in (1, 2, 4, 8):
                own = builder.fmul(found, ir.Constant(_FLOATS, [-1.0 if i & half else 1.0 for i in range(_LANES)]))
                found = builder.fadd(_shuffled(builder, found, [i ^ half for i in range(_LANES)]), own)
            store(builder, found, at)
            return []

        loop(builder, count, 1, [], body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


def _between_vectors(radix: int) -> Callable[..., Any]:
    """Return a function that transforms `radix` vectors with a distance of `stride` vectors."""

    @intrinsic  # type: ignore[misc, unused-ignore]
    def transform(typing_context: Any, values: Any, stride: Any, vectors: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data, apart, count = arguments
            groups = builder.udiv(count, builder.mul(apart, constant(radix)))

            def group(which: Any, _: list[Any]) -> list[Any]:
                first = builder.mul(builder.mul(which, apart), constant(radix))

                def body(index: Any, _: list[Any]) -> list[Any]:
                    start = builder.add(first, index)
                    steps = [builder.mul(apart, constant(i)) for i in range(radix)]
                    at = [offset(builder, data, builder.add(start, step), 64) for step in steps]
                    found = _butterflies(builder, [load(builder, address, _FLOATS) for address in at])
                    for value, address in zip(found, at, strict=True):
                        store(builder, value, address)
                    return []

                loop(builder, apart, 1, [], body)
                return []

            loop(builder, groups, 1, [], group)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp), generate

    return transform


_by_sixteen, _by_eight, _by_four, _by_two = (_between_vectors(radix) for radix in (16, 8, 4, 2))


@compiled()
def _transform(values: int, signs: int, vectors: int) -> None:
    """Apply signs to values and transform them in place, unnormalised."""
    _within_vectors(values, signs, vectors)  # type: ignore[call-arg]
    stride = 1
    while stride * 16 <= vectors:
        _by_sixteen(values, stride, vectors)
        stride *= 16
    if stride * 8 <= vectors:
        _by_eight(values, stride, vectors)
    elif stride * 4 <= vectors:
        _by_four(values, stride, vectors)
    elif stride * 2 <= vectors:
        _by_two(values, stride, vectors)


@compiled()
def _hadamard(
    bits: np.ndarray,
    signs: np.ndarray,
    scale: np.float32,
    gain: np.float32,
    intensities: np.ndarray,
    speckle: np.ndarray,
) -> None:
    pairs, chains, steps, length = signs.shape[0], signs.shape[1], signs.shape[2], 8 * signs.shape[3]
    k, vectors = max(intensities.shape[1], speckle.shape[1]), length // _LANES
    for row in range(len(bits)):
        values, light = np.zeros(length, dtype=np.float32), np.empty(length, dtype=np.float32)
        for pair in range(pairs):
            light[:] = 0
            for chain in range(chains):
                values[:] = 0
                _expand(bits[row].ctypes.data, values.ctypes.data, bits.shape[1] // 2)  # type: ignore[call-arg]
                for step in range(steps):
                    _transform(values.ctypes.data, signs[pair, chain, step].ctypes.data, vectors)
                for index in range(length):
                    light[index] += values[index] * values[index]
            start = pair * length
            stop = min(length, k - start)
            if speckle.size:
                for index in range(stop):
                    seen = np.rint(light[index] * scale * gain)
                    speckle[row, start + index] = np.uint8(min(seen, np.float32(255)))
            else:
                for index in range(stop):
                    intensities[row, start + index] = light[index] * scale


def check(bits: np.ndarray, signs: np.ndarray, k: int) -> None:
    """Raise UsageError where code on addresses would read or write outside of the arrays."""
    chained = signs.ndim == 4 and signs.shape[1:3] == (_CHAINS, _STEPS)
    length = 8 * signs.shape[3] if chained else 0
    # Of m features, as many as the bits hold, transforms are of the power of two at or above m.
    fits = bits.ndim == 2 and bits.shape[1] > 0 and length == hadamard_length(8 * bits.shape[1])
    packed = fits and bits.dtype == signs.dtype == np.uint8
    if not packed or not 0 < k <= len(signs) * length:
        raise UsageError(
            f"bits of dtype {bits.dtype} and shape {bits.shape}, signs of dtype {signs.dtype} and shape {signs.shape} "
            f"and k = {k} do not belong together"
        )


def hadamard(bits: np.ndarray, signs: np.ndarray, k: int, gain: float | None = None) -> np.ndarray:
    """Project packed bits by chains of transforms of at least 16 values; see `reference.hadamard`."""
    check(bits, signs, k)
    if 8 * signs.shape[3] < _LANES:
        raise UsageError(f"transforms of {8 * signs.shape[3]} values are shorter than {_LANES}; use the reference")
    intensities, speckle = outputs(len(bits), k, gain)
    # Bytes are read in pairs.
    whole = np.ascontiguousarray(np.pad(bits, ((0, 0), (0, bits.shape[1] % 2))))
    # Three transforms, each 1 / sqrt(p), squared: a power of two, so scaling is exact.
    scale = np.float32(float(8 * signs.shape[3]) ** -_STEPS)
    chains, camera = np.ascontiguousarray(signs), np.float32(gain or 0)

    def part(start: int, stop: int) -> None:
        rows = slice(start, stop)
        _hadamard(whole[rows], chains, scale, camera, intensities[rows], speckle[rows])

    in_parts(part, len(bits), most=max(1, _PART // max(1, 8 * signs.size)))
    return intensities if gain is None else speckle
