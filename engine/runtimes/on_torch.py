"""torch on CPU and CUDA: fp32, bf16, and on CUDA fp16, from the same ONNX graph."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
import onnx

from ...calibration.graph.float16 import has_float16_body
from .base import WARM_RUNS, Compiled, LayerTime, Precision
from .device import open_device
from .gpu_run import GpuRunner

PACKAGE = "torch"
SETTINGS: tuple[str, ...] = ("threads",)
KEEPS = False
CALLS = 1
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


def compile(
    graph: bytes, precision: Precision, device: str = "cpu", settings: Mapping[str, int] | None = None
) -> Compiled | GpuRunner:
    """Load an ONNX graph into torch; see `base.GraphRuntime`.

    A graph with a float16 body keeps its types; any other is computed in the type of the precision. A number of
    threads is that of the process.
    """
    import torch

    model = onnx.load_from_string(graph)
    if device == "cpu":
        if settings:
            torch.set_num_threads(settings["threads"])
        return _on_host(_network(model, precision, device))
    from .torch_run import TorchRunner

    gpu = open_device(device, ["torch"])
    return TorchRunner(_network(model, precision, device), _input_shape(model), gpu)


def _network(model: onnx.ModelProto, precision: Precision, device: str) -> Any:
    import torch

    from .torch_graph import TorchGraph

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    network = TorchGraph(model, None if has_float16_body(model) else dtype)
    # Images are channels last; channels-last weights spare cuDNN from converting both.
    return network if device == "cpu" else network.to(device).to(memory_format=torch.channels_last)


def _on_host(network: Any) -> Compiled:
    import torch

    def run(images: np.ndarray, into: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in network(torch.as_tensor(_taken(images)))]

    return run


def _taken(images: np.ndarray) -> np.ndarray:
    """Return images as torch takes them: without negative strides, and writeable, though it only reads them."""
    pixels = np.ascontiguousarray(images)
    return pixels if pixels.flags.writeable else pixels.copy()


def _input_shape(model: onnx.ModelProto) -> tuple[int, int, int]:
    _, height, width, channels = (axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim)
    return height, width, channels


def layer_times(graph: bytes, precision: Precision, device: str, images: np.ndarray, calls: int) -> Iterator[LayerTime]:
    """Yield the time of every node, on a GPU each waited for; see `base.GraphRuntime`."""
    import torch

    network = _network(onnx.load_from_string(graph), precision, device)
    records: list[list[tuple[float, str]]] = [[] for _ in network.steps]
    for step, record in zip(network.steps, records, strict=True):
        step.run = _timed(step.run, device, record)
    pixels = torch.as_tensor(_taken(images), device=device)
    with torch.inference_mode():
        for _ in range(WARM_RUNS + calls):
            network(pixels)
    for step, record in zip(network.steps, records, strict=True):
        seconds = sum(each for each, _ in record[-calls:]) / calls
        yield LayerTime(step.name, step.kind, record[-1][1], seconds, (step.outputs[0],))


def _timed(run: Callable[[Any], Any], device: str, record: list[tuple[float, str]]) -> Callable[[Any], Any]:
    """Return a step that records its seconds and the type of what it returns."""
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    def timed(inputs: Any) -> Any:
        wait()
        start = time.perf_counter()
        found = run(inputs)
        wait()
        record.append((time.perf_counter() - start, str(found[0].dtype).removeprefix("torch.")))
        return found

    return timed
