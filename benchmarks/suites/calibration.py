"""Fidelity, speed and accuracy of int8 by calibration method, beside today's quantizers.

All calibrate on the same images and are measured on the same other images; see `peers` for what
runs where. Where ``--data`` is given, a ridge on the sign bits tells what the fidelity is worth.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from ...calibration.fidelity import relative_error, sign_agreement
from ...calibration.thresholds import METHODS
from ...engine.assemble import assemble
from ...engine.backbones import open_backbone
from ...engine.calibrate import calibrate
from ...engine.float_graph import Exported, export_backbone
from ...engine.runtimes import on_openvino
from ...engine.sample import sample_images
from ...engine.timing import alternate, ratios
from ...images.batches import ImageFiles, collect
from ...images.sources import class_folders
from ...kernels.readout import fit_readout
from ..harness.machine import describe_machine
from ..harness.splits import readable_splits, standard_error
from ..reporting.tables import markdown, plus_minus
from ..rivals.peers import PEERS, Features, Quantized, quantize

DEFAULT = "aurevoir percentile"
KEYS = ("backbone", "name")
SPREADS = {
    "sign_agreement": ("error", "agreement_error"),
    "behind_default.mean": ("error", "behind_default.standard_error"),
    "accuracy": ("splits", "accuracies"),
}

BATCH = 16
"""Images that a network computes at a time where it is not timed."""


@dataclass
class _Contestant:
    name: str
    group: str
    make: Callable[[], Quantized]
    made: Quantized | None = None
    row: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Data:
    pixels: np.ndarray
    labels: np.ndarray
    parts: list[tuple[np.ndarray, np.ndarray]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--backbones", nargs="+", required=True, help="torchvision names or ONNX files")
    parser.add_argument("--weights", default="default", help="of torchvision names (default: default)")
    parser.add_argument("--calibration", required=True, help="a folder of images to calibrate on")
    parser.add_argument("--calibration-images", type=int, default=128, help="(default: 128)")
    parser.add_argument("--test", required=True, help="a folder of other images to measure fidelity on")
    parser.add_argument("--test-images", type=int, default=64, help="(default: 64)")
    parser.add_argument("--data", help="a folder of class folders to measure accuracy on")
    parser.add_argument("--splits", type=int, default=5, help="80:20 splits of it, seeds from 0 (default: 5)")
    parser.add_argument("--batch", type=int, default=16, help="images a timed call (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each (default: 5)")
    parser.add_argument("--no-peers", action="store_true", help="measure aurevoir's own methods only")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every method and peer on every backbone; one that fails keeps its row, with the reason."""
    rows = [row for backbone in args.backbones for row in _measure(backbone, args)]
    return {
        "benchmark": "calibration",
        "calibration_images": args.calibration_images,
        "test_images": args.test_images,
        "batch": args.batch,
        "weights": args.weights,
        "calibration": Path(args.calibration).name,
        "test": Path(args.test).name,
        "data": Path(args.data).name if args.data else None,
        "rows": rows,
        "machine": describe_machine(),
    }


