"""Throughput and latency of engines by runtime, precision and batch size, beside their peers, in one run.

The default network is the post's, DenseNet169 cut at denseblock4.denselayer12, with seeded random
weights whose batch-norm statistics are set from generated images; speed does not depend on the
weights. Peers: ONNX Runtime on its own quantization, NNCF in OpenVINO on as many streams as our
engines, and torch.compile.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from ..calibration.placement import PLACEMENTS
from ..engine.assemble import Exported, assemble
from ..engine.backbone import open_backbone
from ..engine.build import export_backbone
from ..engine.calibrate import calibrate
from ..engine.runtimes import RUNTIMES, installed, runtime
from ..engine.timing import alternate, ratios, spread
from ..errors import AurevoirError
from ..images.procedural import PATTERNS, draw
from .failures import reason
from .machine import describe_machine
from .peers import PEERS, Features, Peer, quantize
from .tables import markdown

BASE = "onnxruntime fp32"
PEER_NAMES = ("ORT minmax U8", "ORT percentile U8, all", "NNCF", "NNCF, all")
CALIBRATED, MEASURED = 48, 16
"""Images to calibrate on, and others on which signs are held against those of `BASE`."""
WIDE_SPREAD = 0.1
KEYS = ("name", "throughput.batch")
PERCENTILES = (50, 90, 99)


@dataclass
class _Contestant:
    """A row of the table, and what runs for it."""

    row: dict[str, Any]
    make: Callable[[], Features]
    run: Features | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return str(self.row["name"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--backbone", default="densenet169", help="a torchvision name or ONNX file (densenet169)")
    parser.add_argument("--batches", type=int, nargs="+", default=[16], help="images a call (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each engine (default: 7)")
    parser.add_argument("--latency-calls", type=int, default=20, help="calls a turn of one image each (default: 20)")
    parser.add_argument("--no-peers", action="store_true", help="measure aurevoir's engines only")
    parser.add_argument(
        "--min-speedup", type=float, metavar="X", help="exit with 4 if int8 is less than X times ONNX Runtime fp32"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time every engine and peer at every batch size; one that fails keeps its row, with the reason."""
    weights = "default" if args.backbone.endswith(".onnx") else "random"
    backbone = open_backbone(args.backbone, weights)
    images = procedural_images(max(CALIBRATED + MEASURED, *args.batches), backbone.size[0])
    exported = export_backbone(backbone, None, images[:CALIBRATED])
    contestants = list(_contestants(exported, images[:CALIBRATED], with_peers=not args.no_peers))
    for contestant in (bar := tqdm(contestants, desc="build")):
        bar.set_postfix_str(contestant.name)
        _prepare(contestant, [images[:count] for count in (1, MEASURED, *args.batches)])
    running = {each.name: each for each in contestants if each.run is not None}
    _agree(running, images[CALIBRATED : CALIBRATED + MEASURED])
    for batch in args.batches:
        _throughput(running, images[:batch], args.rounds)
    _latency(running, images[:1], args.rounds, args.latency_calls)
    return {
        "benchmark": "engines",
        "network": f"{exported.backbone} to {exported.cut}",
        "weights": weights,
        "features": exported.features,
        "rows": [each.row for each in contestants],
        "speedup": _speedup(running, args.batches[-1]),
        "machine": describe_machine(),
    }


def _contestants(exported: Exported, pixels: np.ndarray, with_peers: bool) -> Iterator[_Contestant]:
    table = calibrate(exported, pixels, progress=True, placement="shared-concat")
    for name in RUNTIMES:
        for precision in runtime(name).precisions() if installed(name) else ():
            make = partial(assemble, exported, precision, name, table if precision == "int8" else None)
            yield _Contestant(_row(f"{name} {precision}", "aurevoir", name, precision), make)
    for placement in PLACEMENTS[1:]:
        make = partial(assemble, exported, "int8", "openvino", table, placement=placement)
        yield _Contestant(_row(f"openvino int8, {placement}", "aurevoir", "openvino", "int8"), make)
    if not with_peers:
        return
    for peer in PEERS:
        if peer.name in PEER_NAMES:
            own = "onnxruntime" if peer.package == "onnxruntime" else "openvino"
            make_peer = partial(_quantized, peer, exported, pixels)
            yield _Contestant(_row(peer.name, "peer", own, "int8"), make_peer)
    for precision in ("fp32", "bf16"):
        make_compiled = partial(_torch_compiled, exported, precision)
        yield _Contestant(_row(f"torch.compile {precision}", "peer", "torch", precision), make_compiled)


def _row(name: str, group: str, runtime_name: str, precision: str) -> dict[str, Any]:
    return {"name": name, "group": group, "runtime": runtime_name, "precision": precision}


def _quantized(peer: Peer, exported: Exported, pixels: np.ndarray) -> Features:
    made = quantize(peer, exported.graph, pixels, own_runtime=True)
    if made.remark:
        raise AurevoirError(made.remark)
    return made.run


