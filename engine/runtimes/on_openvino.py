"""OpenVINO, the default on CPUs: fp32, int8, and bf16 if the processor supports it."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version as package_version
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx

from ...calibration.graph.edit import chain_concats
from ...calibration.graph.openvino_fixes import (
    as_openvino_reads,
    exact_in_bf16,
    misread_by_openvino,
    omit_zero_points,
    raise_averages,
)
from ...kept import Store, key_of
from ...limits import affinity, processors
from ...saving import explained, scratch
from .base import FLOAT32_PREFIXES, WARM_RUNS, Compiled, Layer, LayerTime, Precision, refusal
from .gpu_run import check_rows, write_rows
from .processor import isa_limit
from .turns import Turns

PACKAGE = "openvino"
INSTALL = "pip install openvino"

_MARK = ElementTree.fromstring('<rt_info><attribute name="precise" version="0"/></rt_info>')

CHUNK = 4
"""Images per inference request."""
HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "bf16"}
"""The INFERENCE_PRECISION_HINT of each precision; for int8 bf16 only where the processor has it, else f32."""
MAX_CHUNKED_OUTPUTS = 3

_SETTINGS = {"threads": "INFERENCE_NUM_THREADS", "streams": "NUM_STREAMS"}
SETTINGS = tuple(_SETTINGS)
KEEPS = True
CALLS = 2
"""While the last chunks of a call run on some of the streams, the others compute the next call's."""


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def version() -> str:
    """Return the version of the library."""
    return package_version(PACKAGE)


@cache
def precisions() -> tuple[Precision, ...]:
    """Return the precisions that the CPU plugin supports natively on this processor."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names: dict[str, Precision] = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "INT8": "int8"}
    # It reports bf16 of a processor under a limit where its kernels then return nan.
    limited = isa_limit() not in (None, "avx512_core")
    return tuple(ours for theirs, ours in names.items() if theirs in capabilities and not (limited and ours == "bf16"))


@cache
def devices() -> tuple[str, ...]:
    """Return OpenVINO's devices on this machine, in lower case."""
    # It loads and unloads the plugin of a device that is not there, which glibc 2.36 may not survive beside threads.
    return tuple(name.lower() for name in _core().available_devices)


def inference_precision(precision: Precision) -> str:
    """Return the float type of unquantized layers; for int8 the narrowest one."""
    hint = HINTS[precision]
    return "f32" if precision == "int8" and "bf16" not in precisions() else hint


def compile(
    graph: bytes,
    precision: Precision,
    device: str = "cpu",
    settings: Mapping[str, int] | None = None,
    store: Store | None = None,
) -> Compiled:
    """Compile an ONNX graph; see `base.GraphRuntime`."""
    if store is None or device != "cpu":
        return compile_model(read(graph, precision), precision, device, settings)
    outputs = len(onnx.load_from_string(graph).graph.output)
    part = [hashlib.sha256(graph).hexdigest(), precision, settings or {}]

    def make(hint: str) -> Any:
        key = key_of("compiled", *part, hint)
        if (entry := store.get("compiled", key)) is not None:
            # What OpenVINO does not take is compiled again.
            with suppress(RuntimeError):
                return _core().import_model(entry, device.upper(), _options(precision, device, hint, settings))
        made = _compiled(read(graph, precision), precision, device, hint, settings)
        # What it cannot write is compiled anew each time.
        with suppress(RuntimeError, MemoryError):
            store.put("compiled", key, made.export_model().getvalue())
        return made

    return _runner(make, outputs)


def check(graph: bytes) -> None:
    """Raise AurevoirError if OpenVINO cannot read a graph or would misread it."""
    read(graph)


def read(graph: bytes, precision: Precision = "fp32") -> Any:
    """Return an ONNX graph as an ``openvino.Model``; what OpenVINO cannot read or would misread is an AurevoirError."""
    model = as_openvino_reads(onnx.load_from_string(graph), FLOAT32_PREFIXES)
    if inference_precision(precision) != "f32":
        exact_in_bf16(model, FLOAT32_PREFIXES)
    if misread := misread_by_openvino(model):
        raise refusal("openvino", "'torch'" if "LRN" in misread else "'onnxruntime'", misread)
    # OpenVINO copies each input of a Concat pixel by pixel: few long inputs are faster than many short ones.
    chain_concats(model)
    raise_averages(model)
    omit_zero_points(model)
    return _keep_float32(_with_constant_shapes(_core().read_model(model.SerializeToString())))


