"""Fidelity, speed and accuracy of int8 by calibration method, compared with other quantizers.

All calibrate on the same images and are measured on the same other images; see `peers` for what
runs where. Where ``--data`` is given, a ridge on the sign bits shows what the fidelity is worth.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...calibration.fidelity import relative_error, sign_agreement
from ...calibration.thresholds import METHODS, Method
from ...engine.runtimes import on_openvino
from ...engine.sample import sample_images
from ...engine.timing import ratios
from ...images.batches import ImageFiles, collect
from ...images.sources import class_folders
from ...progress import progress_bar
from ..contract import Benchmark, Cells, Json, Result, Row, Spread
from ..harness.contestants import Contestant, running, take_turns
from ..harness.engines import Engines, open_network
from ..harness.labelled_bits import LabelledBits, fit_splits
from ..harness.splits import Parts, paired, readable_splits, standard_error
from ..reporting.figures import COLOURS, Axes, figure, legend_below, sound
from ..reporting.text import aligned, markdown_table, plus_minus
from ..rivals.peers import PEERS, Features, Quantized, quantize

DEFAULT = "aurevoir percentile"
BATCH = 16
"""Images that a network computes at a time where it is not timed."""


Photographs = tuple[np.ndarray, np.ndarray, Parts]
"""Pixels, labels and splits."""


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


def run(args: argparse.Namespace) -> Result:
    """Measure every method and peer on every backbone; one that fails keeps its row, with the reason."""
    rows = [row for backbone in args.backbones for row in _measure(backbone, args)]
    return Result(
        "calibration",
        rows,
        {
            "calibration_images": args.calibration_images,
            "test_images": args.test_images,
            "batch": args.batch,
            "weights": args.weights,
            "calibration": Path(args.calibration).name,
            "test": Path(args.test).name,
            "data": Path(args.data).name if args.data else None,
        },
    )


def _measure(backbone: str, args: argparse.Namespace) -> list[Row]:
    opened = open_network(backbone, args.weights)
    pixels = sample_images(args.calibration, opened.size, args.calibration_images)
    engines = Engines.export(opened, None, pixels)
    test = sample_images(args.test, opened.size, max(args.test_images, args.batch))
    name = Path(backbone).stem
    contestants = _contestants(name, engines, pixels, with_peers=not args.no_peers)
    data = _photographs(args.data, opened.size, args.splits) if args.data else None
    reference, seconds = _reference(contestants[0].make(), test, pixels)
    agreements = {}
    for each in (bar := progress_bar(contestants, desc=name)):
        bar.set_postfix_str(each.name)
        with each.row.attempt():
            made = each.make()
            features = _features(made, test)
            agreements[each.name] = [sign_agreement(*pair) for pair in zip(features, reference, strict=True)]
            each.row.note(**_fidelity(made, features, reference), times_fp32_inference=made.seconds / seconds)
            if data is not None:
                each.row.note(**_accuracy(made, data))
            each.run = made
    _compare([each.row for each in contestants], agreements)
    _time(contestants, test[: args.batch], args.rounds)
    return [each.row for each in contestants]


def _contestants(backbone: str, engines: Engines, pixels: np.ndarray, with_peers: bool) -> list[Contestant]:
    def contestant(name: str, group: str, make: Any) -> Contestant:
        return Contestant(Row({"backbone": backbone, "name": name, "group": group}), make)

    floats = [name for name in ("fp32", "bf16") if name in on_openvino.precisions()]
    peers = PEERS if with_peers else ()
    return [
        *(contestant(name, "float", partial(_own, engines, name)) for name in floats),
        *(contestant(f"aurevoir {name}", "aurevoir", partial(_own, engines, "int8", name)) for name in METHODS),
        *(contestant(peer.name, "peer", partial(quantize, peer, engines.exported.graph, pixels)) for peer in peers),
    ]


def _own(engines: Engines, precision: str, method: Method = "percentile") -> Quantized:
    start = time.perf_counter()
    table = engines.calibrate(method) if precision == "int8" else None
    engine = engines.build(precision, "openvino", table=table)
    return Quantized(engine, "openvino", time.perf_counter() - start)


def _reference(run: Features, test: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the float features of the test images, and the seconds that those of the calibration images take."""
    reference = _features(run, test)
    start = time.perf_counter()
    for index in range(0, len(pixels), BATCH):
        run(pixels[index : index + BATCH])
    return reference, time.perf_counter() - start


def _features(run: Features, images: np.ndarray) -> np.ndarray:
    return np.concatenate([run(images[index : index + BATCH]) for index in range(0, len(images), BATCH)])


def _fidelity(made: Quantized, features: np.ndarray, reference: np.ndarray) -> Cells:
    error = relative_error(features, reference)
    found = {
        "runtime": made.runtime,
        "sign_agreement": sign_agreement(features, reference),
        "relative_error": error,
        "sqnr_db": -20 * float(np.log10(error)) if error > 0 else None,
        "seconds": made.seconds,
    }
    return found | ({"remark": made.remark} if made.remark else {})


def _compare(rows: Sequence[Row], agreements: dict[str, list[float]]) -> None:
    """Note the standard error of sign agreement over images, and by how much it falls behind the default, in pairs."""
    for row in rows:
        if row.error is None:
            own = agreements[row["name"]]
            row.note(agreement_error=standard_error(own))
            if DEFAULT in agreements:
                row.note(behind_default=paired(agreements[DEFAULT], own))


def _photographs(folder: str, size: tuple[int, int], splits: int) -> Photographs:
    labelled = class_folders(folder)
    kept, pixels = collect(ImageFiles(labelled.paths, size, description=Path(folder).name))
    return (pixels, *readable_splits(labelled, kept, splits))


