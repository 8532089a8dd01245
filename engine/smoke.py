"""Run a first inference in a child process, so that a native crash does not end the caller."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ..errors import AurevoirError
from .engine import Engine
from .load import load_engine

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
    name = f"{engine.precision} on {engine.runtime}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smoke.engine"
        engine.save(path)
        command = [_python(), "-m", __name__, str(path), engine.device]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
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


def _main(path: str, device: str) -> None:
    engine = load_engine(path, device)
    features = engine(np.random.default_rng(0).integers(0, 256, (2, *engine.input_shape), dtype="uint8"))
    if not np.isfinite(features).all():
        sys.exit(f"{np.isnan(features).sum()} features are nan and {np.isinf(features).sum()} infinite")


if __name__ == "__main__":
    try:
        _main(sys.argv[1], sys.argv[2])
    except AurevoirError as error:
        sys.exit(str(error))
