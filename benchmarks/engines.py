"""Throughput of engines by runtime and precision, beside ONNX Runtime fp32, in one run.

The network is the post's, DenseNet169 cut at denseblock4.denselayer12, with seeded random weights
whose batch-norm statistics are set from generated images; speed does not depend on the weights.
"""

import argparse
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ..engine.assemble import assemble
from ..engine.backbone import open_backbone
from ..engine.build import export_backbone
from ..engine.calibrate import calibrate
from ..engine.engine import Engine
from ..engine.runtimes import RUNTIMES, installed, runtime
from ..engine.timing import alternate, ratios
from ..images.procedural import PATTERNS, draw
from .machine import describe_machine

PEER = ("onnxruntime", "fp32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--batch", type=int, default=16, help="images a call (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each engine (default: 7)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time every runtime and precision that this machine runs."""
    backbone = open_backbone("densenet169", "random")
    images = _images(max(48, args.batch), backbone.size[0])
    exported = export_backbone(backbone, None, images[:48])
    table = calibrate(exported, images[:48], progress=True)
    engines = {
        (name, precision): assemble(exported, precision, name, table if precision == "int8" else None)
        for name in RUNTIMES
        if installed(name)
        for precision in runtime(name).precisions()
    }
    batch = images[: args.batch]
    seconds = alternate({"/".join(key): partial(_bits, engine, batch) for key, engine in engines.items()}, args.rounds)
    peer = seconds["/".join(PEER)]
    rows = [
        {
            "runtime": name,
            "precision": precision,
            "batch": args.batch,
            "images_per_second": args.batch / median(seconds[f"{name}/{precision}"]),
            "times_onnxruntime_fp32": ratios(seconds[f"{name}/{precision}"], peer),
        }
        for name, precision in engines
    ]
    return {"benchmark": "engines", "network": "densenet169 to denseblock4.denselayer12", "rows": rows} | {
        "machine": describe_machine()
    }


def _bits(engine: Engine, batch: np.ndarray) -> np.ndarray:
    return engine.bits(batch)


def _images(count: int, size: int) -> np.ndarray:
    patterns = list(PATTERNS.values())
    random = np.random.default_rng(0)
    return np.stack([draw(patterns[number % len(patterns)], size, random) for number in range(count)])


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table."""
    lines = [f"{'runtime':12s} {'precision':9s} {'images/s':>9s}   times ONNX Runtime fp32 (least, median, most)"]
    for row in result["rows"]:
        found = row["times_onnxruntime_fp32"]
        lines.append(
            f"{row['runtime']:12s} {row['precision']:9s} {row['images_per_second']:9.1f}   "
            f"{found['min']:.2f}  {found['median']:.2f}  {found['max']:.2f}"
        )
    return "\n".join(lines)
