"""Q and DQ in a float graph: symmetric int8 activations, int8 weights per output channel; `placement` says where.

Activations of dtype ``int8`` follow the explicit-quantization rules of TensorRT (zero-point 0, signed
activations, weights per output channel on axis 0, no Q/DQ on biases) and run unchanged in OpenVINO
and ONNX Runtime. Dtype ``uint8`` reads the same thresholds, but what cannot be negative, such as
the output of a ReLU, is stored unsigned: 255 steps in place of 127. A ReLU behind a batch norm of its
own gets zero-point 1 and 254 steps: at zero-point 0 OpenVINO 2026.4 folds the batch norm into the
quantization and then runs it in three passes over float32, with 1 in one pass over what it reads. Where
the batch norm reads levels, one pass does for both, and they keep all their steps.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import helper

from ..errors import AurevoirError, UsageError
from .graph.edit import constant, initializers, node_attribute, prune, read_constant
from .placement import Placement, Shared, check_placement, shared, weighted

ActivationDtype = Literal["int8", "uint8"]
ACTIVATION_DTYPES: tuple[ActivationDtype, ...] = get_args(ActivationDtype)

LEVELS = 127
"""Largest int8 magnitude in use for weights; -128 is left out, so that the range is symmetric."""

NARROW_LEVELS = 63
"""The largest of weights whose products with two unsigned bytes sum to at most 2 * 255 * 63, which fits 16 bits."""

_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax"}
_KEEPS_SIGN = {"MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Identity", "Concat", "Add", "Mul"}


@dataclass(frozen=True)
class _Context:
    model: onnx.ModelProto
    constants: dict[str, onnx.TensorProto]
    thresholds: dict[str, float]
    means: Mapping[str, Sequence[float]]
    unsigned: set[str]
    weight_levels: int = LEVELS
    raised: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)


def quantize(
    model: onnx.ModelProto,
    thresholds: Mapping[str, float],
    means: Mapping[str, Sequence[float]] | None = None,
    activation_dtype: ActivationDtype = "int8",
    placement: Placement = "conv-inputs",
    weight_levels: int = LEVELS,
) -> onnx.ModelProto:
    """Return a copy of a float graph whose convolutions and constant matrix products read int8.

    Parameters
    ----------
    model : onnx.ModelProto
        Opset 13 or later.
    thresholds : mapping of float
        The magnitude at which each tensor saturates, by name. What is not named here stays in
        floating point; what meets in concatenations does so together.
    means : mapping of sequences of float, optional
        Mean of each channel of convolution inputs. Where it is given, biases take up the mean error
        that rounding the weights makes (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
    activation_dtype : {"int8", "uint8"}
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
    weight_levels : {127, 63}
        Largest magnitude of weights: `NARROW_LEVELS` where pairs of products are summed in 16 bits.

    Raises
    ------
    UsageError
        If the activation dtype or the placement is not known.
    AurevoirError
        If the graph holds nothing to quantize that `thresholds` covers.
    """
    check_placement(placement)
    if activation_dtype not in ACTIVATION_DTYPES:
        raise UsageError(
            f"activation dtype {activation_dtype!r} is not known; choose one of {', '.join(ACTIVATION_DTYPES)}"
        )
    unsigned = nonnegative(model) if activation_dtype == "uint8" else set()
    quantized = copy.deepcopy(model)
    context = _Context(quantized, initializers(model), dict(thresholds), means or {}, unsigned, weight_levels)
    groups = _meeting(context, model, placement)
    sources = {name for group in groups for name in group.sources}
    levels = {name for group in groups for name in group.members}
    context.raised.update((unsigned & _behind_batch_norms(model, levels)) - levels)
    products = {node.output[0] for node in weighted(model) if node.input[0] in context.thresholds}
    nodes: list[onnx.NodeProto] = []
    for node in quantized.graph.node:
        if node.output[0] in products:
            nodes += _quantize_product(context, node)
        elif node.op_type in ("Concat", "MaxPool"):
            nodes += _quantize_moved(context, node, sources)
        nodes.append(node)
    if not context.done:
        raise AurevoirError("the graph holds no convolution to quantize; use precision fp32 or bf16")
    nodes = [copy.deepcopy(node) for node in nodes]
    del quantized.graph.node[:]
    quantized.graph.node.extend(nodes)
    return prune(quantized, [output.name for output in model.graph.output])


def _behind_batch_norms(model: onnx.ModelProto, levels: set[str]) -> set[str]:
    """Return the outputs of ReLUs that read a batch norm of its own, not folded into a convolution, of no levels."""
    norms = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "BatchNormalization" and node.input[0] not in levels
    }
    return {node.output[0] for node in model.graph.node if node.op_type == "Relu" and node.input[0] in norms}


def dequantized(name: str) -> str:
    """Return the name that a quantized tensor has behind its Q and DQ."""
    return f"{name}_dequantized"


def nonnegative(model: onnx.ModelProto) -> set[str]:
    """Return the computed tensors that cannot be negative, whatever the image."""
    constants, found = initializers(model), set()
    for node in model.graph.node:
        if (
            node.op_type in _NEVER_NEGATIVE
            or (node.op_type == "Clip" and _clips_at_zero(node, constants))
            or (node.op_type in _KEEPS_SIGN and all(name in found for name in node.input))
        ):
            found.update(node.output)
    return found


def _clips_at_zero(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    low = node.input[1] if len(node.input) > 1 else ""
    return low in constants and float(read_constant(constants, low)) >= 0


def _meeting(context: _Context, model: onnx.ModelProto, placement: Placement) -> list[Shared]:
    """Give what meets in concatenations one sign, and where they share it the largest threshold; return the groups."""
    thresholds = context.thresholds
    groups = shared(model) if placement != "conv-inputs" else []
    groups = [group for group in groups if thresholds.keys() >= set(group.sources)]
    for group in groups:
        if not context.unsigned.issuperset(group.sources):
            context.unsigned.difference_update(group.members)
        if placement == "shared-concat":
            known = [name for name in group.members if name in thresholds]
            thresholds.update(dict.fromkeys(known, max(thresholds[name] for name in known)))
    return groups


def _quantize_moved(context: _Context, node: onnx.NodeProto, sources: set[str]) -> list[onnx.NodeProto]:
    """Let what only moves values read dequantized sources; return the nodes that this adds before it."""
    nodes: list[onnx.NodeProto] = []
    for place, name in enumerate(node.input):
        if name in sources:
            nodes += _activation_nodes(context, name)
            node.input[place] = dequantized(name)
    return nodes


def _quantize_product(context: _Context, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Let a convolution or matrix product read dequantized inputs; return the nodes that this adds before it."""
    activation, weight = node.input[0], node.input[1]
    axis = 0 if node.op_type == "Conv" or node_attribute(node, "transB", 0) else 1
    nodes = [*_activation_nodes(context, activation), *_weight_nodes(context, weight, axis)]
    node.input[0], node.input[1] = dequantized(activation), dequantized(weight)
    if node.op_type == "Conv" and activation in context.means:
        _correct_bias(context, node, activation, weight)
    return nodes


def _activation_nodes(context: _Context, name: str) -> list[onnx.NodeProto]:
    if name in context.done:
        return []
    context.done.add(name)
    zero_point = int(name in context.raised)
    levels, kind = (255 - zero_point, "uint8") if name in context.unsigned else (LEVELS, "int8")
    scale = constant(context.model, f"{name}_scale", _scales(np.array(context.thresholds[name]), levels))
    zero = constant(context.model, f"{name}_zero", np.array(zero_point, dtype=kind))
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_quantized"]),
        helper.make_node("DequantizeLinear", [f"{name}_quantized", scale, zero], [dequantized(name)]),
    ]


