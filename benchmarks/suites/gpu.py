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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AurevoirError, MissingDeviceError, UsageError
from ...files import write_atomically
from ...kernels.arrays import on_device
from ..harness.machine import describe_machine
from ..reporting.tables import markdown
from . import ridge_full
from .gpu_data import prepare
from .gpu_parts import PARTS, parts_of
from .ridge_fit import POST_SIZE

KEYS = ("part", "name", "batch", "images")
_GIVEN = ("device", "batches", "images", "memory", "full_size")
"""Arguments that parts read, besides the data."""
_ROW = "row: "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--data", type=Path, default=Path("gpu-data"), help="the folder that --prepare made (gpu-data)")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="make the folder of data and measure nothing")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="of --prepare: a folder of class folders")
    parser.add_argument("--networks", type=Path, nargs="+", default=[], metavar="F.onnx", help="of --prepare: others")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=[], help="(default: all)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu rehearses it (default: cuda)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128, 256, 512], help="images of a batch")
    parser.add_argument("--images", type=int, default=4096, help="in host memory (default: 4096)")
    parser.add_argument("--memory", help="budget of the ridge (default: what the GPU has free)")
    parser.add_argument("--full-size", type=int, nargs=3, metavar=("N", "M", "K"), default=POST_SIZE, help="the post's")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run every part, or make the folder of data.

    Raises
    ------
    MissingDeviceError
        If there is no GPU; every part has said so by then.
    """
    if args.prepare:
        prepare(args.prepare, args.photographs, args.networks)
        return {"benchmark": "gpu", "prepared": str(args.prepare), "rows": []}
    if least := [number for number in (*args.batches, args.images, *args.full_size) if number < 1]:
        raise UsageError(f"{least[0]} is below 1; give numbers of images, rows, features and components")
    problem = None if args.device == "cpu" else _why_not()
    rows: list[dict[str, Any]] = []
    for name, (_, limit) in parts_of(args.parts).items():
        if problem:
            _say(f"{name}: no GPU")
            continue
        _say(f"{name}, at most {limit} s")
        start = time.perf_counter()
        for row in _in_a_process(name, limit, args):
            rows.append({**row, "part": name})
            _say(f"  {line(rows[-1])}")
        _say(f"{name}: {time.perf_counter() - start:.0f} s")
        if args.out:
            write_atomically(Path(args.out), (json.dumps(_result(args, rows), indent=1) + "\n").encode())
    if problem:
        raise MissingDeviceError(f"nothing was measured: {problem}")
    return _result(args, rows)


def _result(args: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"benchmark": "gpu", "device": args.device, "rows": rows, "machine": describe_machine()}


def _why_not() -> str | None:
    """Return why no GPU can be used here, or None."""
    try:
        on_device(np.zeros(1), "cuda")
    except AurevoirError as error:
        return str(error)
    return None


def _in_a_process(name: str, limit: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part as they come; where it fails or takes too long, a last one says so."""
    given = {key: value for key, value in vars(args).items() if key in _GIVEN} | {"data": str(args.data)}
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", __name__, name, json.dumps(given)]
        # In a session of its own: what it starts goes with it.
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        late = threading.Event()
        timer = threading.Timer(limit, _give_up, [child, late])
        timer.start()
        try:
            for text in child.stdout or ():
                if text.startswith(_ROW):
                    yield json.loads(text.removeprefix(_ROW))
            status = child.wait()
        finally:
            timer.cancel()
            if child.poll() is None:
                _kill(child)
        if late.is_set():
            yield {"name": "", "error": f"given up after {limit} s"}
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


def line(row: dict[str, Any]) -> str:
    """Return a row as one line."""
    head = " ".join(str(row[key]) for key in ("name", "batch") if row.get(key))
    if "error" in row:
        return f"{head}: {row['error']}"
    cells = [row.get("summary", "")]
    cells += [f"{label} {row[name]:.{digits}f}" for name, (label, digits) in _SHOWN.items() if _is_number(row, name)]
    seconds = row.get("seconds")
    if isinstance(seconds, dict):
        stages = seconds.get("train", seconds)
        cells += [f"{stage} {value:.2f}" for stage, value in stages.items() if value]
    return f"{head}: {', '.join(cell for cell in cells if cell)}"


