"""Throughput and latency of engines by runtime, precision and batch size, beside their peers, in one run.

The default network is the post's, DenseNet169 cut at denseblock4.denselayer12, with seeded random
weights whose batch-norm statistics are set from generated images; speed does not depend on the
weights. Peers: ONNX Runtime on its own quantization, NNCF in OpenVINO on as many streams as our
engines, and torch.compile; on a GPU torch as it comes, and torch.compile.
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

from ...calibration.placement import PLACEMENTS
from ...engine.assemble import assemble
from ...engine.backbones import open_backbone
from ...engine.calibrate import calibrate, keep_in_float32
from ...engine.float_graph import Exported, export_backbone
from ...engine.runtimes import precisions_on
from ...engine.timing import alternate, ratios, spread
from ...errors import AurevoirError
from ...images.procedural import PATTERNS, draw
from ...kernels.arrays import on_device
from ..harness.device import add_device_argument, runtimes_of
from ..harness.failures import reason
from ..harness.machine import describe_machine
from ..reporting.tables import markdown
from ..rivals.peers import PEERS, Features, Peer, quantize

BASE = {"cpu": "onnxruntime fp32", "cuda": "torch as it comes, fp32"}
"""The peer that ratios are to, by device. On a GPU its convolutions are in TF32, which is torch's default."""
EXACT = {"cpu": "onnxruntime fp32", "cuda": "torch fp32"}
"""The row whose signs the others are held against."""
PEER_NAMES = ("ORT minmax U8", "ORT percentile U8, all", "NNCF", "NNCF, all")
CALIBRATED, MEASURED = 48, 16
"""Images to calibrate on, and others on which signs are held against those of `EXACT`."""
WIDE_SPREAD = 0.1
KEYS = ("name", "throughput.batch")
_SPELT = {"onnxruntime fp32": "ONNX Runtime fp32"}
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
    add_device_argument(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[16], help="images a call (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each engine (default: 7)")
    parser.add_argument("--latency-calls", type=int, default=20, help="calls a turn of one image each (default: 20)")
    parser.add_argument("--no-peers", action="store_true", help="measure aurevoir's engines only")
    parser.add_argument(
        "--min-speedup", type=float, metavar="X", help="exit with 4 if int8 is less than X times the peer in fp32"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time every engine and peer at every batch size; one that fails keeps its row, with the reason."""
    on_device(np.zeros(0), args.device)
    base = BASE[args.device]
    weights = "default" if args.backbone.endswith(".onnx") else "random"
    backbone = open_backbone(args.backbone, weights)
    images = procedural_images(max(CALIBRATED + MEASURED, *args.batches), backbone.size[0])
    exported = export_backbone(backbone, None, images[:CALIBRATED])
    contestants = list(_contestants(exported, images[:CALIBRATED], args.device))
    contestants += [] if args.no_peers else _peers(exported, images[:CALIBRATED], args.device)
    for contestant in (bar := tqdm(contestants, desc="build")):
        bar.set_postfix_str(contestant.name)
        _prepare(contestant, [images[:count] for count in (1, MEASURED, *args.batches)])
    running = {each.name: each for each in contestants if each.run is not None}
    _agree(running, images[CALIBRATED : CALIBRATED + MEASURED], EXACT[args.device])
    for batch in args.batches:
        _throughput(running, images[:batch], args.rounds, base)
    _latency(running, images[:1], args.rounds, args.latency_calls)
    return {
        "benchmark": "engines",
        "network": f"{exported.backbone} to {exported.cut}",
        "weights": weights,
        "features": exported.features,
        "device": args.device,
        "base": base,
        "rows": [each.row for each in contestants],
        "speedup": _speedup(running, args.batches[-1], base),
        "machine": describe_machine(),
    }


def _contestants(exported: Exported, pixels: np.ndarray, device: str) -> Iterator[_Contestant]:
    runs = [(name, precision) for name in runtimes_of(device) for precision in precisions_on(name, device)]
    int8 = any(precision == "int8" for _, precision in runs)
    table = calibrate(exported, pixels, progress=True, placement="shared-concat") if int8 else None
    for name, precision in runs:
        own = table if precision == "int8" else None
        full = keep_in_float32(exported, name, precision, pixels)
        make = partial(assemble, exported, precision, name, own, device, full=full)
        yield _Contestant(_row(f"{name} {precision}", "aurevoir", name, precision), make)
    for placement in PLACEMENTS[1:] if device == "cpu" else ():
        make = partial(assemble, exported, "int8", "openvino", table, placement=placement)
        yield _Contestant(_row(f"openvino int8, {placement}", "aurevoir", "openvino", "int8"), make)


def _peers(exported: Exported, pixels: np.ndarray, device: str) -> Iterator[_Contestant]:
    for peer in PEERS if device == "cpu" else ():
        if peer.name in PEER_NAMES:
            own = "onnxruntime" if peer.package == "onnxruntime" else "openvino"
            make_peer = partial(_quantized, peer, exported, pixels)
            yield _Contestant(_row(peer.name, "peer", own, "int8"), make_peer)
    for precision in ("fp32", "bf16") if device == "cpu" else ("fp32", "fp16"):
        if device != "cpu":
            make = partial(in_torch, exported, precision, device, False)
            yield _Contestant(_row(f"torch as it comes, {precision}", "peer", "torch", precision), make)
        make = partial(in_torch, exported, precision, device)
        yield _Contestant(_row(f"torch.compile {precision}", "peer", "torch", precision), make)


def _row(name: str, group: str, runtime_name: str, precision: str) -> dict[str, Any]:
    return {"name": name, "group": group, "runtime": runtime_name, "precision": precision}


def _quantized(peer: Peer, exported: Exported, pixels: np.ndarray) -> Features:
    made = quantize(peer, exported.graph, pixels, own_runtime=True)
    if made.remark:
        raise AurevoirError(made.remark)
    return made.run


def in_torch(exported: Exported, precision: str, device: str, compiled: bool = True) -> Features:
    """Return the float graph in torch, op by op or compiled; on a GPU channels last, compiled with CUDA graphs."""
    import torch

    from ...calibration.graph.edit import prune
    from ...engine.runtimes.torch_graph import TorchGraph

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    network: Any = TorchGraph(prune(exported.graph, ["features"]), dtype).to(device)
    if device != "cpu":
        network = network.to(memory_format=torch.channels_last)
    if compiled:
        network = torch.compile(network, mode=None if device == "cpu" else "reduce-overhead")

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            features: np.ndarray = network(torch.as_tensor(images, device=device))[0].cpu().numpy()
        return features

    return run


def _prepare(contestant: _Contestant, batches: Sequence[np.ndarray]) -> None:
    """Build a contestant and let it run every batch once, so that none fails where it is timed."""
    try:
        contestant.run = contestant.make()
        for images in batches:
            contestant.run(images)
    except Exception as error:  # Whatever a library raises, the others' rows stand.
        contestant.run = None
        contestant.row["error"] = reason(error)


def _agree(running: dict[str, _Contestant], images: np.ndarray, base: str) -> None:
    """Note the share of features that have the sign of the exact row's."""
    signs = {name: each.run(images) > 0 for name, each in running.items() if each.run}
    for name, found in signs.items() if base in signs else ():
        running[name].row["sign_agreement"] = float((found == signs[base]).mean())


def _throughput(running: dict[str, _Contestant], images: np.ndarray, rounds: int, base: str) -> None:
    seconds = alternate({name: partial(each.run, images) for name, each in running.items() if each.run}, rounds)
    for name, each in running.items():
        found: dict[str, Any] = {
            "batch": len(images),
            "images_per_second": len(images) / median(seconds[name]),
            "spread": spread(seconds[name]),
        }
        if base in seconds:
            found[_times(base)] = ratios(seconds[name], seconds[base])
        each.row.setdefault("throughput", []).append(found)


def _latency(running: dict[str, _Contestant], image: np.ndarray, rounds: int, calls: int) -> None:
    contestants = {name: partial(each.run, image) for name, each in running.items() if each.run}
    for name, seconds in alternate(contestants, rounds, calls=calls).items():
        found = np.percentile(seconds, PERCENTILES) * 1e3
        running[name].row["latency_ms"] = {
            f"p{rank}": float(value) for rank, value in zip(PERCENTILES, found, strict=True)
        }


def _times(base: str) -> str:
    return "times_" + "".join(letter if letter.isalnum() else "_" for letter in base)


def _speedup(running: dict[str, _Contestant], batch: int, base: str) -> float | None:
    """Return the best int8 engine's median ratio to the peer in fp32 at a batch size."""
    found = [
        entry[_times(base)]["median"]
        for each in running.values()
        if each.row["group"] == "aurevoir" and each.row["precision"] == "int8"
        for entry in each.row["throughput"]
        if entry["batch"] == batch and _times(base) in entry
    ]
    return max(found, default=None)


def procedural_images(count: int, size: int) -> np.ndarray:
    """Return generated images as uint8 of shape (count, size, size, 3)."""
    patterns = list(PATTERNS.values())
    random = np.random.default_rng(0)
    return np.stack([draw(patterns[number % len(patterns)], size, random) for number in range(count)])


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table, with a warning where the spread is wide."""
    base = result.get("base", BASE["cpu"])
    lines = [f"{result['network']}; ratios are to {base}"]
    lines += [
        f"{'':29s} {'batch':>5s} {'images/s':>9s} {'ratio':>11s} {'spread':>7s} {'signs':>6s}   "
        "one image, ms: p50, p90, p99"
    ]
    for row in result["rows"]:
        if "error" in row:
            lines.append(f"{row['name']:29s} {row['error']}")
            continue
        latency = "  ".join(f"{value:.1f}" for value in row["latency_ms"].values())
        signs = f"{row['sign_agreement']:.4f}" if "sign_agreement" in row else "-"
        for entry in row["throughput"]:
            ratio = f"{entry[_times(base)]['median']:.2f}" if _times(base) in entry else "-"
            wide = "   WIDE SPREAD" if entry["spread"] > WIDE_SPREAD else ""
            lines.append(
                f"{row['name']:29s} {entry['batch']:5d} {entry['images_per_second']:9.1f} {ratio:>11s} "
                f"{entry['spread']:7.1%} {signs:>6s}   {latency}{wide}"
            )
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: throughput and latency of each engine and peer."""
    base = result.get("base", BASE["cpu"])
    header = [
        "batch",
        "",
        "images/s",
        f"x {_SPELT.get(base, base)}: median (least to most)",
        "signs as there",
        "one image, ms: p50, p90, p99",
    ]
    rows = []
    for row in result["rows"]:
        latency = ", ".join(f"{value:.0f}" for value in row.get("latency_ms", {}).values())
        signs = f"{row['sign_agreement']:.3f}" if "sign_agreement" in row else "-"
        failed = [["", row["name"], "failed", "", "", ""]] if "error" in row else []
        rows += failed or [
            [str(entry["batch"]), row["name"], *_summed_up(entry, base), signs, latency] for entry in row["throughput"]
        ]
    caption = f"{result['network']}, {result['features']:,d} features, weights {result['weights']}"
    if len(batches := {row[0] for row in rows if row[0]}) == 1:
        caption += f", batch {batches.pop()}"
        header, rows = header[1:], [row[1:] for row in rows]
    return [f"{caption}:", "", *markdown(header, rows)]


def _summed_up(entry: dict[str, Any], base: str) -> tuple[str, str]:
    wide = f" (spread {entry['spread']:.0%})" if entry["spread"] > WIDE_SPREAD else ""
    found = entry.get(_times(base))
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
