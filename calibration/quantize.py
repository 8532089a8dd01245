"""Insert Q and DQ into a float graph: symmetric int8 activations, and int8 weights per output channel.

Activations of dtype ``int8`` follow the explicit-quantization rules of TensorRT (zero-point 0, signed
activations, weights per output channel on axis 0, no Q/DQ on biases) and run unchanged in OpenVINO
and ONNX Runtime; `signed` lets them use more of their levels. Dtype ``uint8`` uses the same thresholds,
but stores activations with a known lower bound, such as the outputs of a ReLU (0) or a SiLU (-0.28), as
unsigned, with 255 steps from the bound to the threshold instead of 127 from 0. A ReLU after an unfolded batch norm
gets zero-point 1 and 254 steps: with zero-point 0, OpenVINO 2026.4 folds the batch norm into the
quantization and runs it in three passes over float32, or of quantized levels in a slower one, with 1 in a
single pass over the input.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import helper

from ..errors import AurevoirError, UsageError
from .graph.edit import constant, initializers, node_attribute, prune, read_constant, tensor_names, unused
from .placement import PRODUCTS, ConcatGroup, Placement, check_placement, concat_groups, output_axis, weighted
from .signed import use_more_levels

ActivationDtype = Literal["int8", "uint8"]
ACTIVATION_DTYPES: tuple[ActivationDtype, ...] = get_args(ActivationDtype)

LEVELS = 127
"""Largest magnitude of int8 weights; -128 is not used, so that the range is symmetric."""

NARROW_LEVELS = 63
"""Largest magnitude of weights for which two products with unsigned bytes, at most 2 * 255 * 63, fit in 16 bits."""

_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax"}
_AT_MOST_ONE = {"Sigmoid", "HardSigmoid", "Softmax"}
_LEAST = {"HardSwish": -0.375, "Gelu": -0.1701}
_SILU = -0.27847
_KEEPS_BOUND = {"MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Identity", "Concat"}

_LEAST_SCALE = float(np.finfo("float32").tiny)
"""Smaller scales, and smaller products of the scales of an activation and its weights, are lost in float32."""

_MOST_ACTIVATION = 2.0**100
"""OpenVINO computes the width of a tensor's range in float32, which overflows at larger magnitudes."""

_MOST_BIAS = 2.0**30
"""Most levels of a bias: ONNX Runtime rounds the biases of integer products to int32, in units of both scales. Where it
is more, as for channels whose weights have died, the scale of the weights is raised, to float16's range at most."""
_STEP_OF_OTHER_BIASES = 2.0**-15
"""Rounding of the biases of channels without weights, where they are computed: they fit up to 2 ** 16."""
_MOST_BIAS_AND_WEIGHT = _MOST_BIAS * 2.0**15


@dataclass(frozen=True)
class _Context:
    model: onnx.ModelProto
    constants: dict[str, onnx.TensorProto]
    thresholds: dict[str, float]
    means: Mapping[str, Sequence[float]]
    bounds: dict[str, float]
    weight_levels: int
    names: set[str]
    raised: set[str] = field(default_factory=set)
    made: dict[object, str] = field(default_factory=dict)
    """Dequantized tensors, by the name of an activation, or the name, axis and scales of weights."""

    def add(self, name: str, value: np.ndarray) -> str:
        return constant(self.model, unused(name, self.names), value)


