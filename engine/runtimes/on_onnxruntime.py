"""ONNX Runtime on the CPU, the reference for numerics: fp32, and int8 from the Q/DQ graph."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...calibration.graph.edit import node_attribute
from ...calibration.graph.windows import POOLS, is_undecided, make_windows_explicit
from ...limits import processors
from .base import WARM_RUNS, Compiled, LayerTime, Precision, refusal

PACKAGE = "onnxruntime"
INSTALL = "pip install 'aurevoir[onnxruntime]'"

# Read at import: official builds report their use, and leave a file in the folder of temporary files.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

SETTINGS: tuple[str, ...] = ("threads",)
KEEPS = False
CALLS = 1
_OTHERS = "'openvino' or 'torch'"


def version() -> str:
    """Return the version of the library."""
    return package_version(PACKAGE)


def precisions() -> tuple[Precision, ...]:
    """Return the precisions with native CPU kernels."""
    return ("fp32", "int8")


def devices() -> tuple[str, ...]:
    """Return ``cpu``, the only supported device."""
    return ("cpu",)


layers = None


def check(graph: bytes) -> None:
    """Raise AurevoirError if ONNX Runtime opens no session on a graph."""
    _session(graph)


def _pads_a_whole_window(node: onnx.NodeProto) -> bool:
    kernel, pads = node_attribute(node, "kernel_shape", ()), node_attribute(node, "pads", ())
    return any(side >= size for side, size in zip(pads, [*kernel, *kernel], strict=False))


def compile(
    graph: bytes, precision: Precision, device: str = "cpu", settings: Mapping[str, int] | None = None
) -> Compiled:
    """Open a session on an ONNX graph; see `base.GraphRuntime`."""
    return _runner(_session(graph, settings))


def compile_plain(graph: bytes) -> Compiled:
    """Open a session that computes a graph node by node as written: Q/DQ pairs round, and all else is float32."""
    return _runner(_session(graph, plain=True))


def _runner(session: Any) -> Compiled:
    def run(images: np.ndarray, into: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        outputs: list[np.ndarray] = session.run(None, {"images": images})
        return outputs

    return run


def _session(
    graph: bytes, settings: Mapping[str, int] | None = None, profile: str | None = None, plain: bool = False
) -> Any:
    """Open a session; with `profile`, the beginning of a file name, it records the time of every node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # errors are raised too
    # By itself it starts a thread for each core of the machine, and they wait for each other by spinning.
    limit = most if (most := processors()) < (os.cpu_count() or 1) else 0
    options.intra_op_num_threads = (settings or {}).get("threads", limit)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    model = make_windows_explicit(onnx.load_from_string(graph))
    for node in model.graph.node:
        if node.op_type == "LRN" and node_attribute(node, "size", 1) % 2 == 0:
            raise refusal("onnxruntime", "'torch'", f"the even size of LRN node {node.name!r}")
        if node.op_type in POOLS and _pads_a_whole_window(node):
            raise refusal("onnxruntime", _OTHERS, f"padding by a kernel or more of {node.op_type} node {node.name!r}")
        if is_undecided(node):
            raise refusal("onnxruntime", _OTHERS, f"output_shape or auto_pad of ConvTranspose node {node.name!r}")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def layer_times(graph: bytes, precision: Precision, device: str, images: np.ndarray, calls: int) -> Iterator[LayerTime]:
    """Yield the time of every node of the optimized graph; see `base.GraphRuntime`."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(graph, profile=str(Path(folder, "profile")))
        for _ in range(WARM_RUNS + calls):
            session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            runs.setdefault(event["name"].removesuffix(_KERNEL), []).append(event)
    for name, each in runs.items():
        about, seconds = each[0]["args"], sum(event["dur"] for event in each[-calls:]) / calls / 1e6
        types = [next(iter(shape)) for shape in about.get("output_type_shape", [])]
        yield LayerTime(name, about.get("op_name"), next(iter(types), None), seconds, (name,))


_KERNEL = "_kernel_time"
