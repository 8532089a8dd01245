"""The time of each layer of an engine, from its runtime's own profiler, by the ONNX nodes that it was made of."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..calibration.graph.edit import prune
from ..errors import AurevoirError, UsageError
from ..saving import write_atomically
from .runtimes import builds_plans, check_device, check_precision, graph_runtime, plan_runtime, require_runtime
from .runtimes.base import LayerTime
from .runtimes.native_errors import native_errors

if TYPE_CHECKING:
    from .engine import Engine

_WORDS = {
    "f32": "float32",
    "float": "float32",
    "fp32": "float32",
    "f16": "float16",
    "half": "float16",
    "fp16": "float16",
    "bf16": "bfloat16",
    "double": "float64",
    "i8": "int8",
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
    "u1": "bits",
}


@dataclass(frozen=True)
class Layer:
    """A layer as executed.

    Attributes
    ----------
    name, type : str
        As the runtime names them.
    precision : str
        In words, such as ``int8`` or ``bfloat16``; ``unknown`` where the runtime does not report it.
    milliseconds : float
        Of one call: the mean.
    share, cumulative : float
        Of all layers' time, and with that of the slower layers.
    operation : str
        Which operators it computes, such as ``Conv + Clip``, without those that only change scales; else its type.
    nodes, operators : list of str
        The ONNX nodes that it was made of, several where the runtime fused them, and their operators.
    """

    name: str
    type: str
    precision: str
    milliseconds: float
    share: float
    cumulative: float
    operation: str
    nodes: list[str]
    operators: list[str]


@dataclass(frozen=True)
class Profile:
    """The layers of an engine, in the order of execution, and the time of whole calls.

    Attributes
    ----------
    batch, calls : int
    layers : list of Layer
    call_milliseconds : float
        The median of calls of the engine that were not profiled.
    """

    batch: int
    calls: int
    layers: list[Layer]
    call_milliseconds: float

    @property
    def layers_milliseconds(self) -> float:
        """The sum of all layers."""
        return sum(layer.milliseconds for layer in self.layers)

    def slowest(self) -> list[Layer]:
        """Return the layers, the slowest first."""
        return sorted(self.layers, key=lambda layer: -layer.milliseconds)

    def by(self, key: str) -> dict[str, float]:
        """Return the shares by ``type`` or ``precision``, the largest first."""
        found: dict[str, float] = {}
        for layer in self.layers:
            found[getattr(layer, key)] = found.get(getattr(layer, key), 0.0) + layer.share
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            **asdict(self),
            "layers_milliseconds": self.layers_milliseconds,
            "by_type": self.by("type"),
            "by_precision": self.by("precision"),
        }


def profile_engine(engine: "Engine", images: np.ndarray, calls: int) -> Profile:
    """Time the layers of an engine, and whole calls.

    Parameters
    ----------
    engine : Engine
        Its settings of threads and streams are left aside.
    images : uint8 array of shape (batch, height, width, channels)
        One batch. OpenVINO computes it in one request on all cores, and torch each node alone.
    calls : int

    Returns
    -------
    Profile

    Raises
    ------
    AurevoirError
        If the runtime cannot run the engine, or reports no times.
    """
    require_runtime(engine.runtime, engine.precision)
    check_device(engine.runtime, engine.device)
    if calls < 1 or not len(images):
        raise UsageError(f"{calls} calls of {len(images)} images cannot be profiled; give at least one of each")
    engine = engine.with_threads()
    with native_errors(engine.runtime, "profile"):
        times = list(_times(engine, images, calls))
    if not sum(each.seconds for each in times):
        raise AurevoirError(f"runtime {engine.runtime!r} reported no times; give a larger batch, or more calls")
    return Profile(
        len(images), calls, _layers(times, onnx.load_from_string(engine.graph)), _whole(engine, images, calls)
    )


def _times(engine: "Engine", images: np.ndarray, calls: int) -> Any:
    if builds_plans(engine.runtime):
        engine.build_plan()
        return plan_runtime(engine.runtime).layer_times(engine.plan or b"", engine.device, images, calls)
    graph = prune(onnx.load_from_string(engine.graph), engine.usual_outputs).SerializeToString()
    module, precision = graph_runtime(engine.runtime), check_precision(engine.precision)
    return module.layer_times(graph, precision, engine.device, images, calls)


def _whole(engine: "Engine", images: np.ndarray, calls: int) -> float:
    engine.run(images, engine.usual_outputs)
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        engine.run(images, engine.usual_outputs)
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds)


def _layers(times: Sequence[LayerTime], model: onnx.ModelProto) -> list[Layer]:
    total = sum(each.seconds for each in times)
    order = sorted(range(len(times)), key=lambda index: -times[index].seconds)
    sums = dict(zip(order, accumulate(times[index].seconds / total for index in order), strict=True))
    made_of = _made_of([each.nodes for each in times], model)
    return [
        Layer(
            name=each.name,
            type=each.type or "unknown",
            precision=in_words(each.precision),
            milliseconds=1000 * each.seconds,
            share=each.seconds / total,
            cumulative=sums[index],
            operation=" + ".join(_computing(made_of[index])) or each.type or "unknown",
            nodes=[node.name or node.output[0] for node in made_of[index]],
            operators=[node.op_type for node in made_of[index]],
        )
        for index, each in enumerate(times)
    ]


def _computing(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    return [node.op_type for node in nodes if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]


def _made_of(named: Sequence[Sequence[str]], model: onnx.ModelProto) -> list[list[onnx.NodeProto]]:
    """Return the ONNX nodes of each layer, in the order of the graph, of the names that the runtime says.

    Some name the last node of those that they fused: a node that no layer names, and that one layer alone reads, is
    part of that.
    """
    known, nodes = _nodes_by_name(model), list(model.graph.node)
    order = {id(node): place for place, node in enumerate(nodes)}
    owned = [{order[id(node)] for node in _original(names, known)} for names in named]
    owners = {place: index for index in reversed(range(len(owned))) for place in owned[index]}
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    for place in reversed(range(len(nodes))):
        reading = {owners.get(other) for name in nodes[place].output for other in readers.get(name, [])}
        if place not in owners and len(reading) == 1 and (owner := reading.pop()) is not None:
            owners[place] = owner
            owned[owner].add(place)
    return [[nodes[place] for place in sorted(places)] for places in owned]


def _nodes_by_name(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return nodes by their names and by the names of their outputs: runtimes use either."""
    found: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        for name in (node.name, *node.output):
            if name:
                found.setdefault(name, node)
    return found


