"""OpenVINO, the default on CPUs: fp32, int8, and bf16 if the processor supports it."""

import threading
from contextlib import suppress
from functools import cache
from importlib.metadata import version as package_version
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx

from ...calibration.graph.edit import chain_concats
from ...calibration.graph.openvino_fixes import as_openvino_reads, exact_in_bf16, misread_by_openvino
from ...saving import explained, scratch
from .base import FLOAT32_PREFIX, Compiled, Layer, Precision, refusal
from .gpu_run import check_rows

PACKAGE = "openvino"
INSTALL = "pip install openvino"

_MARK = ElementTree.fromstring('<rt_info><attribute name="precise" version="0"/></rt_info>')

CHUNK = 4
"""Images per inference request."""
HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "bf16"}
"""The INFERENCE_PRECISION_HINT of each precision; for int8 bf16 only where the processor has it, else f32."""
MAX_CHUNKED_OUTPUTS = 3


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
    return tuple(ours for theirs, ours in names.items() if theirs in capabilities)


def devices() -> tuple[str, ...]:
    """Return OpenVINO's devices on this machine, in lower case."""
    return tuple(name.lower() for name in _core().available_devices)


def inference_precision(precision: Precision) -> str:
    """Return the float type of unquantized layers; for int8 the narrowest one."""
    hint = HINTS[precision]
    return "f32" if precision == "int8" and "bf16" not in precisions() else hint


def compile(graph: bytes, precision: Precision, device: str = "cpu") -> Compiled:
    """Compile an ONNX graph; see `base.GraphRuntime`."""
    return compile_model(read(graph, precision), precision, device)


def check(graph: bytes) -> None:
    """Raise AurevoirError if OpenVINO cannot read a graph or would misread it."""
    read(graph)


def read(graph: bytes, precision: Precision = "fp32") -> Any:
    """Return an ONNX graph as an ``openvino.Model``; what OpenVINO cannot read or would misread is an AurevoirError."""
    model = as_openvino_reads(onnx.load_from_string(graph))
    if inference_precision(precision) != "f32":
        exact_in_bf16(model, FLOAT32_PREFIX)
    if misread := misread_by_openvino(model):
        raise refusal("openvino", "'torch'" if "LRN" in misread else "'onnxruntime'", misread)
    # OpenVINO copies each input of a Concat pixel by pixel: few long inputs are faster than many short ones.
    chain_concats(model)
    return _keep_float32(_core().read_model(model.SerializeToString()))


def _keep_float32(model: Any) -> Any:
    """Return a model in which what follows a classifier's features is marked to stay in float32."""
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
    """Return the names of a classifier's own nodes, and of what is computed from them."""
    kept: set[str] = set()
    for node in model.get_ordered_ops():
        read = {value.get_source_output().get_node().get_friendly_name() for value in node.inputs()}
        if node.get_friendly_name().startswith(FLOAT32_PREFIX) or read & kept:
            kept.add(node.get_friendly_name())
    return kept


def compile_model(model: Any, precision: Precision, device: str = "cpu") -> Compiled:
    """Compile an ``openvino.Model`` on its first run.

    A single image runs on all cores. Several run concurrently, in chunks of `CHUNK` images on about one
    stream per core: activations stay in the caches, and cores wait less for each other.
    """
    # Graphs with many outputs observe tensors, and copying their chunks together would be slow.
    chunked = len(model.outputs) <= MAX_CHUNKED_OUTPUTS
    models: dict[str, Any] = {}
    lock, local = threading.Lock(), threading.local()

    def requests(hint: str) -> list[Any]:
        # A request holds the buffers of a call, so each thread has its own.
        if not hasattr(local, hint):
            with lock:
                if hint not in models:
                    models[hint] = _compiled(model, precision, device, hint)
            count = models[hint].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            setattr(local, hint, [models[hint].create_infer_request() for _ in range(count)])
        found: list[Any] = getattr(local, hint)
        return found

    def run(images: np.ndarray) -> list[np.ndarray]:
        images = np.ascontiguousarray(images)
        if len(images) > 1 and chunked:
            return _run_chunks(requests("THROUGHPUT"), images)
        outputs = requests("LATENCY")[0].infer({0: images}, share_inputs=True, share_outputs=True)
        return [outputs[index] for index in range(len(outputs))]

    return run


def _run_chunks(requests: list[Any], images: np.ndarray) -> list[np.ndarray]:
    """Run chunks of images on several requests concurrently; return the joined outputs."""
    chunk = min(CHUNK, -(-len(images) // len(requests)))
    starts = range(0, len(images), chunk)
    results: list[np.ndarray] = []

    def collect(index: int) -> None:
        request = requests[index % len(requests)]
        request.wait()
        for number, tensor in enumerate(request.output_tensors):
            if len(results) <= number:
                results.append(np.empty((len(images), *tensor.data.shape[1:]), tensor.data.dtype))
            check_rows(len(tensor.data), min(chunk, len(images) - starts[index]))
            results[number][starts[index] : starts[index] + chunk] = tensor.data

    try:
        for index, start in enumerate(starts):
            if index >= len(requests):
                collect(index - len(requests))
            requests[index % len(requests)].start_async({0: images[start : start + chunk]}, share_inputs=True)
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
        info = {key: layer.rt_info[key].astype(str) for key in ("layerType", "runtimePrecision", "primitiveType")}
        if info["layerType"] not in ("Input", "Const", "Output"):
            found.append(
                {
                    "name": layer.get_friendly_name(),
                    "type": info["layerType"],
                    "precision": info["runtimePrecision"],
                    "kernel": info["primitiveType"],
                }
            )
    return found


def _compiled(model: Any, precision: Precision, device: str, hint: str) -> Any:
    options = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": inference_precision(precision)}
    return _core().compile_model(model, device.upper(), options)
