"""ONNX Runtime on the CPU, the reference for numerics: fp32, and int8 from the Q/DQ graph."""

from importlib.metadata import version as package_version

import numpy as np

from .base import Compiled, Precision

PACKAGE = "onnxruntime"
INSTALL = "pip install 'aurevoir[onnxruntime]'"


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


def compile(graph: bytes, precision: Precision, device: str = "cpu") -> Compiled:
    """Open a session on an ONNX graph; see `base.GraphRuntime`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs: list[np.ndarray] = session.run(None, {"images": images})
        return outputs

    return run
