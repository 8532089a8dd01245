"""Which tensors of a graph are quantized."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import onnx

from ..errors import UsageError
from .graph.edit import initializers, leading_to, merged, node_attribute

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators whose inputs are quantized."""

_POOLED = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")

Placement = Literal["conv-inputs", "concat-inputs", "shared-concat"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
"""``conv-inputs`` quantizes the inputs of convolutions and of matrix products with constant weights.
``concat-inputs`` also quantizes the inputs of channel concatenations, each with its own scale, so that
concatenations copy bytes; the runtime may fold the scales into batch norms after them.
``shared-concat`` uses one scale for all tensors of connected concatenations, which avoids requantization."""


@dataclass(frozen=True)
class ConcatGroup:
    """Tensors of connected concatenations, which share one scale in placement ``shared-concat``.

    Attributes
    ----------
    sources : tuple of str
        Tensors that other operators compute, each followed by Q and DQ.
    members : tuple of str
        All tensors, including the outputs of the concatenations and of max pools between them.
    """

    sources: tuple[str, ...]
    members: tuple[str, ...]


def check_placement(placement: str) -> Placement:
    """Return a placement, or raise UsageError if it is unknown."""
    if placement not in PLACEMENTS:
        raise UsageError(f"placement {placement!r} is not known; choose one of {', '.join(PLACEMENTS)}")
    return placement


def weighted(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes whose inputs are quantized: `PRODUCTS` of a computed tensor and constant float32 weights.

    Products of two computed tensors, of constants from the left, of stacks of matrices and of transposed activations
    stay in floating point, and so do those of `_gates`, which cost next to nothing and whose errors scale whole
    channels. Only nodes that the first output depends on are included, which in an engine's graph excludes the packing
    of bits.
    """
    constants = initializers(model)
    nodes = leading_to(model, [model.graph.output[0].name])
    gates = _gates(nodes, constants)
    for node in nodes:
        if node.op_type not in PRODUCTS or node.input[0] in constants or node.input[1] not in constants:
            continue
        if node.output[0] in gates:
            continue
        weights = constants[node.input[1]]
        usual = node.op_type.startswith("Conv") or (len(weights.dims) == 2 and not node_attribute(node, "transA", 0))
        if usual and weights.data_type == onnx.TensorProto.FLOAT:
            yield node


def _gates(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Return what is computed from averages or maxima alone and then multiplies other tensors: squeeze and excitation.

    See Hu et al. 2018, arXiv:1709.01507.
    """
    pooled: set[str] = set()
    for node in nodes:
        computed = [name for name in node.input if name and name not in constants]
        if node.op_type in _POOLED or (computed and pooled.issuperset(computed)):
            pooled.update(node.output)
    gates: set[str] = set()
    for node in reversed(nodes):
        factor = node.op_type == "Mul" and pooled.isdisjoint(node.output)
        if factor or not gates.isdisjoint(node.output):
            gates.update(pooled.intersection(node.input))
    return gates


def output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a product's weights that its output channels are on; each channel has a scale.

    In a ConvTranspose with groups, channels of the same index in each group share one.
    """
    return 0 if node.op_type == "Conv" or node_attribute(node, "transB", 0) else 1


def concat_groups(model: onnx.ModelProto) -> list[ConcatGroup]:
    """Return the groups of tensors of connected channel concatenations, in graph order."""
    moving = [
        node
        for node in model.graph.node
        if node.op_type == "MaxPool" or (node.op_type == "Concat" and node_attribute(node, "axis", 0) == 1)
    ]
    produced = {node.output[0] for node in moving}
    joined = {node.output[0] for node in moving if node.op_type == "Concat"}
    groups = merged([*node.input, node.output[0]] for node in moving)
    left = initializers(model).keys() | _integers(model)
    return [
        ConcatGroup(tuple(name for name in group if name not in produced), tuple(group))
        for group in groups
        if not joined.isdisjoint(group) and left.isdisjoint(group)
    ]


def _integers(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that are known to be of another type than float32."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {name for name, kind in types.items() if kind not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.FLOAT)}


def quantizable(model: onnx.ModelProto, placement: Placement = "conv-inputs") -> list[str]:
    """Return the tensors that a placement quantizes, without duplicates, in graph order.

    Raises
    ------
    UsageError
        If the placement is unknown.
    """
    check_placement(placement)
    chosen = {node.input[0] for node in weighted(model)}
    if placement != "conv-inputs":
        chosen.update(name for group in concat_groups(model) for name in group.sources)
    inputs = [value.name for value in model.graph.input]
    order = dict.fromkeys([*inputs, *(name for node in model.graph.node for name in node.output)])
    return [name for name in order if name in chosen]


def units(model: onnx.ModelProto, placement: Placement = "conv-inputs") -> list[list[str]]:
    """Return the tensors of `quantizable` in groups that are quantized together."""
    names = quantizable(model, placement)
    groups = [list(group.sources) for group in concat_groups(model)] if placement != "conv-inputs" else []
    grouped = {name for group in groups for name in group}
    return [[name] for name in names if name not in grouped] + groups
