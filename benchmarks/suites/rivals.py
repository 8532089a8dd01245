"""Optics, linear probes and backprop on the same network, images and splits.

Images are decoded once, ahead of all: backprop is spared the decoding of every epoch. What is made
once for a network, the engine, is timed apart from training, in ``once``.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...engine import timing
from ...engine.backbones.base import Backbone
from ...engine.engine import Engine
from ...engine.timing import alternate, ratios, spread
from ...images.sources import LabelledPaths, class_folders
from ...kernels.stopwatch import Stopwatch
from ...progress import progress_bar
from ...transfer.estimator import OpticalClassifier
from ..contract import Benchmark, Cells, Json, Result, Row
from ..harness.datasets import GENERATED, at_most, decode_timed, generated_images, shown_name
from ..harness.engines import Engines, Seconds, open_network
from ..harness.settings import describe_settings
from ..harness.splits import over_splits, readable_splits
from ..reporting.figures import COLOURS, Axes, drawn, figure, legend_below, sound
from ..reporting.text import aligned, markdown_table, plus_minus
from ..rivals.probes import PROBES, channels, fit_probe
from ..rivals.strategies import STRATEGIES
from ..rivals.trained import Rival, Split, Trained
from ..rivals.zoo import MODELS, zoo_rivals

PROJECTIONS = ("none", "exact", "auto", "hadamard", "dense")
REFERENCE = "optical auto"
INFERENCE_BATCH = 4
WARM_UP_IMAGES = 64


@dataclass(frozen=True)
class _Engines:
    """What is built once for a split: the engine of the optics, and fp32's for the probes."""

    optical: Engine
    features: Engine
    channels: int
    once: Seconds


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
    zoo = parser.add_argument_group("shallow compared with deep retraining of whole networks")
    zoo.add_argument("--zoo", nargs="*", metavar="NAME", help=f"torchvision names (without any: {' '.join(MODELS)})")
    zoo.add_argument("--zoo-weights", metavar="DIR", help="holds NAME.pth; else torchvision's own, else random ones")
    zoo.add_argument("--zoo-size", type=int, default=112, help="height and width of the images (default: 112)")
    zoo.add_argument("--zoo-epochs", type=int, default=3, help="at most (default: 3)")
    zoo.add_argument("--zoo-splits", type=int, default=1, help="(default: 1)")


def run(args: argparse.Namespace) -> Result:
    """Measure every rival on every split; one that fails stays, with the reason."""
    backbone = open_network(args.backbone, args.weights, args.size, args.seed)
    cut, rows, decoding = backbone.resolve(args.cut), [], {}
    with _data(args, max(backbone.size[0], args.zoo_size)) as datasets:
        for name, labelled in datasets.items():
            splits, decoding[name] = _splits(labelled, name, backbone.size, args.splits)
            rows += _measure(name, splits, _rivals(backbone, cut, args), args.rounds)
        for name, labelled in datasets.items() if args.zoo is not None else ():
            splits, _ = _splits(labelled, name, (args.zoo_size, args.zoo_size), args.zoo_splits)
            rows += _measure(name, splits, zoo_rivals(args), args.rounds)
    _compare(rows)
    return Result(
        "rivals",
        rows,
        {
            "network": f"{backbone.name} to {cut}",
            "weights": backbone.weights,
            "size": backbone.size[0],
            "splits": args.splits,
            "decode": decoding,
            "inference_batch": INFERENCE_BATCH,
        },
        {"settings": describe_settings()},
    )


@contextmanager
def _data(args: argparse.Namespace, size: int) -> Iterator[dict[str, LabelledPaths]]:
    if args.data:
        yield {_name(data): at_most(class_folders(data), args.per_class, args.seed) for data in args.data}
        return
    with generated_images(args.per_class, size, args.seed) as labelled:
        yield {GENERATED: labelled}


def _name(data: str) -> str:
    """Return the folder's name after its parent's, which distinguishes one data set's ``train`` from another's."""
    return "/".join(Path(data).resolve().parts[-2:])


def _splits(labelled: LabelledPaths, name: str, size: tuple[int, int], count: int) -> tuple[list[Split], Cells]:
    kept, pixels, seconds, skipped = decode_timed(labelled.paths, size, name)
    labels, parts = readable_splits(labelled, kept, count)
    splits = [
        Split(seed, pixels[train], labels[train], pixels[test], labels[test])
        for seed, (train, test) in enumerate(parts)
    ]
    return splits, {"images": len(kept), "classes": len(labelled.names), "seconds": seconds, "skipped": skipped}


