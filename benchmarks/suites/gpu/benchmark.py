"""Everything that needs an NVIDIA GPU, in one command: its tests, the post's full size, the network, Table 1.

For a machine that has a GPU and PyTorch, CuPy and ONNX Runtime, perhaps no network and none of the other
packages. Each part runs in a process of its own with a time limit, and what it found is written at once. Exporting a
network takes longer than measuring it: ``--prepare`` makes the folder of data beforehand, anywhere.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ....errors import AurevoirError, MissingDeviceError, UsageError
from ....kernels.arrays import on_device
from ...contract import Benchmark, Cells, Json, Result, Row, write_result
from ...reporting.figures import figure, legend_beside, sound
from ...reporting.text import is_number, markdown_table
from ..ridge import full
from ..ridge.fit import POST_SIZE
from .data import prepare
from .parts import PARTS, parts_of

_SETTINGS = ("device", "batches", "images", "memory", "full_size")
"""Arguments that parts read, and the data."""
ROW = "row: "
"""What a line of a part's process begins with that holds a row."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument(
        "--data", type=Path, default=Path("gpu-data"), help="the folder that --prepare made (default: gpu-data)"
    )
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="make that folder and stop; needs no GPU")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="for --prepare: a folder of class folders")
    parser.add_argument(
        "--networks", type=Path, nargs="+", default=[], metavar="F.onnx", help="for --prepare: more networks"
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=[], help="what to measure (default: all)")
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cuda measures (default); cpu runs the same parts without a GPU, which shows beforehand whether the data "
        "and the packages are complete, and whose times mean nothing",
    )
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=[1, 16, 128, 256, 512],
        help="batch sizes to time (default: 1 16 128 256 512)",
    )
    parser.add_argument("--images", type=int, default=4096, help="images to time engines on (default: 4096)")
    parser.add_argument("--memory", help="budget of the ridge (default: what the GPU has free)")
    parser.add_argument(
        "--full-size",
        type=int,
        nargs=3,
        metavar=("N", "M", "K"),
        default=POST_SIZE,
        help="images, features and components of the ridge (default: the post's)",
    )


def run(args: argparse.Namespace) -> Result:
    """Run every part, or make the folder of data.

    Raises
    ------
    MissingDeviceError
        If there is no GPU; every part has said so by then.
    """
    if args.prepare:
        prepare(args.prepare, args.photographs, args.networks)
        return Result("gpu", [], {"prepared": str(args.prepare)})
    if least := [number for number in (*args.batches, args.images, *args.full_size) if number < 1]:
        raise UsageError(f"{least[0]} is below 1; give numbers of images, rows, features and components")
    problem = None if args.device == "cpu" else _why_not()
    rows: list[Row] = []
    for name, (_, limit) in parts_of(args.parts).items():
        if problem:
            _say(f"{name}: no GPU")
            continue
        _say(f"{name}, at most {limit} s")
        start = time.perf_counter()
        for cells in _in_a_process(name, limit, args):
            error = cells.pop("error", None)
            rows.append(Row({**cells, "part": name}, error))
            _say(f"  {line(rows[-1].to_json())}")
        _say(f"{name}: {time.perf_counter() - start:.0f} s")
        if args.out:
            write_result(_result(args, rows).to_json(), args.out)
    if problem:
        raise MissingDeviceError(f"nothing was measured: {problem}")
    return _result(args, rows)


def _result(args: argparse.Namespace, rows: list[Row]) -> Result:
    return Result("gpu", rows, {"device": args.device})


def _why_not() -> str | None:
    """Return why no GPU can be used here, or None."""
    try:
        on_device(np.zeros(1), "cuda")
    except AurevoirError as error:
        return str(error)
    return None


def _in_a_process(name: str, limit: int, args: argparse.Namespace) -> Iterator[Cells]:
    """Yield the rows of a part as they come; where it fails or takes too long, a last one says so."""
    settings = {key: value for key, value in vars(args).items() if key in _SETTINGS} | {"data": str(args.data)}
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", __package__, name, json.dumps(settings)]
        # In a session of its own: what it starts goes with it.
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        late = threading.Event()
        timer = threading.Timer(limit, _give_up, [child, late])
        timer.start()
        try:
            for text in child.stdout or ():
                if text.startswith(ROW):
                    yield json.loads(text.removeprefix(ROW))
            status = child.wait()
        finally:
            timer.cancel()
            if child.poll() is None:
                _kill(child)
        if late.is_set():
            yield {"name": "", "error": f"stopped after {limit} s"}
        elif status:
            log.seek(0)
            last = [text.strip() for text in log if text.strip()]
            yield {"name": "", "error": f"exit status {status}: {last[-1] if last else 'it said nothing'}"}


