"""Engine files as a program that embeds them meets them: throughput and latency under load, against signs and size.

Every file is loaded once; at each batch size the engines take turns of closed load, in which each caller sends the next
batch after its last, and then of open load, in which batches arrive at random at a rate. The bits are computed, or the
labels of a classifier.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

from ...calibration.fidelity import sign_agreement
from ...engine import timing
from ...engine.engine import Engine
from ...engine.load import load_engine
from ...engine.runtimes.gpu_run import GpuRunner
from ...errors import UsageError
from ...images.decode import Resize
from ...progress import progress_bar
from ..contract import Benchmark, Cells, Json, Result, Row, Spread
from ..harness.datasets import folder_name, photographs, procedural_images
from ..harness.load import Load, closed_load, open_load, percentiles
from ..reporting.figures import MARKERS, Axes, figure, legend_beside, sound
from ..reporting.text import aligned, markdown_table

MEASURED = 64
"""Images on which signs are compared, at most."""
BUSY = 0.5
"""The share of the slowest engine's throughput at which batches arrive where no rate is given."""
LOADS = ("closed", "open")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="engine files, such as one network in each precision")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="images a call (default: 1 8 32)")
    parser.add_argument("--callers", type=int, default=1, help="calls at the same time at most (default: 1)")
    parser.add_argument("--threads", type=int, help="of the CPU, for each engine (default: the runtime's own choice)")
    parser.add_argument("--streams", type=int, help="that run at the same time, of OpenVINO (default: its own choice)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine and load (default: 3)")
    parser.add_argument(
        "--rate", type=float, help="calls that arrive a second (default: half of what the slowest engine manages)"
    )
    parser.add_argument("--data", metavar="DIR", help="photographs to compare signs on (default: drawn images)")
    parser.add_argument("--device", help="of the engines (default: each runtime's first)")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals (default: 0)")


@dataclass
class Contender:
    """An engine file: its row, its engine, and the loads that it was under, by batch size and kind."""

    row: Row
    engine: Engine | None = None
    loads: dict[tuple[int, str], list[Load]] = field(default_factory=dict)

    def run(self, images: Any) -> Any:
        """Compute what a program asks for."""
        assert self.engine is not None
        return compute(self.engine, images)


def compute(engine: Engine, images: Any) -> Any:
    """Return the bits of images, or all outputs of a whole classifier."""
    return engine.run(images, engine.usual_outputs)


def run(args: argparse.Namespace) -> Result:
    """Load the files, compare their signs, and let them take turns at each batch size."""
    if args.seconds <= 0 or (args.rate is not None and args.rate <= 0):
        raise UsageError(f"--seconds {args.seconds} --rate {args.rate} are not both above 0; give positive numbers")
    names = _names(args.files)
    contenders = [Contender(Row({"name": name, "file": file})) for name, file in zip(names, args.files, strict=True)]
    for each in contenders:
        _load(each, args)
    running = [each for each in contenders if each.engine is not None]
    _compare_signs(running, args.data)
    rates = {batch: _measure(running, batch, args) for batch in args.batch}
    for each in running:
        each.row.note(loads=[*_rows(each, args.batch)])
    return Result(
        "engine",
        [each.row for each in contenders],
        {
            "batches": args.batch,
            "callers": args.callers,
            "threads": args.threads,
            "streams": args.streams,
            "seconds": args.seconds,
            "rounds": args.rounds,
            "arrivals": [{"batch": batch, "calls_per_second": rate} for batch, rate in rates.items()],
            "images": "drawn" if args.data is None else folder_name(args.data),
        },
    )


def _names(files: Sequence[str]) -> list[str]:
    """Return the files' names, with their folders where names are alike."""
    short = [Path(file).stem for file in files]
    return [name if short.count(name) == 1 else file for name, file in zip(short, files, strict=True)]


