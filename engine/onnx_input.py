"""The image input of ONNX files as exporters write it, and the preprocessing that a file carries with it."""

import copy
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..calibration.graph.edit import consumers, initializers, node_attribute, prune, tensor_names, type_name, unused
from ..errors import AurevoirError
from .graph_cost import graph_cost
from .preprocessing import IMAGENET, RAW, SYMMETRIC, UNIT, Preprocessing

_RANGE, _PIXELS = "Image.NominalPixelRange", "uint8"
_RANGES = {_PIXELS: RAW, "NominalRange_0_255": RAW, "Normalized_0_1": UNIT, "Normalized_1_1": SYMMETRIC}
_KINDS = (TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.DOUBLE)
_OF_IMAGES = (1, 3, 4)
"""Numbers of channels that say which axis is that of the channels."""
_MOST_PROBED = 16
_MOST_MEMORY = 1 << 30
_KEEPING_AXES = (
    *("Identity", "Cast", "Add", "Sub", "Mul", "Div", "Pow", "Neg", "Pad", "Clip", "Slice", "Resize", "Upsample"),
    *("BatchNormalization", "QuantizeLinear", "DequantizeLinear"),
)
_MOVING = ("Identity", "Transpose", "Reshape", "Slice", "Gather", "Squeeze", "Unsqueeze", "Flatten")
_AFFINE = (
    *("Identity", "Cast", "Transpose", "Add", "Sub", "Mul", "Div", "Neg", "Slice", "Split", "Gather", "Concat"),
    *("Squeeze", "Unsqueeze", "BatchNormalization"),
)


