"""The normal form of an ONNX graph, on which everything later relies.

One image in, of any batch size; opset 13 or newer; no functions, no branches that are known, no Constant nodes; float32
throughout; every tensor that does not depend on the images an initializer; batch norms folded into convolutions. What a
file has behind the cut may be of any kind, so `prepare` leaves what it cannot bring into this form, and
`onnx_file.check_normal` refuses it in what is left after cutting.
"""

import copy
import heapq
import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..calibration.graph.batch_norm import fold_batch_norms
from ..calibration.graph.constants import dense, fold_constants, take_known_branches
from ..calibration.graph.edit import (
    constant,
    initializers,
    leading_to,
    node_attribute,
    opset,
    reads,
    replace,
    strip_metadata,
    subgraphs,
    tensor_names,
    unused,
)
from .export import declare_batch

OLDEST_OPSET = 13
"""The first opset whose QuantizeLinear has an axis."""
_UPGRADED_OPSET, _RESIZE_OPSET = 17, 11
_OLDEST_IR, _NEW_IR = 4, 8
"""The first IR version that does not list initializers among the inputs, and what replaces older ones."""
_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_MAX_ROUNDS = 32

# Inputs that are scalars, which converters also write with shape (1,), and vectors, which they also write as scalars.
_SCALARS = {"Clip": (1, 2), "Pad": (2,), "Range": (0, 1, 2), "Dropout": (1, 2), "Trilu": (1,), "CumSum": (1,)}
_REDUCED = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_VECTORS = {name: (1,) for name in ("Squeeze", "Unsqueeze", *(f"Reduce{kind}" for kind in _REDUCED))}


def prepare(model: ModelProto) -> ModelProto:
    """Return a graph in normal form, with shapes inferred; what cannot be brought into it stays as it is."""
    model = copy.deepcopy(model)
    for step in _STEPS:
        model = step(model) or model
    return model


def make_readable(model: ModelProto) -> ModelProto:
    """Return a model in the form that onnx's checker takes, which is narrower than what runtimes take."""
    drop_initializer_inputs(model)
    model.ir_version = max(model.ir_version, _NEW_IR if model.ir_version < _OLDEST_IR else 0)
    model.graph.name = model.graph.name or "graph"
    del model.training_info[:], model.graph.quantization_annotation[:]
    for item in [*model.opset_import, *model.graph.node]:
        item.domain = "" if item.domain == "ai.onnx" else item.domain
    sort_nodes(model)
    model = _expand_group_norms(_inline_functions(model))
    names: set[str] = set()
    for node in model.graph.node:
        node.name = "" if node.name in names else node.name
        names.add(node.name)
    return model


def drop_initializer_inputs(model: ModelProto) -> None:
    """Remove weights from the inputs, where old exporters list them."""
    constants = {*initializers(model), *(sparse.values.name for sparse in model.graph.sparse_initializer)}
    if any(value.name in constants for value in model.graph.input):
        replace(model.graph.input, [value for value in model.graph.input if value.name not in constants])


def sort_nodes(model: ModelProto) -> None:
    """Sort nodes so that each stands behind what it reads, keeping their order where it is so already."""
    nodes = list(model.graph.node)
    writer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    before = [{writer[name] for name in reads(node) if name in writer} for node in nodes]
    if all(index > max(earlier, default=-1) for index, earlier in enumerate(before)):
        return
    readers: list[list[int]] = [[] for _ in nodes]
    for index, earlier in enumerate(before):
        for each in earlier:
            readers[each].append(index)
    missing = [len(earlier) for earlier in before]
    ready, order = [index for index, count in enumerate(missing) if not count], []
    while ready:
        order.append(heapq.heappop(ready))
        for index in readers[order[-1]]:
            missing[index] -= 1
            if not missing[index]:
                heapq.heappush(ready, index)
    if len(order) == len(nodes):
        replace(model.graph.node, [nodes[index] for index in order])


def _make_dense(model: ModelProto) -> None:
    for sparse in model.graph.sparse_initializer:
        constant(model, sparse.values.name, dense(sparse))
    del model.graph.sparse_initializer[:]


def _inline_functions(model: ModelProto) -> ModelProto:
    """Put the nodes of a model's own functions in place of their calls."""
    if not model.functions:
        return model
    typed = _typed(model)
    for convert_version in (True, False):
        try:
            inlined: ModelProto = onnx.inliner.inline_local_functions(typed, convert_version=convert_version)
        except Exception:  # nodes of functions that stay are refused by name if the cut needs them
            continue
        return inlined
    return model


