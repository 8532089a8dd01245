"""ONNX files as backbones; they are cut at tensors."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...calibration.graph.edit import initializers, leading_to, prune, read_constant, reads, tensor_shapes
from ...errors import AurevoirError, UsageError
from ..free_batch import free_batch
from ..graph_cost import check_cost
from ..normal_form import prepare
from ..onnx_file import check_normal, read_onnx
from ..onnx_input import carried_preprocessing, image_size, takes_pixels
from .base import DEFAULT_SIZE, Cut, unknown_cut

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization")


class OnnxBackbone:
    """A backbone from an ONNX file; it is cut at tensors.

    Attributes
    ----------
    channel_order : {"RGB", "BGR"}
    takes_pixels : bool
        Whether the file takes uint8 pixels, and normalises them itself.
    """

    needs_images = False
    weights = "given"

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.name = path.name
        self._model = read_onnx(path)
        height, width = image_size(self._model)
        if size is not None and (height or size, width or size) != (size, size):
            raise UsageError(f"input size {size} does not fit {path.name}, which takes {height} x {width} images")
        self._broken = _broken_constants(self._model)
        self.size = (height or size or DEFAULT_SIZE, width or size or DEFAULT_SIZE)
        own = carried_preprocessing(self._model, self.size)
        self.channels = len(own.mean)
        self.mean, self.std, self.channel_order = own.mean, own.std, own.channel_order
        self.takes_pixels = takes_pixels(self._model)
        if height is None or width is None:
            # Shapes that are known can be folded.
            dims = self._model.graph.input[0].type.tensor_type.shape.dim
            dims[2].dim_value, dims[3].dim_value = self.size
            self._model = prepare(self._model)

    def cuts(self) -> list[Cut]:
        """Return the tensors through which all of the computation of the first output passes, and the other outputs."""
        shapes = tensor_shapes(self._model)
        shapes |= {name: list(tensor.dims) for name, tensor in initializers(self._model).items()}
        first, *others = [value.name for value in self._model.graph.output]
        found = {cut.name: cut for cut in self._cuts_towards(first, shapes)}
        for output in others:
            found |= {cut.name: cut for cut in self._cuts_towards(output, shapes) if cut.name == output}
        written = [name for node in self._model.graph.node for name in node.output]
        return [found[name] for name in written if name in found]

    def _cuts_towards(self, output: str, shapes: dict[str, list[int | None]]) -> list[Cut]:
        constants = initializers(self._model)
        sizes = {name: math.prod(tensor.dims) for name, tensor in constants.items()}
        found, parameters, macs = [], 0, 0
        nodes = leading_to(self._model, [output])
        for node, alone in _with_bottlenecks(nodes, output, {self._model.graph.input[0].name}, set(constants)):
            # Shared constants are counted once.
            parameters += sum(sizes.pop(name, 0) for name in node.input)
            macs += _macs(node, shapes)
            shape = shapes.get(node.output[0], [])[1:]
            if alone and shape and None not in shape:
                known = tuple(d or 0 for d in shape)
                found.append(Cut(node.output[0], math.prod(known), parameters, macs, known))
        return found

    def resolve(self, cut: str | None) -> str:
        """Return the tensor's name; None means the graph's output."""
        name = str(self._model.graph.output[0].name) if cut is None else cut
        tensors = [each for node in self._model.graph.node for each in node.output]
        if cut is not None and name not in tensors:
            raise unknown_cut(name, [item.name for item in self.cuts()], self.name)
        if self._broken:
            self._check_constants(name)
        return name

    def _check_constants(self, cut: str) -> None:
        nodes = prune(self._model, [cut]).graph.node
        used = {name for node in nodes for name in node.input}
        if broken := [name for name in self._broken if name in used]:
            raise AurevoirError(
                f"{self.name} holds nan or inf in {len(broken)} of its tensors up to {cut!r} "
                f"({', '.join(broken[:3])}), as after a training that diverged; export a network with finite weights"
            )

    def to_onnx(self, cut: str | None, images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return the part of the graph that computes the tensor `cut`; see `Backbone`."""
        return self._freed([self.resolve(cut)])

    def to_onnx_at(self, cuts: Sequence[str], images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return the part of the graph that computes the tensors `cuts`; see `Backbone`."""
        return self._freed([self.resolve(cut) for cut in cuts])

    def _freed(self, tensors: list[str]) -> onnx.ModelProto:
        model = check_normal(prune(self._model, tensors), self.name)
        check_cost(model, [1, self.channels, *self.size], self.name, known=False)
        return free_batch(model, self.size)


def _with_bottlenecks(
    nodes: Sequence[onnx.NodeProto], output: str, alive: set[str], constants: set[str]
) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """Yield each node, and whether its output is then the only tensor still to be read."""
    left: dict[str, int] = {output: 1}
    for node in nodes:
        for name in reads(node):
            left[name] = left.get(name, 0) + 1
    for node in nodes:
        for name in reads(node):
            left[name] -= 1
            if left[name] == 0:
                alive.discard(name)
        alive.update(name for name in node.output if left.get(name))
        yield node, alive - constants == {node.output[0]}


def _broken_constants(model: onnx.ModelProto) -> list[str]:
    """Return the names of constants that hold nan, and of weights that hold inf, which limits and masks may."""
    weights = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input[1:]}
    broken = []
    for name, tensor in initializers(model).items():
        values = read_constant({name: tensor}, name)
        if values.dtype.kind == "f" and not (np.isfinite(values) if name in weights else ~np.isnan(values)).all():
            broken.append(name)
    return broken


def _macs(node: Any, shapes: dict[str, list[int | None]]) -> int:
    output, weights = (
        shapes.get(node.output[0], []),
        shapes.get(node.input[1], []) if len(node.input) > 1 else [],
    )
    if node.op_type not in ("Conv", "Gemm", "MatMul") or None in [*output[1:], *weights]:
        return 0
    values = math.prod(d or 0 for d in output[1:])
    inner = math.prod(d or 0 for d in weights[1:]) if node.op_type == "Conv" else (weights[0] or 0)
    return values * inner
