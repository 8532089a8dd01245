"""SIGKILL, SIGINT and SIGTERM at random moments of commands: the target is the old one or the new one."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from .common import Ended, Fault, Plan, Tally, forked, processes_of, spawned, timed, tree
from .material import Material, preload

MOMENTS = {signal.SIGKILL: 500, signal.SIGINT: 500, signal.SIGTERM: 100}
"""How often each signal is sent; SIGTERM takes the way of SIGINT."""
OF_TWENTY = {"fit": 9, "fit and build": 1, "build": 2, "calibrate": 1, "embed": 7}
"""Of twenty commands that are ended; those that start processes take ten times as long as the others."""
LIMIT = 180.0
_SETTLED = 3.0
"""Seconds in which the children of an ended command must have ended too."""


@dataclass(frozen=True)
class Job:
    """A command with a target, and what the target holds before and after."""

    words: Callable[[Path], list[str]]
    target: str
    before: dict[str, bytes]
    after: dict[str, bytes]
    seconds: float


def run(material: Material, plan: Plan) -> list[Tally]:
    """End commands at random moments, and look at what they leave."""
    preload()
    tallies: list[Tally] = []
    jobs = _jobs(material, plan)
    order = [job for name, job in jobs.items() for _ in range(1 if plan.short else OF_TWENTY[name])]
    plan.random.shuffle(order)
    commands = ", ".join(jobs)
    for each, count in MOMENTS.items():
        tally = Tally(f"{each.name} at random moments of {commands}")
        for number in plan.trials(count, least=len(jobs), among=len(MOMENTS) - len(tallies)):
            # Eleven and twenty share no factor: every command is started anew now and then.
            while not _end(tally, order[number % len(order)], each, plan, cold=number % 11 == 10):
                pass
        tallies.append(tally)
    return timed(tallies)


def _jobs(m: Material, plan: Plan) -> dict[str, Job]:
    images = ["--calibration", str(m.photos), "--calibration-images", "8"]
    commands: dict[str, tuple[str, list[str], list[str]]] = {
        "fit": ("model", ["fit", str(m.photos), "--engine", str(m.engine)], ["--projection", "none"]),
        "fit and build": ("model", ["fit", str(m.photos), "--backbone", str(m.network)], ["--projection", "none"]),
        "build": ("e.engine", ["build", str(m.network)], ["--precision", "bf16"]),
        "calibrate": ("t.json", ["calibrate", str(m.network), *images], ["--method", "max"]),
        "embed": ("bits.npz", ["embed", str(m.engine), str(m.photos)], ["--features"]),
    }
    if plan.short:
        commands = {name: commands[name] for name in ("fit", "embed")}
    return {name: _job(plan, *each) for name, each in commands.items()}


def _job(plan: Plan, target: str, words: list[str], other: list[str]) -> Job:
    found, seconds = [], 0.0
    for options in (other, []):
        place = plan.place("job")
        command = [*words, "--out", str(place / target), *options]
        done = forked(lambda command=command: _main(command), LIMIT)  # type: ignore[misc]
        if done.code or done.died or done.hung:
            raise RuntimeError(f"{' '.join(command)} fails undisturbed: {done.err}")
        found.append(_contents(place / target))
        seconds = done.seconds
    return Job(lambda place: [*words, "--out", str(place / target)], target, found[0], found[1], seconds)


def _main(words: list[str]) -> int:
    from aurevoir.cli.main import main

    # Without words it is the program, which sets signals.
    sys.argv = ["aurevoir", *words]
    return main()


def _contents(target: Path) -> dict[str, bytes]:
    return tree(target) if target.is_dir() else {"": target.read_bytes()} if target.is_file() else {}


def put(target: Path, contents: dict[str, bytes]) -> None:
    """Write a file, or a folder of files."""
    if "" in contents:
        target.write_bytes(contents[""])
        return
    target.mkdir()
    for name, data in contents.items():
        (target / name).write_bytes(data)


def _end(tally: Tally, job: Job, kind: signal.Signals, plan: Plan, cold: bool) -> bool:
    """End a command at a random moment; return False if that was before Python ran a line of the package."""
    place, temporary = plan.place("kill"), plan.place("tmp")
    put(place / job.target, job.before)
    words = job.words(place)
    # Importing comes before all else where the process is new.
    after = plan.random.uniform(0, (1.1 * job.seconds) + (1.5 if cold else 0))
    name = f"{kind.name} after {after:.3f} s of {' '.join(words[:1])}"
    environment = os.environ | {"TMPDIR": str(temporary)}
    if cold:
        done = spawned([sys.executable, "-m", "aurevoir", *words], environment, LIMIT, Fault(kind, after))
    else:
        done = forked(lambda: _elsewhere(temporary, words), LIMIT, Fault(kind, after))
    began = not (cold and kind == signal.SIGINT and "Traceback" in done.err and "aurevoir" not in done.err)
    if began:
        _judge(tally, job, kind, name, done, place, temporary)
    for folder in (place, temporary):
        shutil.rmtree(folder, ignore_errors=True)
    return began


def _elsewhere(temporary: Path, words: list[str]) -> int:
    import tempfile

    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    return _main(words)


def _judge(tally: Tally, job: Job, kind: signal.Signals, name: str, done: Ended, place: Path, temporary: Path) -> None:
    tally.saw(done, name)
    if _contents(place / job.target) not in (job.before, job.after):
        tally.add("lost", f"{name}: the target is neither the old one nor the new one")
    waited = 0.0
    while (running := processes_of(done.session)) and waited < _SETTLED:
        sleep(0.05)
        waited += 0.05
    if running:
        tally.add("left", f"{name}: {len(running)} processes still run", len(running))
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if kind != signal.SIGKILL:
        found = [path.name for path in (*place.iterdir(), *temporary.iterdir()) if path.name != job.target]
        stray = [name for name in found if name.startswith((".aurevoir-", "tmp"))]
        if stray:
            tally.add("left", f"{name}: {', '.join(stray)[:200]}", len(stray))
    elif any(path.name.startswith(".aurevoir-") for path in place.iterdir()):
        _recover(tally, job, name, place)


def _recover(tally: Tally, job: Job, name: str, place: Path) -> None:
    """Run the command once more: what the killed one left is gone then, and the target is whole."""
    done = forked(lambda: _main(job.words(place)), LIMIT)
    stray = [path.name for path in place.iterdir() if path.name != job.target]
    if done.code or _contents(place / job.target) != job.after:
        tally.add("lost", f"{name}: another run does not mend it: {done.err.strip()[-200:]}")
    elif stray:
        tally.add("left", f"{name}: after another run {', '.join(stray)[:200]}", len(stray))
