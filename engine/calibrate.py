"""Calibration of an exported backbone: what its tensors hold, and which thresholds keep its signs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..calibration.fidelity import FidelityMeter, TensorFidelity
from ..calibration.graph.edit import digest, prune
from ..calibration.graph.overflow import overflowing, with_sizes
from ..calibration.histograms import Run, observe, with_means
from ..calibration.placement import Placement, quantizable, units, weighted
from ..calibration.quantize import dequantized, quantize
from ..calibration.search import Evaluate, Thresholds, keep_most_signs, leave_in_float
from ..calibration.table import CalibrationTable, pixels_digest
from ..calibration.thresholds import METHODS, NATIVE, SIGN, Method, check_method, choose_thresholds
from ..calibration.trt_cache import read_cache
from ..errors import AurevoirError, UsageError
from ..kernels.bits import agreement
from ..kernels.memory import block_length, blocks, memory_budget
from ..progress import progress_bar
from .assemble import assemble, resolve_activation_dtype
from .engine import Engine
from .export import tensor_shapes
from .float_graph import Exported
from .runtimes import HOST_BATCH, calibrated_for, graph_runtime, reference_runtime, wants_float16_body, weight_levels
from .runtimes.base import Compiled
from .runtimes.gpu_run import GpuRunner
from .sample import hold_out

Make = Callable[[CalibrationTable], Engine]
"""Makes an int8 engine from a table."""


def calibrate(
    exported: Exported,
    pixels: np.ndarray | None,
    method: Method = "percentile",
    progress: bool = False,
    placement: Placement = "conv-inputs",
) -> CalibrationTable:
    """Observe the float graph on images and set the threshold of every tensor that is quantized.

    Parameters
    ----------
    exported : Exported
    pixels : uint8 array of shape (n, height, width, 3)
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
        ``sign`` chooses among the others, group by group of neighbouring tensors, what keeps most
        signs of the final features on a quarter of the images, which the others do not see;
        ``native`` is TensorRT 10's own calibrator, on an NVIDIA GPU.
    progress : bool
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
        A table for one of the last two serves all.

    Raises
    ------
    UsageError
        If there are no images, or the method or the placement is not known.
    AurevoirError
        If the graph holds no convolution, or an activation is not finite.
    """
    check_method(method)
    if pixels is None or not len(pixels):
        raise UsageError("int8 needs calibration images or a calibration table; give a folder (calibration=...)")
    names = quantizable(exported.graph, placement)
    if not names:
        raise AurevoirError("the graph holds no convolution to quantize; use precision fp32 or bf16")
    if method == NATIVE:
        return _calibrated_natively(exported, pixels, progress)
    seen, kept_back = (pixels, None) if method != SIGN else hold_out(pixels)
    batches = (seen[which] for which in blocks(len(seen), _observed_batch(exported, names)))
    with progress_bar(total=len(seen), desc="calibrate", unit="img", show=progress) as bar:
        histograms, means = observe(_observer(exported.graph, names, bar.update), names, batches)
    table = CalibrationTable(method, digest(exported.graph), pixels_digest(pixels), {}, means, placement)
    if method != SIGN:
        return replace(table, thresholds=choose_thresholds(histograms, method))
    if kept_back is None:
        raise UsageError(f"method 'sign' needs at least 4 calibration images, not {len(pixels)}")
    candidates = {name: choose_thresholds(histograms, name) for name in METHODS}
    with progress_bar(desc="sign", unit="engine", show=progress) as bar:
        evaluate = _evaluator(exported, table, kept_back, _maker(exported, placement), bar.update)
        return replace(table, thresholds=keep_most_signs(candidates, evaluate))


def _calibrated_natively(exported: Exported, pixels: np.ndarray, progress: bool) -> CalibrationTable:
    from .runtimes.on_tensorrt import native_cache

    graph = prune(exported.graph, ["features"]).SerializeToString()
    cache = native_cache(graph, pixels, min(HOST_BATCH, len(pixels)), progress)
    return replace(_table_of_cache(cache, "the native calibrator's cache", exported), images=pixels_digest(pixels))


def reach_sign_agreement(
    exported: Exported,
    table: CalibrationTable,
    target: float,
    pixels: np.ndarray,
    make: Make | None = None,
    progress: bool = False,
    placement: Placement = "conv-inputs",
) -> tuple[CalibrationTable, list[str]]:
    """Leave the fewest tensors in floating point that bring sign agreement to a target.

    Parameters
    ----------
    exported : Exported
    table : CalibrationTable
    target : float
        Share of signs that are to agree with fp32.
    pixels : uint8 array of shape (n, height, width, 3)
        Images to measure on; other ones than the table's.
    make : callable, optional
        From a table to the int8 engine that is to reach the target; None stands for the reference
        runtime's.
    progress : bool
    placement : str

    Returns
    -------
    table : CalibrationTable
        With the thresholds of the tensors that stay quantized.
    left : list of str
        Tensors left in floating point, most sensitive first.
    """
    with progress_bar(desc="sensitivity", unit="engine", show=progress) as bar:
        evaluate = _evaluator(exported, table, pixels, make or _maker(exported, placement), bar.update)
        together = [unit for unit in units(exported.graph, placement) if table.thresholds.keys() >= set(unit)]
        thresholds, left = leave_in_float(table.thresholds, together, evaluate, target)
    return replace(table, thresholds=thresholds), left


def _maker(exported: Exported, placement: Placement) -> Make:
    return lambda table: assemble(exported, "int8", reference_runtime(), table, placement=placement)


def _evaluator(
    exported: Exported, table: CalibrationTable, pixels: np.ndarray, make: Make, done: Callable[[], Any]
) -> Evaluate:
    """Return what measures thresholds by the sign agreement of an int8 engine with fp32."""
    reference = assemble(exported, "fp32", reference_runtime()).bits(pixels)

    def evaluate(thresholds: Thresholds) -> float:
        engine = make(replace(table, thresholds=thresholds))
        done()
        return agreement(engine.bits(pixels), reference, engine.features)

    return evaluate


def keep_in_float32(exported: Exported, runtime: str, precision: str, pixels: np.ndarray | None) -> list[str]:
    """Return what an engine with a float16 body keeps in float32, as far as there are images to tell."""
    if pixels is None or not wants_float16_body(runtime, precision):
        return []
    return find_overflow(exported, pixels)


def find_overflow(exported: Exported, pixels: np.ndarray) -> list[str]:
    """Return the tensors that come near float16's range on uint8 images of shape (n, height, width, 3)."""
    # The packing of the bits holds bytes only.
    graph, names = with_sizes(prune(exported.graph, ["features"]))
    run = _compile(graph, [f"{name}_size" for name in names])
    return overflowing(run, names, (pixels[which] for which in blocks(len(pixels), 4)))


