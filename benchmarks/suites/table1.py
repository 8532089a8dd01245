"""The post's Table 1: accuracy, seconds by stage and megabytes, by precision and runtime.

Images are decoded once, ahead of all rows; the rows then take turns, a whole training and a whole
test each. The last row trains as the post did: see `posts_way`.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from ...engine import timing
from ...engine.engine import Engine
from ...engine.runtimes import installed, precisions_on, require_runtime
from ...engine.timing import ratios
from ...errors import AurevoirError
from ...images.batches import ImageArray
from ...kernels.arrays import on_device, on_host
from ...kernels.bits import agreement
from ...kernels.fitting import fit_readout
from ...kernels.stopwatch import Stopwatch
from ...progress import progress_bar
from ...transfer.embed import embed_bits
from ..contract import Benchmark, Cells, Json, Result, Row
from ..harness.datasets import Dataset, add_data_arguments, caption, chosen_images, load_dataset, network_of
from ..harness.device import add_device_argument, runtime_of
from ..harness.engines import Engines, Seconds
from ..harness.settings import describe_settings
from ..harness.sizes import features_megabytes, weights_megabytes
from ..reporting.figures import draw_stages, figure, legend_beside, sound
from ..reporting.text import aligned, markdown_table
from ..rivals.posts_way import train_posts_way

POSTS_WAY = "the post's way"
_OPTICS = ("draw", "project", "gram", "solve")
STAGES = ("decode", "engine", *_OPTICS)
WARM_UP_IMAGES = 64


@dataclass(frozen=True)
class _Turn:
    """One training and one test: what it found, its seconds by stage, and the bits of both parts."""

    found: Cells
    train: Seconds
    test: Seconds
    bits: tuple[np.ndarray, np.ndarray]


@dataclass
class _Contestant:
    row: Row
    engine: Engine | None = None
    turns: list[_Turn] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def is_posts_way(self) -> bool:
        return self.name == POSTS_WAY


@dataclass(frozen=True)
class _Work:
    """What all rows share."""

    data: Dataset
    engines: Engines
    args: argparse.Namespace


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


def run(args: argparse.Namespace) -> Result:
    """Measure every row; one that fails stays, with the reason."""
    args.runtime = runtime_of(args)
    backbone = network_of(args)
    data = load_dataset(args, backbone.size)
    engines = Engines.export(backbone, args.cut, chosen_images(data.train.pixels, args.calibration_images, args.seed))
    work, exported = _Work(data, engines, args), engines.exported
    contestants = [_Contestant(row) for row in _rows(args)]
    for each in (bar := progress_bar(contestants, desc="prepare")):
        bar.set_postfix_str(each.name)
        with each.row.attempt():
            _prepare(each, work)
    _take_turns(contestants, work)
    _summarise(contestants, work)
    return Result(
        "table1",
        [each.row for each in contestants],
        {
            "network": engines.network,
            "weights": exported.weights,
            "size": exported.size[0],
            "features": exported.features,
            **data.describe(),
            "seed": args.seed,
            "rounds": args.rounds,
            "device": args.device,
            "export_seconds": engines.export_seconds,
        },
        {"speedup": _speedup(contestants, args.runtime), "settings": describe_settings()},
    )


def _rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows, the first of which is the reference for signs."""
    named = [(args.runtime, "fp32"), (args.runtime, _half(args.runtime, args.device)), (args.runtime, "int8")]
    if args.device != "cpu" and installed(args.runtime):
        runs = precisions_on(args.runtime, args.device)
        named = [(name, precision) for name, precision in named if precision in runs]
    torch = [("torch", "fp32"), ("torch", _half("torch", args.device))]
    named = named + torch if (args.runtime, "fp32") in named else torch + named
    named += [("onnxruntime", "fp32")] if args.device == "cpu" else []
    for name, precision in dict.fromkeys(named):
        row = {"name": f"{name} {precision}", "runtime": name, "precision": precision, "once": {"calibrate": 0.0}}
        yield Row(row)
    if not args.no_post:
        yield Row({"name": POSTS_WAY, "runtime": "torch", "precision": "fp32"})


def _half(name: str, device: str) -> str:
    """Return the 16-bit precision that a runtime has here; where it has none its row will say so."""
    runs = precisions_on(name, device) if installed(name) else []
    return next((precision for precision in ("fp16", "bf16") if precision in runs), "bf16")


