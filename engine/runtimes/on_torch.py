"""torch, on the CPU and on CUDA: fp32, bf16, and fp16 on CUDA, from the same ONNX graph."""

from importlib.metadata import version as package_version
from typing import Any

import onnx

from . import Compiled

PACKAGE = "torch"
INSTALL = "pip install 'aurevoir[torch]'"


def version() -> str:
    """Return the version of the library."""
    return package_version(PACKAGE)


def precisions() -> tuple[str, ...]:
    """Return the precisions that torch runs here; it has no int8 kernels for the Q/DQ graph."""
    import torch

    return ("fp32", "fp16", "bf16") if torch.cuda.is_available() else ("fp32", "bf16")


def devices() -> tuple[str, ...]:
    """Return the CUDA devices, where there are any, and ``cpu``."""
    import torch

    gpus = [f"cuda:{place}" for place in range(torch.cuda.device_count())]
    return (*(["cuda"] if gpus else []), *gpus, "cpu")


def compile(graph: bytes, precision: str, device: str = "cpu") -> Compiled:
    """Load an ONNX graph into torch; see the package's description. Of torch tensors, outputs are such too."""
    import torch

    from .torch_graph import TorchGraph

    target = torch.device(device)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    network = TorchGraph(onnx.load_from_string(graph), dtype).to(target)

    def run(images: Any) -> list[Any]:
        with torch.inference_mode():
            outputs = network(torch.as_tensor(images, device=target))
        return outputs if isinstance(images, torch.Tensor) else [output.cpu().numpy() for output in outputs]

    return run
