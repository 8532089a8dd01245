"""Calibrate exported backbones: activation histograms, thresholds, sign agreement and overflow."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..calibration.fidelity import FidelityMeter, TensorFidelity, sign_agreement
from ..calibration.graph.edit import digest, prune, tensor_shapes
from ..calibration.graph.overflow import overflowing, with_magnitudes
from ..calibration.histograms import Observations, observe, with_means_and_peaks
from ..calibration.placement import Placement, quantizable, units, weighted
from ..calibration.quantize import check_products, dequantized, quantize
from ..calibration.search import Evaluate, Thresholds, leave_in_float, maximize_sign_agreement
from ..calibration.signed import depthwise_inputs, use_more_levels
from ..calibration.table import CalibrationTable, pixels_digest
from ..calibration.thresholds import METHODS, NATIVE, SIGN, Method, check_method, choose_thresholds
from ..calibration.trt_cache import read_cache
from ..errors import AurevoirError, UsageError
from ..files import read_file
from ..kernels.memory import block_length, blocks, memory_budget
from ..progress import progress_bar
from ..schema import LONGEST
from .assemble import assemble, float_features, resolve_activation_dtype
from .engine import Engine
from .float_graph import Exported
from .observed import Tensors, observe_in_child, runner
from .runtimes import (
    HOST_BATCH,
    calibration_runtime,
    compile_graph,
    reference_runtime,
    wants_float16_body,
    weight_levels,
)
from .runtimes.base import Compiled
from .runtimes.gpu_run import GpuRunner
from .sample import hold_out

_ZERO = 1e-5

Make = Callable[[CalibrationTable], Engine]
"""Assembles an int8 engine from a table."""


def calibrate(
    exported: Exported,
    pixels: np.ndarray | None,
    method: Method = "percentile",
    progress: bool = False,
    placement: Placement = "conv-inputs",
    smoke: bool = False,
) -> CalibrationTable:
    """Run the float graph on images and choose the threshold of every tensor to quantize.

    Parameters
    ----------
    exported : Exported
    pixels : uint8 array of shape (n, height, width, 3)
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
        ``sign`` chooses among the other methods, for each group of neighbouring tensors, by the sign
        agreement of the final features on a held-out quarter of the images; ``native`` is TensorRT
        10's calibrator, on an NVIDIA GPU.
    progress : bool
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
        A table for either of the last two covers all placements.
    smoke : bool
        Run the observed graph in a child process, so that a native crash raises an error.

    Raises
    ------
    UsageError
        If there are no images, or the method or placement is unknown.
    AurevoirError
        If the graph contains nothing to quantize, or a weight or an activation is not finite.
    """
    check_method(method)
    if pixels is None or not len(pixels):
        raise UsageError("int8 needs calibration images or a calibration table; give a folder as calibration")
    check_products(exported.graph)
    names = quantizable(exported.graph, placement)
    if method == NATIVE:
        return _calibrated_natively(exported, pixels, progress)
    seen, held_out = (pixels, None) if method != SIGN else hold_out(pixels)
    batches = (seen[which] for which in blocks(len(seen), _observed_batch(exported, names)))
    with progress_bar(total=len(seen), desc="activations", unit="img", show=progress) as bar:
        histograms, means, peaks = _observed(exported.graph, names, batches, bar.update, smoke)
    # Without its mean a bias is left as it is; a mean that overflows could not correct it.
    means = {name: mean for name, mean in means.items() if np.isfinite(mean).all()}
    table = CalibrationTable(method, digest(exported.graph), pixels_digest(pixels), {}, means, placement, peaks)
    if method != SIGN:
        return replace(table, thresholds=choose_thresholds(histograms, method))
    if held_out is None:
        raise UsageError(f"method 'sign' needs at least 4 calibration images, not {len(pixels)}; give more")
    candidates = {name: choose_thresholds(histograms, name) for name in METHODS}
    with progress_bar(desc="sign", unit="engine", show=progress) as bar:
        evaluate = _evaluator(exported, table, held_out, _maker(exported, placement), bar.update)
        return replace(table, thresholds=maximize_sign_agreement(candidates, evaluate))


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
    reference: np.ndarray | None = None,
) -> tuple[CalibrationTable, list[str]]:
    """Keep as few tensors in floating point as needed to reach a target sign agreement.

    Parameters
    ----------
    exported : Exported
    table : CalibrationTable
    target : float
        Minimum sign agreement with fp32.
    pixels : uint8 array of shape (n, height, width, 3)
        Held-out images to measure on.
    make : callable, optional
        Assembles the int8 engine to measure from a table; by default for the reference runtime.
    progress : bool
    placement : str
    reference : float32 array of shape (n, m), optional
        The features of `pixels` in fp32, if they are known.

    Returns
    -------
    table : CalibrationTable
        Thresholds of the tensors that stay quantized.
    left : list of str
        Tensors kept in floating point, most sensitive first.
    """
    with progress_bar(desc="sensitivity", unit="engine", show=progress) as bar:
        evaluate = _evaluator(exported, table, pixels, make or _maker(exported, placement), bar.update, reference)
        together = [unit for unit in units(exported.graph, placement) if table.thresholds.keys() >= set(unit)]
        thresholds, left = leave_in_float(table.thresholds, together, evaluate, target)
    return replace(table, thresholds=thresholds), left


def _maker(exported: Exported, placement: Placement) -> Make:
    runtime = reference_runtime(exported.graph.SerializeToString())
    return lambda table: assemble(exported, "int8", runtime, table, placement=placement)


def _evaluator(
    exported: Exported,
    table: CalibrationTable,
    pixels: np.ndarray,
    make: Make,
    done: Callable[[], Any],
    reference: np.ndarray | None = None,
) -> Evaluate:
    """Return a function that measures the sign agreement with fp32 of an int8 engine with given thresholds."""
    floats = float_features(exported, pixels) if reference is None else reference

    def evaluate(thresholds: Thresholds) -> float:
        engine = make(replace(table, thresholds=thresholds))
        done()
        return sign_agreement(np.asarray(engine(pixels)), floats)

    return evaluate


def keep_in_float32(exported: Exported, runtime: str, precision: str, pixels: np.ndarray | None) -> list[str]:
    """Return the tensors that an engine with a float16 body must keep in float32, if there are images to measure."""
    if pixels is None or not wants_float16_body(runtime, precision):
        return []
    return find_overflow(exported, pixels)


def find_overflow(exported: Exported, pixels: np.ndarray) -> list[str]:
    """Return the tensors that may overflow float16, measured on uint8 images of shape (n, height, width, 3)."""
    # Pruned, because packing the bits computes only bytes.
    graph, sizes = with_magnitudes(prune(exported.graph, ["features"]))
    run = _compile(graph, list(sizes.values()))
    return overflowing(run, list(sizes), (pixels[which] for which in blocks(len(pixels), 4)))


def tensor_fidelity(
    exported: Exported,
    table: CalibrationTable,
    pixels: np.ndarray,
    runtime: str = "auto",
    progress: bool = False,
    placement: Placement = "conv-inputs",
) -> list[TensorFidelity]:
    """Compare every quantized tensor of the int8 graph, and the features, with the float graph.

    Parameters
    ----------
    exported : Exported
    table : CalibrationTable
    pixels : uint8 array of shape (n, height, width, 3)
    runtime : str
        Determines the activation dtype; the measurement runs with a float32 body.
    progress : bool
    placement : str

    Returns
    -------
    list of TensorFidelity
        In graph order, ending with ``features``.
    """
    name = calibration_runtime(runtime)
    activation_dtype, levels = resolve_activation_dtype("auto", name), weight_levels(name)
    low = quantize(exported.graph, table.thresholds, table.means, activation_dtype, placement, levels, table.peaks)
    signed = activation_dtype == "int8"
    changes = use_more_levels(exported.graph, table.thresholds, table.peaks)[1] if signed else {}
    after = dequantized(low)
    names = [name for name in quantizable(exported.graph, placement) if name in after]
    runs = [
        _compile(graph, [*tensors, "features"])
        for graph, tensors in ((exported.graph, names), (low, [after[name] for name in names]))
    ]
    meters = {name: FidelityMeter() for name in [*names, "features"]}
    with progress_bar(total=len(pixels), desc="fidelity", unit="img", show=progress) as bar:
        for which in blocks(len(pixels), max(1, _observed_batch(exported, names) // 2)):
            outputs = (run(pixels[which]) for run in runs)
            for (name, meter), reference, values in zip(meters.items(), *outputs, strict=True):
                original = changes[name].undo(values) if name in changes else values
                # Far below a level: a runtime may compute the level of 0 in floats.
                least = _ZERO * table.thresholds.get(name, 0.0)
                meter.add(np.where(np.abs(original) < least, 0, original), reference)
            bar.update(len(pixels[which]))
    return [meter.result(name, table.thresholds.get(name)) for name, meter in meters.items()]


def read_table(path: Path, exported: Exported) -> CalibrationTable:
    """Read a calibration table, ours or TensorRT's cache, for an exported backbone.

    Raises
    ------
    UsageError
        If there is no such file.
    AurevoirError
        If it is corrupted or too large, or belongs to another graph.
    """
    data = read_file(path, LONGEST, "calibration table", "make one with `aurevoir calibrate`")
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
            "it was made from another graph, or with other tensor names; calibrate again"
        )
    every = quantizable(exported.graph, "shared-concat")
    placement = "shared-concat" if cache.thresholds.keys() >= set(every) else "conv-inputs"
    thresholds = {name: cache.thresholds[name] for name in every if name in cache.thresholds}
    return CalibrationTable(f"TensorRT {cache.algorithm}", digest(exported.graph), "", thresholds, {}, placement)


def _observed_batch(exported: Exported, names: list[str]) -> int:
    """Return the batch size for which the observed tensors fit in memory."""
    shapes = tensor_shapes(exported.graph)
    values = sum(math.prod(length or 1 for length in shapes.get(name, [])) for name in names)
    return block_length(8 * values, memory_budget() // 4, HOST_BATCH)


def _observed(
    graph: onnx.ModelProto, names: list[str], batches: Iterable[np.ndarray], seen: Callable[[int], Any], smoke: bool
) -> Observations:
    # Only convolutions have bias correction, so only their inputs' means are computed.
    averaged = list(dict.fromkeys(node.input[0] for node in weighted(graph) if node.op_type == "Conv"))
    peaked = [name for name in depthwise_inputs(graph) if name in names]
    extended, means, peaks = with_means_and_peaks(graph, averaged, peaked)
    part, tensors = prune(extended, [*names, *means, *peaks]).SerializeToString(), Tensors(names, averaged, peaked)
    runtime = reference_runtime(part)
    if smoke:
        return observe_in_child(part, runtime, tensors, batches, seen)
    return observe(runner(part, runtime, tensors), names, _counted(batches, seen))


def _counted(batches: Iterable[np.ndarray], seen: Callable[[int], Any]) -> Iterator[np.ndarray]:
    for pixels in batches:
        yield pixels
        seen(len(pixels))


def _compile(graph: onnx.ModelProto, tensors: list[str]) -> Compiled:
    """Compile the part of a graph that computes the given tensors, in fp32 on the CPU."""
    part = prune(graph, tensors).SerializeToString()
    compiled = compile_graph(reference_runtime(part), part, "fp32")
    assert not isinstance(compiled, GpuRunner)
    return compiled
