"""Turn a float ONNX backbone into the graph of an engine, from uint8 images to features and bits.

images uint8 (batch, height, width, 3) -> Cast, Transpose, Mul, Add -> backbone -> Flatten
-> features float32 (batch, m) -> Greater, Pad, Reshape, MatMul -> bits uint8 (batch, ceil(m / 8))
                               -> Reshape, ReduceSum, Mul -> pooled float32 (batch, channels)
Of a backbone with several outputs the last is the features, and pooled has the means of all, one after the other.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..calibration.graph.edit import POOLED, POOLED_PREFIX, constant, tensor_shapes
from ..errors import AurevoirError
from ..kernels.bits import packed_length
from .graph_cost import LARGEST, check_cost
from .preprocessing import Preprocessing


def declare_batch(model: onnx.ModelProto) -> None:
    """Declare a batch of any size on inputs and outputs, in place."""
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.HasField("shape") and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]


def wrap(
    model: onnx.ModelProto,
    size: tuple[int, int],
    before: Preprocessing,
) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Add normalisation before a backbone, and flattening, sign bits and channel means after it.

    Parameters
    ----------
    model : onnx.ModelProto
        Float image (batch, channels, height, width) to one feature tensor, behind others that are pooled with it.
    size : (height, width)
    before : Preprocessing

    Returns
    -------
    graph : onnx.ModelProto
        Input ``images``, outputs ``features``, ``bits`` and ``pooled``; see the module's description.
    channels : tuple of int
        Of each output of the backbone.

    Raises
    ------
    AurevoirError
        If the output's shape cannot be inferred, onnx's checker refuses the graph, or one image in it exceeds the
        memory budget.
    """
    wrapped = onnx.compose.add_prefix(model, "backbone/", rename_inputs=True, rename_outputs=True)
    graph = wrapped.graph
    image, (*layers, feature_map) = graph.input[0].name, (value.name for value in graph.output)
    outputs = [value.name for value in model.graph.output]
    shapes = _shapes(model, size)
    m = math.prod(shapes[outputs[-1]][1:])
    first = _normalisation_nodes(wrapped, image, before)
    after = [*_feature_nodes(model, feature_map), *_bit_nodes(wrapped, m)]
    nodes = [*first, *copy.deepcopy(list(graph.node)), *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *size, len(before.mean)]))
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", m]))
    graph.output.append(helper.make_tensor_value_info("bits", TensorProto.UINT8, ["batch", packed_length(m)]))
    wrapped.ClearField("metadata_props")
    graph.name, wrapped.producer_name, wrapped.producer_version = "aurevoir", "aurevoir", ""
    try:
        onnx.checker.check_model(wrapped, full_check=True)
    except Exception as error:  # the checker's errors have no common base class
        reason = " ".join(str(error).strip().partition("\n")[0].split())[:300]
        raise AurevoirError(f"onnx's checker refuses the truncated network: {reason}; cut at another tensor") from None
    # Last, so that the rest is byte for byte the graph that calibration tables name; see `edit.digest`.
    whole = onnx.shape_inference.infer_shapes(wrapped)
    axes = [channel_axis(model, name, shapes, size) for name in outputs]
    channels = tuple(shapes[name][axis] for name, axis in zip(outputs, axes, strict=True))
    means = [
        _append_layer_means(whole, index, layer, shapes[name], axis)
        for index, (layer, name, axis) in enumerate(zip(layers, outputs, axes, strict=False))
    ]
    _append_pooled(whole, shapes[outputs[-1]][1:], axes[-1], means, sum(channels))
    check_cost(whole, [1, *size, len(before.mean)], "the truncated network")
    return whole, channels


def _shapes(model: onnx.ModelProto, size: tuple[int, int]) -> dict[str, list[int]]:
    """Return the shapes that are known of a backbone's tensors for images of a size, its output's among them.

    Raises
    ------
    AurevoirError
        If the output's shape cannot be inferred, or has too many features.
    """
    sized = copy.deepcopy(model)
    for dim, length in zip(sized.graph.input[0].type.tensor_type.shape.dim[2:], size, strict=True):
        dim.dim_value = length
    inferred = tensor_shapes(sized)
    for name in (value.name for value in model.graph.output):
        shape = inferred.get(name, [])[1:]
        if not shape or None in shape:
            raise AurevoirError(f"the shape of tensor {name!r} cannot be inferred; cut at another tensor")
        features = math.prod(length or 0 for length in shape)
        if features >= LARGEST:
            raise AurevoirError(
                f"tensor {name!r} has {features:,d} features an image, beyond 2^31; cut at another tensor"
            )
    return {name: [length or 0 for length in each] for name, each in inferred.items()}


