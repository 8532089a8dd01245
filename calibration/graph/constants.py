"""Fold what does not depend on the images into initializers, and take the branches that are then known."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .edit import constant, initializers, node_attribute, read_constant, replace, subgraphs, tensor_names, unused

BATCHES = (1, 2, 512)
"""Batch sizes for which shapes are computed: what is equal for all of them does not depend on the batch."""
MAX_GROWTH = 1 << 20
"""Constants with more elements than this, and than what they are computed from, stay computed."""

MOST_FOLDED = 1 << 26
"""Elements that one pass computes, unless those of the constants are more: what doubles with each node stops here."""

_QUANTIZED_OPSET = 21
"""The reference has no older QuantizeLinear and DequantizeLinear, which this one's include."""

_ELEMENTWISE = (
    "Abs Add And Cast CastLike Ceil Clip Cos Div Equal Erf Exp Floor Greater GreaterOrEqual IsNaN Less LessOrEqual Log "
    "Max Mean Min Mod Mul Neg Not Or Pow Reciprocal Relu Round Sigmoid Sign Sin Sqrt Sub Sum Tanh Where Xor"
)
_OTHERS = (
    "ArgMax ArgMin Concat Constant ConstantOfShape CumSum DequantizeLinear Expand EyeLike Flatten Gather "
    "GatherElements GatherND Gemm Identity MatMul NonZero OneHot Pad QuantizeLinear Range ReduceMax ReduceMean "
    "ReduceMin ReduceProd ReduceSum Reshape ScatterElements ScatterND Shape Size Slice Split Squeeze Tile Transpose "
    "Trilu Unsqueeze"
)
_FOLDED = frozenset(f"{_ELEMENTWISE} {_OTHERS}".split())

Values = Sequence[np.ndarray]
"""One array, or one for each of `BATCHES`."""


def fold_constants(model: ModelProto) -> bool:
    """Replace nodes whose outputs are the same for all images and batch sizes with initializers, in place.

    A Reshape to a shape that is computed from the batch size gets a constant one.

    Returns
    -------
    bool
        Whether anything was replaced.
    """
    folder = _Folder(model)
    kept = [node for node in list(model.graph.node) if not folder.folds(node)]
    changed = folder.freed or len(kept) < len(model.graph.node)
    replace(model.graph.node, kept)
    return changed


class _Folder:
    def __init__(self, model: ModelProto) -> None:
        self.model, self.freed = model, False
        self.tensors, self.taken = initializers(model), tensor_names(model)
        self.outputs = {value.name for value in model.graph.output}
        self.opset = {item.domain: item.version for item in model.opset_import}
        self.known: dict[str, Values] = {}
        self.room = max(MOST_FOLDED, 4 * sum(math.prod(tensor.dims) for tensor in model.graph.initializer))
        self.shapes = _shapes(model) if any(n.op_type in ("Shape", "Size") for n in model.graph.node) else {}

    def folds(self, node: NodeProto) -> bool:
        """Evaluate a node if its inputs are known; return whether initializers replace it."""
        if node.domain:
            return False
        if node.op_type == "Reshape":
            self._free(node)
        found = self._evaluated(node) if node.op_type in _FOLDED else None
        if found is None:
            return False
        self.known.update(found)
        if self.outputs.intersection(node.output) or any(len(values) > 1 for values in found.values()):
            return False
        for name, values in found.items():
            constant(self.model, name, values[0])
        return True

    def _evaluated(self, node: NodeProto) -> dict[str, Values] | None:
        if node.op_type in ("Shape", "Size", "Constant"):
            return self._said(node)
        inputs = {name: self._values(name) for name in node.input if name}
        if not all(map(len, inputs.values())):
            return None
        results = []
        for number in range(max(map(len, inputs.values()), default=1)):
            given = {name: values[number % len(values)] for name, values in inputs.items()}
            if self.room < 0 or not _is_small(node, list(given.values())):
                return None
            try:
                results.append(_run(node, given, self.opset))
            except Exception:  # what the reference cannot compute, the runtime does or refuses
                return None
            self.room -= sum(value.size for value in results[-1].values())
        return {name: _distinct([result[name] for result in results]) for name in node.output if name}

    def _said(self, node: NodeProto) -> dict[str, Values] | None:
        """Return what a Constant holds, or the shape or size of a tensor."""
        if node.op_type == "Constant":
            value = _value(node)
            return None if value is None else {node.output[0]: [value]}
        tensor = self.tensors.get(node.input[0])
        dims = self.shapes.get(node.input[0]) if tensor is None else [[size] * len(BATCHES) for size in tensor.dims]
        if dims is None or None in dims:
            return None
        whole = np.array(dims, "int64").reshape(-1, len(BATCHES)).T
        if node.op_type == "Size":
            return {node.output[0]: _distinct([np.array(math.prod(map(int, shape)), "int64") for shape in whole])}
        part = slice(node_attribute(node, "start", 0), node_attribute(node, "end", None))
        return {node.output[0]: _distinct([shape[part] for shape in whole])}

    def _values(self, name: str) -> Values:
        if name not in self.known and name in self.tensors:
            self.known[name] = [read_constant(self.tensors, name)]
        return self.known.get(name, ())

    def _free(self, node: NodeProto) -> None:
        """Write the one length of a Reshape's shape that depends on the batch as -1, or 0 for the batch itself."""
        shapes = self._values(node.input[1]) if len(node.input) > 1 else ()
        if len(shapes) < len(BATCHES) or node_attribute(node, "allowzero", 0) or len({len(s) for s in shapes}) > 1:
            return
        differing = np.flatnonzero(np.any(np.stack(shapes) != shapes[0], axis=0))
        if len(differing) != 1:
            return
        place, free = differing[0], shapes[0].copy()
        same = self.shapes.get(node.input[0], [None])[:1] == [list(BATCHES)] == [[int(shape[0]) for shape in shapes]]
        if not same and -1 in np.delete(free, place):
            return
        free[place] = 0 if same else -1
        name = unused(f"{node.output[0]}_shape", self.taken)
        node.input[1] = constant(self.model, name, free)
        self.known[name] = [free]
        self.freed = True


def dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """Return a sparse tensor as an array.

    Raises
    ------
    ValueError
        If it has more than 2^31 elements.
    """
    shape, values = tuple(sparse.dims), numpy_helper.to_array(sparse.values)
    if math.prod(shape) > 1 << 31:
        raise ValueError(f"sparse tensor {sparse.values.name!r} of shape {shape} is too large")
    places = numpy_helper.to_array(sparse.indices)
    result = np.zeros(shape, values.dtype)
    result[tuple(places.T) if places.ndim == 2 else np.unravel_index(places, shape)] = values
    return result


def _value(node: NodeProto) -> np.ndarray | None:
    """Return the value of a Constant node; None for strings."""
    item = node.attribute[0]
    if item.name == "sparse_value":
        return dense(item.sparse_tensor)
    value = helper.get_attribute_value(item)
    if item.name == "value":
        return None if value.data_type == TensorProto.STRING else numpy_helper.to_array(value)
    kinds = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    return np.asarray(value, kinds[item.name]) if item.name in kinds else None


def _distinct(values: Values) -> Values:
    first = values[0]
    same = all(
        value.shape == first.shape and np.array_equal(value, first, equal_nan=_is_float(value)) for value in values
    )
    return values[:1] if same else values


def _is_float(value: np.ndarray) -> bool:
    return bool(np.issubdtype(value.dtype, np.floating))


def _shapes(model: ModelProto) -> dict[str, list[list[int] | None]]:
    """Return each dimension of every tensor for each of `BATCHES`; None if it is unknown."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # graphs that contradict themselves
        return {}
    batch = next((dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim[:1]), "")

    def lengths(dim: onnx.TensorShapeProto.Dimension) -> list[int] | None:
        if dim.HasField("dim_value"):
            return [dim.dim_value] * len(BATCHES)
        return list(BATCHES) if batch and dim.dim_param == batch else None

    return {
        value.name: [lengths(dim) for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.value_info]
        if value.type.tensor_type.HasField("shape")
    }


def _run(node: NodeProto, inputs: dict[str, np.ndarray], opset: dict[str, int]) -> dict[str, np.ndarray]:
    from onnx.reference import ReferenceEvaluator  # slow to import, and few graphs need it

    kinds = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        opset = {"": _QUANTIZED_OPSET}
    names = [name for name in node.output if name]
    graph = helper.make_graph([node], "node", kinds, [helper.make_empty_tensor_value_info(name) for name in names])
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(graph, opsets=opset).run(None, inputs)
    return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}


def _is_small(node: NodeProto, inputs: Sequence[np.ndarray]) -> bool:
    """Return whether a node's output is no larger than its inputs, or than `MAX_GROWTH` elements."""
    given = sum(value.size for value in inputs)
    try:
        length = _LENGTHS[node.op_type](*inputs) if node.op_type in _LENGTHS else given
        return bool(length <= max(MAX_GROWTH, given))
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError):
        return False


