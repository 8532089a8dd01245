"""Child processes that end with their parent, however that ends.

`run_child` runs a module in one. There, this module asks the system for SIGKILL at the parent's death, where it is
Linux; elsewhere a thread waits for the end of a pipe of which only the parent has the other side.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def run_child(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a module as ``python -m`` does, in a child process that ends with this one, and return its output as text.

    Parameters
    ----------
    module : str
        Its name.
    arguments : sequence of str
    environment : mapping of str to str
        The child's variables; it finds modules where this process does.
    options
        For `subprocess.run`, such as ``timeout`` and where output goes; by default it is returned.

    Raises
    ------
    subprocess.TimeoutExpired
        If it takes longer; it was killed.
    """
    command = [python(), "-P", "-m", __name__, str(os.getpid()), module, *arguments]
    environment = {**environment, "PYTHONPATH": search_path()}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    reading, writing = os.pipe()
    try:
        return subprocess.run(
            command, stdin=reading, text=True, errors="replace", env=environment, check=False, **options
        )
    finally:
        os.close(reading)
        os.close(writing)


def start_child(module: str, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start a module as ``python -m`` does, without output, in a child process that ends with this one."""
    command = [python(), "-P", "-m", __name__, str(os.getpid()), module, *arguments]
    environment = {**os.environ, "PYTHONPATH": search_path()}
    nowhere = subprocess.DEVNULL
    # Nothing is written into the pipe: its end is that of this process.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, env=environment)


def search_path() -> str:
    """Return where a child finds modules: where this process does, but never in the working directory.

    Python is started with ``-P``, so that no file of a folder that a user happens to be in is run.
    """
    own = Path(__file__).parent
    package = [str(own.parent)] if "" in sys.path and own.name == __package__ else []
    return os.pathsep.join([*filter(None, sys.path), *package])


def python() -> str:
    """Return the interpreter; in a program that embeds Python, `sys.executable` is that program."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")


def end_with(parent: int) -> None:
    """Let the system end this process with its parent, whose process id is given, whatever native code it is in."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _wait() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _main() -> None:
    import runpy

    end_with(int(sys.argv[1]))
    threading.Thread(target=_wait, daemon=True).start()
    module = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
