"""Convolutions and pools of ONNX in torch, in one, two and three dimensions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .torch_node import Node, Operator

Lengths = list[int]

_NATIVE: dict[str, tuple[Any, ...]] = {
    "average": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
}


class _Windows:
    """Where a convolution or pool reads, from its attributes."""

    def __init__(self, node: Node, ceil: bool = False) -> None:
        self.strides, self.dilations = node["strides"], node["dilations"]
        self.pads, self.auto, self.ceil = node["pads"], node["auto_pad"], ceil
        self._refusal = node.refusal

    def over(self, lengths: Sequence[int], kernel: Sequence[int]) -> tuple[Lengths, Lengths, Lengths, Lengths, Lengths]:
        """Return strides, dilations, padding before, padding after, and numbers of windows, for each axis."""
        rank = len(lengths)
        strides, dilations = list(self.strides or [1] * rank), list(self.dilations or [1] * rank)
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        pads = list(self.pads or [0] * (2 * rank))
        before, after = pads[:rank], pads[rank:]
        if self.auto == "VALID":
            before, after = [0] * rank, [0] * rank
        elif self.auto != "NOTSET":
            wanted = [
                max((-(-length // stride) - 1) * stride + span - length, 0)
                for length, stride, span in zip(lengths, strides, spans, strict=True)
            ]
            less, more = [total // 2 for total in wanted], [total - total // 2 for total in wanted]
            before, after = (less, more) if self.auto == "SAME_UPPER" else (more, less)
        counts = []
        for length, stride, span, low, high in zip(lengths, strides, spans, before, after, strict=True):
            free = length + low + high - span
            count = (-(-free // stride) if self.ceil else free // stride) + 1
            # A window that would begin in the padding behind is left out.
            counts.append(count - (self.ceil and (count - 1) * stride >= length + low))
        if min(counts) < 1:
            raise self._refusal(f"windows of {list(kernel)} on {list(lengths)} values")
        return strides, dilations, before, after, counts


def _padded(x: Tensor, before: Lengths, after: Lengths, value: float) -> Tensor:
    """Pad the last axes; what is negative is cut off."""
    sides = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return F.pad(x, sides, value=value) if any(sides) else x


def _conv(node: Node) -> Operator:
    windows, groups, _ = _Windows(node), node["group"], node["kernel_shape"]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        strides, dilations, before, after, _ = windows.over(x.shape[2:], weight.shape[2:])
        padding = [0] * len(before)
        if before == after and min(before) >= 0:
            padding = before
        else:
            x = _padded(x, before, after, 0.0)
        return torch.convolution(x.to(weight.dtype), weight, bias, strides, padding, dilations, False, [0], groups)

    return run


def _conv_transpose(node: Node) -> Operator:
    groups, shape, extra, _ = node["group"], node["output_shape"], node["output_padding"], node["kernel_shape"]
    strides, dilations, pads, auto = node["strides"], node["dilations"], node["pads"], node["auto_pad"]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.dim() - 2
        steps, spread = strides or [1] * rank, dilations or [1] * rank
        product = torch.convolution(x.to(weight.dtype), weight, None, steps, [0] * rank, spread, True, [0], groups)
        more = extra or [0] * rank
        full = [length + add for length, add in zip(product.shape[2:], more, strict=True)]
        before, after = (pads[:rank], pads[rank:]) if pads else ([0] * rank, [0] * rank)
        if auto == "VALID":
            before, after = [0] * rank, [0] * rank
        if shape or auto.startswith("SAME"):
            wanted = shape or [length * step for length, step in zip(x.shape[2:], steps, strict=True)]
            totals = [length - want for length, want in zip(full, wanted[-rank:], strict=True)]
            if min(totals) < 0:
                raise node.refusal(f"output_shape {wanted}, which is larger than what the windows reach,")
            less, rest = [total // 2 for total in totals], [total - total // 2 for total in totals]
            before, after = (less, rest) if auto == "SAME_UPPER" else (rest, less)
        product = _padded(product, [-side for side in before], [add - side for add, side in zip(more, after)], 0.0)
        return product if bias is None else product + bias.reshape(-1, *[1] * rank)

    return run


def _max_pool(node: Node) -> Operator:
    windows, kernel, _ = _Windows(node, bool(node["ceil_mode"])), node["kernel_shape"], node["storage_order"]
    pool = _NATIVE["max"][len(kernel) - 1] if len(kernel) <= 3 else None
    if pool is None:
        raise node.refusal(f"kernel_shape {kernel}")

    def run(x: Tensor) -> Tensor:
        strides, dilations, before, after, counts = windows.over(x.shape[2:], kernel)
        x, padding = _around(x, kernel, strides, dilations, before, after, counts, _least(x))
        return pool(x, kernel, strides, padding, dilations)

    return run


def _least(x: Tensor) -> float:
    return -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


def _around(
    x: Tensor,
    kernel: Lengths,
    strides: Lengths,
    dilations: Lengths,
    before: Lengths,
    after: Lengths,
    counts: Lengths,
    value: float,
) -> tuple[Tensor, Lengths]:
    """Return an image and the padding that is left to the pool: all of it where torch pads in the same way."""
    ends = [
        (count - 1) * stride + (size - 1) * dilation + 1 - length - low
        for count, stride, size, dilation, length, low in zip(counts, strides, kernel, dilations, x.shape[2:], before)
    ]
    native = all(0 <= low == high and 2 * low <= size for low, high, size in zip(before, after, kernel))
    if native and all(end <= low for end, low in zip(ends, before)):
        return x, before
    return _padded(x, before, ends, value), [0] * len(kernel)


def _average_pool(node: Node) -> Operator:
    windows, kernel = _Windows(node, bool(node["ceil_mode"])), node["kernel_shape"]
    include = bool(node["count_include_pad"])

    def run(x: Tensor) -> Tensor:
        strides, dilations, before, after, counts = windows.over(x.shape[2:], kernel)
        sums = _sums(kernel, strides, dilations, before, counts)
        symmetric = all(0 <= low == high and 2 * low <= size for low, high, size in zip(before, after, kernel))
        if symmetric and max(dilations) == 1 and len(kernel) <= 3:
            return _NATIVE["average"][len(kernel) - 1](x, kernel, strides, before, windows.ceil, include)
        counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        if include:
            return sums(x) / sums(_padded(counted, before, after, 1.0), [0] * len(kernel))
        return sums(x) / sums(counted)

    return run


def _sums(
    kernel: Lengths, strides: Lengths, dilations: Lengths, before: Lengths, counts: Lengths
) -> Callable[..., Tensor]:
    """Return a function that sums an image over windows; what lies outside is 0."""

    def run(x: Tensor, before: Lengths = before) -> Tensor:
        ends = [
            (count - 1) * stride + (size - 1) * dilation + 1 - length - low
            for count, stride, size, dilation, length, low in zip(
                counts, strides, kernel, dilations, x.shape[2:], before
            )
        ]
        x = _padded(x, before, ends, 0.0)
        planes = x.reshape(-1, 1, *x.shape[2:])
        ones = torch.ones((1, 1, *kernel), dtype=x.dtype, device=x.device)
        zeros = [0] * len(kernel)
        found = torch.convolution(planes, ones, None, strides, zeros, dilations, False, zeros, 1)
        return found.reshape(*x.shape[:2], *found.shape[2:])

    return run


def _lp_pool(node: Node) -> Operator:
    windows, kernel, power = _Windows(node, bool(node["ceil_mode"])), node["kernel_shape"], node["p"]

    def run(x: Tensor) -> Tensor:
        strides, dilations, before, _, counts = windows.over(x.shape[2:], kernel)
        return _sums(kernel, strides, dilations, before, counts)(x.abs().pow(power)).pow(1 / power)

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
