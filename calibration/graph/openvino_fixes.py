"""What OpenVINO computes otherwise than ONNX means it: written so that it does not, or refused."""

from functools import cache
from math import gcd
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...errors import AurevoirError
from .edit import (
    POOLED_PREFIX,
    constant,
    initializers,
    merged,
    node_attribute,
    opset,
    read_constant,
    replace_nodes,
    tensor_names,
    tensor_shapes,
    unused,
)
from .windows import POOLS, is_undecided, make_windows_explicit

_MOVES = {"Concat", "MaxPool"}
_PASSED = _MOVES | {"QuantizeLinear", "DequantizeLinear"}
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_REDUCTIONS = {"ReduceL1", "ReduceLogSum", "ReduceLogSumExp"}

_LAST_OF_THREE = ([-1], [2])
"""Axes of a reduction of (batch, channels, places) over the places."""
_SOFTMAX_OF_ONE_AXIS = 13
_SUM_OF_AXES = 13
"""The opsets from which Softmax is along one axis, and ReduceSum has its axes as an input."""


def as_openvino_reads(model: onnx.ModelProto, kept: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Rewrite what OpenVINO (seen in 2026.4) reads otherwise than ONNX means it, in place; return the model.

    Windows become explicit (see `windows`); ReduceL1, ReduceLogSum and ReduceLogSumExp, of which it ignores the
    attribute ``axes``, become simpler operators; a reduction of the last of three axes, to whose rows it adds a vector
    wrongly, gets a fourth, unless its name begins with one of `kept`; a Softmax before opset 13, which it computes
    along one axis only, is converted.
    """
    if opset(model) < _SOFTMAX_OF_ONE_AXIS and any(node.op_type == "Softmax" for node in model.graph.node):
        model.CopyFrom(onnx.version_converter.convert_version(model, _SOFTMAX_OF_ONE_AXIS))
    misread = [node for node in model.graph.node if node.op_type in _REDUCTIONS and _is_misread(node)]
    taken = tensor_names(model)
    replace_nodes(model, {node.output[0]: _simpler_reduction(model, node, taken) for node in misread})
    _reduce_in_four_axes(model, kept, taken)
    return make_windows_explicit(offset_around_concats(model))


def omit_zero_points(model: onnx.ModelProto) -> None:
    """Leave out zero-points of 0 that levels of a known type do not need, in place: OpenVINO would subtract them."""
    constants = initializers(model)
    for node in model.graph.node:
        given = node.op_type == "DequantizeLinear" and len(node.input) > 2 and node.input[2] in constants
        if given and not read_constant(constants, node.input[2]).any():
            del node.input[2:]


def misread_by_openvino(model: onnx.ModelProto) -> str | None:
    """Return the first thing in a graph that OpenVINO computes otherwise than ONNX means it, or None."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "MaxPool" and not read.isdisjoint(node.output[1:]):
            return f"the indices of MaxPool node {node.name!r}"
        if node.op_type == "LRN" and node_attribute(node, "size", 1) % 2 == 0:
            return f"the even size of LRN node {node.name!r}"
        resized = [each for each in ("exclude_outside", "antialias") if node_attribute(node, each, 0)]
        if node.op_type == "Resize" and resized:
            return f"{resized[0]} of Resize node {node.name!r}"
        if is_undecided(node):
            return f"output_shape or auto_pad of ConvTranspose node {node.name!r}"
        if node.op_type in POOLS and node_attribute(node, "ceil_mode", 0):
            return f"ceil_mode of {node.op_type} node {node.name!r} on an image of unknown size"
    return None


def _is_misread(node: onnx.NodeProto) -> bool:
    return node.op_type == "ReduceLogSum" or node_attribute(node, "axes", None) is not None


def _simpler_reduction(model: onnx.ModelProto, node: onnx.NodeProto, taken: set[str]) -> list[onnx.NodeProto]:
    """Return a ReduceL1, ReduceLogSum or ReduceLogSumExp as other operators."""
    image, output = node.input[0], node.output[0]

    @cache
    def named(part: str) -> str:
        return unused(f"{output}_{part}", taken)

    def reduced(kind: str, source: str, to: str, **changed: int) -> onnx.NodeProto:
        given = {item.name: helper.get_attribute_value(item) for item in node.attribute} | changed
        inputs = [source, *node.input[1:]]
        if kind == "ReduceSum" and "axes" in given and opset(model) >= _SUM_OF_AXES:
            axes = constant(model, named("axes"), np.array(given["axes"]))
            inputs, given = [source, axes], {key: value for key, value in given.items() if key != "axes"}
        return helper.make_node(kind, inputs, [to], **given)

    if node.op_type == "ReduceL1":
        return [helper.make_node("Abs", [image], [named("sizes")]), reduced("ReduceSum", named("sizes"), output)]
    if node.op_type == "ReduceLogSum":
        return [reduced("ReduceSum", image, named("sum")), helper.make_node("Log", [named("sum")], [output])]
    # Less the largest, so that nothing overflows.
    return [
        reduced("ReduceMax", image, named("largest"), keepdims=1),
        helper.make_node("Sub", [image, named("largest")], [named("less")]),
        helper.make_node("Exp", [named("less")], [named("powers")]),
        reduced("ReduceSum", named("powers"), named("sum")),
        helper.make_node("Log", [named("sum")], [named("log")]),
        reduced("ReduceMax", image, named("most")),
        helper.make_node("Add", [named("log"), named("most")], [output]),
    ]


def _reduce_in_four_axes(model: onnx.ModelProto, kept: tuple[str, ...], taken: set[str]) -> None:
    """Reduce (batch, channels, places) as (batch, channels, places, 1), where a vector may follow, in place."""
    found = [
        node
        for node in model.graph.node
        if node.op_type.startswith("Reduce")
        and not node.name.startswith(kept)
        and _reduced_axes(model, node) in _LAST_OF_THREE
    ]
    shapes = tensor_shapes(model) if found else {}
    reduced = [node for node in found if len(shapes.get(node.input[0], ())) == 3]
    replace_nodes(
        model, {node.output[0]: _in_four_axes(_Appended(model, node.output[0], taken), node) for node in reduced}
    )


def _reduced_axes(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int] | None:
    axes = node_attribute(node, "axes", None)
    if axes is not None or len(node.input) < 2 or node.input[1] not in initializers(model):
        return None if axes is None else list(axes)
    found: list[int] = read_constant(initializers(model), node.input[1]).tolist()
    return found


def _in_four_axes(add: "_Appended", node: onnx.NodeProto) -> list[onnx.NodeProto]:
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    axes = [add.constant(np.array([2]))] if len(node.input) > 1 else []
    given |= {"axes": [2]} if "axes" in given else {}
    more = add("Reshape", node.input[0], add.constant(np.array([0, 0, 0, 1])))
    reduced = add(node.op_type, more, *axes, **given)
    shape = add.constant(np.array([0, 0, -1] if given.get("keepdims", 1) else [0, -1]))
    return [*add.nodes, helper.make_node("Reshape", [reduced, shape], [node.output[0]], name=node.name)]


def offset_around_concats(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store signed levels between a Concat and a convolution as uint8 with zero-point 128, not int8 with 0.

    The values are the same. OpenVINO (seen in 2026.4) computes convolutions incorrectly, with a relative
    error of about 0.3, if their int8 input passes through a Concat; uint8 avoids this. Other levels stay
    int8, because OpenVINO converts levels with a zero-point in a separate step, and fails to compile matrix products
    of concatenated tokens with one.

    Parameters
    ----------
    model : onnx.ModelProto
        A Q/DQ graph from `quantize`; modified in place.

    Returns
    -------
    onnx.ModelProto
        The same model.

    Raises
    ------
    AurevoirError
        If an average pool pads such levels, because OpenVINO then pads with level 0 instead of the value 0.
    """
    near = _near_concats(model)
    tensors = initializers(model).items()
    signed = {name for name, tensor in tensors if tensor.data_type == TensorProto.INT8 and not tensor.dims}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    moved = [node for node in pairs if node.output[0] in near and node.input[2] in signed]
    if moved:
        _refuse_padding(model, {node.output[0] for node in moved if node.op_type == "DequantizeLinear"})
        zero = constant(model, unused("offset_zero", tensor_names(model)), np.array(128, "uint8"))
        for node in moved:
            node.input[2] = zero
    return model


def _near_concats(model: onnx.ModelProto) -> set[str]:
    """Return the tensors connected to both a Concat and a convolution's input only by moves, Q and DQ."""
    passing = [node for node in model.graph.node if node.op_type in _PASSED]
    concats = {node.output[0] for node in passing if node.op_type == "Concat"}
    read = {node.input[0] for node in model.graph.node if node.op_type in _CONVOLUTIONS}
    moved = ([*(node.input if node.op_type == "Concat" else node.input[:1]), node.output[0]] for node in passing)
    groups = (group for group in merged(moved) if not concats.isdisjoint(group) and not read.isdisjoint(group))
    return {name for group in groups for name in group}


def raise_averages(model: onnx.ModelProto) -> None:
    """Take the larger of an average pool's output and the least value of the levels that follow, in place.

    The levels stay what they are. OpenVINO (seen in 2026.4) fuses a quantization into an elementwise operator; of the
    pool itself, in floats, it would make a node in float32 with channels in blocks, and reorder the input of every
    convolution behind it. A Clip, or an operand of one element, would be optimized away.
    """
    pools = {node.output[0]: node for node in model.graph.node if node.op_type == "AveragePool"}
    read = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in pools]
    shapes, constants, taken = tensor_shapes(model) if read else {}, initializers(model), tensor_names(model)
    replaced = {}
    for node in read:
        pooled = node.input[0]
        channels = (shapes.get(pooled) or [None, None])[1]
        if channels is None or not constants.keys() >= {*node.input[1:3]}:
            continue
        scale, zero = (read_constant(constants, name) for name in node.input[1:3])
        if scale.size > 1:
            continue
        least = scale * np.float32(int(np.iinfo(zero.dtype).min) - int(zero))
        bounds = np.full((channels, *[1] * (len(shapes[pooled]) - 2)), least, "float32")
        bound = constant(model, unused(f"{pooled}_least", taken), bounds[None])
        raised = unused(f"{pooled}_raised", taken)
        level = helper.make_node(node.op_type, [raised, *node.input[1:]], node.output, name=node.name)
        level.attribute.extend(node.attribute)
        replaced[node.output[0]] = [helper.make_node("Max", [pooled, bound], [raised], name=raised), level]
    replace_nodes(model, replaced)


def _refuse_padding(model: onnx.ModelProto, dequantized: set[str]) -> None:
    carried = set(dequantized)
    for node in model.graph.node:
        if node.op_type in _MOVES and not carried.isdisjoint(node.input):
            carried.add(node.output[0])
        pads = node.op_type == "AveragePool" and any(node_attribute(node, "pads", ()))
        if pads and node_attribute(node, "count_include_pad", 0) and node.input[0] in carried:
            raise AurevoirError(
                f"OpenVINO computes average pools with padding incorrectly on signed levels of a concatenation "
                f"({node.output[0]}); use activation dtype uint8, or placement conv-inputs"
            )


def exact_in_bf16(model: onnx.ModelProto, prefixes: tuple[str, ...]) -> onnx.ModelProto:
    """Rewrite what follows the features in float32 for OpenVINO's bf16, in place; return the model.

    OpenVINO rounds the outputs of integer products to bf16, which holds whole numbers up to 256. So a product y of bits
    with bits becomes two: the first gives a whole h near y / 256, and the second, with h for further inputs, gives
    y - 256 h. Other int8 entries are halved, into four bits each, and their products are sums of 32, to be added
    in float32. And from the last matrix product that is not marked to stay in float32 (see `runtimes.on_openvino`)
    OpenVINO computes in float32: a classifier's bits, and the features of channel means, pass one that changes
    nothing, so that the network before them is computed as in an engine of bits, which ends in one.

    Parameters
    ----------
    model : onnx.ModelProto
    prefixes : tuple of str
        What the names of those nodes begin with.
    """
    made, taken = {name: node for node in model.graph.node for name in node.output}, tensor_names(model)
    replaced = {}
    for node in model.graph.node:
        before = [made[name] for name in node.input if name in made]
        if not node.name.startswith(prefixes):
            continue
        kinds = [each.op_type for each in before]
        if node.op_type == "MatMul" and kinds == ["DequantizeLinear"] * 2:
            replaced[node.output[0]] = _split_product(
                _Appended(model, node.output[0], taken), node, before[0], before[1]
            )
        elif _to_float(node) and (kinds == ["Greater"] or node.name.startswith(f"{POOLED_PREFIX}float")):
            replaced[node.output[0]] = _with_product(model, node, taken)
    replace_nodes(model, replaced)
    return model


def _to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and node_attribute(node, "to", 0) == TensorProto.FLOAT


def _with_product(model: onnx.ModelProto, cast: onnx.NodeProto, taken: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes of a cast and of a product with an identity matrix, which OpenVINO does not see to be one."""
    out = cast.output[0]
    shape = tensor_shapes(model)[out]
    width = gcd(shape[-1] or 1, 8)
    names = [
        constant(model, unused(f"{out}_{name}", taken), value)
        for name, value in (
            ("rows", np.array([-1, width])),
            ("identity", np.eye(width, dtype="float32")),
            ("shape", np.array([-1, shape[-1] or 1])),
        )
    ]
    # No name of the prefix: a product that stays in float32 would not count.
    bits, rows, same = (unused(f"bits_{out}{end}", taken) for end in ("", "_rows", "_same"))
    return [
        helper.make_node("Cast", cast.input, [bits], name=bits, to=TensorProto.FLOAT),
        helper.make_node("Reshape", [bits, names[0]], [rows], name=rows),
        helper.make_node("MatMul", [rows, names[1]], [same], name=same),
        helper.make_node("Reshape", [same, names[2]], [out], name=out),
    ]


_MOST_COUNTED = 1 << 16
"""Products of so many bits at most are less than 256 * 256, and bf16 is wrong about them by less than 128."""


class _Appended:
    """New nodes of a graph, named after a node that they replace."""

    def __init__(self, model: onnx.ModelProto, out: str, taken: set[str]) -> None:
        self.model, self.out, self.taken, self.nodes = model, out, taken, list[onnx.NodeProto]()

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = unused(f"{self.out}_{len(self.nodes)}", self.taken)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any) -> str:
        name = f"{self.out}_constant_{len(self.model.graph.initializer)}"
        return constant(self.model, unused(name, self.taken), np.asarray(value))

    def part(self, x: str, start: int, end: int, axis: int) -> str:
        """Append a slice along an axis."""
        return self("Slice", x, *(self.constant(np.array([at])) for at in (start, end, axis)))


def _split_product(
    add: _Appended, node: onnx.NodeProto, bits: onnx.NodeProto, matrix: onnx.NodeProto
) -> list[onnx.NodeProto]:
    """Return the nodes of a product, of the dequantized bits and of a dequantized matrix, that is exact in bf16."""
    model, levels = add.model, matrix.input[0]
    tensors = initializers(model)
    known = tensors[levels].dims if levels in tensors else tensor_shapes(model)[levels]
    m, columns = (length or 0 for length in known)
    quantize = next(each for each in model.graph.node if each.output[0] == bits.input[0])
    if levels in tensors and np.abs(read_constant(tensors, levels).astype("int16")).max(initial=0) > 1:
        last = _halved(add, bits.input[0], read_constant(tensors, levels).astype("int16"), list(matrix.input[1:]))
    else:
        counts = [
            _counted(add, quantize.input[0], levels, which, columns)
            for which in (range(start, min(m, start + _MOST_COUNTED)) for start in range(0, m, _MOST_COUNTED))
        ]
        last = add("Sum", *counts)
    add.nodes.append(helper.make_node("Identity", [last], [node.output[0]], name=node.output[0]))
    return add.nodes


def _counted(add: _Appended, bits: str, levels: str, which: range, columns: int) -> str:
    """Append the product of some of the bits with the same rows of a matrix of zeros and ones."""
    one, zero = add.constant(np.float32(1)), add.constant(np.uint8(0))
    signed = add.constant(np.int8(0))
    some, rows = add.part(bits, which.start, which.stop, 1), add.part(levels, which.start, which.stop, 0)

    def product(x: str, matrix: str) -> str:
        quantized = add("QuantizeLinear", x, one, zero)
        left = add("DequantizeLinear", quantized, one, zero)
        return add("MatMul", left, add("DequantizeLinear", matrix, one, signed))

    base = add.constant(np.float32(256))
    high = add("Round", add("Div", product(some, rows), base))
    half = add.constant(np.diag(np.full(columns, -128, "int8")))
    low = product(add("Concat", some, high, high, axis=1), add("Concat", rows, half, half, axis=0))
    return add("Add", add("Mul", high, base), low)


def _halved(add: _Appended, levels: str, values: np.ndarray, scales: list[str]) -> str:
    """Append the product with a matrix of int8, each entry as two of four bits, in sums of 32."""
    part, (m, columns) = 32, values.shape
    high = (values + 8) >> 4
    count = -(-m // part)
    halves = np.zeros((count * part, 2 * columns), "int8")
    halves[:m] = np.concatenate([high, values - 16 * high], axis=1)
    padded = add("Pad", levels, add.constant(np.array([0, 0, 0, count * part - m])))
    apart = add("Reshape", padded, add.constant(np.array([-1, count, part])))
    left = add("DequantizeLinear", add("Transpose", apart, perm=[1, 0, 2]), *scales)
    right = add("DequantizeLinear", add.constant(halves.reshape(count, part, -1)), *scales)
    sums = add("ReduceSum", add("MatMul", left, right), add.constant(np.array([0])), keepdims=0)
    both = add("Reshape", sums, add.constant(np.array([-1, 2, columns])))
    weighed = add("Mul", both, add.constant(np.array([[[16.0], [1.0]]], "float32")))
    return add("ReduceSum", weighed, add.constant(np.array([1])), keepdims=0)
