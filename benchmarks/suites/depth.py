"""The post's Figures 5 and 6: accuracy and training time against model size, over the depth of the cut.

Every precision computes the bits of all cuts in one inference; a row's seconds are nevertheless
what its cut alone costs, its own engine timed on a sample of the images. Backprop trains the same
truncated networks.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...engine import timing
from ...engine.backbones.base import Backbone, Cut
from ...engine.engine import Engine
from ...engine.runtimes import narrowest_float, precisions_on
from ...errors import UsageError
from ...images.batches import ImageArray
from ...kernels.arrays import on_device, on_host
from ...kernels.fitting import fit_readout
from ...kernels.stopwatch import Stopwatch
from ...progress import progress_bar
from ...transfer.embed import embed_bits
from ..contract import Benchmark, Cells, Json, Result, Row
from ..harness.datasets import Dataset, add_data_arguments, caption, chosen_images, load_dataset, network_of
from ..harness.device import add_device_argument, runtime_of
from ..harness.engines import Engines, build_joined
from ..harness.settings import describe_settings
from ..harness.sizes import weights_megabytes
from ..reporting.figures import MARKERS, drawn, figure, legend_below, sound
from ..reporting.text import aligned, markdown_table
from ..rivals.trained import Split

STRATEGY = "lighton"
_LEAST_FEATURES = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    add_data_arguments(parser)
    parser.add_argument("--cuts", nargs="+", help="where to end (default: --count of them, even in megabytes)")
    parser.add_argument("--count", type=int, default=10, help="cuts, from the last dense block back (default: 10)")
    add_device_argument(parser)
    parser.add_argument("--runtime", help="(default: openvino; on cuda torch)")
    parser.add_argument("--precisions", nargs="+", help="(default: fp32, the narrowest float, int8)")
    parser.add_argument("--projection", default="auto", help="(default: auto)")
    parser.add_argument("--components", type=int, help="k of hadamard and dense (default: half the features)")
    parser.add_argument("--calibration-images", type=int, default=64, help="of the training images (default: 64)")
    parser.add_argument("--sample", type=int, default=64, help="images that time each cut's own engine (default: 64)")
    parser.add_argument("--epochs", type=int, help=f"of backprop at most (default: as strategy {STRATEGY!r}, 5)")
    parser.add_argument("--no-backprop", action="store_true", help="leave backprop out")


@dataclass(frozen=True)
class _Depths:
    """The cuts, exported, and what all rows read."""

    cuts: list[Engines]
    data: Dataset
    args: argparse.Namespace

    def rows(self, method: str, precision: str) -> list[Row]:
        return [
            Row(
                {
                    "cut": each.exported.cut,
                    "method": method,
                    "precision": precision,
                    "features": each.exported.features,
                    "model_megabytes": weights_megabytes(each.exported.graph, precision),
                }
            )
            for each in self.cuts
        ]


def run(args: argparse.Namespace) -> Result:
    """Measure every cut by every method; what fails stays, with the reason."""
    args.runtime = runtime_of(args)
    backbone = network_of(args)
    cuts = _chosen(backbone, args)
    data = load_dataset(args, backbone.size)
    sample = chosen_images(data.train.pixels, args.calibration_images, args.seed)
    depths = _Depths(Engines.export_cuts(backbone, cuts, sample), data, args)
    sweeps = [_sweep(depths, precision) for precision in args.precisions or _precisions(args.runtime, args.device)]
    rows = [row for _, found in sweeps for row in found]
    if not args.no_backprop:
        rows += _backprop(depths, backbone)
    return Result(
        "depth",
        rows,
        {
            "network": backbone.name,
            "weights": backbone.weights,
            "size": backbone.size[0],
            **data.describe(),
            "seed": args.seed,
            "device": args.device,
            "decode_seconds": {"train": data.train.decode, "test": data.test.decode},
            "export_seconds": depths.cuts[0].export_seconds,
        },
        {"sweeps": [sweep.to_json() for sweep, _ in sweeps], "settings": describe_settings()},
    )


def _precisions(name: str, device: str) -> list[str]:
    wanted = dict.fromkeys(["fp32", narrowest_float(name, device), "int8"])
    return [precision for precision in wanted if precision in precisions_on(name, device)]


def _chosen(backbone: Backbone, args: argparse.Namespace) -> list[str]:
    """Return the cuts to measure, the shallowest first."""
    known = backbone.cuts()
    if args.cuts:
        order = {backbone.resolve(cut.name): index for index, cut in enumerate(known)}
        return sorted(args.cuts, key=lambda cut: order.get(backbone.resolve(cut), len(order)))
    if args.count < 1:
        raise UsageError(f"count {args.count} is below 1")
    return _even_in_size([cut for cut in known if cut.features >= _LEAST_FEATURES], args.count)


def _even_in_size(cuts: list[Cut], count: int) -> list[str]:
    """Return cuts whose numbers of parameters lie evenly, up to the last layer before the classifier."""
    dense, features = ([cut for cut in cuts if part in cut.name] for part in ("denselayer", "features."))
    layers = dense or features or cuts
    deepest = max((cut.parameters for cut in layers), default=0)
    wanted = np.linspace(deepest, 0, count, endpoint=False)
    nearest = [min(layers, key=lambda cut: abs(cut.parameters - size)) for size in wanted if layers]
    return [cut.name for cut in layers if cut in nearest]


def _sweep(depths: _Depths, precision: str) -> tuple[Row, list[Row]]:
    """Measure every cut in one precision from one inference."""
    rows, args = depths.rows(f"optical {precision}", precision), depths.args
    sweep = Row({"method": f"optical {precision}", "precision": precision, "cuts": len(rows)})
    with sweep.attempt():
        made = build_joined(depths.cuts, precision, args.runtime, args.device, depths.data.train.pixels)
        sweep.note(once=made.once)
        bits, test_bits = _all_bits(depths, made.joined, sweep)
        parts = [(bits[:, where], test_bits[:, where]) for where in made.columns]
        # What the kernels compile on first use is no cut's own.
        _optical(depths, made.each[0], *parts[0])
    if sweep.error:
        for row in rows:
            row.error = sweep.error
        return sweep, rows
    for row, engine, part in zip(progress_bar(rows, desc=f"{precision} cuts"), made.each, parts, strict=True):
        with row.attempt():
            if args.device != "cpu":
                # There kernels are compiled for the sizes of each cut.
                _optical(depths, engine, *part)
            row.note(**_optical(depths, engine, *part))
    fitted = [row["seconds"] for row in rows if row.error is None]
    fits = sum(seconds["total"] - seconds["engine"] for seconds in fitted)
    alone = sum(seconds["total"] for seconds in fitted)
    sweep.note(fits=fits, total=sweep["engine"] + fits, alone_total=alone)
    return sweep, rows


def _all_bits(depths: _Depths, joined: Engine, sweep: Row) -> tuple[np.ndarray, np.ndarray]:
    time.sleep(timing.PAUSE)
    watch, testing = Stopwatch(), Stopwatch()
    train = ImageArray(depths.data.train.pixels, f"{joined.precision} sweep")
    bits = embed_bits(joined, train, watch)[1]
    test_bits = embed_bits(joined, ImageArray(depths.data.test.pixels), testing)[1]
    sweep.note(engine=watch.seconds["engine"], test_engine=testing.seconds["engine"])
    return bits, test_bits


def _optical(depths: _Depths, engine: Engine, bits: np.ndarray, test_bits: np.ndarray) -> Cells:
    data, args, watch = depths.data, depths.args, Stopwatch(depths.args.device)
    classes = len(data.classes)
    rows, labels = (on_device(part, args.device) for part in (np.ascontiguousarray(bits), data.train.labels))
    readout, path = fit_readout(
        rows, engine.features, labels, classes, args.projection, args.components, seed=args.seed, timer=watch
    )
    stages = {stage: watch.seconds[stage] for stage in ("project", "gram", "solve")}
    tested = on_device(np.ascontiguousarray(test_bits), args.device)
    predicted = on_host(readout.scores(tested)).argmax(axis=1)
    images = len(data.train.labels)
    alone = _alone(engine, data.train.pixels[: args.sample]) * images
    return {
        "accuracy": float((predicted == data.test.labels).mean()),
        "loo_accuracy": path.loo_accuracy,
        "alpha": path.alpha,
        "projection": readout.kind,
        "seconds": {"engine": alone, **stages, "total": alone + sum(stages.values())},
        "engine_timed": f"this cut's own engine on {min(args.sample, images)} images, for {images}",
    }


def _alone(engine: Engine, pixels: np.ndarray) -> float:
    """Return the seconds an image of a cut's own engine."""
    engine.bits(pixels)
    start = time.perf_counter()
    engine.bits(pixels)
    return (time.perf_counter() - start) / len(pixels)


