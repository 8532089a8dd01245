"""Workers, drivers and machines of a Ray cluster, killed at random moments: the model is that of one machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .common import Ended, Fault, Plan, Tally, forked, spawned, timed, tree
from .material import Material

TIMES = 20
LIMIT = 300.0
IMAGES, SIDE = 1500, 24
_SETTLED = 15.0
"""Seconds in which everything that a command started must have ended."""
_HEALTH = '{"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}'
"""By which a dead machine is told soon."""


@dataclass(frozen=True)
class _Fit:
    """A fit: its command, its seconds with a cluster, those of them in which a worker runs, and the model it gives."""

    words: list[str]
    seconds: float
    working: float
    model: dict[str, bytes]


def run(material: Material, plan: Plan) -> list[Tally]:
    """Kill processes of clusters, and compare what is fitted."""
    if find_spec("ray") is None:
        return []
    options = ["--projection", "none", "--no-test", "--quiet"]
    words = ["fit", str(_photos(plan)), "--backbone", str(material.network), *options]
    alone = plan.place("alone") / "model"
    _required(spawned(_command([*words, "--out", str(alone)]), os.environ, LIMIT))
    with _short_folder() as folder:
        watched = _Watched([*words, *_local(folder)], folder)
        _required(watched.ended(lambda: False, 0.0))
        fit = _Fit(words, watched.seconds, watched.last_worker - watched.first_worker, tree(alone))
    tallies: list[Tally] = []
    for what, trial in (
        ("SIGKILL of a worker of a cluster at a random moment of its work", _end_worker),
        ("SIGKILL of fit on a cluster at a random moment, and again with its work folder", _end_driver),
    ):
        tally = Tally(what)
        for _ in plan.trials(TIMES, among=3 - len(tallies)):
            while True:
                with _short_folder() as folder:
                    if trial(tally, fit, plan, folder):
                        break
        tallies.append(tally)
    tally = Tally("SIGKILL of a machine of a cluster at a random moment of its work")
    with _short_folder() as folder, _cluster(folder) as address:
        machines = [_machine(address), _machine(address)]
        _wait_for(fit, folder, address)
        for _ in plan.trials(TIMES):
            while not _end_machine(tally, fit, plan, folder, address, machines[0].pid):
                pass
            # The other one is there for what comes next.
            machines[0].wait()
            machines = [machines[1], _machine(address)]
        _kill_tree(machines[1].pid)
        _kill_tree(machines[0].pid)
    return timed([*tallies, tally])


def _photos(plan: Plan) -> Path:
    from aurevoir.images.procedural import write_class_folders

    folder = plan.place("photos") / "photos"

    def write() -> None:
        write_class_folders(folder, IMAGES // 10, SIDE, 0)

    forked(write)
    return folder


def _required(done: Ended) -> None:
    if done.code or done.died or done.hung:
        raise RuntimeError(f"a fit fails undisturbed: {done.err}")


def _local(folder: Path) -> list[str]:
    return ["--cluster", "local", "--workers", "1", "--out", str(folder / "model")]


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "aurevoir", *words]


@contextmanager
def _short_folder() -> Iterator[Path]:
    """Make a folder for temporary files whose name leaves room for those of Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="aur", dir="/tmp"))
    try:
        yield folder
    finally:
        for pid in _mentioning(folder):
            _kill(pid)
        shutil.rmtree(folder, ignore_errors=True)


def _end_worker(tally: Tally, fit: _Fit, plan: Plan, folder: Path) -> bool:
    """Kill the worker of a fit; return whether it was killed before the fit ended."""
    watched = _Watched([*fit.words, *_local(folder)], folder)
    after = plan.random.uniform(0, fit.working)
    done = watched.ended(lambda: any([_kill(pid) for pid in _workers(folder)]), after)
    if watched.disturbed:
        _judge(tally, f"worker killed {after:.2f} s after its start", done, fit, folder)
    return watched.disturbed


def _end_driver(tally: Tally, fit: _Fit, plan: Plan, folder: Path) -> bool:
    """Kill a fit, and run it again with its work folder."""
    after = plan.random.uniform(0, fit.seconds)
    words = _command([*fit.words, *_local(folder), "--work", str(folder / "work")])
    environment = os.environ | {"TMPDIR": str(folder)}
    spawned(words, environment, LIMIT, Fault(signal.SIGKILL, after))
    done = spawned(words, environment, LIMIT)
    _judge(tally, f"driver killed after {after:.2f} s", done, fit, folder)
    return True