def _give_up(child: "subprocess.Popen[str]", late: threading.Event) -> None:
    late.set()
    _kill(child)


def _kill(child: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def line(row: Json) -> str:
    """Return a row as one line."""
    head = " ".join(str(row[key]) for key in ("name", "batch") if row.get(key))
    if "error" in row:
        return f"{head}: {row['error']}"
    cells = [row.get("summary", "")]
    cells += [f"{label} {row[name]:.{digits}f}" for name, (label, digits) in _SHOWN.items() if is_number(row.get(name))]
    seconds = row.get("seconds")
    if isinstance(seconds, dict):
        stages = seconds.get("train", seconds)
        cells += [f"{stage} {value:.2f}" for stage, value in stages.items() if value]
    return f"{head}: {', '.join(cell for cell in cells if cell)}"


_SHOWN = {
    "gigabytes_per_second": ("GB/s", 0),
    "images_per_second": ("images/s", 0),
    "images_per_second_eager": ("op by op", 0),
    "first_seconds": ("first", 1),
    "sign_agreement": ("sign agreement", 4),
    "one_image_ms": ("one image, ms", 2),
    "image_us": ("microseconds an image", 2),
    "differing": ("share of levels that differ from the CPU's", 6),
    "build_seconds": ("to build, s", 1),
    "accuracy": ("accuracy", 4),
    "total": ("total, s", 2),
    "first_total": ("the first time", 2),
    "test_accuracy": ("accuracy", 4),
    "peak_gpu_gib": ("GiB", 1),
    "seconds": ("s", 4),
    "coefficients": ("largest difference of a coefficient", 14),
}
"""Numbers of a row that its line holds: their labels and digits."""


def describe(result: Json) -> str:
    """Lay the rows out, a block a part."""
    if "prepared" in result:
        return f"{result['prepared']} is ready; take it to the GPU: aurevoir bench gpu --data {result['prepared']}"
    lines = []
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        lines += [part, *(f"  {line(row)}" for row in result["rows"] if row["part"] == part)]
    return "\n".join(lines)


def markdown(result: Json) -> list[str]:
    """Return the post's size behind the network, the network, and photographs to a classifier."""
    rows = sound(result["rows"])
    ridge = [row for row in rows if row["part"] == "ridge" and "total" in row]
    network = _networks(rows)
    engine = [row for row in rows if row["part"] == "engine"]
    table1 = [row for row in rows if row["part"] == "table1"]
    kinds, batches = (list(dict.fromkeys(row[key] for row in network)) for key in ("name", "batch"))
    rates = {(row["name"], row["batch"]): row.get("images_per_second") for row in network}
    signs = {row["name"]: f"{row['sign_agreement']:.3f}" for row in rows if "sign_agreement" in row}
    by_kind = [[kind, *(_rate(rates.get((kind, batch))) for batch in batches), signs.get(kind, "")] for kind in kinds]
    stages = ("project", "gram", "solve")
    sections = [
        [
            "The post's size behind the network, the second time each:",
            "",
            *markdown_table(
                ["", "alphas", "project, s", "Gram, s", "solve, s", "total, s", "x the post", "test accuracy"],
                [
                    [
                        row["projection"],
                        f"15, {'all' if row['search'] == 'all' else 'searched'}",
                        *(f"{row['seconds'][stage]:.2f}" for stage in stages),
                        f"{row['total']:.2f}",
                        f"{row['times_post']:.0f}" if "times_post" in row else "",
                        f"{row['test_accuracy']:.4f}",
                    ]
                    for row in ridge
                ],
            ),
        ]
        if ridge
        else [],
        [
            "DenseNet169 as the post cuts it, from CUDA graphs, images/s by batch; fused is the runtime `triton`:",
            "",
            *markdown_table(["", *map(str, batches), "signs of fp32"], by_kind),
            *_traffic(rows),
        ]
        if network
        else [],
        [
            "Engines, images in host memory, copies included:",
            "",
            *markdown_table(
                ["", "images/s", "one image, ms"],
                [[row["name"], f"{row['images_per_second']:,.0f}", f"{row['one_image_ms']:.1f}"] for row in engine],
            ),
        ]
        if engine
        else [],
        [
            "Photographs, from files to a classifier:",
            "",
            *markdown_table(
                ["", "images", "accuracy", "sign agreement with fp32", "decode, s", "engine, s", "training, s"],
                [
                    [
                        row["name"],
                        str(row["train_images"]),
                        f"{row['accuracy']:.3f}",
                        f"{row['sign_agreement']:.4f}",
                        *(f"{row['seconds']['train'][stage]:.2f}" for stage in ("decode", "engine", "total")),
                    ]
                    for row in table1
                ],
            ),
        ]
        if table1
        else [],
        _from_files(rows)[1:],
    ]
    return [f"{_gpu(result)}.", *(line for section in sections if section for line in ("", *section))]


def _from_files(rows: Sequence[Json]) -> list[str]:
    """Return the whole post from JPEG files, and the projection against array code, where they were measured."""
    trained = [row for row in rows if row["part"] == "post" and "total" in row]
    decoded = [f"{row['name']} {row['images_per_second']:,.0f}" for row in rows if row["name"].startswith("decode, ")]
    projected = [f"{row['name']} {row['image_us']:.2f}" for row in rows if "image_us" in row]
    lines = []
    if trained:
        stages = ("decode", "engine", "project", "gram", "solve")
        table = [
            [
                row["name"],
                f"{row['images']:,d}",
                *(f"{row['seconds'][stage]:.2f}" for stage in stages),
                f"{row['total']:.2f}",
                f"{row['images_per_second']:,.0f}",
                f"{row['accuracy']:.3f}",
            ]
            for row in trained
        ]
        heads = ["", "images", "waiting for images, s", "engine, s", "project, s", "Gram, s", "solve, s"]
        lines += [
            "",
            "The whole post, from JPEG files to a classifier with 15 alphas, the second time each:",
            "",
            *markdown_table([*heads, "total, s", "images/s", "accuracy"], table),
        ]
    if decoded:
        lines += ["", f"Decoding alone, images/s: {'; '.join(decoded)}."]
    if projected:
        lines += ["", f"Bits to speckle, microseconds an image: {'; '.join(projected)}."]
    return lines


def _networks(rows: Sequence[Json]) -> list[Json]:
    """Return the rows of a network by batch: of torch op by op and compiled, and of fused steps."""
    return [row for row in rows if row["part"] in ("network", "fused", "tuned") and "batch" in row]


def _traffic(rows: Sequence[Json]) -> list[str]:
    """Return how near the largest batch of fused steps is to what memory allows."""
    copy = next((row["gigabytes_per_second"] for row in rows if "gigabytes_per_second" in row), None)
    largest = max((row["batch"] for row in rows if "gigabytes" in row), default=None)
    fused = {row["name"]: row for row in rows if "gigabytes" in row and row["batch"] == largest}
    if copy is None or not fused:
        return []
    each = [
        f"{row['name']} {1e3 * row['gigabytes'] / row['batch']:.0f} MB an image, "
        f"{row['gigabytes'] * row['images_per_second'] / row['batch'] / copy:.2f} of it"
        for row in fused.values()
    ]
    return ["", f"The GPU copies {copy:,.0f} GB/s, read and written. At batch {largest:,d}: {'; '.join(each)}."]


def _rate(found: float | None) -> str:
    return "" if found is None else f"{found:,.0f}"


def plot(result: Json, path: Path) -> None:
    """Draw images/s over the batch by precision, and the stages of each projection."""
    network = _networks(sound(result["rows"]))
    fits = [row | {"part": "full"} for row in result["rows"] if "total" in row and "search" in row]
    with figure(path, (14, 4.5) if fits else (7.5, 4.5), (1, 2 if fits else 1)) as (whole, panels):
        speed = panels[0, 0]
        for kind in dict.fromkeys(row["name"] for row in network):
            own = [row for row in network if row["name"] == kind]
            rate = [row.get("images_per_second", row.get("images_per_second_eager")) for row in own]
            speed.plot([row["batch"] for row in own], rate, "o-", label=kind)
        speed.set_xscale("log", base=2)
        speed.set_yscale("log")
        batches = sorted({row["batch"] for row in network})
        speed.set_xticks(batches, [f"{batch:,d}" for batch in batches])
        speed.set_xlabel("images of a batch")
        speed.set_ylabel("images/s")
        speed.grid(alpha=0.3, which="both")
        speed.set_title("DenseNet169 as the post cuts it")
        legend_beside(speed)
        if fits:
            full.draw(panels[0, 1], fits)
        whole.suptitle(_gpu(result))


def _gpu(result: Json) -> str:
    gpus = result["machine"].get("gpus") or [{"name": result["device"]}]
    return str(gpus[0]["name"])


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


BENCHMARK = Benchmark("gpu", add_arguments, run, describe, markdown, plot, keys=("part", "name", "batch", "images"))