def tensor_fidelity(
    exported: Exported,
    table: CalibrationTable,
    pixels: np.ndarray,
    runtime: str = "auto",
    progress: bool = False,
    placement: Placement = "conv-inputs",
) -> list[TensorFidelity]:
    """Measure every quantized tensor of the int8 graph against the float graph, and the features.

    Parameters
    ----------
    exported : Exported
    table : CalibrationTable
    pixels : uint8 array of shape (n, height, width, 3)
    runtime : str
        Decides the activation dtype; the measurement itself runs with a float32 body.
    progress : bool
    placement : str

    Returns
    -------
    list of TensorFidelity
        In the order of the graph; last the final ``features``.
    """
    names = [name for name in quantizable(exported.graph, placement) if name in table.thresholds]
    name = calibrated_for(runtime)
    activation_dtype, levels = resolve_activation_dtype("auto", name), weight_levels(name)
    low = quantize(exported.graph, table.thresholds, table.means, activation_dtype, placement, levels)
    runs = [
        _compile(graph, [*tensors, "features"])
        for graph, tensors in ((exported.graph, names), (low, [dequantized(name) for name in names]))
    ]
    meters = {name: FidelityMeter() for name in [*names, "features"]}
    with progress_bar(total=len(pixels), desc="fidelity", unit="img", show=progress) as bar:
        for which in blocks(len(pixels), max(1, _observed_batch(exported, names) // 2)):
            for meter, reference, values in zip(meters.values(), *(run(pixels[which]) for run in runs), strict=True):
                meter.add(values, reference)
            bar.update(len(pixels[which]))
    return [meter.result(name, table.thresholds.get(name)) for name, meter in meters.items()]


def read_table(path: Path, exported: Exported) -> CalibrationTable:
    """Read a calibration table, ours or TensorRT's cache, for an exported backbone.

    Raises
    ------
    UsageError
        If there is no such file.
    AurevoirError
        If it is damaged, or belongs to another graph.
    """
    if not path.is_file():
        raise UsageError(f"calibration table {path} does not exist; make one with `aurevoir calibrate`")
    data = path.read_bytes()
    if not data.startswith(b"TRT-"):
        table = CalibrationTable.from_json(data)
        table.check(exported.graph)
        return table
    return _table_of_cache(data, str(path), exported)


def _table_of_cache(data: bytes, source: str, exported: Exported) -> CalibrationTable:
    cache = read_cache(data)
    names = quantizable(exported.graph)
    missing = [name for name in names if name not in cache.thresholds]
    if missing:
        raise AurevoirError(
            f"{source} lacks {len(missing)} of the {len(names)} tensors that are quantized (first: {missing[0]}): "
            "it was made from another graph, or with other tensor names; calibrate anew"
        )
    every = quantizable(exported.graph, "shared-concat")
    placement = "shared-concat" if cache.thresholds.keys() >= set(every) else "conv-inputs"
    thresholds = {name: cache.thresholds[name] for name in every if name in cache.thresholds}
    return CalibrationTable(f"TensorRT {cache.algorithm}", digest(exported.graph), "", thresholds, {}, placement)


def _observed_batch(exported: Exported, names: list[str]) -> int:
    """Return how many images may be observed at once: their tensors all stand in memory together."""
    shapes = tensor_shapes(exported.graph)
    values = sum(int(np.prod([length or 1 for length in shapes.get(name, [])])) for name in names)
    return block_length(8 * values, memory_budget() // 4, HOST_BATCH)


def _observer(graph: onnx.ModelProto, names: list[str], seen: Callable[[int], Any]) -> Run:
    # Biases are corrected for convolutions alone, so only their inputs' means are asked for.
    averaged = list(dict.fromkeys(node.input[0] for node in weighted(graph) if node.op_type == "Conv"))
    extended, means = with_means(graph, averaged)
    compiled = _compile(extended, [*names, *means])

    def run(pixels: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        outputs = compiled(pixels)
        seen(len(pixels))
        tensors, averages = outputs[: len(names)], outputs[len(names) :]
        return dict(zip(names, tensors, strict=True)), dict(zip(averaged, averages, strict=True))

    return run


def _compile(graph: onnx.ModelProto, tensors: list[str]) -> Compiled:
    """Compile the computation of tensors inside a graph, in fp32 on the CPU."""
    compiled = graph_runtime(reference_runtime()).compile(prune(graph, tensors).SerializeToString(), "fp32", "cpu")
    assert not isinstance(compiled, GpuRunner)
    return compiled