def standard_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with one input, a float32 image of shape (batch, channels, height, width).

    Channels last, free channels, uint8, float16 and float64 are converted, and inputs that nothing reads removed.

    Raises
    ------
    AurevoirError
        If there is not exactly one image input, or its channels are not known.
    """
    model = copy.deepcopy(model)
    constants, users = initializers(model), consumers(model)
    inputs = [value for value in model.graph.input if value.name not in constants]
    read = [value for value in inputs if users[value.name]] or inputs
    image = read[0] if len(read) == 1 else None
    kind = _kind(image) if image is not None else None
    axes = image.type.tensor_type.shape.dim if image is not None else []
    if image is None or kind not in _KINDS or len(axes) not in (0, 4):
        raise AurevoirError(
            f"the ONNX model's inputs ({'; '.join(map(_described, inputs))}) are not one float32 image; export the "
            "network with one input of shape (batch, channels, height, width) or (batch, height, width, channels)"
        )
    for value in inputs:
        if value is not image:
            model.graph.input.remove(value)
    axis, channels = _channels(model, image)
    lengths = [dim.dim_value or None for dim in axes] or [None] * 4
    height, width = (lengths[other] for other in (1, 2, 3) if other != axis)
    names = ["batch", channels, height or "height", width or "width"]
    if _only_cast(users, image.name):
        kind = TensorProto.FLOAT
    shape = onnx.TypeProto()
    shape.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, names))
    image.type.CopyFrom(shape)
    del model.graph.value_info[:]
    _dequantize(model, image.name)
    if kind != TensorProto.FLOAT:
        _insert(model, helper.make_node("Cast", [image.name], [unused(image.name, tensor_names(model))], to=kind))
    if axis == 3:
        _insert(
            model,
            helper.make_node("Transpose", [image.name], [unused(image.name, tensor_names(model))], perm=[0, 2, 3, 1]),
        )
        _cancel_transposes(model)
    return model


def _dequantize(model: onnx.ModelProto, image: str) -> None:
    """Write a DequantizeLinear of the image, with one scale, as (x - zero_point) * scale."""
    scalars = {name for name, tensor in initializers(model).items() if not tensor.dims}
    for index, node in enumerate(list(model.graph.node)):
        if node.op_type != "DequantizeLinear" or node.input[0] != image or not scalars.issuperset(node.input[1:]):
            continue
        parts = [unused(f"{node.output[0]}_{part}", tensor_names(model)) for part in ("levels", "zero", "shifted")]
        inputs = list(node.input)
        steps = [helper.make_node("Cast", inputs[:1], parts[:1], to=TensorProto.FLOAT)]
        if len(inputs) > 2:
            steps += [
                helper.make_node("Cast", inputs[2:], parts[1:2], to=TensorProto.FLOAT),
                helper.make_node("Sub", parts[:2], parts[2:]),
            ]
        steps.append(helper.make_node("Mul", [steps[-1].output[0], inputs[1]], node.output))
        model.graph.node.remove(node)
        for step in reversed(steps):
            model.graph.node.insert(index, step)
        return


def _described(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    axes = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in kind.shape.dim)
    return f"{value.name}: {type_name(kind.elem_type)} ({axes})"


def _channels(model: onnx.ModelProto, image: onnx.ValueInfoProto) -> tuple[int, int]:
    """Return which axis of the image holds the channels, and how many there are."""
    lengths = [dim.dim_value or None for dim in image.type.tensor_type.shape.dim] or [None] * 4
    first, last = lengths[1], lengths[3]
    if (first in _OF_IMAGES) != (last in _OF_IMAGES):
        return (1, first or 0) if first in _OF_IMAGES else (3, last or 0)
    axis, channels = _of_first_convolution(model, image.name) or (0, 0)
    if axis in (1, 3) and lengths[axis] in (None, channels):
        return axis, channels
    known = {axis: lengths[axis] for axis in (1, 3) if lengths[axis]}
    if not known or first == last:
        raise AurevoirError(
            f"the ONNX model's input {_described(image)} does not say which axis holds the channels, or how many; "
            "export the network with a fixed number of channels"
        )
    return min(((axis, length or 0) for axis, length in known.items()), key=lambda item: item[1])


def _of_first_convolution(model: onnx.ModelProto, name: str) -> tuple[int, int] | None:
    """Return the axis of an image that a convolution reads as channels, and their number, if one is soon met."""
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    axes = {name: [0, 1, 2, 3]}
    for node in model.graph.node:
        source = next((each for each in node.input if each in axes), None)
        if source is None:
            continue
        if node.op_type == "Conv" and len(shapes.get(node.input[1], [])) == 4:
            return axes[source][1], shapes[node.input[1]][1] * node_attribute(node, "group", 1)
        if node.op_type == "Transpose":
            perm = node_attribute(node, "perm", [3, 2, 1, 0])
            axes[node.output[0]] = [axes[source][axis] for axis in perm]
        elif node.op_type in _KEEPING_AXES:
            axes[node.output[0]] = axes[source]
    return None


def _only_cast(users: dict[str, list[onnx.NodeProto]], name: str) -> bool:
    """Return whether a tensor is only moved and then cast, so that its values may be of another type."""
    return all(
        node.op_type == "Cast"
        or (node.op_type in _MOVING and node.input[0] == name and _only_cast(users, node.output[0]))
        for node in users[name]
    ) and bool(users[name])


def _insert(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Put a node between the image and the nodes that read it."""
    for user in model.graph.node:
        for index, name in enumerate(user.input):
            if name == node.input[0]:
                user.input[index] = node.output[0]
    model.graph.node.insert(0, node)


def _cancel_transposes(model: onnx.ModelProto) -> None:
    """Let nodes that undo the first node, a transposition to channels last, read the image instead."""
    first = model.graph.node[0]
    for node in consumers(model)[first.output[0]]:
        if node.op_type == "Transpose" and list(node_attribute(node, "perm", [])) == [0, 3, 1, 2]:
            node.CopyFrom(helper.make_node("Identity", first.input, node.output, node.name))
    if not consumers(model)[first.output[0]]:
        model.graph.node.remove(first)


