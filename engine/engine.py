"""The engine: uint8 images in, features or sign bits out; and its file."""

import hashlib
import json
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..calibration.graph.edit import prune
from ..calibration.table import CalibrationTable
from ..errors import UsageError
from ..files import pack, write_atomically
from ..images.decode import Resize
from ..kernels.bits import packed_length
from ..kernels.memory import blocks
from .runtimes import (
    Compiled,
    batch_size,
    builds_plans,
    check_device,
    default_device,
    plan_runtime,
    require_runtime,
)
from .runtimes.device import on_gpu, open_device
from .runtimes.gpu_run import GpuRunner, check_images
from .runtimes.tensorrt_plan import BATCHES

SCHEMA = "aurevoir-engine/2"


@dataclass(frozen=True)
class Manifest:
    """What an engine is made of.

    Attributes
    ----------
    backbone, cut, weights : str
    graph : str
        SHA-256 of the float graph, weights and normalisation included.
    precision, runtime, runtime_version : str
    input_shape : (height, width, 3)
    features : int
        m, the number of features of one image.
    mean, std : tuples of 3 floats
        The normalisation inside the graph.
    resize : str
        How images of another size are brought to the input shape.
    dialect : str or None
        Of int8: ``s8`` or ``u8``; see `calibration.quantize`.
    placement : str or None
        Of int8: ``conv-inputs``, ``concat-inputs`` or ``shared-concat``; see `calibration.placement`.
    in_float : tuple of str
        Tensors that an int8 engine leaves in floating point.
    in_float32 : tuple of str
        Tensors too large for float16 that an fp16 or int8 engine of NVIDIA's keeps in float32.
    weight_levels : int or None
        Of int8: the largest magnitude of its weights, 127 or 63; see `runtimes.weight_levels`.
    target : str or None
        The GPU architecture, such as ``sm89``, that the plan inside is for.
    sign_agreement, relative_error : float or None
        Against fp32, on calibration images that were held out; None where not measured.
    images_per_second : dict of float
        Of an int8 engine and its rivals, as timed side by side on the machine that built it: by
        precision, and ``int8 throughout`` where some tensors are left in floating point.
    """

    backbone: str
    cut: str
    weights: str
    graph: str
    precision: str
    runtime: str
    runtime_version: str
    input_shape: tuple[int, int, int]
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize
    dialect: str | None = None
    placement: str | None = None
    in_float: tuple[str, ...] = ()
    in_float32: tuple[str, ...] = ()
    weight_levels: int | None = None
    target: str | None = None
    sign_agreement: float | None = None
    relative_error: float | None = None
    images_per_second: dict[str, float] = field(default_factory=dict)