def _prepare(contestant: _Contestant, work: _Work) -> None:
    """Build, and train once, so that nothing is compiled where it is timed: on a few images, or on a GPU on all."""
    if contestant.is_posts_way:
        return
    args, row, train = work.args, contestant.row, work.data.train
    require_runtime(row["runtime"], row["precision"])
    assert work.engines.pixels is not None
    engine, once = work.engines.build_timed(row["precision"], row["runtime"], args.device, work.engines.pixels[:1])
    row.note(once=once)
    contestant.engine = engine
    if args.device != "cpu":
        # What is compiled there depends on the sizes.
        _turn(engine, contestant.name, work)
        return
    few = np.random.default_rng(0).permutation(len(train.labels))[:WARM_UP_IMAGES]
    bits = engine.bits(train.pixels[few])
    labels = np.unique(train.labels[few], return_inverse=True)[1]
    fit_readout(bits, engine.features, labels, int(labels.max()) + 1, args.projection, args.components or 1)


def _take_turns(contestants: Sequence[_Contestant], work: _Work) -> None:
    torch_row = next(each for each in contestants if each.name == "torch fp32")
    turns = [contestant for _ in range(work.args.rounds) for contestant in contestants]
    for each in (bar := progress_bar(turns, desc="turns")):
        bar.set_postfix_str(each.name)
        if each.row.error is None:
            time.sleep(timing.PAUSE)
            with each.row.attempt():
                turn = _turn(each.engine, each.name, work) if each.engine else _posts_turn(torch_row, work)
                each.turns.append(turn)


def _turn(engine: Engine, name: str, work: _Work) -> _Turn:
    data, args = work.data, work.args
    watch = Stopwatch(args.device)
    bits = embed_bits(engine, ImageArray(data.train.pixels, name), watch)[1]
    readout, path = fit_readout(
        on_device(bits, args.device),
        engine.features,
        on_device(data.train.labels, args.device),
        len(data.classes),
        args.projection,
        args.components,
        seed=args.seed,
        timer=watch,
    )
    train, testing = watch.total(), Stopwatch(args.device)
    test_bits = embed_bits(engine, ImageArray(data.test.pixels), testing)[1]
    with testing("project"):
        predicted = on_host(readout.scores(on_device(test_bits, args.device))).argmax(axis=1)
    found = {
        "accuracy": float((predicted == data.test.labels).mean()),
        "loo_accuracy": path.loo_accuracy,
        "alpha": path.alpha,
        "alpha_by": "leave-one-out",
        "projection": readout.kind,
    }
    return _Turn(found, train, testing.total(), (bits, test_bits))