def with_image_metadata(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Add, in place, what a source says about its images: by the ONNX standard's metadata, or by taking uint8."""
    kept = {item.key: item.value for item in source.metadata_props if item.key.startswith("Image.")}
    constants = initializers(source)
    if any(_kind(value) == TensorProto.UINT8 and value.name not in constants for value in source.graph.input):
        kept[_RANGE] = _PIXELS
    helper.set_model_props(model, kept)
    return model


def _kind(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def image_size(model: onnx.ModelProto) -> tuple[int | None, int | None]:
    """Return height and width of the input of `standard_input`; a free one is None."""
    _, _, height, width = model.graph.input[0].type.tensor_type.shape.dim
    return height.dim_value or None, width.dim_value or None


def takes_pixels(model: onnx.ModelProto) -> bool:
    """Return whether the source of a model with its image metadata takes uint8 pixels."""
    return any((item.key, item.value) == (_RANGE, _PIXELS) for item in model.metadata_props)


def carried_preprocessing(model: onnx.ModelProto, size: tuple[int, int]) -> Preprocessing:
    """Return the preprocessing that a file wants: what its metadata says, or its first nodes leave, or ImageNet's.

    Parameters
    ----------
    model : onnx.ModelProto
        With the input of `standard_input`.
    size : (height, width)
    """
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    said = {item.key: item.value for item in model.metadata_props}
    reversed_ = said.get("Image.BitmapPixelFormat", "").startswith("Bgr")
    found = _RANGES.get(said.get(_RANGE, ""))
    if found is None:
        found, own_order = _left_by_first_nodes(model, size)
        reversed_ = reversed_ or own_order
    if reversed_ and channels == 3:
        return Preprocessing(found.mean[::-1], found.std[::-1], "BGR")
    return found.for_channels(channels)


def _left_by_first_nodes(model: onnx.ModelProto, size: tuple[int, int]) -> tuple[Preprocessing, bool]:
    """Return which pixels a graph wants whose first nodes may normalise, and whether it subtracts BGR means."""
    steps = _first_steps(model, size)
    if not steps:
        return IMAGENET, False
    # A channel that becomes (x - mean) / std wants pixels of which these are the mean and standard deviation.
    means, stds = np.array(steps).T
    mean, std = means.mean(), abs(stds).mean()
    if mean > 2 or (abs(mean) < 1e-3 and std > 60):
        found = RAW
    elif (0.05 < mean < 0.95 and 0.1 < std < 0.6) or (-1e-3 < mean < 0.95 and std < 0.01):
        found = UNIT
    else:
        return IMAGENET, False
    scaled = means / 255 if found is RAW else means
    blue_first = len(means) == 3 and np.allclose(scaled, IMAGENET.mean[::-1], atol=0.01)
    return found, bool(blue_first)


def _first_steps(model: onnx.ModelProto, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Return (mean, std) of each channel of the image where the first nodes compute (x - mean) / std, else nothing."""
    from onnx.reference import ReferenceEvaluator

    image, constants = model.graph.input[0], initializers(model)
    inside, edge = {image.name}, set()
    for node in model.graph.node:
        known = all(not name or name in inside or name in constants for name in node.input)
        if known and node.op_type in _AFFINE and inside.intersection(node.input):
            inside.update(node.output)
        else:
            edge.update(inside.intersection(node.input))
    edge |= inside.intersection(value.name for value in model.graph.output)
    channels = image.type.tensor_type.shape.dim[1].dim_value
    if len(edge) != 1 or edge == {image.name} or channels > _MOST_PROBED:
        return []
    try:
        steps = prune(model, edge)
        if graph_cost(steps, [1, channels, *size], "the first nodes").memory > _MOST_MEMORY:
            return []
        run = ReferenceEvaluator(steps)
        black, *lit = [
            np.asarray(run.run(None, {image.name: pixels}), "float64")[0] for pixels in _probes(channels, size)
        ]
    except Exception:  # what the evaluator cannot compute is not a plain normalisation
        return []
    found = []
    for one, two in zip(lit[::2], lit[1::2], strict=True):
        slope = one - black
        if not slope.any() or not np.allclose(two - black, 2 * slope, rtol=1e-3, atol=1e-6):
            return []
        std = 1 / np.median(slope[slope != 0])
        found.append((float(-np.median(black[slope != 0]) * std), float(std)))
    return found


def _probes(channels: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield a black image, and for each channel two in which it is 1 and 2."""
    black = np.zeros((1, channels, *size), "float32")
    yield black
    for channel in range(channels):
        for value in (1, 2):
            image = black.copy()
            image[:, channel] = value
            yield image
