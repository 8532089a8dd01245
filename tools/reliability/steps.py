"""A fault at every write, rename and fsync of a save: a kill before and after it, an interrupt, an error of the disk.

`sys.setprofile` tells of every call of a C function before and after it happens, and an exception that it raises takes
the place of the call: so faults need no change in what is tested. They are injected, not real; `disks` has real ones.
"""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from io import BytesIO, IOBase
from pathlib import Path
from typing import Any

from .common import Plan, Tally, forked, timed
from .kills import put
from .material import Material, preload

_FILES = "open write writelines flush close fsync fdatasync truncate ftruncate fchmod __exit__ mkdtemp flock"
_NAMES = "rename replace renames link symlink unlink remove mkdir rmdir chmod sync stat lstat scandir listdir utime"
CALLS = frozenset(f"{_FILES} {_NAMES}".split())
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EMFILE)
PYTHON = frozenset({"renameat2"})
"""Functions of the package that call the system without a C function of Python's between."""

Save = Callable[[], None]


class InjectedError(OSError):
    """An error of the disk that a step was given."""


def run(material: Material, plan: Plan) -> list[Tally]:
    """Save a file, and a model folder over another, with a fault at every step."""
    preload()
    tallies: list[Tally] = []
    saves = _saves(material)
    kinds = ("SIGKILL before", "SIGKILL after", "SIGINT at", "an error at")
    for name, (target, before, after, save) in saves.items():
        steps = _count(plan, target, before, save)
        for kind in kinds:
            tally = Tally(f"{kind} every step of saving {name} ({steps} steps)")
            for number in _spread(steps, plan, len(saves) * len(kinds) - len(tallies)):
                _try(tally, plan, (target, before, after, save), kind, number)
            tallies.append(tally)
    return timed(tallies)


def _spread(steps: int, plan: Plan, among: int) -> Iterator[int]:
    """Yield all steps in any order, or those that the time or the share allows."""
    numbers = list(range(1, steps + 1))
    plan.random.shuffle(numbers)
    for index in plan.trials(steps, least=2, among=among):
        yield numbers[index]


def _saves(m: Material) -> dict[str, tuple[str, dict[str, bytes], dict[str, bytes], Callable[[Path], None]]]:
    """Return what is saved: the target's name, what it holds before and after, and the function that saves."""
    engines = [m.engine.read_bytes(), m.int8.read_bytes()]
    models = [_files(m.model(kind)) for kind in ("exact", "none")]

    def engine(path: Path) -> None:
        from aurevoir.engine.load import read_engine

        read_engine(m.int8).save(path)

    def model(path: Path) -> None:
        from aurevoir.transfer.classifier import load

        load(m.model("none")).save(path)

    return {
        "an engine file": ("e.engine", {"": engines[0]}, {"": engines[1]}, engine),
        "a model over another": ("model", models[0], models[1], model),
        "a new model": ("model", {}, models[1], model),
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _prepared(plan: Plan, target: str, before: dict[str, bytes]) -> Path:
    place = plan.place("step")
    if before:
        put(place / target, before)
    return place


def _count(plan: Plan, target: str, before: dict[str, bytes], save: Callable[[Path], None]) -> int:
    place = _prepared(plan, target, before)

    def action() -> int:
        # Reading what is saved is no part of the save.
        counter = _Steps(0, "")
        _saved(save, place / target, counter)
        print(counter.seen)
        return 0

    done = forked(action)
    if done.code:
        raise RuntimeError(f"saving fails undisturbed: {done.err}")
    return int(done.out.split()[-1])


def _saved(save: Callable[[Path], None], path: Path, steps: "_Steps") -> None:
    from aurevoir.engine import engine
    from aurevoir.transfer import classifier

    originals = engine.Engine.save, classifier.Classifier.save

    def watched(original: Any) -> Any:
        def call(*arguments: Any) -> None:
            sys.setprofile(steps)
            try:
                original(*arguments)
            finally:
                sys.setprofile(None)

        return call

    engine.Engine.save, classifier.Classifier.save = map(watched, originals)  # type: ignore[method-assign]
    save(path)


def _is_of_files(function: Any) -> bool:
    """Return whether a C function is of the system, or of an open file; archives are made in memory."""
    of = getattr(function, "__self__", None)
    if isinstance(of, IOBase):
        return type(of) is not BytesIO
    return getattr(of, "__name__", "") in ("posix", "fcntl", "io", "_io")


class _Steps:
    """A profile function that counts steps and makes one of them fail."""

    def __init__(self, number: int, kind: str) -> None:
        self.number, self.kind, self.seen = number, kind, 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event.startswith("c_") and not _is_of_files(argument):
            return
        if event == "c_call" and getattr(argument, "__name__", "") in CALLS:
            self._before(str(argument.__name__))
        elif event == "call" and frame.f_code.co_name in PYTHON:
            self._before(frame.f_code.co_name)
        elif event in ("c_return", "return") and self.kind == "SIGKILL after" and self.seen == self.number:
            name = argument.__name__ if event == "c_return" else frame.f_code.co_name
            if name in CALLS | PYTHON:
                os.kill(os.getpid(), signal.SIGKILL)

    def _before(self, name: str) -> None:
        self.seen += 1
        if self.seen != self.number:
            return
        if self.kind == "SIGKILL before":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "SIGINT at":
            os.kill(os.getpid(), signal.SIGINT)
        if self.kind.startswith("an error"):
            code = ERRORS[self.number % len(ERRORS)]
            raise InjectedError(code, os.strerror(code), f"step {self.number}, {name}")


def _try(tally: Tally, plan: Plan, job: Any, kind: str, number: int) -> None:
    target, before, after, save = job
    place = _prepared(plan, target, before)
    name = f"{kind} step {number}"

    def action() -> int:
        from aurevoir.errors import AurevoirError

        try:
            _saved(save, place / target, _Steps(number, kind))
        except (AurevoirError, OSError) as error:
            # Python's callers get the system's error with its file; the command line makes a line of it.
            print(error)
            return 1
        except KeyboardInterrupt:
            return 130
        return 0

    done = forked(action)
    tally.tried += 1
    tally.megabytes = max(tally.megabytes, done.megabytes)
    if done.hung:
        tally.add("hangs", name)
    elif done.died and not (done.died == signal.SIGKILL and kind.startswith("SIGKILL")):
        tally.add("crashes", name)
    elif "Traceback" in done.err:
        tally.add("foreign", f"{name}: {' | '.join(done.err.split(chr(10))[-9:])}")
    elif done.code and not done.died:
        tally.refused += 1
    found = _now(place / target)
    if found not in (before, after):
        tally.add("lost", f"{name}: the target is neither the old one nor the new one")
    if done.code == 0 and not done.died and found != after:
        tally.add("lost", f"{name}: it says that it saved, and did not")
    _strays(tally, job, name, place)
    shutil.rmtree(place, ignore_errors=True)


def _now(path: Path) -> dict[str, bytes]:
    return _files(path) if path.is_dir() else {"": path.read_bytes()} if path.is_file() else {}


def _strays(tally: Tally, job: Any, name: str, place: Path) -> None:
    """Count what the next save leaves over: one that is ended, or whose disk fails while it cleans, cannot clean."""
    target, _, after, save = job
    if [path for path in place.iterdir() if path.name != target]:
        done = forked(lambda: save(place / target))
        if done.code or _now(place / target) != after:
            tally.add("lost", f"{name}: the next save fails: {done.err[-200:]}")
    stray = [path.name for path in place.iterdir() if path.name != target]
    if stray:
        tally.add("left", f"{name}: {', '.join(stray)}", len(stray))
