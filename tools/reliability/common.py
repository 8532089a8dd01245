"""What the experiments share: a tally, a child process that is watched, and the limits of a run."""

import faulthandler
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

Cells = dict[str, Any]
NOBODY = 65534
"""The user that permission faults are tried as, since root may do everything."""
CODES = (0, 1, 2, 3, 4, 130)
"""Exit codes of the command line, but for those of signals."""
EXAMPLES = 5
_MARKS = ("Traceback (most recent call last)", ": error: unexpected ", "Exception ignored", "Fatal Python error")


@dataclass
class Tally:
    """A row of the table: what was tried, how often, and what went wrong.

    Attributes
    ----------
    what : str
    tried : int
    refused : int
        How often it ended in an `AurevoirError`, or on the command line in one line and an exit code.
    lost : int
        Files of the user's or of an earlier run that were gone or changed, or results that were wrong.
    crashes : int
        Ends by a signal that nobody sent.
    hangs : int
        Ends at the limit of time.
    foreign : int
        Exceptions of other types, tracebacks, and the line for what nobody foresaw.
    left : int
        Temporary files and processes that were still there.
    megabytes : float
        The largest resident memory of a process.
    examples : list of str
        The first of what went wrong.
    """

    what: str
    tried: int = 0
    refused: int = 0
    lost: int = 0
    crashes: int = 0
    hangs: int = 0
    foreign: int = 0
    left: int = 0
    megabytes: float = 0.0
    examples: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def add(self, kind: str, example: str = "", count: int = 1) -> None:
        """Count something; of what went wrong the first examples are kept."""
        setattr(self, kind, getattr(self, kind) + count)
        if kind not in ("tried", "refused") and len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {example}"[:600])

    def saw(self, done: "Ended", name: str) -> None:
        """Judge how a command or a reader ended: by itself, with a known exit code, without a trace of Python."""
        self.tried += 1
        self.megabytes = max(self.megabytes, done.megabytes)
        last = done.err.strip().rpartition("\n")[2]
        if done.hung:
            self.add("hangs", name)
        elif done.died:
            self.add("crashes", f"{name}: {signal.Signals(done.died).name}: {last}")
        elif any(mark in done.err for mark in _MARKS):
            self.add("foreign", f"{name}: {last}")
        elif done.code not in CODES:
            self.add("foreign", f"{name}: exit code {done.code}: {last}")
        elif done.code:
            self.refused += 1

    @property
    def faults(self) -> int:
        """The number of things that went wrong."""
        return self.lost + self.crashes + self.hangs + self.foreign + self.left

    def cells(self, experiment: str) -> Cells:
        """Return the row."""
        return {
            "experiment": experiment,
            "what": self.what,
            "tried": self.tried,
            "refused": self.refused,
            "lost": self.lost,
            "crashes": self.crashes,
            "hangs": self.hangs,
            "foreign": self.foreign,
            "left": self.left,
            "megabytes": round(self.megabytes),
            "seconds": round(self.seconds, 1),
            "examples": self.examples,
        }


@dataclass
class Plan:
    """How far an experiment goes: a share of the full counts, within some seconds, from a seed; or some rows of it."""

    folder: Path
    seconds: float
    share: float
    seed: int
    only: str = ""
    ends: float = field(init=False)
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.ends = time.monotonic() + self.seconds
        self.random = Random(self.seed)

    @property
    def short(self) -> bool:
        """Whether this is the suite's run, of a few trials of each kind."""
        return self.seconds == 0

    def count(self, full: int, least: int = 1) -> int:
        """Return the share of a full count."""
        return max(least, round(full * self.share))

    def trials(self, full: int, least: int = 1, among: int = 1) -> Iterator[int]:
        """Count trials until the share of a full count, or this part's share of the remaining time, is reached."""
        ends = time.monotonic() + max(0.0, self.ends - time.monotonic()) / among
        for number in range(self.count(full, least)):
            if number >= least and time.monotonic() > ends:
                return
            yield number

    def place(self, name: str) -> Path:
        """Return a new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


def timed(tallies: Sequence[Tally]) -> list[Tally]:
    """Note the seconds of tallies that were made one after the other."""
    ends = [*(each.began for each in tallies[1:]), time.perf_counter()]
    for each, end in zip(tallies, ends, strict=True):
        each.seconds = end - each.began
    return list(tallies)


@dataclass(frozen=True)
class Ended:
    """How a child process ended."""

    code: int
    died: int
    hung: bool
    err: str
    out: str
    megabytes: float
    seconds: float
    session: int = 0


@dataclass(frozen=True)
class Fault:
    """A signal to send to a child after some seconds."""

    signal: signal.Signals
    after: float


def forked(action: Callable[[], int | None], limit: float = 60.0, fault: Fault | None = None) -> Ended:
    """Run a function in a forked child in a session of its own, and say how it ended; its exit code is what it returns.

    The caller must run no threads. Children that the child left behind are ended.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # What is sent before the action begins must not end what leads to it.
        held = {fault.signal} if fault else set()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
        pid = os.fork()
        if pid == 0:
            _child(action, out.fileno(), err.fileno(), before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _watched(pid, limit, fault, out, err)


def spawned(
    command: Sequence[str | bytes],
    environment: Mapping[str, str],
    limit: float = 120.0,
    fault: Fault | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a command in a session of its own; `prepare` runs in the child before it, after its output is redirected."""

    def action() -> int:
        try:
            prepare()
            os.execvpe(command[0], list(command), dict(environment))
        except KeyboardInterrupt:
            return 130

    return forked(action, limit, fault)


def _child(action: Callable[[], int | None], out: int, err: int, mask: set[Any]) -> None:
    code = 1
    try:
        faulthandler.disable()
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except KeyboardInterrupt:
            os._exit(130)
        code = action() or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        with suppress(BaseException):
            os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        import sys

        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):
                stream.flush()
        os._exit(code)


def _watched(pid: int, limit: float, fault: Fault | None, out: Any, err: Any) -> Ended:
    began = time.perf_counter()
    sent = hung = False
    pause = 0.0005
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        spent = time.perf_counter() - began
        if fault and not sent and spent >= fault.after:
            # As from a terminal or a supervisor: the process itself. Its children are its own affair.
            with suppress(ProcessLookupError):
                os.kill(pid, fault.signal)
            sent = True
        if spent > limit:
            hung = True
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        pause = min(0.01, pause * 1.5)
        time.sleep(min(pause, max(0.0, fault.after - spent)) if fault and not sent else pause)
    died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if sent and fault and died == fault.signal:
        died = 0
        code = 0
    else:
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
    if sent and fault and code in (128 + fault.signal,):
        code = 130
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read().decode(errors="replace"))
    return Ended(code, died, hung, texts[1], texts[0], usage.ru_maxrss / 1e3, time.perf_counter() - began, pid)


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
