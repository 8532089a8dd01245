"""``aurevoir fit`` on the workers of a local cluster, compared with one process on equal cores: seconds and memory."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ...cluster.connection import required_ray
from ...engine.build import build_engine
from ...engine.timing import ratios
from ...errors import UsageError
from ...files import file_digest
from ...images.sources import class_folders
from ...progress import progress_bar
from ...transfer.evaluate import split
from ..contract import Benchmark, Json, Result, Row, Spread
from ..harness.datasets import folder_name
from ..harness.machine import resident_bytes
from ..harness.repeated import repeated
from ..harness.scaling import Series
from ..harness.whole_process import Finished, fit_cells, run_whole
from ..reporting.figures import draw_scaling, figure, sound
from ..reporting.text import aligned, markdown_table

ALONE = "one process"
_TITLES = (b"ray::Worker", b"ray::embed", b"ray::sums of the ridge")
"""How processes of workers are called, by what they do."""
_PAUSE = 0.2
"""Seconds between two looks at the memory of workers."""


@dataclass
class _Found:
    """What the processes of a contestant came to."""

    processes: list[Finished] = field(default_factory=list)
    own_megabytes: float = 0.0
    shared_megabytes: float = 0.0
    digests: set[tuple[str, ...]] = field(default_factory=set)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("data", help="a folder of class folders")
    parser.add_argument("--backbone", required=True, help="a torchvision name or ONNX file")
    parser.add_argument("--precision", default="int8", help="of the engine (default: int8)")
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=[1000, 10_000],
        metavar="N",
        help="training and test images together; files are repeated where there are fewer (default: 1000 10000)",
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", metavar="N", help="which share the processors (default: one, and one a core)"
    )
    parser.add_argument("--repeats", type=int, default=2, help="processes of each contestant (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")


def run(args: argparse.Namespace) -> Result:
    """Fit on every number of images, in turns, with the engine built before."""
    required_ray()
    cores = os.cpu_count() or 1
    workers = sorted(set(args.workers or (1, cores)))
    if workers[-1] > cores:
        raise UsageError(f"--workers {workers[-1]} are more than the {cores} processors; give fewer")
    labelled = class_folders(args.data)
    rows: list[Row] = []
    total = len(args.images) * args.repeats * (len(workers) + 1)
    with tempfile.TemporaryDirectory() as scratch, progress_bar(total=total, desc="cluster", unit="run") as bar:
        engine = Path(scratch) / "engine.aurevoir"
        built = build_engine(
            args.backbone, precision=args.precision, calibration=args.data if args.precision == "int8" else None
        )
        built.save(engine)
        for count in args.images:
            with repeated(split(labelled, args.seed), count, Path(scratch)) as data:
                rows += _measure(args, data, count, engine, dict.fromkeys([0, *workers]), cores, bar)
    return Result(
        "cluster",
        rows,
        {
            "engine": repr(built),
            "data": folder_name(args.data),
            "files": len(labelled.paths),
            "classes": len(labelled.names),
            "cores": cores,
            "repeats": args.repeats,
        },
    )


def _measure(
    args: argparse.Namespace, data: Path, count: int, engine: Path, workers: Mapping[int, None], cores: int, bar: Any
) -> list[Row]:
    found = {number: _Found() for number in workers}
    rows = {number: Row({"contestant": _name(number, cores), "images": count, "workers": number}) for number in workers}
    for repeat in range(args.repeats):
        for number in list(workers)[:: -1 if repeat % 2 else 1]:
            bar.set_postfix_str(f"{_name(number, cores)}, {count} images")
            if rows[number].error is None:
                with rows[number].attempt():
                    _fit(args, data, engine, number, cores, found[number])
            bar.update()
    for number, row in rows.items():
        if row.error is None:
            row.note(
                **fit_cells(found[number].processes),
                worker_own_megabytes=found[number].own_megabytes,
                worker_shared_megabytes=found[number].shared_megabytes,
            )
            row.note(same_model=found[number].digests == found[0].digests and len(found[0].digests) == 1)
            if rows[0].error is None:
                row.note(times_alone=ratios(rows[0]["all_seconds"], row["all_seconds"]))
    return list(rows.values())


def _name(workers: int, cores: int) -> str:
    each = cores // workers if workers else cores
    return f"{workers} worker{'s' * (workers > 1)} of {each} core{'s' * (each > 1)}" if workers else ALONE


def _fit(args: argparse.Namespace, data: Path, engine: Path, workers: int, cores: int, found: _Found) -> None:
    with tempfile.TemporaryDirectory(dir=engine.parent) as folder:
        command = [sys.executable, "-m", "aurevoir", "fit", str(data / "train"), "--test", str(data / "test")]
        command += ["--engine", str(engine), "--seed", str(args.seed), "--out", f"{folder}/model", "--json", "--quiet"]
        if workers:
            command += ["--cluster", "local", "--workers", str(workers), "--cpus-per-worker", str(cores // workers)]
        with _watched() as largest:
            found.processes.append(run_whole(command))
        found.own_megabytes = max(found.own_megabytes, *(own for own, _ in largest))
        found.shared_megabytes = max(found.shared_megabytes, *(shared for _, shared in largest))
        found.digests.add(tuple(file_digest(path) for path in sorted(Path(folder, "model").iterdir())))


@contextmanager
def _watched() -> Iterator[list[tuple[float, float]]]:
    """Yield a list to which the memory of each worker, its own and shared, is added again and again in a block."""
    found, ended = [(0.0, 0.0)], Event()

    def watch() -> None:
        while not ended.wait(_PAUSE):
            found.extend(_workers_megabytes())

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _workers_megabytes() -> Iterator[tuple[float, float]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(_TITLES) and (sizes := resident_bytes(folder.name)):
                yield sizes[0] / 1e6, sizes[1] / 1e6


_HEADER = [
    "seconds",
    "times one process",
    "a worker's own memory, MB",
    "pages it shares, MB",
    "memory of the driver, MB",
    "the same model",
]


def _text(row: Json) -> list[str]:
    times = f"{row['times_alone']['median']:.2f}" if "times_alone" in row else "-"
    worker = [f"{row[f'worker_{kind}_megabytes']:.0f}" if row["workers"] else "" for kind in ("own", "shared")]
    same = "yes" if row["same_model"] else "no"
    return [_named(row), f"{row['seconds']:.1f}", times, *worker, f"{row['peak_megabytes']:.0f}", same]


def _named(row: Json) -> str:
    return f"{row['contestant']}, {row['images']:,d} images"


def _caption(result: Json) -> str:
    runs = "one process" if result["repeats"] == 1 else f"median of {result['repeats']} processes"
    return (
        f"{result['engine'].strip('<>')}; {result['data']}, {result['files']:,d} files of {result['classes']} classes, "
        f"repeated where there are fewer than images; {runs} each on {result['cores']} cores, with the start of the "
        "cluster and without the build of the engine"
    )


def describe(result: Json) -> str:
    """Lay the rows out as a table, and the stages of each."""
    blank = [""] * (len(_HEADER) - 1)
    shown = [_text(row) if "seconds" in row else [_named(row), row["error"], *blank] for row in result["rows"]]
    lines = [_caption(result), *aligned(["contestant", *_HEADER], shown)]
    for row in sound(result["rows"]):
        lines.append(f"{_named(row)}: {', '.join(f'{name} {each:.1f}' for name, each in row['stages'].items())}")
    return "\n".join(lines)


def markdown(result: Json) -> list[str]:
    """Return the contestants that ran as a table."""
    rows = [_text(row) for row in sound(result["rows"])]
    return [f"{_caption(result)}:", "", *markdown_table(["contestant", *_HEADER], rows)]


def plot(result: Json, path: Path) -> None:
    """Draw seconds, and the memory of a worker and of the driver, over images."""
    rows = sound(result["rows"])
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    with figure(path, (14, 5.5), (1, 2)) as (_, panels):
        draw_scaling(panels[0, 0], _series(rows, names, "seconds"), "a fit with its test")
        panels[0, 0].set_ylabel("seconds of the whole process")
        for name, own in _series(rows, names, "peak_megabytes").items():
            panels[0, 1].plot(own.sizes, own.seconds, "s--", label=name if name == ALONE else f"driver, {name}")
        shared = [row for row in rows if row["workers"]]
        for kind, what, style in (("own", "own pages of a worker", "o-"), ("shared", "pages that it shares", "^:")):
            for name, own in _series(shared, names[1:], f"worker_{kind}_megabytes").items():
                panels[0, 1].plot(own.sizes, own.seconds, style, label=f"{what}, {name}")
        counts = sorted({row["images"] for row in rows})
        panels[0, 1].set(xscale="log", ylabel="peak memory of a process, MB")
        panels[0, 1].set_ylim(0)
        panels[0, 1].set_xticks(counts, [f"{count:,d}" for count in counts], rotation=30)
        panels[0, 1].set_xticks([], minor=True)
        legend = panels[0, 1].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
        legend.set_title("memory", {"size": 12})
        for panel in panels[0]:
            panel.set_xlabel("images, a fifth of them to test on")


def _series(rows: Sequence[Json], names: Sequence[str], cell: str) -> dict[str, Series]:
    own = {name: [row for row in rows if row["contestant"] == name] for name in names}
    return {
        name: Series(
            "peer" if name == ALONE else "aurevoir", [row["images"] for row in each], [row[cell] for row in each]
        )
        for name, each in own.items()
    }


BENCHMARK = Benchmark(
    "cluster",
    add_arguments,
    run,
    describe,
    markdown,
    plot,
    keys=("contestant", "images"),
    spreads={"seconds": Spread("runs", "all_seconds")},
)
