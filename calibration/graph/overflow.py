"""Find tensors that overflow float16."""

import copy
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from .edit import tensor_names, unused

LARGEST = float(np.finfo("float16").max) / 2
"""Half of float16's 65504, since other images may produce larger values."""


def with_magnitudes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the graph with the largest magnitude of each computed float tensor as an additional tensor.

    Returns
    -------
    model : onnx.ModelProto
    sizes : dict
        Name of each float tensor to that of its magnitude, a scalar.
    """
    model = copy.deepcopy(model)
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.output]
    names = [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    taken = tensor_names(model)
    sizes = {name: unused(f"{name}_size", taken) for name in names}
    for name, size in sizes.items():
        absolute = unused(f"{name}_abs", taken)
        model.graph.node.append(helper.make_node("Abs", [name], [absolute]))
        model.graph.node.append(helper.make_node("ReduceMax", [absolute], [size], keepdims=0))
    return model, sizes


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
