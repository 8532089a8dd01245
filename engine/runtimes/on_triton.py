"""Fused int8 and float16 networks on NVIDIA GPUs, by Triton and PyTorch; see `fused`."""

import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
import onnx

from ...cache import user_cache
from ...kernels.backends import has_triton
from .base import WARM_RUNS, Compiled, Layer, LayerTime, Precision
from .device import open_device
from .gpu_run import GpuRunner

PACKAGE = "triton"
SETTINGS: tuple[str, ...] = ()
KEEPS = False
CALLS = 1
_TUNED = (1, 16, 256)
"""Batches whose tiles are timed."""
INSTALL = "pip install 'aurevoir[gpu]'"


def version() -> str:
    """Return the version of the library."""
    return package_version(PACKAGE)


def precisions() -> tuple[Precision, ...]:
    """Return the precisions of this machine's GPU; none without one."""
    return ("fp16", "int8") if devices() else ()


def devices() -> tuple[str, ...]:
    """Return the CUDA devices on which int8 products have tensor cores."""
    if not has_triton():
        return ()
    import torch

    gpus = [
        f"cuda:{index}"
        for index in range(torch.cuda.device_count())
        if torch.cuda.get_device_capability(index) >= LEAST_CAPABILITY
    ]
    return (*(["cuda"] if gpus else []), *gpus)


LEAST_CAPABILITY = (8, 0)
"""Ampere."""


def check(graph: bytes) -> None:
    """Raise AurevoirError if a graph cannot be planned."""
    from .fused.plan import plan

    plan(onnx.load_from_string(graph))


def layers(graph: bytes, precision: Precision, device: str) -> list[Layer]:
    """Return the fused steps of a graph; this needs no GPU."""
    from .fused.plan import plan
    from .fused.steps import described

    steps = described(plan(onnx.load_from_string(graph)))
    return [{"name": name, "type": kind, "precision": what} for name, kind, what in steps]


def compile(
    graph: bytes, precision: Precision, device: str = "cuda", settings: Mapping[str, int] | None = None
) -> Compiled | GpuRunner:
    """Plan a graph, and load it onto a GPU; see `base.GraphRuntime`."""
    from .torch_run import TorchRunner

    gpu = open_device(device, ["torch"])
    with gpu.scope():
        network, shape = _loaded(graph, device, gpu.name)
    return TorchRunner(network, shape, gpu)


def layer_times(graph: bytes, precision: Precision, device: str, images: np.ndarray, calls: int) -> Iterator[LayerTime]:
    """Yield the time of every step, each waited for; see `base.GraphRuntime`."""
    import torch

    from .fused.steps import described

    gpu = open_device(device, ["torch"])
    with gpu.scope():
        network, _ = _loaded(graph, device, gpu.name)
        pixels = torch.as_tensor(images, device=device)
        seconds = np.mean([network.timed(pixels) for _ in range(WARM_RUNS + calls)][-calls:], axis=0)
    for (name, kind, what), spent, nodes in zip(described(network.plan), seconds, network.plan.nodes, strict=True):
        yield LayerTime(name, kind, what, float(spent), nodes)


def _loaded(graph: bytes, device: str, gpu: str) -> tuple[Any, tuple[int, int, int]]:
    """Return a network on a GPU, with the fastest tiles, and the shape of its images."""
    import torch

    from .fused.network import FusedNetwork
    from .fused.tiles import take_tiles
    from .torch_run import MAX_BATCH

    model = onnx.load_from_string(graph)
    height, width, channels = (axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:])
    network = FusedNetwork(model).to(device)

    def tune() -> None:
        images = torch.randint(0, 256, (MAX_BATCH, height, width, channels), dtype=torch.uint8, device=device)
        network.tune(images, _TUNED)

    take_tiles(network.tiles, tune, [hashlib.sha256(graph).hexdigest(), gpu, _TUNED], user_cache())
    return network, (height, width, channels)
