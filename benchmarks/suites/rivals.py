"""Optics, linear probes and backprop on the same network, images and splits.

Images are decoded once, ahead of all: backprop is spared the decoding of every epoch. What is made
once for a network, the engine, is told apart from training in ``once``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from ...engine import timing
from ...engine.assemble import assemble
from ...engine.backbones import open_backbone
from ...engine.backbones.base import Backbone
from ...engine.calibrate import calibrate
from ...engine.engine import Engine
from ...engine.float_graph import export_backbone
from ...engine.timing import alternate, ratios, spread
from ...images.procedural import write_class_folders
from ...images.sources import LabelledPaths, class_folders
from ...kernels.stopwatch import Stopwatch
from ...transfer.classifier import OpticalClassifier
from ..harness.datasets import GENERATED, GENERATED_PER_CLASS, at_most, decode_timed
from ..harness.failures import attempt
from ..harness.machine import describe_machine
from ..harness.settings import describe_settings
from ..harness.splits import readable_splits, standard_error
from ..reporting.tables import markdown, plus_minus
from ..rivals.probes import PROBES, channels, fit_probe
from ..rivals.strategies import STRATEGIES
from ..rivals.zoo import MODELS, zoo_rivals

PROJECTIONS = ("none", "exact", "auto", "hadamard", "dense")
REFERENCE = "optical auto"
INFERENCE_BATCH = 4
WARM_UP_IMAGES = 64


@dataclass(frozen=True)
class Trained:
    """A trained classifier, the seconds of its stages, and what else its row says."""

    predict: Callable[[np.ndarray], np.ndarray]
    seconds: dict[str, float]
    remarks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Training and test images of one seed."""

    seed: int
    pixels: np.ndarray
    labels: np.ndarray
    test_pixels: np.ndarray
    test_labels: np.ndarray


Rival = Callable[[Split], Trained]


