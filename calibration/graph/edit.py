"""Basic operations on ONNX graphs."""

import copy
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

POOLED, POOLED_PREFIX = "pooled", "pooled/"
"""The output of channel means, and what the names begin with of all that only it needs; they are float32 throughout."""


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the constants of a graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses, or 0."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return, for each tensor name, the nodes that take it as an input."""
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in reads(node):
            users[name].append(node)
    return users


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs among a node's attributes, as those of an If."""
    return [graph for item in node.attribute for graph in ([item.g] if item.HasField("g") else item.graphs)]


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the names of a node's inputs and of what the graphs inside it read."""
    inside = [
        name
        for graph in subgraphs(node)
        for name in [*(name for each in graph.node for name in reads(each)), *(value.name for value in graph.output)]
    ]
    return [*node.input, *inside]


def tensor_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of all tensors, those of graphs inside nodes included."""

    def written(graph: onnx.GraphProto) -> Iterator[str]:
        yield from (item.name for item in [*graph.input, *graph.output, *graph.initializer])
        for node in graph.node:
            yield from (*node.input, *node.output)
            for inner in subgraphs(node):
                yield from written(inner)

    return set(written(model.graph))


def unused(name: str, taken: set[str]) -> str:
    """Return a name like the given one that is not taken, and take it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def make_room(model: onnx.ModelProto, is_wanted: Callable[[str], bool]) -> None:
    """Rename, in place, nodes and the tensors between them whose names are wanted for others.

    Inputs and outputs of the graph keep theirs. The graph has no graphs inside nodes.
    """
    graph, taken = model.graph, tensor_names(model)
    ends = {value.name for value in [*graph.input, *graph.output]}
    renamed = {name: unused(f"{name}_inner", taken) for name in sorted(taken - ends) if is_wanted(name)}
    nodes = {node.name for node in graph.node}
    for node in graph.node:
        node.name = unused(f"{node.name}_inner", nodes) if is_wanted(node.name) else node.name
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for item in [*graph.initializer, *graph.value_info]:
        item.name = renamed.get(item.name, item.name)


def prune(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """Return the part of a model that computes the named tensors, and nothing else.

    Parameters
    ----------
    model : onnx.ModelProto
    outputs : iterable of str
        Tensors inside the graph, which become its outputs in this order.
    """
    outputs = list(outputs)
    kept = leading_to(model, outputs)
    needed = {*outputs, *(name for node in kept for name in reads(node))}
    pruned = copy.deepcopy(model)
    graph = pruned.graph
    known = {value.name: value for value in [*model.graph.value_info, *model.graph.output, *model.graph.input]}
    replace(graph.node, kept)
    replace(graph.initializer, (tensor for tensor in model.graph.initializer if tensor.name in needed))
    replace(graph.output, (known.get(name) or onnx.helper.make_empty_tensor_value_info(name) for name in outputs))
    replace(graph.value_info, (value for value in model.graph.value_info if value.name in needed))
    return pruned


def leading_to(model: onnx.ModelProto, outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the named tensors depend on, in graph order."""
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    return kept[::-1]


def merged(groups: Iterable[Iterable[str]]) -> list[list[str]]:
    """Merge groups that have a name in common; names keep their order."""
    found: list[dict[str, None]] = []
    for group in groups:
        names = dict.fromkeys(group)
        separate = [each for each in found if each.keys().isdisjoint(names)]
        overlapping = [each for each in found if not each.keys().isdisjoint(names)]
        found = [*separate, {name: None for each in [*overlapping, names] for name in each}]
    return [list(each) for each in found]


def chain_concats(model: onnx.ModelProto) -> None:
    """Replace the first inputs of each Concat with the longest earlier Concat of the same inputs, in place.

    Each layer of a DenseNet block then appends to the previous layer's concatenation.
    """
    made: dict[tuple[object, ...], str] = {}
    for node in model.graph.node:
        if node.op_type != "Concat":
            continue
        names, axis = tuple(node.input), node_attribute(node, "axis", 0)
        for length in range(len(names) - 1, 1, -1):
            if (axis, *names[:length]) in made:
                del node.input[:length]
                node.input.insert(0, made[axis, *names[:length]])
                break
        made.setdefault((axis, *names), node.output[0])


def replace_nodes(model: onnx.ModelProto, replaced: dict[str, list[onnx.NodeProto]]) -> None:
    """Replace nodes, each named by its first output, with others, in place."""
    if replaced:
        replace(model.graph.node, [new for node in model.graph.node for new in replaced.get(node.output[0], [node])])


def tensor_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Return the inferred shape of every tensor that has one; a dynamic dimension is None, and so is one below 0."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
    }


def replace(repeated: object, items: Iterable[object]) -> None:
    """Replace the items of a repeated field with copies of others."""
    chosen = [copy.deepcopy(item) for item in items]
    del repeated[:]  # type: ignore[attr-defined]
    repeated.extend(chosen)  # type: ignore[attr-defined]


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove documentation and exporter metadata, which contain file paths, in place."""
    parts = [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]
    for part in [*parts, *model.graph.input, *model.graph.output]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def digest(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of the serialized model without the output ``pooled``, which graphs once did not have."""
    return hashlib.sha256(_without_pooled(model).SerializeToString(deterministic=True)).hexdigest()


def _without_pooled(model: onnx.ModelProto) -> onnx.ModelProto:
    if POOLED not in (value.name for value in model.graph.output):
        return model
    left = copy.deepcopy(model)
    graph = left.graph
    replace(graph.node, (node for node in model.graph.node if not node.name.startswith(POOLED_PREFIX)))
    replace(graph.initializer, (each for each in model.graph.initializer if not each.name.startswith(POOLED_PREFIX)))
    replace(graph.output, (value for value in model.graph.output if value.name != POOLED))
    return left


def constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    """Add an initializer and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    return name


def type_name(kind: int) -> str:
    """Return the name of a tensor's type in lower case; of one that this version of ONNX does not know, its number."""
    known = kind in onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(kind).lower() if known else f"type {kind}"


def read_constant(tensors: dict[str, onnx.TensorProto], name: str) -> np.ndarray:
    """Return the value of an initializer."""
    return numpy_helper.to_array(tensors[name])


def node_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute, or a default."""
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
