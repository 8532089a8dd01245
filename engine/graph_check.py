"""Check the graph of an engine file, and what any ONNX file holds, before native code parses a byte of it."""

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from ..calibration.graph.edit import POOLED, type_name
from ..errors import AurevoirError
from ..kernels.bits import packed_length
from ..kernels.memory import format_bytes, memory_budget, require
from .graph_cost import check_cost
from .manifest import Manifest

LARGEST = (1 << 31) - (1 << 20)
"""Bytes of a graph with its weights; protobuf ends at 2 GiB."""
MOST_NODES = 10_000
"""Nodes of a graph; the largest networks have some 5,000 as int8, and compilers take the square of their number."""
MOST_DEPTH = 8
"""Graphs inside graphs, and functions that call functions."""

_CONVOLUTIONAL = (
    "AveragePool BatchNormalization Col2Im Conv ConvTranspose DeformConv GlobalAveragePool GlobalLpPool "
    "GlobalMaxPool InstanceNormalization LRN LpPool MaxPool MaxRoiPool MaxUnpool Resize RoiAlign Upsample"
)
_ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
    "Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish "
    "Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal "
    "Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu "
    "Where Xor"
)
_MOVING = (
    "AffineGrid CenterCropPad Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather "
    "GatherElements GatherND GridSample OneHot Pad Range Reshape ReverseSequence Scatter ScatterElements ScatterND "
    "Shape Size Slice SpaceToDepth Split Squeeze Tile TopK Transpose Trilu Unsqueeze"
)
_PRODUCTS = (
    "Attention CumProd CumSum DFT Det Einsum GRU Gemm GroupNormalization Hardmax LSTM LayerNormalization LogSoftmax "
    "LpNormalization MatMul MeanVarianceNormalization RMSNormalization RNN RotaryEmbedding Softmax ArgMax ArgMin "
    "DequantizeLinear QuantizeLinear ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare"
)
OPERATORS = frozenset(f"{_CONVOLUTIONAL} {_ELEMENTWISE} {_MOVING} {_PRODUCTS}".split())
"""ONNX's own operators that an engine file may hold: tensors in, tensors out, the same for the same image."""


def check_graph(graph: bytes, made: Manifest, source: object) -> None:
    """Check the graph of an engine file before any runtime parses it.

    It holds its weights itself, has only `OPERATORS`, no functions and no graphs inside, passes onnx's full check, has
    the input and the outputs that its manifest says, and one image in it fits the memory budget.

    Parameters
    ----------
    graph : bytes
    made : Manifest
    source : object
        Where it comes from, for messages.

    Raises
    ------
    BudgetError
        If one image would exceed the memory budget.
    AurevoirError
        If anything else is wrong.
    """
    model = parsed(graph, source)
    check_contents(model, source)
    newest = onnx.defs.onnx_opset_version()
    if unknown := [each.version for each in model.opset_import if not 1 <= each.version <= newest]:
        # Runtimes go through all versions up to one that is absurd.
        raise _refused(source, f"operators of opset {unknown[0]}, and the installed onnx knows 1 to {newest}")
    strangers = {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node}
    if strangers := {name for name in strangers if name not in OPERATORS}:
        raise _refused(source, f"the operator {min(strangers)}, which no engine file holds")
    if model.functions or any(_inner(node) for node in model.graph.node):
        raise _refused(source, "functions, or graphs inside nodes, which no engine file holds")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        raise _refused(source, "weights in another file, which no engine file may name")
    _check_ends(model, made, source)
    for tensor in _tensors(model.graph):
        _check_data(tensor, source)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker's errors have no common base class
        raise _refused(source, f"what onnx's checker refuses ({_first_line(error)})") from None
    check_cost(model, [1, *made.input_shape], source)


def parsed(graph: bytes, source: object) -> ModelProto:
    """Return an ONNX model from its bytes, with no look at other files.

    Raises
    ------
    AurevoirError
        If they are no ONNX model, or too many.
    """
    if len(graph) > LARGEST:
        raise _refused(
            source, f"{format_bytes(len(graph))}, and {format_bytes(LARGEST)} are the most of a graph in memory"
        )
    try:
        return onnx.load_from_string(graph)
    except Exception as error:  # protobuf's errors have no common base class
        raise _refused(source, f"bytes that are no ONNX graph ({_first_line(error)})") from None


