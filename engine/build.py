"""From specs to a runnable engine: the one way in which engines are built."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.placement import Placement
from ..calibration.quantize import ActivationDtype
from ..calibration.table import CalibrationTable
from ..calibration.thresholds import Method
from ..errors import ThresholdMissedError, UsageError
from ..images.batches import ImageArray, ImageFiles, channel_statistics
from ..images.decode import Resize, check_resize
from ..images.sources import expand
from ..kernels.stopwatch import Stopwatch
from .assemble import assemble, with_fidelity, with_speed
from .backbones import open_backbone
from .backbones.base import Backbone, BackboneLike
from .calibrate import calibrate, keep_in_float32, reach_sign_agreement, read_table
from .engine import Engine
from .float_graph import Exported, export_backbone
from .runtimes import check_device, choose_builder, choose_runtime, default_device, narrowest_float
from .runtimes.base import Precision, RuntimeName
from .sample import calibration_sample
from .smoke import first_inference
from .spec import CALIBRATION_IMAGES, Auto, CalibrationSpec, EngineSpec, NetworkSpec, Normalization, PlanSpec

Stages = Callable[[str], AbstractContextManager[None]]
"""Is told the stage, ``decode``, ``calibrate`` or ``build``, that a ``with`` block belongs to."""


def build_engine(
    backbone: BackboneLike,
    cut: str | None = None,
    precision: Precision = "fp32",
    runtime: RuntimeName | Auto = "auto",
    *,
    weights: str | Path = "default",
    calibration: Any = None,
    calibration_images: int = CALIBRATION_IMAGES,
    method: Method = "percentile",
    normalization: Normalization = "imagenet",
    size: int | None = None,
    resize: Resize = "stretch",
    seed: int = 0,
    activation_dtype: ActivationDtype | Auto = "auto",
    placement: Placement = "conv-inputs",
    min_sign_agreement: float | None = None,
    prefer_faster: bool = False,
    smoke: bool = True,
    target: str | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
    batches: tuple[int, int, int] = PlanSpec.batches,
    device: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    stages: Stages | None = None,
) -> Engine:
    """Build an engine.

    Parameters
    ----------
    backbone : str, path or torch.nn.Module
        A torchvision name, an ONNX file, or a module.
    cut : str, optional
        Where the network ends; None stands for the backbone's default. See `Backbone.cuts`.
    precision : {"fp32", "fp16", "bf16", "int8"}
        On a GPU fp32 is computed without TF32, by every runtime.
    runtime : {"auto", "openvino", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx"}
    weights : {"default", "random"} or path
    calibration : path, list of paths, uint8 array, CalibrationTable, or path of one (.json, .cache)
        Images to set int8 thresholds, the batch-norm statistics of random weights and the data's
        normalization from; of these, `calibration_images` are used for the first two, and up to 32
        others measure the fidelity. A table, ours or TensorRT's calibration cache, needs no images.
    calibration_images : int
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
    normalization : {"imagenet", "data"} or (mean, std)
        Of pixels scaled to [0, 1].
    size : int, optional
        Height and width of the input; None stands for the backbone's own.
    resize : {"stretch", "crop"}
    seed : int
        Of random weights and of the choice of calibration images.
    activation_dtype : {"auto", "int8", "uint8"}
        Of int8: ``uint8`` stores unsigned what cannot be negative; ``auto`` takes it on CPUs with
        VNNI, else ``int8``, as TensorRT needs.
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
        Of int8: what is quantized; see `calibration.placement`.
    min_sign_agreement : float, optional
        Leave the fewest tensors of an int8 engine in floating point that bring its sign agreement with
        fp32 to this, measured on the held-out images; `Engine.images_per_second` says what that costs.
    prefer_faster : bool
        Return an engine of the runtime's narrowest float precision where int8 is not faster than
        that on this machine.
    smoke : bool
        Run the engine once in a child process before anything else, so that a native library that
        crashes on it raises an error here.
    target : str, optional
        Build the plan for GPUs of this architecture, such as ``sm89``, which need not be here:
        runtime ``tensorrt-rtx``. What needs the GPU is left out: the first inference, the fidelity
        and the speeds.
    workspace : int, optional
        Of NVIDIA's runtimes: bytes of GPU memory that one layer may take for scratch.
    timing_cache : path, optional
        Of TensorRT: a file of kernel timings that builds read and add to.
    batches : (int, int, int)
        Of NVIDIA's runtimes: the smallest batch, the one to choose kernels for, and the largest.
    device : str, optional
        As the runtime names it; None stands for its first.
    out : path, optional
        Where to write the engine file.
    progress : bool
        Whether to show progress bars on stderr.
    stages : callable, optional
        Is called with ``decode``, ``calibrate`` or ``build`` and returns a context manager around each stage,
        as `kernels.stopwatch.Stopwatch` does.

    Returns
    -------
    Engine

    Raises
    ------
    UsageError
        If an argument is not one of its choices, or images are needed and none are given.
    ThresholdMissedError
        If `min_sign_agreement` is out of reach even with every tensor in floating point.
    AurevoirError
        If the backbone, its weights or the images cannot be used.
    MissingPackageError
        If the runtime, or torch for a torchvision name, is not installed.
    """
    network = NetworkSpec(
        backbone=backbone,
        cut=cut,
        weights=weights,
        size=size,
        normalization=normalization,
        resize=resize,
        seed=seed,
    )
    spec = EngineSpec(
        precision=precision,
        runtime=runtime,
        device=device,
        activation_dtype=activation_dtype,
        placement=placement,
        min_sign_agreement=min_sign_agreement,
        prefer_faster=prefer_faster,
        smoke=smoke,
        plan=PlanSpec(target=target, workspace=workspace, timing_cache=timing_cache, batches=batches),
    )
    source = CalibrationSpec(data=calibration, images=calibration_images, method=method)
    engine = EngineBuilder(network, source, stages=stages, progress=progress).build(spec)
    if out is not None:
        engine.save(out)
    return engine


class EngineBuilder:
    """Builds engines of one truncated network; what they share is made once, when it is first needed.

    Parameters
    ----------
    network : NetworkSpec
    calibration : CalibrationSpec
    data : paths or uint8 array of shape (n, height, width, 3), optional
        The images that a classifier is trained on: calibrated on where `calibration` holds no images, and what
        normalization ``data`` is taken from. None stands for the calibration images.
    stages : callable, optional
        See `build_engine`.
    progress : bool
        Whether to show progress bars on stderr.
    """

    def __init__(
        self,
        network: NetworkSpec,
        calibration: CalibrationSpec | None = None,
        *,
        data: Any = None,
        stages: Stages | None = None,
        progress: bool = False,
    ) -> None:
        self.network, self.calibration, self.progress = network, calibration or CalibrationSpec(), progress
        self._stages = stages or Stopwatch()
        own = self.calibration.data is not None and not self.calibration.is_table
        self._images = _listed(self.calibration.data) if own else data
        self._data = self._images if data is None else data
        self._tables: dict[str, CalibrationTable] = {}

    def calibrated_by(self, calibration: CalibrationSpec) -> "EngineBuilder":
        """Return a builder of the same float graph that is calibrated in another way."""
        other = EngineBuilder(self.network, calibration, data=self._data, stages=self._stages, progress=self.progress)
        other.backbone, other.exported = self.backbone, self.exported
        return other

    @cached_property
    def backbone(self) -> Backbone:
        """The network, whole; the cut is known to be one of it."""
        network = self.network
        with self._stages("build"):
            opened = open_backbone(network.backbone, network.weights, network.size, network.seed)
            opened.resolve(network.cut)
        return opened

    @cached_property
    def sample(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Images to calibrate on, and others to measure on: uint8 arrays of shape (n, height, width, 3), or None."""
        if self._images is None:
            return None, None
        wanted, network = self.calibration, self.network
        with self._stages("decode"):
            return calibration_sample(
                self._images,
                self.backbone.size,
                wanted.images,
                check_resize(network.resize),
                network.seed,
                self.progress,
                wanted.held_out,
            )

    @cached_property
    def exported(self) -> Exported:
        """The float graph."""
        pixels = self.sample[0] if self.backbone.needs_images else None
        normalization, resize = self._normalization(), check_resize(self.network.resize)
        with self._stages("build"):
            return export_backbone(self.backbone, self.network.cut, pixels, normalization, resize)

    def _normalization(self) -> Normalization:
        if self.network.normalization != "data" or self._data is None:
            return self.network.normalization
        if isinstance(self._data, np.ndarray):
            images: ImageArray | ImageFiles = ImageArray(self._data)
        else:
            resize, description = check_resize(self.network.resize), "normalization" if self.progress else None
            images = ImageFiles(self._data, self.backbone.size, resize, description=description)
        with self._stages("decode"):
            return channel_statistics(images.batches())

    def table(self, placement: Placement = "conv-inputs") -> CalibrationTable:
        """Return the calibration table for a placement; one for ``shared-concat`` serves all."""
        tables = self._tables
        if "shared-concat" in tables:
            return tables["shared-concat"]
        if placement not in tables:
            tables[placement] = self._given_table() if self.calibration.is_table else self._calibrated(placement)
        return tables[placement]

    def _given_table(self) -> CalibrationTable:
        given = self.calibration.data
        return given if isinstance(given, CalibrationTable) else read_table(Path(given), self.exported)

    def _calibrated(self, placement: Placement) -> CalibrationTable:
        exported, pixels = self.exported, self.sample[0]
        with self._stages("calibrate"):
            return calibrate(exported, pixels, self.calibration.method, self.progress, placement)

    def build(self, spec: EngineSpec) -> Engine:
        """Build one engine.

        Raises
        ------
        UsageError, AurevoirError, MissingPackageError, ThresholdMissedError
            See `build_engine`.
        """
        runtime, ahead = _runtime(spec), spec.plan.target is not None
        used, held_out = self.sample if spec.precision != "fp32" else (None, None)
        if spec.min_sign_agreement is not None and held_out is None:
            raise UsageError(
                "min_sign_agreement needs 4 or more images to measure on; give a folder of them (calibration=...)"
            )
        exported = self.exported
        table = self.table(spec.placement) if spec.precision == "int8" else None
        with self._stages("build"):
            keep = keep_in_float32(exported, runtime, spec.precision, used)
            assembled = partial(assemble, exported, device=spec.device, target=spec.plan.target, keep_float32=keep)
            make = partial(
                assembled, spec.precision, runtime, activation_dtype=spec.activation_dtype, placement=spec.placement
            )
            engine = self._ready(make(table), spec)
        if table is not None and not ahead:
            peer = assembled(narrowest_float(runtime, spec.device), runtime)
            reached = self._reaching(spec, table, peer, make)
            with self._stages("build"):
                partly = None if reached is table else self._ready(make(reached), spec)
                engine = self._compared(engine, partly, peer, spec)
        if spec.measure and held_out is not None and spec.precision != "fp32" and not ahead:
            with self._stages("build"):
                engine = with_fidelity(engine, exported, held_out)
        return engine

    def _ready(self, engine: Engine, spec: EngineSpec) -> Engine:
        engine.build_plan(spec.plan, self.progress)
        if spec.smoke and spec.plan.target is None:
            first_inference(engine)
        return engine

    def _reaching(
        self, spec: EngineSpec, table: CalibrationTable, peer: Engine, make: Callable[[CalibrationTable], Engine]
    ) -> CalibrationTable:
        """Return the table of the tensors that can stay quantized for the sign agreement that is asked for."""
        least, held_out = spec.min_sign_agreement, self.sample[1]
        if least is None or held_out is None:
            return table
        with self._stages("calibrate"):
            ceiling = with_fidelity(peer, self.exported, held_out).manifest.sign_agreement or 0.0
            if ceiling < least:
                raise ThresholdMissedError(
                    f"min_sign_agreement {least} is out of reach: with every layer in {peer.precision} the sign "
                    f"agreement with fp32 is {ceiling:.4f}; give at most that, or precision fp32"
                )
            reached, left = reach_sign_agreement(
                self.exported, table, least, held_out, make, self.progress, spec.placement
            )
        return reached if left else table

    def _compared(self, engine: Engine, partly: Engine | None, peer: Engine, spec: EngineSpec) -> Engine:
        """Time an int8 engine, or the one partly in floating point, compared with its peer; return which to keep."""
        if not spec.measure and not spec.prefer_faster:
            return partly or engine
        peers: Mapping[str, Engine] = {peer.precision: peer}
        if partly is not None:
            peers, engine = {**peers, "int8 throughout": engine}, partly
        engine = with_speed(engine, peers, self.progress)
        speeds = engine.images_per_second
        if not spec.prefer_faster or speeds["int8"] > speeds[peer.precision]:
            return engine
        return self._ready(peer, spec).with_speeds(speeds)


def _runtime(spec: EngineSpec) -> str:
    if spec.plan.target is not None:
        return choose_builder(spec.runtime, spec.precision, spec.plan.target)
    runtime = choose_runtime(spec.runtime, spec.precision, device=spec.device)
    check_device(runtime, spec.device or default_device(runtime))
    return runtime


def _listed(images: Any) -> Any:
    """Return an array as it is, and the files that paths stand for."""
    return images if isinstance(images, np.ndarray) else expand([images] if isinstance(images, str | Path) else images)
