"""Assemble an engine of one precision from the float graph and a calibration table."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np
import onnx

from ..calibration.fidelity import relative_error, sign_agreement
from ..calibration.graph.edit import digest
from ..calibration.graph.float16 import BODIES, Body, to_float16
from ..calibration.placement import Placement, concat_groups, quantizable
from ..calibration.quantize import LEVELS, ActivationDtype, quantize
from ..calibration.table import CalibrationTable
from ..errors import UsageError
from .engine import Engine
from .float_graph import Exported
from .manifest import Manifest
from .runtimes import (
    ON_HOST,
    builds_plans,
    choose_builder,
    choose_runtime,
    installed,
    reference_runtime,
    takes_unsigned,
    wants_float16_body,
    weight_levels,
)
from .runtimes import runtime as runtime_module
from .runtimes.base import Precision
from .spec import Auto
from .timing import alternate

TIMED_ROUNDS = 5


def assemble(
    exported: Exported,
    precision: Precision,
    runtime: str = "auto",
    table: CalibrationTable | None = None,
    device: str | None = None,
    activation_dtype: ActivationDtype | Auto = "auto",
    placement: Placement = "conv-inputs",
    target: str | None = None,
    keep_float32: Collection[str] = (),
) -> Engine:
    """Assemble an engine of one precision from a float graph, and for int8 a calibration table.

    Engines for NVIDIA's runtimes in fp16 and int8, and for torch in fp16, have a float16 body, in which the tensors in
    `keep_float32` stay in float32. With `target` the engine is for GPUs of that architecture, present or not.

    Raises
    ------
    UsageError
        If the runtime does not support the precision, int8 has no table, or the table lacks tensors
        of the placement.
    AurevoirError
        If the table belongs to another graph.
    """
    if target is None:
        runtime = choose_runtime(runtime, precision, device=device)
    else:
        runtime = choose_builder(runtime, precision, target)
    graph = exported.graph
    halved = wants_float16_body(runtime, precision)
    in_float: tuple[str, ...] = ()
    if precision == "int8":
        if table is None:
            raise UsageError("int8 needs a calibration table; make one with `aurevoir calibrate`")
        own = resolve_activation_dtype(activation_dtype, runtime)
        in_float = tuple(name for name in quantizable(graph, placement) if name not in table.thresholds)
        levels = weight_levels(runtime)
        graph = quantized_graph(exported, table, own, placement, levels=levels)
    if halved:
        graph = to_float16(graph, keep_float32)
    manifest = Manifest(
        exported.backbone,
        exported.cut,
        exported.weights,
        digest(exported.graph),
        precision,
        runtime,
        runtime_module(runtime).version(),
        exported.input_shape,
        exported.features,
        exported.mean,
        exported.std,
        exported.resize,
        own if precision == "int8" else None,
        placement if precision == "int8" else None,
        in_float,
        tuple(keep_float32) if halved else (),
        levels if precision == "int8" else None,
        target,
        channel_order=exported.channel_order,
        pooled=exported.pooled,
        pooled_layers=exported.pooled_layers,
    )
    return Engine(manifest, graph.SerializeToString(), table if precision == "int8" else None, device)


def quantized_graph(
    exported: Exported,
    table: CalibrationTable,
    activation_dtype: ActivationDtype = "int8",
    placement: Placement = "conv-inputs",
    body: Body = "fp32",
    keep_float32: Collection[str] = (),
    levels: int = LEVELS,
) -> onnx.ModelProto:
    """Return the Q/DQ graph of an exported backbone.

    Parameters
    ----------
    exported : Exported
    table : CalibrationTable
    activation_dtype : {"int8", "uint8"}
        TensorRT supports only ``int8``.
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
    body : {"fp32", "fp16"}
        Float type between the quantized layers. ``fp16`` is for TensorRT; ONNX Runtime 1.31
        computes such graphs incorrectly.
    keep_float32 : collection of str
        Tensors that a float16 body keeps in float32; see `find_overflow`.
    levels : {127, 63}
        Largest magnitude of weights; see `runtimes.weight_levels`.

    Raises
    ------
    UsageError
        If an option is unknown, or the table lacks tensors of the placement.
    AurevoirError
        If the table belongs to another graph.
    """
    check_body(body)
    table.check(exported.graph)
    if placement != "conv-inputs" == table.placement and concat_groups(exported.graph):
        raise UsageError(
            f"the calibration table was made for placement {table.placement!r} and lacks the tensors that "
            f"{placement!r} quantizes; calibrate with that placement"
        )
    graph = quantize(exported.graph, table.thresholds, table.means, activation_dtype, placement, levels, table.peaks)
    return to_float16(graph, keep_float32) if body == "fp16" else graph


def check_body(body: str) -> None:
    """Raise UsageError if a float type of the body is unknown."""
    if body not in BODIES:
        raise UsageError(f"body {body!r} is not known; choose one of {', '.join(BODIES)}")


def resolve_activation_dtype(activation_dtype: ActivationDtype | Auto, runtime: str) -> ActivationDtype:
    """Return the activation dtype, for ``auto`` the best one for a runtime on this machine.

    Raises
    ------
    UsageError
        If the runtime does not support it.
    """
    if activation_dtype not in ("auto", "int8") and builds_plans(runtime):
        raise UsageError(
            f"activation dtype {activation_dtype!r}: runtime {runtime!r} takes signed activations; use 'int8' or 'auto'"
        )
    if activation_dtype != "auto":
        return activation_dtype
    return "uint8" if takes_unsigned(runtime) else "int8"


def stand_in(engine: Engine, exported: Exported) -> Engine | None:
    """Return the int8 graph of an engine for a GPU elsewhere, with a float32 body, as an engine for this processor.

    None for other precisions, and where no runtime here multiplies the levels of its weights without overflow.
    """
    made = engine.manifest
    able = [name for name in ON_HOST if installed(name) and weight_levels(name) == LEVELS]
    if made.precision != "int8" or engine.table is None or made.placement is None or not able:
        return None
    graph = quantized_graph(exported, engine.table, "int8", made.placement)
    here = replace(made, runtime=able[0], runtime_version=runtime_module(able[0]).version(), target=None)
    return Engine(here, graph.SerializeToString(), engine.table)


def float_features(exported: Exported, pixels: np.ndarray) -> np.ndarray:
    """Return the features in fp32 on the reference runtime, with which low precisions are compared."""
    reference: np.ndarray = assemble(exported, "fp32", reference_runtime(exported.graph.SerializeToString()))(pixels)
    return reference


def with_fidelity(
    engine: Engine,
    exported: Exported,
    pixels: np.ndarray,
    measured_on: Engine | None = None,
    reference: np.ndarray | None = None,
) -> Engine:
    """Measure sign agreement and relative error compared with fp32, and add them to the manifest.

    With `measured_on` they are those of a stand-in; see `stand_in`. `reference` is what `float_features` returns, if
    that is known.

    Raises
    ------
    AurevoirError
        If a feature is nan or infinite.
    """
    if reference is None:
        reference = float_features(exported, pixels)
    features = np.asarray((measured_on or engine)(pixels))
    measured = replace(
        engine.manifest,
        sign_agreement=sign_agreement(features, reference),
        relative_error=relative_error(features, reference),
    )
    return engine.with_manifest(measured)


def with_speed(engine: Engine, peers: Mapping[str, Engine], progress: bool = False) -> Engine:
    """Measure the images per second of an engine and its peers, and return the engine with them, turn by turn too.

    The engines are timed in turn on a batch of noise, since speed does not depend on image content.
    """
    count = engine.batch_size
    noise = np.random.default_rng(0).integers(0, 256, (count, *engine.input_shape), dtype="uint8")
    contestants = {name: partial(each.bits, noise) for name, each in {engine.precision: engine, **peers}.items()}
    seconds = alternate(contestants, TIMED_ROUNDS, progress)
    turns = {name: [count / each for each in times] for name, times in seconds.items()}
    return engine.with_speeds({name: median(rates) for name, rates in turns.items()}, turns)