def _wait_for(fit: _Fit, folder: Path, address: str) -> None:
    """Wait until a cluster has a machine that fits."""
    ends = time.monotonic() + LIMIT
    words = _command([*fit.words, "--cluster", address, "--out", str(folder / "model")])
    while (done := spawned(words, os.environ, LIMIT)).code:
        if time.monotonic() > ends:
            raise RuntimeError(f"no machine of a cluster starts: {done.err}")
        time.sleep(1)


def _end_machine(tally: Tally, fit: _Fit, plan: Plan, folder: Path, address: str, machine: int) -> bool:
    """Kill a machine of a fit; return whether that was before the fit ended."""
    after = plan.random.uniform(0, fit.working)
    shutil.rmtree(folder / "model", ignore_errors=True)
    watched = _Watched([*fit.words, "--cluster", address, "--out", str(folder / "model")], folder)
    done = watched.ended(lambda: _kill_tree(machine), after)
    if watched.disturbed:
        _judge(tally, f"machine killed {after:.2f} s after the first worker's start", done, fit, folder, alone=False)
    return watched.disturbed


class _Watched:
    """A fit with a cluster in a folder, something of which is disturbed some time after its first worker is there."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self._words, self._folder = _command(words), folder
        self.seconds = self.first_worker = self.last_worker = 0.0
        self.disturbed = False

    def ended(self, fault: Callable[[], bool], after: float) -> Ended:
        """Run it, with a fault that returns whether it happened, and say how it ended."""
        began, hung = time.monotonic(), False
        with tempfile.TemporaryFile() as err:
            environment = os.environ | {"TMPDIR": str(self._folder)}
            with subprocess.Popen(self._words, stdout=subprocess.DEVNULL, stderr=err, env=environment) as process:
                while process.poll() is None:
                    spent = time.monotonic() - began
                    if spent > LIMIT:
                        hung = True
                        process.kill()
                    if _workers(self._folder):
                        self.first_worker, self.last_worker = self.first_worker or spent, spent
                    if self.first_worker and not self.disturbed and spent > self.first_worker + after:
                        self.disturbed = fault()
                    time.sleep(0.02)
            err.seek(0)
            text = err.read().decode(errors="replace")
        self.seconds = time.monotonic() - began
        code = process.returncode
        return Ended(max(code, 0), max(-code, 0), hung, text, "", 0.0, self.seconds)


def _judge(tally: Tally, name: str, done: Ended, fit: _Fit, folder: Path, alone: bool = True) -> None:
    tally.saw(done, name)
    model = folder / "model"
    if done.code or not model.is_dir() or tree(model) != fit.model:
        tally.add("lost", f"{name}: not the model of one machine: {done.err.strip()[-300:]}")
    if not alone:
        return
    ends = time.monotonic() + _SETTLED
    while (running := _mentioning(folder)) and time.monotonic() < ends:
        time.sleep(0.1)
    if running:
        tally.add("left", f"{name}: {len(running)} processes still run", len(running))
    if stray := [path.name for path in folder.iterdir() if path.name not in ("model", "work")]:
        tally.add("left", f"{name}: {', '.join(stray)[:200]}", len(stray))


def _mentioning(folder: Path) -> list[int]:
    """Return the processes that were started with a folder in their command."""
    return [pid for pid, command in _commands() if str(folder) in command and pid != os.getpid()]


def _commands() -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield int(path.parent.name), path.read_bytes().decode(errors="replace")


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _workers(folder: Path) -> list[int]:
    """Return the workers of the clusters in a folder."""
    daemons = set(_mentioning(folder))
    return [pid for pid, command in _commands() if command.startswith("ray::Worker") and _parent(pid) in daemons]


def _kill(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _kill_tree(pid: int) -> bool:
    """Kill a process and all that it has started, from the first on."""
    children = [each for each, _ in _commands() if _parent(each) == pid]
    killed = _kill(pid)
    for each in children:
        _kill_tree(each)
    return killed


@contextmanager
def _cluster(folder: Path) -> Iterator[str]:
    """Start a cluster whose head computes nothing, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder / 'r'}", f"--system-config={_HEALTH}"]
    with _ray([*options, "--include-dashboard=false"]) as head:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            _kill_tree(head.pid)


def _machine(address: str) -> "subprocess.Popen[bytes]":
    """Start a machine of one processor in a cluster."""
    return _ray([f"--address={address}", "--num-cpus=1"])


def _ray(options: list[str]) -> "subprocess.Popen[bytes]":
    own = ["--object-store-memory=100000000", "--block"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *own]
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