def _backprop(depths: _Depths, backbone: Backbone) -> list[Row]:
    rows = depths.rows("backprop", "fp32")
    for row in (bar := progress_bar(rows, desc="backprop")):
        bar.set_postfix_str(row["cut"])
        with row.attempt():
            row.note(**_train(row["cut"], depths, backbone))
    return rows


def _train(cut: str, depths: _Depths, backbone: Backbone) -> Cells:
    from ..rivals.backprop import train_truncated

    train, test, args = depths.data.train, depths.data.test, depths.args
    split = Split(args.seed, train.pixels, train.labels, test.pixels, test.labels)
    trained = train_truncated(backbone, cut, split, STRATEGY, args.epochs, args.calibration_images, args.device)
    accuracy = float((trained.predict(test.pixels) == test.labels).mean())
    return {"accuracy": accuracy, "strategy": STRATEGY, "seconds": trained.seconds, **trained.remarks}


def markdown(result: Json) -> list[str]:
    """Return accuracy and seconds of every method, a row a cut."""
    rows = {(row["cut"], row["method"]): row for row in result["rows"]}
    cuts, methods = (list(dict.fromkeys(names)) for names in zip(*rows, strict=True))
    caption = (
        f"{result['network']}, weights {result['weights']}, {result['size']} x {result['size']}; {result['data']}, "
        f"{result['train_images']} training and {result['test_images']} test images; accuracy, seconds of training:"
    )
    lines = []
    for cut in cuts:
        first = rows[cut, methods[0]]
        size = max(rows[cut, method]["model_megabytes"] for method in methods)
        lines.append([cut, f"{first['features']:,d}", f"{size:.1f}", *(_in_brief(rows[cut, each]) for each in methods)])
    return [caption, "", *markdown_table(["cut", "features", "fp32 MB", *methods], lines)]