def check_contents(model: ModelProto, source: object) -> None:
    """Bound what a parsed ONNX model holds: nodes, also of functions once they are inlined, depth and dense tensors.

    Raises
    ------
    BudgetError
        If sparse tensors would be larger, as dense ones, than the memory budget.
    AurevoirError
        If there are more than `MOST_NODES` nodes or `MOST_DEPTH` levels, or a name is no text.
    """
    functions = {(each.domain, each.name): each for each in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def nodes_of(nodes: list[NodeProto], depth: int) -> int:
        if depth > MOST_DEPTH:
            raise _refused(source, f"graphs or functions nested more than {MOST_DEPTH} deep")
        total = 0
        for node in nodes:
            total += 1 + sum(nodes_of(list(graph.node), depth + 1) for graph in _inner(node))
            key = (node.domain, node.op_type)
            if key in functions:
                if key not in counted:
                    counted[key] = nodes_of(list(functions[key].node), depth + 1)
                total += counted[key]
            if total > MOST_NODES:
                raise _refused(source, f"more than {MOST_NODES:,d} nodes")
        return total

    nodes_of(list(model.graph.node), 0)
    for function in model.functions:
        nodes_of(list(function.node), 1)
    dense = sum(8 * _length(sparse.dims) for graph in _bodies(model) for sparse in _sparse(graph))
    require(dense, memory_budget(), f"the sparse tensors of {source}", "export it with dense weights")
    _check_names(model, source)


def _check_names(model: ModelProto, source: object) -> None:
    """Check that names are text: protobuf returns those that are not UTF-8 as bytes."""
    for graph in (each for body in _bodies(model) for each in _graphs(body)):
        named = [*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info]
        names = [item.name for item in named]
        names += [name for node in graph.node for name in (node.op_type, node.domain, *node.input, *node.output)]
        if not all(isinstance(name, str) for name in names):
            raise _refused(source, "a name that is not UTF-8")


def _length(dims: object) -> int:
    length = 1
    for size in dims:  # type: ignore[attr-defined]
        length *= max(0, int(size))
    return length


def _inner(node: NodeProto) -> list[GraphProto]:
    """Return the graphs of a node's attributes, those that no reader looks at included."""
    return [graph for item in node.attribute for graph in ([item.g] if item.HasField("g") else []) + [*item.graphs]]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _inner(node):
            yield from _graphs(inner)


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    return (item for each in _graphs(graph) for node in each.node for item in node.attribute)


def _sparse(graph: GraphProto) -> Iterator[SparseTensorProto]:
    for each in _graphs(graph):
        yield from each.sparse_initializer
    for item in _attributes(graph):
        yield from [item.sparse_tensor] if item.HasField("sparse_tensor") else []
        yield from item.sparse_tensors


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor that a graph holds, those of attributes and of sparse tensors included."""
    for each in _graphs(graph):
        yield from each.initializer
    for item in _attributes(graph):
        yield from [item.t] if item.HasField("t") else []
        yield from item.tensors
    for sparse in _sparse(graph):
        yield from (sparse.values, sparse.indices)


def tensors(model: ModelProto) -> list[TensorProto]:
    """Return every tensor of a model, those of functions' nodes included."""
    return [tensor for graph in _bodies(model) for tensor in _tensors(graph)]


def _bodies(model: ModelProto) -> list[GraphProto]:
    return [model.graph, *(GraphProto(node=function.node) for function in model.functions)]


def _check_data(tensor: TensorProto, source: object) -> None:
    """Check that a tensor has as many values as its shape says, which onnx's full check leaves open."""
    try:
        if tensor.data_type == TensorProto.STRING:
            raise ValueError("strings are no numbers")
        numpy_helper.to_array(tensor)
    except Exception as error:  # numpy's errors, protobuf's and onnx's
        raise _refused(source, f"a tensor {tensor.name!r} that is no array ({_first_line(error)})") from None


def _check_ends(model: ModelProto, made: Manifest, source: object) -> None:
    """Check the graph's input and outputs against the manifest."""
    m, c = made.features, len(made.labels)
    wanted = {
        "images": (TensorProto.UINT8, list(made.input_shape)),
        "features": (TensorProto.FLOAT, [m]),
        "bits": (TensorProto.UINT8, [packed_length(m)]),
        POOLED: (TensorProto.FLOAT, [made.pooled]),
        "scores": (TensorProto.FLOAT, [c]),
        "probabilities": (TensorProto.FLOAT, [c]),
        "label": (TensorProto.INT64, [c] if made.multilabel else []),
    }
    names, ends = [value.name for value in [*model.graph.input, *model.graph.output]], ("images", *made.outputs)
    if names != list(ends):
        raise _refused(source, f"the inputs and outputs {', '.join(names)[:80]} instead of {', '.join(ends)}")
    for value in [*model.graph.input, *model.graph.output]:
        kind, (dtype, rest) = value.type.tensor_type, wanted[value.name]
        batch, *dims = [dim.dim_value for dim in kind.shape.dim] or [0]
        if kind.elem_type != dtype or batch or dims != rest:
            raise _refused(
                source,
                f"{value.name} of {type_name(kind.elem_type)} {[batch or 'batch', *dims]}, and "
                f"its manifest says {type_name(dtype)} {['batch', *rest]}",
            )


def _first_line(error: Exception) -> str:
    return " ".join(str(error).strip().partition("\n")[0].split())[:300] or type(error).__name__


def _refused(source: object, what: str) -> AurevoirError:
    return AurevoirError(f"the graph of {source} holds {what}; build it again, or export the network anew")
