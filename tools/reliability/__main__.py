"""The reliability programme: ``python -m aurevoir.tools.reliability [--only NAME ...] [--seconds S] [--seed N]``."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from aurevoir.benchmarks.contract import write_result
from aurevoir.benchmarks.harness.machine import Machine
from aurevoir.saving import write_atomically

from .common import Cells, Plan, Tally, forked
from .material import Material, preload

EXPERIMENTS = (
    "environments",
    "kills",
    "steps",
    "readers",
    "disks",
    "processes",
    "clusters",
    "mutations",
    "kernels",
    "memory",
)
SHORT_EXPERIMENTS = tuple(each for each in EXPERIMENTS if each != "clusters")
"""Those that the test suite runs; Ray takes seconds to start, and the suite has tests of its own of clusters."""
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "reliability.json"
SHORT, SECONDS = 0.002, 3600.0
"""The share of the full counts that the suite tries, and the seconds of an experiment by default."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run experiments, add their rows to the result file, and return 1 where something went wrong."""
    args = _arguments(argv)
    result = _before(args.out)
    faults = 0
    # Commands are run from this package, wherever they are started.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, sys.path)])
    preload()
    with tempfile.TemporaryDirectory(prefix="reliability-") as place:
        # Other users must reach what is in it.
        Path(place).chmod(0o755)
        # The record of engines that were checked: of these runs, not of the user.
        os.environ["AUREVOIR_CACHE"] = str(Path(place) / "cache")
        material = Material(Path(place)).all()
        for name in args.only or (SHORT_EXPERIMENTS if args.short else EXPERIMENTS):
            rows, more = _run(name, material, args)
            faults += sum(row[kind] for row in rows for kind in ("lost", "crashes", "hangs", "foreign", "left"))
            _report(rows)
            if args.out:
                result = _with(result, name, rows, more, args)
                write_result(result, args.out)
    if args.out and args.plot and (series := result.get("resident_megabytes")):
        from .memory import plot

        plot(series, args.plot)
    return int(faults > 0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="reliability", description="Faults, hostile files and full disks, counted.")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="at most so long each experiment, once a few trials are through"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the full counts (default: 1)")
    parser.add_argument(
        "--short", action="store_true", help="what the test suite runs: some trials of each kind but clusters"
    )
    parser.add_argument("--rows", default="", metavar="TEXT", help="of mutations, only readers named so")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--out", type=Path, help="result file; rows of other experiments in it stay")
    parser.add_argument("--plot", type=Path, help="figure of resident memory")
    args = parser.parse_args(argv)
    if args.short:
        args.share, args.seconds = SHORT, 0.0
    return args


def _run(name: str, material: Material, args: argparse.Namespace) -> tuple[list[Cells], Cells]:
    """Run an experiment in a child of its own, so that each begins without threads and with its own memory."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    folder.chmod(0o755)

    def child() -> None:
        # What it says on the way is seen on the way.
        found, more = _experiment(name, material, folder, args)
        write_atomically(folder / "rows.json", json.dumps([[each.cells(name) for each in found], more]).encode())

    try:
        began = time.perf_counter()
        done = forked(child, 7200 + 10 * args.seconds)
        path = folder / "rows.json"
        if path.is_file():
            rows, more = json.loads(path.read_bytes())
            return rows, more
        failed = Tally(f"{name} itself")
        failed.add("crashes", (done.err.strip() or f"signal {done.died}")[-500:])
        failed.seconds = time.perf_counter() - began
        return [failed.cells(name)], {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _experiment(name: str, material: Material, folder: Path, args: argparse.Namespace) -> tuple[list[Tally], Cells]:
    module = import_module(f".{name}", __package__)
    # Commands keep what they keep for themselves here, not with what the user has.
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    plan = Plan(folder, args.seconds, args.share, args.seed, args.rows)
    if name == "memory":
        found, more = module.measure(material, plan)
        return found, more
    return module.run(material, plan), {}


def _before(path: Path | None) -> Cells:
    if path is None or not path.is_file():
        return {"benchmark": "reliability", "rows": []}
    found: Cells = json.loads(path.read_bytes())
    return found


def _with(result: Cells, name: str, rows: list[Cells], more: Cells, args: argparse.Namespace) -> Cells:
    """Return a result with the rows of one experiment in the place of its earlier ones, in the programme's order."""
    new = {row["what"] for row in rows}
    kept = [row for row in result["rows"] if row["experiment"] != name or (args.rows and row["what"] not in new)]
    own = [{key: value for key, value in row.items() if key != "examples" or value} for row in rows]
    order = {each: index for index, each in enumerate(EXPERIMENTS)}
    machine = Machine.here().to_json() | {"command": "make reliability"}
    ordered = sorted([*kept, *own], key=lambda row: order.get(row["experiment"], len(order)))
    settings = {"seed": args.seed}
    return {**result, **settings, "rows": ordered, **more, "machine": machine}


def _report(rows: list[Cells]) -> None:
    for row in rows:
        counts = ", ".join(f"{kind} {row[kind]}" for kind in ("refused", "lost", "crashes", "hangs", "foreign", "left"))
        print(
            f"{row['experiment']}: {row['what']}: {row['tried']} tried, {counts}, {row['megabytes']} MB, "
            f"{row['seconds']} s",
            flush=True,
        )
        for example in row["examples"]:
            print(f"    {example}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
