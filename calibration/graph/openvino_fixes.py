"""Workaround for an OpenVINO bug: store signed activations as uint8 with an offset."""

import numpy as np
import onnx
from onnx import TensorProto

from ...errors import AurevoirError
from .edit import constant, initializers, merged, node_attribute

_MOVES = {"Concat", "MaxPool"}
_PASSED = _MOVES | {"QuantizeLinear", "DequantizeLinear"}
_CONVOLUTIONS = {"Conv", "ConvTranspose"}


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
        zero = constant(model, "offset_zero", np.array(128, "uint8"))
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