def _with_constant_shapes(model: Any) -> Any:
    """Write known shapes as constants, in place: OpenVINO's reader computes that of each bias by seven nodes.

    Passes over fewer nodes compile a DenseNet169 in int8 about a sixth faster, together with `omit_zero_points`.
    """
    import openvino

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape" or node.get_output_partial_shape(0).is_dynamic:
            continue
        if node.input_value(1).get_node().get_type_name() != "Constant":
            shape = openvino.op.Constant(np.array(node.get_output_shape(0), "int64"))
            node.input(1).replace_source_output(shape.output(0))
    return model


def _keep_float32(model: Any) -> Any:
    """Return a model in which a classifier's own nodes and those of channel means are marked to stay in float32."""
    import openvino

    kept = _float32_names(model)
    if not kept:
        return model
    # Python cannot set the mark: only a file can.
    with scratch("float32.xml", "float32.bin") as folder:
        path = folder / "float32.xml"
        with explained(folder):
            openvino.save_model(model, path, compress_to_fp16=False)
            tree = ElementTree.parse(path)
            for layer in tree.iterfind("layers/layer"):
                if layer.get("name") in kept and layer.get("type") != "Result":
                    layer.insert(0, _MARK)
            tree.write(path)
        return _core().read_model(path)


def _float32_names(model: Any) -> set[str]:
    """Return the names of the nodes that stay in float32, and of what is computed from them."""
    kept: set[str] = set()
    for node in model.get_ordered_ops():
        read = {value.get_source_output().get_node().get_friendly_name() for value in node.inputs()}
        if node.get_friendly_name().startswith(FLOAT32_PREFIXES) or read & kept:
            kept.add(node.get_friendly_name())
    return kept


def compile_model(
    model: Any, precision: Precision, device: str = "cpu", settings: Mapping[str, int] | None = None
) -> Compiled:
    """Compile an ``openvino.Model`` on its first run; see `_runner`."""
    return _runner(lambda hint: _compiled(model, precision, device, hint, settings), len(model.outputs))


