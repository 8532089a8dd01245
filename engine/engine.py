"""Engines compute features or sign bits of uint8 images, and are stored in engine files."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import onnx

from ..archive import pack, unpack_bytes
from ..calibration.graph.edit import POOLED, leading_to, prune
from ..calibration.placement import PRODUCTS
from ..calibration.table import CalibrationTable
from ..errors import AurevoirError, UsageError
from ..kept import Store
from ..kernels.memory import blocks
from ..saving import write_atomically
from .checked import digest, remember
from .graph_check import check_graph
from .machine import check_machine, plan_mismatch
from .manifest import CLASSIFIER_OUTPUTS, Manifest, read_manifest, read_speeds
from .pointers import IMAGES, check_pointers, host_memory, stream_handle, writable
from .runtimes import (
    batch_size,
    builds_plans,
    calls_at_once,
    check_device,
    check_precision,
    check_settings,
    compile_graph,
    default_device,
    plan_runtime,
    require_runtime,
)
from .runtimes.base import Compiled
from .runtimes.device import on_gpu, open_device
from .runtimes.gpu_run import GpuRunner, check_images, host_array, write_rows
from .spec import PlanSpec

MANIFEST, GRAPH, TABLE, PLAN, SPEEDS = "manifest.json", "model.onnx", "calibration.json", "plan.bin", "speeds.json"


class Classified(NamedTuple):
    """Scores, probabilities and labels; see `Engine.classify`."""

    scores: Any
    probabilities: Any
    label: Any


class Engine:
    """A truncated network in one precision on one runtime; safe to share between threads.

    Its copies, deep copies and scikit-learn's clones are the engine itself. Its pickle is its engine file with its
    device; unpickling checks that as `load_engine` checks a file, but for its first run.

    Parameters
    ----------
    manifest : Manifest
    graph : bytes
        The ONNX graph: input ``images``; outputs ``features``, ``bits`` and ``pooled``, or of a whole classifier
        ``scores``, ``probabilities`` and ``label``.
    table : CalibrationTable or None
    device : str, optional
        Device name of the runtime; by default its first.
    plan : bytes, optional
        The plan that NVIDIA's runtimes built from the graph, for one GPU architecture.
    images_per_second : dict of float, optional
        Throughput of an int8 engine and its float peer by precision, timed in turn on the machine that built it;
        ``int8 throughout`` is the engine with all tensors quantized, if some are kept in floating point.
    images_per_second_by_turn : dict of lists, optional
        The same of each turn, of which those are the medians; not in the engine file.

    Attributes
    ----------
    built : float or None
        Of an engine that was taken from the cache or a work folder: when it was built and its speeds were measured, in
        seconds since the epoch.
    """

    def __init__(
        self,
        manifest: Manifest,
        graph: bytes,
        table: CalibrationTable | None = None,
        device: str | None = None,
        plan: bytes | None = None,
        images_per_second: Mapping[str, float] | None = None,
        images_per_second_by_turn: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.images_per_second = dict(images_per_second or {})
        self.images_per_second_by_turn = {name: list(each) for name, each in (images_per_second_by_turn or {}).items()}
        self.manifest, self.graph, self.table, self.plan = manifest, graph, table, plan
        self.built: float | None = None
        self._device = device
        self._settings: dict[str, int] = {}
        self._store: Store | None = None
        self._compiled: dict[tuple[str, ...], Compiled | GpuRunner] = {}
        self._runner: GpuRunner | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        made = self.manifest
        of = f", classifier of {len(made.labels)}" if made.labels else ""
        return (
            f"<Engine {made.backbone} cut at {made.cut}, {made.precision} on {made.runtime}, m = {made.features}{of}>"
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.manifest.input_shape

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs; files of earlier versions, whose ``manifest.pooled`` is 0, have no ``pooled``."""
        return self.manifest.outputs

    @property
    def features(self) -> int:
        """The number of features per image, m."""
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
        """The device, as the runtime names it."""
        return self._device or default_device(self.runtime)

    @property
    def batch_size(self) -> int:
        """Recommended batch size; larger for a GPU than for a CPU."""
        return batch_size(self.device)

    @property
    def calls_at_once(self) -> int:
        """Recommended number of threads that call it at the same time: more than 1 where a call leaves cores idle."""
        return calls_at_once(self.runtime, self.device)

    @property
    def megabytes(self) -> float:
        """Size of the graph with its weights, in units of 10^6 bytes."""
        return len(self.graph) / 1e6

    @property
    def usual_outputs(self) -> tuple[str, ...]:
        """What a program asks for: ``bits``, with ``pooled`` of several layers, or of a whole classifier everything."""
        return self.outputs if self.manifest.labels else self._with_layers(("bits",))

    @cached_property
    def output_types(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The shape, without the batch axis, and the dtype of each output by name."""
        found = {}
        for value in onnx.load_from_string(self.graph).graph.output:
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            found[value.name] = tuple(axis.dim_value for axis in kind.shape.dim[1:]), str(dtype)
        return found

    def quantized_products(self) -> tuple[int, int]:
        """Return the number of convolutions and matrix products that read int8, and their total number."""
        nodes = leading_to(onnx.load_from_string(self.graph), self.outputs[:1])
        integers: set[str] = set()
        for node in nodes:
            if node.op_type == "DequantizeLinear" or (node.op_type == "Cast" and node.input[0] in integers):
                integers.update(node.output)
        products = [node for node in nodes if node.op_type in PRODUCTS]
        return sum(node.input[0] in integers for node in products), len(products)

    def __call__(self, images: Any, out: Any = None) -> Any:
        """Compute features.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, channels)
            RGB, or the channels that the network was made for. A NumPy array, or what has DLPack, the array interface
            or the buffer protocol: a ``memoryview`` or a ctypes array of that shape, or ``bytes`` and ``array.array``
            that hold whole images.
        out : float32 array of shape (batch, m), optional
            A C-contiguous NumPy array, or one of the host with DLPack, to write the features into.

        Returns
        -------
        features : float32 array of shape (batch, m)
            `out`, or a new NumPy array; for images on a GPU and an engine that runs there, an array on that GPU.

        Raises
        ------
        UsageError
            If the dtype or the shape does not match.
        AurevoirError
            If the network returns another number of rows than there are images.
        """
        return self._only("features", images, out)

    def bits(self, images: Any, out: Any = None) -> Any:
        """Compute the packed sign bits of features, without transferring the features.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, 3)
        out : uint8 array of shape (batch, ceil(m / 8)), optional
            See `__call__`.

        Returns
        -------
        bits : uint8 array of shape (batch, ceil(m / 8))
            Equal to ``numpy.packbits(features > 0, axis=1)``. Below fp32, a runtime may round the two
            outputs differently near zero.
        """
        return self._only("bits", images, out)

    def pooled(self, images: Any, out: Any = None) -> Any:
        """Compute channel means, of what a ReLU leaves of the features, without transferring the features.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, 3)
        out : float32 array of shape (batch, channels), optional
            See `__call__`.

        Returns
        -------
        pooled : float32 array of shape (batch, channels)
            The means of ``max(features, 0)`` over an image's places, summed in float32 in every precision, of features
            as they are rounded for the bits.

        Raises
        ------
        UsageError
            If the engine has no such output, as one of a file of an earlier version, whose ``manifest.pooled`` is 0.
        """
        return self._only(POOLED, images, out)

    def classify(self, images: Any) -> Classified:
        """Compute scores, probabilities and labels, with an engine that `OpticalClassifier.to_engine` made.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, channels)

        Returns
        -------
        scores : float32 array of shape (batch, c)
        probabilities : float32 array of shape (batch, c)
        label : int64 array of shape (batch,), or for a multilabel classifier (batch, c)
            Indices into ``manifest.labels``, or for each label 0 or 1.
        """
        return Classified(**self.run(images, CLASSIFIER_OUTPUTS))

    def run(self, images: Any, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Compute outputs by name, in one pass.

        Parameters
        ----------
        images : uint8 array of shape (batch, height, width, channels)
        outputs : sequence of str, optional
            Some of `outputs`; by default all.

        Returns
        -------
        dict of arrays
            NumPy arrays; for images on a GPU and an engine that runs there, arrays on that GPU.

        Raises
        ------
        UsageError
            If the engine does not have an output.
        """
        names = self.checked_outputs(self.outputs if outputs is None else outputs)
        run = self.runner(*names)
        if isinstance(run, GpuRunner):
            return run(images, list(names))
        pixels = self._on_host(images)
        results = {
            name: np.empty((len(pixels), *self.output_types[name][0]), self.output_types[name][1]) for name in names
        }
        self._write(run, pixels, list(results.values()))
        return results

    def run_pointers(self, addresses: Mapping[str, int], batch: int, stream: Any = None) -> None:
        """Compute outputs of images in memory that the caller owns, into memory that the caller owns.

        For a program that embeds Python, or that holds its buffers itself. What is computed lies in the given memory
        when the call returns; on a GPU, when the stream has come that far. Where the runtime allows it nothing is
        copied.

        Parameters
        ----------
        addresses : mapping of int
            That of ``images``, uint8 (batch, height, width, channels) in C order, and of any of `outputs`, whose shapes
            and dtypes `output_types` has; of memory of the host, or for an engine that runs on a GPU of that GPU.
        batch : int
            The number of images.
        stream : optional
            For an engine on a GPU: the stream to enqueue the work on, of torch, CuPy or PyCUDA or a ``cudaStream_t`` as
            an integer; by default the current stream of the library that aurevoir runs on. It must last as long as
            this thread uses the engine.

        Raises
        ------
        UsageError
            If a name is not one of these, an address is no positive integer or not aligned to its dtype, two memories
            overlap, or a stream is given to an engine that runs on the host. That the memory is the caller's and as
            large as the shapes say cannot be checked: a wrong address or batch ends the process, or worse.
        AurevoirError
            If the network returns another number of rows than there are images, or the runtime fails.
        """
        described = {IMAGES: (self.input_shape, "uint8"), **self.output_types}
        found, batch = check_pointers(addresses, batch, described)
        if stream is not None and not self.device.startswith("cuda"):
            raise UsageError(f"stream {stream!r} has no effect: this engine runs on {self.device!r}; leave it out")
        names = [name for name in self.output_types if name in found]
        run = self.runner(*names)
        if isinstance(run, GpuRunner):
            run.run_pointers(found, batch, None if stream is None else stream_handle(stream))
            return
        arrays = {
            name: host_memory(address, (batch, *described[name][0]), described[name][1])
            for name, address in found.items()
        }
        self._write(run, arrays[IMAGES], [arrays[name] for name in names])

    def _only(self, output: str, images: Any, out: Any = None) -> Any:
        """Compute one output, into a given array or a new one."""
        if out is None:
            return self.run(images, [output])[output]
        run = self.runner(*self.checked_outputs([output]))
        if isinstance(run, GpuRunner):
            raise UsageError(
                f"out is for engines that run on the host, and this one runs on {self.device!r}; leave it out, or "
                "give addresses of the GPU's memory to run_pointers"
            )
        pixels = self._on_host(images)
        shape, dtype = self.output_types[output]
        self._write(run, pixels, [writable(out, (len(pixels), *shape), dtype, pixels)])
        return out

    def checked_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return names of outputs in the order of the graph, in which each set of them is compiled once.

        Raises
        ------
        UsageError
            If the engine does not have one of them.
        """
        if isinstance(names, str) or not names:
            raise UsageError(f"outputs {names!r} are no list of names; give some of {', '.join(self.outputs)}")
        for name in names:
            if name not in self.outputs:
                other = self._instead(name)
                raise UsageError(f"this engine computes {', '.join(self.outputs)}, and no {name}; {other}")
        return tuple(name for name in self.outputs if name in names)

    def _instead(self, name: str) -> str:
        """Say what has an output that this engine has not."""
        if self.manifest.labels:
            return "call `classify`, or give an engine of features"
        if name == POOLED:
            return "its file is of an earlier version, which had no such output: build it again"
        return "build one of a model"

    def _on_host(self, images: Any) -> np.ndarray:
        if on_gpu(images):
            raise UsageError(
                f"the images are on a GPU, and this engine runs on {self.device!r} by {self.runtime!r}, which reads "
                "host memory; copy them to the host, or load the engine on 'cuda'"
            )
        return self._checked(images)

    def _write(self, run: Compiled, images: np.ndarray, results: Sequence[np.ndarray]) -> None:
        """Compute outputs into arrays, where the runtime allows it in place."""
        for which in blocks(len(images), self.batch_size):
            parts = [result[which] for result in results]
            for part, rows in zip(parts, run(images[which], parts), strict=True):
                write_rows(part, rows)

    def runner(self, *outputs: str) -> Compiled | GpuRunner:
        """Return what computes some outputs, such as ``bits``, in their order: of a plan, all."""
        return self._plan_runner() if builds_plans(self.runtime) else self.compiled(*outputs)

    def plan_mismatch(self) -> str:
        """Describe why the plan does not fit this machine; empty if it does, or if there is none."""
        return "" if self.plan is None else plan_mismatch(self.manifest, self.device)

    def build_plan(self, plan: PlanSpec | None = None, progress: bool = False) -> None:
        """Build the plan, if the runtime uses one, for the target or else for this machine's GPU."""
        if not builds_plans(self.runtime) or self.plan is not None:
            return
        module, made, plan = plan_runtime(self.runtime), self.manifest, plan or PlanSpec()
        self.plan = module.build(
            self.graph,
            check_precision(made.precision),
            target=made.target,
            device=self.device,
            batches=plan.batches,
            workspace=plan.workspace,
            timing_cache=None if plan.timing_cache is None else Path(plan.timing_cache),
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

    def with_manifest(self, manifest: Manifest) -> "Engine":
        """Return the same engine with another manifest."""
        return self._with(manifest, self.images_per_second, self.images_per_second_by_turn)

    def with_speeds(
        self, images_per_second: Mapping[str, float], by_turn: Mapping[str, Sequence[float]] | None = None
    ) -> "Engine":
        """Return the same engine with measured speeds."""
        return self._with(self.manifest, images_per_second, by_turn)

    def _with(
        self,
        manifest: Manifest,
        images_per_second: Mapping[str, float],
        by_turn: Mapping[str, Sequence[float]] | None,
    ) -> "Engine":
        engine = Engine(manifest, self.graph, self.table, self._device, self.plan, images_per_second, by_turn)
        engine._store, engine._settings = self._store, self._settings
        return engine

    def with_threads(self, threads: int | None = None, streams: int | None = None) -> "Engine":
        """Return the same engine on a number of threads of the CPU, and of streams that run at the same time.

        OpenVINO takes both, ONNX Runtime and torch take threads, torch's being those of the process. None leaves the
        choice to the runtime. They belong to the machine, and are in neither the engine's file nor its pickle.

        Raises
        ------
        UsageError
            If one is below 1, or the runtime does not take it on the engine's device.
        """
        engine = self.with_manifest(self.manifest)
        engine._settings = check_settings(self.runtime, self.device, {"threads": threads, "streams": streams})
        return engine

    def _checked(self, images: Any) -> np.ndarray:
        pixels = host_array(images, self.input_shape)
        check_images(pixels, self.input_shape)
        return pixels

    def compiled(self, *outputs: str) -> Compiled | GpuRunner:
        """Return a function that computes only some outputs, such as ``bits``, in their order; see `runtimes`."""
        with self._lock:
            if outputs not in self._compiled:
                require_runtime(self.runtime, self.precision)
                check_device(self.runtime, self.device)
                made = self._with_layers(outputs)
                graph = prune(onnx.load_from_string(self.graph), made).SerializeToString()
                precision = check_precision(self.precision)
                options = self._settings, self._store
                run = compile_graph(self.runtime, graph, precision, self.device, *options)
                self._compiled[outputs] = run if made == outputs else _some(run, [made.index(name) for name in outputs])
            return self._compiled[outputs]

    def _with_layers(self, outputs: tuple[str, ...]) -> tuple[str, ...]:
        """Return outputs, with the channel means if those are of several layers.

        Where a layer is read besides, a runtime rounds differently behind it: bits would differ without the means.
        """
        if not self.manifest.pooled_layers:
            return outputs
        return tuple(name for name in self.outputs if name in (*outputs, POOLED))

    def keep_compiled(self, store: Store | None) -> None:
        """Keep what is compiled from now on in a store, and take it from there, where the runtime can do so."""
        self._store = store

    def take_over(self, other: "Engine", outputs: Sequence[str]) -> None:
        """Take over what an engine of the same graph, runtime and device has compiled to compute some outputs."""
        names = self.checked_outputs(outputs)
        with other._lock:
            found = other._compiled.get(names)
        if found is not None:
            with self._lock:
                self._compiled[names] = found

    def parts(self) -> dict[str, bytes]:
        """Return the parts of the engine file, except the manifest."""
        parts = {GRAPH: self.graph}
        if self.table is not None:
            parts[TABLE] = self.table.to_json().encode()
        if self.plan is not None:
            parts[PLAN] = self.plan
        return parts

    def to_bytes(self, speeds: bool = False) -> bytes:
        """Return the engine file, including the plan if the runtime uses one.

        The same engine gives the same bytes, unless measured `speeds` are kept in it.
        """
        parts = self._archive()
        if speeds and self.images_per_second:
            parts[SPEEDS] = json.dumps(self.images_per_second).encode()
        return pack(parts)

    def _archive(self) -> dict[str, bytes]:
        self.build_plan()
        parts = self.parts()
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        return {MANIFEST: self.manifest.to_json(digests), **parts}

    def save(self, path: Path | str, speeds: bool = False) -> None:
        """Write the engine file atomically.

        Two builds from the same inputs give the same bytes, unless `speeds`, the measured `images_per_second`, are
        kept in the file.
        """
        write_atomically(Path(path), self.to_bytes(speeds))
        remember(self.digest())

    def digest(self) -> str:
        """Return the SHA-256 of what decides how it runs on this machine; see `checked`."""
        return digest(self.manifest, self.graph, self.plan, self.device)

    @classmethod
    def from_parts(cls, parts: dict[str, bytes], source: object, device: str | None = None) -> "Engine":
        """Return the engine of the parts of an engine file; error messages name `source`.

        Raises
        ------
        AurevoirError
            If they are corrupted, not an engine of this schema, or contradict each other.
        """
        parts = dict(parts)
        manifest, digests, speeds = read_manifest(parts.pop(MANIFEST, b"{}"), source)
        speeds = read_speeds(parts.pop(SPEEDS, speeds), source)
        for name, data in parts.items():
            if digests.get(name) != hashlib.sha256(data).hexdigest():
                raise AurevoirError(f"{source}: part {name} does not match its manifest; build it again")
        if missing := {GRAPH, *digests}.difference(parts):
            raise AurevoirError(f"{source}: part {min(missing)} is missing; build it again")
        if PLAN in parts and not builds_plans(manifest.runtime):
            raise AurevoirError(f"{source} holds a plan, which runtime {manifest.runtime!r} has not; build it again")
        if TABLE in parts and manifest.precision != "int8":
            raise AurevoirError(f"{source} is {manifest.precision} with a calibration table; build it again")
        table = _read_table(parts[TABLE], manifest, source) if TABLE in parts else None
        check_graph(parts[GRAPH], manifest, source)
        return cls(manifest, parts[GRAPH], table, device, parts.get(PLAN), speeds)

    def __copy__(self) -> "Engine":
        return self

    def __deepcopy__(self, memo: object) -> "Engine":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.to_bytes(speeds=True), self._device)


