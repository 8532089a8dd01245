"""torch on CPU and CUDA: fp32, bf16, and on CUDA fp16, from the same ONNX graph."""

from importlib.metadata import version as package_version
from typing import Any

import onnx

from ...calibration.graph.float16 import has_float16_body
from .base import Compiled, Precision
from .device import open_device
from .gpu_run import GpuRunner

PACKAGE = "torch"
INSTALL = "pip install 'aurevoir[torch]'"


def version() -> str:
    """Return the version of the library."""
    return package_version(PACKAGE)


def precisions() -> tuple[Precision, ...]:
    """Return the precisions that torch supports on this machine; it has no int8 kernels for the Q/DQ graph."""
    import torch

    return ("fp32", "fp16", "bf16") if torch.cuda.is_available() else ("fp32", "bf16")


def devices() -> tuple[str, ...]:
    """Return the CUDA devices, if any, and ``cpu``."""
    import torch

    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return (*(["cuda"] if gpus else []), *gpus, "cpu")


layers = None


def check(graph: bytes) -> None:
    """Raise AurevoirError if an operator of a graph, or an attribute or input of one, is not supported."""
    from .torch_graph import TorchGraph

    TorchGraph(onnx.load_from_string(graph), None)


def compile(graph: bytes, precision: Precision, device: str = "cpu") -> Compiled | GpuRunner:
    """Load an ONNX graph into torch; see `base.GraphRuntime`.

    A graph with a float16 body keeps its types; any other is computed in the type of the precision.
    """
    import torch

    from .torch_graph import TorchGraph

    model = onnx.load_from_string(graph)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    network = TorchGraph(model, None if has_float16_body(model) else dtype)
    if device == "cpu":
        return _on_host(network)
    from .torch_run import TorchRunner

    gpu = open_device(device, ["torch"])
    # Images are channels last; channels-last weights spare cuDNN from converting both.
    network = network.to(device).to(memory_format=torch.channels_last)
    return TorchRunner(network, _input_shape(model), gpu)


def _on_host(network: Any) -> Compiled:
    import torch

    def run(images: Any) -> list[Any]:
        with torch.inference_mode():
            return [output.numpy() for output in network(torch.as_tensor(images))]

    return run


def _input_shape(model: onnx.ModelProto) -> tuple[int, int, int]:
    _, height, width, channels = (axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim)
    return height, width, channels
