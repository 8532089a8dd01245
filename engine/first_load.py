"""Run an engine that this machine neither built nor ran before once, in a child process with limits.

A graph that passes `graph_check` may still crash native code, or take more memory or time than its shapes say. The child
limits its own memory and processor time before it reads the file; what goes wrong in it is one error.
"""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..archive import read_archive, unpack_bytes
from ..errors import AurevoirError
from ..kernels.memory import memory_budget
from .checked import is_known, remember
from .engine import Engine

TIMEOUT = 300
"""Seconds to wait for the first run, and seconds of processor time for each processor."""
_BASE = 1 << 30
"""Bytes for the libraries themselves and their compilers."""
_COPIES = 8
"""Copies of its weights that a runtime makes while it compiles."""
_PER_PROCESSOR = 64 << 20


def check_first_load(engine: Engine, source: object) -> None:
    """Run an engine in a child process, unless this user built it or has checked it before; see `checked`.

    Raises
    ------
    AurevoirError
        If the process crashes, fails, or takes more memory or time than it may; the message names `source`.
    """
    key = engine.digest()
    if is_known(key):
        return
    with tempfile.TemporaryDirectory(prefix=".aurevoir-") as folder:
        path = Path(folder) / "first.engine"
        path.write_bytes(engine.to_bytes())
        _in_child(path, engine, source)
    remember(key)


def _memory(engine: Engine) -> int:
    """Return the bytes that the child may take, 0 for no limit: a GPU's driver reserves more than it takes."""
    if engine.device != "cpu":
        return 0
    own = _COPIES * len(engine.graph) + _PER_PROCESSOR * (os.cpu_count() or 1)
    return memory_budget() + _BASE + own


def _in_child(path: Path, engine: Engine, source: object) -> None:
    memory = _memory(engine)
    command = [_python(), "-m", __name__, str(path), engine.device, str(memory), str(TIMEOUT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    what = f"{source}: its first run, in a process of its own,"
    remedy = "build it again on this machine, and do not use a file whose origin you do not know"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise AurevoirError(f"{what} did not end within {TIMEOUT} s; {remedy}") from None
    if done.returncode < 0:
        crash = signal.Signals(-done.returncode).name
        raise AurevoirError(f"{what} crashed ({crash}); {remedy}")
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2][:300]
        raise AurevoirError(f"{what} failed: {last or f'exit code {done.returncode}'}; {remedy}")


def _python() -> str:
    """Return the interpreter; in a program that embeds Python, `sys.executable` is that program."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")


def _limit(memory: int, seconds: int) -> None:
    """Bound this process; what the system does not know is left unbounded."""
    import resource

    # RLIMIT_AS counts what is reserved and never touched, as by allocators and stacks; RLIMIT_DATA what is writable.
    bounds = [("RLIMIT_CPU", seconds * (os.cpu_count() or 1)), ("RLIMIT_CORE", 0)]
    bounds += [("RLIMIT_DATA" if sys.platform == "linux" else "RLIMIT_AS", memory)] if memory else []
    for name, bound in bounds:
        with suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), (bound, bound))


def _main(path: str, device: str, memory: str, seconds: str) -> None:
    _limit(int(memory), int(seconds))
    engine = Engine.from_parts(unpack_bytes(read_archive(Path(path)), path), "the engine", device)
    noise = np.random.default_rng(0).integers(0, 256, (engine.batch_size, *engine.input_shape), dtype="uint8")
    for images in (noise[:1], noise):
        engine(images)
        engine.bits(images)


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except AurevoirError as problem:
        sys.exit(str(problem))
    except MemoryError:
        sys.exit("it takes more memory than it may")
