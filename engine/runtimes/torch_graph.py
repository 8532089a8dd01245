"""Run the ONNX graph of a convolutional network as a torch module, node by node."""

from collections import Counter
from collections.abc import Callable

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from ...calibration.graph.edit import opset
from ...errors import AurevoirError
from . import torch_operators, torch_resize, torch_windows
from .base import FLOAT32_PREFIXES
from .torch_node import Node, Operator

_OPERATORS: dict[str, Callable[[Node], Operator]] = {
    **torch_operators.OPERATORS,
    **torch_resize.OPERATORS,
    **torch_windows.OPERATORS,
}
_ON_HOST = 1024
"""Constants of at most so many values are kept on the host too, for the arithmetic of shapes."""


class TorchGraph(torch.nn.Module):
    """An ONNX graph with one input as a module that returns a list of outputs.

    Shapes are computed on the host, where a GPU's work is queued, and constants of constants once, here.

    Parameters
    ----------
    model : onnx.ModelProto
    dtype : torch.dtype or None
        Type to compute in after normalisation; None keeps the types of the graph.

    Raises
    ------
    AurevoirError
        If an operator, or an attribute or input of one, is not supported; the message names the node.
    """

    def __init__(self, model: onnx.ModelProto, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.input, self.outputs = model.graph.input[0].name, [value.name for value in model.graph.output]
        version = opset(model)
        constants = {
            tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer
        }
        read = Counter([*self.outputs, *(name for node in model.graph.node for name in node.input if name)])
        self.steps: list[Step] = []
        for proto in model.graph.node:
            step = Step(proto, version, constants, read)
            if all(name in constants for name in step.inputs if name):
                constants.update(
                    zip(step.outputs, step.run([constants.get(name) for name in step.inputs]), strict=False)
                )
            else:
                self.steps.append(step)
        needed = {*self.outputs, *(name for step in self.steps for name in step.inputs)} & constants.keys()
        self.names = {name: f"constant_{index}" for index, name in enumerate(constants) if name in needed}
        self.host = {name: constants[name] for name in needed if constants[name].numel() <= _ON_HOST}
        for name, buffer in self.names.items():
            tensor = constants[name]
            narrow = dtype and tensor.is_floating_point() and not name.startswith(("normalisation_", *FLOAT32_PREFIXES))
            self.register_buffer(buffer, tensor.to(dtype) if narrow else tensor)
        self.dying = _last_uses(self.steps, self.outputs)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the graph's outputs, floats as float32."""
        values = {self.input: images}
        for step, dying in zip(self.steps, self.dying, strict=True):
            values.update(zip(step.outputs, step.run(self._inputs(values, step, images.device)), strict=False))
            for name in dying:
                del values[name]
        results = [self._value(values, name) for name in self.outputs]
        return [result.float() if result.is_floating_point() else result for result in results]

    def _inputs(self, values: dict[str, Tensor], step: "Step", device: torch.device) -> list[Tensor | None]:
        """Return a step's inputs; beside computed ones on the host alone, constants on the host."""
        computed = [values[name] for name in step.inputs if name in values]
        if device.type == "cpu" or any(tensor.device == device for tensor in computed):
            return [self._value(values, name) if name else None for name in step.inputs]
        return [values.get(name, self.host.get(name)) for name in step.inputs]

    def _value(self, values: dict[str, Tensor], name: str) -> Tensor:
        return values[name] if name in values else getattr(self, self.names[name])


class Step:
    """A node: its operator, the names of its inputs, and the names of those outputs that are read."""

    def __init__(self, proto: onnx.NodeProto, opset: int, constants: dict[str, Tensor], read: Counter[str]) -> None:
        self.name, self.kind, self.inputs = proto.name or proto.output[0], proto.op_type, list(proto.input)
        wanted = [index for index, name in enumerate(proto.output) if read[name]]
        self.outputs = list(proto.output[: max(wanted, default=0) + 1])
        self._node = Node(proto, opset, constants)
        known = proto.domain in ("", "ai.onnx") and (proto.op_type in _OPERATORS or proto.op_type == "Constant")
        if not known:
            kind = ".".join(filter(None, [proto.domain, proto.op_type]))
            raise self._node.refusal(f"the operator {kind}")
        if proto.op_type == "Constant":
            value = _constant(proto)
            self._operator: Operator = lambda: value
            return
        self._operator = self._node.checked(_OPERATORS[proto.op_type](self._node))

    def run(self, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
        """Compute the outputs."""
        try:
            found = self._operator(*inputs)
        except (torch.OutOfMemoryError, torch.AcceleratorError, AurevoirError):
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise self._node.refusal(f"this: {_first_line(error)}") from error
        found = (found,) if isinstance(found, Tensor) else tuple(found)
        if len(found) < len(self.outputs):
            raise self._node.refusal(f"output {self.outputs[-1]!r}")
        return found


def _constant(proto: onnx.NodeProto) -> Tensor:
    value = helper.get_attribute_value(proto.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(numpy_helper.to_array(value).copy())
    kind = torch.float32 if proto.attribute[0].name.startswith("value_float") else torch.int64
    return torch.tensor(value, dtype=kind)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _last_uses(steps: list[Step], outputs: list[str]) -> list[set[str]]:
    """Return, for each step, the computed tensors that no later step reads."""
    computed = {name for step in steps for name in step.outputs}
    seen, dying = set(outputs), []
    for step in reversed(steps):
        dying.append({name for name in [*step.inputs, *step.outputs] if name in computed} - seen)
        seen.update(step.inputs)
    return dying[::-1]
