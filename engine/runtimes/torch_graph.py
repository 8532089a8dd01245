"""Run the ONNX graph of a convolutional network as a torch module, node by node."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import helper, numpy_helper
from torch import Tensor

from ...errors import AurevoirError

Attributes = dict[str, Any]
Operator = Callable[..., Tensor]


class TorchGraph(torch.nn.Module):
    """An ONNX graph with one input as a module that returns a list of outputs.

    Parameters
    ----------
    model : onnx.ModelProto
    dtype : torch.dtype or None
        Type to compute in after normalisation; None keeps the types of the graph.
    """

    def __init__(self, model: onnx.ModelProto, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.input, self.outputs = model.graph.input[0].name, [value.name for value in model.graph.output]
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.names = {name: f"constant_{index}" for index, name in enumerate(constants)}
        for name, value in constants.items():
            tensor = torch.from_numpy(value.copy())
            narrow = dtype and tensor.is_floating_point() and not name.startswith("normalisation_")
            self.register_buffer(self.names[name], tensor.to(dtype) if narrow else tensor)
        self.steps = [(_operator(node, constants), list(node.input), node.output[0]) for node in model.graph.node]
        self.dying = _last_uses(model, self.outputs)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the graph's outputs, floats as float32."""
        values = {self.input: images}
        for (operator, inputs, output), dying in zip(self.steps, self.dying, strict=True):
            values[output] = operator(*(self._value(values, name) for name in inputs if name))
            for name in dying:
                del values[name]
        results = [values[name] for name in self.outputs]
        return [result.float() if result.is_floating_point() else result for result in results]

    def _value(self, values: dict[str, Tensor], name: str) -> Tensor:
        return values[name] if name in values else getattr(self, self.names[name])


def _last_uses(model: onnx.ModelProto, outputs: list[str]) -> list[set[str]]:
    """Return, for each node, the computed tensors that no later node reads."""
    computed = {name for node in model.graph.node for name in node.output}
    seen, dying = set(outputs), []
    for node in reversed(model.graph.node):
        dying.append({name for name in node.input if name in computed} - seen)
        seen.update(node.input)
    return dying[::-1]


def _operator(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Operator:
    if node.op_type not in _OPERATORS:
        raise AurevoirError(
            f"the torch runtime does not support the operator {node.op_type} (node {node.name!r}); "
            "use runtime 'openvino' or 'onnxruntime' for this network"
        )
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise AurevoirError(
            f"the torch runtime does not support auto_pad ({node.op_type} {node.name!r}); export the network with "
            "explicit padding, or use another runtime"
        )
    fixed = [constants[name].tolist() if name in constants else None for name in node.input]
    return _OPERATORS[node.op_type](attributes, fixed)


def _conv(a: Attributes, fixed: list[Any]) -> Operator:
    stride, dilation, groups = a.get("strides", 1), a.get("dilations", 1), a.get("group", 1)
    pads = _symmetric(a)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x, padding = _padded(x.to(weight.dtype), a, pads, 0.0)
        return torch.convolution(x, weight, bias, _pair(stride), padding, _pair(dilation), False, [0, 0], groups)

    return run


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _symmetric(a: Attributes) -> list[int] | None:
    """Return the padding of each axis, or None if the two sides differ."""
    pads = a.get("pads", [0, 0, 0, 0])
    half = len(pads) // 2
    return list(pads[:half]) if pads[:half] == pads[half:] else None


def _padded(x: Tensor, a: Attributes, symmetric: list[int] | None, value: float) -> tuple[Tensor, list[int]]:
    if symmetric is not None:
        return x, symmetric
    top, left, bottom, right = a["pads"]
    return F.pad(x, (left, right, top, bottom), value=value), [0, 0]


def _max_pool(a: Attributes, fixed: list[Any]) -> Operator:
    pads, ceil = _symmetric(a), bool(a.get("ceil_mode", 0))

    def run(x: Tensor) -> Tensor:
        x, padding = _padded(x, a, pads, -torch.inf)
        stride, dilation = a.get("strides", 1), a.get("dilations", 1)
        return F.max_pool2d(x, a["kernel_shape"], stride, padding, dilation, ceil)

    return run


def _average_pool(a: Attributes, fixed: list[Any]) -> Operator:
    pads = _symmetric(a)
    if pads is None:
        raise AurevoirError("the torch runtime needs symmetric padding in AveragePool; use another runtime")
    options = (bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0)))
    return lambda x: F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), pads, *options)


