"""The float parts of a graph in half precision, for runtimes that take the types of a graph literally.

TensorRT 11 and TensorRT-RTX run every tensor in the type that the graph gives it: what Q and DQ leave
in float32 stays in float32. This module rewrites such a graph so that it stays in float16.
"""

import copy
from collections.abc import Collection, Iterable
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import AurevoirError
from .edit import constant, initializers, node_attribute, read_constant

Body = Literal["fp32", "fp16"]
BODIES: tuple[Body, ...] = get_args(Body)
"""What runs between the quantized layers of a graph."""

OLDEST_OPSET = 19
"""The first opset whose QuantizeLinear and DequantizeLinear take float16."""

LEAST = np.float32(np.finfo("float16").smallest_subnormal)
"""Smallest positive float16, and the step between float16 numbers near 0."""

# These inputs are float32 whatever the type of the data.
_FLOAT32_INPUTS = {"Resize": (2,), "Upsample": (1,)}


def has_float16_body(model: onnx.ModelProto) -> bool:
    """Return whether a graph computes in float16, as `to_float16` makes it."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def to_float16(model: onnx.ModelProto, keep_float32: Collection[str] = ()) -> onnx.ModelProto:
    """Return a copy of a graph that computes in float16 between its inputs and its outputs.

    Weights, biases, scales of Q and DQ, and casts to float32 become float16; integers stay as they are.
    Float32 inputs and outputs keep their type, each behind a Cast. The sign bits stay exact: bytes up
    to 255 are float16 numbers.

    Parameters
    ----------
    model : onnx.ModelProto
        Without Constant nodes and subgraphs, as export makes it. An opset before 19 is raised to 19.
    keep_float32 : collection of str
        Tensors too large for float16: they, the nodes that make them and those that read them stay in
        float32.

    Raises
    ------
    AurevoirError
        If a constant of the graph is too large for float16; the message names it.

    Notes
    -----
    Activations beyond 65504 overflow at run time: see `overflow.overflowing`.

    The graph is not for ONNX Runtime's default session: its WeightBiasQuantization (seen in 1.31)
    computes the scale of a bias, a product of two scales, in float16, where it underflows.
    """
    half = _raised(model)
    floats = _float32_tensors(half)
    keep_float32 = floats.intersection(keep_float32)
    nodes = half.graph.node
    apart = {place for place, node in enumerate(nodes) if keep_float32.intersection([*node.input, *node.output])}
    kept = _float32_constants(half) | _own_constants(half, [nodes[place] for place in apart])
    _raise_small_scales(half)
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_half_tensor(tensor))
    for place, node in enumerate(nodes):
        if place not in apart:
            _halve_attributes(node)
    _cast_around(half, apart, floats - keep_float32)
    del half.graph.value_info[:]
    _keep_interface(half, keep_float32)
    return onnx.shape_inference.infer_shapes(half)


def _float32_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the computed float32 tensors and the float32 inputs."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _own_constants(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Give nodes float32 constants of their own, since others may share them; return the names."""
    tensors, own = initializers(model), set()
    for node in nodes:
        for place, name in enumerate(node.input):
            if name in tensors and tensors[name].data_type == TensorProto.FLOAT:
                node.input[place] = f"{name}_full"
                if node.input[place] not in own:
                    own.add(constant(model, node.input[place], read_constant(tensors, name)))
    return own


def _cast_around(model: onnx.ModelProto, apart: set[int], halves: set[str]) -> None:
    """Cast the float16 tensors that float32 nodes read, and what they write for float16 readers."""
    nodes: list[onnx.NodeProto] = []
    cast: set[str] = set()
    for place, node in enumerate(copy.deepcopy(list(model.graph.node))):
        written = []
        if place in apart:
            for name in halves.intersection(node.input):
                if name not in cast:
                    nodes.append(helper.make_node("Cast", [name], [f"{name}_full"], to=TensorProto.FLOAT))
                cast.add(name)
            node.input[:] = [f"{name}_full" if name in halves else name for name in node.input]
            written = list(halves.intersection(node.output))
            node.output[:] = [f"{name}_before" if name in halves else name for name in node.output]
        nodes.append(node)
        nodes += [helper.make_node("Cast", [f"{name}_before"], [name], to=TensorProto.FLOAT16) for name in written]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < OLDEST_OPSET:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    return copy.deepcopy(model)


def _float32_constants(model: onnx.ModelProto) -> set[str]:
    places = [(node, place) for node in model.graph.node for place in _FLOAT32_INPUTS.get(node.op_type, ())]
    return {node.input[place] for node, place in places if place < len(node.input)}


def _raise_small_scales(model: onnx.ModelProto) -> None:
    """Raise subnormal scales to the next float16, so that none becomes 0, and fit int8 weights to them."""
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
    # The largest float32 stands for no bound at all, in a Clip.
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
    """Cast behind float32 inputs and before float32 outputs, those left aside that are float32 inside too."""
    graph = model.graph
    inputs, outputs = (
        [
            value.name
            for value in values
            if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in keep_float32
        ]
        for values in (graph.input, graph.output)
    )
    renamed = {name: f"{name}_half" for name in [*inputs, *outputs]}
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
