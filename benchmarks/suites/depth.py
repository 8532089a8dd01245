"""The post's Figures 5 and 6: accuracy and training time against model size, over the depth of the cut.

Every precision computes the bits of all cuts in one inference; a row's seconds are nevertheless
what its cut alone costs, its own engine timed on a sample of the images. Backprop trains the same
truncated networks.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...calibration.graph.edit import digest
from ...calibration.placement import quantizable
from ...calibration.table import CalibrationTable
from ...engine import timing
from ...engine.assemble import assemble
from ...engine.backbones.base import Backbone, Cut
from ...engine.calibrate import calibrate
from ...engine.engine import Engine
from ...engine.float_graph import Exported, export_cuts
from ...engine.multi_cut import join
from ...engine.runtimes import narrowest_float, precisions_on
from ...errors import UsageError
from ...images.batches import ImageArray
from ...kernels.arrays import on_device, on_host
from ...kernels.readout import fit_readout
from ...kernels.stopwatch import Stopwatch
from ...transfer.embed import embed_bits
from ..harness.datasets import Sets, add_data_arguments, load_sets, open_network
from ..harness.device import add_device_argument, runtime_of
from ..harness.failures import attempt, reason
from ..harness.machine import describe_machine
from ..harness.settings import describe_settings
from ..harness.sizes import weights_megabytes
from ..reporting.tables import markdown

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

    exported: list[Exported]
    sets: Sets
    sample: np.ndarray
    args: argparse.Namespace

    def row(self, place: int, method: str, precision: str) -> dict[str, Any]:
        made = self.exported[place]
        return {
            "cut": made.cut,
            "method": method,
            "precision": precision,
            "features": made.features,
            "model_megabytes": weights_megabytes(made.graph, precision),
        }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every cut by every method; what fails stays, with the reason."""
    args.runtime = runtime_of(args)
    backbone = open_network(args)
    cuts = _chosen(backbone, args)
    sets = load_sets(args, backbone.size)
    chosen = np.random.default_rng(args.seed).permutation(len(sets.train.pixels))[: args.calibration_images]
    sample = sets.train.pixels[np.sort(chosen)]
    start = time.perf_counter()
    depths = _Depths(export_cuts(backbone, cuts, sample), sets, sample, args)
    exporting = time.perf_counter() - start
    sweeps = [_sweep(depths, precision) for precision in args.precisions or _precisions(args.runtime, args.device)]
    rows = [row for _, found in sweeps for row in found]
    if not args.no_backprop:
        rows += _backprop(depths, backbone)
    return {
        "benchmark": "depth",
        "network": backbone.name,
        "weights": backbone.weights,
        "size": backbone.size[0],
        **sets.describe(),
        "seed": args.seed,
        "device": args.device,
        "decode_seconds": {"train": sets.train.decode, "test": sets.test.decode},
        "export_seconds": exporting,
        "rows": rows,
        "sweeps": [sweep for sweep, _ in sweeps],
        "machine": describe_machine(),
        "settings": describe_settings(),
    }


def _precisions(name: str, device: str) -> list[str]:
    wanted = dict.fromkeys(["fp32", narrowest_float(name, device), "int8"])
    return [precision for precision in wanted if precision in precisions_on(name, device)]


def _chosen(backbone: Backbone, args: argparse.Namespace) -> list[str]:
    """Return the cuts to measure, the shallowest first."""
    known = backbone.cuts()
    if args.cuts:
        order = {backbone.resolve(cut.name): place for place, cut in enumerate(known)}
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


