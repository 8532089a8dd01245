"""Run functions in a child process, so that a crash or a hang of native code does not end the caller.

`in_child` starts a process for one call; inside `lasting_child` one process takes all calls, and imports once, where
`start_early` says so while the caller does other things.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from typing import Any

from ..children import end_with, python, search_path
from ..errors import AurevoirError
from .runtimes.native_errors import reason


def in_child(name: str, function: Callable[..., None], *arguments: str, timeout: float) -> None:
    """Call a function of a module in a child process.

    Parameters
    ----------
    name : str
        What runs, for errors.
    function : callable
        Defined at the top of its module; what it refuses it says by an `AurevoirError`, or by `sys.exit` of a text.
    *arguments : str
    timeout : float
        In seconds.

    Raises
    ------
    AurevoirError
        If the process crashes or hangs, or the function fails.
    """
    lasting = _LASTING.get()
    if lasting is not None:
        lasting.call(name, function, arguments, timeout)
        return
    child = _Child()
    try:
        child.call(name, function, arguments, timeout)
    finally:
        child.end()


@contextmanager
def lasting_child() -> Iterator[None]:
    """Let one process, started at the first call, take every call of `in_child` in this block, and end it then.

    A block inside another one leaves it to that.
    """
    if _LASTING.get() is not None:
        yield
        return
    child = _Child()
    token = _LASTING.set(child)
    try:
        yield
    finally:
        _LASTING.reset(token)
        child.end()


def start_early(function: Callable[..., None], *arguments: str) -> None:
    """Start the process of `lasting_child`, and call a function that makes it ready, such as by imports, unawaited.

    Outside `lasting_child`, or where the process runs already, nothing is done. Nobody hears what the function refuses.
    """
    lasting = _LASTING.get()
    if lasting is not None:
        lasting.start(function, arguments)


def end_child() -> None:
    """End the process of `lasting_child`; another call of `in_child` would start one again."""
    lasting = _LASTING.get()
    if lasting is not None:
        lasting.end()


class _Child:
    """A process that takes calls one after the other; after a call that failed another one is started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unawaited = 0

    def start(self, function: Callable[..., None], arguments: tuple[str, ...]) -> None:
        if self._process is None:
            self._process, self._log = _started(function.__module__)
            assert self._process.stdin is not None
            _send(self._process.stdin, [function.__module__, function.__qualname__, *arguments])
            self._unawaited = 1

    def call(self, name: str, function: Callable[..., None], arguments: tuple[str, ...], timeout: float) -> None:
        if self._process is None:
            self._process, self._log = _started(function.__module__)
        process, late = self._process, threading.Event()
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(timeout, _kill, (process, late))
        # An interpreter that ends would wait for it, where an interrupt comes before it is cancelled.
        timer.daemon = True
        try:
            timer.start()
            _send(process.stdin, [function.__module__, function.__qualname__, *arguments])
            answers = [process.stdout.readline() for _ in range(self._unawaited + 1)]
            self._unawaited, answer = 0, answers[-1]
            code = None if answer else process.wait()
        finally:
            timer.cancel()
        if code is not None or late.is_set():
            last = self._last_line()
            self.end()
        if code is not None:
            raise AurevoirError(_fate(name, code, last, timeout if late.is_set() else None))
        if failed := json.loads(answer):
            raise AurevoirError(f"{name} fails in its first inference: {failed}")

    def end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        self._unawaited = 0
        _end(process)
        process.wait()
        for stream in filter(None, (process.stdin, process.stdout, self._log)):
            with suppress(BrokenPipeError):
                stream.close()

    def _last_line(self) -> str:
        self._log.seek(0)
        text: str = self._log.read().decode(errors="replace")
        return text.strip().rpartition("\n")[2].strip()


_LASTING: ContextVar[_Child | None] = ContextVar("lasting_child", default=None)


def _started(module: str) -> tuple["subprocess.Popen[bytes]", Any]:
    log = tempfile.TemporaryFile()  # noqa: SIM115 it outlives this function
    environment = os.environ | {"PYTHONPATH": search_path()}
    command = [python(), "-P", "-m", __name__, str(os.getpid()), module]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True)
    return process, log


def _kill(process: "subprocess.Popen[bytes]", late: threading.Event) -> None:
    late.set()
    _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    # Its group, because libraries start processes too: openvino forks one when it is imported.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _fate(name: str, code: int, last: str, timeout: float | None) -> str:
    """Say how a process ended that gave no answer."""
    if timeout is not None:
        return f"{name}: no first inference within {timeout} s; use another runtime"
    if code < 0:
        crash = signal.Signals(-code).name
        return f"{name} crashes in its first inference ({crash}); use another runtime or precision"
    return f"{name} fails in its first inference: {last or f'exit code {code}'}"


def _send(stream: Any, content: Any) -> None:
    try:
        stream.write(json.dumps(content).encode() + b"\n")
        stream.flush()
    except BrokenPipeError:
        pass  # the process has ended; its exit code says why


def _serve(modules: list[str]) -> None:
    """Take calls from stdin, one a line, and answer each on stdout, until the parent ends."""
    calls: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    # What libraries print on stdout is no answer.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        # A forked process that held the pipes would hide the end of this one.
        os.register_at_fork(after_in_child=partial(os.close, answers.fileno()))
        os.register_at_fork(after_in_child=partial(os.close, 0))
        for module in modules:
            import_module(module)
        while True:
            module, name, *arguments = json.loads(calls.get())
            _send(answers, _called(getattr(import_module(module), name), arguments))


def _listen(calls: "queue.Queue[bytes]") -> None:
    # Unbuffered, because an interpreter that ends aborts where a thread holds a buffer's lock.
    with open(0, "rb", buffering=0) as stream:
        for line in stream:
            calls.put(line)
    os.killpg(0, signal.SIGKILL)  # the parent is gone, whatever this process is doing


def _called(function: Callable[..., None], arguments: list[str]) -> str | None:
    """Call a function and return why it failed, or None."""
    try:
        function(*arguments)
    except AurevoirError as error:
        return str(error)
    except SystemExit as stop:
        if not isinstance(stop.code, str):
            raise
        return stop.code
    except Exception as error:  # native libraries raise errors of many types
        return f"{type(error).__name__}: {reason(error)}"
    return None


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    _serve(sys.argv[2:])