def _is_number(row: dict[str, Any], name: str) -> bool:
    return isinstance(row.get(name), int | float) and not isinstance(row[name], bool)


_SHOWN = {
    "images_per_second": ("images/s", 0),
    "images_per_second_eager": ("op by op", 0),
    "first_seconds": ("first", 1),
    "sign_agreement": ("signs", 4),
    "one_image_ms": ("one image, ms", 2),
    "accuracy": ("accuracy", 4),
    "total": ("total, s", 2),
    "first_total": ("the first time", 2),
    "test_accuracy": ("accuracy", 4),
    "peak_gpu_gib": ("GiB", 1),
    "seconds": ("s", 4),
    "coefficients": ("largest difference of a coefficient", 14),
}
"""Numbers of a row that its line holds: their labels and digits."""


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out, a block a part."""
    if "prepared" in result:
        return f"{result['prepared']} is ready; take it to the GPU: aurevoir bench gpu --data {result['prepared']}"
    lines = []
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        lines += [part, *(f"  {line(row)}" for row in result["rows"] if row["part"] == part)]
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: the post's size behind the network, the network, and photographs to a classifier."""
    gpus = result["machine"].get("gpus") or [{"name": result["device"]}]
    sound = [row for row in result["rows"] if "error" not in row]
    ridge = [row for row in sound if row["part"] == "ridge" and "total" in row]
    network = [row for row in sound if row["part"] == "network"]
    engine = [row for row in sound if row["part"] == "engine"]
    table1 = [row for row in sound if row["part"] == "table1"]
    kinds, batches = (list(dict.fromkeys(row[key] for row in network)) for key in ("name", "batch"))
    rates = {(row["name"], row["batch"]): row.get("images_per_second") for row in network}
    by_kind = [[kind, *(_rate(rates.get((kind, batch))) for batch in batches)] for kind in kinds]
    stages = ("project", "gram", "solve")
    return [
        f"{gpus[0]['name']}; the post's size behind the network, the second time each:",
        "",
        *markdown(
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
        "",
        "DenseNet169 as the post cuts it, in torch from CUDA graphs, images/s by batch:",
        "",
        *markdown(["", *map(str, batches)], by_kind),
        "",
        "Engines, images in host memory, copies included; and photographs, from files to a classifier:",
        "",
        *markdown(
            ["", "images/s", "one image, ms"],
            [[row["name"], f"{row['images_per_second']:,.0f}", f"{row['one_image_ms']:.1f}"] for row in engine],
        ),
        "",
        *markdown(
            ["", "images", "accuracy", "signs as fp32", "decode, s", "engine, s", "training, s"],
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


def _rate(found: float | None) -> str:
    return "" if found is None else f"{found:,.0f}"


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw images/s over the batch by precision, and the stages of each projection."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    speed, stages = figure.subplots(1, 2)
    network = [row for row in result["rows"] if row["part"] == "network" and "error" not in row]
    for kind in dict.fromkeys(row["name"] for row in network):
        own = [row for row in network if row["name"] == kind]
        rate = [row.get("images_per_second", row["images_per_second_eager"]) for row in own]
        speed.plot([row["batch"] for row in own], rate, "o-", label=kind)
    speed.set_xscale("log", base=2)
    speed.set_yscale("log")
    speed.set_xlabel("images of a batch")
    speed.set_ylabel("images/s")
    speed.grid(alpha=0.3, which="both")
    speed.legend()
    ridge_full.draw(stages, [row | {"part": "full"} for row in result["rows"] if "total" in row and "search" in row])
    gpus = result["machine"].get("gpus") or [{"name": result["device"]}]
    figure.suptitle(gpus[0]["name"])
    figure.savefig(path, dpi=150)


def _main(name: str, given: str) -> None:
    args = argparse.Namespace(**json.loads(given))
    args.data = Path(args.data)
    for row in PARTS[name][0](args):
        sys.stdout.write(f"{_ROW}{json.dumps(row, default=float)}\n")
        sys.stdout.flush()


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