def _in_brief(row: Json) -> str:
    return "failed" if "error" in row else f"{row['accuracy']:.3f}, {row['seconds']['total']:.1f}"


def describe(result: Json) -> str:
    """Lay the rows out as a table, then what the sweeps cost as a whole."""
    lines = [
        caption(result),
        *aligned(["cut", "method", "MB", "features", "accuracy", "seconds"], [_cells(row) for row in result["rows"]]),
    ]
    for sweep in result["sweeps"]:
        if "error" not in sweep:
            lines.append(
                f"{sweep['method']}: all {sweep['cuts']} cuts from one inference {sweep['total']:.1f} s, "
                f"one by one {sweep['alone_total']:.1f} s"
            )
    return "\n".join(lines)


def _cells(row: Json) -> list[str]:
    start = [row["cut"], row["method"], f"{row['model_megabytes']:.1f}", f"{row['features']:,d}"]
    if "error" in row:
        return [row["cut"], f"{row['method']}: {row['error']}"]
    return [*start, f"{row['accuracy']:.4f}", f"{row['seconds']['total']:.2f}"]


def plot(result: Json, path: Path) -> None:
    """Draw accuracy and training seconds against model size, one line a method."""
    rows = sound(result["rows"])
    with figure(path, (12, 4.8), (1, 2)) as (whole, panels):
        accuracy, seconds = panels[0]
        for index, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            own = sorted(
                (row for row in rows if row["method"] == method), key=lambda row: float(row["model_megabytes"])
            )
            sizes = [row["model_megabytes"] for row in own]
            for axes, values in (
                (accuracy, [row["accuracy"] for row in own]),
                (seconds, [row["seconds"]["total"] for row in own]),
            ):
                axes.plot(sizes, values, f"{MARKERS[index % len(MARKERS)]}-", label=method)
        accuracy.set_ylabel(_accuracy_of(rows, result["test_images"]))
        seconds.set_ylabel(f"seconds to train on {result['train_images']} images")
        seconds.set_yscale("log")
        for axes in panels[0]:
            axes.set_xlabel("model (MB)")
            axes.grid(alpha=0.3, which="both")
        legend_below(whole, drawn(panels[0]))
        whole.suptitle(
            f"{result['network']}, weights {result['weights']}, {result['data']} images of "
            f"{result['size']} x {result['size']}: one point per cut"
        )


def _accuracy_of(rows: Sequence[Json], images: int) -> str:
    """Say on how many images accuracy was measured, and what that leaves uncertain."""
    largest = max((row["accuracy"] * (1 - row["accuracy"]) / images) ** 0.5 for row in rows)
    return f"accuracy, one split of {images} test images\n(standard error of a point up to {largest:.2f})"


BENCHMARK = Benchmark("depth", add_arguments, run, describe, markdown, plot)
