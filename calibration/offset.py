"""Signed activations stored with an offset, around a fault of OpenVINO's."""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto

from .graph import constant, initializers

_PASSED = {"Concat", "MaxPool", "QuantizeLinear", "DequantizeLinear"}


def offset_around_concats(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store signed levels next to a Concat as uint8 with zero-point 128, in place of int8 with 0.

    The numbers are the same. OpenVINO (seen in 2026.4) computes a convolution wrongly, by some 0.3
    of its output's norm, where int8 levels come from or pass a Concat: with these it does not.

    Parameters
    ----------
    model : onnx.ModelProto
        A Q/DQ graph as `quantize` makes it; changed in place.

    Returns
    -------
    onnx.ModelProto
        The same model.
    """
    near = _near_concats(model)
    tensors = initializers(model).items()
    signed = {name for name, tensor in tensors if tensor.data_type == TensorProto.INT8 and not tensor.dims}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    moved = [node for node in pairs if node.output[0] in near and node.input[2] in signed]
    if moved:
        zero = constant(model, "offset_zero", np.array(128, "uint8"))
        for node in moved:
            node.input[2] = zero
    return model


def _near_concats(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that reach a Concat, or are reached from one, through what only moves or quantizes values."""
    passing = [node for node in model.graph.node if node.op_type in _PASSED]
    concats = {node.output[0] for node in passing if node.op_type == "Concat"}
    return _spread(passing, concats) | _spread(passing[::-1], concats, backwards=True)


def _spread(nodes: Iterable[onnx.NodeProto], start: set[str], backwards: bool = False) -> set[str]:
    found = set(start)
    for node in nodes:
        sources, targets = (node.output, node.input) if backwards else (node.input, node.output)
        if found.intersection(sources):
            found.update(targets)
    return found