def _sweep(depths: _Depths, precision: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure every cut in one precision from one inference."""
    rows = [depths.row(place, f"optical {precision}", precision) for place in range(len(depths.exported))]
    sweep: dict[str, Any] = {"method": f"optical {precision}", "precision": precision, "cuts": len(rows)}
    try:
        engines, joined, columns = _engines(depths, precision, sweep)
        bits, test_bits = _all_bits(depths, joined, sweep)
        # What the kernels compile on first use is no cut's own.
        _optical({}, depths, engines[0], bits[:, columns[0]], test_bits[:, columns[0]])
    except Exception as error:  # Whatever a library raises, the other methods' rows stand.
        for each in (sweep, *rows):
            each["error"] = reason(error)
        return sweep, rows
    for place, row in enumerate(tqdm(rows, desc=f"{precision} cuts")):
        where = columns[place]
        if depths.args.device != "cpu":
            # There kernels are compiled for the sizes of each cut.
            attempt({}, partial(_optical, {}, depths, engines[place], bits[:, where], test_bits[:, where]))
        attempt(row, partial(_optical, row, depths, engines[place], bits[:, where], test_bits[:, where]))
    fitted = [row["seconds"] for row in rows if "seconds" in row]
    fits = sum(seconds["total"] - seconds["engine"] for seconds in fitted)
    sweep["fits"] = fits
    sweep["total"] = sweep["engine"] + fits
    sweep["alone_total"] = sum(seconds["total"] for seconds in fitted)
    return sweep, rows


def _engines(depths: _Depths, precision: str, sweep: dict[str, Any]) -> tuple[list[Engine], Engine, list[slice]]:
    watch = Stopwatch()
    tables: list[CalibrationTable | None] = [None] * len(depths.exported)
    if precision == "int8":
        with watch("calibrate"):
            table = calibrate(depths.exported[-1], depths.sample, progress=True)
        tables = [_narrowed(table, exported) for exported in depths.exported]
    engines = [
        assemble(exported, precision, depths.args.runtime, table, depths.args.device)
        for exported, table in zip(depths.exported, tables, strict=True)
    ]
    with watch("build"):
        joined, columns = join(engines)
        joined.bits(depths.sets.train.pixels[: joined.batch_size])
    sweep["once"] = {stage: watch.seconds[stage] for stage in ("calibrate", "build")}
    return engines, joined, columns


def _narrowed(table: CalibrationTable, exported: Exported) -> CalibrationTable:
    """Return the deepest cut's table for a shallower one: what comes later changes no threshold."""
    names = [name for name in quantizable(exported.graph) if name in table.thresholds]
    means = {name: table.means[name] for name in names if name in table.means}
    thresholds = {name: table.thresholds[name] for name in names}
    return replace(table, graph=digest(exported.graph), thresholds=thresholds, means=means)


def _all_bits(depths: _Depths, joined: Engine, sweep: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    time.sleep(timing.PAUSE)
    watch, testing = Stopwatch(), Stopwatch()
    train = ImageArray(depths.sets.train.pixels, f"{joined.precision} sweep")
    bits = embed_bits(joined, train, watch)[1]
    test_bits = embed_bits(joined, ImageArray(depths.sets.test.pixels), testing)[1]
    sweep["engine"], sweep["test_engine"] = watch.seconds["engine"], testing.seconds["engine"]
    return bits, test_bits


def _optical(row: dict[str, Any], depths: _Depths, engine: Engine, bits: np.ndarray, test_bits: np.ndarray) -> None:
    sets, args, watch = depths.sets, depths.args, Stopwatch(depths.args.device)
    classes = len(sets.classes)
    rows, labels = (on_device(part, args.device) for part in (np.ascontiguousarray(bits), sets.train.labels))
    readout, path = fit_readout(
        rows, engine.features, labels, classes, args.projection, args.components, seed=args.seed, timer=watch
    )
    fitted = sum(watch.seconds[stage] for stage in ("project", "gram", "solve"))
    tested = on_device(np.ascontiguousarray(test_bits), args.device)
    predicted = on_host(readout.scores(tested)).argmax(axis=1)
    alone, images = _alone(engine, sets.train.pixels[: args.sample]), len(sets.train.labels)
    row |= {
        "accuracy": float((predicted == sets.test.labels).mean()),
        "loo_accuracy": path.loo_accuracy,
        "alpha": path.alpha,
        "projection": readout.kind,
        "seconds": {
            "engine": alone * images,
            **{stage: watch.seconds[stage] for stage in ("project", "gram", "solve")},
            "total": alone * images + fitted,
        },
        "engine_timed": f"this cut's own engine on {min(args.sample, images)} images, for {images}",
    }


def _alone(engine: Engine, pixels: np.ndarray) -> float:
    """Return the seconds an image of a cut's own engine."""
    engine.bits(pixels)
    start = time.perf_counter()
    engine.bits(pixels)
    return (time.perf_counter() - start) / len(pixels)


def _backprop(depths: _Depths, backbone: Backbone) -> list[dict[str, Any]]:
    rows = [depths.row(place, "backprop", "fp32") for place in range(len(depths.exported))]
    for row in (bar := tqdm(rows, desc="backprop")):
        bar.set_postfix_str(row["cut"])
        attempt(row, partial(_train, row, depths, backbone))
    return rows


def _train(row: dict[str, Any], depths: _Depths, backbone: Backbone) -> None:
    from ..rivals.backprop import train_network
    from ..rivals.network import truncated_with_head

    sets, args = depths.sets, depths.args
    train = sets.train
    network = truncated_with_head(backbone, len(sets.classes), row["cut"], head="flatten", seed=args.seed)
    encoder = network.body.get_submodule("encoder") if backbone.needs_images else None
    predict, seconds, remarks = train_network(
        network, encoder, depths.sample, train.pixels, train.labels, STRATEGY, args.epochs, args.seed, args.device
    )
    accuracy = float((predict(sets.test.pixels) == sets.test.labels).mean())
    row |= {"accuracy": accuracy, "strategy": STRATEGY, "seconds": seconds, **remarks}


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: accuracy and seconds of every method, a row a cut."""
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
    return [caption, "", *markdown(["cut", "features", "fp32 MB", *methods], lines)]


def _in_brief(row: dict[str, Any]) -> str:
    return "failed" if "error" in row else f"{row['accuracy']:.3f}, {row['seconds']['total']:.1f}"


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table, then what the sweeps cost as a whole."""
    lines = [
        f"{result['network']}, weights {result['weights']}, {result['size']} x {result['size']}; {result['data']}: "
        f"{result['train_images']} training and {result['test_images']} test images of {len(result['classes'])} "
        "classes",
        f"{'cut':38s} {'':14s} {'MB':>6s} {'features':>9s} {'accuracy':>8s} {'seconds':>8s}",
    ]
    lines += [_line(row) for row in result["rows"]]
    for sweep in result["sweeps"]:
        if "error" not in sweep:
            lines.append(
                f"{sweep['method']}: all {sweep['cuts']} cuts from one inference {sweep['total']:.1f} s, "
                f"one by one {sweep['alone_total']:.1f} s"
            )
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    start = f"{row['cut']:38s} {row['method']:14s} {row['model_megabytes']:6.1f} {row['features']:9,d} "
    if "error" in row:
        return start + row["error"]
    return f"{start}{row['accuracy']:8.4f} {row['seconds']['total']:8.2f}"


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw accuracy and training seconds against model size, one line a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    rows = [row for row in result["rows"] if "error" not in row]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["model_megabytes"])
        sizes = [row["model_megabytes"] for row in own]
        panels[0].plot(sizes, [row["accuracy"] for row in own], "o-", label=method)
        panels[1].plot(sizes, [row["seconds"]["total"] for row in own], "o-", label=method)
    _label(panels, result)
    figure.suptitle(f"{result['network']}, weights {result['weights']}, {result['data']}")
    figure.savefig(path, dpi=150)


def _label(panels: Sequence[Any], result: dict[str, Any]) -> None:
    panels[0].set_ylabel("test accuracy")
    panels[1].set_ylabel(f"seconds to train on {result['train_images']} images")
    panels[1].set_yscale("log")
    for axes in panels:
        axes.set_xlabel("model (MB)")
        axes.grid(alpha=0.3, which="both")
    panels[1].legend()