def _torch_compiled(exported: Exported, precision: str) -> Features:
    import torch

    from ..calibration.graph import prune
    from ..engine.runtimes.torch_graph import TorchGraph

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    network = torch.compile(TorchGraph(prune(exported.graph, ["features"]), dtype))

    def run_compiled(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            features: np.ndarray = network(torch.as_tensor(images))[0].numpy()
        return features

    return run_compiled


def _prepare(contestant: _Contestant, batches: Sequence[np.ndarray]) -> None:
    """Build a contestant and let it run every batch once, so that none fails where it is timed."""
    try:
        contestant.run = contestant.make()
        for images in batches:
            contestant.run(images)
    except Exception as error:  # Whatever a library raises, the others' rows stand.
        contestant.run = None
        contestant.row["error"] = reason(error)


def _agree(running: dict[str, _Contestant], images: np.ndarray) -> None:
    """Note the share of features that have the sign of `BASE`'s."""
    signs = {name: each.run(images) > 0 for name, each in running.items() if each.run}
    for name, found in signs.items() if BASE in signs else ():
        running[name].row["sign_agreement"] = float((found == signs[BASE]).mean())


def _throughput(running: dict[str, _Contestant], images: np.ndarray, rounds: int) -> None:
    seconds = alternate({name: partial(each.run, images) for name, each in running.items() if each.run}, rounds)
    for name, each in running.items():
        found: dict[str, Any] = {
            "batch": len(images),
            "images_per_second": len(images) / median(seconds[name]),
            "spread": spread(seconds[name]),
        }
        if BASE in seconds:
            found["times_onnxruntime_fp32"] = ratios(seconds[name], seconds[BASE])
        each.row.setdefault("throughput", []).append(found)


def _latency(running: dict[str, _Contestant], image: np.ndarray, rounds: int, calls: int) -> None:
    contestants = {name: partial(each.run, image) for name, each in running.items() if each.run}
    for name, seconds in alternate(contestants, rounds, calls=calls).items():
        found = np.percentile(seconds, PERCENTILES) * 1e3
        running[name].row["latency_ms"] = {
            f"p{rank}": float(value) for rank, value in zip(PERCENTILES, found, strict=True)
        }


def _speedup(running: dict[str, _Contestant], batch: int) -> float | None:
    """Return the best int8 engine's median ratio to ONNX Runtime fp32 at a batch size."""
    found = [
        entry["times_onnxruntime_fp32"]["median"]
        for each in running.values()
        if each.row["group"] == "aurevoir" and each.row["precision"] == "int8"
        for entry in each.row["throughput"]
        if entry["batch"] == batch and "times_onnxruntime_fp32" in entry
    ]
    return max(found, default=None)


def procedural_images(count: int, size: int) -> np.ndarray:
    """Return generated images as uint8 of shape (count, size, size, 3)."""
    patterns = list(PATTERNS.values())
    random = np.random.default_rng(0)
    return np.stack([draw(patterns[number % len(patterns)], size, random) for number in range(count)])


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table, with a warning where the spread is wide."""
    lines = [result["network"]]
    lines += [
        f"{'':29s} {'batch':>5s} {'images/s':>9s} {'x ORT fp32':>11s} {'spread':>7s} {'signs':>6s}   "
        "one image, ms: p50, p90, p99"
    ]
    for row in result["rows"]:
        if "error" in row:
            lines.append(f"{row['name']:29s} {row['error']}")
            continue
        latency = "  ".join(f"{value:.1f}" for value in row["latency_ms"].values())
        signs = f"{row['sign_agreement']:.4f}" if "sign_agreement" in row else "-"
        for entry in row["throughput"]:
            ratio = f"{entry['times_onnxruntime_fp32']['median']:.2f}" if "times_onnxruntime_fp32" in entry else "-"
            wide = "   WIDE SPREAD" if entry["spread"] > WIDE_SPREAD else ""
            lines.append(
                f"{row['name']:29s} {entry['batch']:5d} {entry['images_per_second']:9.1f} {ratio:>11s} "
                f"{entry['spread']:7.1%} {signs:>6s}   {latency}{wide}"
            )
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: throughput and latency of each engine and peer."""
    header = [
        "batch",
        "",
        "images/s",
        "x ONNX Runtime fp32: median (least to most)",
        "signs as there",
        "one image, ms: p50, p90, p99",
    ]
    rows = []
    for row in result["rows"]:
        latency = ", ".join(f"{value:.0f}" for value in row.get("latency_ms", {}).values())
        signs = f"{row['sign_agreement']:.3f}" if "sign_agreement" in row else "-"
        failed = [["", row["name"], "failed", "", "", ""]] if "error" in row else []
        rows += failed or [
            [str(entry["batch"]), row["name"], *_summed_up(entry), signs, latency] for entry in row["throughput"]
        ]
    caption = f"{result['network']}, {result['features']:,d} features, weights {result['weights']}"
    if len(batches := {row[0] for row in rows if row[0]}) == 1:
        caption += f", batch {batches.pop()}"
        header, rows = header[1:], [row[1:] for row in rows]
    return [f"{caption}:", "", *markdown(header, rows)]


def _summed_up(entry: dict[str, Any]) -> tuple[str, str]:
    wide = f" (spread {entry['spread']:.0%})" if entry["spread"] > WIDE_SPREAD else ""
    found = entry.get("times_onnxruntime_fp32")
    ratio = f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})" if found else "-"
    return f"{entry['images_per_second']:.1f}{wide}", ratio


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw images/s at the largest batch and the latency of one image, a bar a row."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "error" not in row]
    names = [row["name"] for row in rows]
    colours = ["tab:red" if row["group"] == "aurevoir" else "tab:blue" for row in rows]
    figure = Figure(figsize=(11, 1.5 + 0.3 * len(rows)), layout="constrained")
    speed, latency = figure.subplots(1, 2, sharey=True)
    speed.barh(names, [row["throughput"][-1]["images_per_second"] for row in rows], color=colours)
    speed.set_xlabel(f"images/s, batches of {rows[0]['throughput'][-1]['batch']}")
    speed.invert_yaxis()
    middle = [row["latency_ms"]["p50"] for row in rows]
    late = [row["latency_ms"]["p99"] - row["latency_ms"]["p50"] for row in rows]
    latency.barh(names, middle, color=colours, xerr=[[0] * len(rows), late], ecolor="0.3", capsize=2)
    latency.set_xlabel("one image, ms: p50, whiskers to p99")
    for axes in (speed, latency):
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(result["network"])
    figure.savefig(path, dpi=150)