def _original(names: Sequence[str], known: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes of some names, in their order and once each.

    A runtime that fuses or splits a node makes a name of it: the longest name of a node in there counts.
    """
    found: dict[int, onnx.NodeProto] = {}
    for name in names:
        node = known.get(name)
        if node is None:
            within = max((each for each in known if len(each) > _SHORTEST and each in name), key=len, default=None)
            node = None if within is None else known[within]
        if node is not None:
            found.setdefault(id(node), node)
    return list(found.values())


_SHORTEST = 3
"""Letters of a name that is searched for inside others, at least."""


def in_words(precision: str | None) -> str:
    """Return a runtime's name of a data type as ONNX names it; one that is not known, as it is."""
    if not precision:
        return "unknown"
    words = precision.removeprefix("tensor").replace("/", " ").strip("()").lower().split()
    known = {**_WORDS, **{word: word for word in _WORDS.values()}}
    return next((known[word] for word in reversed(words) if word in known), precision)


def write_trace(profile: Profile, path: str | Path) -> None:
    """Write the layers of one call, end to end, in the trace event format that Chrome and Perfetto read."""
    starts = accumulate((1000 * layer.milliseconds for layer in profile.layers), initial=0.0)
    events = [
        {
            "name": layer.name,
            "cat": layer.type,
            "ph": "X",
            "ts": start,
            "dur": 1000 * layer.milliseconds,
            "pid": 0,
            "tid": 0,
            "args": {"precision": layer.precision, "share": layer.share, "nodes": layer.nodes},
        }
        for start, layer in zip(starts, profile.layers, strict=False)
    ]
    content = {"traceEvents": events, "displayTimeUnit": "ms"}
    write_atomically(Path(path), json.dumps(content).encode())


def plot_profile(profile: Profile, title: str, path: str | Path, most: int = 25) -> None:
    """Draw the slowest layers as bars, coloured by precision, into a file whose ending names its format."""
    from matplotlib.figure import Figure

    from ..calibration.fidelity import save_figure

    layers = profile.slowest()[:most]
    shown = [name for name in profile.by("precision") if any(layer.precision == name for layer in layers)]
    figure = Figure(figsize=(9, 1.6 + 0.24 * len(layers)), layout="constrained")
    axes = figure.subplots()
    for name in shown:
        own = [(row, layer) for row, layer in enumerate(layers) if layer.precision == name]
        axes.barh([row for row, _ in own], [layer.milliseconds for _, layer in own], label=name, height=0.75)
    axes.set_yticks(range(len(layers)), [label_of(layer, 60) for layer in layers], fontsize=7)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlabel(f"ms of one call of {profile.batch} images")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    part = sum(layer.share for layer in layers)
    axes.set_title(f"{title}\n{len(layers)} of {len(profile.layers)} layers: {part:.0%} of the time", fontsize=9)
    save_figure(figure, path)


def label_of(layer: Layer, longest: int) -> str:
    """Return what a layer is made of and its name, the middle left out where that is long."""
    text = f"{layer.operation}: {layer.name}"
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"