def _measure(backbone: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    opened = open_backbone(backbone, args.weights)
    pixels = sample_images(args.calibration, opened.size, args.calibration_images)
    exported = export_backbone(opened, None, pixels)
    test = sample_images(args.test, exported.size, max(args.test_images, args.batch))
    contestants = _contestants(exported, pixels, with_peers=not args.no_peers)
    data = _labelled(args.data, exported.size, args.splits) if args.data else None
    reference, seconds = _reference(contestants[0].make().run, test, pixels)
    name = Path(backbone).stem
    for contestant in (bar := tqdm(contestants, desc=name)):
        bar.set_postfix_str(contestant.name)
        contestant.row = {"backbone": name, "name": contestant.name, "group": contestant.group}
        try:
            contestant.made = contestant.make()
            contestant.row |= _fidelity(contestant.made, test, reference)
            contestant.row["times_fp32_inference"] = contestant.row["seconds"] / seconds
            if data is not None:
                contestant.row |= _accuracy(contestant.made.run, data)
        except Exception as error:  # Whatever a peer's library raises, the others' rows stand.
            contestant.made, contestant.row["error"] = None, f"{type(error).__name__}: {error}"
    _compare([contestant.row for contestant in contestants])
    _time(contestants, test[: args.batch], args.rounds)
    return [contestant.row for contestant in contestants]


def _contestants(exported: Exported, pixels: np.ndarray, with_peers: bool) -> list[_Contestant]:
    floats = [name for name in ("fp32", "bf16") if name in on_openvino.precisions()]
    return [
        *(_Contestant(name, "float", partial(_own, exported, name, pixels)) for name in floats),
        *(
            _Contestant(f"aurevoir {name}", "aurevoir", partial(_own, exported, "int8", pixels, name))
            for name in METHODS
        ),
        *(
            _Contestant(peer.name, "peer", partial(quantize, peer, exported.graph, pixels))
            for peer in PEERS
            if with_peers
        ),
    ]


def _own(exported: Exported, precision: str, pixels: np.ndarray, method: str = "") -> Quantized:
    start = time.perf_counter()
    table = calibrate(exported, pixels, method) if precision == "int8" else None
    engine = assemble(exported, precision, "openvino", table)
    return Quantized(engine, "openvino", time.perf_counter() - start)


def _reference(run: Features, test: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the float features of the test images, and the seconds that those of the calibration images take."""
    reference = _features(run, test)
    start = time.perf_counter()
    for place in range(0, len(pixels), BATCH):
        run(pixels[place : place + BATCH])
    return reference, time.perf_counter() - start


def _features(run: Features, images: np.ndarray) -> np.ndarray:
    return np.concatenate([run(images[place : place + BATCH]) for place in range(0, len(images), BATCH)])


def _fidelity(made: Quantized, test: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    features = _features(made.run, test)
    error = relative_error(features, reference)
    found = {
        "runtime": made.runtime,
        "sign_agreement": sign_agreement(features, reference),
        "agreements": [sign_agreement(*pair) for pair in zip(features, reference, strict=True)],
        "relative_error": error,
        "sqnr_db": -20 * float(np.log10(error)) if error > 0 else None,
        "seconds": made.seconds,
    }
    return found | ({"remark": made.remark} if made.remark else {})


def _compare(rows: list[dict[str, Any]]) -> None:
    """Note the standard error of sign agreement over images, and by how much it falls behind the default, in pairs."""
    default = next(row for row in rows if row["name"] == DEFAULT)
    for row in rows:
        if "error" not in row:
            row["agreement_error"] = standard_error(row["agreements"])
            if "agreements" in default:
                lead = np.subtract(default["agreements"], row["agreements"])
                row["behind_default"] = {"mean": float(lead.mean()), "standard_error": standard_error(lead)}
    for row in rows:
        row.pop("agreements", None)


def _labelled(folder: str, size: tuple[int, int], splits: int) -> _Data:
    labelled = class_folders(folder)
    kept, pixels = collect(ImageFiles(labelled.paths, size, description=Path(folder).name))
    return _Data(pixels, *readable_splits(labelled, kept, splits))


def _accuracy(run: Features, data: _Data) -> dict[str, Any]:
    # Packed batch by batch: the features of all images may not fit the memory.
    packed = [
        np.packbits(run(data.pixels[place : place + BATCH]) > 0, axis=1) for place in range(0, len(data.pixels), BATCH)
    ]
    bits = np.concatenate(packed)
    m = run(data.pixels[:1]).shape[1]
    found = []
    for train, test in data.parts:
        readout = fit_readout(bits[train], m, data.labels[train], int(data.labels.max()) + 1, "none")[0]
        found.append(float((readout.scores(bits[test]).argmax(axis=1) == data.labels[test]).mean()))
    return {"accuracy": float(np.mean(found)), "standard_error": standard_error(found), "accuracies": found}


def _time(contestants: Sequence[_Contestant], batch: np.ndarray, rounds: int) -> None:
    running = {each.name: each for each in contestants if each.made is not None}
    seconds = alternate({name: partial(each.made.run, batch) for name, each in running.items() if each.made}, rounds)
    for name, each in running.items():
        each.row["images_per_second"] = len(batch) / median(seconds[name])
        each.row["times_fp32"] = ratios(seconds[name], seconds[contestants[0].name])


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table, the most faithful of each backbone first."""
    rows = sorted(result["rows"], key=lambda row: (row["backbone"], -row.get("sign_agreement", -1)))
    lines, before = [], None
    for row in rows:
        if row["backbone"] != before:
            before = row["backbone"]
            lines += ["", f"{before:24s} {'signs as fp32':>15s} {'behind default':>16s} {'SQNR':>5s}"]
            lines[-1] += f" {'images/s':>8s} {'x fp32':>6s} {'made in':>8s} {'x inference':>11s}"
        lines.append(_line(row))
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']:24s} {row['error']}"
    sqnr = f"{row['sqnr_db']:5.2f}" if row["sqnr_db"] is not None else f"{'-':>5s}"
    line = (
        f"{row['name']:24s} {row['sign_agreement']:.4f} +- {row['agreement_error'] or 0:.4f} "
        f"{_behind(row):>16s} {sqnr} {row['images_per_second']:8.1f} "
        f"{row['times_fp32']['median']:6.2f} {row['seconds']:6.1f} s {row['times_fp32_inference']:11.2f}"
    )
    if "accuracy" in row:
        line += f"   accuracy {row['accuracy']:.4f} +- {row['standard_error'] or 0:.4f}"
    return line + (f"   in {row['runtime']}: {row['remark']}" if "remark" in row else "")


def _behind(row: dict[str, Any]) -> str:
    if "behind_default" not in row:
        return "-"
    lead = row["behind_default"]
    return f"{lead['mean']:.4f} +- {lead['standard_error'] or 0:.4f}"


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: sign agreement and speed of each, the most faithful first."""
    rows = sorted(result["rows"], key=lambda row: -row.get("sign_agreement", -1))
    caption = (
        f"{', '.join(dict.fromkeys(row['backbone'] for row in rows))} (weights: {result['weights']}), "
        f"{result['calibration_images']} images of {result['calibration']} to calibrate on, signs measured on "
        f"{result['test_images']} of {result['test']}:"
    )
    cells = [[row["name"], *_summed_up(row)] for row in rows if row["name"] != "fp32"]
    return [caption, "", *markdown(["", "signs as fp32", "x fp32"], cells)]


def _summed_up(row: dict[str, Any]) -> tuple[str, str]:
    if "error" in row:
        return "failed", "-"
    speed = f"{row['times_fp32']['median']:.2f}"
    return plus_minus(row["sign_agreement"], row["agreement_error"], 4), speed


COLOURS = {"float": "0.35", "aurevoir": "tab:red", "peer": "tab:blue"}


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw sign agreement against images/s, one marker a row, one panel a backbone.

    Parameters
    ----------
    result : dict
        As `run` returns it; rows with an error are left out.
    path : path
        Where to write the figure; its ending tells the format.
    """
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "error" not in row and row["name"] != "fp32"]
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    tallest = max(sum(row["backbone"] == name for row in rows) for name in backbones)
    figure = Figure(figsize=(8.5 * len(backbones), max(4.5, 0.3 * tallest)), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(backbones), squeeze=False)[0], backbones, strict=True):
        _panel(axes, [row for row in rows if row["backbone"] == name])
        axes.set_title(f"{name}, {result['calibration_images']} images to calibrate on")
    figure.savefig(path, dpi=150)


def _panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["sign_agreement"])
    for place, row in enumerate(rows):
        at, colour = (row["images_per_second"], row["sign_agreement"]), COLOURS[row["group"]]
        axes.plot(*at, "o" if row["group"] == "aurevoir" else "s", color=colour)
        # Labels stand in a column beside the panel, evenly, each with a line to its marker: none covers another.
        axes.annotate(
            f"{row['name']}  {row['sign_agreement']:.4f}",
            at,
            (1.04, (place + 0.5) / len(rows)),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5, "relpos": (0, 0.5)},
            annotation_clip=False,
        )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.set_xlabel("images/s in OpenVINO")
    axes.set_ylabel("signs as fp32")
