"""Infer the types of an ONNX graph node by node, with the small values that shapes are computed from."""

from math import prod

import numpy as np
import onnx
from onnx import TypeProto, helper, numpy_helper

from ..calibration.graph.edit import node_attribute

_SMALL = 4096
"""Values of larger tensors are not followed: they are no shapes."""
_OPERATORS = (
    "Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape Div Equal Expand Flatten Floor Gather "
    "GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Pad Pow Range "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape Round ScatterElements ScatterND Sign Size Slice Split "
    "Sqrt Squeeze Sub Sum Tile Transpose Unsqueeze Where Xor"
)
_ARITHMETIC = frozenset(_OPERATORS.split())
"""What shapes are computed by; each takes time in proportion to its small inputs and output."""


class Inferred:
    """What is known of a graph's tensors for one shape of its input.

    Parameters
    ----------
    model : onnx.ModelProto
    shape : list of int
        Of the graph's one input.

    Attributes
    ----------
    types : dict of onnx.TypeProto
    values : dict of arrays
        Of small tensors that follow from constants and shapes alone.
    """

    def __init__(self, model: onnx.ModelProto, shape: list[int]) -> None:
        self.types: dict[str, TypeProto] = {}
        self.values: dict[str, np.ndarray] = {}
        self._opsets = list(model.opset_import)
        self._versions = {item.domain: item.version for item in model.opset_import}
        image = model.graph.input[0]
        self.set_shape(image.name, shape, image.type.tensor_type.elem_type)
        for tensor in model.graph.initializer:
            self.set_shape(tensor.name, list(tensor.dims), tensor.data_type)
            if prod(tensor.dims) <= _SMALL:
                self.values[tensor.name] = numpy_helper.to_array(tensor)

    def set_shape(self, name: str, shape: list[int], kind: int) -> None:
        """Set a tensor's shape and element type."""
        self.types[name] = helper.make_tensor_type_proto(kind, shape)

    def set_value(self, name: str, value: np.ndarray) -> None:
        """Set a constant."""
        self.set_shape(name, list(value.shape), helper.np_dtype_to_tensor_dtype(value.dtype))
        self.values[name] = value

    def shape(self, name: str) -> list[int] | None:
        """Return the shape of a tensor, if all of it is known."""
        kind = self.types.get(name, TypeProto()).tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        return dims if kind.HasField("shape") and -1 not in dims else None

    def infer(self, node: onnx.NodeProto) -> bool:
        """Infer the outputs of a node whose inputs are known; return whether they are consistent."""
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            return True
        names = [name for name in node.input if name]
        data = {name: numpy_helper.from_array(self.values[name], name) for name in names if name in self.values}
        types = {name: self.types[name] for name in names}
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._opsets)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError):
            return False
        self.types |= found
        before, after = (self.shape(name) for name in (node.input[0], node.output[0])) if names else (None, None)
        return node.op_type != "Reshape" or before is None or after is None or prod(before) == prod(after)

    def compute(self, node: onnx.NodeProto) -> None:
        """Compute the value of a node's output, if it is small and its inputs have values, or are shapes."""
        shape = self.shape(node.output[0])
        if shape is None or prod(shape) > _SMALL:
            return
        if node.op_type == "Shape":
            whole = self.shape(node.input[0])
            if whole is not None:
                part = slice(node_attribute(node, "start", 0), node_attribute(node, "end", None))
                self.values[node.output[0]] = np.array(whole[part], "int64")
        elif node.op_type in _ARITHMETIC and all(name in self.values for name in node.input if name):
            value = self._evaluated(node)
            if value is not None:
                self.values[node.output[0]] = value

    def _evaluated(self, node: onnx.NodeProto) -> np.ndarray | None:
        from onnx.reference import ReferenceEvaluator

        names = list(dict.fromkeys(name for name in node.input if name))
        inputs = [helper.make_value_info(name, self.types[name]) for name in names]
        output = helper.make_value_info(node.output[0], self.types[node.output[0]])
        model = helper.make_model(helper.make_graph([node], "value", inputs, [output]), opset_imports=self._opsets)
        try:
            outputs = ReferenceEvaluator(model).run(None, {name: self.values[name] for name in names})
        except Exception:  # what the evaluator cannot compute stays unknown
            return None
        return next(np.asarray(value) for value in outputs)
