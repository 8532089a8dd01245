"""Convert the float parts of a graph to float16, for strongly typed runtimes.

TensorRT 11 and TensorRT-RTX compute every tensor in its type in the graph, so tensors that are not
quantized would run in float32. This module converts them to float16.
"""

import copy
from collections.abc import Collection, Iterable
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import AurevoirError
from .edit import (
    POOLED,
    POOLED_PREFIX,
    constant,
    initializers,
    node_attribute,
    read_constant,
    tensor_names,
    unused,
)

Body = Literal["fp32", "fp16"]
BODIES: tuple[Body, ...] = get_args(Body)
"""Float type between the quantized layers of a graph."""

OLDEST_OPSET = 19
"""The first opset whose QuantizeLinear and DequantizeLinear support float16."""

LEAST = np.float32(np.finfo("float16").smallest_subnormal)
"""Smallest positive float16, and the step between float16 numbers near 0."""

# These inputs are always float32.
_FLOAT32_INPUTS = {"Resize": (2,), "Upsample": (1,)}


def has_float16_body(model: onnx.ModelProto) -> bool:
    """Return whether a graph computes in float16; see `to_float16`."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def to_float16(model: onnx.ModelProto, keep_float32: Collection[str] = ()) -> onnx.ModelProto:
    """Return a copy of a graph that computes in float16 between its inputs and its outputs.

    Weights, biases, scales of Q and DQ, and casts to float32 become float16; integers are unchanged.
    Float32 inputs and outputs keep their type, each with a Cast. Packed sign bits stay exact, since
    float16 represents integers up to 255 exactly. Channel means are computed in float32.

    Parameters
    ----------
    model : onnx.ModelProto
        Without Constant nodes and subgraphs. An opset below 19 is converted to 19.
    keep_float32 : collection of str
        Tensors too large for float16; they and the nodes that compute or read them stay in float32.

    Raises
    ------
    AurevoirError
        If a constant of the graph is too large for float16; the message names it.

    Notes
    -----
    Activations beyond 65504 overflow at run time; see `overflow.overflowing`.

    The graph is not for ONNX Runtime's default session: its WeightBiasQuantization (seen in 1.31)
    computes the scale of a bias, a product of two scales, in float16, where it underflows.
    """
    half = _with_opset_19(model)
    floats = _float32_tensors(half)
    pooled = (name for name in floats if name == POOLED or name.startswith(POOLED_PREFIX))
    keep_float32 = floats.intersection([*keep_float32, *pooled])
    nodes = half.graph.node
    float32_nodes = {
        index for index, node in enumerate(nodes) if keep_float32.intersection([*node.input, *node.output])
    }
    kept = _float32_constants(half) | _own_constants(half, [nodes[index] for index in float32_nodes])
    _raise_small_scales(half)
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_half_tensor(tensor))
    for index, node in enumerate(nodes):
        if index not in float32_nodes:
            _halve_attributes(node)
    _cast_around(half, float32_nodes, floats - keep_float32)
    del half.graph.value_info[:]
    _keep_interface(half, keep_float32)
    return onnx.shape_inference.infer_shapes(half)


def _float32_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the computed float32 tensors and the float32 inputs."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _own_constants(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Give nodes their own copies of float32 constants, which other nodes may share; return the names."""
    tensors, taken, own = initializers(model), tensor_names(model), dict[str, str]()
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in tensors and tensors[name].data_type == TensorProto.FLOAT:
                if name not in own:
                    own[name] = constant(model, unused(f"{name}_full", taken), read_constant(tensors, name))
                node.input[index] = own[name]
    return set(own.values())


def _cast_around(model: onnx.ModelProto, float32_nodes: set[int], halves: set[str]) -> None:
    """Add casts for the float16 tensors that float32 nodes read or write."""
    nodes: list[onnx.NodeProto] = []
    taken, full = tensor_names(model), dict[str, str]()
    for index, node in enumerate(copy.deepcopy(list(model.graph.node))):
        before = dict[str, str]()
        if index in float32_nodes:
            for name in halves.intersection(node.input):
                if name not in full:
                    full[name] = unused(f"{name}_full", taken)
                    nodes.append(helper.make_node("Cast", [name], [full[name]], to=TensorProto.FLOAT))
            node.input[:] = [full[name] if name in halves else name for name in node.input]
            before = {name: unused(f"{name}_before", taken) for name in node.output if name in halves}
            node.output[:] = [before.get(name, name) for name in node.output]
        nodes.append(node)
        nodes += [helper.make_node("Cast", [made], [name], to=TensorProto.FLOAT16) for name, made in before.items()]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _with_opset_19(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < OLDEST_OPSET:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    return copy.deepcopy(model)


def _float32_constants(model: onnx.ModelProto) -> set[str]:
    inputs = [(node, index) for node in model.graph.node for index in _FLOAT32_INPUTS.get(node.op_type, ())]
    return {node.input[index] for node, index in inputs if index < len(node.input)}


def _raise_small_scales(model: onnx.ModelProto) -> None:
    """Round subnormal scales up to float16, so that none becomes 0, and rescale int8 weights to match."""
    before = initializers(copy.deepcopy(model))
    after = initializers(model)
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in before:
            continue
        levels, scale = node.input[:2]
        scales = read_constant(before, scale)
        small = scales < np.finfo("float16").smallest_normal
        if not small.any():
            continue
        raised = np.where(small, np.maximum(np.ceil(scales / LEAST), 1) * LEAST, scales).astype("float32")
        after[scale].CopyFrom(numpy_helper.from_array(raised, scale))
        if levels in before:
            values = read_constant(before, levels)
            axis = node_attribute(node, "axis", 1)
            ratios = scales / raised
            if ratios.size > 1:
                ratios = np.moveaxis(ratios.reshape([-1] + [1] * (values.ndim - 1)), 0, axis)
            after[levels].CopyFrom(numpy_helper.from_array(np.rint(values * ratios).astype(values.dtype), levels))


def _half_tensor(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    # In a Clip, the largest float32 means no bound.
    bounded = values[np.abs(values) < np.finfo("float32").max]
    largest = np.abs(bounded).max(initial=0)
    if largest > np.finfo("float16").max:
        raise AurevoirError(
            f"constant {tensor.name} holds {largest:.6g}, beyond float16's 65504; "
            "keep the body of this network in float32"
        )
    with np.errstate(over="ignore"):
        return numpy_helper.from_array(values.astype("float16"), tensor.name)


def _halve_attributes(node: onnx.NodeProto) -> None:
    for item in node.attribute:
        if item.name in ("to", "dtype", "output_dtype") and item.i == TensorProto.FLOAT:
            item.i = TensorProto.FLOAT16
        elif item.type == onnx.AttributeProto.TENSOR and item.t.data_type == TensorProto.FLOAT:
            item.t.CopyFrom(_half_tensor(item.t))


def _keep_interface(model: onnx.ModelProto, keep_float32: Collection[str]) -> None:
    """Add casts after float32 inputs and before float32 outputs, except those in `keep_float32`."""
    graph = model.graph
    inputs, outputs = (
        [
            value.name
            for value in values
            if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in keep_float32
        ]
        for values in (graph.input, graph.output)
    )
    taken = tensor_names(model)
    renamed = {name: unused(f"{name}_half", taken) for name in [*inputs, *outputs]}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    nodes = [
        *(helper.make_node("Cast", [name], [renamed[name]], to=TensorProto.FLOAT16) for name in inputs),
        *copy.deepcopy(list(graph.node)),
        *(helper.make_node("Cast", [renamed[name]], [name], to=TensorProto.FLOAT) for name in outputs),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
