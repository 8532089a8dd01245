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
IMAGES, SIDE = 700, 24
_SETTLED = 15.0
"""Seconds in which everything that a command started must have ended."""
_HEALTH = '{"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}'
"""By which a dead machine is told soon."""


@dataclass(frozen=True)
class _Fit:
    """A fit with a cluster: its command, the seconds that it takes, and the model that it must give."""

    words: list[str]
    seconds: float
    model: dict[str, bytes]


def run(material: Material, plan: Plan) -> list[Tally]:
    """Kill processes of clusters, and compare what is fitted."""
    if find_spec("ray") is None:
        return []
    words = ["fit", str(_photos(plan)), "--backbone", str(material.network), "--no-test", "--quiet"]
    place = plan.place("alone")
    alone = _undisturbed([*words, "--out", str(place / "model")])
    fit = _Fit(words, alone.seconds, tree(place / "model"))
    tallies = []
    for what, trial in (
        ("SIGKILL of a worker of a cluster at a random moment of fit", _end_worker),
        ("SIGKILL of fit on a cluster at a random moment, and again with its work folder", _end_driver),
    ):
        tally = Tally(what)
        for _ in plan.trials(TIMES, among=3 - len(tallies)):
            with _short_folder() as folder:
                trial(tally, fit, plan, folder)
        tallies.append(tally)
    tally = Tally("SIGKILL of a machine of a cluster at a random moment of fit")
    with _short_folder() as folder, _cluster(folder) as address:
        machines = [_machine(address), _machine(address)]
        _wait_for(fit, folder, address)
        for _ in plan.trials(TIMES):
            _end_machine(tally, fit, plan, folder, address, machines[0].pid)
            # The other one is there for what comes next.
            machines = [machines[1], _machine(address)]
    return timed([*tallies, tally])


def _photos(plan: Plan) -> Path:
    from aurevoir.images.procedural import write_class_folders

    folder = plan.place("photos") / "photos"
    forked(lambda: write_class_folders(folder, IMAGES // 10, SIDE, 0) and 0)
    return folder


def _undisturbed(words: list[str]) -> Ended:
    done = spawned(_command(words), os.environ, LIMIT)
    if done.code or done.died or done.hung:
        raise RuntimeError(f"{' '.join(words)} fails undisturbed: {done.err}")
    return done


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
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _end_worker(tally: Tally, fit: _Fit, plan: Plan, folder: Path) -> None:
    after = plan.random.uniform(0, fit.seconds)
    options = ["--cluster", "local", "--workers", "1", "--out", str(folder / "model")]
    done = _disturbed([*fit.words, *options], folder, lambda: _kill_worker(folder), after)
    _judge(tally, f"worker killed after {after:.2f} s", done, fit, folder)


def _end_driver(tally: Tally, fit: _Fit, plan: Plan, folder: Path) -> None:
    # Starting a cluster and its worker takes longer than all of the fit.
    after = plan.random.uniform(0, 3 * fit.seconds)
    options = ["--cluster", "local", "--workers", "1", "--work", str(folder / "work"), "--out", str(folder / "model")]
    words, environment = _command([*fit.words, *options]), os.environ | {"TMPDIR": str(folder)}
    spawned(words, environment, LIMIT, Fault(signal.SIGKILL, after))
    done = spawned(words, environment, LIMIT)
    _judge(tally, f"driver killed after {after:.2f} s", done, fit, folder)


def _wait_for(fit: _Fit, folder: Path, address: str) -> None:
    """Wait until a cluster has a machine that fits."""
    ends = time.monotonic() + LIMIT
    words = _command([*fit.words, "--cluster", address, "--out", str(folder / "model")])
    while spawned(words, os.environ, LIMIT).code and time.monotonic() < ends:
        time.sleep(1)


def _end_machine(tally: Tally, fit: _Fit, plan: Plan, folder: Path, address: str, machine: int) -> None:
    after = plan.random.uniform(0, 2 * fit.seconds)
    shutil.rmtree(folder / "model", ignore_errors=True)
    options = ["--cluster", address, "--out", str(folder / "model")]
    done = _disturbed([*fit.words, *options], folder, lambda: _kill_tree(machine), after)
    _judge(tally, f"machine killed after {after:.2f} s", done, fit, folder, alone=False)


def _disturbed(words: list[str], folder: Path, fault: Callable[[], bool], after: float) -> Ended:
    """Run a command, and do something to its surroundings, as soon after a moment as it succeeds."""
    began, done, hung = time.monotonic(), False, False
    with tempfile.TemporaryFile() as err:
        environment = os.environ | {"TMPDIR": str(folder)}
        with subprocess.Popen(_command(words), stdout=subprocess.DEVNULL, stderr=err, env=environment) as process:
            while process.poll() is None:
                spent = time.monotonic() - began
                if spent > LIMIT:
                    hung = True
                    process.kill()
                if not done and spent > after:
                    done = fault()
                time.sleep(0.01)
        err.seek(0)
        text = err.read().decode(errors="replace")
    code = process.returncode
    return Ended(max(code, 0), max(-code, 0), hung, text, "", 0.0, time.monotonic() - began)


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


def _kill_worker(folder: Path) -> bool:
    """Kill a worker of the cluster in a folder; return whether there was one."""
    daemons = set(_mentioning(folder))
    for pid, command in _commands():
        if command.startswith("ray::Worker") and _parent(pid) in daemons:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return True
    return False


def _kill_tree(pid: int) -> bool:
    """Kill a process and all that it has started, from the first on."""
    children = [each for each, _ in _commands() if _parent(each) == pid]
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for each in children:
        _kill_tree(each)
    return True


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
