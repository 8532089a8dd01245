"""One node of an ONNX graph as the torch runtime reads it: what is not read of it is refused, never ignored."""

import inspect
from collections.abc import Callable
from typing import Any

import onnx
from onnx import helper
from torch import Tensor

from ...errors import AurevoirError

Operator = Callable[..., Any]
"""Maps the inputs of a node, None where one is left out, to its output or a tuple of outputs."""


class Node:
    """A node's attributes, constant inputs and outputs that are read.

    Parameters
    ----------
    proto : onnx.NodeProto
    opset : int
    constants : dict of Tensor
        Those of the graph, by name.
    """

    def __init__(self, proto: onnx.NodeProto, opset: int, constants: dict[str, Tensor]) -> None:
        self.kind, self.name, self.opset, self.declared = proto.op_type, proto.name, opset, len(proto.output)
        self.inputs = list(proto.input)
        self._constants = constants
        self._given = {item.name: _plain(helper.get_attribute_value(item)) for item in proto.attribute}
        self._defaults = _defaults(proto, opset)
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        """Return an attribute, by default the operator's default, or None."""
        self._read.add(name)
        return self._given.get(name, self._defaults.get(name))

    def constant(self, index: int) -> Tensor | None:
        """Return an input if it is constant."""
        return self._constants.get(self.inputs[index]) if index < len(self.inputs) else None

    def has(self, index: int) -> bool:
        """Return whether an input is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def refusal(self, what: str) -> AurevoirError:
        """Return the error that the torch runtime does not support something of this node."""
        return AurevoirError(
            f"the torch runtime does not support {what} ({self.kind} node {self.name!r}); "
            "use runtime 'openvino' or 'onnxruntime' for this network"
        )

    def checked(self, operator: Operator) -> Operator:
        """Return an operator made of this node, or raise if it leaves out an attribute, input or output."""
        for name, value in self._given.items():
            if name not in self._read and value != self._defaults.get(name):
                raise self.refusal(f"attribute {name} = {value!r}"[:120])
        try:
            inspect.signature(operator).bind(*self.inputs)
        except TypeError:
            raise self.refusal(f"these {len(self.inputs)} inputs") from None
        return operator


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _defaults(proto: onnx.NodeProto, opset: int) -> dict[str, Any]:
    try:
        attributes = onnx.defs.get_schema(proto.op_type, opset, proto.domain).attributes.values()
    except onnx.defs.SchemaError:
        return {}
    given = {item.name: item.default_value for item in attributes if item.default_value.name}
    return {name: _plain(helper.get_attribute_value(value)) for name, value in given.items()}


def elementwise(function: Callable[[Tensor], Tensor]) -> Callable[[Node], Operator]:
    """Return the maker of an operator without attributes that a function computes."""
    return lambda node: lambda x: function(x)  # noqa: PLW0108 - torch's own have no signature


def integers(node: Node, index: int, attribute: str) -> Callable[[Tensor | None], list[int] | None]:
    """Return a function from a node's input to its integers: an attribute's or a constant's where there is one.

    A constant's are read once, on the host: from a GPU they could not be read while a CUDA graph is captured.
    """
    constant, given = node.constant(index), node[attribute]
    if constant is not None:
        given = constant.reshape(-1).tolist()
    given = [given] if isinstance(given, int) else given
    if given is not None or not node.has(index):
        return lambda found: given
    return lambda found: None if found is None else found.reshape(-1).tolist()
