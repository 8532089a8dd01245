"""Where Q and DQ stand: symmetric int8 on convolution inputs, per-channel int8 weights.

The graph follows the explicit-quantization rules of TensorRT (zero-point 0, weights per output
channel on axis 0, no Q/DQ on biases) and runs unchanged in OpenVINO and ONNX Runtime.
"""

import copy

import numpy as np
import onnx
from onnx import helper

from ..errors import AurevoirError
from .graph import constant, initializers, prune, read_constant

LEVELS = 127
"""Largest int8 magnitude in use; -128 is left out, so that the range is symmetric."""


def quantize(model: onnx.ModelProto, thresholds: dict[str, float]) -> onnx.ModelProto:
    """Return a copy of a float graph whose convolutions read int8.

    Parameters
    ----------
    model : onnx.ModelProto
        Opset 13 or later.
    thresholds : dict of float
        The magnitude at which each convolution input saturates, by tensor name. A convolution
        whose input is not named here stays in floating point.

    Raises
    ------
    AurevoirError
        If the graph holds no convolution that `thresholds` covers.
    """
    quantized = copy.deepcopy(model)
    constants = initializers(model)
    nodes, done = [], set()
    for node in quantized.graph.node:
        if node.op_type == "Conv" and node.input[0] in thresholds and node.input[1] in constants:
            for place, make in ((0, _activation_nodes), (1, _weight_nodes)):
                name = node.input[place]
                node.input[place] = f"{name}_dequantized"
                if name not in done:
                    nodes += make(quantized, name, thresholds, constants)
                    done.add(name)
        nodes.append(node)
    if not done:
        raise AurevoirError("the graph holds no convolution to quantize; use precision fp32 or bf16")
    nodes = [copy.deepcopy(node) for node in nodes]
    del quantized.graph.node[:]
    quantized.graph.node.extend(nodes)
    return prune(quantized, [output.name for output in model.graph.output])


def _activation_nodes(
    model: onnx.ModelProto, name: str, thresholds: dict[str, float], constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    scale = constant(model, f"{name}_scale", _scales(np.array(thresholds[name])))
    zero = constant(model, f"{name}_zero", np.array(0, dtype="int8"))
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_quantized"]),
        helper.make_node("DequantizeLinear", [f"{name}_quantized", scale, zero], [f"{name}_dequantized"]),
    ]


def _weight_nodes(
    model: onnx.ModelProto, name: str, thresholds: dict[str, float], constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    weights = read_constant(constants, name)
    scales = _scales(np.abs(weights).reshape(len(weights), -1).max(axis=1))
    levels = np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1)))
    inputs = [
        constant(model, f"{name}_quantized", np.clip(levels, -LEVELS, LEVELS).astype("int8")),
        constant(model, f"{name}_scale", scales),
        constant(model, f"{name}_zero", np.zeros(len(weights), dtype="int8")),
    ]
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], axis=0)]


def _scales(thresholds: np.ndarray) -> np.ndarray:
    """Return float32 scales, one level each; a tensor that is all zeros gets 1, any would do."""
    return np.where(thresholds > 0, thresholds / LEVELS, 1.0).astype("float32")
