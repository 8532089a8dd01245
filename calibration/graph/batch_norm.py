"""Fold batch norms into the convolutions before them."""

import copy

import numpy as np
import onnx
from onnx import TensorProto

from .edit import constant, consumers, initializers, node_attribute, read_constant, tensor_names, unused


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold each BatchNormalization into the preceding convolution, if nothing else reads its output.

    With g = scale / sqrt(variance + epsilon): weights become g W and the bias g (b - mean) + shift.
    All other batch norms are kept.
    """
    model = copy.deepcopy(model)
    constants, users, taken = initializers(model), consumers(model), tensor_names(model)
    outputs = {value.name for value in model.graph.output}
    producers = {name: node for node in model.graph.node for name in node.output}
    dead: list[onnx.NodeProto] = []
    for norm in model.graph.node:
        conv = producers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or conv.output[0] in outputs or is_training(norm):
            continue
        # Identity nodes that nothing reads only keep a name.
        aliases = [each for each in users[conv.output[0]] if each.op_type == "Identity" and not users[each.output[0]]]
        if len(users[conv.output[0]]) > 1 + len(aliases) or outputs.intersection(each.output[0] for each in aliases):
            continue
        if any(name not in constants for name in [*conv.input[1:], *norm.input[1:]]):
            continue
        if not all(np.isfinite(read_constant(constants, name)).all() for name in [*conv.input[1:], *norm.input[1:]]):
            continue  # so that the error about it has the name that the file has
        _fold(model, conv, norm, constants, taken)
        dead += [norm, *aliases]
    for norm in dead:
        model.graph.node.remove(norm)
    return model


def is_training(norm: onnx.NodeProto) -> bool:
    """Return whether a BatchNormalization computes the statistics of its batch, which older opsets say by outputs."""
    return bool(node_attribute(norm, "training_mode", 0)) or any(norm.output[1:])


def _fold(
    model: onnx.ModelProto,
    conv: onnx.NodeProto,
    norm: onnx.NodeProto,
    constants: dict[str, TensorProto],
    taken: set[str],
) -> None:
    scale, shift, mean, variance = (read_constant(constants, name).astype("float64") for name in norm.input[1:5])
    epsilon = node_attribute(norm, "epsilon", 1e-5)
    gain = scale / np.sqrt(variance + epsilon)
    weights = read_constant(constants, conv.input[1])
    bias = read_constant(constants, conv.input[2]) if len(conv.input) > 2 else np.zeros(len(weights))
    folded = weights * gain.reshape(-1, *[1] * (weights.ndim - 1))
    # New names: other convolutions may share the old tensors.
    names = [
        constant(model, unused(f"{norm.output[0]}_folded_weight", taken), folded.astype("float32")),
        constant(
            model, unused(f"{norm.output[0]}_folded_bias", taken), (gain * (bias - mean) + shift).astype("float32")
        ),
    ]
    image = conv.input[0]
    del conv.input[:]
    conv.input.extend([image, *names])
    conv.output[0] = norm.output[0]
