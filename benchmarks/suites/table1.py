"""The post's Table 1: accuracy, seconds by stage and megabytes, by precision and runtime.

Images are decoded once, ahead of all rows; the rows then take turns, a whole training and a whole
test each. The last row trains as the post did: see `posts_way`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from ...engine import timing
from ...engine.assemble import assemble
from ...engine.calibrate import calibrate, keep_in_float32
from ...engine.engine import Engine
from ...engine.float_graph import Exported, export_backbone
from ...engine.runtimes import installed, precisions_on, require_runtime
from ...engine.timing import ratios
from ...errors import AurevoirError
from ...images.batches import ImageArray
from ...kernels.arrays import on_device, on_host
from ...kernels.bits import agreement
from ...kernels.readout import fit_readout
from ...kernels.stopwatch import Stopwatch
from ...transfer.embed import embed_bits
from ..harness.datasets import Sets, add_data_arguments, load_sets, open_network
from ..harness.device import add_device_argument, runtime_of
from ..harness.failures import attempt
from ..harness.machine import describe_machine
from ..harness.settings import describe_settings
from ..harness.sizes import features_megabytes, weights_megabytes
from ..reporting.tables import markdown
from ..rivals.posts_way import train_posts_way

POSTS_WAY = "the post's way"
STAGES = ("decode", "engine", "draw", "project", "gram", "solve")
WARM_UP_IMAGES = 64


@dataclass
class _Contestant:
    row: dict[str, Any]
    make: Callable[[], Engine] | None = None
    engine: Engine | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def running(self) -> bool:
        return "error" not in self.row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    add_data_arguments(parser)
    parser.add_argument("--cut", help="where the network ends (default: the backbone's own, the post's)")
    add_device_argument(parser)
    parser.add_argument("--runtime", help="of fp32, half and int8 (default: openvino; on cuda torch)")
    parser.add_argument("--projection", default="auto", help="(default: auto)")
    parser.add_argument("--components", type=int, help="k of hadamard and dense (default: half the features)")
    parser.add_argument("--calibration-images", type=int, default=64, help="of the training images (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row (default: 3)")
    parser.add_argument("--post-components", type=int, help="k of the post's way (default: half the features)")
    parser.add_argument("--no-post", action="store_true", help="leave the post's way out")
    parser.add_argument(
        "--min-speedup",
        type=float,
        metavar="X",
        help="exit with 4 if the int8 row does not train X times as fast as the post's way",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every row; one that fails stays, with the reason."""
    args.runtime = runtime_of(args)
    backbone = open_network(args)
    sets = load_sets(args, backbone.size)
    chosen = np.random.default_rng(args.seed).permutation(len(sets.train.pixels))[: args.calibration_images]
    sample = sets.train.pixels[np.sort(chosen)]
    start = time.perf_counter()
    exported = export_backbone(backbone, args.cut, sample)
    exporting = time.perf_counter() - start
    contestants = list(_contestants(exported, sample, args))
    for contestant in (bar := tqdm(contestants, desc="prepare")):
        bar.set_postfix_str(contestant.name)
        attempt(contestant.row, partial(_prepare, contestant, sets, exported, args))
    _take_turns(contestants, sets, exported, args)
    _summarise(contestants, sets, exported)
    return {
        "benchmark": "table1",
        "network": f"{exported.backbone} to {exported.cut}",
        "weights": exported.weights,
        "size": exported.size[0],
        "features": exported.features,
        **sets.describe(),
        "seed": args.seed,
        "rounds": args.rounds,
        "device": args.device,
        "export_seconds": exporting,
        "rows": [each.row for each in contestants],
        "speedup": _speedup(contestants, args.runtime),
        "machine": describe_machine(),
        "settings": describe_settings(),
    }


def _contestants(exported: Exported, sample: np.ndarray, args: argparse.Namespace) -> Iterator[_Contestant]:
    named = [(args.runtime, "fp32"), (args.runtime, _half(args.runtime, args.device)), (args.runtime, "int8")]
    named += [("torch", "fp32"), ("torch", _half("torch", args.device))]
    named += [("onnxruntime", "fp32")] if args.device == "cpu" else []
    for name, precision in dict.fromkeys(named):
        row = {"name": f"{name} {precision}", "runtime": name, "precision": precision, "once": {"calibrate": 0.0}}
        yield _Contestant(row, partial(_build, exported, precision, name, sample, row, args.device))
    if not args.no_post:
        yield _Contestant({"name": POSTS_WAY, "runtime": "torch", "precision": "fp32"})


