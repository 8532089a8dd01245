"""``aurevoir sweep``."""

import argparse
from itertools import groupby
from pathlib import Path
from typing import Any

from .options import DATA, add_network_options, network_arguments, positive, refuse_unused, skipped_lines
from .outputs import check_outputs, save
from .text import name

PRECISIONS = ["fp32", "int8"]
CUTS = 6
FIGURE = "a figure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "Accuracies are leave-one-out on a stratified sample of at most 2,000 images. Each backbone and precision runs "
        "every image of it once, for all cuts; images/s are those of an engine cut there, timed in turn."
    )
    parser.add_argument("data", help=DATA)
    parser.add_argument(
        "--backbone", nargs="+", default=["densenet169"], help="torchvision names, timm:NAME or ONNX files"
    )
    parser.add_argument(
        "--precision", nargs="+", default=PRECISIONS, help="some of fp32, fp16, bf16 and int8 (default: fp32 int8)"
    )
    parser.add_argument(
        "--cuts", type=positive, default=CUTS, metavar="N", help=f"cuts of each backbone at most (default: {CUTS})"
    )
    parser.add_argument("--runtime", default="auto", help="runtime of the engines (default: auto)")
    parser.add_argument("--device", help="device of the engines, such as cpu or cuda (default: the runtime's first)")
    parser.add_argument("--out", metavar="FIG.png", help="draw accuracy against images/s into this file")
    add_network_options(parser, cut=None)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare every cut in every precision."""
    from dataclasses import asdict

    from ..engine.build import EngineBuilder
    from ..engine.cut_candidates import cut_candidates
    from ..engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
    from ..errors import UsageError
    from ..images.labelled import labelled_images
    from ..kernels.stopwatch import Stopwatch
    from ..transfer.cut_sweep import sweep_cuts

    check_outputs(args, {"out": FIGURE}, args.backbone)
    for option in ("backbone", "precision"):
        given = getattr(args, option)
        if len(set(given)) < len(given):
            raise UsageError(f"--{option} {' '.join(given)} names one twice; give each once")
    if args.cuts < 2:
        raise UsageError(f"--cuts {args.cuts} compares nothing; give 2 or more")
    if "int8" not in args.precision:
        refuse_unused(args, ("method", "placement"), f"precision {' and '.join(args.precision)}", add_arguments)
    own = network_arguments(args)
    calibration = CalibrationSpec(
        data=own.pop("calibration"), images=own.pop("calibration_images"), method=own.pop("method")
    )
    placement = own.pop("placement")
    specs = [
        EngineSpec(precision=each, runtime=args.runtime, device=args.device, placement=placement)
        for each in args.precision
    ]
    networks = [NetworkSpec(backbone=each, seed=args.seed, **own) for each in args.backbone]
    data, watch = labelled_images(args.data), Stopwatch(report=True)
    for network in networks[1:]:
        # What is wrong with the last backbone is said before the first is measured.
        cut_candidates(EngineBuilder(network, calibration).backbone, args.cuts)
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    images = 0
    for network in networks:
        found, images, unread = sweep_cuts(data, network, calibration, specs, args.cuts, watch=watch, progress=True)
        rows += [asdict(each) for each in found]
        skipped |= unread
    result = {
        "images": images,
        "of": len(data.paths),
        "classes": data.names,
        "rows": rows,
        "skipped": skipped,
        "timings": watch.total(),
        "out": args.out,
    }
    if args.out:
        save(result, args.out, lambda: draw(result, args.out), FIGURE, "out")
    return result


def describe(result: dict[str, Any]) -> str:
    """Lay the cuts out as a table."""
    from ..benchmarks.reporting.text import aligned

    kernels = list(dict.fromkeys(kernel for row in result["rows"] for kernel in row["loo_accuracy_of"]))
    header = ["backbone", "precision", "cut", "features", "GMACs", *kernels, "images/s", "MB"]
    lines = [
        [
            name(row["backbone"]),
            row["precision"],
            name(row["cut"]),
            f"{row['features']:,d}",
            f"{row['macs'] / 1e9:.3f}",
            *(_score(row, kernel) for kernel in kernels),
            f"{row['images_per_second']:.0f}",
            f"{row['megabytes']:.1f}",
        ]
        for row in result["rows"]
    ]
    spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["timings"].items())
    best = max(result["rows"], key=lambda row: (row["loo_accuracy"], row["images_per_second"]))
    layers = " --pool-layers" if best["projection"] == "layers" else ""
    return "\n".join(
        [
            *skipped_lines(result["skipped"]),
            f"leave-one-out accuracy by kernel on {result['images']:,d} of {result['of']:,d} images of "
            f"{len(result['classes'])} classes:",
            *aligned(header, lines),
            f"best: {name(best['backbone'])} {best['precision']} at {name(best['cut'])} with {best['projection']}, "
            f"{best['loo_accuracy']:.4f}, the best of {len(lines)}: "
            f"test it with `aurevoir fit --precision {best['precision']} --cut {name(best['cut'])}{layers}` and the "
            "backbone and the other options that were given",
            f"seconds: {spent}",
            *([f"figure: {result['out']}"] if result["out"] else []),
        ]
    )


def _score(row: dict[str, Any], kernel: str) -> str:
    found = row["loo_accuracy_of"].get(kernel)
    return "-" if found is None else f"{found:.4f}"


def draw(result: dict[str, Any], path: str) -> None:
    """Draw accuracy against images/s, a line a backbone and precision, with areas of the engine files' sizes."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from ..benchmarks.reporting.figures import MARKERS, figure

    rows = result["rows"]
    largest = max(row["megabytes"] for row in rows)
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    with figure(path, (9, 5.5)) as (whole, panels):
        axes = panels[0][0]
        lines = groupby(rows, key=lambda row: (row["backbone"], row["precision"]))
        for index, ((backbone, precision), group) in enumerate(lines):
            own = list(group)
            speeds, scores = ([row[key] for row in own] for key in ("images_per_second", "loo_accuracy"))
            (line,) = axes.plot(speeds, scores, "-", linewidth=1)
            axes.scatter(
                speeds,
                scores,
                [20 + 280 * row["megabytes"] / largest for row in own],
                color=line.get_color(),
                marker=MARKERS[backbones.index(backbone) % len(MARKERS)],
                alpha=0.7,
                label=f"{Path(backbone).stem} {precision}",
            )
            for row in own[:: max(1, len(own) - 1)]:
                axes.annotate(
                    row["cut"],
                    (row["images_per_second"], row["loo_accuracy"]),
                    xytext=(6, -10 if index % 2 else 6),
                    textcoords="offset points",
                    fontsize=7,
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.12, y=0.08)
        axes.set_xlabel("images/s of an engine cut there")
        axes.set_ylabel("leave-one-out accuracy, best kernel")
        for handle in axes.legend(fontsize=8).legend_handles:
            handle.set_sizes([40])
        whole.suptitle(
            f"{result['images']:,d} images of {len(result['classes'])} classes; area: engine file, to {largest:.1f} MB",
            fontsize=10,
        )
