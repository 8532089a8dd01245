"""OpenVINO: the CPU's default. Runs fp32, int8, and bf16 where the processor has it."""

import threading
from functools import cache
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
import onnx

from ...calibration.offset import offset_around_concats
from . import Compiled

PACKAGE = "openvino"
INSTALL = "pip install openvino"


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def version() -> str:
    """Return the version of the library."""
    return package_version(PACKAGE)


@cache
def precisions() -> tuple[str, ...]:
    """Return the precisions that the CPU plugin runs natively on this processor."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "INT8": "int8"}
    return tuple(ours for theirs, ours in names.items() if theirs in capabilities)


def devices() -> tuple[str, ...]:
    """Return OpenVINO's devices here, in lower case."""
    return tuple(name.lower() for name in _core().available_devices)


def _body(precision: str) -> str:
    """Return what the layers run in that are not quantized: the narrowest float, for int8."""
    if precision == "int8":
        return "bf16" if "bf16" in precisions() else "f32"
    return {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[precision]


def compile(graph: bytes, precision: str, device: str = "cpu") -> Compiled:
    """Compile an ONNX graph; see the package's description."""
    core = _core()
    model = core.compile_model(
        core.read_model(offset_around_concats(onnx.load_from_string(graph)).SerializeToString()),
        device.upper(),
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _body(precision)},
    )
    local = threading.local()

    def run(images: np.ndarray) -> list[np.ndarray]:
        # A request holds the buffers of one call: one a thread.
        if not hasattr(local, "request"):
            local.request = model.create_infer_request()
        outputs = local.request.infer({0: np.ascontiguousarray(images)}, share_inputs=True, share_outputs=True)
        return [outputs[place] for place in range(len(outputs))]

    return run
