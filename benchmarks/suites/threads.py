"""Many threads on one engine: whether the outputs are those of one thread, and memory stays flat."""

import argparse
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...engine.engine import Engine
from ...progress import progress_bar
from ..contract import Benchmark, Json, Result, Row
from ..harness.datasets import procedural_images
from ..harness.engines import Engines, open_network
from ..harness.machine import resident_megabytes
from ..reporting.figures import draw_memory, figure

DISTINCT, CALIBRATED = 8, 32
"""Different batches, used over and over; and images to calibrate on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--backbone", default="densenet169", help="a torchvision name or ONNX file (densenet169)")
    parser.add_argument("--runtime", default="auto", help="(default: auto)")
    parser.add_argument("--precision", default="int8", help="(default: int8)")
    parser.add_argument("--threads", type=int, default=8, help="(default: 8)")
    parser.add_argument("--calls", type=int, default=2000, help="batches in all (default: 2000)")
    parser.add_argument("--batch", type=int, default=2, help="images a call (default: 2)")


def run(args: argparse.Namespace) -> Result:
    """Run every batch by one thread, then all of them over and over by many."""
    engine, batches = _prepare(args)
    engine(batches[0])
    start = time.perf_counter()
    expected = [engine(batch) for batch in batches]
    alone = len(batches) * args.batch / (time.perf_counter() - start)
    different, lock = [], threading.Lock()
    memory = [(0, resident_megabytes())]
    # Not the bar's count, which stays 0 where there is no terminal.
    finished = itertools.count(1)
    with progress_bar(total=args.calls, desc=f"{args.threads} threads") as bar:

        def call(number: int) -> None:
            features = engine(batches[number % DISTINCT])
            if not np.array_equal(features, expected[number % DISTINCT]):
                different.append(number)
            with lock:
                bar.update()
                done = next(finished)
                if done % max(1, args.calls // 100) == 0:
                    memory.append((done, resident_megabytes()))

        start = time.perf_counter()
        with ThreadPoolExecutor(args.threads) as pool:
            list(pool.map(call, range(args.calls)))
        together = args.calls * args.batch / (time.perf_counter() - start)
    warm = [megabytes for calls, megabytes in memory if calls >= args.calls // 10]
    rates = {1: alone, args.threads: together}
    return Result(
        "threads",
        [Row({"threads": threads, "images_per_second": rate}) for threads, rate in rates.items()],
        {"engine": repr(engine), "threads": args.threads, "calls": args.calls, "batch": args.batch},
        {
            "calls_with_other_outputs": len(different),
            "resident_megabytes": memory,
            "growth_megabytes": warm[-1] - warm[0],
        },
    )


def _prepare(args: argparse.Namespace) -> tuple[Engine, list[np.ndarray]]:
    backbone = open_network(args.backbone)
    images = procedural_images(max(CALIBRATED, DISTINCT * args.batch), backbone.size[0])
    engines = Engines.export(backbone, None, images)
    table = replace(engines, pixels=images[:CALIBRATED]).calibrate() if args.precision == "int8" else None
    engine = engines.build(args.precision, args.runtime, table=table)
    return engine, np.array_split(images[: DISTINCT * args.batch], DISTINCT)


def describe(result: Json) -> str:
    """Say whether outputs and memory held."""
    alone, together = (row["images_per_second"] for row in result["rows"])
    return (
        f"{result['engine']}\n{result['calls']} calls of {result['batch']} images by {result['threads']} threads: "
        f"{result['calls_with_other_outputs']} with other outputs than one thread's; {together:.1f} images/s "
        f"(one thread {alone:.1f})\nresident memory {result['resident_megabytes'][-1][1]:.0f} MB, "
        f"{result['growth_megabytes']:+.1f} MB over the last nine tenths of the calls"
    )


def markdown(result: Json) -> list[str]:
    """Return whether outputs and memory held."""
    return [
        f"{result['threads']} threads called one engine ({result['engine'].strip('<>')}) {result['calls']:,d} times: "
        f"{result['calls_with_other_outputs']} outputs were other than one thread's; resident memory "
        f"{result['resident_megabytes'][-1][1]:,.0f} MB, {result['growth_megabytes']:+.1f} MB over the last nine "
        "tenths of the calls."
    ]


def plot(result: Json, path: Path) -> None:
    """Draw resident memory over calls."""
    with figure(path, (7, 4)) as (_, panels):
        over = f"calls of {result['batch']} images by {result['threads']} threads"
        draw_memory(panels[0, 0], sorted(result["resident_megabytes"]), over)


BENCHMARK = Benchmark("threads", add_arguments, run, describe, markdown, plot, keys=("threads",))
