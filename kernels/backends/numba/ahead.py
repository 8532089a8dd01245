"""Compile kernels in a child process, once for a machine, while this one does what needs none of them.

A thread would not do: Numba holds the GIL while it compiles.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ....cache import KERNELS, cache_folder, folder_fault
from ....children import start_child
from ....kept import key_of

Kernel = Literal["magnitudes", "products", "hadamard", "dense"]
"""A module of kernels."""

_RUNNING: dict[str, "subprocess.Popen[bytes]"] = {}


def kernels_folder() -> Path | None:
    """Return the folder of machine code in the user's cache, or None where there is none."""
    folder = cache_folder()
    if folder is None or folder_fault(folder) or folder_fault(folder / KERNELS):
        return None
    return folder / KERNELS


def compile_ahead(kernels: Sequence[Kernel], report: bool = False) -> None:
    """Start to compile what was not compiled yet on this machine; whoever needs it waits for it.

    Parameters
    ----------
    kernels : sequence of {"magnitudes", "products", "hadamard", "dense"}
    report : bool
        Whether to say so on stderr.
    """
    missing = [name for name in kernels if (mark := _mark(name)) is not None and not mark.exists()]
    if not missing or any(process.poll() is None for process in _RUNNING.values()):
        return
    try:
        process = start_child(f"{__package__}.warm", missing)
    except OSError:
        # Without it they are compiled where they are needed.
        return
    _RUNNING.clear()
    _RUNNING.update(dict.fromkeys(missing, process))
    if report and sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"compiling kernels for this processor, the first time: {', '.join(missing)}\n")


def is_compiling(module: str) -> bool:
    """Return whether a child process that this one started is still compiling the kernels of a module."""
    package, _, name = module.rpartition(".")
    process = _RUNNING.get(name) if package == __package__ else None
    return process is not None and process.poll() is None


def is_compiled(kernel: Kernel) -> bool:
    """Return whether a module of kernels was compiled on this machine, and kept."""
    return (mark := _mark(kernel)) is not None and mark.exists()


def wait_for(kernel: Kernel) -> None:
    """Wait while a child process that this one started is still compiling a module of kernels."""
    if (process := _RUNNING.get(kernel)) is not None:
        process.wait()


def mark_compiled(kernel: str) -> None:
    """Note that a module's kernels have been compiled."""
    with suppress(OSError):
        if (mark := _mark(kernel)) is not None:
            mark.touch()


def _mark(kernel: str) -> Path | None:
    """Return the file whose existence says that a module's kernels were compiled and kept; None if none can be."""
    folder = _numba_folder()
    settings = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    return None if folder is None else folder / f"{kernel}-{key_of('kernels', kernel, settings)}.ready"


def _numba_folder() -> Path | None:
    """Return where Numba keeps machine code: the user's choice, or the cache."""
    if not (place := os.environ.get("NUMBA_CACHE_DIR")):
        return kernels_folder()
    with suppress(OSError):
        Path(place).mkdir(parents=True, exist_ok=True)
        return Path(place) if os.access(place, os.W_OK | os.X_OK) else None
    return None