def quantize(
    model: onnx.ModelProto,
    thresholds: Mapping[str, float],
    means: Mapping[str, Sequence[float]] | None = None,
    activation_dtype: ActivationDtype = "int8",
    placement: Placement = "conv-inputs",
    weight_levels: int = LEVELS,
    peaks: Mapping[str, Sequence[float]] | None = None,
) -> onnx.ModelProto:
    """Return a copy of a float graph whose convolutions and constant matrix products read int8; see `weighted`.

    Parameters
    ----------
    model : onnx.ModelProto
        Opset 13 or later.
    thresholds : mapping of float
        The magnitude at which each tensor saturates, by name. Other tensors stay in floating point; a
        group of concatenated tensors does so if any of them has no threshold.
    means : mapping of sequences of float, optional
        Mean of each channel of convolution inputs. If given, biases are corrected for the mean error of
        the rounded weights (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
    activation_dtype : {"int8", "uint8"}
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
    weight_levels : {127, 63}
        Largest magnitude of weights; `NARROW_LEVELS` for processors that add pairs of products in 16 bits.
    peaks : mapping of sequences of float, optional
        For ``int8``, see `signed.use_more_levels`.

    Raises
    ------
    UsageError
        If the activation dtype or placement is unknown.
    AurevoirError
        If the graph contains nothing to quantize with these thresholds, weights are nan or infinite, or activations
        too large.
    """
    check_placement(placement)
    if activation_dtype not in ACTIVATION_DTYPES:
        raise UsageError(
            f"activation dtype {activation_dtype!r} is not known; choose one of {', '.join(ACTIVATION_DTYPES)}"
        )
    check_products(model)
    for name, threshold in thresholds.items():
        if not threshold <= _MOST_ACTIVATION:
            raise AurevoirError(
                f"tensor {name} reaches {threshold:.3g}, and int8 takes {_MOST_ACTIVATION:.3g} at most; use fp32"
            )
    bounds, limits, averages = dict[str, float](), dict(thresholds), dict(means or {})
    if activation_dtype == "uint8":
        bounds = lower_bounds(model)
    else:
        model, changes = use_more_levels(model, thresholds, peaks or {})
        limits.update({name: change.threshold for name, change in changes.items()})
        averages.update({name: change.mean(averages.get(name, 0.0)) for name, change in changes.items()})
    quantized = copy.deepcopy(model)
    names = tensor_names(model)
    context = _Context(quantized, initializers(model), limits, averages, bounds, weight_levels, names)
    quantizable = [node for node in weighted(model) if node.input[0] in context.thresholds]
    for node in quantizable:
        least = 255 * _largest_bias(context, node, 1).max() / _MOST_BIAS_AND_WEIGHT
        context.thresholds[node.input[0]] = max(context.thresholds[node.input[0]], float(least))
    groups = _prepare_concat_groups(context, model, placement)
    sources = {name for group in groups for name in group.sources}
    levels = {name for group in groups for name in group.members}
    context.raised.update((bounds.keys() & _after_batch_norms(model)) - levels)
    products = {node.output[0] for node in quantizable}
    nodes: list[onnx.NodeProto] = []
    for node in quantized.graph.node:
        if node.output[0] in products:
            nodes += _quantize_product(context, node)
        elif node.op_type in ("Concat", "MaxPool"):
            nodes += _quantize_moved(context, node, sources)
        nodes.append(node)
    if not context.made:
        raise AurevoirError("no tensor that the graph could quantize has a threshold; calibrate again")
    nodes = [copy.deepcopy(node) for node in nodes]
    del quantized.graph.node[:]
    quantized.graph.node.extend(nodes)
    return prune(quantized, [output.name for output in model.graph.output])


def _after_batch_norms(model: onnx.ModelProto) -> set[str]:
    """Return the outputs of ReLUs after batch norms that were not folded."""
    norms = {node.output[0] for node in model.graph.node if node.op_type == "BatchNormalization"}
    return {node.output[0] for node in model.graph.node if node.op_type == "Relu" and node.input[0] in norms}


def check_products(model: onnx.ModelProto) -> None:
    """Raise AurevoirError if a graph has no product to quantize, or constants of one are nan or infinite."""
    if next(weighted(model), None) is None:
        raise AurevoirError(
            "the graph contains no convolution to quantize and no matrix product with constant weights; "
            "use precision fp32 or bf16"
        )
    constants = initializers(model)
    for node in model.graph.node:
        for name in node.input if node.op_type in (*PRODUCTS, "BatchNormalization") else ():
            if name in constants and not np.isfinite(read_constant(constants, name)).all():
                raise AurevoirError(f"weights {name} are nan or infinite; give the network's trained weights")


def dequantized(model: onnx.ModelProto) -> dict[str, str]:
    """Return the name after Q and DQ of each activation that a graph quantizes, by its name before them."""
    before = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    after = (node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in before)
    return {before[node.input[0]]: node.output[0] for node in after}


def lower_bounds(model: onnx.ModelProto) -> dict[str, float]:
    """Return the value, 0 or less, that each computed tensor is never below; tensors with no known one are left out."""
    constants, found = initializers(model), dict[str, float]()
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        bound = _factor_bound(node, found, made) if node.op_type == "Mul" else _bound(node, found, constants)
        if bound is not None:
            found.update(dict.fromkeys(node.output, bound))
    return found


def _bound(node: onnx.NodeProto, found: dict[str, float], constants: dict[str, onnx.TensorProto]) -> float | None:
    kind = node.op_type
    if kind in _NEVER_NEGATIVE or kind in _LEAST:
        return _LEAST.get(kind, 0.0)
    if kind == "Clip":
        low = node.input[1] if len(node.input) > 1 else ""
        return min(0.0, float(read_constant(constants, low).min(initial=0))) if low in constants else None
    known = [found[name] for name in node.input if name in found]
    if len(known) < len(node.input) or not known:
        return None
    return sum(known, 0.0) if kind == "Add" else min(known) if kind in _KEEPS_BOUND else None