def _some(run: Compiled | GpuRunner, which: Sequence[int]) -> Compiled | GpuRunner:
    """Return what computes only some of the outputs for its caller."""
    if isinstance(run, GpuRunner):
        return run

    def some(images: np.ndarray, into: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        results = run(images)
        return [results[index] for index in which]

    return some


def _read_table(data: bytes, manifest: Manifest, source: object) -> CalibrationTable:
    try:
        table = CalibrationTable.from_json(data)
    except AurevoirError as error:
        raise AurevoirError(f"{source}: part {TABLE}: {error}") from None
    if table.graph != manifest.graph:
        raise AurevoirError(f"{source}: its calibration table is of another graph; build it again")
    return table


_SHARED: WeakValueDictionary[tuple[bytes, str | None], Engine] = WeakValueDictionary()
_LATEST: list[Engine] = []


def _unpickled(file: bytes, device: str | None) -> Engine:
    """Return the engine of a pickle, or the one that this process already has of it.

    joblib sends a worker process the same engine with every task, and forgets it after the task: a worker keeps the
    latest one, so that it is compiled once.
    """
    key = (hashlib.sha256(file).digest(), device)
    engine = _SHARED.get(key)
    if engine is None:
        source = "the pickled engine"
        engine = Engine.from_parts(unpack_bytes(file, source), source, device)
        check_machine(engine.manifest, device, source)
        if fault := engine.plan_mismatch():
            raise AurevoirError(f"{source}: {fault}; load its engine file with rebuild=True, or build it again")
        engine = _SHARED.setdefault(key, engine)
    if parent_process() is not None:
        _LATEST[:] = [engine]
    return engine
