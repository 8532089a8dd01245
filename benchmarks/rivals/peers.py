"""The int8 quantizers that people use today, run on the same float graph, images and runtime.

Each quantizes in a process of its own: one changes ONNX Runtime's classes for good, and a native
library that crashes must not take the others with it. What comes back runs in OpenVINO, as
aurevoir's own int8 does; where OpenVINO cannot run a graph, ONNX Runtime does, and a remark says so.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...calibration.graph.edit import prune
from ...children import run_child
from ...engine.runtimes import on_onnxruntime, on_openvino
from ...errors import AurevoirError, MissingPackageError

Features = Callable[[np.ndarray], np.ndarray]
"""From uint8 images of shape (batch, height, width, 3) to features of shape (batch, m)."""

PATIENCE = 3600
"""Seconds after which a peer's process is stopped."""

_GRAPH, _PIXELS, _SECONDS = "float.onnx", "pixels.npy", "seconds.json"
_RESULTS = {"openvino": "quantized.xml", "onnx": "quantized.onnx"}


@dataclass(frozen=True)
class Peer:
    """A quantizer with the settings it is run with.

    Attributes
    ----------
    name : str
    package : str
        What it imports.
    install : str
        The line that installs it.
    write : callable
        Reads the float graph and the images in a folder and writes the quantized model next to them.
    """

    name: str
    package: str
    install: str
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Quantized:
    """A quantized network, ready to run.

    Attributes
    ----------
    run : callable
        Not for several threads at once.
    runtime : {"openvino", "onnxruntime"}
    seconds : float
        Spent on calibrating and quantizing, without the start of the process.
    remark : str
        Why it does not run in OpenVINO, where it does not.
    """

    run: Features
    runtime: str
    seconds: float
    remark: str = ""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the features of images."""
        return self.run(images)


def quantize(peer: Peer, graph: onnx.ModelProto, pixels: np.ndarray, own_runtime: bool = False) -> Quantized:
    """Quantize a float graph with a peer.

    Parameters
    ----------
    peer : Peer
    graph : onnx.ModelProto
        As `export_backbone` makes it; the peer sees the part that computes ``features``.
    pixels : uint8 array of shape (n, height, width, 3)
        To calibrate on.
    own_runtime : bool
        Run what ONNX Runtime quantized in ONNX Runtime, in place of OpenVINO.

    Returns
    -------
    Quantized

    Raises
    ------
    MissingPackageError
        If the peer is not installed.
    AurevoirError
        If it fails, or neither runtime runs what it made.
    """
    if find_spec(peer.package) is None:
        raise MissingPackageError(f"{peer.name} is not installed; install it with: {peer.install}")
    with tempfile.TemporaryDirectory(prefix="aurevoir-peer-") as name:
        folder = Path(name)
        onnx.save(named_nodes(prune(graph, ["features"])), folder / _GRAPH)
        np.save(folder / _PIXELS, pixels)
        if fault := _in_a_process("quantize", peer.name, folder):
            raise AurevoirError(f"{peer.name}: {fault}")
        seconds = json.loads((folder / _SECONDS).read_text())
        if own_runtime and peer.package == "onnxruntime":
            return Quantized(_in_onnxruntime(folder), "onnxruntime", seconds)
        fault = _in_a_process("try", peer.name, folder)
        if not fault:
            return Quantized(_in_openvino(folder), "openvino", seconds)
        if not (folder / _RESULTS["onnx"]).is_file():
            raise AurevoirError(f"{peer.name}: OpenVINO does not run its graph: {fault}")
        return Quantized(_in_onnxruntime(folder), "onnxruntime", seconds, f"OpenVINO does not run its graph: {fault}")


def named_nodes(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Give every node a name: the peers leave nodes out by name."""
    for index, node in enumerate(graph.graph.node):
        node.name = node.name or f"node_{index}"
    return graph


