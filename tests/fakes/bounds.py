"""Small ONNX networks, and how far their int8 graph may be from the float graph: the bound that its scales imply."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from aurevoir.calibration.graph.edit import initializers, node_attribute, prune, read_constant
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone

SIZE = 8


class Net:
    """A network on images of 3 x 8 x 8, written node by node; arrays among the inputs become constants."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants, self.shapes = [], {}, {}

    def weights(self, *shape):
        return self.random.normal(size=shape).astype("float32")

    def constant(self, value, name=None):
        name = name or f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, kind, *inputs, name=None, **attributes):
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = name or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def reshape(self, name, *shape):
        return self.add("Reshape", name, np.array(shape, "int64"))

    def model(self, output, opset=18):
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        onnx.checker.check_model(made, full_check=True)
        return made

    def exported(self, folder, output, opset=18):
        onnx.save(self.model(output, opset), folder / "net.onnx")
        return export_backbone(open_backbone(folder / "net.onnx"))


def images(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype="uint8")


def bound(exact, quantized, pixels, slack):
    """Return the features of a float graph, and how far from them those of its Q/DQ graph may be.

    Walks the Q/DQ graph with the values of the float graph and the largest error of each. Q adds half a level; with
    thresholds by method ``max`` clipping adds nothing. `slack` is the relative rounding of what is computed in floats.
    """
    exact, quantized = (prune(model, ["features"]) for model in (exact, quantized))
    floats, constants = initializers(exact), initializers(quantized)
    originals = {node.output[0]: node for node in exact.graph.node}
    found = {name: (value := _double(read_constant(constants, name)), value * 0) for name in constants}
    found["images"] = (_double(pixels), torch.zeros(pixels.shape, dtype=torch.float64))
    for node in quantized.graph.node:
        inputs = [found[name] for name in node.input if name]
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            inputs = _with_originals(inputs, node, originals[node.output[0]], floats)
            value, error = _product(node, inputs, slack)
        elif node.op_type == "Add" and node.output[0] not in originals:
            # The correction of a bias that is computed.
            value, error = inputs[0][0], inputs[0][1] + inputs[1][0].abs()
        else:
            value, error = _simple(node, inputs, [_list(constants, name) for name in node.input])
            error = error + slack * value.abs()
        found[node.output[0]] = value, error
    return tuple(part.numpy() for part in found["features"])


def _double(array):
    return torch.tensor(np.asarray(array)).double()


def _list(constants, name):
    return read_constant(constants, name).tolist() if name in constants else None


def _with_originals(inputs, node, original, floats):
    """Weights and biases with their exact values, and the errors that rounding and correction make."""
    for index, name in enumerate(original.input[1:], 1):
        if name in floats:
            exact = _double(read_constant(floats, name))
            inputs[index] = exact, (inputs[index][0] - exact).abs() + inputs[index][1]
    if len(node.input) > 2 and not "".join(original.input[2:]):
        inputs[2] = torch.zeros_like(inputs[2][0]), inputs[2][0].abs()
    return inputs


def _product(node, inputs, slack):
    (x, e), (w, d) = inputs[:2]
    alpha, beta = node_attribute(node, "alpha", 1.0), node_attribute(node, "beta", 1.0)
    value = _linear(node, x, w) * alpha
    largest = _linear(node, x.abs() + e, w.abs() + d) * abs(alpha)
    error = largest - _linear(node, x.abs(), w.abs()) * abs(alpha)
    if len(inputs) > 2:
        b, f = (part * beta if torch.is_tensor(part) else part for part in inputs[2])
        shape = (-1, *[1] * (x.ndim - 2)) if node.op_type.startswith("Conv") else b.shape
        value, error, largest = (
            value + b.reshape(shape),
            error + (b * 0 + f).abs().reshape(shape),
            largest + b.abs().reshape(shape),
        )
    return value, error + slack * largest


def _linear(node, x, w):
    if node.op_type == "MatMul":
        return x @ w
    if node.op_type == "Gemm":
        return (x.mT if node_attribute(node, "transA", 0) else x) @ (w.mT if node_attribute(node, "transB", 0) else w)
    axes = x.ndim - 2
    pads = node_attribute(node, "pads", [0] * 2 * axes)
    options = {
        "stride": tuple(node_attribute(node, "strides", [1] * axes)),
        "dilation": tuple(node_attribute(node, "dilations", [1] * axes)),
        "groups": node_attribute(node, "group", 1),
    }
    if node.op_type == "ConvTranspose":
        extra = tuple(node_attribute(node, "output_padding", [0] * axes))
        function = getattr(functional, f"conv_transpose{axes}d")
        return function(x, w, padding=tuple(pads[:axes]), output_padding=extra, **options)
    padding = [pad for axis in reversed(range(axes)) for pad in (pads[axis], pads[axis + axes])]
    return getattr(functional, f"conv{axes}d")(functional.pad(x, padding), w, **options)


def _simple(node, inputs, lists):
    """The operators that are not products, each with its effect on values and errors."""
    (x, e), kind = inputs[0], node.op_type
    if kind in _LINEAR:
        function = _LINEAR[kind]
        return function(node, lists, x), function(node, lists, e)
    if kind == "DequantizeLinear":
        if lists[0] is None:
            return x, e
        shape = [-1 if axis == node_attribute(node, "axis", 1) else 1 for axis in range(x.ndim)]
        return x * inputs[1][0].reshape(shape), e
    if kind == "Concat":
        axis = node_attribute(node, "axis", 1)
        return tuple(torch.cat(parts, axis) for parts in zip(*inputs, strict=True))
    if kind == "BatchNormalization":
        scale, shift, mean, variance = (part.reshape(-1, 1, 1) for part, _ in inputs[1:5])
        gain = scale / (variance + 1e-5).sqrt()
        return gain * (x - mean) + shift, gain.abs() * e
    return _ERRORS[kind](x, e, *(part for pair in inputs[1:] for part in pair))


_LINEAR = {
    "Cast": lambda node, lists, x: x,
    "Identity": lambda node, lists, x: x,
    "Transpose": lambda node, lists, x: x.permute(node_attribute(node, "perm", None)),
    "Reshape": lambda node, lists, x: x.reshape([n or x.shape[axis] for axis, n in enumerate(lists[1])]),
    "Flatten": lambda node, lists, x: x.flatten(1),
    "MaxPool": lambda node, lists, x: functional.max_pool2d(x, node_attribute(node, "kernel_shape", None), 1),
    "GlobalAveragePool": lambda node, lists, x: x.mean((2, 3), keepdim=True),
}
"""What maps values and their errors alike."""

_ERRORS = {
    "QuantizeLinear": lambda x, e, scale, *_: (x, e + scale / 2),
    "Clip": lambda x, e, low, _, high, __: (x.clamp(low, high), e),
    "Relu": lambda x, e: (x.relu(), e),
    "Neg": lambda x, e: (-x, e),
    "Sigmoid": lambda x, e: (x.sigmoid(), e / 4),
    "Add": lambda x, e, y, f: (x + y, e + f),
    "Mul": lambda x, e, y, f: (x * y, x.abs() * f + y.abs() * e + e * f),
}