def _weight_nodes(context: _Context, name: str, axis: int) -> list[onnx.NodeProto]:
    if name in context.done:
        return []
    context.done.add(name)
    weights = np.swapaxes(read_constant(context.constants, name), 0, axis)
    levels, scales = _round_weights(weights, context.weight_levels)
    inputs = [
        constant(context.model, f"{name}_quantized", np.swapaxes(levels, 0, axis)),
        constant(context.model, f"{name}_scale", scales),
        constant(context.model, f"{name}_zero", np.zeros(len(levels), dtype="int8")),
    ]
    return [helper.make_node("DequantizeLinear", inputs, [dequantized(name)], axis=axis)]


def _round_weights(weights: np.ndarray, most: int = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 levels and the float32 scale of each output channel.

    Levels are rounded so that the sum of every kernel stays within half a level of what it was
    (Guo et al. 2022, arXiv:2202.07471, section 3.2): neighbouring pixels are alike, so what counts
    of a kernel's rounding errors is above all their sum.
    """
    scales = _scales(np.abs(weights).reshape(len(weights), -1).max(axis=1), most)
    exact = weights.astype("float64") / scales.reshape(-1, *[1] * (weights.ndim - 1))
    kernels = exact.reshape(*weights.shape[:2], -1)
    error = np.rint(kernels) - kernels
    surplus = np.rint(error.sum(axis=2, keepdims=True))
    # Move as many entries one level as the sum is off, those first that were rounded furthest that way.
    rank = np.argsort(np.argsort(-error * np.sign(surplus), axis=2, kind="stable"), axis=2, kind="stable")
    levels = np.rint(kernels) - np.sign(surplus) * (rank < np.abs(surplus))
    return np.clip(levels, -most, most).astype("int8").reshape(weights.shape), scales


def _correct_bias(context: _Context, conv: onnx.NodeProto, activation: str, weight: str) -> None:
    """Add to the bias what the rounded weights lack on the mean input, sum (W - Wq) E[x]."""
    weights = read_constant(context.constants, weight)
    levels, scales = _round_weights(weights, context.weight_levels)
    lost = weights - levels * scales.reshape(-1, *[1] * (weights.ndim - 1))
    per_input = lost.reshape(*weights.shape[:2], -1).sum(axis=2, dtype="float64")
    groups = node_attribute(conv, "group", 1)
    mean = np.asarray(context.means[activation]).reshape(groups, -1)
    missing = np.einsum("goc,gc->go", per_input.reshape(groups, -1, weights.shape[1]), mean).reshape(-1)
    bias = read_constant(context.constants, conv.input[2]) if len(conv.input) > 2 else 0
    corrected = constant(context.model, f"{conv.output[0]}_corrected_bias", (bias + missing).astype("float32"))
    del conv.input[2:]
    conv.input.append(corrected)


def _scales(thresholds: np.ndarray, levels: int) -> np.ndarray:
    """Return float32 scales, one level each; a tensor that is all zeros gets 1, any would do."""
    return np.where(thresholds > 0, thresholds / levels, 1.0).astype("float32")
