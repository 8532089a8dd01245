"""Free the batch size that an exporter fixed inside an ONNX graph.

Every node is inferred for a batch B and for 2 B, and the axis of the images is followed through the graph: each tensor
must have twice as many rows there, in the same order. A node that keeps all values in their order but writes a fixed
batch into a shape is rewritten as a Reshape; what computes across images, or holds B where it cannot be rewritten, is
refused.
"""

import copy
from math import prod
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from ..calibration.graph.edit import (
    constant,
    initializers,
    node_attribute,
    prune,
    read_constant,
    tensor_names,
    unused,
)
from ..errors import AurevoirError
from .inferred import Inferred

_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_REDUCING = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
_ORDERED = (*_RESHAPING, *_REDUCING, "Slice", "Gather", "Split", "Expand", "Tile", "Identity")
"""Operators that keep the values and their order where they keep their number."""
_BROADCASTING = ("Concat", "Add", "Sub", "Mul", "Div")
_ALONG_AXIS = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK"), -1),
    **dict.fromkeys(("Concat", "Split", "Gather", "GatherElements", "ScatterElements", "ArgMax", "ArgMin"), 0),
}
"""Operators that work along one axis, and which by default."""


class _Rows(NamedTuple):
    """Where a tensor holds the images: along an axis of length outer x B x inner, for some inner length."""

    axis: int
    outer: int = 1


class _FixedBatchError(Exception):
    """A node holds a fixed batch; the text says how large, and which."""


class _InconsistentError(Exception):
    """The graph cannot be inferred for this batch, so that it is not the one that is fixed in it."""


