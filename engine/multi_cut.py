"""Join several cuts of one network into an engine that outputs the concatenated bits and channel means of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from ..calibration.graph.edit import POOLED, POOLED_PREFIX, digest, prune
from ..kernels.bits import packed_length
from .engine import Engine
from .smoke import first_joined
from .spec import EngineSpec

if TYPE_CHECKING:
    from .build import EngineBuilder


@dataclass(frozen=True)
class JoinedCuts:
    """Engines of several cuts as one, which runs what they share once.

    Attributes
    ----------
    engine : Engine
        Its ``bits`` and ``pooled`` are those of all engines, one after the other; it has no features.
    bits : list of slice
        Columns of each engine's bits, in bytes.
    pooled : list of slice
        Columns of each engine's channel means.
    layers : list of tuple of int
        See `Manifest.pooled_layers`, of each engine.
    """

    engine: Engine
    bits: list[slice]
    pooled: list[slice]
    layers: list[tuple[int, ...]]


def draft_cuts(builders: "Sequence[EngineBuilder]", spec: EngineSpec) -> tuple[list[Engine], JoinedCuts]:
    """Return the engines of several cuts as assembled, before they are checked and measured, and all of them as one.

    Parameters
    ----------
    builders : sequence of EngineBuilder
        Of `EngineBuilder.at_cuts`.
    spec : EngineSpec
        All cuts run on the runtime of the deepest, the last one.

    Raises
    ------
    AurevoirError
        If the joined engine crashes, hangs or fails on its first run.
    """
    deepest = builders[-1].draft(spec)
    spec = replace(spec, runtime=deepest.manifest.runtime)
    engines = [*(each.draft(spec) for each in builders[:-1]), deepest]
    joined = join(engines)
    joined.engine.keep_compiled(builders[-1].cache)
    if spec.smoke:
        first_joined(joined.engine)
    return engines, joined


def join(engines: Sequence[Engine]) -> JoinedCuts:
    """Return one engine of the bits and channel means of all.

    Parameters
    ----------
    engines : sequence of Engine
        Engines of the same network, precision and runtime, from `export_cuts`.
    """
    bits = _columns([packed_length(engine.features) for engine in engines])
    pooled = _columns([engine.manifest.pooled for engine in engines])
    widths = {"bits": (TensorProto.UINT8, bits[-1].stop), POOLED: (TensorProto.FLOAT, pooled[-1].stop)}
    graph = _union([prune(onnx.load_from_string(engine.graph), list(widths)) for engine in engines], widths)
    last = engines[-1]
    manifest = replace(
        last.manifest,
        cut=", ".join(engine.manifest.cut for engine in engines),
        graph=digest(graph),
        features=8 * bits[-1].stop,
        pooled=pooled[-1].stop,
        pooled_layers=(),
    )
    layers = [each.manifest.pooled_layers for each in engines]
    return JoinedCuts(Engine(manifest, graph.SerializeToString(), last.table, last.device), bits, pooled, layers)


def _columns(widths: Sequence[int]) -> list[slice]:
    ends = [sum(widths[: index + 1]) for index in range(len(widths))]
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def _union(models: Sequence[onnx.ModelProto], widths: Mapping[str, tuple[int, int]]) -> onnx.ModelProto:
    """Return the union of the graphs without duplicate nodes, with outputs of the same name concatenated."""
    union = onnx.ModelProto()
    union.CopyFrom(models[0])
    graph = union.graph
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    known: dict[tuple[object, ...], list[str]] = {}
    parts = [_add(graph, model.graph, index, known) for index, model in enumerate(models)]
    for output, (kind, width) in widths.items():
        inputs, name = [part[output] for part in parts], f"{POOLED_PREFIX}all" if output == POOLED else ""
        graph.node.append(helper.make_node("Concat", inputs, [output], name=name, axis=1))
        graph.output.append(helper.make_tensor_value_info(output, kind, ["batch", width]))
    onnx.checker.check_model(union)
    return union


def _add(
    union: onnx.GraphProto, graph: onnx.GraphProto, index: int, known: dict[tuple[object, ...], list[str]]
) -> dict[str, str]:
    """Add the nodes of a graph that a union does not contain; return the names of the graph's outputs in it."""
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
            # Runtimes tell the nodes of channel means by their names.
            added.name = f"{node.name}/{index}" if node.name.startswith(POOLED_PREFIX) else ""
            del added.input[:], added.output[:]
            added.input.extend(inputs)
            added.output.extend(known[key])
        names.update(zip(node.output, known[key], strict=True))
    return {value.name: names[value.name] for value in graph.output}
