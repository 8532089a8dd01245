"""torch's operators as ONNX nodes, for `torch_trace`.

A writer takes the graph, what the call returned, and all the call's arguments in the order of its schema; where it does
not know an argument's value, it raises `UnsupportedError`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch


class UnsupportedError(Exception):
    """What `torch_trace` does not write."""


class Graph(Protocol):
    """A graph that is being written."""

    def node(self, kind: str, inputs: Sequence[Any], out: Any = None, **attributes: Any) -> str:
        """Add a node and return its first output's name.

        Parameters
        ----------
        kind : str
            Of ONNX's operators.
        inputs : sequence
            Tensors, names that `node` returned, arrays, numbers, which are float32, and None for what is left out.
        out : torch.Tensor or list of them, optional
            What the call returned, if this node computes it.
        attributes : Any
            Of the node.
        """

    def same(self, out: torch.Tensor, source: torch.Tensor) -> None:
        """Note that a call returns what it was given."""


def _refuse(condition: object, what: str) -> None:
    if condition:
        raise UnsupportedError(what)


def _pair(values: Sequence[Any]) -> list[Any]:
    return [*values, *values] if len(values) == 1 else list(values)


def _conv2d(
    graph: Graph, out: Any, image: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    kernel, dilation = list(weight.shape[2:]), _pair(dilation)
    if isinstance(padding, str):
        spans = [step * (length - 1) if padding == "same" else 0 for step, length in zip(dilation, kernel, strict=True)]
        pads = [*(span // 2 for span in spans), *(span - span // 2 for span in spans)]
    else:
        pads = _pair(padding) * 2
    graph.node(
        "Conv",
        [image, weight, bias],
        out,
        strides=_pair(stride),
        pads=pads,
        dilations=dilation,
        group=groups,
        kernel_shape=kernel,
    )


def _batch_norm(
    graph: Graph,
    out: Any,
    image: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> None:
    _refuse(training, "batch_norm in training")
    channels = image.shape[1]
    scale = np.ones(channels, "float32") if weight is None else weight
    shift = np.zeros(channels, "float32") if bias is None else bias
    graph.node("BatchNormalization", [image, scale, shift, mean, variance], out, epsilon=eps)


def _layer_norm(
    graph: Graph, out: Any, image: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float, cudnn: bool
) -> None:
    scale = np.ones(shape, "float32") if weight is None else weight
    graph.node("LayerNormalization", [image, scale, bias], out, axis=-len(shape), epsilon=eps)


def _linear(graph: Graph, out: Any, image: Any, weight: Any, bias: Any) -> None:
    if image.dim() == 2:
        graph.node("Gemm", [image, weight, bias], out, transB=1)
        return
    turned = graph.node("Transpose", [weight], perm=[1, 0])
    product = graph.node("MatMul", [image, turned], out if bias is None else None)
    if bias is not None:
        graph.node("Add", [product, bias], out)


def _max_pool2d(
    graph: Graph, out: Any, image: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> None:
    kernel = _pair(kernel)
    stride = _pair(stride) if stride else kernel
    padding, dilation = _pair(padding), _pair(dilation)
    reach = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
    places = [side + 2 * pad - far - 1 for side, pad, far in zip(image.shape[2:], padding, reach, strict=True)]
    rounded = ceil_mode and any(place % step for place, step in zip(places, stride, strict=True))
    # Behind the last pixel, torch leaves out windows that begin in the padding; ONNX does not.
    further = any(padding) or any(step > far + 1 for step, far in zip(stride, reach, strict=True))
    _refuse(rounded and further, "max_pool2d of padded images, rounded up")
    graph.node(
        "MaxPool",
        [image],
        out,
        kernel_shape=kernel,
        strides=stride,
        pads=padding * 2,
        dilations=dilation,
        ceil_mode=int(rounded),
    )


def _avg_pool2d(
    graph: Graph,
    out: Any,
    image: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> None:
    _refuse(ceil_mode or divisor, "avg_pool2d rounded up, or with a divisor")
    kernel = _pair(kernel)
    graph.node(
        "AveragePool",
        [image],
        out,
        kernel_shape=kernel,
        strides=_pair(stride) if stride else kernel,
        pads=_pair(padding) * 2,
        count_include_pad=int(count_include_pad),
    )


def _adaptive_avg_pool2d(graph: Graph, out: Any, image: Any, size: Any) -> None:
    before, after = list(image.shape[2:]), list(out.shape[2:])
    if after == [1, 1]:
        _mean(graph, out, image, (2, 3), True, None)
    elif before == after:
        graph.same(out, image)
    else:
        _refuse(any(a % b for a, b in zip(before, after, strict=True)), "adaptive_avg_pool2d of windows of two sizes")
        kernel = [a // b for a, b in zip(before, after, strict=True)]
        graph.node("AveragePool", [image], out, kernel_shape=kernel, strides=kernel)


def _mean(graph: Graph, out: Any, image: Any, axes: Any, keepdim: bool, dtype: Any) -> None:
    graph.node("ReduceMean", [image, np.array(sorted(axis % image.dim() for axis in axes))], out, keepdims=int(keepdim))


def _cat(graph: Graph, out: Any, tensors: Any, axis: int) -> None:
    if len(tensors) == 1:
        graph.same(out, tensors[0])
    else:
        graph.node("Concat", tensors, out, axis=axis % out.dim())


def _reshape(graph: Graph, out: Any, image: Any, *_: Any) -> None:
    graph.node("Reshape", [image, np.array([-1, *out.shape[1:]])], out)


def _permute(graph: Graph, out: Any, image: Any, axes: Any) -> None:
    graph.node("Transpose", [image], out, perm=[axis % image.dim() for axis in axes])


def _transpose(graph: Graph, out: Any, image: Any, first: int, second: int) -> None:
    axes = list(range(image.dim()))
    axes[first], axes[second] = axes[second], axes[first]
    graph.node("Transpose", [image], out, perm=axes)


def _split(graph: Graph, out: Any, image: Any, sizes: Any, axis: int) -> None:
    graph.node("Split", [image, np.array([each.shape[axis] for each in out])], list(out), axis=axis % image.dim())


def _slice(graph: Graph, out: Any, image: Any, axis: int, start: int | None, end: int | None, step: int) -> None:
    axis %= image.dim()
    if out.shape[axis] == image.shape[axis]:
        graph.same(out, image)
        return
    places = (start or 0, min(image.shape[axis], np.iinfo("int64").max if end is None else end), axis, step)
    graph.node("Slice", [image, *(np.array([place]) for place in places)], out)


def _pad(graph: Graph, out: Any, image: Any, pads: Sequence[int], mode: str, value: float | None) -> None:
    _refuse(mode != "constant" or len(pads) > 2 * (image.dim() - 1), f"padding of mode {mode}")
    missing = [0] * (image.dim() - len(pads) // 2)
    before, after = [*missing, *pads[-2::-2]], [*missing, *pads[:0:-2]]
    graph.node("Pad", [image, np.array([*before, *after]), value or 0.0], out)


def _same(graph: Graph, out: Any, image: Any, *_: Any) -> None:
    graph.same(out, image)


def _dropout(graph: Graph, out: Any, image: Any, p: float, train: bool) -> None:
    _refuse(train, "dropout in training")
    graph.same(out, image)


def _clip(graph: Graph, out: Any, image: Any, low: Any, high: Any) -> None:
    graph.node("Clip", [image, low, high], out)


def _relu6(graph: Graph, out: Any, image: Any) -> None:
    graph.node("Clip", [image, 0.0, 6.0], out)


def _silu(graph: Graph, out: Any, image: Any) -> None:
    graph.node("Mul", [image, graph.node("Sigmoid", [image])], out)


def _gelu(graph: Graph, out: Any, image: Any, approximate: str) -> None:
    _refuse(approximate != "none", f"gelu of approximation {approximate!r}")
    error = graph.node("Erf", [graph.node("Div", [image, math.sqrt(2)])])
    graph.node("Mul", [graph.node("Mul", [image, graph.node("Add", [error, 1.0])]), 0.5], out)


def _unary(kind: str, **attributes: Any) -> Callable[..., None]:
    def write(graph: Graph, out: Any, image: Any) -> None:
        graph.node(kind, [image], out, **attributes)

    return write


def _leaky_relu(graph: Graph, out: Any, image: Any, slope: float) -> None:
    graph.node("LeakyRelu", [image], out, alpha=slope)


def _binary(kind: str) -> Callable[..., None]:
    def write(graph: Graph, out: Any, first: Any, second: Any, alpha: float = 1) -> None:
        _refuse(alpha != 1, f"{kind} with alpha")
        graph.node(kind, [first, second], out)

    return write


def _rsub(graph: Graph, out: Any, second: Any, first: Any, alpha: float) -> None:
    _binary("Sub")(graph, out, first, second, alpha)


WRITERS: dict[str, Callable[..., None]] = {
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "add": _binary("Add"),
    "avg_pool2d": _avg_pool2d,
    "batch_norm": _batch_norm,
    "cat": _cat,
    "chunk": _split,
    "clamp": _clip,
    "clone": _same,
    "contiguous": _same,
    "conv2d": _conv2d,
    "div": _binary("Div"),
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "flatten": _reshape,
    "gelu": _gelu,
    "hardsigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _unary("HardSwish"),
    "hardtanh": _clip,
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "mean": _mean,
    "mul": _binary("Mul"),
    "pad": _pad,
    "permute": _permute,
    "relu": _unary("Relu"),
    "relu6": _relu6,
    "reshape": _reshape,
    "rsub": _rsub,
    "sigmoid": _unary("Sigmoid"),
    "silu": _silu,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _reshape,
    "sub": _binary("Sub"),
    "swapaxes": _transpose,
    "tanh": _unary("Tanh"),
    "transpose": _transpose,
    "unflatten": _reshape,
    "unsqueeze": _reshape,
    "view": _reshape,
}
"""Writers by the name of torch's operator."""


def _like(image: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(image)


def _padded(image: torch.Tensor, pads: Sequence[int], *_: Any) -> torch.Tensor:
    shape = list(image.shape)
    for index, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        shape[-1 - index] += before + after
    return image.new_empty(shape)


def _averaged(image: torch.Tensor, size: Sequence[int | None]) -> torch.Tensor:
    height, width = (after or before for after, before in zip(_pair(size), image.shape[2:], strict=True))
    return image.new_empty([*image.shape[:2], height, width])


RESULTS: dict[str, Callable[..., torch.Tensor]] = {
    "adaptive_avg_pool2d": _averaged,
    "batch_norm": _like,
    "gelu": _like,
    "hardswish": _like,
    "layer_norm": _like,
    "pad": _padded,
    "silu": _like,
}
"""What operators return that torch asks for the number of images, or for which it takes long, by their names."""