def _rivals(backbone: Backbone, cut: str, args: argparse.Namespace) -> list[tuple[Row, Rival]]:
    """Return each rival's row to be, and what trains it."""
    engines = _Shared(backbone, cut, args)

    def row(rival: str, group: str, precision: str = "fp32") -> Row:
        return Row({"rival": rival, "group": group, "precision": precision})

    strategies = list(STRATEGIES) if args.strategies is None else args.strategies
    return [
        *(
            (
                row(f"optical {projection}", "optical", args.precision),
                partial(_optical, engines, projection, args.components),
            )
            for projection in args.projections
        ),
        *((row(probe, "probe"), partial(_probe, engines, probe)) for probe in args.probes),
        *((row(f"backprop {name}", "backprop"), partial(_backprop, backbone, cut, name, args)) for name in strategies),
    ]


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
        args = self.args
        sample = split.calibration_images(args.calibration_images)
        engines = Engines.export(self.backbone, self.cut, sample)
        optical, once = engines.build_timed(args.precision, args.runtime, None, sample)
        features = engines.build("fp32", args.runtime)
        features(sample)
        once["build"] += engines.export_seconds
        return _Engines(optical, features, channels(engines.exported), once)


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
    from ..rivals.backprop import train_truncated

    return train_truncated(backbone, cut, split, name, args.epochs, args.calibration_images)


def _measure(data: str, splits: Sequence[Split], rivals: Sequence[tuple[Row, Rival]], rounds: int) -> list[Row]:
    """Train every rival on every split, then let those of the last split infer in turns."""
    rows = [Row({"data": data, **row.cells}) for row, _ in rivals]
    found: list[list[tuple[float, Trained]]] = [[] for _ in rivals]
    with progress_bar(total=len(splits) * len(rivals), desc=data, unit="training") as bar:
        for split in splits:
            for (_, rival), row, trained in zip(rivals, rows, found, strict=True):
                bar.set_postfix_str(row["rival"])
                if row.error is None:
                    with row.attempt():
                        _train(rival, split, trained)
                bar.update()
    for row, trained in zip(rows, found, strict=True):
        if row.error is None:
            row.note(**_mean(trained))
    _time_inference(rows, found, splits[-1].test_pixels[:INFERENCE_BATCH], rounds)
    return rows


def _train(rival: Rival, split: Split, found: list[tuple[float, Trained]]) -> None:
    trained = rival(split)
    accuracy = float((trained.predict(split.test_pixels) == split.test_labels).mean())
    if found:  # only the last split's classifiers infer; the others' memory is given back
        found[-1] = (found[-1][0], replace(found[-1][1], predict=lambda pixels: pixels))
    found.append((accuracy, trained))


def _mean(found: Sequence[tuple[float, Trained]]) -> Cells:
    each = [trained.seconds for _, trained in found]
    return {
        **over_splits([accuracy for accuracy, _ in found]),
        "seconds": {stage: float(np.mean([seconds[stage] for seconds in each])) for stage in each[0]},
        "totals": [seconds["total"] for seconds in each],
        **found[-1][1].remarks,
    }


def _time_inference(
    rows: Sequence[Row], found: Sequence[Sequence[tuple[float, Trained]]], batch: np.ndarray, rounds: int
) -> None:
    contestants = {
        str(index): partial(trained[-1][1].predict, batch)
        for index, (row, trained) in enumerate(zip(rows, found, strict=True))
        if row.error is None
    }
    for index, seconds in alternate(contestants, rounds).items():
        rows[int(index)].note(inference_ms={"median": 1e3 * median(seconds), "spread": spread(seconds)})


def _compare(rows: Sequence[Row]) -> None:
    """Note how many times longer each trains than the optics do, split by split; and with the making of its engine."""
    for row in rows:
        optics = next((each for each in rows if (each["data"], each["rival"]) == (row["data"], REFERENCE)), None)
        if optics is not None and row["group"] != "zoo" and row.get("totals") and optics.get("totals"):
            once, own = (sum(each.get("once", {}).values()) for each in (optics, row))
            row.note(
                times_optical=ratios(optics["totals"], row["totals"]),
                times_optical_with_once=ratios(
                    [total + once for total in optics["totals"]], [total + own for total in row["totals"]]
                ),
            )


def markdown(result: Json) -> list[str]:
    """Return accuracy and seconds of training, a table a data set."""
    header = ["", "accuracy", "training, s", f"x {REFERENCE}", "and its engine", f"ms for {INFERENCE_BATCH} images"]
    lines: list[str] = []
    for name, data in result["decode"].items():
        rows = [_in_brief(row) for row in result["rows"] if row["data"] == name]
        images = f"{shown_name(name, result['decode'])}, {data['images']} images"
        lines += [*([""] if lines else []), f"{images}, {result['network']}:", ""]
        lines += markdown_table(header, rows)
    return lines


def _in_brief(row: Json) -> list[str]:
    if "error" in row:
        return [row["rival"], "failed", "", "", "", ""]
    times = (row.get(name, {}).get("median") for name in ("times_optical", "times_optical_with_once"))
    return [
        _named(row),
        plus_minus(row["accuracy"], row["standard_error"], 3),
        f"{row['seconds']['total']:.1f}",
        *(f"{ratio:.1f}" if ratio else "" for ratio in times),
        f"{row['inference_ms']['median']:.0f}",
    ]


