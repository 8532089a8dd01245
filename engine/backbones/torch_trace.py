"""Write a truncated network as an ONNX graph by following one call of it, for the operators of convolutional networks.

The call computes no values: its tensors have shapes only, with a number of images of which nothing is known, so that
code that depends on it, or on values, is refused. Everything else that is not known to be the same for every image is
refused as well: `torch_export` has a slower exporter for what is left.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .torch_nodes import RESULTS, WRITERS, UnsupportedError

OPSET = 18
_IR = 10


def trace(module: nn.Module, shape: tuple[int, ...], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the graph of a module for any number of images of shape (channels, height, width).

    Tensors are named after torch's operators and numbered, constants after the module's parameters and buffers.

    Raises
    ------
    UnsupportedError
        If the module calls an operator, or calls one in a way, that this does not write.
    Exception
        Of any type, if its code cannot be followed.
    """
    environment = ShapeEnv()
    with torch.inference_mode(), FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True):
        count = environment.create_unbacked_symint()
        torch._check(count >= 1)
        image = torch.empty(count, *shape)
        tracer = _Tracer(module, image)
        with tracer:
            found = module(image)
    graph = tracer.graph(found if isinstance(found, tuple) else (found,), outputs, shape)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR)


class _Tracer(TorchDispatchMode):
    """Writes a node, or a few, for each operator that is called on the image, unless it raises."""

    def __init__(self, module: nn.Module, image: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._batch = _expression(image.shape[0])
        self._nodes: list[onnx.NodeProto] = []
        self._names: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        self._constants: dict[str, Any] = {}
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self._constant_names = {id(tensor): name for name, tensor in tensors}
        self._computed: dict[int, tuple[Any, Any, Any]] = {}
        """The calls that made tensors which do not depend on the image."""
        self._kept: list[Any] = [module]
        """All whose `id` is a key, so that nothing new has the same."""
        self._sharing: dict[int, set[int]] = {}
        self._operator = "image"
        self._add(image, "image")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        self._operator = name.removesuffix("_")
        if func._schema.is_mutable and self._operator != "dropout":
            self._check_change(func, args[0])
        named = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
        whole = [named.get(each.name, each.default_value) for each in func._schema.arguments]
        out = RESULTS[name](*whole) if name in RESULTS else func(*args, **kwargs)
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if any(id(each) in self._names for each in given):
            self._write(func, out, whole)
        elif isinstance(out, torch.Tensor) and given:
            self._kept.append(out)
            self._computed[id(out)] = func, args, kwargs
        return out

    def _check_change(self, func: Any, tensor: Any) -> None:
        """Refuse a change of anything but a tensor of its own memory that depends on the image."""
        if not isinstance(tensor, FakeTensor) or self._sharing.get(_storage(tensor)) != {id(tensor)}:
            raise UnsupportedError(f"{func} on memory that several tensors share")

    def _write(self, func: Any, out: Any, arguments: Sequence[Any]) -> None:
        if not any(isinstance(each, torch.Tensor) for each in tree_leaves(out)):
            return
        if self._operator not in WRITERS:
            raise UnsupportedError(str(func))
        WRITERS[self._operator](self, out, *arguments)

    def node(self, kind: str, inputs: Sequence[Any], out: Any = None, **attributes: Any) -> str:
        """Add a node and return its first output's name; see `torch_nodes.Graph`."""
        names = [self.name(each) for each in inputs]
        while not names[-1]:
            names.pop()
        outs = out if isinstance(out, list) else [out]
        results = [self._new(self._operator) for _ in outs]
        for each, result in zip(outs, results, strict=True):
            if each is not None:
                self._add(each, result)
        self._nodes.append(helper.make_node(kind, names, results, **attributes))
        return results[0]

    def same(self, out: torch.Tensor, source: torch.Tensor) -> None:
        """Note that a call returns what it was given."""
        self._add(out, self.name(source))

    def name(self, value: Any) -> str:
        """Return the name of a tensor or a constant, and "" for None."""
        if value is None or isinstance(value, str):
            return value or ""
        if id(value) in self._names:
            return self._names[id(value)]
        name = self._constant_names.get(id(value)) or self._new("constant")
        if isinstance(value, torch.Tensor):
            _check_type(value, name)
            self._constant_names[id(value)] = name
        self._kept.append(value)
        self._constants[name] = value
        return name

    def _add(self, tensor: torch.Tensor, name: str) -> None:
        batch, *rest = tensor.shape or (0,)
        if _expression(batch) != self._batch or not all(isinstance(length, int) for length in rest):
            raise UnsupportedError(f"{self._operator}, which returns something else than a tensor an image")
        _check_type(tensor, self._operator)
        self._kept.append(tensor)
        self._names[id(tensor)] = name
        self._sharing.setdefault(_storage(tensor), set()).add(id(tensor))

    def _new(self, operator: str) -> str:
        number = self._counts[operator] = self._counts.get(operator, -1) + 1
        return f"{operator}_{number}" if number else operator

    def graph(self, features: Sequence[torch.Tensor], outputs: Sequence[str], shape: Sequence[int]) -> onnx.GraphProto:
        """Return the graph from the image, of a shape, to features, which get the names of outputs."""
        own: dict[str, str] = {}
        results = []
        for tensor, output in zip(features, outputs, strict=True):
            name = self._names.get(id(tensor))
            if name is None:
                raise UnsupportedError("features that do not depend on the image")
            if name == "image" or name in own:
                self._nodes.append(helper.make_node("Identity", [name], [output]))
            else:
                own[name] = output
            results.append(
                helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *map(int, tensor.shape[1:])])
            )
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [own.get(each, each) for each in names]
        constants = [numpy_helper.from_array(self._array(value), name) for name, value in self._constants.items()]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])
        return helper.make_graph(self._nodes, "network", [image], results, constants)

    def _array(self, value: Any) -> np.ndarray:
        if isinstance(value, torch.Tensor):
            array: np.ndarray = self._value(value).detach().contiguous().numpy()
            return array
        return np.asarray(value, None if isinstance(value, np.ndarray) else "float32")

    def _value(self, tensor: Any) -> Any:
        """Return a tensor with values in place of one that does not depend on the image."""
        if id(tensor) in self._computed:
            func, args, kwargs = self._computed[id(tensor)]
            return func(*tree_map(self._value, args), **tree_map(self._value, kwargs))
        if isinstance(tensor, FakeTensor):
            raise UnsupportedError("a tensor that is made of nothing")
        return tensor


def _expression(length: Any) -> Any:
    """Return the formula of a length that depends on the number of images, and None of another."""
    return getattr(getattr(length, "node", None), "expr", None)


def _check_type(tensor: torch.Tensor, name: str) -> None:
    if tensor.dtype != torch.float32:
        raise UnsupportedError(f"{name} of {tensor.dtype}")


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
