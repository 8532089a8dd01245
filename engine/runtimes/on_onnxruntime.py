"""ONNX Runtime on the CPU, the reference for numerics: fp32, and int8 from the Q/DQ graph."""

from importlib.metadata import version as package_version

import numpy as np
import onnx

from ...calibration.graph.edit import node_attribute
from ...calibration.graph.windows import POOLS, is_undecided, make_windows_explicit
from .base import Compiled, Precision, refusal

PACKAGE = "onnxruntime"
INSTALL = "pip install 'aurevoir[onnxruntime]'"

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
    compile(graph, "fp32")


def _pads_a_whole_window(node: onnx.NodeProto) -> bool:
    kernel, pads = node_attribute(node, "kernel_shape", ()), node_attribute(node, "pads", ())
    return any(side >= size for side, size in zip(pads, [*kernel, *kernel], strict=False))


def compile(graph: bytes, precision: Precision, device: str = "cpu") -> Compiled:
    """Open a session on an ONNX graph; see `base.GraphRuntime`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too
    model = make_windows_explicit(onnx.load_from_string(graph))
    for node in model.graph.node:
        if node.op_type == "LRN" and node_attribute(node, "size", 1) % 2 == 0:
            raise refusal("onnxruntime", "'torch'", f"the even size of LRN node {node.name!r}")
        if node.op_type in POOLS and _pads_a_whole_window(node):
            raise refusal("onnxruntime", _OTHERS, f"padding by a kernel or more of {node.op_type} node {node.name!r}")
        if is_undecided(node):
            raise refusal("onnxruntime", _OTHERS, f"output_shape or auto_pad of ConvTranspose node {node.name!r}")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs: list[np.ndarray] = session.run(None, {"images": images})
        return outputs

    return run
