"""What one image costs in a graph: bytes that are alive at once and multiplications, from shapes alone."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import onnx
from onnx import NodeProto

from ..calibration.graph.edit import node_attribute
from ..errors import AurevoirError
from ..kernels.memory import Budget, memory_budget, require
from .inferred import Inferred

MOST_WORK = 1 << 42
"""Multiply-adds for one image: four times those of the largest published vision transformers."""
LARGEST = 1 << 31
_ENDLESS = 1 << 100
"""What stands for larger costs, which may have thousands of digits."""
_ENDS = (-(1 << 63), (1 << 63) - 1, 1 << 31)
"""What exporters write for an open end of a slice."""
_SHAPES = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Tile": 1, "Pad": 1, "Resize": 3, "OneHot": 1, "Range": 1}
"""The input of an operator that says how large its output is."""
_WEIGHTED = ("Conv", "DeformConv")
_RECURRENT = ("GRU", "LSTM", "RNN")


@dataclass(frozen=True)
class Cost:
    """The cost of one image: the most bytes of tensors alive at once, and multiply-adds."""

    memory: int
    work: int


def check_cost(
    model: onnx.ModelProto, shape: list[int], source: object, budget: Budget = None, known: bool = True
) -> None:
    """Refuse a graph that one image would take too much memory or time in, before anything of it is computed.

    Parameters
    ----------
    model : onnx.ModelProto
    shape : list of int
        Of the graph's one input, with batch 1.
    source : object
        Where it comes from, for messages.
    budget : int, str or None
        See `memory.memory_budget`.
    known : bool
        Whether a tensor whose shape cannot be told, or contradicts itself, is refused.

    Raises
    ------
    BudgetError
        If the tensors of one image exceed the memory budget.
    AurevoirError
        If it computes too much, or a shape is absurd or cannot be told.
    """
    cost = graph_cost(model, shape, source, known)
    require(cost.memory, memory_budget(budget), f"one image in the graph of {source}", "use a smaller network or image")
    if cost.work > MOST_WORK:
        raise AurevoirError(
            f"the graph of {source} takes {cost.work:.2g} multiply-adds an image, and at most {MOST_WORK:.2g} are run; "
            "use a smaller network or image"
        )


def graph_cost(model: onnx.ModelProto, shape: list[int], source: object, known: bool = True) -> Cost:
    """Return what one image costs; see `check_cost`."""
    inferred = Inferred(model, shape)
    image = model.graph.input[0].name
    sizes, of_images = {image: _bytes(inferred, image) or 0}, {image}
    constant = work = 0
    for node in model.graph.node:
        if any(name and name not in inferred.types for name in node.input):
            if known:
                raise _unknown(node, source)
            continue
        _check_integers(node, inferred, source)
        if not inferred.infer(node):
            if not known:
                continue
            raise AurevoirError(f"the graph of {source} has shapes that contradict each other at {_named(node)}")
        inferred.compute(node)
        depends = not of_images.isdisjoint(node.input)
        for name in filter(None, node.output):
            size = _bytes(inferred, name)
            if size is None and known:
                raise _unknown(node, source)
            sizes[name] = size or 0
            of_images.update([name] if depends else [])
            constant += 0 if depends else size or 0
        work += _work(node, inferred)
    return Cost(min(constant + _peak(model, sizes, of_images), _ENDLESS), min(work, _ENDLESS))


def _unknown(node: NodeProto, source: object) -> AurevoirError:
    return AurevoirError(f"the graph of {source} has a tensor whose size cannot be told in advance, of {_named(node)}")


def _named(node: NodeProto) -> str:
    return f"{node.op_type} node {next(filter(None, node.output), '')!r}"


def _bytes(inferred: Inferred, name: str) -> int | None:
    """Return the bytes of a tensor; None if its shape is not known or is no shape."""
    dims = inferred.shape(name)
    if dims is None or min(dims, default=0) < 0:
        return None
    kind = inferred.types[name].tensor_type.elem_type
    return prod(dims) * (_itemsize(kind) if kind else 8)


def _itemsize(kind: int) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):
        return 8


def _peak(model: onnx.ModelProto, sizes: dict[str, int], of_images: set[str]) -> int:
    """Return the most bytes alive at once where each tensor is freed after its last reader."""
    left = Counter(name for node in model.graph.node for name in node.input)
    left.update(value.name for value in model.graph.output)
    alive = peak = sum(sizes[value.name] for value in model.graph.input[:1])
    for node in model.graph.node:
        alive += sum(sizes.get(name, 0) for name in node.output if name in of_images)
        peak = max(peak, alive)
        for name in node.input:
            left[name] -= 1
            if not left[name] and name in of_images:
                alive -= sizes.get(name, 0)
    return peak


def _check_integers(node: NodeProto, inferred: Inferred, source: object) -> None:
    """Refuse lengths beyond 2^31, whose products overflow where shapes are computed in 64 bits."""
    given = [value for item in node.attribute for value in (item.i, *item.ints)]
    place = _SHAPES.get(node.op_type)
    if place is not None and place < len(node.input) and node.input[place] in inferred.values:
        given += [int(each) for each in inferred.values[node.input[place]].ravel()]
    beyond = [value for value in given if abs(value) >= LARGEST and value not in _ENDS]
    if beyond:
        raise AurevoirError(f"the graph of {source} gives {_named(node)} the length {beyond[0]}, beyond 2^31")


def _work(node: NodeProto, inferred: Inferred) -> int:
    """Return the multiply-adds of a node, or the elements that it touches."""
    inputs = [inferred.shape(name) or [] if name else [] for name in node.input]
    outputs = [inferred.shape(name) or [] for name in node.output if name]
    written = sum(map(prod, outputs))
    touched = written + sum(map(prod, inputs))
    return touched + written * _factor(node, inputs) if node.op_type not in _RECURRENT else touched * _steps(inputs)


def _factor(node: NodeProto, inputs: list[list[int]]) -> int:
    """Return the multiply-adds of one element that a node writes."""
    kind, first, second = node.op_type, *[*inputs, [], []][:2]
    if kind in _WEIGHTED:
        return prod(second[1:])
    if kind == "ConvTranspose":
        return prod(second[:1] + second[2:])
    if kind in ("MatMul", "Gemm"):
        return max([*first[-2:], 1])
    if kind == "Einsum":
        return _einsum_steps(node_attribute(node, "equation", b""), inputs)
    if kind in ("Attention", "DFT", "Det"):
        return max([size for shape in inputs for size in shape], default=1)
    window = [node_attribute(node, "size", 1)] if kind == "LRN" else node_attribute(node, "kernel_shape", [])
    return prod(map(abs, window))


def _einsum_steps(equation: bytes, inputs: list[list[int]]) -> int:
    """Return the product of the lengths of all indices of an equation: what a plain loop over them takes."""
    terms = equation.decode(errors="replace").replace(" ", "").partition("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        indices = term.replace(".", "")
        lengths |= dict(zip(indices, shape[len(shape) - len(indices) :], strict=False))
    return prod(lengths.values())


def _steps(inputs: Iterable[list[int]]) -> int:
    return max([*next(iter(inputs), []), 1])
