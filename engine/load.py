"""Load engine files; all checks run before native code reads the file."""

from dataclasses import replace
from pathlib import Path

import onnx

from ..archive import read_archive, unpack_bytes
from ..cache import user_cache
from ..calibration.graph.float16 import has_float16_body
from ..errors import AurevoirError, UsageError
from .engine import Engine
from .first_load import check_first_load
from .machine import check_machine
from .runtimes import choose_runtime, takes_body
from .runtimes import runtime as runtime_module
from .runtimes.base import RUNTIMES

MODEL_ENGINE = "engine.aurevoir"
"""Name of the engine file in a model folder."""


def load_engine(
    path: Path | str,
    device: str | None = None,
    runtime: str | None = None,
    rebuild: bool = False,
    trusted: bool = False,
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
    trusted : bool
        Skip the first run in a child process, with limits of memory and time, of an engine that this user neither
        built nor loaded before on this machine. It takes some seconds, once.

    Returns
    -------
    Engine

    Raises
    ------
    UsageError
        If the file does not exist, or the runtime does not support its precision or the device.
    AurevoirError
        If the file is corrupted or has another schema, or its plan, graph or int8 weights are
        incompatible with this machine or with the given runtime; or if its first run crashes, hangs or fails.
    MissingPackageError
        If the runtime is not installed.
    """
    return open_engine(_read(Path(path)), path, device, runtime, rebuild, trusted)


def open_engine(
    data: bytes,
    path: object,
    device: str | None = None,
    runtime: str | None = None,
    rebuild: bool = False,
    trusted: bool = False,
) -> Engine:
    """Return the engine of an engine file's bytes, so that what is checked is what runs; see `load_engine`."""
    engine = Engine.from_parts(unpack_bytes(data, path), path)
    if runtime is not None:
        engine = _moved(engine, runtime, path, device)
    engine = Engine(engine.manifest, engine.graph, engine.table, device, engine.plan, engine.images_per_second)
    check_machine(engine.manifest, device, path)
    if fault := engine.plan_mismatch():
        if not rebuild:
            raise AurevoirError(f"{path}: {fault}; load it with rebuild=True, or build it again")
        engine = Engine(replace(engine.manifest, target=None), engine.graph, engine.table, device)
    elif not trusted:
        check_first_load(engine, path)
    engine.keep_compiled(user_cache())
    return engine


def _moved(engine: Engine, runtime: str, path: object, device: str | None) -> Engine:
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
    return Engine.from_parts(unpack_bytes(_read(Path(path)), path), path)


def _read(path: Path) -> bytes:
    if path.suffix.lower() == ".onnx" and path.is_file():
        raise AurevoirError(
            f"{path} is not an engine file but an ONNX file, a network: make an engine of it with `aurevoir build`, or "
            "list where it can be cut with `aurevoir cuts`"
        )
    if (inner := path / MODEL_ENGINE).is_file():
        raise UsageError(f"{path} is a model folder; give the engine file in it, {inner}")
    return read_archive(path)