def _factor_bound(node: onnx.NodeProto, found: dict[str, float], made: Mapping[str, onnx.NodeProto]) -> float | None:
    """Return the bound of a product: of SiLU and hard swish, of what is scaled by at most 1, or of two without sign."""
    for name, factor in (node.input, reversed(node.input)):
        by = made.get(factor)
        if by is None or by.op_type not in _AT_MOST_ONE:
            continue
        if by.op_type == "Sigmoid" and by.input[0] == name:
            return _SILU
        slope = node_attribute(by, "alpha", 0.2)
        if by.op_type == "HardSigmoid" and by.input[0] == name and slope > 0:
            return float(-(node_attribute(by, "beta", 0.5) ** 2) / (4 * slope))
        if name in found:
            return found[name]
    return 0.0 if all(found.get(name) == 0 for name in node.input) else None


def _prepare_concat_groups(context: _Context, model: onnx.ModelProto, placement: Placement) -> list[ConcatGroup]:
    """Give each group of concatenated tensors one dtype, and for ``shared-concat`` one threshold; return them."""
    thresholds = context.thresholds
    groups = concat_groups(model) if placement != "conv-inputs" else []
    groups = [group for group in groups if thresholds.keys() >= set(group.sources)]
    for group in groups:
        if any(context.bounds.get(name) != 0 for name in group.sources):
            for name in group.members:
                context.bounds.pop(name, None)
        if placement == "shared-concat":
            known = [name for name in group.members if name in thresholds]
            thresholds.update(dict.fromkeys(known, max(thresholds[name] for name in known)))
    return groups


def _quantize_moved(context: _Context, node: onnx.NodeProto, sources: set[str]) -> list[onnx.NodeProto]:
    """Let a Concat or MaxPool read dequantized sources; return the nodes to add before it."""
    nodes: list[onnx.NodeProto] = []
    for index, name in enumerate(node.input):
        if name in sources:
            nodes += _activation_nodes(context, name)
            node.input[index] = context.made[name]
    return nodes


