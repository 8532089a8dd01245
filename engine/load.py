"""Load engine files; all checks run before native code reads the file."""

from dataclasses import replace
from pathlib import Path

import onnx

from ..calibration.graph.float16 import has_float16_body
from ..errors import AurevoirError, UsageError
from ..files import unpack
from .engine import Engine
from .machine import check_machine
from .runtimes import choose_runtime, takes_body
from .runtimes import runtime as runtime_module
from .runtimes.base import RUNTIMES

MODEL_ENGINE = "engine.aurevoir"
"""Name of the engine file in a model folder."""


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
    check_machine(engine.manifest, device, path)
    if fault := engine.plan_mismatch():
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


def read_engine(path: Path | str) -> Engine:
    """Read and check an engine file, whether or not its runtime is installed.

    Raises
    ------
    UsageError
        If there is no such file, or it is a folder.
    AurevoirError
        If it is corrupted or not an engine file of this schema.
    """
    if Path(path).suffix.lower() == ".onnx" and Path(path).is_file():
        raise AurevoirError(
            f"{path} is not an engine file but an ONNX file, a network: make an engine of it with `aurevoir build`, or "
            "list where it can be cut with `aurevoir cuts`"
        )
    if (inner := Path(path) / MODEL_ENGINE).is_file():
        raise UsageError(f"{path} is a model folder; give the engine file in it, {inner}")
    return Engine.from_parts(unpack(Path(path)), path)