def _half(name: str, device: str) -> str:
    """Return the 16-bit precision that a runtime has here; where it has none its row will say so."""
    runs = precisions_on(name, device) if installed(name) else []
    return next((precision for precision in ("fp16", "bf16") if precision in runs), "bf16")


def _build(
    exported: Exported, precision: str, name: str, sample: np.ndarray, row: dict[str, Any], device: str
) -> Engine:
    require_runtime(name, precision)
    watch = Stopwatch()
    table = None
    if precision == "int8":
        with watch("calibrate"):
            table = calibrate(exported, sample, progress=True)
    with watch("build"):
        full = keep_in_float32(exported, name, precision, sample)
        engine = assemble(exported, precision, name, table, device, full=full)
        engine.bits(sample[:1])
    row["once"] = {stage: watch.seconds[stage] for stage in ("calibrate", "build")}
    return engine


def _prepare(contestant: _Contestant, sets: Sets, exported: Exported, args: argparse.Namespace) -> None:
    """Build, and train once, so that nothing is compiled where it is timed: on a few images, or on a GPU on all."""
    if contestant.make is None:
        return
    contestant.engine = contestant.make()
    if args.device != "cpu":
        # What is compiled there depends on the sizes.
        _turn(contestant, [], sets, exported, args)
        contestant.turns.clear()
        return
    few = np.random.default_rng(0).permutation(len(sets.train.labels))[:WARM_UP_IMAGES]
    bits = contestant.engine.bits(sets.train.pixels[few])
    labels = np.unique(sets.train.labels[few], return_inverse=True)[1]
    components = args.components or 1
    fit_readout(bits, contestant.engine.features, labels, int(labels.max()) + 1, args.projection, components)


def _take_turns(contestants: list[_Contestant], sets: Sets, exported: Exported, args: argparse.Namespace) -> None:
    turns = [contestant for _ in range(args.rounds) for contestant in contestants]
    for contestant in (bar := tqdm(turns, desc="turns")):
        bar.set_postfix_str(contestant.name)
        if contestant.running:
            time.sleep(timing.PAUSE)
            turn = _posts_turn if contestant.make is None else _turn
            attempt(contestant.row, partial(turn, contestant, contestants, sets, exported, args))


def _turn(
    contestant: _Contestant,
    others: list[_Contestant],
    sets: Sets,
    exported: Exported,
    args: argparse.Namespace,
) -> None:
    engine = contestant.engine
    if engine is None:
        raise AurevoirError("there is no engine")
    watch = Stopwatch(args.device)
    bits = embed_bits(engine, ImageArray(sets.train.pixels, contestant.name), watch)[1]
    readout, path = fit_readout(
        on_device(bits, args.device),
        engine.features,
        on_device(sets.train.labels, args.device),
        len(sets.classes),
        args.projection,
        args.components,
        seed=args.seed,
        timer=watch,
    )
    train, testing = watch.total(), Stopwatch(args.device)
    test_bits = embed_bits(engine, ImageArray(sets.test.pixels), testing)[1]
    with testing("project"):
        predicted = on_host(readout.scores(on_device(test_bits, args.device))).argmax(axis=1)
    found = {
        "accuracy": float((predicted == sets.test.labels).mean()),
        "loo_accuracy": path.loo_accuracy,
        "alpha": path.alpha,
        "alpha_by": "leave-one-out",
        "projection": readout.kind,
    }
    contestant.turns.append(
        {"found": found, "train": train, "test": testing.total(), "bits": (bits, test_bits)},
    )