class Engine:
    """A truncated network in one precision on one runtime; safe to share between threads.

    Parameters
    ----------
    manifest : Manifest
    graph : bytes
        The ONNX graph: input ``images``, outputs ``features`` and ``bits``.
    table : CalibrationTable or None
    device : str, optional
        As the runtime names it; None stands for the runtime's first.
    plan : bytes, optional
        What NVIDIA's runtimes made of the graph for GPUs of one architecture.
    """

    def __init__(
        self,
        manifest: Manifest,
        graph: bytes,
        table: CalibrationTable | None = None,
        device: str | None = None,
        plan: bytes | None = None,
    ) -> None:
        self.manifest, self.graph, self.table, self.plan = manifest, graph, table, plan
        self._device = device
        self._compiled: dict[str, Compiled | GpuRunner] = {}
        self._runner: GpuRunner | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        made = self.manifest
        return f"<Engine {made.backbone} cut at {made.cut}, {made.precision} on {made.runtime}, m = {made.features}>"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and 3."""
        return self.manifest.input_shape

    @property
    def features(self) -> int:
        """The number of features of one image, m."""
        return self.manifest.features

    @property
    def precision(self) -> str:
        """fp32, fp16, bf16 or int8."""
        return self.manifest.precision

    @property
    def runtime(self) -> str:
        """The name of the runtime."""
        return self.manifest.runtime

    @property
    def device(self) -> str:
        """Where it runs, as the runtime names it."""
        return self._device or default_device(self.runtime)

    @property
    def batch_size(self) -> int:
        """Images to give it at a time, if there are many: more for a GPU than for a CPU."""
        return batch_size(self.device)

    @property
    def megabytes(self) -> float:
        """Size of the graph with its weights, in units of 10^6 bytes."""
        return len(self.graph) / 1e6

    def __call__(self, images: Any) -> Any:
        """Compute features.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, 3)
            RGB. NumPy, or anything that speaks DLPack or the array interface.

        Returns
        -------
        features : float32 array of shape (batch, m)
            NumPy; of images on a GPU, for engines that run there, an array there.

        Raises
        ------
        UsageError
            If the dtype or the shape is another.
        """
        return self._run("features", images, "float32", self.features)

    def bits(self, images: Any) -> Any:
        """Compute the packed signs of features; the features themselves stay where they are computed.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, 3)

        Returns
        -------
        bits : uint8 array of shape (batch, ceil(m / 8))
            Bit 1 where a feature is strictly positive, as ``numpy.packbits(features > 0, axis=1)``.
            Below fp32 a runtime may round the two outputs apart, next to zero.
        """
        return self._run("bits", images, "uint8", packed_length(self.features))

    def _run(self, output: str, images: Any, dtype: str, width: int) -> Any:
        run = self._plan_runner() if builds_plans(self.runtime) else self.compiled(output)
        if isinstance(run, GpuRunner):
            return run(images, [output])[output]
        if on_gpu(images):
            raise UsageError(
                f"the images lie on a GPU, and this engine runs on {self.device!r} by {self.runtime!r}, which reads "
                "host memory; bring them there, or load the engine on 'cuda'"
            )
        images = self._checked(images)
        results = np.empty((len(images), width), dtype)
        for which in blocks(len(images), self.batch_size):
            results[which] = run(images[which])[0]
        return results

    def build_plan(
        self,
        progress: bool = False,
        workspace: int | None = None,
        timing_cache: Path | str | None = None,
        batches: tuple[int, int, int] = BATCHES,
    ) -> None:
        """Build the plan, where the runtime has one, for the target or else for the GPU here.

        Parameters
        ----------
        progress : bool
        workspace : int, optional
            Bytes of GPU memory that one layer may take for scratch.
        timing_cache : path, optional
            A file of kernel timings that builds read and add to.
        batches : (int, int, int)
            The smallest batch, the one to choose kernels for, and the largest.
        """
        if not builds_plans(self.runtime) or self.plan is not None:
            return
        module, made = plan_runtime(self.runtime), self.manifest
        timings = None if timing_cache is None else Path(timing_cache)
        self.plan = module.build(
            self.graph,
            made.precision,
            target=made.target,
            device=self.device,
            batches=batches,
            workspace=workspace,
            timing_cache=timings,
            progress=progress,
        )
        here = made.target or open_device(self.device).capability
        self.manifest = replace(made, target=here, runtime_version=module.version())

    def _plan_runner(self) -> GpuRunner:
        with self._lock:
            if self._runner is None:
                require_runtime(self.runtime, self.precision)
                self.build_plan()
                self._runner = plan_runtime(self.runtime).load(self.plan or b"", self.device)
            return self._runner

    def told(self, manifest: Manifest) -> "Engine":
        """Return the same engine with another manifest."""
        return Engine(manifest, self.graph, self.table, self._device, self.plan)

    def _checked(self, images: Any) -> np.ndarray:
        if not isinstance(images, np.ndarray):
            images = np.from_dlpack(images) if hasattr(images, "__dlpack__") else np.asarray(images)
        check_images(images, self.input_shape)
        return images

    def compiled(self, output: str) -> Compiled | GpuRunner:
        """Return what computes one output, ``features`` or ``bits``, and nothing else; see `runtimes`."""
        with self._lock:
            if output not in self._compiled:
                runtime = require_runtime(self.runtime, self.precision)
                check_device(self.runtime, self.device)
                graph = prune(onnx.load_from_string(self.graph), [output]).SerializeToString()
                self._compiled[output] = runtime.compile(graph, self.precision, self.device)
            return self._compiled[output]

    def parts(self) -> dict[str, bytes]:
        """Return the parts of the engine file, the manifest left out."""
        parts = {"model.onnx": self.graph}
        if self.table is not None:
            parts["calibration.json"] = self.table.to_json().encode()
        if self.plan is not None:
            parts["plan.bin"] = self.plan
        return parts

    def to_bytes(self) -> bytes:
        """Return the engine file, with a plan where the runtime has one; the same engine gives the same bytes."""
        self.build_plan()
        parts = self.parts()
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        manifest = {"schema": SCHEMA, **asdict(self.manifest), "parts": digests}
        return pack({"manifest.json": json.dumps(manifest, indent=1).encode(), **parts})

    def save(self, path: Path | str) -> None:
        """Write the engine file, atomically."""
        write_atomically(Path(path), self.to_bytes())
