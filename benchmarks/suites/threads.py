"""Many threads on one engine: whether the outputs are those of one thread, and memory stays flat."""

import argparse
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...engine.assemble import assemble
from ...engine.backbones import open_backbone
from ...engine.calibrate import calibrate
from ...engine.engine import Engine
from ...engine.float_graph import export_backbone
from ...engine.runtimes import choose_runtime
from ..harness.machine import describe_machine, resident_megabytes
from .engines import procedural_images

KEYS = ("threads",)

DISTINCT = 8
"""Different batches, over and over."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--backbone", default="densenet169", help="a torchvision name or ONNX file (densenet169)")
    parser.add_argument("--runtime", default="auto", help="(default: auto)")
    parser.add_argument("--precision", default="int8", help="(default: int8)")
    parser.add_argument("--threads", type=int, default=8, help="(default: 8)")
    parser.add_argument("--calls", type=int, default=2000, help="batches in all (default: 2000)")
    parser.add_argument("--batch", type=int, default=2, help="images a call (default: 2)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run every batch by one thread, then all of them over and over by many."""
    engine, batches = _prepare(args)
    engine(batches[0])
    start = time.perf_counter()
    expected = [engine(batch) for batch in batches]
    alone = len(batches) * args.batch / (time.perf_counter() - start)
    different, lock = [], threading.Lock()
    memory = [(0, resident_megabytes())]
    with tqdm(total=args.calls, desc=f"{args.threads} threads") as bar:

        def call(number: int) -> None:
            features = engine(batches[number % DISTINCT])
            if not np.array_equal(features, expected[number % DISTINCT]):
                different.append(number)
            with lock:
                bar.update()
                if bar.n % max(1, args.calls // 100) == 0:
                    memory.append((bar.n, resident_megabytes()))

        start = time.perf_counter()
        with ThreadPoolExecutor(args.threads) as pool:
            list(pool.map(call, range(args.calls)))
        together = args.calls * args.batch / (time.perf_counter() - start)
    warm = [megabytes for calls, megabytes in memory if calls >= args.calls // 10]
    return {
        "benchmark": "threads",
        "engine": repr(engine),
        "threads": args.threads,
        "calls": args.calls,
        "batch": args.batch,
        "rows": [{"threads": 1, "images_per_second": alone}, {"threads": args.threads, "images_per_second": together}],
        "calls_with_other_outputs": len(different),
        "resident_megabytes": memory,
        "growth_megabytes": warm[-1] - warm[0],
        "machine": describe_machine(),
    }


def _prepare(args: argparse.Namespace) -> tuple[Engine, list[np.ndarray]]:
    weights = "default" if args.backbone.endswith(".onnx") else "random"
    backbone = open_backbone(args.backbone, weights)
    images = procedural_images(max(32, DISTINCT * args.batch), backbone.size[0])
    exported = export_backbone(backbone, None, images)
    table = calibrate(exported, images[:32], progress=True) if args.precision == "int8" else None
    engine = assemble(exported, args.precision, choose_runtime(args.runtime, args.precision), table)
    return engine, np.array_split(images[: DISTINCT * args.batch], DISTINCT)


def describe(result: dict[str, Any]) -> str:
    """Say whether outputs and memory held."""
    alone, together = (row["images_per_second"] for row in result["rows"])
    return (
        f"{result['engine']}\n{result['calls']} calls of {result['batch']} images by {result['threads']} threads: "
        f"{result['calls_with_other_outputs']} with other outputs than one thread's; {together:.1f} images/s "
        f"(one thread {alone:.1f})\nresident memory {result['resident_megabytes'][-1][1]:.0f} MB, "
        f"{result['growth_megabytes']:+.1f} MB over the last nine tenths of the calls"
    )


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: whether outputs and memory held."""
    return [
        f"{result['threads']} threads called one engine ({result['engine'].strip('<>')}) {result['calls']:,d} times: "
        f"{result['calls_with_other_outputs']} outputs were other than one thread's; resident memory "
        f"{result['resident_megabytes'][-1][1]:,.0f} MB, {result['growth_megabytes']:+.1f} MB over the last nine "
        "tenths of the calls."
    ]


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw resident memory over calls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*sorted(result["resident_megabytes"]), strict=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"calls by {result['threads']} threads")
    axes.set_ylabel("resident memory (MB)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
