"""Plan a network as fused steps.

A tensor is stored with its channels last, as float16 or as int8 levels of one scale. Batch norms, activations, and
quantization are no steps: after a convolution they are its epilogue, and before one they are applied to what it
reads. The tensors of a concatenation are stored side by side from the start.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from ....calibration.graph.edit import consumers, node_attribute, tensor_shapes
from ....calibration.graph.windows import Windows, windows
from ....errors import AurevoirError
from ..base import refusal
from .chain import Chain

Kind = Literal["int8", "float16", "uint8"]
_BYTES = {"int8": 1, "uint8": 1, "float16": 2}
PIXEL = 4
"""Channels of a stored image, the last of which is zero."""
_IN_A_ROW = 8
"""Pixels that are read together."""
_FILTERS_OF_ONE_PROGRAM = 256
_WINDOW = ("strides", "dilations", "pads", "auto_pad", "ceil_mode")
TAIL = ("features", "bits", "pooled")
"""Outputs that the last step computes."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor is: some channels of a buffer of shape (batch, height, width, all channels).

    Attributes
    ----------
    buffer, first, channels, height, width : int
    kind : {"int8", "float16", "uint8"}
    scale : float
        What an int8 level stands for; 1 for other kinds.
    """

    buffer: int
    first: int
    channels: int
    height: int
    width: int
    kind: Kind
    scale: float = 1.0

    @property
    def bytes(self) -> int:
        """Bytes an image."""
        return self.channels * self.height * self.width * _BYTES[self.kind]


@dataclass(frozen=True)
class View:
    """A tensor: where it is stored, and what is still to be done to its values."""

    stored: Stored
    chain: Chain = field(default_factory=Chain)


@dataclass(frozen=True)
class Epilogue:
    """What follows a step's sums: gain and shift by channel, a residual, limits, and rounding where int8 is stored."""

    gain: np.ndarray
    shift: np.ndarray
    residual: Stored | None = None
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Step:
    """A fused step.

    Attributes
    ----------
    kind : {"convolution", "depthwise", "max pool", "average pool", "map", "images"}
    name : str
        That of its first node.
    tensor : str
        That of the tensor that it computes.
    nodes : tuple of str
        The operators that it computes.
    source : View
    output : Stored
    epilogue : Epilogue
    weight : array or None
        int8 or float16 of shape (outputs, taps, inputs), of depthwise convolutions (taps, channels). More inputs than
        the source has channels are those of the next places in the row.
    kernel : (int, int)
    places : Windows or None
        None for a map.
    """

    kind: str
    name: str
    tensor: str
    nodes: tuple[str, ...]
    source: View
    output: Stored
    epilogue: Epilogue
    weight: np.ndarray | None = None
    kernel: tuple[int, int] = (1, 1)
    places: Windows | None = None

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes read and written an image, and bytes of weights."""
        moved = self.source.stored.bytes + self.output.bytes
        if self.epilogue.residual is not None:
            moved += self.epilogue.residual.bytes
        return moved, 0 if self.weight is None else self.weight.nbytes


@dataclass(frozen=True)
class Tail:
    """The last step: features in the network's own order as float32, their sign bits, and means of channels."""

    source: View


@dataclass(frozen=True)
class Other:
    """A node that torch computes.

    Attributes
    ----------
    node : onnx.NodeProto
    inputs : tuple
        A `Stored`, the name of what torch has computed, or of a constant, or None for each.
    """

    node: onnx.NodeProto
    inputs: tuple[Stored | str | None, ...]


@dataclass(frozen=True)
class Import:
    """A tensor that torch has computed, of shape (batch, channels, height, width), stored for fused steps."""

    tensor: str
    output: Stored


@dataclass(frozen=True)
class Plan:
    """Steps in order.

    Attributes
    ----------
    steps : list of Step, Import, Other or Tail
    buffers : list of (height, width, channels, kind)
    outputs : list of str
    constants : dict of arrays
        Those that torch's nodes read.
    """

    steps: "list[Step | Import | Other | Tail]"
    buffers: list[tuple[int, int, int, Kind]]
    outputs: list[str]
    constants: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def fused(self) -> list[Step]:
        """The steps that are kernels."""
        return [step for step in self.steps if isinstance(step, Step)]

    @property
    def nodes(self) -> list[tuple[str, ...]]:
        """What each step computes: names of ONNX nodes or of their outputs."""
        return [
            (step.name,) if isinstance(step, Step) else (step.node.output[0],) if isinstance(step, Other) else ()
            for step in self.steps
        ]

    @property
    def others(self) -> list[Other]:
        """The nodes that torch computes."""
        return [step for step in self.steps if isinstance(step, Other)]


