"""Turn a float ONNX backbone into the graph of an engine, from uint8 images to features and bits.

images uint8 (batch, height, width, 3) -> Cast, Transpose, Mul, Add -> backbone -> Flatten
-> features float32 (batch, m) -> Greater, Pad, Reshape, MatMul -> bits uint8 (batch, ceil(m / 8))
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..calibration.graph.edit import (
    constant,
    consumers,
    initializers,
    node_attribute,
    prune,
    read_constant,
    shapes_of,
    strip_metadata,
)
from ..errors import AurevoirError, UsageError
from ..kernels.bits import packed_length

OLDEST_OPSET = 13
"""The first opset whose QuantizeLinear has an axis."""
_UPGRADED_OPSET = 17


def read_onnx(path: Path) -> onnx.ModelProto:
    """Load and check an ONNX backbone: one float image input of shape (batch, 3, height, width).

    Raises
    ------
    UsageError
        If the file does not exist.
    AurevoirError
        If it is not a valid ONNX model with an image input.
    """
    if not path.is_file():
        raise UsageError(f"backbone {path} does not exist; check the path")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and file errors have no common base class
        raise AurevoirError(f"{path} is not a valid ONNX model: {_first_line(error)}; export it again") from None
    if _opset(model) < OLDEST_OPSET:
        model = onnx.version_converter.convert_version(model, _UPGRADED_OPSET)
    image_input(model)
    return prepare(model)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _opset(model: onnx.ModelProto) -> int:
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Strip metadata, free the batch size, fold batch norms and infer shapes."""
    model = copy.deepcopy(model)
    strip_metadata(model)
    _drop_initializer_inputs(model)
    _lift_constants(model)
    _free_batch(model)
    model = fold_batch_norms(model)
    return onnx.shape_inference.infer_shapes(model)


def _drop_initializer_inputs(model: onnx.ModelProto) -> None:
    """Remove weights from the inputs, where old exporters list them."""
    constants = initializers(model)
    real = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(real)


def _lift_constants(model: onnx.ModelProto) -> None:
    """Convert Constant nodes to initializers."""
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    for node in nodes:
        value = helper.get_node_attr_value(node, node.attribute[0].name)
        if isinstance(value, TensorProto):
            value = numpy_helper.to_array(value)
        kind = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
        constant(model, node.output[0], np.asarray(value, dtype=kind.get(node.attribute[0].name)))
        model.graph.node.remove(node)


def _free_batch(model: onnx.ModelProto) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.HasField("shape") and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]


