"""Children forked from a process that has imported everything, in the place of new ones, which take seconds to import.

A process that has used a runtime cannot fork one that uses it. So whoever will use one forks a nursery before, which
uses nothing itself, and lets that fork the children.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from aurevoir.children import end_with

from .common import forked


class Nursery:
    """Runs modules as `children.run_child` does, in forked children.

    Parameters
    ----------
    *closed : int
        Descriptors of this process that the nursery must not hold open.

    Attributes
    ----------
    megabytes : float
        The largest resident memory of a child so far.
    """

    def __init__(self, *closed: int) -> None:
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            for descriptor in (*closed, ours.detach()):
                os.close(descriptor)
            _serve(theirs)
        theirs.close()
        self._asked, self._answers = ours.makefile("w"), ours.makefile("r")
        self.megabytes = 0.0

    def run_child(
        self, module: str, arguments: Sequence[str], timeout: float = 300, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a module in a child, and return its exit code and what it printed; see `children.run_child`."""
        self._asked.write(json.dumps([module, list(arguments), timeout]) + "\n")
        self._asked.flush()
        code, out, err, megabytes = json.loads(self._answers.readline())
        self.megabytes = max(self.megabytes, megabytes)
        if code is None:
            raise subprocess.TimeoutExpired(module, timeout)
        return subprocess.CompletedProcess([module, *arguments], code, out, err)


def _serve(stream: socket.socket) -> None:
    """Fork a child for every line, and answer how it ended, until nobody asks any more."""
    own = os.getpid()
    try:
        with stream.makefile("r") as lines, stream.makefile("w") as answers:
            for line in lines:
                module, arguments, timeout = json.loads(line)
                done = forked(lambda module=module, arguments=arguments: _run(own, module, arguments), timeout)  # type: ignore[misc]
                code = None if done.hung else -done.died or done.code
                answers.write(json.dumps([code, done.out, done.err, done.megabytes]) + "\n")
                answers.flush()
    finally:
        os._exit(0)


def _run(parent: int, module: str, arguments: Sequence[str]) -> int:
    end_with(parent)
    warnings.simplefilter("ignore")
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            os.write(2, f"{stop.code}\n".encode(errors="backslashreplace"))
            return 1
        raise
    return 0
