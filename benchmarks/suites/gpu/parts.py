"""What the GPU program measures: each part yields its rows as they come, and runs on the CPU in small as well."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from ....calibration.graph.edit import prune
from ....calibration.graph.float16 import to_float16
from ....calibration.placement import Placement
from ....calibration.quantize import quantize
from ....engine.calibrate import calibrate
from ....engine.float_graph import Exported
from ....engine.sample import sample_images
from ....kernels.bits import agreement
from ...contract import Row
from ..ridge import full
from ..ridge.gpu import measure_on_gpu
from .data import PHOTOGRAPHS, posts_network
from .post import measure_post
from .projection import measure_projection

Rows = Iterator[Row]

TESTS = Path(__file__).parents[3] / "tests"
"""In a checkout."""

_WORKERS = 8
_LEAST_SECONDS = 0.3
_SIGNS_MEASURED_ON = 64
_CALIBRATED_ON = 128
_COPIED_BYTES = 1 << 30
_FUSED: dict[str, Placement | None] = {
    "fused int8": "conv-inputs",
    "fused int8, shared scales": "shared-concat",
    "fused fp16": None,
}
_ENGINES = (("fp32", "torch"), ("bf16", "torch"), ("fp16", "torch"), ("fp16", "triton"), ("int8", "triton"))
_KINDS = ("fp32", "tf32", "fp16", "bf16")


def check_kernels(args: argparse.Namespace) -> Rows:
    """Run the tests that need a GPU, in parallel where pytest-xdist is here; an installed package has none."""
    files = [path for path in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    if not files:
        yield Row(
            {"name": "tests", "summary": f"not run: no checkout of the repository, whose tests would be in {TESTS}"}
        )
        return
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *map(str, files)]
    command += ["-n", str(_WORKERS)] if find_spec("xdist") else []
    # Each worker's libraries would start a thread for every core.
    threads = str(max(1, (os.cpu_count() or 1) // _WORKERS))
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=TESTS.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines() or [""]
    summary = lines[-1].strip("= ")
    row = Row({"name": "tests", "seconds": time.perf_counter() - start, "summary": summary})
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if done.returncode or "passed" not in summary:
        row.error = "; ".join(failed) or summary
    yield row


def measure_ridge(args: argparse.Namespace) -> Rows:
    """Measure the post's full size behind the network: every projection, searched and with every alpha."""
    n, m, k = args.full_size
    for row in measure_on_gpu(full.RUNS["cuda"], (n, m, k), args.memory, args.device):
        name = row["name"] if row["part"] == "solver" else f"{row.get('projection', 'check')} {row.get('search', '')}"
        row.note(name=name.strip())
        yield row


def measure_network(args: argparse.Namespace) -> Rows:
    """Time the network on images that lie on the GPU, op by op and as a CUDA graph, by precision and batch."""
    exported, pixels = _network(args)
    reference = None
    for kind in _KINDS:
        whole = Row({"name": kind})
        with whole.attempt():
            network = _loaded(exported, kind, args.device)
            with _exactly(kind == "tf32"):
                signs = network(pixels[:_SIGNS_MEASURED_ON])[0].cpu().numpy()
        if whole.error:
            yield whole
            continue
        reference = signs if reference is None else reference
        kept = agreement(signs, reference, exported.features)
        for batch in args.batches:
            row = Row({"name": kind, "batch": batch, "sign_agreement": kept})
            with row.attempt():
                row.note(**_speeds(network, pixels[:batch], kind == "tf32"))
            yield row


def measure_fused(args: argparse.Namespace) -> Rows:
    """Time the network as fused steps, and say what part of a second their least memory traffic would take."""
    import torch

    from ....engine.runtimes.fused.network import FusedNetwork
    from ....engine.runtimes.fused.steps import traffic

    if args.device == "cpu":
        yield Row({"name": "fused"}, "its kernels need a GPU")
        return
    copy = Row({"name": "copy"})
    with copy.attempt():
        copy.note(gigabytes_per_second=_copied(args.device))
    yield copy
    exported, pixels = _network(args)
    photographs = sample_images(args.data / PHOTOGRAPHS, exported.size, _CALIBRATED_ON)
    shown = torch.from_numpy(photographs[:_SIGNS_MEASURED_ON]).to(args.device)
    with _exactly(False):
        reference = _loaded(exported, "fp32", args.device)(shown)[0].cpu().numpy()
    for name, placement in _FUSED.items():
        whole = Row({"name": name})
        with whole.attempt():
            graph = exported.graph if placement is None else _quantized(exported, photographs, placement)
            network = FusedNetwork(prune(graph, ["bits"])).to(args.device)
            started = time.perf_counter()
            with _exactly(False):
                network.tune(pixels, args.batches)
                found = dict(zip(network.outputs, network(shown), strict=True))["bits"].cpu().numpy()
            whole.note(tuned_seconds=time.perf_counter() - started)
            whole.note(sign_agreement=agreement(found, reference, exported.features))
        yield whole
        for batch in () if whole.error else args.batches:
            row = Row({"name": name, "batch": batch})
            with row.attempt():
                row.note(**_speeds(network, pixels[:batch], False))
                row.note(gigabytes=sum(moved for _, moved in traffic(network.plan, batch)) / 1e9)
            yield row


def _copied(device: str) -> float:
    """Return how many gigabytes a second the GPU's memory reads and writes."""
    import torch

    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _seconds(partial(target.copy_, source), device) / 1e9


