"""Run an engine that this machine neither built nor ran before once, in a child process with limits.

A graph that passes `graph_check` may still crash native code, or take more memory or time than its shapes say.
"""

import os
import sys
from pathlib import Path

import numpy as np

from ..archive import read_archive, unpack_bytes
from ..errors import AurevoirError
from ..kernels.memory import memory_budget
from ..saving import explained, scratch
from .checked import is_known, remember
from .engine import Engine
from .limited import finish, limit, run_limited

_BASE = 1 << 30
"""Bytes for the libraries themselves and their compilers."""
_COPIES = 8
"""Copies of its weights that a runtime makes while it compiles."""
_PER_PROCESSOR = 64 << 20
_REMEDY = "build it again on this machine, and do not use a file whose origin you do not know"


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
    with scratch("first.engine") as folder:
        path = folder / "first.engine"
        with explained(folder):
            path.write_bytes(engine.to_bytes())
        what = f"{source}: its first run, in a process of its own,"
        run_limited(__name__, [str(path), engine.device], _memory(engine), what, _REMEDY)
    remember(key)


def _memory(engine: Engine) -> int:
    """Return the bytes that the child may take, 0 for no limit: a GPU's driver reserves more than it takes."""
    if engine.device != "cpu":
        return 0
    return memory_budget() + _BASE + _COPIES * len(engine.graph) + _PER_PROCESSOR * (os.cpu_count() or 1)


def _main(memory: str, seconds: str, path: str, device: str) -> None:
    limit(memory, seconds)
    engine = Engine.from_parts(unpack_bytes(read_archive(Path(path)), path), "the engine", device)
    noise = np.random.default_rng(0).integers(0, 256, (engine.batch_size, *engine.input_shape), dtype="uint8")
    for images in (noise[:1], noise):
        for output in engine.outputs:
            engine.run(images, [output])
    finish()


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except AurevoirError as problem:
        sys.exit(str(problem))
    except MemoryError:
        sys.exit("it takes more memory than it may")