def _posts_turn(
    contestant: _Contestant,
    others: list[_Contestant],
    sets: Sets,
    exported: Exported,
    args: argparse.Namespace,
) -> None:
    torch_row = next(each for each in others if each.name == "torch fp32")
    if not torch_row.running or not torch_row.turns:
        raise AurevoirError(f"it needs the features of torch fp32, which failed: {torch_row.row.get('error')}")
    before = torch_row.turns[-1]
    components = args.post_components or max(1, exported.features // 2)
    bits, test_bits = before["bits"]
    trained = train_posts_way(
        bits, test_bits, exported.features, sets.train.labels, sets.test.labels, components, args.seed
    )
    contestant.turns.append(
        {
            "found": trained.found(),
            # The convolutions are torch fp32's of the same round: they are not run twice.
            "train": _totalled({"engine": before["train"]["engine"], **trained.train}),
            "test": _totalled({"engine": before["test"]["engine"], **trained.test}),
            "bits": before["bits"],
        }
    )


def _totalled(seconds: dict[str, float]) -> dict[str, float]:
    return {**seconds, "total": sum(seconds.values())}


def _summarise(contestants: list[_Contestant], sets: Sets, exported: Exported) -> None:
    reference = next((each.turns[0]["bits"] for each in contestants if each.turns), None)
    peer = next((each for each in contestants if each.name == POSTS_WAY and each.running), None)
    for each in contestants:
        if not each.running or reference is None:
            continue
        row, last = each.row, each.turns[-1]
        row |= last["found"]
        row["sign_agreement"] = agreement(last["bits"][1], reference[1], exported.features)
        row["seconds"] = {
            part: _medians([turn[part] for turn in each.turns], getattr(sets, part).decode)
            for part in ("train", "test")
        }
        row["model_megabytes"] = weights_megabytes(exported.graph, row["precision"])
        packed = each.name != POSTS_WAY
        row["features_megabytes"] = features_megabytes(len(sets.train.labels), exported.features, packed)
        if peer is not None:
            row["times_posts_way"] = _ratios(each, peer, sets)
    for each in contestants:
        if each.engine is not None and each.running:
            each.row["file_megabytes"] = each.engine.megabytes


def _medians(turns: list[dict[str, float]], decode: float) -> dict[str, float]:
    """Return the median of each stage over the rounds; the total is the median total with decoding added."""
    found = {stage: median(turn[stage] for turn in turns) for stage in (*STAGES, "total") if stage in turns[0]}
    return {**found, "decode": decode, "total": decode + found["total"]}


def _ratios(each: _Contestant, peer: _Contestant, sets: Sets) -> dict[str, Any]:
    """Return how many times faster a row trains than the post's way, decoding included, round by round."""
    ours = [sets.train.decode + turn["train"]["total"] for turn in each.turns]
    theirs = [sets.train.decode + turn["train"]["total"] for turn in peer.turns]
    optics = [total - turn["train"]["draw"] for total, turn in zip(theirs, peer.turns, strict=True)]
    once = sum(each.row.get("once", {}).values())
    return {
        "whole": ratios(ours, theirs),
        "without_drawing": ratios(ours, optics),
        "without_drawing_with_building": ratios([total + once for total in ours], optics),
    }


def _speedup(contestants: list[_Contestant], name: str) -> float | None:
    row = next((each.row for each in contestants if each.name == f"{name} int8"), {})
    found: float | None = row["times_posts_way"]["whole"]["median"] if "times_posts_way" in row else None
    return found


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: accuracy and seconds of training by precision and runtime."""
    header = ["", "accuracy", "engine, s", "project, Gram, solve, s", "training, s", "features, MB", "x the post's way"]
    rows = [_in_brief(row) for row in result["rows"] if "error" not in row]
    caption = (
        f"{result['network']}, weights {result['weights']}; {result['data']}, {result['train_images']} training images"
        f"{_gpu(result)}:"
    )
    return [caption, "", *markdown(header, rows)]


def _gpu(result: dict[str, Any]) -> str:
    on_gpu = result.get("device", "cpu") != "cpu"
    gpus = result["machine"].get("gpus") or [{"name": "a GPU"}]
    return f", engines and ridge on {gpus[0]['name']}" if on_gpu else ""


def _in_brief(row: dict[str, Any]) -> list[str]:
    seconds, times = row["seconds"]["train"], row.get("times_posts_way", {}).get("whole", {})
    optics = sum(seconds.get(stage, 0) for stage in ("draw", "project", "gram", "solve"))
    return [
        row["name"],
        f"{row['accuracy']:.3f}",
        f"{seconds['engine']:.1f}",
        f"{optics:.1f}",
        f"{seconds['total']:.1f}",
        f"{row['features_megabytes']:.0f}",
        f"{times['median']:.1f}" if times else "",
    ]


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as the post's Table 1, torch's figures in parentheses beside the runtime's."""
    rows = {row["name"]: row for row in result["rows"]}
    lines = [
        f"{result['network']}, weights {result['weights']}, {result['size']} x {result['size']}; {result['data']}: "
        f"{result['train_images']} training and {result['test_images']} test images of {len(result['classes'])} "
        f"classes; {result['features']:,d} features; medians of {result['rounds']} rounds",
        "torch's in parentheses; x post: times as fast as the post's way, undrawn: without its drawing of R",
        f"{'':18s} {'accuracy':>17s} {'leave-1-out':>17s} {'decode':>7s} {'engine':>15s} {'draw':>6s} {'project':>7s} "
        f"{'gram':>6s} {'solve':>6s} {'total':>15s} {'test':>6s} {'MB':>6s} {'features MB':>11s} "
        f"{'x post':>6s} {'undrawn':>7s}",
    ]
    first = result["rows"][0]["runtime"]
    for row in result["rows"]:
        if "error" in row:
            lines.append(f"{row['name']:18s} {row['error']}")
            continue
        own, beside = (rows.get(f"{name} {row['precision']}", {}) for name in (first, "torch"))
        paired = first != "torch" and "seconds" in own and "seconds" in beside
        if not (paired and row is beside):
            lines.append(_line(row, beside if paired and row is own else None))
    return "\n".join(lines)


def _line(row: dict[str, Any], beside: dict[str, Any] | None) -> str:
    train, test = row["seconds"]["train"], row["seconds"]["test"]
    other = {**beside, **beside["seconds"]["train"]} if beside else {}
    loo = row["loo_accuracy"]
    faster = [row.get("times_posts_way", {}).get(kind, {}).get("median") for kind in ("whole", "without_drawing")]
    cells = [
        f"{row['name']:18s}",
        f"{_pair(row['accuracy'], other.get('accuracy'), 4):>17s}",
        f"{'-' if loo is None else _pair(loo, other.get('loo_accuracy'), 4):>17s}",
        f"{train['decode']:7.2f}",
        f"{_pair(train['engine'], other.get('engine'), 2):>15s}",
        *(f"{train[stage]:{width}.2f}" if stage in train else f"{'-':>{width}s}" for stage, width in _WIDTHS.items()),
        f"{_pair(train['total'], other.get('total'), 2):>15s}",
        f"{test['total']:6.2f}",
        f"{row['model_megabytes']:6.1f}",
        f"{row['features_megabytes']:11.2f}",
        *(f"{ratio:{width}.1f}" if ratio else f"{'-':>{width}s}" for ratio, width in zip(faster, (6, 7), strict=True)),
    ]
    return " ".join(cells)


_WIDTHS = {"draw": 6, "project": 7, "gram": 6, "solve": 6}


def _pair(own: float, other: float | None, places: int) -> str:
    return f"{own:.{places}f}" + (f" ({other:.{places}f})" if other is not None else "")


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw the seconds of training by stage, a bar a row."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "error" not in row]
    figure = Figure(figsize=(9, 1.5 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names, left = [row["name"] for row in rows], np.zeros(len(rows))
    for stage in STAGES:
        seconds = np.array([row["seconds"]["train"].get(stage, 0.0) for row in rows])
        axes.barh(names, seconds, left=left, label=stage)
        left += seconds
    for place, row in enumerate(rows):
        axes.annotate(f" {left[place]:.1f} s, accuracy {row['accuracy']:.3f}", (left[place], place), va="center")
    axes.set_xlim(right=1.4 * left.max())
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds to train on {result['train_images']} images")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    axes.set_title(result["network"])
    figure.savefig(path, dpi=150)