def _expand_group_norms(model: ModelProto) -> ModelProto:
    """Write GroupNormalization as it is defined: its shapes are not inferred, and onnx deprecates that of opset 18."""
    if not any(node.op_type == "GroupNormalization" and not node.domain for node in model.graph.node):
        return model
    try:
        expanded: ModelProto = onnx.inliner.inline_selected_functions(
            _typed(model), [("", "GroupNormalization")], inline_schema_functions=True
        )
    except Exception:  # a node of another type or opset; onnx's checker says more
        return model
    del expanded.graph.value_info[:]
    return expanded


def _typed(model: ModelProto) -> ModelProto:
    """Return the model with the types of its tensors and, as the inliner wants them, of its weights."""
    typed = _infer_shapes(model)
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in typed.graph.initializer
    )
    return typed


def _drop_empty_names(model: ModelProto) -> None:
    """Remove empty names at the end of inputs and outputs: they say what their absence says."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            while names and not names[-1]:
                del names[-1]


def _to_float32(model: ModelProto) -> None:
    """Compute in float32 what is float16, bfloat16 or double."""
    for tensor in model.graph.initializer:
        _widen(tensor)
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        _widen_attributes(node)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        with np.errstate(over="ignore"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))


def _widen_attributes(node: NodeProto) -> None:
    for item in node.attribute:
        if item.name in ("to", "dtype", "stash_type", "softmax_precision") and item.i in _FLOATS:
            item.i = TensorProto.FLOAT
        if item.HasField("t"):
            _widen(item.t)
    for graph in subgraphs(node):
        for tensor in graph.initializer:
            _widen(tensor)
        for value in [*graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type in _FLOATS:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for each in graph.node:
            _widen_attributes(each)


def _forget_shapes(model: ModelProto) -> None:
    """Drop the shapes that a file gives its tensors and outputs, which may be wrong or missing, for those inferred."""
    del model.graph.value_info[:]
    outputs = [value for value in model.graph.output if value.type.WhichOneof("value") in (None, "tensor_type")]
    declared = copy.deepcopy(outputs)
    for value in outputs:
        value.type.tensor_type.ClearField("shape")
    inferred = {value.name: value for value in _infer_shapes(model).graph.output}
    for value, before in zip(outputs, declared, strict=True):
        found = inferred[value.name].type.tensor_type
        known = found if found.HasField("shape") else before.type.tensor_type
        if known.HasField("shape"):
            value.type.tensor_type.shape.CopyFrom(known.shape)
        value.type.tensor_type.elem_type = found.elem_type or before.type.tensor_type.elem_type or TensorProto.FLOAT


def _skip_identities(model: ModelProto) -> None:
    """Let readers of an Identity, of a Dropout and of a Cast to the same type read what these read.

    The nodes stay as long as their outputs may be named as cuts; weights behind them are initializers to all readers.
    """
    types = _types(model) if any(node.op_type == "Cast" for node in model.graph.node) else {}
    source: dict[str, str] = {}
    for node in model.graph.node:
        if not subgraphs(node):
            for index, name in enumerate(node.input):
                node.input[index] = source.get(name, name)
        if _is_identity(node, types):
            node.op_type = "Identity"
            del node.attribute[:], node.input[1:]
            source[node.output[0]] = node.input[0]


def _types(model: ModelProto) -> dict[str, int]:
    graph = _infer_shapes(model).graph
    known = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info]}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _is_identity(node: NodeProto, types: dict[str, int]) -> bool:
    if node.domain or len(node.output) > 1:
        return False
    if node.op_type == "Cast":
        return bool(types.get(node.input[0]) == node_attribute(node, "to", 0) != 0)
    # A third input is training_mode: `dropout_trains` reads it.
    return node.op_type == "Identity" or (node.op_type == "Dropout" and len(node.input) < 3)


def _drop_dropout_modes(model: ModelProto) -> None:
    """Remove the inputs of each Dropout that does nothing: not in training mode, or with ratio 0."""
    tensors = initializers(model)
    for node in model.graph.node:
        if node.op_type == "Dropout" and not dropout_trains(node, tensors):
            del node.input[1:]
            if len(node.output) > 1 and not any(node.output[1] in reads(each) for each in model.graph.node):
                del node.output[1:]


def dropout_trains(node: NodeProto, tensors: dict[str, TensorProto]) -> bool:
    """Return whether a Dropout drops anything; in what is not known it may."""

    def value(index: int, default: float) -> float:
        if len(node.input) <= index or not node.input[index]:
            return default
        tensor = tensors.get(node.input[index])
        return 1.0 if tensor is None else float(numpy_helper.to_array(tensor).reshape(-1)[0])

    return value(2, 0) != 0 and value(1, 0.5) != 0


def _fold(model: ModelProto) -> None:
    """Fold constants and take known branches, until neither finds any more."""
    for _ in range(_MAX_ROUNDS):
        folded = fold_constants(model)
        _skip_identities(model)
        if not take_known_branches(model) and not folded:
            return


def _upgrade_where_possible(model: ModelProto) -> ModelProto:
    try:
        return upgrade(model)
    except Exception:  # of the converter and of any type; `check_normal` tries again on what leads to the cut
        return model


def upgrade(model: ModelProto) -> ModelProto:
    """Return a model of `OLDEST_OPSET` or newer; raises errors of many types for what cannot be converted."""
    if opset(model) >= OLDEST_OPSET:
        return model
    if any(node.op_type == "Hardmax" for node in model.graph.node):
        raise ValueError(f"Hardmax has another meaning since opset {OLDEST_OPSET}")
    shrinking = _shrinking(model) if opset(model) < _RESIZE_OPSET else {}
    upgraded: ModelProto = onnx.version_converter.convert_version(model, _UPGRADED_OPSET)
    # The converter leaves the defaults of the new Resize, which takes other pixels.
    for node in upgraded.graph.node:
        if node.output[0] in shrinking:
            rounded = "ceil" if shrinking[node.output[0]] else "floor"
            modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": rounded}
            node.attribute.extend(helper.make_attribute(name, mode) for name, mode in modes.items())
    return upgraded


def _shrinking(model: ModelProto) -> dict[str, bool]:
    """Return for the output of each Upsample or Resize whether it is smaller than the input."""
    tensors, found = initializers(model), {}
    for node in model.graph.node:
        if node.op_type in ("Upsample", "Resize") and not node.domain:
            scales = node_attribute(node, "scales", None)
            if scales is None and node.input[1] in tensors:
                scales = numpy_helper.to_array(tensors[node.input[1]])
            found[node.output[0]] = scales is not None and min(scales) < 1
    return found


def _reshape_scalars(model: ModelProto) -> None:
    """Give scalars of shape (1,) shape (), and vectors of shape () shape (1,), where an operator takes that."""
    tensors, taken = initializers(model), tensor_names(model)
    for node in model.graph.node:
        for table, wanted in ((_SCALARS, []), (_VECTORS, [1])):
            for index in table.get(node.op_type, ()) if not node.domain else ():
                tensor = tensors.get(node.input[index]) if index < len(node.input) else None
                if tensor is None or list(tensor.dims) == wanted or math.prod(tensor.dims) != 1:
                    continue
                name = unused(f"{tensor.name}_{'vector' if wanted else 'scalar'}", taken)
                node.input[index] = constant(model, name, numpy_helper.to_array(tensor).reshape(wanted))


def _drop_dead(model: ModelProto) -> None:
    """Remove what leads to no output, except the Identity nodes of tensors that do, since a cut may name these."""
    live = leading_to(model, [value.name for value in model.graph.output])
    alive = {name for node in live for name in node.output if name} | {value.name for value in model.graph.input}
    kept = []
    for node in model.graph.node:
        if (node.op_type == "Identity" and node.input[0] in alive) or alive.intersection(node.output):
            kept.append(node)
    replace(model.graph.node, kept)
    read = {name for node in kept for name in reads(node)} | {value.name for value in model.graph.output}
    replace(model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in read])


def _infer_shapes(model: ModelProto) -> ModelProto:
    """Return the model with the shapes of its tensors, as far as they can be inferred."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # graphs that contradict themselves; the runtime says where
        return model


_STEPS: tuple[Callable[[ModelProto], ModelProto | None], ...] = (
    strip_metadata,
    make_readable,
    _make_dense,
    _drop_empty_names,
    _to_float32,
    declare_batch,
    _forget_shapes,
    _fold,
    _drop_dropout_modes,
    _upgrade_where_possible,
    _fold,
    _drop_dropout_modes,
    _skip_identities,
    _reshape_scalars,
    fold_batch_norms,
    _drop_dead,
    _infer_shapes,
)