def free_batch(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """Return a model that computes any number of images at once, each as if alone.

    Parameters
    ----------
    model : onnx.ModelProto
        With the input of `onnx_input.standard_input`.
    size : (height, width)

    Raises
    ------
    AurevoirError
        If a node holds a batch that cannot be freed.
    """
    held: str | None = None
    for batch in _candidates(model):
        for rewriting in (False, True):
            try:
                return _Walk(model, size, batch, rewriting).freed()
            except _InconsistentError:
                break
            except _FixedBatchError as fault:
                held = str(fault) if rewriting and held is None else held
    if held is None:
        return model
    raise AurevoirError(
        f"the ONNX model has a fixed batch of {held}; export the network with a dynamic batch (torch.onnx.export with "
        "dynamic_shapes, tf2onnx with an input shape that begins with -1), or cut before that node"
    )


def _candidates(model: onnx.ModelProto) -> list[int]:
    """Return the batch sizes that may be fixed in a graph: 1, and what its shapes begin with."""
    constants, found = initializers(model), set()
    for node in model.graph.node:
        if node.op_type in ("Reshape", "Expand") and node.input[1] in constants:
            found.update(read_constant(constants, node.input[1]).ravel()[:1].tolist())
    return [1, *sorted(length for length in found if length > 1)[:5]]


class _Walk:
    """One pass over the graph, for one batch size, with or without changes to it."""

    def __init__(self, model: onnx.ModelProto, size: tuple[int, int], batch: int, rewriting: bool) -> None:
        self.model, self.batch, self.rewriting = copy.deepcopy(model), batch, rewriting
        del self.model.graph.value_info[:]
        image = self.model.graph.input[0]
        channels = image.type.tensor_type.shape.dim[1].dim_value
        self.one, self.two = (Inferred(model, [count, channels, *size]) for count in (batch, 2 * batch))
        self.taken = tensor_names(model)
        self.rows = {image.name: _Rows(0)}
        """Where the images are, in each tensor that depends on them."""

    def freed(self) -> onnx.ModelProto:
        """Return the model with a free batch."""
        for node in list(self.model.graph.node):
            self._visit(node)
        graph = self.model.graph
        for value in graph.output:
            value.name = self._by_rows(value.name)
            value.type.tensor_type.ClearField("shape")
        graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        freed = prune(self.model, [value.name for value in graph.output])
        return onnx.shape_inference.infer_shapes(freed)

    def _visit(self, node: onnx.NodeProto) -> None:
        names = [name for name in node.input if name]
        known = all(name in self.one.types and name in self.two.types for name in names)
        if not known or any(item.HasField("g") for item in node.attribute):
            return
        consistent, doubles = self.one.infer(node), self.two.infer(node)
        sources = [name for name in names if name in self.rows]
        if node.op_type == "Shape" or not sources:
            if consistent and doubles:
                self.one.compute(node)
                self.two.compute(node)
            return
        if not consistent:
            raise _InconsistentError
        # Where several axes could hold the images, a Reshape that is rewritten keeps the one that they have.
        if self.rewriting and node.op_type == "Reshape" and self._rewritten(node, sources):
            return
        if doubles and not any(self._works_along(node, name) for name in sources) and self._followed(node, sources):
            return
        if not self.rewriting or not self._rewritten(node, sources):
            raise _FixedBatchError(f"{self.batch} in node {node.name or node.output[0]!r} ({node.op_type})")

    def _followed(self, node: onnx.NodeProto, sources: list[str]) -> bool:
        """Note where a node's outputs hold the images; return whether they do, one by one."""
        for name in filter(None, node.output):
            before, after = self.one.shape(name), self.two.shape(name)
            if before is None or after is None:
                continue
            changed = [axis for axis, (a, b) in enumerate(zip(before, after, strict=False)) if a != b]
            if len(changed) != 1 or after[changed[0]] != 2 * before[changed[0]]:
                return False
            rows = self._reshaped(sources[0], before, changed[0])
            if node.op_type not in _RESHAPING:
                rows = self._kept(sources, before, changed[0])
            if rows is None:
                return False
            self.rows[name] = rows
        if node.op_type == "Reshape" and node.input[1] not in initializers(self.model):
            # Not every runtime takes a shape that is computed.
            self._reshape(node, sources[0], self.rows.get(node.output[0]))
        return True

    def _kept(self, sources: list[str], after: list[int], axis: int) -> _Rows | None:
        """Return where the images are on that axis, if they are as they were in all sources."""
        places = [(self.one.shape(name), self.rows[name]) for name in sources]
        lengths = {shape[rows.axis] for shape, rows in places if shape is not None}
        outer = {rows.outer for _, rows in places}
        return _Rows(axis, outer.pop()) if lengths <= {after[axis]} and len(outer) == 1 else None

    def _reshaped(self, source: str, after: list[int], axis: int) -> _Rows | None:
        """Return where the images are on that axis of a reshaped tensor, if it keeps them apart."""
        before, own = self.one.shape(source), self.rows[source]
        if before is None:
            return None
        outer, rest = divmod(prod(before[: own.axis]) * own.outer, prod(after[:axis]))
        return None if rest or not outer or after[axis] % (outer * self.batch) else _Rows(axis, outer)

    def _works_along(self, node: onnx.NodeProto, source: str) -> bool:
        """Return whether a node computes along the axis of the images."""
        shape, own = self.one.shape(source), self.rows[source].axis
        if shape is None or (node.op_type == "Gather" and source != node.input[0]):
            return False
        along: list[int] = []
        if node.op_type in _ALONG_AXIS:
            along = [node_attribute(node, "axis", _ALONG_AXIS[node.op_type])]
        elif node.op_type == "LayerNormalization":
            along = list(range(node_attribute(node, "axis", -1) % len(shape), len(shape)))
        elif node.op_type.startswith("Reduce"):
            given = self.one.values.get(node.input[1], np.array([])).tolist() if len(node.input) > 1 else None
            along = node_attribute(node, "axes", given) or list(range(len(shape)))
        elif node.op_type == "Slice":
            whole, part = self.two.shape(source), self.two.shape(node.output[0])
            along = [] if whole is None or part is None or part[own] == whole[own] else [own]
        elif node.op_type in ("MatMul", "Gemm"):
            first = source == node.input[0]
            transposed = bool(node_attribute(node, "transA" if first else "transB", 0))
            along = [-1 if len(shape) == 1 or first != transposed else -2]
        return own in [axis % len(shape) for axis in along]

    def _rewritten(self, node: onnx.NodeProto, sources: list[str]) -> bool:
        """Free a node from its batch; return whether that can be done."""
        if node.op_type == "Resize":
            return self._scaled(node, sources)
        if node.op_type == "Expand" and self._expanded(node, sources):
            return True
        if node.op_type in _BROADCASTING:
            return self._repeated(node, sources)
        before, after = self.one.shape(node.input[0]), self.one.shape(node.output[0])
        kept = before is not None and after is not None and prod(before) == prod(after) and len(node.output) == 1
        if before is None or after is None or not kept or not self._keeps_order(node):
            return False
        fitting = [self._reshaped(node.input[0], after, axis) for axis in range(len(after))]
        # Products contract the last axis, and normalisations work along it.
        chosen = min(
            (rows for rows in fitting if rows is not None),
            key=lambda rows: (rows.axis == len(after) - 1, rows.outer, rows.axis),
            default=None,
        )
        self._reshape(node, node.input[0], chosen)
        return chosen is not None

    def _inner(self, shape: list[int], rows: _Rows) -> int:
        return shape[rows.axis] // (rows.outer * self.batch)

    def _keeps_order(self, node: onnx.NodeProto) -> bool:
        """Return whether the output of a node that keeps the number of values has them in the same order."""
        if node.op_type == "Slice":
            steps = self.one.values.get(node.input[4]) if len(node.input) > 4 and node.input[4] else np.array(1)
            return steps is not None and bool((steps > 0).all())
        if node.op_type == "Gather":
            indices = self.one.values.get(node.input[1])
            return indices is not None and np.array_equal(indices.ravel(), np.arange(indices.size))
        return node.op_type in _ORDERED and node.input[0] in self.rows

    def _reshape(self, node: onnx.NodeProto, source: str, rows: _Rows | None) -> None:
        """Turn a node into a Reshape to the shape that its output has, with the images there."""
        shape = self.one.shape(node.output[0])
        if shape is None or rows is None:
            return
        target = np.array([-1 if index == rows.axis else length for index, length in enumerate(shape)])
        name = self._constant(f"{node.output[0]}/shape", target)
        node.CopyFrom(helper.make_node("Reshape", [source, name], node.output, node.name))
        self._place(node.output[0], shape, rows)

    def _place(self, name: str, shape: list[int], rows: _Rows, kind: int | None = None) -> None:
        """Note a tensor's shape for B images, and where they are."""
        self.rows[name] = rows
        kind = self.one.types[name].tensor_type.elem_type if kind is None else kind
        self.one.set_shape(name, shape, kind)
        self.two.set_shape(name, [2 * n if index == rows.axis else n for index, n in enumerate(shape)], kind)

    def _constant(self, name: str, value: np.ndarray) -> str:
        name = unused(name, self.taken)
        self.one.set_value(name, value)
        self.two.set_value(name, value)
        return constant(self.model, name, value)

    def _scaled(self, node: onnx.NodeProto, sources: list[str]) -> bool:
        """Let a Resize to fixed sizes scale height and width instead."""
        before, after = self.one.shape(node.input[0]), self.one.shape(node.output[0])
        partly = bool(node_attribute(node, "axes", []))
        if before is None or after is None or partly or before[0] != after[0] or len(node.input) < 4:
            return False
        scales = np.array(after, "float32") / np.array(before, "float32")
        # Lengths are rounded down, so that a scale must not fall short of its length.
        short = np.floor(np.array(before) * scales.astype("float64")) < after
        scales = np.where(short, np.nextafter(scales, np.float32(np.inf)), scales)
        del node.input[3]
        node.input[2] = self._constant(f"{node.output[0]}/scales", scales)
        return self._settled(node, sources)

    def _expanded(self, node: onnx.NodeProto, sources: list[str]) -> bool:
        """Let an Expand leave the axis of the images as it is."""
        before, after = self.one.shape(node.input[0]), self.one.shape(node.output[0])
        if before is None or after is None or node.input[0] not in self.rows:
            return False
        axis = self.rows[node.input[0]].axis + len(after) - len(before)
        target = np.array([1 if index == axis else length for index, length in enumerate(after)])
        node.input[1] = self._constant(f"{node.output[0]}/shape", target)
        return self._settled(node, sources)

    def _settled(self, node: onnx.NodeProto, sources: list[str]) -> bool:
        """Return whether a rewritten node computes the same for B images, and has an axis for them."""
        before = self.one.shape(node.output[0])
        same = self.one.infer(node) and self.two.infer(node) and self.one.shape(node.output[0]) == before
        return same and self._followed(node, [name for name in node.input if name in self.rows])

    def _repeated(self, node: onnx.NodeProto, sources: list[str]) -> bool:
        """Let what does not depend on the images, such as a class token, have a row for each of them."""
        after = self.one.shape(node.output[0])
        lengths = [len(self.one.shape(name) or []) for name in sources]
        if after is None or len(set(lengths)) != 1 or any(self._works_along(node, name) for name in sources):
            return False
        axis = self.rows[sources[0]].axis + len(after) - lengths[0]
        for index, name in enumerate(node.input):
            shape = self.one.shape(name) or []
            if name in sources or len(shape) < len(after) or (node.op_type != "Concat" and shape[axis] == 1):
                continue
            row = self._row(name, axis)
            if row is None:
                return False
            repeated = node.op_type == "Concat"
            node.input[index] = self._as_many(node, f"{name}/{index}", row, sources[0]) if repeated else row
        return self._settled(node, sources)

    def _row(self, name: str, axis: int) -> str | None:
        """Return a tensor with one row of a tensor whose rows are all equal."""
        if (self.one.shape(name) or [])[axis] == 1:
            return name
        constants = initializers(self.model)
        if name not in constants:
            return None
        value = read_constant(constants, name)
        row = value.take([0], axis)
        equal = value.shape[axis] == self.batch and np.array_equal(np.broadcast_to(row, value.shape), value)
        return self._constant(f"{name}/row", row) if equal else None

    def _as_many(self, node: onnx.NodeProto, base: str, row: str, source: str) -> str:
        """Add nodes that repeat a row for every image of a source; return the result's name."""
        axis, shape = self.rows[source].axis, list(self.one.shape(row) or [])
        where = self._constant(f"{base}/axis", np.array([axis]))
        parts = [f"{base}/count"]
        if axis:
            parts.insert(0, self._constant(f"{base}/before", np.array(shape[:axis])))
        if shape[axis + 1 :]:
            parts.append(self._constant(f"{base}/after", np.array(shape[axis + 1 :])))
        nodes = [
            helper.make_node("Shape", [source], [f"{base}/whole"]),
            helper.make_node("Gather", [f"{base}/whole", where], [f"{base}/count"]),
            helper.make_node("Concat", parts, [f"{base}/shape"], axis=0),
            helper.make_node("Expand", [row, f"{base}/shape"], [f"{base}/rows"]),
        ]
        place = next(index for index, each in enumerate(self.model.graph.node) if each.output == node.output)
        for each in reversed(nodes):
            self.model.graph.node.insert(place, each)
        kind = self.one.types[row].tensor_type.elem_type
        self._place(
            f"{base}/rows", [self.batch if index == axis else n for index, n in enumerate(shape)], _Rows(axis), kind
        )
        return f"{base}/rows"

    def _by_rows(self, name: str) -> str:
        """Return the name of a tensor with the values of an output, one row for each image."""
        shape, rows = self.one.shape(name), self.rows.get(name)
        if shape is None or (rows == _Rows(0) and shape[0] == self.batch):
            return name
        if rows is None or not self.rewriting:
            raise _FixedBatchError(f"{self.batch} in the output {name!r}, which has no rows of single images")
        axis, names = (
            rows.axis + 1,
            [name, *(unused(f"{name}/{each}", self.taken) for each in ("apart", "images_first"))],
        )
        apart = [*shape[: rows.axis], rows.outer, -1, self._inner(shape, rows), *shape[axis:]]
        target = self._constant(f"{name}/apart_shape", np.array(apart))
        perm = [axis, *(other for other in range(len(apart)) if other != axis)]
        self.model.graph.node.extend(
            [
                helper.make_node("Reshape", [names[0], target], [names[1]]),
                helper.make_node("Transpose", [names[1]], [names[2]], perm=perm),
            ]
        )
        return names[2]
