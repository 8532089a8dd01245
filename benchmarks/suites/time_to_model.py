"""Seconds from a folder of photographs to a tested model, as whole processes: ``aurevoir fit`` and scripts.

Each contestant is a process of its own, with all that it imports, compiles, decodes and writes. They take turns, in the
reverse order in every second repeat.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...engine.backbones.base import Backbone
from ...engine.timing import ratios
from ...errors import MissingPackageError, UsageError
from ...images.sources import class_folders
from ...progress import progress_bar
from ...transfer.evaluate import split
from ..contract import Benchmark, Json, Result, Row, Spread
from ..harness.datasets import folder_name
from ..harness.engines import open_network
from ..harness.repeated import repeated
from ..harness.scaling import Series
from ..harness.whole_process import Finished, fit_cells, run_whole
from ..reporting.figures import draw_scaling, figure, sound
from ..reporting.text import aligned, markdown_table

FIRST, COMPILED, LATER = "aurevoir, first run", "aurevoir, kernels compiled", "aurevoir, later run"
NAIVE = {
    "ONNX Runtime fp32, logistic regression": ("onnxruntime", "onnxruntime"),
    "torch, logistic regression": ("torch", "torch"),
    "OpenVINO and NNCF int8, logistic regression": ("nncf", "nncf"),
}
"""By name the way, and the package that it needs."""
CONTESTANTS = (FIRST, COMPILED, LATER, *NAIVE)
IMAGES = [100, 1000, 10_000, 100_000]


@dataclass
class _Run:
    """What all contestants are given, and the caches that first runs leave to later ones."""

    args: argparse.Namespace
    backbone: Backbone
    scratch: Path
    kept: dict[int, Path] = field(default_factory=dict)
    """By number of images what the first run wrote into its empty caches."""

    @property
    def is_file(self) -> bool:
        return Path(self.args.backbone).is_file()

    def job(self, data: Path) -> str:
        own = self.backbone
        known = {"backbone": self.args.backbone, "weights": self.args.weights or "random", "cut": self.args.cut}
        job = known | {"size": own.size, "mean": own.mean, "std": own.std}
        return json.dumps(job | {part: str(data / part) for part in ("train", "test")})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("data", help="a folder of class folders")
    parser.add_argument("--backbone", default="densenet169", help="a torchvision name or ONNX file (densenet169)")
    parser.add_argument("--weights", help="default, random or a file (default: random; an ONNX file's own)")
    parser.add_argument("--cut", help="where the network ends (default: the backbone's own)")
    parser.add_argument("--precision", default="int8", help="of aurevoir's engine (default: int8)")
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=IMAGES,
        metavar="N",
        help="training and test images together; where there are fewer, some are random crops (default: 100 to 100000)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="processes of each contestant (default: 3)")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS, help="(default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and random weights (default: 0)")


def run(args: argparse.Namespace) -> Result:
    """Time every contestant on every number of images; one that fails stays, with the reason."""
    labelled = class_folders(args.data)
    parts = split(labelled, args.seed)
    backbone = open_network(args.backbone, args.weights, None, args.seed)
    rows: list[Row] = []
    total = len(args.images) * args.repeats * len(args.contestants)
    with tempfile.TemporaryDirectory() as scratch, progress_bar(total=total, desc="time to model", unit="run") as bar:
        given = _Run(args, backbone, Path(scratch))
        for count in args.images:
            with repeated(parts, count, given.scratch, crops=True) as data:
                rows += _measure(given, data, count, bar)
    return Result(
        "time-to-model",
        rows,
        {
            "network": backbone.name,
            "weights": backbone.weights,
            "data": folder_name(args.data),
            "files": len(labelled.paths),
            "classes": len(labelled.names),
            "cropped": [count for count in args.images if count > len(labelled.paths)],
            "repeats": args.repeats,
        },
    )


def _measure(given: _Run, data: Path, count: int, bar: Any) -> list[Row]:
    runs = {name: _contestant(name, given, data, count) for name in CONTESTANTS if name in given.args.contestants}
    rows = {name: Row({"contestant": name, "images": count}) for name in runs}
    found: dict[str, list[Finished]] = {name: [] for name in runs}
    for repeat in range(given.args.repeats):
        for name in list(runs)[:: -1 if repeat % 2 else 1]:
            bar.set_postfix_str(f"{name}, {count} images")
            if rows[name].error is None:
                with rows[name].attempt():
                    found[name].append(runs[name]())
            bar.update()
    for name, row in rows.items():
        if row.error is None:
            row.note(**fit_cells(found[name]))
    _compare(list(rows.values()))
    return list(rows.values())


def _contestant(name: str, given: _Run, data: Path, count: int) -> Callable[[], Finished]:
    return partial(_script, name, given, data) if name in NAIVE else partial(_fit, name, given, data, count)


def _fit(name: str, given: _Run, data: Path, count: int) -> Finished:
    """Run ``aurevoir fit`` with caches that are empty, or that the first run on as many images left."""
    if name != FIRST and count not in given.kept:
        _fit(FIRST, given, data, count)
    args, new = given.args, Path(tempfile.mkdtemp(dir=given.scratch))
    environment = {
        "AUREVOIR_CACHE": str((given.kept[count] if name == LATER else new) / "files"),
        "NUMBA_CACHE_DIR": str((new if name == FIRST else given.kept[count]) / "kernels"),
    }
    command = [sys.executable, "-m", "aurevoir", "fit", str(data / "train"), "--test", str(data / "test")]
    command += ["--backbone", args.backbone, "--precision", args.precision, "--seed", str(args.seed)]
    command += [] if given.is_file else ["--weights", args.weights or "random"]
    command += ["--cut", args.cut] if args.cut else []
    found = run_whole([*command, "--out", str(new / "model"), "--json", "--quiet"], environment)
    if name == FIRST:
        given.kept.setdefault(count, new)
    return found


def _script(name: str, given: _Run, data: Path) -> Finished:
    way, package = NAIVE[name]
    if find_spec(package) is None:
        raise MissingPackageError(f"{package} is not installed")
    if (way == "torch") == given.is_file:
        raise UsageError("needs a network by name" if given.is_file else "needs an ONNX file as the backbone")
    return run_whole([sys.executable, "-m", "aurevoir.benchmarks.rivals.naive", way, given.job(data)])


def _compare(rows: Sequence[Row]) -> None:
    """Note how many times as long each takes as a later run of aurevoir, process by process."""
    later = next((row for row in rows if row["contestant"] == LATER and row.error is None), None)
    for row in rows:
        if later is not None and row.error is None:
            row.note(times_later=ratios(later["all_seconds"], row["all_seconds"]))


def _shown(result: Json, text: Callable[[Mapping[str, Any]], list[str]]) -> list[list[str]]:
    return [text(row) if "seconds" in row else [_named(row), row["error"], "", "", ""] for row in result["rows"]]


def _named(row: Json) -> str:
    return f"{row['contestant']}, {row['images']:,d} images"


def _text(row: Json) -> list[str]:
    times = f"{row['times_later']['median']:.2f}" if "times_later" in row else "-"
    return [_named(row), f"{row['seconds']:.1f}", times, f"{row['accuracy']:.3f}", f"{row['peak_megabytes']:.0f}"]


_HEADER = ["seconds", "times a later run's", "test accuracy", "peak memory, MB"]


def _caption(result: Json) -> str:
    how = "cropped at random" if "cropped" in result else "repeated"
    again = ", ".join(f"{count:,d}" for count in result["cropped" if "cropped" in result else "repeated"])
    counts = sorted({len(row["all_seconds"]) for row in sound(result["rows"])}) or [result["repeats"]]
    processes = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return (
        f"{result['network']}, weights {result['weights']}; {result['data']}, {result['files']:,d} files of "
        f"{result['classes']} classes, a fifth of them to test on; seconds are medians of a row's processes, "
        f"{processes}" + (f"; files are {how} to make {again} images" if again else "")
    )


def describe(result: Json) -> str:
    """Lay the rows out as a table, and the stages of aurevoir's."""
    lines = [_caption(result), *aligned(["contestant", *_HEADER], _shown(result, _text))]
    for row in sound(result["rows"]):
        if "stages" in row:
            stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["stages"].items())
            lines.append(f"{_named(row)}: {stages}")
    return "\n".join(lines)


def markdown(result: Json) -> list[str]:
    """Return the contestants that ran as a table."""
    rows = [_text(row) for row in sound(result["rows"])]
    return [
        f"{_caption(result)}; {result['machine']['processor']}:",
        "",
        *markdown_table(["contestant", *_HEADER], rows),
    ]


def plot(result: Json, path: Path) -> None:
    """Draw seconds over images, both logarithmic, a line a contestant."""
    with figure(path, (9, 6)) as (_, panels):
        series = {}
        for name in CONTESTANTS:
            own = [row for row in sound(result["rows"]) if row["contestant"] == name]
            if own:
                group = "peer" if name in NAIVE else "aurevoir"
                series[name] = Series(group, [row["images"] for row in own], [row["seconds"] for row in own])
        draw_scaling(panels[0, 0], series, "from a folder to a tested model")
        panels[0, 0].set_xlabel("images, a fifth of them to test on")
        panels[0, 0].set_ylabel("seconds of the whole process")


BENCHMARK = Benchmark(
    "time-to-model",
    add_arguments,
    run,
    describe,
    markdown,
    plot,
    keys=("contestant", "images"),
    spreads={"seconds": Spread("runs", "all_seconds")},
)