def plan(model: onnx.ModelProto) -> Plan:
    """Return the fused steps of a network from uint8 images.

    Parameters
    ----------
    model : onnx.ModelProto
        A float graph, or one with Q/DQ pairs of signed int8 with zero-point 0.

    Raises
    ------
    AurevoirError
        If activations are uint8, or a shape is unknown.
    """
    return _Planner(model).planned()


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """A node is not of a kind that is fused."""


class _Planner:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.uses = model, consumers(model)
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self.shapes = tensor_shapes(model)
        self.outputs = [value.name for value in model.graph.output]
        self.values: dict[str, View | None] = {}
        """By name a tensor; None for what torch computes."""
        self.weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.buffers: list[tuple[int, int, int, Kind]] = []
        self.steps: list[Step | Import | Other | Tail] = []
        self.fused: set[str] = set()
        """First outputs of nodes that are part of an earlier step."""
        self.copies: dict[tuple[Stored, int], tuple[Chain, Stored]] = {}
        self.slots: dict[str, tuple[int, int]] = {}
        """By name of a concatenation's input its group and first channel there."""
        self.groups: list[_Group] = []

    def planned(self) -> Plan:
        nodes = list(self.model.graph.node)
        spared = self._begin(nodes)
        self._find_groups()
        for node in nodes[spared:]:
            if node.output[0] in self.fused:
                continue
            try:
                self._fuse(node)
            except _Refused:
                self._leave(node)
        constants = {
            name: self.constants[name]
            for step in self.steps
            if isinstance(step, Other)
            for name in step.inputs
            if isinstance(name, str) and name in self.constants
        }
        return Plan(self.steps, self.buffers, self.outputs, constants)

    def _begin(self, nodes: Sequence[onnx.NodeProto]) -> int:
        """Take the images, whose channels are last already; return the number of nodes that this spares."""
        images = self.model.graph.input[0].name
        height, width, channels = (axis.dim_value for axis in self.model.graph.input[0].type.tensor_type.shape.dim[1:])
        stored = Stored(self._buffer(height, width, channels, "uint8"), 0, channels, height, width, "uint8")
        kinds = [node.op_type for node in nodes[:2]]
        if kinds != ["Cast", "Transpose"] or nodes[0].input[0] != images or len(self.uses[nodes[0].output[0]]) != 1:
            raise refusal("triton", "'torch'", "its images are not cast and transposed first")
        self.values[nodes[1].output[0]] = View(stored)
        return 2

    # Concatenations

    def _find_groups(self) -> None:
        """Give the inputs of concatenations their places: those of one that begins as another does are the same."""
        members: dict[str, tuple[str, ...]] = {}
        for node in self.model.graph.node:
            if node.op_type == "Concat" and node_attribute(node, "axis", 1) == 1:
                members[node.output[0]] = tuple(each for name in node.input for each in members.get(name, (name,)))
        for names in sorted(members.values(), key=len, reverse=True):
            if any(group.names[: len(names)] == names for group in self.groups):
                continue
            if any(len(self._shape(name)) != 4 for name in names):
                continue
            scales = {self._level_of(name) for name in names}
            scale = scales.pop() if len(scales) == 1 else None
            channels = [self._shape(name)[1] for name in names]
            firsts = [sum(channels[:index]) for index in range(len(names))]
            _, _, height, width = self._shape(names[0])
            kind: Kind = "float16" if scale is None else "int8"
            buffer = self._buffer(height, width, sum(channels), kind)
            whole = Stored(buffer, 0, sum(channels), height, width, kind, scale or 1.0)
            for name, first in zip(names, firsts, strict=True):
                self.slots.setdefault(name, (len(self.groups), first))
            self.groups.append(_Group(names, whole))
        self.members = members

    def _level_of(self, name: str) -> float | None:
        """Return the scale of the levels that a tensor's values are, or None if they are not."""
        producer = self._producer(name)
        if producer is None:
            return None
        if producer.op_type == "DequantizeLinear":
            return self._scale(producer)
        if producer.op_type == "MaxPool":
            return self._level_of(producer.input[0])
        return None

    def _producer(self, name: str) -> onnx.NodeProto | None:
        if not hasattr(self, "_producers"):
            self._producers = {each: node for node in self.model.graph.node for each in node.output}
        return self._producers.get(name)

    def _scale(self, node: onnx.NodeProto) -> float:
        """Return the scale of a quantization of a whole tensor to signed levels."""
        scale, zero = (
            self.constants.get(node.input[1]),
            self.constants.get(node.input[2] if len(node.input) > 2 else ""),
        )
        if scale is None or scale.size != 1 or zero is None or zero.dtype != np.int8 or zero.any():
            raise refusal(
                "triton", "'openvino', or activation_dtype int8", "activations are not signed int8 with zero-point 0"
            )
        return float(scale.reshape(()))

    # Tensors

    def _shape(self, name: str) -> list[int]:
        shape = self.shapes.get(name)
        if shape is None or any(length is None for length in shape[1:]):
            raise AurevoirError(f"the shape of tensor {name!r} cannot be inferred; cut the network at another tensor")
        return [0, *(length or 0 for length in shape[1:])]

    def _buffer(self, height: int, width: int, channels: int, kind: Kind) -> int:
        self.buffers.append((height, width, channels, kind))
        return len(self.buffers) - 1

    def _store(self, name: str, kind: Kind, scale: float = 1.0) -> Stored:
        """Return where to store a tensor: in its place in a concatenation, or a buffer of its own."""
        _, channels, height, width = self._shape(name)
        for alias in self._aliases(name):
            if alias in self.slots:
                group, first = self.slots[alias]
                whole = self.groups[group].whole
                if (whole.kind, whole.scale) == (kind, scale):
                    return replace(whole, first=first, channels=channels)
        return Stored(self._buffer(height, width, channels, kind), 0, channels, height, width, kind, scale)

    def _aliases(self, name: str) -> Iterator[str]:
        """Yield a tensor's name, and those of what it is dequantized to."""
        yield name
        for node in self.uses[name]:
            if node.op_type == "DequantizeLinear":
                yield node.output[0]

    def _view(self, name: str) -> View:
        """Return a tensor, stored first if torch has computed it."""
        if name not in self.values:
            raise _Refused
        value = self.values[name]
        if value is None:
            if len(self._shape(name)) != 4:
                raise _Refused
            stored = self._store(name, "float16")
            self.steps.append(Import(name, stored))
            value = self.values[name] = View(stored)
        return value

    def _as_stored(self, view: View, name: str) -> Stored:
        """Return a tensor with nothing left to be done, by a map where there is something."""
        if view.chain.is_empty and view.stored.kind != "uint8":
            return view.stored
        key = view.stored, id(view.chain)
        if key not in self.copies:
            found, scale = view.stored, view.chain.scale
            kind: Kind = "float16" if scale is None else "int8"
            output = replace(
                found, buffer=self._buffer(found.height, found.width, found.channels, kind), first=0, kind=kind,
                scale=scale or 1.0,
            )  # fmt: skip
            self.steps.append(self._map(view, output, name, ("map",)))
            self.copies[key] = view.chain, output
        return self.copies[key][1]

    def _map(self, view: View, output: Stored, name: str, nodes: tuple[str, ...]) -> Step:
        chain = view.chain if output.kind != "int8" else view.chain.rounded(output.scale)
        assert chain is not None
        gain, shift, low, high = chain.of_levels(view.stored.scale)
        epilogue = _epilogue(gain, shift, view.stored.channels, None, low, high)
        return Step("map", name, name, nodes, View(view.stored), output, epilogue)

    # Nodes

    def _fuse(self, node: onnx.NodeProto) -> None:
        handlers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Add": self._add,
            "AveragePool": self._pool,
            "BatchNormalization": self._elementwise,
            "Clip": self._elementwise,
            "Concat": self._concat,
            "Conv": self._conv,
            "DequantizeLinear": self._dequantize,
            "Flatten": self._tail,
            "MaxPool": self._pool,
            "Mul": self._elementwise,
            "QuantizeLinear": self._elementwise,
            "Relu": self._elementwise,
        }
        if node.op_type not in handlers:
            raise _Refused
        handlers[node.op_type](node)

    def _leave(self, node: onnx.NodeProto) -> None:
        """Let torch compute a node."""
        inputs: list[Stored | str | None] = []
        for name in node.input:
            value = self.values.get(name)
            if not name:
                inputs.append(None)
            elif value is None and name not in self.values and name not in self.constants:
                raise refusal("triton", "'torch'", f"{node.op_type} node {node.name!r} reads what is not known")
            else:
                inputs.append(name if value is None else self._as_stored(value, name))
        self.steps.append(Other(node, tuple(inputs)))
        self.values.update(dict.fromkeys(node.output))

    def _after(self, chain: Chain, node: onnx.NodeProto) -> Chain | None:
        """Return a chain with an elementwise node at its end, None if it cannot have that."""
        if node.op_type == "Relu":
            return chain.clipped(0.0, math.inf)
        if node.op_type == "Clip":
            return chain.clipped(*self._limits(node))
        if node.op_type == "QuantizeLinear":
            return chain.rounded(self._scale(node))
        return chain.scaled(*self._line(node))

    def _limits(self, node: onnx.NodeProto) -> tuple[float, float]:
        limits = [-math.inf, math.inf]
        for index, name in enumerate(node.input[1:3]):
            if name:
                if name not in self.constants:
                    raise _Refused
                limits[index] = float(self.constants[name].reshape(()))
        for index, name in enumerate(("min", "max")):
            limits[index] = node_attribute(node, name, limits[index])
        return limits[0], limits[1]

    def _line(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """Return gain and shift by channel of a batch norm, or of a product or sum with a constant."""
        if node.op_type == "BatchNormalization":
            if any(name not in self.constants for name in node.input[1:]):
                raise _Refused
            weight, bias, mean, variance = (self.constants[name].astype("float64") for name in node.input[1:])
            gain = weight / np.sqrt(variance + node_attribute(node, "epsilon", 1e-5))
            return gain, bias - mean * gain
        constant = next((self.constants[name] for name in node.input if name in self.constants), None)
        if constant is None or node.op_type not in ("Add", "Mul"):
            raise _Refused
        values = constant.astype("float64")
        if values.size > 1:
            if values.ndim < 3 or values.shape[-3] != values.size:
                raise _Refused
            values = values.reshape(-1)
        else:
            values = values.reshape(())
        return (values, np.zeros(())) if node.op_type == "Mul" else (np.ones(()), values)

    def _elementwise(self, node: onnx.NodeProto) -> None:
        name = next((each for each in node.input if each in self.values), "")
        view = self._view(name)
        chain = self._after(view.chain, node)
        if chain is None:
            view = View(self._as_stored(view, name))
            chain = self._after(view.chain, node)
            assert chain is not None
        stored = view.stored
        if stored.kind == "int8" and chain.scale == stored.scale and replace(chain, scale=None).is_empty:
            chain = Chain()  # Levels are rounded to themselves.
        self.values[node.output[0]] = View(stored, chain)

    def _dequantize(self, node: onnx.NodeProto) -> None:
        name = node.input[0]
        if name not in self.constants:
            self.values[node.output[0]] = self._view(name)
            return
        scale = self.constants[node.input[1]].astype("float64")
        if self.constants[name].dtype != np.int8 or (scale.size > 1 and node_attribute(node, "axis", 1) != 0):
            raise _Refused
        self.weights[node.output[0]] = self.constants[name], scale

    def _add(self, node: onnx.NodeProto) -> None:
        if any(name in self.constants for name in node.input):
            self._elementwise(node)
            return
        first, second = (self._view(name) for name in node.input)
        if self._shape(node.input[0]) != self._shape(node.input[1]):
            raise _Refused
        if not first.chain.is_affine:
            first = View(self._as_stored(first, node.input[0]))
        residual = self._as_stored(second, node.input[1])
        channels, stored = first.stored.channels, first.stored.scale
        gain, shift = (np.broadcast_to(each, channels) for each in (first.chain.gain * stored, first.chain.shift))
        self._finish("map", node, View(first.stored), gain, shift, residual=residual)

    def _concat(self, node: onnx.NodeProto) -> None:
        names = self.members.get(node.output[0], ())
        found = next((each for each in self.groups if names and each.names[: len(names)] == names), None)
        if found is None:
            raise _Refused
        channels = 0
        for name in names:
            slot = replace(found.whole, first=channels, channels=self._shape(name)[1])
            channels += slot.channels
            if name in found.filled:
                continue
            found.filled.add(name)
            view = self._view(name)
            if view.stored != slot or not view.chain.is_empty:
                if view.chain.scale is not None and view.chain.rounded(slot.scale) is None:
                    view = View(self._as_stored(view, name))
                if slot.kind == "float16" and view.chain.scale is not None:
                    view = View(self._as_stored(view, name))
                self.steps.append(self._map(view, slot, name, ("Concat",)))
        self.values[node.output[0]] = View(replace(found.whole, channels=channels))

    def _conv(self, node: onnx.NodeProto) -> None:
        view, name = self._view(node.input[0]), node.input[1]
        levels = name in self.weights
        if not levels and name not in self.constants:
            raise _Refused
        weight, scale = self.weights.get(name) or (self.constants[name], np.ones(()))
        if weight.ndim != 4:
            raise _Refused
        outputs, inputs, *kernel = weight.shape
        groups = node_attribute(node, "group", 1)
        depthwise = groups > 1 and groups == view.stored.channels == outputs and inputs == 1
        if groups != 1 and not depthwise:
            raise _Refused
        rounds = view.chain.scale is not None or (view.stored.kind == "int8" and view.chain.is_empty)
        if levels != rounds:
            raise _Refused
        unit = (view.chain.scale or view.stored.scale) if levels else 1.0
        places = self._places(node, view.stored, kernel)
        # Padding is of zeros behind the chain, and a window would apply it again at each of its taps.
        padded = any(places.before) or any(end > 0 for end in places.ends)
        packed = weight.reshape(outputs, inputs, -1)
        packed = packed[:, 0].T if depthwise else packed.transpose(0, 2, 1)
        if not depthwise and self._reads_pixels(view, places, kernel):
            view, places, packed = self._by_rows(node.input[0], places, weight)
            kernel = [kernel[0], 1]
        elif self._is_computed_first(view, kernel, depthwise or padded or outputs > _FILTERS_OF_ONE_PROGRAM):
            view = View(self._as_stored(view, node.input[0]))
        bias = self.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(outputs)
        gain = np.broadcast_to(unit * scale, outputs)
        packed = np.ascontiguousarray(packed if levels else packed.astype("float16"))
        kind = "depthwise" if depthwise else "convolution"
        height, width = kernel
        self._finish(
            kind, node, view, gain, bias.astype("float64"), weight=packed, kernel=(height, width), places=places
        )

    @staticmethod
    def _is_computed_first(view: View, kernel: Sequence[int], often: bool) -> bool:
        """Return whether what a convolution reads is stored first: where each value is read several times."""
        if view.chain.is_empty:
            return view.stored.kind == "uint8"
        return often or math.prod(kernel) > 1

    @staticmethod
    def _reads_pixels(view: View, places: Windows, kernel: Sequence[int]) -> bool:
        """Return whether a convolution is of images, and its windows are narrow enough to be read row by row."""
        source, bordered = view.stored, view.chain.low <= 0 <= view.chain.high
        narrow = bordered and kernel[1] <= _IN_A_ROW and list(places.dilations) == [1, 1]
        return source.kind == "uint8" and source.channels <= PIXEL and math.prod(kernel) > 1 and narrow

    def _by_rows(self, name: str, places: Windows, weight: np.ndarray) -> tuple[View, Windows, np.ndarray]:
        """Store images with their padding, so that each row of a window is one tap of `_IN_A_ROW` pixels."""
        view = self._view(name)
        outputs, inputs, height, width = weight.shape
        kind: Kind = "float16" if view.chain.scale is None else "int8"
        rows, columns = places.counts
        tall = (rows - 1) * places.strides[0] + height
        wide = (columns - 1) * places.strides[1] + _IN_A_ROW
        wide += wide % 2
        stored = Stored(self._buffer(tall, wide, PIXEL, kind), 0, PIXEL, tall, wide, kind, view.chain.scale or 1.0)
        gain, shift, low, high = view.chain.of_levels(1.0)
        by_channel = [np.pad(np.broadcast_to(each, inputs), (0, PIXEL - inputs)) for each in (gain, shift)]
        epilogue = _epilogue(by_channel[0], by_channel[1], PIXEL, None, low, high)
        self.steps.append(Step("images", name, name, ("images",), View(view.stored), stored, epilogue, places=places))
        filters = np.zeros((outputs, height, _IN_A_ROW, PIXEL), weight.dtype)
        filters[:, :, :width, :inputs] = weight.transpose(0, 2, 3, 1)
        inside = replace(places, before=[0, 0], after=[0, 0], ends=[0, 0])
        return View(stored), inside, filters.reshape(outputs, height, -1)

    def _pool(self, node: onnx.NodeProto) -> None:
        view = self._view(node.input[0])
        source, kernel = self._as_stored(view, node.input[0]), node_attribute(node, "kernel_shape", [])
        places = self._places(node, source, kernel)
        average = node.op_type == "AveragePool"
        padded = any(places.before) or any(end > 0 for end in places.ends)
        if len(node.output) > 1 or source.kind == "uint8" or (average and padded):
            raise _Refused
        gain = np.full(source.channels, source.scale / (math.prod(kernel) if average else 1))
        kind = "average pool" if average else "max pool"
        level = None if average or source.kind != "int8" else source.scale
        height, width = kernel
        shift = np.zeros(source.channels)
        self._finish(kind, node, View(source), gain, shift, kernel=(height, width), places=places, level=level)

    def _places(self, node: onnx.NodeProto, source: Stored, kernel: Sequence[int]) -> Windows:
        if len(kernel) != 2:
            raise _Refused
        attributes = {name: node_attribute(node, name, None) for name in _WINDOW}
        if isinstance(attributes["auto_pad"], bytes):
            attributes["auto_pad"] = attributes["auto_pad"].decode()
        return windows(attributes, (source.height, source.width), kernel)

    def _finish(
        self,
        kind: str,
        node: onnx.NodeProto,
        source: View,
        gain: np.ndarray,
        shift: np.ndarray,
        residual: Stored | None = None,
        level: float | None = None,
        **parts: Any,
    ) -> None:
        """Add a step, with the nodes after it that are its epilogue; `level` is the scale of what has been rounded."""
        nodes, name = [node.op_type], node.output[0]
        chain = Chain(gain, shift)
        while level is None and (after := self._only_use(name)) is not None:
            if after.op_type == "Add" and not any(each in self.constants for each in after.input):
                other = next(each for each in after.input if each != name) if len(set(after.input)) == 2 else ""
                if residual is not None or not chain.is_affine or not self._is_plain(other, name):
                    break
                residual = self._view(other).stored
            elif after.op_type in ("BatchNormalization", "Mul", "Add", "Relu", "Clip", "QuantizeLinear"):
                try:
                    following = self._after(chain, after)
                except _Refused:
                    break
                if following is None or (residual is not None and after.op_type in ("BatchNormalization", "Mul")):
                    break
                chain = following
            else:
                break
            nodes.append(after.op_type)
            name = after.output[0]
            self.fused.add(name)
            if chain.scale is not None:
                break
        scale = level if level is not None else chain.scale
        output = self._store(name, "float16" if scale is None else "int8", scale or 1.0)
        levels = replace(chain, scale=scale)
        by_channel, constant, low, high = levels.of_levels(1.0)
        epilogue = _epilogue(by_channel, constant, output.channels, residual, low, high)
        first = node.name or node.output[0]
        self.steps.append(Step(kind, first, name, tuple(nodes), source, output, epilogue, **parts))
        self.values[name] = View(output)

    def _only_use(self, name: str) -> onnx.NodeProto | None:
        """Return the node that alone reads a tensor, and None if there are several or it is an output."""
        found = {each.output[0]: each for each in self.uses[name]}
        slotted = name in self.slots
        return None if len(found) != 1 or name in self.outputs or slotted else next(iter(found.values()))

    def _is_plain(self, name: str, other: str) -> bool:
        """Return whether a tensor can be a residual: it is stored as it is, and of the same shape."""
        view = self.values.get(name)
        return view is not None and view.chain.is_empty and self._shape(name) == self._shape(other)

    def _tail(self, node: onnx.NodeProto) -> None:
        view = self._view(node.input[0])
        if set(self.outputs) - set(TAIL) or node_attribute(node, "axis", 1) != 1 or node.output[0] != "features":
            raise _Refused
        if view.stored.channels % 8:
            raise _Refused
        # Means of earlier layers as well are what torch makes.
        if "pooled" in self.outputs and self._shape("pooled")[1:] != [view.stored.channels]:
            raise _Refused
        if view.chain.scale is not None:
            view = View(self._as_stored(view, node.input[0]))
        self.steps.append(Tail(view))
        nodes = list(self.model.graph.node)
        self.fused.update(each.output[0] for each in nodes[nodes.index(node) :])


def _epilogue(
    gain: np.ndarray, shift: np.ndarray, channels: int, residual: Stored | None, low: float, high: float
) -> Epilogue:
    by_channel, constant = (np.broadcast_to(each, channels).astype("float32") for each in (gain, shift))
    return Epilogue(by_channel, constant, residual, low, high)


@dataclass
class _Group:
    """Tensors that are concatenated: their names, and where they are together."""

    names: tuple[str, ...]
    whole: Stored
    filled: set[str] = field(default_factory=set)