def _load(each: Contender, args: argparse.Namespace) -> None:
    # What a user can mend, such as a file that is no engine, is refused at once.
    engine = load_engine(each.row["file"], args.device).with_threads(args.threads, args.streams)
    made = engine.manifest
    each.row.note(
        network=f"{made.backbone} to {made.cut}",
        precision=made.precision,
        runtime=made.runtime,
        device=engine.device,
        megabytes=Path(each.row["file"]).stat().st_size / 1e6,
    )
    with each.row.attempt():
        compute(engine, np.zeros((1, *engine.input_shape), "uint8"))
        each.engine = engine


def _compare_signs(contenders: Sequence[Contender], folder: str | None) -> None:
    """Note the sign agreement with the fp32 engine of the same network among the files, or else that of the build."""
    exact = {each.engine.manifest.graph: each.engine for each in contenders if each.engine and _is_exact(each.engine)}
    if folder is not None and not exact:
        raise UsageError(
            f"--data {folder} has no effect: signs are compared with an fp32 engine of features, and none is among the "
            "files; add one, or leave it out"
        )
    cache: dict[tuple[int, ...], np.ndarray] = {}
    for each in contenders:
        engine = each.engine
        assert engine is not None
        reference = exact.get(engine.manifest.graph)
        if reference is not None and "features" in engine.outputs:
            shape = engine.input_shape
            if shape not in cache:
                cache[shape] = _images(shape, engine.manifest.resize, folder)
            agreement = sign_agreement(np.asarray(engine(cache[shape])), np.asarray(reference(cache[shape])))
            each.row.note(sign_agreement=agreement, sign_agreement_of="these images")
        elif engine.manifest.sign_agreement is not None:
            each.row.note(sign_agreement=engine.manifest.sign_agreement, sign_agreement_of="its build")


def _is_exact(engine: Engine) -> bool:
    return engine.precision == "fp32" and "features" in engine.outputs


def _images(shape: tuple[int, int, int], resize: Resize, folder: str | None) -> np.ndarray:
    height, width, channels = shape
    if folder is not None:
        return photographs(folder, MEASURED, shape, resize)
    drawn = procedural_images(MEASURED, max(height, width))
    return np.ascontiguousarray(drawn[:, :height, :width, np.arange(channels) % 3])


def _measure(contenders: Sequence[Contender], batch: int, args: argparse.Namespace) -> float | None:
    """Let the engines take turns under closed load, then under open load; return the calls that arrived a second."""
    runs = {id(each): partial(each.run, _noise(each, batch)) for each in contenders}
    for each in contenders:
        with each.row.attempt():
            runs[id(each)]()
    sound_ones = [each for each in contenders if each.row.error is None]
    if not sound_ones:
        return None

    def turns(kind: str, load: Callable[[Callable[[], Any], int], Load]) -> None:
        for turn in progress_bar(range(args.rounds), desc=f"batch {batch}, {kind} load"):
            for each in sound_ones:
                sleep(timing.PAUSE)
                each.loads.setdefault((batch, kind), []).append(load(runs[id(each)], turn))

    turns("closed", lambda call, turn: closed_load(call, args.callers, args.seconds))
    slowest = min(median(load.rate for load in each.loads[batch, "closed"]) for each in sound_ones)
    rate = BUSY * slowest if args.rate is None else args.rate
    turns("open", lambda call, turn: open_load(call, args.callers, rate, args.seconds, args.seed + turn))
    for each in sound_ones:
        each.row.note(**_transfers(each, batch))
    return rate


def _noise(each: Contender, batch: int) -> np.ndarray:
    assert each.engine is not None
    return np.random.default_rng(0).integers(0, 256, (batch, *each.engine.input_shape), dtype="uint8")


def _transfers(each: Contender, batch: int) -> Cells:
    """Return the milliseconds to a GPU, on it, and back, of one batch; nothing for an engine on the host."""
    engine = each.engine
    assert engine is not None
    output = engine.usual_outputs[-1]
    runner = engine.runner(output)
    if not isinstance(runner, GpuRunner):
        return {}
    found = transfer_milliseconds(runner, _noise(each, batch), output)
    return {"transfers": [*each.row.get("transfers", []), {"batch": batch, **found}]}


