"""Signed levels for activations with a lower bound, without losing half of the levels.

TensorRT takes int8 with zero-point 0 only, of which the outputs of a ReLU use 0 to 127. Less a constant c, half of
their range, they use all: where a ReLU follows a convolution, c is subtracted from that one's bias and from the ReLU's
bounds, and where a convolution reads the outcome, c times the sums of its weights is added to its bias. The graph has
as many nodes as before. Convolutions that pad their input are left as they are: zeros would stand for c there.
"""

from collections.abc import Collection, Iterable, Mapping

import onnx

from .graph.edit import consumers, initializers, node_attribute

_WITH_BIAS = {"Conv": 2, "BatchNormalization": 2}
"""The operators whose bias a constant can be subtracted from, and the input that it is."""


def find_shifts(
    model: onnx.ModelProto,
    thresholds: Mapping[str, float],
    bounds: Mapping[str, float],
    products: Iterable[onnx.NodeProto],
    excluded: Collection[str],
) -> dict[str, float]:
    """Return the constant to subtract from each activation that can be shifted at no cost.

    Parameters
    ----------
    model : onnx.ModelProto
        Float graph.
    thresholds : mapping of float
        The magnitude at which each tensor saturates.
    bounds : mapping of float
        The value, 0 or less, that tensors are never below; see `quantize.lower_bounds`.
    products : iterable of NodeProto
        Those whose inputs are quantized.
    excluded : collection of str
        Tensors that keep their values, such as those of concatenations.
    """
    readers, constants = consumers(model), initializers(model)
    made = {name: node for node in model.graph.node for name in node.output}
    fixed = {*excluded, *(value.name for value in model.graph.output)}
    unpadded = {node.output[0] for node in products if node.op_type == "Conv" and not _pads(node)}

    def has_bounds(node: onnx.NodeProto) -> bool:
        return node.op_type == "Relu" or (
            node.op_type == "Clip" and constants.keys() >= set(filter(None, node.input[1:]))
        )

    def has_bias(name: str) -> bool:
        node = made.get(name)
        if node is None or node.op_type not in _WITH_BIAS or len(readers[name]) > 1 or name in fixed:
            return False
        return constants.keys() >= set(node.input[1:])

    return {
        name: (thresholds[name] + bound) / 2
        for name, bound in bounds.items()
        if thresholds.get(name, 0.0) > -bound
        and name not in fixed
        and has_bounds(made[name])
        and has_bias(made[name].input[0])
        and all(reader.output[0] in unpadded and reader.input[0] == name for reader in readers[name])
    }


def _pads(node: onnx.NodeProto) -> bool:
    return any(node_attribute(node, "pads", ())) or node_attribute(node, "auto_pad", b"NOTSET")[:4] == b"SAME"