@dataclass(frozen=True)
class _Engines:
    """What is built once for a split: the engine of the optics, and fp32's for the probes."""

    optical: Engine
    features: Engine
    channels: int
    once: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("data", nargs="*", help="folders of class folders (default: generated images)")
    parser.add_argument(
        "--per-class", type=int, metavar="N", help="images a class at most (default: all; 60 where they are generated)"
    )
    parser.add_argument("--backbone", default="squeezenet1_1", help="a torchvision name (default: squeezenet1_1)")
    parser.add_argument("--weights", default="default", help="default, random or a file (default: default)")
    parser.add_argument("--cut", help="where the network ends (default: the backbone's own)")
    parser.add_argument("--size", type=int, help="height and width of the images (default: the backbone's own)")
    parser.add_argument("--seed", type=int, default=0, help="of generated images and random weights (default: 0)")
    parser.add_argument("--splits", type=int, default=3, help="80:20 splits, seeds from 0 (default: 3)")
    parser.add_argument("--runtime", default="openvino", help="of the engines (default: openvino)")
    parser.add_argument("--precision", default="fp32", help="of the optics' engine (default: fp32)")
    parser.add_argument("--calibration-images", type=int, default=64, help="of the training images (default: 64)")
    parser.add_argument("--projections", nargs="*", default=list(PROJECTIONS), help="(default: all five)")
    parser.add_argument("--components", type=int, help="k of hadamard and dense (default: half the features)")
    parser.add_argument("--probes", nargs="*", choices=PROBES, default=list(PROBES), help="(default: all four)")
    parser.add_argument("--strategies", nargs="*", metavar="NAME", help=f"of {', '.join(STRATEGIES)} (default: all)")
    parser.add_argument("--epochs", type=int, help="of backprop at most (default: each strategy's own)")
    parser.add_argument("--rounds", type=int, default=5, help=f"timed calls on {INFERENCE_BATCH} images (default: 5)")
    zoo = parser.add_argument_group("shallow against deep retraining of whole networks")
    zoo.add_argument("--zoo", nargs="*", metavar="NAME", help=f"torchvision names (without any: {' '.join(MODELS)})")
    zoo.add_argument("--zoo-weights", metavar="DIR", help="holds NAME.pth; else torchvision's own, else random ones")
    zoo.add_argument("--zoo-size", type=int, default=112, help="height and width of the images (default: 112)")
    zoo.add_argument("--zoo-epochs", type=int, default=3, help="at most (default: 3)")
    zoo.add_argument("--zoo-splits", type=int, default=1, help="(default: 1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every rival on every split; one that fails stays, with the reason."""
    backbone = open_backbone(args.backbone, args.weights, args.size, args.seed)
    cut, rows, decoding = backbone.resolve(args.cut), [], {}
    with _data(args, max(backbone.size[0], args.zoo_size)) as sets:
        for name, labelled in sets.items():
            splits, decoding[name] = _splits(labelled, name, backbone.size, args.splits)
            rows += _measure(name, splits, _rivals(backbone, cut, args), args.rounds)
        if args.zoo is not None:
            for name, labelled in sets.items():
                size = (args.zoo_size, args.zoo_size)
                splits, _ = _splits(labelled, name, size, args.zoo_splits)
                rows += _measure(name, splits, zoo_rivals(args), args.rounds)
    _compare(rows)
    return {
        "benchmark": "rivals",
        "network": f"{backbone.name} to {cut}",
        "weights": backbone.weights,
        "size": backbone.size[0],
        "splits": args.splits,
        "decode": decoding,
        "inference_batch": INFERENCE_BATCH,
        "rows": rows,
        "machine": describe_machine(),
        "settings": describe_settings(),
    }


@contextmanager
def _data(args: argparse.Namespace, size: int) -> Iterator[dict[str, LabelledPaths]]:
    if args.data:
        yield {_name(data): at_most(class_folders(data), args.per_class, args.seed) for data in args.data}
        return
    with tempfile.TemporaryDirectory() as folder:
        count = args.per_class or GENERATED_PER_CLASS
        yield {GENERATED: write_class_folders(Path(folder), count, size, args.seed, True)}


def _name(data: str) -> str:
    """Return the folder's name after its parent's, which tells one data set's ``train`` from another's."""
    return "/".join(Path(data).resolve().parts[-2:])


def _splits(
    labelled: LabelledPaths, name: str, size: tuple[int, int], count: int
) -> tuple[list[Split], dict[str, Any]]:
    kept, pixels, seconds, skipped = decode_timed(labelled.paths, size, name)
    labels, parts = readable_splits(labelled, kept, count)
    splits = [
        Split(seed, pixels[train], labels[train], pixels[test], labels[test])
        for seed, (train, test) in enumerate(parts)
    ]
    return splits, {"images": len(kept), "seconds": seconds, "skipped": skipped}


def _rivals(backbone: Backbone, cut: str, args: argparse.Namespace) -> list[tuple[dict[str, Any], Rival]]:
    """Return each rival's row to be, and what trains it."""
    engines = _Shared(backbone, cut, args)
    rivals: list[tuple[dict[str, Any], Rival]] = []
    for projection in args.projections:
        row = {"rival": f"optical {projection}", "group": "optical", "precision": args.precision}
        rivals.append((row, partial(_optical, engines, projection, args.components)))
    for probe in args.probes:
        rivals.append(({"rival": probe, "group": "probe", "precision": "fp32"}, partial(_probe, engines, probe)))
    for name in list(STRATEGIES) if args.strategies is None else args.strategies:
        row = {"rival": f"backprop {name}", "group": "backprop", "precision": "fp32"}
        rivals.append((row, partial(_backprop, backbone, cut, name, args)))
    return rivals


class _Shared:
    """Engines that the rivals of one split share."""

    def __init__(self, backbone: Backbone, cut: str, args: argparse.Namespace) -> None:
        self.backbone, self.cut, self.args = backbone, cut, args
        self._made: tuple[Split, _Engines] | None = None

    def __call__(self, split: Split) -> _Engines:
        if self._made is None or self._made[0] is not split:
            self._made = split, self._make(split)
        return self._made[1]

    def _make(self, split: Split) -> _Engines:
        args, watch = self.args, Stopwatch()
        sample = calibration_images(split, args.calibration_images)
        with watch("build"):
            exported = export_backbone(self.backbone, self.cut, sample)
        table = None
        if args.precision == "int8":
            with watch("calibrate"):
                table = calibrate(exported, sample, progress=True)
        with watch("build"):
            optical = assemble(exported, args.precision, args.runtime, table)
            optical.bits(sample)
        features = assemble(exported, "fp32", args.runtime)
        features(sample)
        once = {stage: watch.seconds[stage] for stage in ("calibrate", "build")}
        return _Engines(optical, features, channels(exported), once)


def calibration_images(split: Split, count: int) -> np.ndarray:
    """Return up to `count` of a split's training images, chosen by its seed."""
    chosen = np.random.default_rng(split.seed).permutation(len(split.pixels))[:count]
    return split.pixels[np.sort(chosen)]


def _optical(shared: _Shared, projection: str, components: int | None, split: Split) -> Trained:
    engines = shared(split)
    few = np.random.default_rng(0).permutation(len(split.labels))[:WARM_UP_IMAGES]
    # What the kernels compile on first use is not part of the training.
    OpticalClassifier(engine=engines.optical, projection=projection, n_components=16).fit(
        split.pixels[few], split.labels[few]
    )
    time.sleep(timing.PAUSE)
    classifier = OpticalClassifier(
        engine=engines.optical, projection=projection, n_components=components, random_state=split.seed
    ).fit(split.pixels, split.labels)
    seconds = {stage: classifier.timings_[stage] for stage in ("engine", "project", "gram", "solve", "total")}
    remarks = {"once": engines.once, "chosen": classifier.projection_, "loo_accuracy": classifier.loo_accuracy_}
    return Trained(classifier.predict, seconds, remarks)


def _probe(shared: _Shared, name: str, split: Split) -> Trained:
    engines = shared(split)
    time.sleep(timing.PAUSE)
    watch = Stopwatch()
    predict, settings = fit_probe(name, engines.features, engines.channels, split.pixels, split.labels, watch)
    spent = watch.total()
    seconds = {stage: spent[stage] for stage in ("engine", "solve", "total")}
    return Trained(predict, seconds, {"once": engines.once, "settings": settings})


def _backprop(backbone: Backbone, cut: str, name: str, args: argparse.Namespace, split: Split) -> Trained:
    from ..rivals.backprop import train_network
    from ..rivals.network import truncated_with_head

    head = "flatten" if name == "lighton" else "pool"
    network = truncated_with_head(backbone, int(split.labels.max()) + 1, cut, head=head, seed=split.seed)
    encoder = network.body.get_submodule("encoder") if backbone.needs_images else None
    sample = calibration_images(split, args.calibration_images)
    return Trained(*train_network(network, encoder, sample, split.pixels, split.labels, name, args.epochs, split.seed))


def _measure(
    data: str, splits: Sequence[Split], rivals: Sequence[tuple[dict[str, Any], Rival]], rounds: int
) -> list[dict[str, Any]]:
    """Train every rival on every split, then let those of the last split infer in turns."""
    rows = [{"data": data, **row} for row, _ in rivals]
    found: list[list[tuple[float, Trained]]] = [[] for _ in rivals]
    with tqdm(total=len(splits) * len(rivals), desc=data, unit="training") as bar:
        for split in splits:
            for (_, rival), row, trained in zip(rivals, rows, found, strict=True):
                bar.set_postfix_str(row["rival"])
                if "error" not in row:
                    attempt(row, partial(_one, rival, split, trained))
                bar.update()
    for row, trained in zip(rows, found, strict=True):
        if "error" not in row:
            row.update(_mean(trained))
    predictors = {place: each[-1][1].predict for place, each in enumerate(found) if "error" not in rows[place]}
    _time_inference(rows, predictors, splits[-1].test_pixels[:INFERENCE_BATCH], rounds)
    return rows


def _one(rival: Rival, split: Split, found: list[tuple[float, Trained]]) -> None:
    trained = rival(split)
    accuracy = float((trained.predict(split.test_pixels) == split.test_labels).mean())
    if found:  # only the last split's classifiers infer; the others' memory is given back
        found[-1] = (found[-1][0], Trained(lambda pixels: pixels, found[-1][1].seconds, found[-1][1].remarks))
    found.append((accuracy, trained))


def _mean(found: Sequence[tuple[float, Trained]]) -> dict[str, Any]:
    accuracies = [accuracy for accuracy, _ in found]
    each = [trained.seconds for _, trained in found]
    return {
        "accuracy": float(np.mean(accuracies)),
        "standard_error": standard_error(accuracies),
        "accuracies": accuracies,
        "seconds": {stage: float(np.mean([seconds[stage] for seconds in each])) for stage in each[0]},
        "totals": [seconds["total"] for seconds in each],
        **found[-1][1].remarks,
    }


def _time_inference(
    rows: list[dict[str, Any]],
    predictors: dict[int, Callable[[np.ndarray], np.ndarray]],
    batch: np.ndarray,
    rounds: int,
) -> None:
    contestants = {str(place): partial(predict, batch) for place, predict in predictors.items()}
    for place, seconds in alternate(contestants, rounds).items():
        rows[int(place)]["inference_ms"] = {"median": 1e3 * median(seconds), "spread": spread(seconds)}


def _compare(rows: list[dict[str, Any]]) -> None:
    """Add to each row how many times longer it trains than the optics do, split by split; once without its engine."""
    for row in rows:
        optics = next((each for each in rows if (each["data"], each["rival"]) == (row["data"], REFERENCE)), {})
        if row["group"] != "zoo" and "totals" in row and "totals" in optics:
            row["times_optical"] = ratios(optics["totals"], row["totals"])
            once, own = (sum(each.get("once", {}).values()) for each in (optics, row))
            row["times_optical_with_once"] = ratios(
                [total + once for total in optics["totals"]], [total + own for total in row["totals"]]
            )


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: accuracy and seconds of training, a table a data set."""
    header = ["", "accuracy", "training, s", f"x {REFERENCE}", "and its engine", f"ms for {INFERENCE_BATCH} images"]
    lines: list[str] = []
    for name, data in result["decode"].items():
        rows = [_in_brief(row) for row in result["rows"] if row["data"] == name]
        lines += [*([""] if lines else []), f"{name}, {data['images']} images, {result['network']}:", ""]
        lines += markdown(header, rows)
    return lines


def _in_brief(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["rival"], "failed", "", "", "", ""]
    times = (row.get(name, {}).get("median") for name in ("times_optical", "times_optical_with_once"))
    return [
        row["rival"] + (", random weights" if row.get("why_random") else ""),
        plus_minus(row["accuracy"], row["standard_error"], 3),
        f"{row['seconds']['total']:.1f}",
        *(f"{ratio:.1f}" if ratio else "" for ratio in times),
        f"{row['inference_ms']['median']:.0f}",
    ]


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table for each data set."""
    lines = [f"{result['network']}, weights {result['weights']}, {result['size']} x {result['size']}"]
    for name, data in result["decode"].items():
        lines += [
            "",
            f"{name}, {data['images']} images",
            f"{'':30s} {'accuracy':>18s} {'training':>10s} {'x optical':>9s} {'ms for ' + str(INFERENCE_BATCH):>9s}",
        ]
        lines += [_line(row) for row in result["rows"] if row["data"] == name]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['rival']:30s} {row['error']}"
    ratio = f"{row['times_optical']['median']:.1f}" if "times_optical" in row else "-"
    weights = f"   weights {row['weights']}, {row['why_random']}" if row.get("why_random") else ""
    return (
        f"{row['rival']:30s} {row['accuracy']:.4f} +- {row['standard_error'] or 0:.4f}   "
        f"{row['seconds']['total']:8.2f} s {ratio:>9s} {row['inference_ms']['median']:9.1f}{weights}"
    )


