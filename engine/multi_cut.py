"""Join several cuts of one network into an engine that outputs the concatenated bits of all."""

from collections.abc import Sequence
from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from ..calibration.graph.edit import digest, prune
from ..kernels.bits import packed_length
from .engine import Engine


def join(engines: Sequence[Engine]) -> tuple[Engine, list[slice]]:
    """Return one engine that computes the bits of all, running shared nodes once, and the columns of each.

    Parameters
    ----------
    engines : sequence of Engine
        Engines of the same network, precision and runtime, from `export_cuts`.

    Returns
    -------
    engine : Engine
        Its ``bits`` are the concatenated packed bits of all engines; it has no features and no channel means.
    columns : list of slice
        Columns of each engine's bits, in bytes.
    """
    widths = [packed_length(engine.features) for engine in engines]
    ends = [sum(widths[: index + 1]) for index in range(len(widths))]
    graph = _union([prune(onnx.load_from_string(engine.graph), ["bits"]) for engine in engines], ends[-1])
    last = engines[-1]
    cuts = ", ".join(engine.manifest.cut for engine in engines)
    manifest = replace(last.manifest, cut=cuts, graph=digest(graph), features=8 * ends[-1], pooled=0)
    joined = Engine(manifest, graph.SerializeToString(), last.table, last.device)
    return joined, [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def _union(models: Sequence[onnx.ModelProto], width: int) -> onnx.ModelProto:
    """Return the union of the graphs without duplicate nodes, with their outputs concatenated."""
    union = onnx.ModelProto()
    union.CopyFrom(models[0])
    graph = union.graph
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    known: dict[tuple[object, ...], list[str]] = {}
    outputs = [_add(graph, model.graph, index, known) for index, model in enumerate(models)]
    graph.node.append(helper.make_node("Concat", outputs, ["bits"], axis=1))
    graph.output.append(helper.make_tensor_value_info("bits", TensorProto.UINT8, ["batch", width]))
    onnx.checker.check_model(union)
    return union


def _add(union: onnx.GraphProto, graph: onnx.GraphProto, index: int, known: dict[tuple[object, ...], list[str]]) -> str:
    """Add the nodes of a graph that a union does not contain; return the name of the graph's output in it."""
    names = {"": "", **{value.name: value.name for value in graph.input}}
    for tensor in graph.initializer:
        unnamed = onnx.TensorProto()
        unnamed.CopyFrom(tensor)
        unnamed.name = ""
        key = ("constant", unnamed.SerializeToString(deterministic=True))
        if key not in known:
            known[key] = [f"{tensor.name}/{index}"]
            unnamed.name = known[key][0]
            union.initializer.append(unnamed)
        names[tensor.name] = known[key][0]
    for node in graph.node:
        inputs = [names[name] for name in node.input]
        attributes = sorted(item.SerializeToString(deterministic=True) for item in node.attribute)
        key = (node.domain, node.op_type, *inputs, *attributes)
        if key not in known:
            known[key] = [f"{name}/{index}" if name else "" for name in node.output]
            added = union.node.add()
            added.CopyFrom(node)
            added.name = ""
            del added.input[:], added.output[:]
            added.input.extend(inputs)
            added.output.extend(known[key])
        names.update(zip(node.output, known[key], strict=True))
    joined: str = names[graph.output[0].name]
    return joined
