"""Full and read-only disks: a small tmpfs with every number of bytes and files left, and one that is read-only.

Mounting needs root. Elsewhere a limit on the size of files stands in for the full disk, and rows say so.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import Plan, Tally, forked, timed
from .kills import Job, _contents, _jobs, _main, put
from .material import Material, preload

SIZE = 4 << 20
"""Bytes of the tmpfs."""
_PAGE = 4096


def run(material: Material, plan: Plan) -> list[Tally]:
    """Run commands whose target is on a disk without space, without free files, or read-only."""
    preload()
    jobs = {name: job for name, job in _jobs(material, plan).items() if name != "fit and build"}
    if not _can_mount(plan):
        return _limited(jobs, plan)
    tallies: list[Tally] = []
    for name, job in jobs.items():
        for kind, try_one in (
            ("no space", _full),
            ("no space for temporary files", _full_tmp),
            ("read-only", _readonly),
        ):
            tally = Tally(f"{kind} at {name}")
            needed = sum(map(len, job.after.values())) // _PAGE + 12
            most = 1 if kind == "read-only" else needed
            for number in plan.trials(most, among=3 * len(jobs) - len(tallies)):
                left = number if plan.share >= 1 else plan.random.randrange(needed)
                try_one(tally, job, plan, left)
            tallies.append(tally)
    return timed(tallies)


def _can_mount(plan: Plan) -> bool:
    with _disk(plan) as place:
        return place is not None


@contextmanager
def _disk(plan: Plan) -> Iterator[Path | None]:
    place = plan.place("disk")
    options = f"size={SIZE},nr_inodes=64"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, check=False)
    try:
        yield None if done.returncode else place
    finally:
        if not done.returncode:
            subprocess.run(["umount", "--lazy", str(place)], check=False)


def _fill(place: Path, pages: int) -> None:
    """Leave so many pages of a disk free; one in four times so many files instead."""
    if pages % 4 == 3:
        free = os.statvfs(place).f_ffree - pages // 4
        for number in range(free):
            (place / f"fill-{number}").touch()
        return
    free = os.statvfs(place).f_bavail
    with (place / "fill").open("wb") as file:
        file.write(bytes(_PAGE) * max(0, free - pages))


def _emptied(place: Path) -> list[str]:
    """Return what is there besides what filled the disk, and what is none of ours."""
    names = [path.name for path in place.iterdir()]
    return [name for name in names if not name.startswith("fill")]


def _full(tally: Tally, job: Job, plan: Plan, pages: int) -> None:
    with _disk(plan) as place:
        assert place is not None
        put(place / job.target, job.before)
        _fill(place, pages)
        _judge(tally, job, place, f"{pages} pages or {pages // 4} files left")


def _full_tmp(tally: Tally, job: Job, plan: Plan, pages: int) -> None:
    target = plan.place("target")
    put(target / job.target, job.before)
    with _disk(plan) as place:
        assert place is not None
        _fill(place, pages)

        def prepare() -> None:
            import tempfile

            os.environ["TMPDIR"] = tempfile.tempdir = str(place)

        _judge(tally, job, target, f"{pages} pages or {pages // 4} files left for temporary files", prepare)
        if stray := _emptied(place):
            tally.add("left", f"{pages} pages: {', '.join(stray)}", len(stray))
    shutil.rmtree(target)


def _readonly(tally: Tally, job: Job, plan: Plan, pages: int) -> None:
    with _disk(plan) as place:
        assert place is not None
        put(place / job.target, job.before)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        _judge(tally, job, place, "read-only")


def _judge(tally: Tally, job: Job, place: Path, name: str, prepare: Callable[[], None] = lambda: None) -> None:
    def action() -> int:
        prepare()
        return _main(job.words(place))

    done = forked(action, 180)
    tally.saw(done, name)
    found = _contents(place / job.target)
    if found not in (job.before, job.after) or (done.code == 0 and found != job.after):
        tally.add("lost", f"{name}: exit code {done.code}, and the target is not what that says")
    stray = [each for each in _emptied(place) if each != job.target]
    if stray:
        tally.add("left", f"{name}: {', '.join(stray)}", len(stray))


def _limited(jobs: dict[str, Job], plan: Plan) -> list[Tally]:
    tallies: list[Tally] = []
    for name, job in jobs.items():
        tally = Tally(f"a limit on the size of files at {name} (no tmpfs here)")
        largest = max(map(len, job.after.values()))
        for _ in plan.trials(40, among=len(jobs) - len(tallies)):
            limit = plan.random.randrange(largest)
            place = plan.place("limited")
            put(place / job.target, job.before)
            _judge(tally, job, place, f"{limit} bytes", lambda limit=limit: _limit(limit))  # type: ignore[misc]
            shutil.rmtree(place)
        tallies.append(tally)
    return timed(tallies)


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