def _posts_turn(torch_row: _Contestant, work: _Work) -> _Turn:
    if torch_row.row.error or not torch_row.turns:
        raise AurevoirError(f"it needs the features of torch fp32, which failed: {torch_row.row.error}")
    before, data, args, m = torch_row.turns[-1], work.data, work.args, work.engines.exported.features
    components = args.post_components or max(1, m // 2)
    trained = train_posts_way(*before.bits, m, data.train.labels, data.test.labels, components, args.seed)
    # The convolutions are torch fp32's of the same round: they are not run twice.
    train = _totalled({"engine": before.train["engine"], **trained.train})
    return _Turn(trained.found(), train, _totalled({"engine": before.test["engine"], **trained.test}), before.bits)


def _totalled(seconds: Seconds) -> Seconds:
    return {**seconds, "total": sum(seconds.values())}


def _summarise(contestants: Sequence[_Contestant], work: _Work) -> None:
    trained = [each for each in contestants if each.row.error is None and each.turns]
    reference = next((each.turns[0].bits for each in contestants if each.turns), None)
    peer = next((each for each in trained if each.is_posts_way), None)
    data, exported = work.data, work.engines.exported
    for each in trained:
        assert reference is not None
        row, last = each.row, each.turns[-1]
        train, test = ([getattr(turn, part) for turn in each.turns] for part in ("train", "test"))
        row.note(
            **last.found,
            sign_agreement=agreement(last.bits[1], reference[1], exported.features),
            seconds={"train": _medians(train, data.train.decode), "test": _medians(test, data.test.decode)},
            model_megabytes=weights_megabytes(exported.graph, row["precision"]),
            features_megabytes=features_megabytes(len(data.train.labels), exported.features, not each.is_posts_way),
        )
        if peer is not None:
            row.note(times_posts_way=_ratios(each, peer, data.train.decode))
        if each.engine is not None:
            row.note(file_megabytes=each.engine.megabytes)


def _medians(turns: Sequence[Seconds], decode: float) -> Seconds:
    """Return the median of each stage over the rounds; the total is the median total with decoding added."""
    found = {stage: median(turn[stage] for turn in turns) for stage in (*STAGES, "total") if stage in turns[0]}
    return {**found, "decode": decode, "total": decode + found["total"]}


def _ratios(each: _Contestant, peer: _Contestant, decode: float) -> Cells:
    """Return how many times faster a row trains than the post's way, decoding included, round by round."""
    ours, theirs = ([decode + turn.train["total"] for turn in one.turns] for one in (each, peer))
    optics = [total - turn.train["draw"] for total, turn in zip(theirs, peer.turns, strict=True)]
    once = sum(each.row.get("once", {}).values())
    return {
        "whole": ratios(ours, theirs),
        "without_drawing": ratios(ours, optics),
        "without_drawing_with_building": ratios([total + once for total in ours], optics),
    }


def _speedup(contestants: Sequence[_Contestant], name: str) -> float | None:
    row = next(each.row for each in contestants if each.name == f"{name} int8")
    found: float | None = row["times_posts_way"]["whole"]["median"] if row.get("times_posts_way") else None
    return found


def markdown(result: Json) -> list[str]:
    """Return accuracy and seconds of training by precision and runtime."""
    header = ["", "accuracy", "engine, s", "project, Gram, solve, s", "training, s", "features, MB", "x the post's way"]
    rows = [_in_brief(row) for row in sound(result["rows"])]
    caption = (
        f"{result['network']}, weights {result['weights']}; {result['data']}, {result['train_images']} training images"
        f"{_gpu(result)}:"
    )
    return [caption, "", *markdown_table(header, rows)]


def _gpu(result: Json) -> str:
    on_gpu = result.get("device", "cpu") != "cpu"
    gpus = result["machine"].get("gpus") or [{"name": "a GPU"}]
    return f", engines and ridge on {gpus[0]['name']}" if on_gpu else ""


def _in_brief(row: Json) -> list[str]:
    seconds, times = row["seconds"]["train"], row.get("times_posts_way", {}).get("whole", {})
    optics = sum(seconds.get(stage, 0) for stage in _OPTICS)
    return [
        row["name"],
        f"{row['accuracy']:.3f}",
        f"{seconds['engine']:.1f}",
        f"{optics:.1f}",
        f"{seconds['total']:.1f}",
        f"{row['features_megabytes']:.0f}",
        f"{times['median']:.1f}" if times else "",
    ]


def describe(result: Json) -> str:
    """Lay the rows out as the post's Table 1."""
    stages = [*STAGES[:2], *_OPTICS, "total"]
    columns = [*stages, "test", "MB", "features MB", "x post", "undrawn"]
    lines = [
        caption(result),
        f"{result['features']:,d} features; medians of {result['rounds']} rounds, in seconds",
        "x post: times as fast as the post's way; undrawn: without its drawing of R",
        *aligned(["", "accuracy", "leave-1-out", *columns], [_cells(row, stages) for row in result["rows"]]),
    ]
    return "\n".join(lines)


def _cells(row: Json, stages: Sequence[str]) -> list[str]:
    if "error" in row:
        return [row["name"], row["error"]]
    train, times = row["seconds"]["train"], row.get("times_posts_way", {})
    return [
        row["name"],
        f"{row['accuracy']:.4f}",
        "-" if row["loo_accuracy"] is None else f"{row['loo_accuracy']:.4f}",
        *(f"{train[stage]:.2f}" if stage in train else "-" for stage in stages),
        f"{row['seconds']['test']['total']:.2f}",
        f"{row['model_megabytes']:.1f}",
        f"{row['features_megabytes']:.2f}",
        *(f"{times[kind]['median']:.1f}" if times else "-" for kind in ("whole", "without_drawing")),
    ]


def plot(result: Json, path: Path) -> None:
    """Draw the seconds of training by stage, a bar a row."""
    rows = sound(result["rows"])
    trained = [row["seconds"]["train"] for row in rows]
    stages = {stage: [seconds.get(stage, 0.0) for seconds in trained] for stage in STAGES}
    with figure(path, (9, 1.5 + 0.45 * len(rows))) as (_, panels):
        axes = panels[0, 0]
        ends = draw_stages(axes, [row["name"] for row in rows], stages)
        for index, (row, end) in enumerate(zip(rows, ends, strict=True)):
            axes.annotate(f" {end:.1f} s, accuracy {row['accuracy']:.3f}", (end, index), va="center")
        axes.set_xlim(right=1.5 * max(ends))
        train, test = result["train_images"], result["test_images"]
        axes.set_xlabel(f"seconds to train on {train} images; accuracy on {test} others")
        legend_beside(axes)
        axes.set_title(f"{result['network']}, weights {result['weights']}; {result['data']}")


BENCHMARK = Benchmark("table1", add_arguments, run, describe, markdown, plot)
