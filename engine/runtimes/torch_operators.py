"""Operators of ONNX in torch: element by element, reductions, products, shapes and indices."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...calibration.graph.edit import type_name
from .torch_node import Node, Operator, elementwise, integers

_DTYPES: dict[int, torch.dtype] = {
    getattr(onnx.TensorProto, ours.upper()): getattr(torch, theirs)
    for ours, theirs in {
        "float": "float32",
        "float16": "float16",
        "bfloat16": "bfloat16",
        "double": "float64",
        "uint8": "uint8",
        "int8": "int8",
        "int16": "int16",
        "int32": "int32",
        "int64": "int64",
        "bool": "bool",
    }.items()
}


def _dtype(node: Node, kind: int) -> torch.dtype:
    if kind not in _DTYPES:
        raise node.refusal(f"the type {type_name(kind)}")
    return _DTYPES[kind]


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node], Operator]:
    """Make a binary operator that computes in the dtype of the activation, the input that is not constant."""

    def make(node: Node) -> Operator:
        left_is_constant = node.constant(0) is not None

        def run(x: Tensor, y: Tensor) -> Tensor:
            if x.is_floating_point() and y.is_floating_point():
                wide = y if left_is_constant else x
                return function(x.to(wide.dtype), y.to(wide.dtype))
            return function(x, y)

        return run

    return make


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node], Operator]:
    return lambda node: lambda x, y: function(x, y)  # noqa: PLW0108 - torch's own have no signature


def _variadic(function: Callable[[Tensor, Tensor], Tensor], mean: bool = False) -> Callable[[Node], Operator]:
    def make(node: Node) -> Operator:
        def run(*parts: Tensor) -> Tensor:
            computed = [part for index, part in enumerate(parts) if node.constant(index) is None]
            total = reduce(function, [part.to((computed or parts)[0].dtype) for part in parts])
            return total / len(parts) if mean else total

        return run

    return make


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


def _pow(node: Node) -> Operator:
    def run(x: Tensor, y: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.pow(x, y.to(x.dtype) if y.is_floating_point() else y)
        return torch.pow(x, y).to(x.dtype)

    return run


def _mod(node: Node) -> Operator:
    return _binary(torch.fmod if node["fmod"] else torch.remainder)(node)


def _clip(node: Node) -> Operator:
    if node.opset < 11:
        least, most = node["min"], node["max"]
        return lambda x: torch.clamp(x, least, most)
    if any(node.has(index) and node.constant(index) is None for index in (1, 2)):
        return _clip_to_computed
    low, high = (None if limit is None else limit.reshape(()).item() for limit in map(node.constant, (1, 2)))

    def run(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
        return x if low is None is high else torch.clamp(x, low, high)

    return run


def _clip_to_computed(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None:
        x = torch.maximum(x, low.reshape(()).to(x.dtype))
    return x if high is None else torch.minimum(x, high.reshape(()).to(x.dtype))


def _leaky_relu(node: Node) -> Operator:
    alpha = node["alpha"]
    return lambda x: F.leaky_relu(x, alpha)


def _prelu(node: Node) -> Operator:
    return lambda x, slope: torch.where(x < 0, x * slope.to(x.dtype), x)


def _elu(node: Node) -> Operator:
    alpha = node["alpha"]
    return lambda x: F.elu(x, alpha)


def _selu(node: Node) -> Operator:
    alpha, gamma = node["alpha"], node["gamma"]
    return lambda x: gamma * F.elu(x, alpha)


def _thresholded_relu(node: Node) -> Operator:
    alpha = node["alpha"]
    return lambda x: F.threshold(x, alpha, 0.0)


def _hard_sigmoid(node: Node) -> Operator:
    alpha, beta = node["alpha"], node["beta"]
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _gelu(node: Node) -> Operator:
    approximate = node["approximate"]
    return lambda x: F.gelu(x, approximate=approximate)


def _swish(node: Node) -> Operator:
    alpha = node["alpha"]
    return lambda x: x * torch.sigmoid(alpha * x)


def _is_inf(node: Node) -> Operator:
    negative, positive = node["detect_negative"], node["detect_positive"]
    return lambda x: torch.isinf(x) & ((x < 0) & bool(negative) | (x > 0) & bool(positive))


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[[Node], Operator]:
    """Make an operator along an axis; before opset 13 along all axes from there on."""

    def make(node: Node) -> Operator:
        axis = node["axis"]
        if node.opset >= 13:
            return lambda x: function(x, axis)
        return lambda x: function(_rows(x, axis), 1).reshape(x.shape)

    return make


def _rows(x: Tensor, axis: int) -> Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def _batch_norm(node: Node) -> Operator:
    epsilon, _ = node["epsilon"], node["momentum"]

    def run(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x.to(scale.dtype), mean, variance, scale, shift, eps=epsilon)

    return run


def _instance_norm(node: Node) -> Operator:
    epsilon = node["epsilon"]

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        x = x.to(scale.dtype)
        shape = [-1, *[1] * (x.dim() - 2)]
        return F.layer_norm(x, x.shape[2:], eps=epsilon) * scale.reshape(shape) + shift.reshape(shape)

    return run


def _layer_norm(node: Node) -> Operator:
    axis, epsilon = node["axis"], node["epsilon"]
    if node["stash_type"] != onnx.TensorProto.FLOAT:
        raise node.refusal(f"stash_type {node['stash_type']}")

    def run(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        x = x.to(scale.dtype)
        shape = x.shape[axis:]
        if scale.shape == shape and (shift is None or shift.shape == shape):
            return F.layer_norm(x, shape, scale, shift, epsilon)
        product = F.layer_norm(x, shape, eps=epsilon) * scale
        return product if shift is None else product + shift

    return run


def _group_norm(node: Node) -> Operator:
    """Make a GroupNormalization, which before opset 21 has a scale and a shift for each group, not channel."""
    groups, epsilon, opset = node["num_groups"], node["epsilon"], node.opset
    if node.opset >= 21 and node["stash_type"] != onnx.TensorProto.FLOAT:
        raise node.refusal(f"stash_type {node['stash_type']}")

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if opset < 21:
            scale, shift = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, shift))
        return F.group_norm(x.to(scale.dtype), groups, scale, shift, epsilon)

    return run


def _lrn(node: Node) -> Operator:
    size, alpha, beta, bias = node["size"], node["alpha"], node["beta"], node["bias"]
    before = (size - 1) // 2

    def run(x: Tensor) -> Tensor:
        around = [0, 0] * (x.dim() - 2) + [before, size - 1 - before]
        sums = F.pad(x.square(), around).unfold(1, size, 1).sum(-1)
        found: Tensor = x / (bias + alpha / size * sums).pow(beta)
        return found

    return run


def _quantize(node: Node) -> Operator:
    limits = torch.iinfo(_zero_point(node).dtype)

    def run(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return (torch.round(x / scale) + zero).clamp(limits.min, limits.max).to(zero.dtype)

    return run


def _dequantize(node: Node) -> Operator:
    _zero_point(node)
    return lambda x, scale, zero: (x.to(scale.dtype) - zero) * scale


def _zero_point(node: Node) -> Tensor:
    scale, zero = node.constant(1), node.constant(2)
    if scale is None or zero is None or scale.numel() > 1:
        raise node.refusal("other levels than those of one constant scale and zero point")
    return zero


def _matmul(node: Node) -> Operator:
    return _binary(torch.matmul)(node)


def _gemm(node: Node) -> Operator:
    alpha, beta, left, right = node["alpha"], node["beta"], node["transA"], node["transB"]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        product: Tensor = (x.T if left else x).to(weight.dtype) @ (weight.T if right else weight)
        product = product if alpha == 1 else alpha * product
        return product if bias is None else product + (bias if beta == 1 else beta * bias)

    return run


def _einsum(node: Node) -> Operator:
    equation = node["equation"]

    def run(*parts: Tensor) -> Tensor:
        computed = [part for index, part in enumerate(parts) if node.constant(index) is None]
        return torch.einsum(equation, *(part.to((computed or parts)[0].dtype) for part in parts))

    return run


def _reduction(
    reduction: Callable[[Tensor, list[int], bool], Tensor],
) -> Callable[[Node], Operator]:
    """Make a reduction, whose axes are an input from an opset on; over none of them it may be asked to do nothing."""

    def make(node: Node) -> Operator:
        axes_of, keep = integers(node, 1, "axes"), bool(node["keepdims"])
        nothing = bool(node["noop_with_empty_axes"])

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            found = axes_of(axes)
            if not found:
                if nothing:
                    return reduction(x.unsqueeze(-1), [-1], False)
                found = list(range(x.dim()))
            return reduction(x, found, keep) if found else reduction(x.unsqueeze(-1), [-1], False)

        return run

    return make


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _argument(function: Callable[..., Tensor]) -> Callable[[Node], Operator]:
    def make(node: Node) -> Operator:
        axis, keep, last = node["axis"], bool(node["keepdims"]), bool(node["select_last_index"])

        def run(x: Tensor) -> Tensor:
            found = function(x.flip(axis) if last else x, axis, keepdim=keep)
            return x.shape[axis] - 1 - found if last else found

        return run

    return make


def _top_k(node: Node) -> Operator:
    count_of, axis, largest, _ = integers(node, 1, "k"), node["axis"], bool(node["largest"] != 0), node["sorted"]

    def run(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (count,) = count_of(k) or [0]
        # The first of equals first, which torch.topk does not promise.
        found = x.sort(dim=axis, descending=largest, stable=True)
        return found.values.narrow(axis, 0, count), found.indices.narrow(axis, 0, count)

    return run


def _flatten(node: Node) -> Operator:
    axis = node["axis"]
    return lambda x: _rows(x, axis)


def _reshape(node: Node) -> Operator:
    shape_of, literal = integers(node, 1, "shape"), node["allowzero"]

    def run(x: Tensor, shape: Tensor) -> Tensor:
        lengths = shape_of(shape) or []
        if literal:
            return x.reshape(lengths)
        return x.reshape([x.shape[axis] if length == 0 else length for axis, length in enumerate(lengths)])

    return run


def _transpose(node: Node) -> Operator:
    order = node["perm"]
    return lambda x: x.permute(order or list(range(x.dim()))[::-1])


def _squeeze(node: Node) -> Operator:
    axes_of = integers(node, 1, "axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        found = axes_of(axes)
        if found is None:
            return x.squeeze()
        if any(x.shape[axis] != 1 for axis in found):
            raise RuntimeError(f"axes {found} of {list(x.shape)} are not of length 1")
        return x.squeeze(found)

    return run


def _unsqueeze(node: Node) -> Operator:
    axes_of = integers(node, 1, "axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        found = axes_of(axes) or []
        for axis in sorted(axis % (x.dim() + len(found)) for axis in found):
            x = x.unsqueeze(axis)
        return x

    return run


def _concat(node: Node) -> Operator:
    axis = node["axis"]
    return lambda *parts: torch.cat(parts, dim=axis)


def _split(node: Node) -> Operator:
    lengths_of, axis = integers(node, 1, "split"), node["axis"]
    count = node["num_outputs"] or node.declared

    def run(x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
        lengths = lengths_of(split)
        if lengths is None:
            whole = x.shape[axis]
            part = -(-whole // count)
            lengths = [min(part, whole - index * part) for index in range(count)]
        return torch.split_with_sizes(x, lengths, dim=axis)

    return run


def _slice(node: Node) -> Operator:
    starts_of, ends_of = integers(node, 1, "starts"), integers(node, 2, "ends")
    axes_of, steps_of = integers(node, 3, "axes"), integers(node, 4, "steps")

    def run(x: Tensor, *inputs: Tensor | None) -> Tensor:
        starts, ends, axes, steps = [*inputs, None, None, None, None][:4]
        first, last = starts_of(starts) or [], ends_of(ends) or []
        each = zip(first, last, axes_of(axes) or range(len(first)), steps_of(steps) or [1] * len(first), strict=True)
        for start, end, axis, step in each:
            x = _sliced(x, axis, start, end, step)
        return x

    return run


def _sliced(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    length = x.shape[axis]
    start, end = (side + length if side < 0 else side for side in (start, end))
    if step > 0:
        start, end = min(max(start, 0), length), min(max(end, 0), length)
        return x[(slice(None),) * (axis % x.dim()) + (slice(start, max(start, end), step),)]
    start, end = min(max(start, 0), length - 1), min(max(end, -1), length - 1)
    # Backwards: the same elements forwards, reversed.
    count = max(-(-(end - start) // step), 0)
    if not count:
        return x.narrow(axis, 0, 0)
    found = x[(slice(None),) * (axis % x.dim()) + (slice(start + (count - 1) * step, start + 1, -step),)]
    return found.flip(axis)


def _gather(node: Node) -> Operator:
    axis, constant = node["axis"], node.constant(1)
    one = int(constant) if constant is not None and constant.dim() == 0 else None

    def run(x: Tensor, indices: Tensor) -> Tensor:
        if one is not None:
            return x.select(axis, one)
        return x[(slice(None),) * (axis % x.dim()) + (indices.long(),)]

    return run


def _gather_elements(node: Node) -> Operator:
    axis = node["axis"]
    return lambda x, indices: _taken(x, axis, indices.long())


def _taken(x: Tensor, axis: int, indices: Tensor) -> Tensor:
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    # torch.gather takes indices that are shorter along the other axes too.
    return torch.gather(x, axis, indices)


def _gather_nd(node: Node) -> Operator:
    batch = node["batch_dims"] or 0

    def run(x: Tensor, indices: Tensor) -> Tensor:
        indices = indices.long()
        own = [
            torch.arange(x.shape[axis], device=x.device).reshape(
                [-1 if axis == at else 1 for at in range(indices.dim() - 1)]
            )
            for axis in range(batch)
        ]
        return x[(*own, *indices.unbind(-1))]

    return run


def _pad(node: Node) -> Operator:
    pads_of, mode = integers(node, 1, "pads"), node["mode"]
    axes_of, constant = integers(node, 3, "axes"), node.constant(2)
    if node.has(2) and constant is None:
        raise node.refusal("a computed value")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise node.refusal(f"mode {mode!r}")
    value = node["value"] if constant is None else constant.reshape(()).item()
    kept: dict[tuple[Any, ...], Tensor] = {}

    def run(x: Tensor, pads: Tensor | None = None, value_: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        sides = pads_of(pads) or []
        chosen = axes_of(axes) or range(x.dim())
        each = zip(chosen, sides[: len(chosen)], sides[len(chosen) :], strict=True)
        around = {axis % x.dim(): (low, high) for axis, low, high in each}
        if mode == "constant":
            flat = [side for axis in reversed(range(x.dim())) for side in around.get(axis, (0, 0))]
            return F.pad(x, flat, value=value or 0)
        for axis, (low, high) in around.items():
            if low or high:
                key = (x.shape[axis], low, high, x.device)
                if key not in kept:
                    kept[key] = _padding_indices(x.shape[axis], low, high, mode).to(x.device)
                x = x.index_select(axis, kept[key])
        return x

    return run


def _padding_indices(length: int, low: int, high: int, mode: str) -> Tensor:
    """Return the indices of what stands in each place; what negative padding removes is not repeated."""
    kept = np.arange(length)[max(-low, 0) : length - max(-high, 0)]
    if mode == "reflect" and max(low, high) >= len(kept):
        raise RuntimeError(f"padding of {max(low, high)} by reflection needs more than {len(kept)} values")
    return torch.from_numpy(np.pad(kept, (max(low, 0), max(high, 0)), mode=mode))  # type: ignore[call-overload]


def _tile(node: Node) -> Operator:
    repeats_of = integers(node, 1, "repeats")
    return lambda x, repeats: x.repeat(repeats_of(repeats) or [])


def _expand(node: Node) -> Operator:
    shape_of = integers(node, 1, "shape")
    return lambda x, shape: x.expand(np.broadcast_shapes(x.shape, shape_of(shape) or []))


def _depth_to_space(node: Node) -> Operator:
    size, columns_first = node["blocksize"], node["mode"] == "CRD"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if columns_first:
            parts = x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
        else:
            parts = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, c // size**2, h * size, w * size)

    return run


def _space_to_depth(node: Node) -> Operator:
    size = node["blocksize"]

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * size**2, h // size, w // size)

    return run


def _where(node: Node) -> Operator:
    constants = [node.constant(index) is not None for index in (1, 2)]

    def run(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        wide = y if constants[0] else x
        return torch.where(condition, x.to(wide.dtype), y.to(wide.dtype))

    return run


def _cast(node: Node) -> Operator:
    dtype, _, _ = _dtype(node, node["to"]), node["saturate"], node["round_mode"]
    return lambda x: x.to(dtype)


def _cast_like(node: Node) -> Operator:
    _, _ = node["saturate"], node["round_mode"]
    return lambda x, other: x.to(other.dtype)


def _shape(node: Node) -> Operator:
    start, end = node["start"] or 0, node["end"]
    # On the host, where shapes are computed.
    return lambda x: torch.tensor(list(x.shape)[slice(*_within(x.dim(), start, end))], dtype=torch.int64)


def _within(rank: int, start: int, end: int | None) -> tuple[int, int]:
    first, last = (side + rank if side < 0 else side for side in (start, rank if end is None else end))
    return min(max(first, 0), rank), min(max(last, 0), rank)


def _constant_of_shape(node: Node) -> Operator:
    shape_of, given = integers(node, 0, "shape"), node["value"]
    fill = torch.zeros(1) if given is None else torch.from_numpy(onnx.numpy_helper.to_array(given).copy())
    return lambda shape: fill.expand(1).reshape([1] * len(shape_of(shape) or [])).expand(shape_of(shape) or []).clone()


def _range(node: Node) -> Operator:
    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)

    return run


def _dropout(node: Node) -> Operator:
    _, _, training = node["ratio"], node["seed"], node.constant(2)
    if node.has(2) and (training is None or bool(training)):
        raise node.refusal("training_mode")
    return lambda x, ratio=None, training=None: x


def _trilu(node: Node) -> Operator:
    upper, diagonal_of = node["upper"], integers(node, 1, "k")

    def run(x: Tensor, k: Tensor | None = None) -> Tensor:
        (diagonal,) = diagonal_of(k) or [0]
        return x.triu(diagonal) if upper else x.tril(diagonal)

    return run


def _cumulative_sum(node: Node) -> Operator:
    axis_of, exclusive, reverse = integers(node, 1, "axis"), node["exclusive"], node["reverse"]

    def run(x: Tensor, axis: Tensor) -> Tensor:
        (along,) = axis_of(axis) or [0]
        x = x.flip(along) if reverse else x
        sums = x.cumsum(along, dtype=x.dtype)
        sums = sums - x if exclusive else sums
        return sums.flip(along) if reverse else sums

    return run


OPERATORS: dict[str, Callable[[Node], Operator]] = {
    "Abs": elementwise(torch.abs),
    "Add": _binary(torch.add),
    "And": _logical(torch.logical_and),
    "ArgMax": _argument(torch.argmax),
    "ArgMin": _argument(torch.argmin),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": elementwise(torch.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Cos": elementwise(torch.cos),
    "CumSum": _cumulative_sum,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _binary(_divide),
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": _elu,
    "Equal": _binary(torch.eq),
    "Erf": elementwise(torch.erf),
    "Exp": elementwise(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": elementwise(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": elementwise(F.hardswish),
    "Hardmax": _softmax(_hardmax),
    "Identity": elementwise(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "IsInf": _is_inf,
    "IsNaN": elementwise(torch.isnan),
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": elementwise(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _matmul,
    "Max": _variadic(torch.maximum),
    "Mean": _variadic(torch.add, mean=True),
    "Min": _variadic(torch.minimum),
    "Mish": elementwise(F.mish),
    "Mod": _mod,
    "Mul": _binary(torch.mul),
    "Neg": elementwise(torch.neg),
    "Not": elementwise(torch.logical_not),
    "Or": _logical(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Range": _range,
    "Reciprocal": elementwise(torch.reciprocal),
    "ReduceL1": _reduction(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: _sum(x.square(), axes, keep).sqrt()),
    "ReduceLogSum": _reduction(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: _sum(x.square(), axes, keep)),
    "Relu": elementwise(torch.relu),
    "Reshape": _reshape,
    "Round": elementwise(torch.round),
    "Selu": _selu,
    "Shape": _shape,
    "Sigmoid": elementwise(torch.sigmoid),
    "Sign": elementwise(torch.sign),
    "Sin": elementwise(torch.sin),
    "Size": elementwise(lambda x: torch.tensor(x.numel())),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Softplus": elementwise(F.softplus),
    "Softsign": elementwise(F.softsign),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": elementwise(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Swish": _swish,
    "Tanh": elementwise(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _logical(torch.logical_xor),
}
"""Makers of operators from nodes."""