def _runner(make: Callable[[str], Any], outputs: int) -> Compiled:
    """Return a function that runs what `make` compiles for a performance hint when that is first needed.

    A single image runs on all cores. Several run concurrently, in chunks of `CHUNK` images on about one
    stream per core: activations stay in the caches, and cores wait less for each other.
    """
    # Graphs with many outputs observe tensors, and copying their chunks together would be slow.
    chunked = outputs <= MAX_CHUNKED_OUTPUTS
    models: dict[str, Any] = {}
    turns = {hint: Turns() for hint in ("LATENCY", "THROUGHPUT")}
    lock, local = threading.Lock(), threading.local()

    def requests(hint: str, kept: str) -> list[Any]:
        # A request holds the buffers of a call, so each thread has its own; and it goes on writing where it wrote
        # last, so that those which write into a caller's memory are never run without memory given anew.
        if not hasattr(local, hint + kept):
            with lock:
                if hint not in models:
                    models[hint] = make(hint)
            count = models[hint].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            # OpenVINO 2026.4 has crashed in here while another thread computed with the same graph.
            with turns[hint].alone():
                setattr(local, hint + kept, [models[hint].create_infer_request() for _ in range(count)])
        found: list[Any] = getattr(local, hint + kept)
        return found

    def run(images: np.ndarray, into: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        images, kept = np.ascontiguousarray(images), "" if into is None else "into"
        if len(images) > 1 and (chunked or into is not None):
            own = requests("THROUGHPUT", kept)
            with turns["THROUGHPUT"].together():
                return _run_chunks(own, images, into)
        request = requests("LATENCY", kept)[0]
        with turns["LATENCY"].together():
            if into is not None:
                _write_into(request, into)
            outputs = request.infer({0: images}, share_inputs=True, share_outputs=True)
        return [outputs[index] for index in range(len(outputs))]

    return run


def _write_into(request: Any, arrays: Sequence[np.ndarray]) -> None:
    """Let the next run of a request write its outputs into arrays."""
    import openvino

    for index, array in enumerate(arrays):
        try:
            request.set_output_tensor(index, openvino.Tensor(array, shared_memory=True))
        except RuntimeError:
            rows = request.model_outputs[index].partial_shape[0]
            check_rows(rows.get_length() if rows.is_static else len(array), len(array))
            raise


def _run_chunks(requests: list[Any], images: np.ndarray, into: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """Run chunks of images on several requests concurrently; return the joined outputs."""
    chunk = min(CHUNK, -(-len(images) // len(requests)))
    starts = range(0, len(images), chunk)
    results: list[np.ndarray] = [] if into is None else list(into)

    def collect(index: int) -> None:
        request, which = requests[index % len(requests)], slice(starts[index], starts[index] + chunk)
        request.wait()
        tensors = [tensor.data for tensor in request.output_tensors]
        if not results:
            results.extend(np.empty((len(images), *data.shape[1:]), data.dtype) for data in tensors)
        for result, data in zip(results, tensors, strict=True):
            write_rows(result[which], data)

    try:
        for index, start in enumerate(starts):
            if index >= len(requests):
                collect(index - len(requests))
            request = requests[index % len(requests)]
            if into is not None:
                _write_into(request, [array[start : start + chunk] for array in into])
            request.start_async({0: images[start : start + chunk]}, share_inputs=True)
        for index in range(max(0, len(starts) - len(requests)), len(starts)):
            collect(index)
    except BaseException:
        # What still runs reads the images, and would be busy at the next call.
        for request in requests:
            with suppress(Exception):
                request.wait()
        raise
    return results


def layers(graph: bytes, precision: Precision, device: str = "cpu") -> list[Layer]:
    """Return name, type and precision of every executed layer, except constants."""
    found: list[Layer] = []
    for layer in _compiled(read(graph, precision), precision, device, "LATENCY").get_runtime_model().get_ordered_ops():
        info = _execution(layer)
        if info["layerType"] not in _NOT_RUN:
            found.append(
                {
                    "name": layer.get_friendly_name(),
                    "type": info["layerType"],
                    "precision": info["runtimePrecision"],
                    "kernel": info["primitiveType"],
                }
            )
    return found


def layer_times(graph: bytes, precision: Precision, device: str, images: np.ndarray, calls: int) -> Iterator[LayerTime]:
    """Yield the time of every layer that takes a microsecond or more; see `base.GraphRuntime`.

    The whole batch is computed in one request on all cores.
    """
    compiled = _compiled(read(graph, precision), precision, device, "LATENCY", profiled=True)
    request = compiled.create_infer_request()

    def total(runs: int) -> dict[str, float]:
        # OpenVINO reports the mean of all runs of a request so far, in microseconds.
        for _ in range(runs):
            request.infer({0: images}, share_inputs=True)
        done.append(runs)
        return {layer.node_name: layer.real_time.total_seconds() * sum(done) for layer in request.profiling_info}

    done: list[int] = []
    before, after = total(WARM_RUNS), total(calls)
    for layer in compiled.get_runtime_model().get_ordered_ops():
        name, info = layer.get_friendly_name(), _execution(layer)
        if info["layerType"] not in _NOT_RUN and after.get(name):
            seconds = max(0.0, after.get(name, 0.0) - before.get(name, 0.0)) / calls
            nodes = tuple(filter(None, info["originalLayersNames"].split(",")))
            yield LayerTime(name, info["layerType"], info["runtimePrecision"], seconds, nodes)


_NOT_RUN = ("Input", "Const", "Output")


def _execution(layer: Any) -> dict[str, str]:
    """Return what a layer of a runtime model says of its execution."""
    keys = ("layerType", "runtimePrecision", "primitiveType", "originalLayersNames")
    return {key: layer.rt_info[key].astype(str) if key in layer.rt_info else "" for key in keys}


def _compiled(
    model: Any,
    precision: Precision,
    device: str,
    hint: str,
    settings: Mapping[str, int] | None = None,
    profiled: bool = False,
) -> Any:
    options = _options(precision, device, hint, settings) | ({"PERF_COUNT": True} if profiled else {})
    return _core().compile_model(model, device.upper(), options)


def _options(precision: Precision, device: str, hint: str, settings: Mapping[str, int] | None) -> dict[str, Any]:
    options: dict[str, Any] = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": inference_precision(precision)}
    given = {_SETTINGS[name]: value for name, value in (settings or {}).items()}
    # It looks at the affinity, and not at a quota, which more threads would use up in bursts.
    if device == "cpu" and (most := processors()) < affinity():
        given.setdefault("INFERENCE_NUM_THREADS", most)
    # Threads are pinned to the first processors, and those of every process of a machine would be to the same ones.
    unpinned = {"ENABLE_CPU_PINNING": False} if "INFERENCE_NUM_THREADS" in given else {}
    return options | given | unpinned
