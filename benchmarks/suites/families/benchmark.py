"""``aurevoir bench families``: the structures of public model families, exported by both of torch's exporters.

Each graph is read, built in fp32 on every runtime and compared with torch in float64; at some opsets it is built in
int8 too, and NNCF quantizes the same float graph on the same images. What is refused stays in its row, with the reason.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ....children import run_child
from ....engine.runtimes import installed
from ....errors import UsageError
from ....progress import progress_bar
from ...contract import Benchmark, Result, Row, Spread
from .exporters import EXPORTERS, OPSETS
from .networks import FAMILIES, LIBRARIES, NETWORKS
from .table import describe, markdown, summary
from .worker import MODULE, Task, append_line, read_lines

RUNTIMES = ("openvino", "onnxruntime", "torch")
PATIENCE = 1800
"""Seconds after which a network's process is stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument(
        "--families", nargs="+", default=list(FAMILIES), metavar="NAME", help=f"of {', '.join(FAMILIES)} (default: all)"
    )
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), help="(default: both)")
    parser.add_argument(
        "--exporters",
        nargs="+",
        choices=[*EXPORTERS, MODULE],
        default=[*EXPORTERS, MODULE],
        help=f"torch's, and {MODULE}: the project's own export of the module, once (default: all)",
    )
    parser.add_argument("--opsets", nargs="+", type=int, default=list(OPSETS), help="(default: 11 to 20)")
    parser.add_argument(
        "--int8-opsets", nargs="*", type=int, default=[18], help="compare int8 with NNCF at these (default: 18)"
    )
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="(default: all)")
    parser.add_argument("--data", metavar="DIR", help="a folder of images (default: generated images)")
    parser.add_argument("--calibration-images", type=int, default=32, help="(default: 32)")
    parser.add_argument("--test-images", type=int, default=8, help="other images, to compare on (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="networks at a time (default: 2)")
    parser.add_argument("--keep", metavar="DIR", help="keep rows here as they come; a run after that leaves them out")


def run(args: argparse.Namespace) -> Result:
    """Measure every network in a process of its own; what fails stays, with the reason."""
    _check(args)
    with tempfile.TemporaryDirectory(prefix="aurevoir-families-") as folder:
        kept = Path(args.keep or folder)
        kept.mkdir(parents=True, exist_ok=True)
        tasks = _tasks(args, kept)
        with ThreadPoolExecutor(args.jobs) as pool, progress_bar(total=len(tasks), desc="networks") as bar:

            def measure(task: Task) -> list[Row]:
                rows = _measure(task)
                sound = sum(row.error is None for row in rows)
                bar.write(f"{task.network}: {sound} of {len(rows)} graphs measured", file=sys.stderr)
                bar.update()
                return rows

            rows = [row for found in pool.map(measure, tasks) for row in found]
    settings = {
        "data": Path(args.data).name if args.data else "generated",
        "weights": "random",
        "calibration_images": args.calibration_images,
        "test_images": args.test_images,
        "seed": args.seed,
        "runtimes": args.runtimes,
        "opsets": args.opsets,
    }
    return Result("families", rows, settings, {"summary": summary([row.to_json() for row in rows])})


def _check(args: argparse.Namespace) -> None:
    if unknown := [name for name in args.families if name not in FAMILIES]:
        raise UsageError(f"family {unknown[0]!r} is not known; choose among {', '.join(FAMILIES)}")
    if outside := [opset for opset in [*args.opsets, *args.int8_opsets] if opset not in OPSETS]:
        raise UsageError(
            f"opset {outside[0]} is not among those that torch's exporters write, {OPSETS[0]} to {OPSETS[-1]}"
        )
    for name in ("jobs", "calibration_images", "test_images"):
        if getattr(args, name) < (least := 2 if name == "test_images" else 1):
            raise UsageError(f"{name.replace('_', '-')} {getattr(args, name)} is below {least}")
    if missing := [name for name in args.runtimes if not installed(name)]:
        raise UsageError(f"runtime {missing[0]!r} is not installed; install it, or leave it out of --runtimes")


def _tasks(args: argparse.Namespace, folder: Path) -> list[Task]:
    chosen = [each for each in NETWORKS if each.family in args.families and each.library in args.libraries]
    return [
        Task(
            network=each.name,
            rows=str(folder / f"{''.join(letter if letter.isalnum() else '_' for letter in each.name)}.jsonl"),
            exporters=list(args.exporters),
            opsets=list(args.opsets),
            int8_opsets=list(args.int8_opsets),
            runtimes=list(args.runtimes),
            data=args.data,
            calibration_images=args.calibration_images,
            test_images=args.test_images,
            seed=args.seed,
        )
        for each in chosen
    ]


def _measure(task: Task) -> list[Row]:
    """Run the network's process until every step has a row: one in which it dies has the reason, and it starts anew."""
    for _ in range(len(task.steps()) + 1):
        fault = _run(task)
        if not fault:
            break
        lines = read_lines(Path(task.rows))
        if not lines or "begun" not in lines[-1]:
            # It failed between the steps, as it would again.
            return [_failed(task, *step, fault) for step in task.steps()]
        key = lines[-1]["begun"]
        step = next(step for step in task.steps() if task.key(*step) == key)
        row = _failed(task, *step, f"{lines[-1]['stage']}: {fault}")
        append_line(Path(task.rows), key=key, row=row.to_json())
    found = {line["key"]: line["row"] for line in read_lines(Path(task.rows)) if "row" in line}
    return [_row(found[task.key(*step)]) for step in task.steps()]


def _run(task: Task) -> str:
    """Run the network's process; return what went wrong, or nothing."""
    described, log = (Path(task.rows).with_suffix(suffix) for suffix in (".task", ".log"))
    described.write_text(json.dumps(asdict(task)))
    with log.open("a") as file:
        try:
            code = run_child(
                f"{__package__}.worker", [str(described)], timeout=PATIENCE, stdout=subprocess.DEVNULL, stderr=file
            ).returncode
        except subprocess.TimeoutExpired:
            return f"not done in {PATIENCE} s"
    if code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return f"exit status {code}: {''.join(last)[:300]}" if code else ""


def _failed(task: Task, exporter: str, opset: int | None, fault: str) -> Row:
    network = next(each for each in NETWORKS if each.name == task.network)
    cells = {"family": network.family, "library": network.library, "model": network.model, "size": network.size}
    return Row({**cells, "exporter": exporter, "opset": opset}, fault)


def _row(cells: dict[str, Any]) -> Row:
    error = cells.get("error")
    return Row({name: cell for name, cell in cells.items() if name != "error"}, error)


BENCHMARK = Benchmark(
    "families",
    add_arguments,
    run,
    describe,
    markdown,
    keys=("library", "model", "exporter", "opset"),
    spreads={"behind_nncf.mean": Spread("error", "behind_nncf.standard_error")},
)