def _accuracy(run: Features, photographs: Photographs) -> Cells:
    # Packed batch by batch: the features of all images may not fit the memory.
    pixels, labels, parts = photographs
    packed = [np.packbits(run(pixels[index : index + BATCH]) > 0, axis=1) for index in range(0, len(pixels), BATCH)]
    data = LabelledBits("", run(pixels[:1]).shape[1], np.concatenate(packed), labels, parts)
    found = fit_splits(data, "none")
    del found["loo_accuracy"]
    return found


def _time(contestants: Sequence[Contestant], batch: np.ndarray, rounds: int) -> None:
    seconds = take_turns(contestants, batch, rounds=rounds)
    for name, each in running(contestants).items():
        each.row.note(images_per_second=len(batch) / median(seconds[name]))
        each.row.note(times_fp32=ratios(seconds[name], seconds[contestants[0].name]))


def describe(result: Json) -> str:
    """Lay the rows out as a table a backbone, the most faithful first."""
    header = [
        "sign agreement with fp32",
        "behind default",
        "SQNR, dB",
        "images/s",
        "x fp32",
        "made in, s",
        "x inference",
    ]
    header += ["accuracy"] if result["data"] else []
    lines = []
    for backbone in dict.fromkeys(row["backbone"] for row in result["rows"]):
        rows = [row for row in _most_faithful_first(result) if row["backbone"] == backbone]
        lines += ["", *aligned([backbone, *header], [_cells(row) for row in rows])]
    return "\n".join(lines)


def _most_faithful_first(result: Json) -> list[Json]:
    return sorted(result["rows"], key=lambda row: -row.get("sign_agreement", -1))


def _cells(row: Json) -> list[str]:
    if "error" in row:
        return [row["name"], row["error"]]
    behind = row.get("behind_default")
    return [
        row["name"],
        plus_minus(row["sign_agreement"], row["agreement_error"], 4),
        plus_minus(behind["mean"], behind["standard_error"], 4) if behind else "-",
        f"{row['sqnr_db']:.2f}" if row["sqnr_db"] is not None else "-",
        f"{row['images_per_second']:.1f}",
        f"{row['times_fp32']['median']:.2f}",
        f"{row['seconds']:.1f}",
        f"{row['times_fp32_inference']:.2f}",
        *([plus_minus(row["accuracy"], row["standard_error"], 4)] if "accuracy" in row else []),
        *([f"in {row['runtime']}: {row['remark']}"] if "remark" in row else []),
    ]


def markdown(result: Json) -> list[str]:
    """Return sign agreement and speed of each, the most faithful first."""
    rows = _most_faithful_first(result)
    caption = (
        f"{', '.join(dict.fromkeys(row['backbone'] for row in rows))} (weights: {result['weights']}), "
        f"{result['calibration_images']} images of {result['calibration']} to calibrate on, signs measured on "
        f"{result['test_images']} of {result['test']}:"
    )
    cells = [[row["name"], *_in_brief(row)] for row in rows if row["name"] != "fp32"]
    return [caption, "", *markdown_table(["", "sign agreement with fp32", "x fp32"], cells)]


def _in_brief(row: Json) -> tuple[str, str]:
    if "error" in row:
        return "failed", "-"
    return plus_minus(row["sign_agreement"], row["agreement_error"], 4), f"{row['times_fp32']['median']:.2f}"


GROUPS = {"float": "not quantized", "aurevoir": "int8 by aurevoir", "peer": "int8 by others"}


def plot(result: Json, path: Path) -> None:
    """Draw sign agreement against images/s, one marker a row, one panel a backbone."""
    rows = [row for row in sound(result["rows"]) if row["name"] != "fp32"]
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    tallest = max(sum(row["backbone"] == name for row in rows) for name in backbones)
    with figure(path, (8.5 * len(backbones), max(4.5, 0.3 * tallest)), (1, len(backbones))) as (whole, panels):
        for axes, name in zip(panels[0], backbones, strict=True):
            _panel(axes, [row for row in rows if row["backbone"] == name])
            axes.set_title(f"{name}, {result['calibration_images']} images to calibrate on")
        groups = {row["group"] for row in rows}
        legend_below(whole, {words: COLOURS[group] for group, words in GROUPS.items() if group in groups})


def _panel(axes: Axes, rows: list[Json]) -> None:
    rows = sorted(rows, key=lambda row: float(row["sign_agreement"]))
    for index, row in enumerate(rows):
        at, colour = (row["images_per_second"], row["sign_agreement"]), COLOURS[row["group"]]
        axes.plot(*at, "o" if row["group"] == "aurevoir" else "s", color=colour)
        # Labels are in a column next to the panel, evenly, each with a line to its marker: none covers another.
        axes.annotate(
            f"{row['name']}  {row['sign_agreement']:.4f}",
            at,
            (1.04, (index + 0.5) / len(rows)),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5, "relpos": (0, 0.5)},
            annotation_clip=False,
        )
    axes.set_xlim(left=0)
    axes.set_xlabel("images/s in OpenVINO")
    axes.set_ylabel("sign agreement with fp32")


BENCHMARK = Benchmark(
    "calibration",
    add_arguments,
    run,
    describe,
    markdown,
    plot,
    keys=("backbone", "name"),
    spreads={
        "sign_agreement": Spread("error", "agreement_error"),
        "behind_default.mean": Spread("error", "behind_default.standard_error"),
        "accuracy": Spread("splits", "accuracies"),
    },
)
