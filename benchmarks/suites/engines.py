"""Throughput and latency of engines by runtime, precision and batch size, compared with their peers, in one run.

The default network is the post's, DenseNet169 cut at denseblock4.denselayer12, with seeded random
weights whose batch-norm statistics are set from generated images; speed does not depend on the
weights. Peers: ONNX Runtime on its own quantization, NNCF in OpenVINO on as many streams as our
engines, and torch.compile; on a GPU torch as it comes, and torch.compile.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...calibration.placement import PLACEMENTS
from ...engine.backbones.base import Backbone
from ...engine.float_graph import Exported
from ...engine.runtimes import precisions_on
from ...engine.timing import ratios, spread
from ...errors import AurevoirError, DataError
from ...kernels.arrays import on_device
from ..contract import Benchmark, Cells, Json, Result, Row
from ..harness.contestants import Contestant, prepare, running, take_turns
from ..harness.datasets import folder_name, photographs, procedural_images
from ..harness.device import add_device_argument, runtimes_of
from ..harness.engines import Engines, open_network
from ..reporting.figures import COLOURS, figure, legend_below, sound
from ..reporting.tables import machine_of
from ..reporting.text import aligned, markdown_table, of_median
from ..rivals.peers import PEERS, Features, Peer, Quantized, quantize

BASE = {"cpu": "onnxruntime fp32", "cuda": "torch as it comes, fp32"}
"""The peer that ratios are to, by device. On a GPU its convolutions are in TF32, which is torch's default."""
EXACT = {"cpu": "onnxruntime fp32", "cuda": "torch fp32"}
"""The row whose signs the others' are compared with."""
PEER_NAMES = ("ORT minmax U8", "ORT percentile U8, all", "NNCF", "NNCF, all")
CALIBRATED, MEASURED = 48, 16
"""Images to calibrate on, and others on which signs are compared with those of `EXACT`."""
LEAST = 4
"""Images of one's own, at least: three to calibrate on and one to measure on."""
WIDE_SPREAD = 0.1
_SPELLED = {"onnxruntime fp32": "ONNX Runtime fp32"}
PERCENTILES = (50, 90, 99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    help_ = "a torchvision name, efficientnet_lite0 (or 1, 2), timm:NAME or an ONNX file (default: densenet169)"
    # Without a default of its own the first leaves that of the second, which older command lines use.
    parser.add_argument("backbone", nargs="?", default=argparse.SUPPRESS, metavar="BACKBONE", help=help_)
    parser.add_argument("--backbone", default="densenet169", help="the same")
    parser.add_argument("--cut", help="where to truncate the network (default: the backbone's default cut)")
    parser.add_argument("--weights", help="default, random or a file (default: random; an ONNX file's own)")
    parser.add_argument("--data", metavar="DIR", help="images to calibrate and compare signs on (default: drawn ones)")
    add_device_argument(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[16], help="images a call (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each engine (default: 7)")
    parser.add_argument("--latency-calls", type=int, default=20, help="calls a turn of one image each (default: 20)")
    parser.add_argument("--no-peers", action="store_true", help="measure aurevoir's engines only")
    parser.add_argument(
        "--min-speedup", type=float, metavar="X", help="exit with 4 if int8 is less than X times the peer in fp32"
    )


def run(args: argparse.Namespace) -> Result:
    """Time every engine and peer at every batch size; one that fails keeps its row, with the reason."""
    on_device(np.zeros(0), args.device)
    base = BASE[args.device]
    backbone = open_network(args.backbone, args.weights)
    images = _images(args.data, backbone)
    # Never those that are calibrated on; where there are few, every fourth.
    calibrated, measured = (
        images[: min(CALIBRATED, -(-3 * len(images) // 4))],
        images[-min(MEASURED, len(images) // 4) :],
    )
    timed = np.resize(images, (max(MEASURED, *args.batches), *images.shape[1:]))
    engines = Engines.export(backbone, args.cut, calibrated)
    contestants = [*_engines(engines, args.device), *(() if args.no_peers else _peers(engines, args.device))]
    prepare(contestants, [(timed[:count],) for count in (1, MEASURED, *args.batches)], description="build")
    _agree(contestants, measured, EXACT[args.device])
    for batch in args.batches:
        _throughput(contestants, timed[:batch], args.rounds, base)
    _latency(contestants, timed[:1], args.rounds, args.latency_calls)
    return Result(
        "engines",
        [each.row for each in contestants],
        {
            "network": engines.network,
            "weights": engines.exported.weights,
            "features": engines.exported.features,
            "device": args.device,
            "base": base,
            "images": "drawn" if args.data is None else folder_name(args.data),
        },
        {"speedup": _speedup(contestants, args.batches[-1], base)},
    )


def _images(folder: str | None, backbone: Backbone) -> np.ndarray:
    """Return images to calibrate on and then, at their end, to measure on."""
    count, size = CALIBRATED + MEASURED, backbone.size
    if folder is None:
        return procedural_images(count, size[0])
    images = photographs(folder, count, (*size, backbone.channels))
    if len(images) < LEAST:
        raise DataError(f"{folder} has {len(images)} readable images; give {LEAST} or more")
    return images


def _engines(engines: Engines, device: str) -> Iterator[Contestant]:
    runs = [(name, precision) for name in runtimes_of(device) for precision in precisions_on(name, device)]
    int8 = any(precision == "int8" for _, precision in runs)
    table = engines.calibrate(placement="shared-concat") if int8 else None
    for name, precision in runs:
        make = partial(engines.build, precision, name, device, table=table)
        yield Contestant(_row(f"{name} {precision}", "aurevoir", name, precision), make)
    for placement in PLACEMENTS[1:] if device == "cpu" else ():
        make = partial(engines.build, "int8", "openvino", table=table, placement=placement)
        yield Contestant(_row(f"openvino int8, {placement}", "aurevoir", "openvino", "int8"), make)


def _peers(engines: Engines, device: str) -> Iterator[Contestant]:
    exported = engines.exported
    for peer in PEERS if device == "cpu" else ():
        if peer.name in PEER_NAMES:
            own = "onnxruntime" if peer.package == "onnxruntime" else "openvino"
            make_peer = partial(_quantized, peer, engines)
            yield Contestant(_row(peer.name, "peer", own, "int8"), make_peer)
    for precision in ("fp32", "bf16") if device == "cpu" else ("fp32", "fp16"):
        if device != "cpu":
            make = partial(in_torch, exported, precision, device, False)
            yield Contestant(_row(f"torch as it comes, {precision}", "peer", "torch", precision), make)
        make = partial(in_torch, exported, precision, device)
        yield Contestant(_row(f"torch.compile {precision}", "peer", "torch", precision), make)


def _row(name: str, group: str, runtime: str, precision: str) -> Row:
    return Row({"name": name, "group": group, "runtime": runtime, "precision": precision})


def _quantized(peer: Peer, engines: Engines) -> Quantized:
    assert engines.pixels is not None
    made = quantize(peer, engines.exported.graph, engines.pixels, own_runtime=True)
    if made.remark:
        raise AurevoirError(made.remark)
    return made


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


def _agree(contestants: Sequence[Contestant], images: np.ndarray, exact: str) -> None:
    """Note the share of features that have the sign of the exact row's."""
    signs = {name: np.asarray(each.run(images)) > 0 for name, each in running(contestants).items() if each.run}
    for name, each in running(contestants).items():
        if exact in signs:
            each.row.note(sign_agreement=float((signs[name] == signs[exact]).mean()))


def _throughput(contestants: Sequence[Contestant], images: np.ndarray, rounds: int, base: str) -> None:
    seconds = take_turns(contestants, images, rounds=rounds)
    for name, each in running(contestants).items():
        found: Cells = {
            "batch": len(images),
            "images_per_second": len(images) / median(seconds[name]),
            "spread": spread(seconds[name]),
        }
        if base in seconds:
            found[_times(base)] = ratios(seconds[name], seconds[base])
        each.row.cells.setdefault("throughput", []).append(found)


def _latency(contestants: Sequence[Contestant], image: np.ndarray, rounds: int, calls: int) -> None:
    seconds = take_turns(contestants, image, rounds=rounds, calls=calls)
    for name, each in running(contestants).items():
        found = np.percentile(seconds[name], PERCENTILES) * 1e3
        latency = {f"p{rank}": float(value) for rank, value in zip(PERCENTILES, found, strict=True)}
        each.row.note(latency_ms=latency)


def _times(base: str) -> str:
    return "times_" + "".join(letter if letter.isalnum() else "_" for letter in base)


def _speedup(contestants: Sequence[Contestant], batch: int, base: str) -> float | None:
    """Return the best int8 engine's median ratio to the peer in fp32 at a batch size."""
    found = [
        entry[_times(base)]["median"]
        for each in running(contestants).values()
        if each.row["group"] == "aurevoir" and each.row["precision"] == "int8"
        for entry in each.row["throughput"]
        if entry["batch"] == batch and _times(base) in entry
    ]
    return max(found, default=None)


def describe(result: Json) -> str:
    """Lay the rows out as a table, with a warning where the spread is wide."""
    base = result.get("base", BASE["cpu"])
    header = ["", "batch", "images/s", "ratio", "spread", "sign agreement", "one image, ms: p50, p90, p99"]
    rows = []
    for row in result["rows"]:
        if "error" in row:
            rows.append([row["name"], row["error"]])
            continue
        latency = ", ".join(f"{value:.1f}" for value in row["latency_ms"].values())
        for entry in row["throughput"]:
            cells = [row["name"], str(entry["batch"]), f"{entry['images_per_second']:.1f}"]
            cells += [
                f"{entry[_times(base)]['median']:.2f}" if _times(base) in entry else "-",
                f"{entry['spread']:.1%}",
            ]
            wide = ["WIDE SPREAD"] if entry["spread"] > WIDE_SPREAD else []
            rows.append([*cells, _agreement(row, 4), latency, *wide])
    return "\n".join([f"{result['network']}; ratios are to {base}", *aligned(header, rows)])


def _agreement(row: Json, digits: int) -> str:
    return f"{row['sign_agreement']:.{digits}f}" if "sign_agreement" in row else "-"


def markdown(result: Json) -> list[str]:
    """Return throughput and latency of each engine and peer."""
    base = result.get("base", BASE["cpu"])
    header = [
        "batch",
        "",
        "images/s",
        f"x {_SPELLED.get(base, base)}: median (least to most)",
        f"sign agreement with {'fp32' if base == BASE['cpu'] else EXACT['cuda']}",
        "one image, ms: p50, p90, p99",
    ]
    rows = []
    for row in result["rows"]:
        latency = ", ".join(f"{value:.0f}" for value in row.get("latency_ms", {}).values())
        failed = [["", row["name"], "failed", "", "", ""]] if "error" in row else []
        rows += failed or [
            [str(entry["batch"]), row["name"], *_in_brief(entry, base), _agreement(row, 3), latency]
            for entry in row["throughput"]
        ]
    caption = f"{result['network']}, {result['features']:,d} features, weights {result['weights']}"
    if len(batches := {row[0] for row in rows if row[0]}) == 1:
        caption += f", batch {batches.pop()}"
        header, rows = header[1:], [row[1:] for row in rows]
    if processor := machine_of(result).get("processor"):
        caption += f"; {processor}"
    return [f"{caption}:", "", *markdown_table(header, rows)]


def _in_brief(entry: Json, base: str) -> tuple[str, str]:
    wide = f" (spread {entry['spread']:.0%})" if entry["spread"] > WIDE_SPREAD else ""
    ratio = of_median(entry[_times(base)]) if _times(base) in entry else "-"
    return f"{entry['images_per_second']:.1f}{wide}", ratio


GROUPS = {"aurevoir": "engines of aurevoir, by runtime", "peer": "others' quantizers and compilers"}


def plot(result: Json, path: Path) -> None:
    """Draw images/s at the largest batch and the latency of one image, a bar a row."""
    rows = sound(result["rows"])
    names = [row["name"] for row in rows]
    colours = [COLOURS[row["group"]] for row in rows]
    with figure(path, (11, 1.5 + 0.3 * len(rows)), (1, 2), sharey=True) as (whole, panels):
        speed, latency = panels[0]
        speed.barh(names, [row["throughput"][-1]["images_per_second"] for row in rows], color=colours)
        speed.set_xlabel(f"images/s, batches of {rows[0]['throughput'][-1]['batch']}")
        speed.invert_yaxis()
        middle = [row["latency_ms"]["p50"] for row in rows]
        late = [row["latency_ms"]["p99"] - row["latency_ms"]["p50"] for row in rows]
        latency.barh(names, middle, color=colours, xerr=[[0] * len(rows), late], ecolor="0.3", capsize=2)
        latency.set_xlabel("one image, ms: p50, whiskers to p99")
        for axes in panels[0]:
            axes.grid(False, axis="y")
        whole.suptitle(f"{result['network']}, weights {result['weights']}")
        legend_below(whole, {words: COLOURS[group] for group, words in GROUPS.items()})


BENCHMARK = Benchmark("engines", add_arguments, run, describe, markdown, plot, keys=("name", "throughput.batch"))