def image_input(model: onnx.ModelProto) -> tuple[str, int | None, int | None]:
    """Return name, height and width of the image input; a dynamic size is None.

    Raises
    ------
    AurevoirError
        If there is not exactly one float input of shape (batch, 3, height, width).
    """
    constants = initializers(model)
    inputs = [value for value in model.graph.input if value.name not in constants]
    dims = [list(value.type.tensor_type.shape.dim) for value in inputs]
    floats = all(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in inputs)
    if len(inputs) != 1 or not floats or len(dims[0]) != 4 or dims[0][1].dim_value != 3:
        raise AurevoirError(
            f"the ONNX model's inputs {[value.name for value in inputs]} are not one float32 image of shape "
            "(batch, 3, height, width); export the network with that input"
        )
    return inputs[0].name, dims[0][2].dim_value or None, dims[0][3].dim_value or None


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold each BatchNormalization into the preceding convolution, if nothing else reads its output.

    With g = scale / sqrt(variance + epsilon): weights become g W and the bias g (b - mean) + shift.
    All other batch norms are kept.
    """
    model = copy.deepcopy(model)
    constants, users = initializers(model), consumers(model)
    outputs = {value.name for value in model.graph.output}
    producers = {name: node for node in model.graph.node for name in node.output}
    dead = []
    for norm in model.graph.node:
        conv = producers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or conv.output[0] in outputs:
            continue
        if len(users[conv.output[0]]) > 1 or any(name not in constants for name in [*conv.input[1:], *norm.input[1:]]):
            continue
        _fold(model, conv, norm, constants)
        dead.append(norm)
    for norm in dead:
        model.graph.node.remove(norm)
    return prune(model, [value.name for value in model.graph.output])


def _fold(
    model: onnx.ModelProto, conv: onnx.NodeProto, norm: onnx.NodeProto, constants: dict[str, TensorProto]
) -> None:
    scale, shift, mean, variance = (read_constant(constants, name).astype("float64") for name in norm.input[1:5])
    epsilon = node_attribute(norm, "epsilon", 1e-5)
    gain = scale / np.sqrt(variance + epsilon)
    weights = read_constant(constants, conv.input[1])
    bias = read_constant(constants, conv.input[2]) if len(conv.input) > 2 else np.zeros(len(weights))
    folded = weights * gain.reshape(-1, *[1] * (weights.ndim - 1))
    # New names: other convolutions may share the old tensors.
    names = [
        constant(model, f"{norm.output[0]}_folded_weight", folded.astype("float32")),
        constant(model, f"{norm.output[0]}_folded_bias", (gain * (bias - mean) + shift).astype("float32")),
    ]
    image = conv.input[0]
    del conv.input[:]
    conv.input.extend([image, *names])
    conv.output[0] = norm.output[0]


def wrap(
    model: onnx.ModelProto,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> onnx.ModelProto:
    """Add normalisation before a backbone, and flattening and sign bits after it.

    Parameters
    ----------
    model : onnx.ModelProto
        Float image (batch, 3, height, width) to one feature tensor.
    size : (height, width)
    mean, std : sequences of 3 floats
        Per channel, for pixels scaled to [0, 1].

    Returns
    -------
    onnx.ModelProto
        Input ``images``, outputs ``features`` and ``bits``; see the module's description.
    """
    wrapped = onnx.compose.add_prefix(model, "backbone/", rename_inputs=True, rename_outputs=True)
    graph = wrapped.graph
    image, feature_map = graph.input[0].name, graph.output[0].name
    m = feature_count(model, size)
    before = _normalisation_nodes(wrapped, image, np.array(mean), np.array(std))
    after = [helper.make_node("Flatten", [feature_map], ["features"], axis=1), *_bit_nodes(wrapped, m)]
    nodes = [*before, *copy.deepcopy(list(graph.node)), *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *size, 3]))
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", m]))
    graph.output.append(helper.make_tensor_value_info("bits", TensorProto.UINT8, ["batch", packed_length(m)]))
    graph.name, wrapped.producer_name, wrapped.producer_version = "aurevoir", "aurevoir", ""
    onnx.checker.check_model(wrapped)
    return onnx.shape_inference.infer_shapes(wrapped)


def feature_count(model: onnx.ModelProto, size: tuple[int, int]) -> int:
    """Return m, the number of values in a backbone's output for one image of the given size.

    Raises
    ------
    AurevoirError
        If the output's shape cannot be inferred.
    """
    sized = copy.deepcopy(model)
    for dim, length in zip(sized.graph.input[0].type.tensor_type.shape.dim[2:], size, strict=True):
        dim.dim_value = length
    shapes = tensor_shapes(sized)
    shape = shapes.get(model.graph.output[0].name, [])[1:]
    if not shape or None in shape:
        raise AurevoirError(
            f"the shape of tensor {model.graph.output[0].name!r} cannot be inferred; cut at another tensor"
        )
    return int(np.prod([length or 0 for length in shape]))


def tensor_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Return the inferred shape of every tensor; a dynamic dimension is None."""
    return shapes_of(model)


def _normalisation_nodes(model: onnx.ModelProto, image: str, mean: np.ndarray, std: np.ndarray) -> list[onnx.NodeProto]:
    gain = constant(model, "normalisation_gain", (1 / (255 * std)).reshape(1, 3, 1, 1).astype("float32"))
    shift = constant(model, "normalisation_shift", (-mean / std).reshape(1, 3, 1, 1).astype("float32"))
    return [
        helper.make_node("Cast", ["images"], ["images_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["images_float"], ["images_channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["images_channels", gain], ["images_scaled"]),
        helper.make_node("Add", ["images_scaled", shift], [image]),
    ]


def _bit_nodes(model: onnx.ModelProto, m: int) -> list[onnx.NodeProto]:
    """Return nodes that compute ``numpy.packbits(features > 0, axis=1)``."""
    zero = constant(model, "sign_zero", np.array(0, dtype="float32"))
    weights = constant(model, "bit_places", 2.0 ** np.arange(7, -1, -1, dtype="float32")[:, None])
    bytes_shape = constant(model, "bytes_shape", np.array([-1, packed_length(m), 8]))
    packed_shape = constant(model, "packed_shape", np.array([-1, packed_length(m)]))
    nodes = [
        helper.make_node("Greater", ["features", zero], ["signs"]),
        helper.make_node("Cast", ["signs"], ["signs_float"], to=TensorProto.FLOAT),
    ]
    signs = "signs_float"
    if m % 8:
        padding = constant(model, "bit_padding", np.array([0, 0, 0, -m % 8]))
        nodes.append(helper.make_node("Pad", [signs, padding], ["signs_padded"]))
        signs = "signs_padded"
    return [
        *nodes,
        helper.make_node("Reshape", [signs, bytes_shape], ["sign_bytes"]),
        helper.make_node("MatMul", ["sign_bytes", weights], ["byte_values"]),
        helper.make_node("Reshape", ["byte_values", packed_shape], ["bytes_float"]),
        helper.make_node("Cast", ["bytes_float"], ["bits"], to=TensorProto.UINT8),
    ]
