"""Load engine files; all checks run before native code reads the file."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import onnx

from ..calibration.graph.float16 import has_float16_body
from ..calibration.quantize import LEVELS
from ..calibration.table import CalibrationTable
from ..errors import AurevoirError
from ..files import unpack
from .engine import MANIFEST, SPEEDS, Engine
from .manifest import read_manifest, read_speeds
from .runtimes import (
    check_device,
    choose_runtime,
    plan_runtime,
    require_runtime,
    takes_body,
    weight_levels,
)
from .runtimes import runtime as runtime_module
from .runtimes.base import RUNTIMES
from .runtimes.device import open_device


def load_engine(
    path: Path | str, device: str | None = None, runtime: str | None = None, rebuild: bool = False
) -> Engine:
    """Load an engine file.

    Parameters
    ----------
    path : path
    device : str, optional
        Device name of the runtime; by default its first.
    runtime : str, optional
        A runtime other than the one it was built for, or ``auto``.
    rebuild : bool
        Rebuild the plan from the graph in the file if it is for another GPU or library version.

    Returns
    -------
    Engine

    Raises
    ------
    UsageError
        If the file does not exist, or the runtime does not support its precision or the device.
    AurevoirError
        If the file is corrupted or has another schema, or its plan, graph or int8 weights are
        incompatible with this machine or with the given runtime.
    MissingPackageError
        If the runtime is not installed.
    """
    engine = read_engine(path)
    if runtime is not None:
        engine = _moved(engine, runtime, Path(path), device)
    engine = Engine(engine.manifest, engine.graph, engine.table, device, engine.plan, engine.images_per_second)
    require_runtime(engine.runtime, engine.precision)
    check_device(engine.runtime, engine.device)
    _check_weights(engine, Path(path))
    if fault := plan_mismatch(engine):
        if not rebuild:
            raise AurevoirError(f"{path}: {fault}; load it with rebuild=True, or build it again")
        engine = Engine(replace(engine.manifest, target=None), engine.graph, engine.table, device)
    return engine


def _moved(engine: Engine, runtime: str, path: Path, device: str | None) -> Engine:
    """Return the engine for another runtime, if that supports its graph."""
    made = engine.manifest
    half = has_float16_body(onnx.load_from_string(engine.graph))
    family = [name for name in RUNTIMES if takes_body(name, made.precision, half)]
    runtime = choose_runtime(runtime, made.precision, family, device)
    if runtime not in family:
        raise AurevoirError(
            f"{path} was built for {made.runtime}, whose {made.precision} graph {runtime} does not support; "
            "build it again"
        )
    if runtime == made.runtime:
        return engine
    moved = replace(made, runtime=runtime, runtime_version=runtime_module(runtime).version(), target=None)
    return Engine(moved, engine.graph, engine.table)


def _check_weights(engine: Engine, path: Path) -> None:
    """Raise AurevoirError if products of the int8 weights would overflow on this processor."""
    limit = weight_levels(engine.runtime)
    # Older files do not record the levels, which were always 127.
    if engine.precision == "int8" and (engine.manifest.weight_levels or LEVELS) > limit:
        raise AurevoirError(
            f"{path} was built on a processor with an int8 dot product (VNNI), and this one has none: products of "
            f"weights beyond {limit} overflow in {engine.runtime}; build it again on this machine"
        )


def plan_mismatch(engine: Engine) -> str:
    """Describe why an engine's plan does not fit this machine; empty if it does."""
    if engine.plan is None:
        return ""
    made = engine.manifest
    version, here = plan_runtime(made.runtime).version(), open_device(engine.device).capability
    if (version, here) == (made.runtime_version, made.target):
        return ""
    return (
        f"its plan was built by {made.runtime} {made.runtime_version} for {made.target} GPUs; "
        f"here are {made.runtime} {version} and {here}"
    )


def read_engine(path: Path | str) -> Engine:
    """Read and check an engine file, whether or not its runtime is installed.

    Raises
    ------
    UsageError
        If there is no such file.
    AurevoirError
        If it is corrupted or not an engine file of this schema.
    """
    parts = unpack(Path(path))
    manifest, digests, speeds = read_manifest(parts.pop(MANIFEST, b"{}"), path)
    speeds = read_speeds(parts.pop(SPEEDS, json.dumps(speeds).encode()), path)
    for name, data in parts.items():
        if digests.get(name) != hashlib.sha256(data).hexdigest():
            raise AurevoirError(f"{path}: part {name} does not match its manifest; build it again")
    table = parts.get("calibration.json")
    return Engine(
        manifest,
        parts["model.onnx"],
        None if table is None else CalibrationTable.from_json(table),
        plan=parts.get("plan.bin"),
        images_per_second=speeds,
    )