def _quantize_product(context: _Context, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Let a convolution or matrix product read dequantized inputs; return the nodes to add before it."""
    activation, weight = node.input[0], node.input[1]
    axis = output_axis(node)
    weights = np.swapaxes(read_constant(context.constants, weight), 0, axis)
    levels, scales = _round_weights(weights, context.weight_levels, *_bias_scales(context, node, len(weights)))
    nodes = [*_activation_nodes(context, activation), *_weight_nodes(context, weight, axis, levels, scales)]
    node.input[0] = context.made[activation]
    node.input[1] = context.made[weight, axis, scales.tobytes()]
    if node.op_type == "Conv" and activation in context.means:
        error = weights - levels * scales.reshape(-1, *[1] * (weights.ndim - 1))
        nodes += _correct_bias(context, node, error, np.asarray(context.means[activation]))
    return nodes


def _activation_nodes(context: _Context, name: str) -> list[onnx.NodeProto]:
    if name in context.made:
        return []
    kind, scale, zero_point = _activation_levels(context, name)
    inputs = [
        context.add(f"{name}_scale", scale),
        context.add(f"{name}_zero", np.array(zero_point, dtype=kind)),
    ]
    levels = unused(f"{name}_quantized", context.names)
    context.made[name] = unused(f"{name}_dequantized", context.names)
    return [
        helper.make_node("QuantizeLinear", [name, *inputs], [levels]),
        helper.make_node("DequantizeLinear", [levels, *inputs], [context.made[name]]),
    ]


def _activation_levels(context: _Context, name: str) -> tuple[str, np.ndarray, int]:
    """Return the dtype, scale and zero-point of an activation."""
    threshold = context.thresholds[name]
    bound = context.bounds.get(name)
    if bound is None or -bound >= threshold > 0:
        return "int8", _scales(np.array(threshold), LEVELS), 0
    raised = int(name in context.raised)
    scale = _scales(np.array(threshold - bound), 255 - raised)
    return "uint8", scale, max(raised, round(-bound / float(scale)))


def _weight_nodes(
    context: _Context, name: str, axis: int, levels: np.ndarray, scales: np.ndarray
) -> list[onnx.NodeProto]:
    key = (name, axis, scales.tobytes())
    if key in context.made:
        return []
    inputs = [
        context.add(f"{name}_quantized", np.swapaxes(levels, 0, axis)),
        context.add(f"{name}_scale", scales),
        context.add(f"{name}_zero", np.zeros(len(levels), dtype="int8")),
    ]
    context.made[key] = unused(f"{name}_dequantized", context.names)
    return [helper.make_node("DequantizeLinear", inputs, [context.made[key]], axis=axis)]


def _bias_scales(context: _Context, node: onnx.NodeProto, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest scale of each output channel at which its bias fits, and its scale if all weights are 0.

    At a scale of 1 the bias of a channel without weights would be rounded to whole levels of the activation.
    """
    activation = float(_activation_levels(context, node.input[0])[1])
    steps = _largest_bias(context, node, channels) / _MOST_BIAS
    zeros = np.where(steps > 0, steps, _STEP_OF_OTHER_BIASES) / activation
    return np.maximum(steps, _LEAST_SCALE) / activation, np.minimum(zeros, 1)


def _largest_bias(context: _Context, node: onnx.NodeProto, channels: int) -> np.ndarray:
    """Return the largest magnitude of a product's constant bias by output channel, or of all if `channels` is 1."""
    name = node.input[2] if len(node.input) > 2 else ""
    if name not in context.constants:
        return np.zeros(channels)
    bias = np.abs(read_constant(context.constants, name).astype("float64"))
    # Of one value for all channels, or rows of channels: of a Gemm, or the groups of a ConvTranspose.
    rows = bias.reshape(-1, channels if bias.shape[-1:] not in ((), (1,)) else 1)
    return np.broadcast_to(rows.max(axis=0, initial=0), channels)


def _round_weights(
    weights: np.ndarray, limit: int = LEVELS, least: np.ndarray | float = 0.0, zeros: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 levels and the float32 scale, `least` or more, or `zeros` without weights, of each channel (axis 0).

    Levels are rounded so that the sum of every kernel changes by at most half a level (Guo et al. 2022,
    arXiv:2202.07471, section 3.2): neighbouring pixels are similar, so mainly the sum of a kernel's
    rounding errors matters.
    """
    natural = _scales(np.abs(weights).reshape(len(weights), -1).max(axis=1), limit, zeros)
    scales = np.maximum(natural, least).astype("float32")
    exact = weights.astype("float64") / scales.reshape(-1, *[1] * (weights.ndim - 1))
    kernels = exact.reshape(*weights.shape[:2], -1)
    error = np.rint(kernels) - kernels
    surplus = np.rint(error.sum(axis=2, keepdims=True))
    # Move entries by one level to correct the sum, starting with the largest rounding errors.
    rank = np.argsort(np.argsort(-error * np.sign(surplus), axis=2, kind="stable"), axis=2, kind="stable")
    levels = np.rint(kernels) - np.sign(surplus) * (rank < np.abs(surplus))
    return np.clip(levels, -limit, limit).astype("int8").reshape(weights.shape), scales


def _correct_bias(context: _Context, conv: onnx.NodeProto, error: np.ndarray, mean: np.ndarray) -> list[onnx.NodeProto]:
    """Correct the bias for the error of the rounded weights on the mean input, sum (W - Wq) E[x]; return new nodes."""
    groups = node_attribute(conv, "group", 1)
    if mean.shape != (groups * error.shape[1],):
        raise AurevoirError(
            f"the calibration table has means of shape {mean.shape} for the {groups * error.shape[1]} channels of "
            f"{conv.name or conv.output[0]}; calibrate again"
        )
    per_input = error.reshape(*error.shape[:2], -1).sum(axis=2, dtype="float64").reshape(groups, -1, error.shape[1])
    missing = np.einsum("goc,gc->go", per_input, mean.reshape(groups, -1)).reshape(-1)
    if not np.isfinite(missing).all():
        return []
    bias = conv.input[2] if len(conv.input) > 2 else ""
    del conv.input[2:]
    if bias and bias not in context.constants:
        shift = context.add(f"{conv.output[0]}_correction", missing.astype("float32"))
        conv.input.append(unused(f"{conv.output[0]}_corrected_bias", context.names))
        return [helper.make_node("Add", [bias, shift], [conv.input[2]])]
    known = read_constant(context.constants, bias) if bias else 0
    conv.input.append(context.add(f"{conv.output[0]}_corrected_bias", (known + missing).astype("float32")))
    return []


def _scales(thresholds: np.ndarray, levels: int, zeros: np.ndarray | float = 1.0) -> np.ndarray:
    """Return float32 scales, the sizes of one level; `zeros` where all is zero, or too small for float32."""
    return np.where(thresholds >= levels * _LEAST_SCALE, thresholds / levels, zeros).astype("float32")