def _integers(value: np.ndarray) -> list[int]:
    return [int(item) for item in np.ravel(value[:64] if value.ndim else value)]


def _elementwise_length(*inputs: np.ndarray) -> int:
    return math.prod(_broadcast([value.shape for value in inputs]))


def _gathered_length(data: np.ndarray, indices: np.ndarray) -> int:
    return int(data.size * indices.size // min(data.shape))


def _product_length(a: np.ndarray, b: np.ndarray, *rest: np.ndarray) -> int:
    return int(a.size * b.size // max(1, min(*a.shape, *b.shape)) ** 2)


def _range_length(start: np.ndarray, limit: np.ndarray, step: np.ndarray) -> int:
    first, last, each = (float(np.ravel(value)[0]) for value in (start, limit, step))
    return math.ceil((last - first) / each)


_LENGTHS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise_length),
    "ConstantOfShape": lambda shape: math.prod(_integers(shape)),
    "Expand": lambda value, shape: math.prod(_broadcast([value.shape, _integers(shape)])),
    "Tile": lambda value, times: value.size * math.prod(_integers(times)),
    "Range": _range_length,
    "Pad": lambda value, pads, *rest: math.prod(size + sum(map(abs, _integers(pads))) for size in value.shape),
    "OneHot": lambda indices, depth, values: indices.size * _integers(depth)[0],
    **dict.fromkeys(("Gather", "GatherND"), _gathered_length),
    **dict.fromkeys(("MatMul", "Gemm"), _product_length),
}
"""Upper bounds of the number of elements of an output, by operator; of all others it is that of the inputs."""


def _broadcast(shapes: Iterable[Sequence[int]]) -> list[int]:
    """Return the broadcast shape, which NumPy's own function would refuse beyond its largest size."""
    result: list[int] = []
    for shape in shapes:
        longer = max(len(result), len(shape))
        pairs = zip([1] * (longer - len(result)) + result, [1] * (longer - len(shape)) + list(shape), strict=True)
        result = [max(pair) for pair in pairs]
    return result


def take_known_branches(model: ModelProto) -> bool:
    """Replace each If of a constant condition with the nodes of its branch, in place; return whether there was one."""
    tensors, taken, nodes, changed = initializers(model), tensor_names(model), [], False
    for node in list(model.graph.node):
        condition = tensors.get(node.input[0]) if node.op_type == "If" and not node.domain else None
        if condition is None:
            nodes.append(node)
            continue
        chosen = "then_branch" if numpy_helper.to_array(condition).reshape(-1)[0] else "else_branch"
        nodes.extend(_spliced(model, node, node_attribute(node, chosen, None), taken))
        changed = True
    replace(model.graph.node, nodes)
    return changed


def _spliced(model: ModelProto, node: NodeProto, branch: GraphProto, taken: set[str]) -> list[NodeProto]:
    inner = [name for each in branch.node for name in each.output if name] + [t.name for t in branch.initializer]
    names = {name: unused(name, taken) for name in inner}
    for tensor in branch.initializer:
        added = TensorProto()
        added.CopyFrom(tensor)
        added.name = names[tensor.name]
        model.graph.initializer.append(added)
    nodes = [_renamed(each, names) for each in branch.node]
    ends = [names.get(value.name, value.name) for value in branch.output]
    return [*nodes, *(helper.make_node("Identity", [end], [name]) for end, name in zip(ends, node.output, strict=True))]


def _renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """Return a copy of a node, and of the graphs inside it, with other tensor names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    replace(copy.input, [names.get(name, name) for name in node.input])
    replace(copy.output, [names.get(name, name) for name in node.output])
    for graph in subgraphs(copy):
        replace(graph.node, [_renamed(each, names) for each in graph.node])
        for value in graph.output:
            value.name = names.get(value.name, value.name)
    return copy