def _quantized(exported: Exported, photographs: np.ndarray, placement: Placement) -> onnx.ModelProto:
    table = calibrate(exported, photographs, placement=placement)
    return quantize(exported.graph, table.thresholds, table.means, "int8", placement, peaks=table.peaks)


def measure_tuned(args: argparse.Namespace) -> Rows:
    """Time what torch.compile is worth, and how long it takes to begin."""
    import torch

    exported, pixels = _network(args)
    batch = max(args.batches)
    row = Row({"name": "fp16, torch.compile", "batch": batch})
    with row.attempt(), _exactly(False):
        run = partial(torch.compile(_loaded(exported, "fp16", args.device), mode="reduce-overhead"), pixels[:batch])
        row.note(first_seconds=_once(run, args.device))
        row.note(images_per_second=batch / _seconds(run, args.device))
    yield row


def measure_engine(args: argparse.Namespace) -> Rows:
    """Time engines on images in host memory, as a user has them: bits in, copies included."""
    engines, count = posts_network(args.data), args.images
    size = engines.exported.size
    engines = replace(engines, pixels=sample_images(args.data / PHOTOGRAPHS, size, _CALIBRATED_ON))
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype="uint8")
    for precision, runtime in _ENGINES:
        row = Row({"name": f"engine {precision}, {runtime}, host memory", "images": count})
        with row.attempt():
            engine = engines.build(precision, runtime, args.device)
            row.note(first_seconds=_once(partial(engine.bits, pixels[:1]), "cpu"))
            engine.bits(pixels)
            row.note(images_per_second=count / _once(partial(engine.bits, pixels), "cpu"))
            row.note(one_image_ms=1e3 * _seconds(partial(engine.bits, pixels[:1]), "cpu"))
        yield row


def measure_table1(args: argparse.Namespace) -> Rows:
    """Train on photographs from files to a classifier, engines and ridge on the GPU."""
    from .. import table1

    parser = argparse.ArgumentParser()
    table1.add_arguments(parser)
    for network in sorted(args.data.glob("*.onnx")):
        options = ["--data", str(args.data / PHOTOGRAPHS), "--backbone", str(network), "--device", args.device]
        runtime = "torch" if args.device == "cpu" else "triton"
        result = table1.run(parser.parse_args([*options, "--runtime", runtime, "--no-post"]))
        for row in result.rows:
            row.note(name=f"{network.stem}, {row['name']}", train_images=result.settings["train_images"])
            yield row


PARTS: dict[str, tuple[Callable[[argparse.Namespace], Rows], int]] = {
    "network": (measure_network, 60),
    "fused": (measure_fused, 240),
    "tuned": (measure_tuned, 110),
    "engine": (measure_engine, 150),
    "table1": (measure_table1, 200),
    "projection": (measure_projection, 30),
    "post": (measure_post, 200),
    "ridge": (measure_ridge, 80),
    "tests": (check_kernels, 130),
}
"""What is measured, in this order, and the seconds after which each is stopped."""


def _network(args: argparse.Namespace) -> tuple[Exported, Any]:
    """Return the network as its float graph, and random images on the device, enough for the largest batch."""
    import torch

    exported = posts_network(args.data).exported
    count = max(_SIGNS_MEASURED_ON, *args.batches)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *exported.size, 3), dtype=torch.uint8, generator=generator)
    return exported, pixels.to(args.device)


def _loaded(exported: Exported, kind: str, device: str) -> Any:
    """Return the network that computes bits, as the torch runtime loads it."""
    import torch

    from ....engine.runtimes.torch_graph import TorchGraph

    graph = prune(to_float16(exported.graph) if kind == "fp16" else exported.graph, ["bits"])
    dtype = {"fp32": torch.float32, "tf32": torch.float32, "fp16": None, "bf16": torch.bfloat16}[kind]
    return torch.no_grad()(TorchGraph(graph, dtype).to(device).to(memory_format=torch.channels_last))


@contextmanager
def _exactly(tf32: bool) -> Iterator[None]:
    import torch

    from ....engine.runtimes.torch_run import exact_float32

    with exact_float32():
        if tf32:
            torch.backends.cudnn.allow_tf32 = True
        yield


def _speeds(network: Any, images: Any, tf32: bool) -> dict[str, float]:
    import torch

    device = images.device.type
    with _exactly(tf32):
        found = {"first_seconds": _once(partial(network, images), device)}
        found["images_per_second_eager"] = len(images) / _seconds(partial(network, images), device)
        if device == "cpu":
            return found
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call, unused-ignore]
        with torch.cuda.stream(stream):
            network(images)
        with torch.cuda.graph(graph, stream=stream):
            network(images)
    found["images_per_second"] = len(images) / _seconds(graph.replay, device)
    return found


def _seconds(run: Callable[[], Any], device: str) -> float:
    """Return the median seconds of a call, the device waited for."""
    run()
    _wait(device)
    times: list[float] = []
    while len(times) < 5 or sum(times) < _LEAST_SECONDS:
        times.append(_once(run, device))
    return median(times)


def _once(run: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call, the device waited for."""
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def parts_of(names: Sequence[str]) -> dict[str, tuple[Callable[[argparse.Namespace], Rows], int]]:
    """Return the parts of these names, all where there are none."""
    return {name: part for name, part in PARTS.items() if not names or name in names}
