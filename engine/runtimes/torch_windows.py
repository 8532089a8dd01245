"""Convolutions and pools of ONNX in torch, in one, two and three dimensions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...calibration.graph.windows import Lengths, Windows, transposed_padding, windows
from .torch_node import Node, Operator

_AVERAGE = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _places(node: Node) -> Callable[[Tensor, Sequence[int]], Windows]:
    """Return a function from an image and a kernel's lengths to where it reads."""
    names = ("strides", "dilations", "pads", "auto_pad", "ceil_mode")
    attributes = {name: node[name] for name in names}

    def run(x: Tensor, kernel: Sequence[int]) -> Windows:
        found = windows(attributes, x.shape[2:], kernel)
        if min(found.counts) < 1:
            raise node.refusal(f"windows of {list(kernel)} on {list(x.shape[2:])} values")
        return found

    return run


def _padded(x: Tensor, before: Lengths, after: Lengths, value: float = 0.0) -> Tensor:
    """Pad the last axes; what is negative is cut off."""
    sides = [side for pair in zip(before[::-1], after[::-1], strict=True) for side in pair]
    return F.pad(x, sides, value=value) if any(sides) else x


def _conv(node: Node) -> Operator:
    places, groups, _ = _places(node), node["group"], node["kernel_shape"]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        at, padding = places(x, weight.shape[2:]), [0] * (x.dim() - 2)
        if at.before == at.after and min(at.before) >= 0:
            padding = at.before
        else:
            x = _padded(x, at.before, at.after)
        return torch.convolution(
            x.to(weight.dtype), weight, bias, at.strides, padding, at.dilations, False, [0], groups
        )

    return run


def _conv_transpose(node: Node) -> Operator:
    groups, _ = node["group"], node["kernel_shape"]
    names = ("strides", "dilations", "pads", "auto_pad", "output_shape", "output_padding")
    attributes = {name: node[name] for name in names}

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.dim() - 2
        low, high = transposed_padding(attributes, x.shape[2:], weight.shape[2:])
        if min(*low, *high) < 0:
            raise node.refusal("output_shape or auto_pad beyond what the windows reach")
        steps, spread = (attributes[name] or [1] * rank for name in ("strides", "dilations"))
        extra = attributes["output_padding"] or [0] * rank
        product = torch.convolution(x.to(weight.dtype), weight, None, steps, [0] * rank, spread, True, [0], groups)
        ends = [add - side for add, side in zip(extra, high, strict=True)]
        product = _padded(product, [-side for side in low], ends)
        return product if bias is None else product + bias.reshape(-1, *[1] * rank)

    return run


def _pads_alike(at: Windows, kernel: Lengths) -> bool:
    """Return whether torch's own pools can pad so: alike on both sides, and by half a window at most."""
    sides = zip(at.before, at.after, kernel, strict=True)
    return all(0 <= low == high and 2 * low <= size for low, high, size in sides)


def _native(node: Node, pools: tuple[Any, ...]) -> Any:
    kernel = node["kernel_shape"]
    if len(kernel) > len(pools):
        raise node.refusal(f"kernel_shape {kernel}")
    return pools[len(kernel) - 1]


def _max_pool(node: Node) -> Operator:
    pool, places, kernel, _ = _native(node, _MAX), _places(node), node["kernel_shape"], node["storage_order"]

    def run(x: Tensor) -> Tensor:
        at, padding = places(x, kernel), [0] * len(kernel)
        fits = all(end <= high for end, high in zip(at.ends, at.after, strict=True))
        if fits and _pads_alike(at, kernel):
            padding = at.before
        else:
            least = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
            x = _padded(x, at.before, at.ends, least)
        found: Tensor = pool(x, kernel, at.strides, padding, at.dilations)
        return found

    return run


def _average_pool(node: Node) -> Operator:
    pool, places, kernel = _native(node, _AVERAGE), _places(node), node["kernel_shape"]
    ceil, include = bool(node["ceil_mode"]), bool(node["count_include_pad"])

    def run(x: Tensor) -> Tensor:
        at = places(x, kernel)
        if max(at.dilations) == 1 and _pads_alike(at, kernel):
            found: Tensor = pool(x, kernel, at.strides, at.before, ceil, include)
            return found
        counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        if not include:
            return _sums(x, kernel, at, at.before) / _sums(counted, kernel, at, at.before)
        counted = _padded(counted, at.before, at.after, 1.0)
        return _sums(x, kernel, at, at.before) / _sums(counted, kernel, at, [0] * len(kernel))

    return run


def _sums(x: Tensor, kernel: Lengths, at: Windows, before: Lengths) -> Tensor:
    """Sum an image over windows; what lies outside is 0."""
    each = zip(at.counts, at.strides, kernel, at.dilations, x.shape[2:], before, strict=True)
    ends = [(count - 1) * step + (size - 1) * wide + 1 - n - low for count, step, size, wide, n, low in each]
    x = _padded(x, before, ends)
    ones, zeros = torch.ones((1, 1, *kernel), dtype=x.dtype, device=x.device), [0] * len(kernel)
    planes = x.reshape(-1, 1, *x.shape[2:])
    found = torch.convolution(planes, ones, None, at.strides, zeros, at.dilations, False, zeros, 1)
    return found.reshape(*x.shape[:2], *found.shape[2:])


def _lp_pool(node: Node) -> Operator:
    places, kernel, power = _places(node), node["kernel_shape"], node["p"]

    def run(x: Tensor) -> Tensor:
        at = places(x, kernel)
        return _sums(x.abs().pow(power), kernel, at, at.before).pow(1 / power)

    return run


def _global(pool: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Node], Operator]:
    return lambda node: lambda x: pool(x, list(range(2, x.dim())))


def _global_lp_pool(node: Node) -> Operator:
    power = node["p"]
    return lambda x: x.abs().pow(power).sum(list(range(2, x.dim())), keepdim=True).pow(1 / power)


OPERATORS: dict[str, Callable[[Node], Operator]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdim=True)),
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
"""Makers of operators from nodes."""
