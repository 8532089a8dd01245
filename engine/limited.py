"""Run a module in a child process that limits its own memory and processor time before it reads what it is given."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

from ..children import run_child
from ..errors import AurevoirError

DONE = "done"
"""The line that a child writes at its end; libraries may write others."""
TIMEOUT = 300
"""Seconds to wait for a child, and seconds of processor time for each processor."""


def run_limited(module: str, arguments: list[str], memory: int, what: str, remedy: str) -> None:
    """Run a module, whose `limit` bounds it, in a child process.

    Parameters
    ----------
    module : str
        Run as ``python -m`` does, with the memory and the seconds as its first arguments; it calls `finish` at its end.
    arguments : list of str
        The others.
    memory : int
        Bytes that the process may write to; 0 is no limit.
    what, remedy : str
        How the message begins and ends.

    Raises
    ------
    AurevoirError
        If the process crashes, fails, or takes more than it may.
    """
    try:
        done = run_child(module, [str(memory), str(TIMEOUT), *arguments], timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise AurevoirError(f"{what} did not end within {TIMEOUT} s; {remedy}") from None
    if done.returncode < 0:
        crash = signal.Signals(-done.returncode).name
        raise AurevoirError(f"{what} crashed ({crash}); {remedy}")
    # Where the caller's program ignores SIGCHLD, or waits for all children itself, the exit code is always 0.
    if done.returncode or DONE not in done.stdout.splitlines():
        last = done.stderr.strip().rpartition("\n")[2][:300]
        ended = f"exit code {done.returncode}" if done.returncode else "it ended early"
        raise AurevoirError(f"{what} failed: {last or ended}; {remedy}")


def limit(memory: str, seconds: str) -> None:
    """Bound this process; what the system does not know is left unbounded."""
    import resource

    # RLIMIT_AS counts what is reserved and never touched, as by allocators and stacks; RLIMIT_DATA what is writable.
    bounds = [("RLIMIT_CPU", int(seconds) * (os.cpu_count() or 1)), ("RLIMIT_CORE", 0)]
    bounds += [("RLIMIT_DATA" if sys.platform == "linux" else "RLIMIT_AS", int(memory))] if int(memory) else []
    for name, bound in bounds:
        with suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), (bound, bound))


def finish() -> None:
    """Say to `run_limited` that the module has come to its end."""
    sys.stdout.write(f"\n{DONE}\n")
    sys.stdout.flush()