def _batch_norm(a: Attributes, fixed: list[Any]) -> Operator:
    def run(x: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        shift, mean, variance = rest
        epsilon = a.get("epsilon", 1e-5)
        return F.batch_norm(x.to(scale.dtype), mean, variance, scale, shift, eps=epsilon)

    return run


def _clip(a: Attributes, fixed: list[Any]) -> Operator:
    low, high = ([*fixed[1:], None, None])[:2]
    return lambda x, *limits: torch.clamp(x, low, high)


def _gemm(a: Attributes, fixed: list[Any]) -> Operator:
    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x.T if a.get("transA") else x
        product: Tensor = a.get("alpha", 1.0) * (x @ (weight.T if a.get("transB") else weight))
        return product if bias is None else product + a.get("beta", 1.0) * bias

    return run


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Make a binary operator that computes in the dtype of the activation, the input that is not constant."""

    def make(a: Attributes, fixed: list[Any]) -> Operator:
        def run(x: Tensor, y: Tensor) -> Tensor:
            wide = y if fixed[0] is not None else x
            return function(x.to(wide.dtype), y.to(wide.dtype))

        return run

    return make


def _unary(function: Callable[[Tensor], Tensor]) -> Any:
    return lambda a, fixed: function


def _reduce_mean(a: Attributes, fixed: list[Any]) -> Operator:
    axes = fixed[1] if len(fixed) > 1 else a.get("axes")
    return lambda x, *rest: x.mean(dim=axes, keepdim=bool(a.get("keepdims", 1)))


def _reshape(a: Attributes, fixed: list[Any]) -> Operator:
    if fixed[1] is None:
        raise AurevoirError("the torch runtime needs a constant shape in Reshape; use another runtime")

    def run(x: Tensor, shape: Tensor) -> Tensor:
        return x.reshape([x.shape[axis] if length == 0 else length for axis, length in enumerate(fixed[1])])

    return run


def _pad(a: Attributes, fixed: list[Any]) -> Operator:
    value = fixed[2] if len(fixed) > 2 and fixed[2] is not None else 0.0
    half = len(fixed[1]) // 2
    sides = [side for axis in reversed(range(half)) for side in (fixed[1][axis], fixed[1][axis + half])]
    return lambda x, *rest: F.pad(x, sides, mode=a.get("mode", b"constant").decode(), value=value)


def _cast(a: Attributes, fixed: list[Any]) -> Operator:
    kinds = {
        onnx.TensorProto.FLOAT: torch.float32,
        onnx.TensorProto.FLOAT16: torch.float16,
        onnx.TensorProto.UINT8: torch.uint8,
    }
    return lambda x: x.to(kinds[a["to"]])


_OPERATORS: dict[str, Callable[[Attributes, list[Any]], Operator]] = {
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, fixed: lambda *parts: torch.cat(parts, dim=a["axis"]),
    "Conv": _conv,
    "Div": _binary(torch.div),
    "Flatten": lambda a, fixed: lambda x: x.flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, fixed: lambda x: x.mean(dim=(2, 3), keepdim=True),
    "Greater": _binary(torch.gt),
    "HardSigmoid": lambda a, fixed: lambda x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "LRN": lambda a, fixed: lambda x: F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["bias"]),
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sub": _binary(torch.sub),
    "Transpose": lambda a, fixed: lambda x: x.permute(a["perm"]),
}
