"""Run a first inference in a child process, so that a native crash does not end the caller."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from ..errors import AurevoirError
from .engine import Engine
from .load import load_engine
from .runtimes import graph_runtime
from .runtimes.gpu_run import GpuRunner

TIMEOUT = 600
"""Seconds to wait for a first inference."""


def first_inference(engine: Engine) -> None:
    """Run an engine once on noise, in a child process.

    Parameters
    ----------
    engine : Engine

    Raises
    ------
    AurevoirError
        If the process crashes, hangs or fails, or a feature is nan or infinite.
    """
    _run_engines(f"{engine.precision} on {engine.runtime}", "features", engine)


def first_batches(*engines: Engine) -> None:
    """Compute the bits of a whole batch once by each engine, as timing does, in a child process.

    Parameters
    ----------
    *engines : Engine

    Raises
    ------
    AurevoirError
        If the process crashes, hangs or fails.
    """
    names = " and ".join(f"{engine.precision} on {engine.runtime}" for engine in engines)
    _run_engines(f"timing {names}", "bits", *engines)


def _run_engines(name: str, output: str, *engines: Engine) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [output]
        for number, engine in enumerate(engines):
            path = Path(folder) / f"{number}.engine"
            engine.save(path)
            arguments += [str(path), engine.device]
        _in_child(name, arguments)


def first_calibration(graph: bytes, runtime: str) -> None:
    """Run the graph that calibration observes once on noise, in a child process.

    Parameters
    ----------
    graph : bytes
        Float ONNX graph from uint8 images of shape (batch, height, width, channels).
    runtime : str

    Raises
    ------
    AurevoirError
        If the process crashes, hangs or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observed.onnx"
        path.write_bytes(graph)
        _in_child(f"calibration on {runtime}", ["observed", str(path), runtime])


def _in_child(name: str, arguments: list[str]) -> None:
    command = [_python(), "-m", __name__, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise AurevoirError(f"{name}: no first inference within {TIMEOUT} s; use another runtime") from None
    if done.returncode < 0:
        crash = signal.Signals(-done.returncode).name
        raise AurevoirError(f"{name} crashes in its first inference ({crash}); use another runtime or precision")
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise AurevoirError(f"{name} fails in its first inference: {last or f'exit code {done.returncode}'}")


def _python() -> str:
    """Return the interpreter; in a program that embeds Python, `sys.executable` is that program."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")


def _noise(count: int, shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")


def _features(path: str, device: str) -> None:
    engine = load_engine(path, device)
    features = engine(_noise(2, engine.input_shape))
    if not np.isfinite(features).all():
        sys.exit(f"{np.isnan(features).sum()} features are nan and {np.isinf(features).sum()} infinite")


def _bits(path: str, device: str) -> None:
    engine = load_engine(path, device)
    engine.bits(_noise(engine.batch_size, engine.input_shape))


def _observed(path: str, runtime: str) -> None:
    model = onnx.load(path)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    compiled = graph_runtime(runtime).compile(model.SerializeToString(), "fp32", "cpu")
    assert not isinstance(compiled, GpuRunner)
    compiled(_noise(2, shape))


def _main(output: str, *arguments: str) -> None:
    run = {"features": _features, "bits": _bits, "observed": _observed}[output]
    for path, where in zip(arguments[::2], arguments[1::2], strict=True):
        run(path, where)


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except AurevoirError as error:
        sys.exit(str(error))