def transfer_milliseconds(runner: GpuRunner, images: np.ndarray, output: str, repeats: int = 10) -> dict[str, float]:
    """Return the medians of the milliseconds to the GPU, of the network there, and back, each waited for."""
    device, (shape, dtype) = runner.device, runner.outputs[output]
    with device.scope():
        stream = device.stream()
        pinned, out = device.pinned(images.shape, "uint8"), device.pinned((len(images), *shape), dtype)
        pixels = device.empty(images.shape, "uint8", stream)
        result = device.empty((len(images), *shape), dtype, stream)
        pinned[...] = images
        addresses = {"images": device.pointer(pixels), output: device.pointer(result)}
        steps: dict[str, Callable[[], None]] = {
            "to_device": lambda: device.copy(pixels, pinned, stream),
            "on_device": lambda: runner.run_pointers(addresses, len(images)),
            "to_host": lambda: device.copy(out, result, stream),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(repeats + 1):
            for name, step in steps.items():
                start = perf_counter()
                step()
                device.synchronize(stream)
                seconds[name].append(perf_counter() - start)
    return {f"{name}_ms": 1000 * median(each[1:]) for name, each in seconds.items()}


def _rows(each: Contender, batches: Sequence[int]) -> Iterator[Cells]:
    for batch in batches:
        for kind in LOADS:
            loads = each.loads.get((batch, kind), [])
            if not loads:
                continue
            rates = [batch * load.rate for load in loads]
            middle = [1000 * median(load.latencies) for load in loads]
            yield {
                "batch": batch,
                "load": kind,
                "images_per_second": median(rates),
                "images_per_second_by_round": rates,
                "latency_ms": percentiles([latency for load in loads for latency in load.latencies]),
                "p50_by_round": middle,
                "spread": _spread(rates if kind == "closed" else middle),
                "calls": sum(len(load.latencies) for load in loads),
            }


def _spread(values: Sequence[float]) -> float:
    """Return most minus least, relative to the median."""
    return (max(values) - min(values)) / median(values)


def describe(result: Json) -> str:
    """Lay every load of every engine out as a table."""
    header = ["", "batch", "load", "images/s", "p50", "p90", "p99", "p99.9 ms", "spread", "calls", "MB", "signs"]
    rows = []
    for row in result["rows"]:
        if "error" in row:
            rows.append([row["name"], row["error"]])
        for load in row.get("loads", []):
            rows.append([row["name"], str(load["batch"]), load["load"], *_figures(load, row)])
    how = f"{result['callers']} caller{'s' if result['callers'] > 1 else ''}"
    how += "".join(f", {result[name]} {name}" for name in ("threads", "streams") if result[name])
    rates = [f"{each['calls_per_second']:.1f} at batch {each['batch']}" for each in result["arrivals"] if _rate(each)]
    notes = [
        f"{how}; spread: most minus least of {result['rounds']} turns of {result['seconds']:g} s, of closed load in "
        "images/s, of open load in p50",
        f"open load: calls arrive at random, a second {', '.join(rates)}; latency counts from the arrival",
        f"signs: agreement with fp32 on images {_source(result)}, or with * as the build measured it",
    ]
    transfers = [
        f"{row['name']}, batch {each['batch']}: to the GPU {each['to_device_ms']:.3f} ms, on it "
        f"{each['on_device_ms']:.3f} ms, back {each['to_host_ms']:.3f} ms"
        for row in result["rows"]
        for each in row.get("transfers", [])
    ]
    return "\n".join([*aligned(header, rows), *notes, *transfers])


def _source(result: Json) -> str:
    return "that were drawn" if result["images"] == "drawn" else f"of {result['images']}"


def _rate(arrivals: Json) -> bool:
    return arrivals["calls_per_second"] is not None


def _figures(load: Json, row: Json) -> list[str]:
    latency = [f"{value:.2f}" if value is not None else "-" for value in load["latency_ms"].values()]
    return [
        f"{load['images_per_second']:.1f}",
        *latency,
        f"{load['spread']:.1%}",
        str(load["calls"]),
        f"{row['megabytes']:.1f}",
        _signs(row),
    ]


def _signs(row: Json) -> str:
    if "sign_agreement" not in row:
        return "-"
    return f"{row['sign_agreement']:.4f}{'*' if row['sign_agreement_of'] == 'its build' else ''}"


def markdown(result: Json) -> list[str]:
    """Return the table for the documentation."""
    header = ["", "batch", "load", "images/s", "p50, p90, p99, p99.9 (ms)", "spread", "MB", "sign agreement"]
    rows = []
    for row in sound(result["rows"]):
        for load in row["loads"]:
            images, *latency, spread, _, megabytes, signs = _figures(load, row)
            rows.append(
                [row["name"], str(load["batch"]), load["load"], images, ", ".join(latency), spread, megabytes, signs]
            )
    return markdown_table(header, rows)


def plot(result: Json, path: Path) -> None:
    """Draw latency against sign agreement, with sizes, and throughput over the batch size."""
    rows = [row for row in sound(result["rows"]) if row.get("loads")]
    with figure(path, (12, 4.5), (1, 2)) as (_, panels):
        signs, speed = panels[0]
        first = result["batches"][0]
        for index, row in enumerate(rows):
            colour, marker = f"C{index % 10}", MARKERS[index % len(MARKERS)]
            _latency_point(signs, row, first, colour, marker)
            closed = [load for load in row["loads"] if load["load"] == "closed"]
            middle = [load["images_per_second"] for load in closed]
            ranges = [load["images_per_second_by_round"] for load in closed]
            below = [value - min(each) for value, each in zip(middle, ranges, strict=True)]
            above = [max(each) - value for value, each in zip(middle, ranges, strict=True)]
            batches = [load["batch"] for load in closed]
            speed.errorbar(
                batches, middle, yerr=[below, above], fmt=f"{marker}-", color=colour, capsize=2, label=row["name"]
            )
        signs.set_xlabel(f"ms of a call of {first} image{'s' if first > 1 else ''}, closed load: p50, whiskers to p99")
        signs.set_ylabel("sign agreement with fp32")
        signs.set_xlim(left=0)
        signs.margins(x=0.25, y=0.2)
        signs.set_ylim(top=min(1.004, signs.get_ylim()[1]))
        speed.set_xscale("log", base=2)
        speed.set_xticks(result["batches"], [str(batch) for batch in result["batches"]])
        speed.set_xlabel("images a call")
        speed.set_ylabel("images/s, least to most of the turns")
        speed.set_ylim(bottom=0)
        legend_beside(speed)


def _latency_point(axes: Axes, row: Json, batch: int, colour: str, marker: str) -> None:
    """Draw an engine's latency at a batch size against its sign agreement; without one it has no point."""
    with suppress(KeyError, StopIteration):
        own = next(load for load in row["loads"] if (load["batch"], load["load"]) == (batch, "closed"))
        middle, late = own["latency_ms"]["p50"], own["latency_ms"]["p99"]
        at = middle, row["sign_agreement"]
        whisker = [[0], [max(0.0, (late or middle) - middle)]]
        axes.errorbar(at[0], at[1], xerr=whisker, fmt=marker, color=colour, markersize=8, capsize=3)
        axes.annotate(
            f"{row['name']}, {row['megabytes']:.1f} MB",
            at,
            (6, 8),
            textcoords="offset points",
            color=colour,
            fontsize=9,
        )


BENCHMARK = Benchmark(
    "engine",
    add_arguments,
    run,
    describe,
    markdown,
    plot,
    keys=("name", "loads.batch", "loads.load"),
    spreads={"loads.images_per_second": Spread("runs", "loads.images_per_second_by_round")},
)