COLOURS = {"optical": "tab:red", "probe": "tab:blue", "backprop": "0.35", "zoo": "tab:green"}


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw accuracy and seconds of training, a bar a rival, two panels a data set."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "error" not in row]
    names = [name for name in result["decode"] if any(row["data"] == name for row in rows)]
    tallest = max((sum(row["data"] == name for row in rows) for name in names), default=0)
    figure = Figure(figsize=(12, (1.2 + 0.28 * tallest) * max(1, len(names))), layout="constrained")
    for (accuracy, seconds), name in zip(figure.subplots(len(names) or 1, 2, squeeze=False), names, strict=False):
        own = [row for row in rows if row["data"] == name]
        rivals, colours = [row["rival"] for row in own], [COLOURS[row["group"]] for row in own]
        errors = [row["standard_error"] or 0 for row in own]
        accuracy.barh(rivals, [row["accuracy"] for row in own], xerr=errors, color=colours)
        accuracy.set_xlabel("accuracy, whiskers of one standard error")
        seconds.barh(rivals, [row["seconds"]["total"] for row in own], color=colours)
        seconds.set_xscale("log")
        seconds.set_xlabel("seconds of training")
        for axes in (accuracy, seconds):
            axes.invert_yaxis()
            axes.grid(axis="x", alpha=0.3)
            axes.set_title(name)
    figure.suptitle(f"{result['network']}, weights {result['weights']}")
    figure.savefig(path, dpi=150)