def _named(row: Json) -> str:
    return str(row["rival"]) + (", random weights" if row.get("why_random") else "")


def describe(result: Json) -> str:
    """Lay the rows out as a table for each data set."""
    header = ["accuracy", "training, s", f"x {REFERENCE}", f"ms for {INFERENCE_BATCH} images"]
    lines = [f"{result['network']}, weights {result['weights']}, {result['size']} x {result['size']}"]
    for name, data in result["decode"].items():
        rows = [_cells(row) for row in result["rows"] if row["data"] == name]
        lines += ["", *aligned([f"{shown_name(name, result['decode'])}, {data['images']} images", *header], rows)]
    return "\n".join(lines)


def _cells(row: Json) -> list[str]:
    if "error" in row:
        return [row["rival"], row["error"]]
    return [
        row["rival"],
        plus_minus(row["accuracy"], row["standard_error"], 4),
        f"{row['seconds']['total']:.2f}",
        f"{row['times_optical']['median']:.1f}" if "times_optical" in row else "-",
        f"{row['inference_ms']['median']:.1f}",
        *([f"weights {row['weights']}, {row['why_random']}"] if row.get("why_random") else []),
    ]


GROUPS = {
    "optical": ("aurevoir, by projection", COLOURS["aurevoir"]),
    "probe": ("linear probes on fp32 features", COLOURS["probe"]),
    "backprop": ("backprop on the same network, by strategy", COLOURS["peer"]),
    "zoo": ("whole networks retrained: the last layer (shallow) or all (deep)", COLOURS["peer"]),
    "random": ("the same from random weights: compare only the seconds", COLOURS["random"]),
}
"""The groups of rivals in words, and their colours."""


def plot(result: Json, path: Path) -> None:
    """Draw accuracy and seconds of training, a row a rival, two panels a data set."""
    rows = sound(result["rows"])
    names = [name for name in result["decode"] if any(row["data"] == name for row in rows)]
    tallest = max((sum(row["data"] == name for row in rows) for name in names), default=0)
    height = (1.8 + 0.28 * tallest) * max(1, len(names))
    with figure(path, (12, height), (len(names) or 1, 2), sharey="row") as (whole, panels):
        for (accuracy, seconds), name in zip(panels, names, strict=False):
            own = [row for row in rows if row["data"] == name]
            _draw(accuracy, seconds, own, result["decode"][name])
            accuracy.set_title(shown_name(name, names))
        groups = {_group(row) for row in rows}
        entries: dict[str, Any] = {words: colour for group, (words, colour) in GROUPS.items() if group in groups}
        legend_below(whole, entries | drawn(panels.flat), columns=2)
        whole.suptitle(f"aurevoir: {result['network']}, weights {result['weights']}")


def _draw(accuracy: Axes, seconds: Axes, rows: Sequence[Json], decode: Json) -> None:
    indices, colours = range(len(rows)), [GROUPS[_group(row)][1] for row in rows]
    accuracy.barh(indices, [row["accuracy"] for row in rows], color=colours)
    for index, row in enumerate(rows):
        if row["standard_error"] is not None:
            accuracy.errorbar(row["accuracy"], index, xerr=row["standard_error"], color="black", capsize=2)
        # A bar would be as long as the end of a logarithmic axis wants.
        seconds.plot(row["seconds"]["total"], index, "o", color=colours[index])
    if "classes" in decode:
        words = f"chance, one of {decode['classes']} classes"
        accuracy.axvline(1 / decode["classes"], linestyle="--", color="black", linewidth=1, label=words)
    accuracy.set_xlim(0, max(1.0, accuracy.get_xlim()[1]))
    accuracy.grid(False, axis="y")
    accuracy.set_xlabel(_accuracy_of(rows, decode["images"]))
    accuracy.set_yticks(indices, [_label(row) for row in rows])
    accuracy.invert_yaxis()
    seconds.set_xscale("log")
    seconds.set_xlabel("seconds of training, logarithmic")


def _accuracy_of(rows: Sequence[Json], images: int) -> str:
    """Say over what accuracy was measured; whiskers are promised only where there are some."""
    several = {len(row["accuracies"]) for row in rows if row["standard_error"] is not None}
    if not several:
        return f"accuracy, one split of {images:,d} images"
    alone = "\nno whisker: one split" if any(row["standard_error"] is None for row in rows) else ""
    return f"accuracy, mean and standard error of {max(several)} splits of {images:,d} images{alone}"


def _group(row: Json) -> str:
    return "random" if row.get("why_random") else str(row["group"])


def _label(row: Json) -> str:
    """Return a rival's name, that of a projection as the command line has it."""
    return _named(row).replace("optical ", "projection ")


BENCHMARK = Benchmark("rivals", add_arguments, run, describe, markdown, plot)
