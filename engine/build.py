"""Build engines from specs; every engine is built here."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import Cache, user_cache
from ..calibration.graph.edit import digest
from ..calibration.placement import Placement
from ..calibration.quantize import LEVELS, NARROW_LEVELS, ActivationDtype
from ..calibration.table import CalibrationTable, pixels_digest
from ..calibration.thresholds import Method
from ..errors import AurevoirError, AurevoirWarning, ThresholdMissedError, UsageError
from ..images.batches import ImageArray, ImageFiles, channel_statistics
from ..images.decode import Resize, check_resize
from ..images.decoded import DecodedImages, Decoder
from ..images.labelled import list_images
from ..kept import Store, key_of
from ..kernels.backends.numba.ahead import compile_ahead
from ..kernels.stopwatch import Stopwatch
from ..saving import require_file_target
from ..work import Work
from .assemble import assemble, float_features, stand_in, with_fidelity, with_speed
from .backbone import open_backbone
from .backbones.base import Backbone, BackboneLike
from .calibrate import calibrate, keep_in_float32, reach_sign_agreement, read_table
from .checked import remember
from .child import lasting_child
from .cut_candidates import layers_before
from .engine import Engine
from .float_graph import Exported, export_backbone, export_cuts
from .narrow_weights import cost_of_narrow_weights
from .preprocessing import Normalization, Preprocessing, from_data, resolve
from .reuse import (
    check_unpacked,
    graph_part,
    images_part,
    network_part,
    pack_engine,
    pack_graph,
    table_part,
    unpack_engine,
    unpack_graph,
)
from .runtimes import builds_plans, check_device, choose_builder, choose_runtime, default_device, narrowest_float
from .runtimes.base import Precision, RuntimeName
from .sample import calibration_sample, choose_images, sample_count
from .smoke import first_batches, first_inference, start_child
from .spec import CALIBRATION_IMAGES, Auto, CalibrationSpec, EngineSpec, NetworkSpec, PlanSpec
from .timing import is_faster

Stages = Callable[[str], AbstractContextManager[None]]
"""Returns a context manager for a stage: ``decode``, ``calibrate`` or ``build``."""


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
    normalization: Normalization = "auto",
    size: int | None = None,
    resize: Resize = "stretch",
    pool_layers: bool = False,
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
        A torchvision name, ``efficientnet_lite0`` (or 1, 2), ``timm:NAME``, an ONNX file, or a module.
    cut : str, optional
        Where to truncate the network; by default the backbone's default cut. See `Backbone.cuts`.
    precision : {"fp32", "fp16", "bf16", "int8"}
        On a GPU, fp32 is computed without TF32 by every runtime.
    runtime : {"auto", "openvino", "onnxruntime", "torch", "triton", "tensorrt", "tensorrt-rtx"}
    weights : {"default", "random"} or path
    calibration : path, list of paths, uint8 array, CalibrationTable, or path of one (.json, .cache)
        Images for int8 thresholds, batch-norm statistics of random weights and normalization
        ``data``. A calibration table, ours or TensorRT's calibration cache, needs no images.
    calibration_images : int
        Number of images for thresholds and batch-norm statistics; up to 32 others are held out to
        measure the fidelity.
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
    normalization : str, (mean, std) or (mean, std, channel order)
        ``auto`` is the network's own: that of torchvision's weights, what an ONNX file says or does itself, else
        ImageNet's. ``imagenet``, ``data``, ``none``, ``unit``, ``symmetric``, ``caffe`` and numbers are described in
        `preprocessing.resolve`.
    size : int, optional
        Input height and width; by default the backbone's.
    resize : {"stretch", "crop"}
    pool_layers : bool
        Whether ``pooled`` also has the channel means of layers before the cut, which are its first columns: of the
        candidates of ``cut="auto"`` those with no more values than the features. `OpticalClassifier` then also tries
        the kernel ``layers``.
    seed : int
        Seed for random weights and the choice of calibration images.
    activation_dtype : {"auto", "int8", "uint8"}
        For int8: ``uint8`` stores activations with a known lower bound as unsigned; ``auto`` selects it on CPUs with
        VNNI, and otherwise ``int8``, which TensorRT requires.
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
        For int8: the tensors to quantize; see `calibration.placement`.
    min_sign_agreement : float, optional
        For int8: keep as few tensors in floating point as needed for this sign agreement with fp32 on the
        held-out images; `Engine.images_per_second` has the speeds with and without.
    prefer_faster : bool
        Build the runtime's narrowest float precision instead if it is faster than int8 on this machine in every turn
        of their timing; where the turns disagree, int8 stays.
    smoke : bool
        Run the engine once in a child process first, so that a crash in a native library raises an
        error here.
    target : str, optional
        GPU architecture, such as ``sm89``, to build the plan for ahead of time, with runtime
        ``tensorrt-rtx``. First inference and speeds, which need the GPU, are skipped; the fidelity of int8 is that of
        the same quantized graph on this machine's processor.
    workspace : int, optional
        For NVIDIA's runtimes: maximum GPU workspace per layer, in bytes.
    timing_cache : path, optional
        For TensorRT: a timing cache file to read and update.
    batches : (int, int, int)
        For NVIDIA's runtimes: minimum, optimal and maximum batch size.
    device : str, optional
        Device of the engine, as the runtime names it; by default its first.
    out : path, optional
        Engine file to write.
    progress : bool
        Whether to show progress bars on stderr.
    stages : callable, optional
        Called with ``decode``, ``calibrate`` or ``build``; returns a context manager for that stage, such as a
        `kernels.stopwatch.Stopwatch`.

    Returns
    -------
    Engine

    Raises
    ------
    UsageError
        If an argument is invalid, or images are needed and none are given.
    ThresholdMissedError
        If `min_sign_agreement` is unreachable even with every tensor in floating point.
    AurevoirError
        If the backbone, its weights or the images cannot be used.
    MissingPackageError
        If the runtime, or torch for a torchvision name, is not installed.
    """
    for path in (out, timing_cache):
        if path is not None:
            require_file_target(path)
    network = NetworkSpec(
        backbone=backbone,
        cut=cut,
        weights=weights,
        size=size,
        normalization=normalization,
        resize=resize,
        pool_layers=pool_layers,
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
    cache = user_cache(progress)
    engine = EngineBuilder(network, source, stages=stages, progress=progress, cache=cache).build(spec)
    if out is not None:
        engine.save(out)
    return engine


class EngineBuilder:
    """Builds engines of one truncated network; shared steps run once, on first use.

    Parameters
    ----------
    network : NetworkSpec
    calibration : CalibrationSpec
    data : paths or uint8 array of shape (n, height, width, 3), optional
        Training images of a classifier, for normalization ``data``, and for calibration if `calibration` has no
        images. By default the calibration images.
    stages : callable, optional
        See `build_engine`.
    progress : bool
        Whether to show progress bars on stderr.
    work : Work, optional
        An open work folder: a calibration table or an engine that it has of the same inputs is taken over.
    decoded : DecodedImages, optional
        Keeps the pixels of files, for who reads them after; `data` is decoded into it while an engine is built.
    cache : Cache, optional
        The same, and exported graphs, of earlier runs; see `cache.user_cache`.
    """

    def __init__(
        self,
        network: NetworkSpec,
        calibration: CalibrationSpec | None = None,
        *,
        data: Any = None,
        stages: Stages | None = None,
        progress: bool = False,
        work: Work | None = None,
        decoded: DecodedImages | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._work, self._kept_pixels, self.cache = work, decoded, cache
        self.network, self.calibration, self.progress = network, calibration or CalibrationSpec(), progress
        self._stages = stages or Stopwatch()
        own = self.calibration.data is not None and not self.calibration.is_table
        self._images = _expanded(self.calibration.data) if own else data
        self._data = data
        self._tables: dict[str, CalibrationTable] = {}
        self._first_keys: dict[EngineSpec, str | None] = {}
        self._sampled: Any = None
        self._deepest, self._given_graph = self, False

    def with_calibration(self, calibration: CalibrationSpec) -> "EngineBuilder":
        """Return a builder of the same float graph with another calibration."""
        other = EngineBuilder(self.network, calibration, **self._options())
        other.backbone, other.exported, other._given_graph = self.backbone, self.exported, True
        return other

    def _options(self) -> dict[str, Any]:
        """Return what a builder of another network or calibration has in common with this one."""
        return {
            "data": self._data,
            "stages": self._stages,
            "progress": self.progress,
            "work": self._work,
            "decoded": self._kept_pixels,
            "cache": self.cache,
        }

    def at_cuts(self, cuts: Sequence[str], pool_layers: Sequence[bool] | None = None) -> "list[EngineBuilder]":
        """Return a builder of each of several cuts, from one export, which are calibrated at the last, the deepest.

        Parameters
        ----------
        cuts : sequence of str
        pool_layers : sequence of bool, optional
            Whether each pools earlier layers; by default what the network says.

        Raises
        ------
        UsageError
            If the calibration is a table, which is of one cut.
        """
        if self.calibration.is_table:
            raise UsageError(
                "a calibration table is of one cut, and several are to be calibrated; give images as calibration"
            )
        pools = pool_layers or [self.network.pool_layers] * len(cuts)
        networks = [replace(self.network, cut=cut, pool_layers=each) for cut, each in zip(cuts, pools, strict=True)]
        found = [EngineBuilder(network, self.calibration, **self._options()) for network in networks]
        for each in found:
            each.backbone, each._images, each._deepest, each._given_graph = self.backbone, self._images, found[-1], True
        pixels, preprocessing = self._export_arguments()
        with self._stages("build"):
            layers = [each.layers for each in found]
            exported = export_cuts(self.backbone, cuts, pixels, *preprocessing, layers)
        for each, graph in zip(found, exported, strict=True):
            each.exported = graph
            if "sample" in self.__dict__:
                each.sample, each._sampled = self.sample, self._sampled
        return found

    @cached_property
    def backbone(self) -> Backbone:
        """The whole network; its cut has been validated."""
        network = self.network
        with self._stages("build"):
            opened = open_backbone(network.backbone, network.weights, network.size, network.seed)
            opened.resolve(network.cut)
        return opened

    @cached_property
    def sample(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Calibration and held-out images: uint8 arrays of shape (n, height, width, channels), or None."""
        if self._images is None:
            return None, None
        if self._deepest is not self:
            return self._deepest.sample
        calibration, network = self.calibration, self.network
        self._sampled = self._sample_part() if self._stores else None
        with self._stages("decode"):
            return calibration_sample(
                self._images,
                self._input_shape,
                calibration.images,
                check_resize(network.resize),
                network.seed,
                self.progress,
                calibration.held_out,
                self._decoder,
            )

    @property
    def _decoder(self) -> Decoder | None:
        return None if self._kept_pixels is None else self._kept_pixels.keep

    def decode_ahead(self, spec: EngineSpec) -> None:
        """Begin to decode in the background what an engine is calibrated on, then all of `data`."""
        if self._kept_pixels is None:
            return
        calibration, shape = self.calibration, (self.backbone.size, check_resize(self.network.resize))
        if isinstance(self._images, list) and spec.precision != "fp32":
            count = sample_count(calibration.images, calibration.held_out)
            chosen = choose_images(self._images, count, self.network.seed)
            self._kept_pixels.ahead(chosen, *shape, self.backbone.channels)
        if isinstance(self._data, list):
            self._kept_pixels.ahead(self._data, *shape, self.backbone.channels)

    @cached_property
    def exported(self) -> Exported:
        """The float graph."""
        if (kept := self._kept_graph) is not None:
            with suppress(AurevoirError), self._stages("build"):
                check_unpacked(kept)
                return kept
        key = self._graph_key()
        pixels, preprocessing = self._export_arguments()
        with self._stages("build"):
            layers = self.layers
            if self.network.pool_layers and not layers:
                raise UsageError(
                    f"{self.backbone.name} has no layer before {self.backbone.resolve(self.network.cut)!r} to pool, of "
                    "those that `aurevoir cuts` lists; leave pool_layers (--pool-layers) out"
                )
            made = export_backbone(self.backbone, self.network.cut, pixels, *preprocessing, layers)
        # A file that changed meanwhile has another key.
        if self.cache is not None and key is not None and key == self._graph_key():
            self.cache.put("graph", key, pack_graph(made))
        return made

    @property
    def layers(self) -> list[str]:
        """The earlier cuts whose channel means are pooled too; the first of several cuts has none."""
        return layers_before(self.backbone, self.network.cut) if self.network.pool_layers else []

    @cached_property
    def _kept_graph(self) -> Exported | None:
        """The float graph of the cache, where that has it."""
        if self.cache is None or (key := self._graph_key()) is None:
            return None
        if (entry := self.cache.get("graph", key)) is None:
            return None
        with suppress(AurevoirError), self._stages("build"):
            return unpack_graph(entry)
        return None

    def _graph_key(self) -> str | None:
        part = None if self.cache is None else self._network_part()
        return None if part is None else key_of("graph", part)

    def _network_part(self) -> list[Any] | None:
        """Return what determines the float graph; None if nothing does that is certain before it is exported."""
        network = self.network
        part = network_part(network)
        part = self._opened_part if part is None else part
        if part is None:
            return None
        measured = from_data(network.normalization)
        sample = self._sample_part() if str(network.weights) == "random" or (measured and self._data is None) else None
        return [part, sample, images_part(None if self._data is None else _expanded(self._data)) if measured else None]

    @cached_property
    def _opened_part(self) -> list[Any] | None:
        # What weights a name has may change; those that were opened tell.
        by_name = isinstance(self.network.backbone, str | Path)
        return network_part(self.network, self.backbone) if by_name else None

    @property
    def sample_is_current(self) -> bool:
        """Whether the files of the calibration and held-out images are what they were when these were decoded."""
        return self._sampled is None or self._sampled == self._sample_part()

    def _sample_part(self) -> Any:
        """Return what determines the calibration and held-out images."""
        calibration = self.calibration
        if self._images is None:
            return None
        count = sample_count(calibration.images, calibration.held_out)
        chosen = choose_images(_expanded(self._images), count, self.network.seed)
        return [calibration.images, calibration.held_out, images_part(chosen)]

    @property
    def needs_images(self) -> bool:
        """Whether the float graph depends on images: by random weights' batch norms, or by normalization ``data``."""
        return self.backbone.needs_images or from_data(self.network.normalization)

    def _export_arguments(self) -> tuple[np.ndarray | None, tuple[Normalization, Resize]]:
        pixels = self.sample[0] if self.backbone.needs_images else None
        return pixels, (self._normalization(), check_resize(self.network.resize))

    def _normalization(self) -> Normalization:
        """Return the normalization, with ``data`` measured on all training images."""
        if not from_data(self.network.normalization):
            return self.network.normalization
        data = self.sample[0] if self._data is None else self._data
        if data is None:
            return self.network.normalization
        shape = self._input_shape
        if isinstance(data, np.ndarray):
            images: ImageArray | ImageFiles = ImageArray(data)
        else:
            resize, description = check_resize(self.network.resize), "normalization" if self.progress else None
            images = ImageFiles(
                data, shape[:2], resize, description=description, channels=shape[2], decoder=self._decoder
            )
        with self._stages("decode"):
            measured = channel_statistics(images.batches())
        return resolve(self.network.normalization, Preprocessing(*measured), lambda: measured)

    @property
    def _input_shape(self) -> tuple[int, int, int]:
        exported: Exported | None = self.__dict__.get("exported") or self._kept_graph
        if exported is not None:
            return exported.input_shape
        return (*self.backbone.size, self.backbone.channels)

    def table(self, placement: Placement = "conv-inputs", smoke: bool = False) -> CalibrationTable:
        """Return the calibration table for a placement; one for ``shared-concat`` covers all placements.

        With `smoke`, a native crash in calibration raises an error; see `calibrate.calibrate`.
        """
        tables = self._tables
        if "shared-concat" in tables:
            return tables["shared-concat"]
        if placement not in tables:
            if self._deepest is not self:
                tables[placement] = self._deepest.table(placement, smoke).of_part(self.exported.graph, placement)
            elif self.calibration.is_table:
                tables[placement] = self._loaded_table()
            else:
                tables[placement] = self._calibrated(placement, smoke)
        return tables[placement]

    def _loaded_table(self) -> CalibrationTable:
        data = self.calibration.data
        return data if isinstance(data, CalibrationTable) else read_table(Path(data), self.exported)

    def _calibrated(self, placement: Placement, smoke: bool) -> CalibrationTable:
        exported, pixels, method = self.exported, self.sample[0], self.calibration.method

        def made() -> CalibrationTable:
            with self._stages("calibrate"):
                return calibrate(exported, pixels, method, self.progress, placement, smoke)

        if not self._stores:
            return made()
        key = key_of("table", digest(exported.graph), _pixels_key(pixels), method, placement)
        for store, kept in _found(self._stores, "table", key):
            with suppress(AurevoirError):
                table = CalibrationTable.from_json(kept)
                table.check(exported.graph)
                store.say("the calibration table")
                return table
        table = made()
        for store in self._stores:
            store.put("table", key, table.to_json().encode())
        return table

    @property
    def _stores(self) -> list[Store]:
        return [each for each in (self._work, self.cache) if each is not None]

    def kept(self, spec: EngineSpec) -> Engine | None:
        """Return an engine that was built of the same inputs before, from the work folder or the cache."""
        key = self._first_keys.setdefault(spec, self._engine_key(spec))
        return None if key is None else self._kept_engine(key, spec)

    @lasting_child()
    def build(self, spec: EngineSpec, outputs: Sequence[str] = ()) -> Engine:
        """Build one engine.

        Parameters
        ----------
        spec : EngineSpec
        outputs : sequence of str
            Those that are asked for next: compiled while the fidelity is measured, where that is on a CPU.

        Raises
        ------
        UsageError, AurevoirError, MissingPackageError, ThresholdMissedError
            See `build_engine`.
        """
        runtime = _runtime(spec)
        if (kept := self.kept(spec)) is not None:
            return kept
        if spec.smoke and spec.plan.target is None:
            start_child(runtime, spec.precision)
        self.decode_ahead(spec)
        if spec.precision == "int8" and not self.calibration.is_table:
            compile_ahead(["magnitudes"], self.progress)
        if spec.precision != "fp32":
            # Exported first: the images are decoded meanwhile.
            self.exported  # noqa: B018
        used, held_out = self.sample if spec.precision != "fp32" else (None, None)
        if spec.min_sign_agreement is not None and held_out is None:
            raise UsageError(
                "min_sign_agreement needs 4 or more images to measure on; give a folder of them as calibration"
            )
        engine = self._built(spec, runtime, used, held_out, outputs)
        # A file that has changed since it was first read has another key.
        key = self._first_keys[spec]
        if key is not None and key == self._engine_key(spec) and self._deepest.sample_is_current:
            remember(engine.digest())
            for store in self._stores_of(spec):
                store.put("engine", key, pack_engine(engine))
        return engine

    def _engine_key(self, spec: EngineSpec) -> str | None:
        """Return the key of what the engine depends on, or None if it is kept nowhere."""
        if not self._stores_of(spec):
            return None
        network = None if self._given_graph else self._network_part()
        if network is None:
            network = [*graph_part(self.exported), *graph_part(self._deepest.exported)]
        calibration = self.calibration
        method = calibration.method if spec.precision == "int8" else None
        table = table_part(calibration.data) if calibration.is_table else None
        sample = self._sample_part() if spec.precision != "fp32" else None
        runtime = _runtime(spec)
        device = spec.device or ("" if spec.plan.target else default_device(runtime))
        return key_of("engine", network, sample, method, table, asdict(spec), runtime, device)

    def _stores_of(self, spec: EngineSpec) -> list[Store]:
        # A timing cache changes with each build, and which precision is faster is asked of the machine as it is now.
        lasting = spec.plan.timing_cache is None and not spec.prefer_faster
        return [each for each in self._stores if lasting or each is self._work]

    def _kept_engine(self, key: str, spec: EngineSpec) -> Engine | None:
        for store, kept in _found(self._stores_of(spec), "engine", key):
            # One that is damaged, or not for this machine, is built again.
            with suppress(AurevoirError), self._stages("build"):
                engine = unpack_engine(kept, spec.device)
                store.say("the engine")
                return engine
        return None

    def draft(self, spec: EngineSpec) -> Engine:
        """Return the engine as `build` assembles it, before it has a plan, is checked, and is measured."""
        used = self.sample[0] if spec.precision != "fp32" else None
        make, table = self._make(spec, _runtime(spec), used)[0], self._table_for(spec)
        with self._stages("build"):
            return make(table)

    def _table_for(self, spec: EngineSpec) -> CalibrationTable | None:
        return self.table(spec.placement, spec.smoke) if spec.precision == "int8" else None

    def _make(
        self, spec: EngineSpec, runtime: str, used: np.ndarray | None
    ) -> tuple[Callable[[CalibrationTable | None], Engine], Callable[[], Engine]]:
        """Return what assembles an engine of a table, and its peer in the runtime's narrowest float precision."""
        exported = self.exported
        with self._stages("build"):
            if spec.runtime == "auto" and spec.plan.target is None:
                graph = exported.graph.SerializeToString()
                runtime = choose_runtime("auto", spec.precision, device=spec.device, graph=graph)
            keep = keep_in_float32(exported, runtime, spec.precision, used)
        assembled = partial(assemble, exported, device=spec.device, target=spec.plan.target, keep_float32=keep)
        options: dict[str, Any] = {"activation_dtype": spec.activation_dtype, "placement": spec.placement}
        return (
            partial(assembled, spec.precision, runtime, **options),
            lambda: assembled(narrowest_float(runtime, spec.device), runtime),
        )

    def _built(
        self,
        spec: EngineSpec,
        runtime: str,
        used: np.ndarray | None,
        held_out: np.ndarray | None,
        outputs: Sequence[str],
    ) -> Engine:
        exported, ahead = self.exported, spec.plan.target is not None
        table = self._table_for(spec)
        make, make_peer = self._make(spec, runtime, used)
        with self._stages("build"), self._floats_meanwhile(spec, held_out) as floats:
            engine = self._finish(make(table), spec)
        if table is not None and not ahead:
            peer = make_peer()
            reached = self._reduced_table(spec, table, engine, peer, make)
            if floats is not None and (spec.compare_speed or spec.prefer_faster):
                wait([floats])
            with self._stages("build"):
                mixed = None if reached is table else self._finish(make(reached), spec)
                engine = self._compared(engine, mixed, peer, spec)
        if outputs:
            engine.keep_compiled(self.cache)
        if spec.measure and held_out is not None and spec.precision != "fp32":
            with self._stages("build"), _compiling(engine, () if ahead else outputs) as compiled:
                here = stand_in(engine, exported) if ahead else engine
                if floats is not None:
                    floats.result()
                engine = engine if here is None else with_fidelity(engine, exported, held_out, here, self._reference)
                if engine.manifest.weight_levels == NARROW_LEVELS:
                    _say_cost(engine, exported, held_out, self._reference)
            if engine is not compiled and compiled is not None:
                engine.take_over(compiled, outputs)
        _require_agreement(engine, spec.min_sign_agreement)
        return engine

    @contextmanager
    def _floats_meanwhile(self, spec: EngineSpec, held_out: np.ndarray | None) -> "Iterator[Future[np.ndarray] | None]":
        """Compute the features to compare with in a thread, while a child process runs the engine.

        Only where calibration has run the float graph in a child process before.
        """
        calibrated = spec.precision == "int8" and not self.calibration.is_table
        if not (calibrated and spec.smoke and spec.measure) or held_out is None:
            yield None
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="float")
        try:
            yield pool.submit(getattr, self, "_reference")
        finally:
            pool.shutdown(wait=False)

    def _finish(self, engine: Engine, spec: EngineSpec) -> Engine:
        engine.build_plan(spec.plan, self.progress)
        if spec.smoke and spec.plan.target is None:
            # Images that were decoded for other purposes are real ones at no cost.
            pixels = self.sample[0] if "sample" in self.__dict__ else None
            first_inference(engine, self.exported.graph, pixels)
        return engine

    def _reduced_table(
        self,
        spec: EngineSpec,
        table: CalibrationTable,
        engine: Engine,
        peer: Engine,
        make: Callable[[CalibrationTable], Engine],
    ) -> CalibrationTable:
        """Return a table without the tensors that must stay in floating point for `min_sign_agreement`."""
        target, held_out = spec.min_sign_agreement, self.sample[1]
        if target is None or held_out is None:
            return table

        def planned(reduced: CalibrationTable) -> Engine:
            made = make(reduced)
            made.build_plan(spec.plan, self.progress)
            return made

        with self._stages("calibrate"):
            peer.build_plan(spec.plan, self.progress)
            ceiling = self._measured(peer, held_out).manifest.sign_agreement or 0.0
            if ceiling < target > (self._measured(engine, held_out).manifest.sign_agreement or 0.0):
                raise ThresholdMissedError(
                    f"min_sign_agreement {target} is out of reach: with every layer in {peer.precision} the sign "
                    f"agreement with fp32 is {ceiling:.4f}; give at most that, or precision fp32"
                )
            reached, left = reach_sign_agreement(
                self.exported, table, target, held_out, planned, self.progress, spec.placement, self._reference
            )
        return reached if left else table

    def _measured(self, engine: Engine, held_out: np.ndarray) -> Engine:
        return with_fidelity(engine, self.exported, held_out, reference=self._reference)

    @cached_property
    def _reference(self) -> np.ndarray:
        """The features of the held-out images in fp32."""
        held_out = self.sample[1]
        assert held_out is not None
        return float_features(self.exported, held_out)

    def _compared(self, engine: Engine, mixed: Engine | None, peer: Engine, spec: EngineSpec) -> Engine:
        """Time an int8 engine, or a mixed-precision one, against its float peer; return the one to keep."""
        if not (spec.measure and spec.compare_speed) and not spec.prefer_faster:
            return mixed or engine
        peers: Mapping[str, Engine] = {peer.precision: peer}
        if mixed is not None:
            peers, engine = {**peers, "int8 throughout": engine}, mixed
        peer.build_plan(spec.plan, self.progress)
        if spec.smoke:
            first_batches(engine, *peers.values())
        with nullcontext() if self._kept_pixels is None else self._kept_pixels.paused():
            engine = with_speed(engine, peers, self.progress)
        turns = engine.images_per_second_by_turn
        if not spec.prefer_faster or is_faster(turns["int8"], turns[peer.precision]) is not False:
            return engine
        return self._finish(peer, spec).with_speeds(engine.images_per_second, turns)


@contextmanager
def _compiling(engine: Engine, outputs: Sequence[str]) -> Iterator[Engine | None]:
    """Let a thread compile an engine for some outputs; yield the engine, or None where there is nothing to do."""
    if not outputs or engine.device != "cpu":
        yield None
        return
    batch = np.zeros((engine.batch_size, *engine.input_shape), "uint8")
    with ThreadPoolExecutor(1, thread_name_prefix="compile") as pool:
        # What it refuses, the first batch of images says as well.
        pool.submit(engine.run, batch, outputs)
        yield engine


def _require_agreement(engine: Engine, target: float | None) -> None:
    found = engine.manifest.sign_agreement or 0.0
    if target is not None and found < target:
        kept = f" and {len(engine.manifest.in_float)} tensors in floating point" if engine.manifest.in_float else ""
        raise ThresholdMissedError(
            f"min_sign_agreement {target} is out of reach: with {engine.precision}{kept} the sign agreement with fp32 "
            f"is {found:.4f}; give at most that, or another precision"
        )


def _say_cost(engine: Engine, exported: Exported, held_out: np.ndarray, reference: np.ndarray) -> None:
    """Warn of what fewer levels of weights cost on this processor."""
    what = f"weights have {NARROW_LEVELS} levels, as products of more would saturate on this processor, without VNNI"
    with suppress(AurevoirError):
        if (found := cost_of_narrow_weights(engine, exported, held_out, reference)) is not None:
            whole, narrow = found
            what += (
                f"; in exact arithmetic {narrow:.1%} of the signs are those of fp32, and with {LEVELS} levels, as "
                f"where there is VNNI, {whole:.1%}"
            )
    warnings.warn(what, AurevoirWarning, stacklevel=2)


def _pixels_key(pixels: np.ndarray | None) -> str | None:
    return None if pixels is None else pixels_digest(pixels)


def _runtime(spec: EngineSpec) -> str:
    if spec.plan.target is not None:
        return choose_builder(spec.runtime, spec.precision, spec.plan.target)
    runtime = choose_runtime(spec.runtime, spec.precision, device=spec.device)
    check_device(runtime, spec.device or default_device(runtime))
    if not builds_plans(runtime) and spec.plan != PlanSpec():
        raise UsageError(f"workspace, timing_cache and batches have no effect with runtime {runtime!r}; leave them out")
    return runtime


def _expanded(images: Any) -> Any:
    """Return an array unchanged, and paths with folders expanded."""
    return (
        images
        if isinstance(images, np.ndarray)
        else list_images([images] if isinstance(images, str | Path) else images)
    )


def _found(stores: Sequence[Store], kind: str, key: str) -> Iterator[tuple[Store, bytes]]:
    for store in stores:
        if (kept := store.get(kind, key)) is not None:
            yield store, kept