def channel_axis(
    model: onnx.ModelProto, output: str, shapes: Mapping[str, Sequence[int]], size: tuple[int, int]
) -> int:
    """Return the axis of an output of a backbone, whose batch is axis 0, along which its channels are.

    That is axis 1 of (batch, channels), (batch, channels, height, width) and what has more axes. It is the last one of
    (batch, height, width, channels): where axes 1 and 2 are as the height and width of the images, and 2 and 3 are not.
    Three axes are (batch, tokens, channels), unless a Reshape or Flatten put the pixels of
    (batch, channels, height, width) in a row.

    Parameters
    ----------
    model : onnx.ModelProto
    output : str
    shapes : mapping of sequences of int
        Of its tensors by name.
    size : (height, width)
        Of the images.
    """
    shape, (height, width) = shapes[output], size
    if len(shape) == 3:
        made = next(node for node in model.graph.node if output in node.output)
        before = shapes.get(made.input[0], ()) if made.op_type in ("Reshape", "Flatten") else ()
        return 1 if len(before) == 4 and before[1] == shape[1] else 2
    if len(shape) == 4 and shape[1] * width == shape[2] * height and shape[2] * width != shape[3] * height:
        return 3
    return 1


def _normalisation_nodes(model: onnx.ModelProto, image: str, before: Preprocessing) -> list[onnx.NodeProto]:
    mean, std = np.array(before.mean), np.array(before.std)
    gain = constant(model, "normalisation_gain", (1 / (255 * std)).reshape(1, -1, 1, 1).astype("float32"))
    shift = constant(model, "normalisation_shift", (-mean / std).reshape(1, -1, 1, 1).astype("float32"))
    ordered, reordering = "images_channels", []
    if before.channel_order == "BGR":
        ordered, order = "images_ordered", constant(model, "channel_order", np.array([2, 1, 0]))
        reordering = [helper.make_node("Gather", ["images_channels", order], [ordered], axis=1)]
    return [
        helper.make_node("Cast", ["images"], ["images_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["images_float"], ["images_channels"], perm=[0, 3, 1, 2]),
        *reordering,
        helper.make_node("Mul", [ordered, gain], ["images_scaled"]),
        helper.make_node("Add", ["images_scaled", shift], [image]),
    ]


def _feature_nodes(model: onnx.ModelProto, feature_map: str) -> list[onnx.NodeProto]:
    if model.graph.output[-1].type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.UNDEFINED):
        return [helper.make_node("Flatten", [feature_map], ["features"], axis=1)]
    cast = helper.make_node("Cast", ["features_flat"], ["features"], to=TensorProto.FLOAT)
    return [helper.make_node("Flatten", [feature_map], ["features_flat"], axis=1), cast]


def _append_layer_means(model: onnx.ModelProto, index: int, layer: str, shape: Sequence[int], axis: int) -> str:
    """Append the channel means of an earlier layer, and return their name: of all values, in a single pass over them.

    Before a ReLU of their own they serve as well as means of positive values, which would take a second pass.
    """

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        made = f"{POOLED_PREFIX}{index}/{name}"
        model.graph.node.append(helper.make_node(kind, inputs, [made], name=made, **attributes))
        return made

    def value(name: str, array: np.ndarray) -> str:
        return constant(model, f"{POOLED_PREFIX}{index}/{name}", array)

    over = [each for each in range(1, len(shape)) if each != axis]
    share = np.array(1 / math.prod(shape[each] for each in over), dtype="float32")
    values = node("Cast", [layer], "float", to=TensorProto.FLOAT)
    sums = node("ReduceSum", [values, value("axes", np.array(over))], "sum", keepdims=0) if over else values
    return node("Mul", [sums, value("share", share)], "mean")


def _append_pooled(model: onnx.ModelProto, shape: Sequence[int], axis: int, before: Sequence[str], width: int) -> None:
    """Append the means of positive features over an image's places, in float32 throughout; see `POOLED_PREFIX`.

    The output has those of earlier layers, `before`, and then its own: `width` channels.
    """
    channels = shape[axis - 1]
    places = math.prod(shape) // channels
    ends = [-1, channels, places] if axis == 1 else [-1, places, channels]
    names = [
        constant(model, f"{POOLED_PREFIX}{name}", value)
        for name, value in (
            ("shape", np.array(ends)),
            ("axis", np.array([3 - min(axis, 2)])),
            ("share", np.array(1 / places, dtype="float32")),
        )
    ]

    def node(kind: str, inputs: list[str], name: str, out: str | None = None, **attributes: Any) -> None:
        inside = f"{POOLED_PREFIX}{name}"
        model.graph.node.append(helper.make_node(kind, inputs, [out or inside], name=inside, **attributes))

    # The features of a graph that computes in a narrower type.
    node("Cast", ["features"], "float", to=TensorProto.FLOAT)
    node("Relu", [f"{POOLED_PREFIX}float"], "positive")
    node("Reshape", [f"{POOLED_PREFIX}positive", names[0]], "places")
    node("ReduceSum", [f"{POOLED_PREFIX}places", names[1]], "sum", keepdims=0)
    node("Mul", [f"{POOLED_PREFIX}sum", names[2]], "mean", None if before else POOLED)
    if before:
        node("Concat", [*before, f"{POOLED_PREFIX}mean"], "all", POOLED, axis=1)
    model.graph.output.append(helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, ["batch", width]))


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
