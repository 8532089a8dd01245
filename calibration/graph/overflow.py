"""Find tensors that overflow float16."""

import copy
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

LARGEST = float(np.finfo("float16").max) / 2
"""Half of float16's 65504, since other images may produce larger values."""


def with_magnitudes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph with the largest magnitude of each computed float tensor as an additional tensor.

    Returns
    -------
    model : onnx.ModelProto
    names : list of str
        The float tensors; the magnitude of each is a scalar tensor with the suffix ``_size``.
    """
    model = copy.deepcopy(model)
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.output]
    names = [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    for name in names:
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}_abs"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{name}_abs"], [f"{name}_size"], keepdims=0))
    return model, names


def overflowing(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], names: Sequence[str], batches: Iterable[np.ndarray]
) -> list[str]:
    """Return the tensors whose values exceed half of float16's range on any image.

    Parameters
    ----------
    run : callable
        Maps uint8 images to the magnitudes of `with_magnitudes`, in the order of `names`.
    names : sequence of str
    batches : iterable of uint8 arrays of shape (b, height, width, 3)
    """
    largest = np.zeros(len(names))
    for pixels in batches:
        largest = np.maximum(largest, [float(np.max(size)) for size in run(pixels)])
    # The negation includes nan.
    return [name for name, size in zip(names, largest, strict=True) if not size <= LARGEST]