def _in_a_process(task: str, name: str, folder: Path) -> str:
    """Run a task of this module in a process of its own; return what went wrong, or nothing."""
    try:
        done = run_child(__name__, [task, name, str(folder)], timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"not done in {PATIENCE} s"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
    return f"exit status {done.returncode}: {last[:300]}"


def _in_openvino(folder: Path) -> Features:
    """Run as aurevoir's own engines do, on as many streams and with the same body."""
    import openvino

    path = next(folder / name for name in _RESULTS.values() if (folder / name).is_file())
    compiled = on_openvino.compile_model(openvino.Core().read_model(path), "int8")
    return lambda images: compiled(images)[0].copy()


def _in_onnxruntime(folder: Path) -> Features:
    compiled = on_onnxruntime.compile((folder / _RESULTS["onnx"]).read_bytes(), "int8")
    return lambda images: compiled(images)[0]


def _onnxruntime(method: str, activations: str, everything: bool, folder: Path) -> None:
    """Quantize with ONNX Runtime's ``quantize_static``, prepared as its manual asks, in Q/DQ format."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(folder / _GRAPH, prepared)
    # Symmetric where int8, as its manual asks. The stride, in spite of its name, bounds the memory
    # of every method: the activations of so many images are held at a time.
    options = {"ActivationSymmetric": activations == "QInt8", "CalibStridedMinMax": _Reader.STRIDE}
    quantize_static(
        prepared,
        folder / _RESULTS["onnx"],
        _Reader(np.load(folder / _PIXELS)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=None if everything else ["Conv"],
        nodes_to_exclude=_preamble(onnx.load(prepared)),
        per_channel=True,
        activation_type=QuantType[activations],
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        extra_options=options if everything else options | {"OpTypesToExcludeOutputQuantization": ["Conv"]},
    )


class _Reader:
    """The calibration images, one a time, as `onnxruntime.quantization` reads them."""

    STRIDE = 8

    def __init__(self, pixels: np.ndarray) -> None:
        whole = len(pixels) - len(pixels) % self.STRIDE or len(pixels)
        self.pixels = pixels[:whole]
        self.set_range(0, whole)

    def __len__(self) -> int:
        return len(self.pixels)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left: Iterator[np.ndarray] = iter(self.pixels[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        pixels = next(self.left, None)
        return None if pixels is None else {"images": pixels[None]}


def _preamble(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes before the first convolution: the normalisation, which stays in float."""
    before, names = {"images"}, []
    for node in model.graph.node:
        if node.op_type != "Conv" and before.intersection(node.input):
            before.update(node.output)
            names.append(node.name)
    return names


def _modelopt(method: str, everything: bool, folder: Path) -> None:
    """Quantize with NVIDIA's Model Optimizer, its ONNX branch, on the CPU."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(folder / _GRAPH),
        calibration_data=np.load(folder / _PIXELS),
        calibration_method=method,
        calibration_eps=["cpu"],
        op_types_to_quantize=None if everything else ["Conv"],
        nodes_to_exclude=[f"^{name}$" for name in _preamble(onnx.load(folder / _GRAPH))],
        high_precision_dtype="fp32",
        output_path=str(folder / _RESULTS["onnx"]),
        log_level="WARNING",
    )


def _nncf(everything: bool, folder: Path) -> None:
    """Quantize with NNCF: with its defaults, or convolutions only and the slower, better bias correction."""
    import openvino

    quantized = nncf_model(folder / _GRAPH, np.load(folder / _PIXELS), everything, fast_bias_correction=everything)
    openvino.save_model(quantized, folder / _RESULTS["openvino"], compress_to_fp16=False)


def nncf_model(graph: Path, pixels: np.ndarray, everything: bool, preset: str = "PERFORMANCE", **settings: Any) -> Any:
    """Quantize with NNCF in this process.

    Parameters
    ----------
    graph : path
        The part of a float graph that computes ``features``, its nodes named.
    pixels : uint8 array of shape (n, height, width, 3)
    everything : bool
        Quantize what NNCF quantizes by itself, and not convolutions and matrix products only.
    preset : {"PERFORMANCE", "MIXED"}
    **settings
        Of ``nncf.quantize``.

    Returns
    -------
    openvino.Model
    """
    import nncf
    import openvino

    # `read_model` leaves biases in a form that NNCF does not know, and its bias correction does nothing.
    model = openvino.convert_model(graph)
    left = _preamble(onnx.load(graph)) if everything else _arithmetic(model)
    return nncf.quantize(
        model,
        nncf.Dataset([image[None] for image in pixels]),
        preset=nncf.QuantizationPreset[preset],
        subset_size=len(pixels),
        ignored_scope=nncf.IgnoredScope(names=left, validate=False),
        **settings,
    )


def _arithmetic(model: Any) -> list[str]:
    """Return the names of an OpenVINO model's sums and products, the biases of convolutions left out."""
    names = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Add", "Multiply", "Subtract"):
            kinds = [value.get_node().get_type_name() for value in node.input_values()]
            if not ("Constant" in kinds and any(kind.endswith("Convolution") for kind in kinds)):
                names.append(node.get_friendly_name())
    return names


INSTALL = "pip install 'aurevoir[bench]'"
_ORT = [(method, kind) for method in ("Entropy", "Percentile", "MinMax") for kind in ("QUInt8", "QInt8")]

PEERS = (
    *(
        Peer(
            f"ORT {method.lower()} {'U8' if kind == 'QUInt8' else 'S8'}",
            "onnxruntime",
            INSTALL,
            partial(_onnxruntime, method, kind, False),
        )
        for method, kind in _ORT
    ),
    Peer("ORT percentile U8, all", "onnxruntime", INSTALL, partial(_onnxruntime, "Percentile", "QUInt8", True)),
    Peer("modelopt entropy", "modelopt", INSTALL, partial(_modelopt, "entropy", False)),
    Peer("modelopt max", "modelopt", INSTALL, partial(_modelopt, "max", False)),
    Peer("modelopt entropy, all", "modelopt", INSTALL, partial(_modelopt, "entropy", True)),
    Peer("NNCF", "nncf", INSTALL, partial(_nncf, False)),
    Peer("NNCF, all", "nncf", INSTALL, partial(_nncf, True)),
)
"""The peers. Each quantizes convolutions and leaves the rest in float, which keeps most of the features' signs; ``all``
marks the operators that it quantizes by itself, sums and batch norms too, which can be faster."""


def _main(task: str, name: str, folder: Path) -> None:
    if task == "try":
        _in_openvino(folder)(np.load(folder / _PIXELS)[:16])
        return
    peer = next(peer for peer in PEERS if peer.name == name)
    start = time.perf_counter()
    peer.write(folder)
    (folder / _SECONDS).write_text(json.dumps(time.perf_counter() - start))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
