"""``aurevoir build``."""

import argparse
import time
from typing import Any

from .options import PLACEMENT_HELP, add_engine_options, engine_arguments, positive, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("backbone", help="a torchvision name or an ONNX file")
    parser.add_argument("--out", required=True, metavar="F", help="the engine file to write")
    parser.add_argument("--dialect", default="auto", help="of int8: auto, s8 (as TensorRT needs) or u8 (default: auto)")
    parser.add_argument("--placement", default="conv-inputs", help=PLACEMENT_HELP)
    parser.add_argument(
        "--min-sign-agreement",
        type=share,
        metavar="T",
        help="leave the fewest layers of int8 in floating point that reach T; exit with 4 if it is not reached",
    )
    parser.add_argument(
        "--prefer-faster", action="store_true", help="keep bf16 or fp16 where int8 is not faster on this machine"
    )
    parser.add_argument(
        "--target", metavar="SM", help="build for GPUs of this architecture, such as sm89, ahead of time"
    )
    parser.add_argument("--workspace", type=positive, metavar="BYTES", help="GPU memory that a TensorRT layer may take")
    parser.add_argument(
        "--batches",
        type=positive,
        nargs=3,
        default=(1, 16, 64),
        metavar="N",
        help="of plans: least, usual, most (1 16 64)",
    )
    parser.add_argument("--timing-cache", metavar="F", help="kernel timings that TensorRT's builds read and add to")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Build and write the engine."""
    from ..engine.build import build_engine

    start = time.perf_counter()
    engine = build_engine(
        args.backbone,
        out=args.out,
        seed=args.seed,
        dialect=args.dialect,
        placement=args.placement,
        prefer_faster=args.prefer_faster,
        target=args.target,
        workspace=args.workspace,
        timing_cache=args.timing_cache,
        batches=tuple(args.batches),
        min_sign_agreement=args.min_sign_agreement,
        progress=True,
        **engine_arguments(args),
    )
    made = engine.manifest
    return {
        "engine": args.out,
        "runtime": made.runtime,
        "precision": made.precision,
        "features": made.features,
        "megabytes": engine.megabytes,
        "dialect": made.dialect,
        "placement": made.placement,
        "in_float": list(made.in_float),
        "in_float32": list(made.in_float32),
        "target": made.target,
        "sign_agreement": made.sign_agreement,
        "relative_error": made.relative_error,
        "images_per_second": made.images_per_second,
        "seconds": time.perf_counter() - start,
    }


def describe(result: dict[str, Any]) -> str:
    """Say what was built."""
    if result["sign_agreement"] is None:
        fidelity = "fidelity not measured (no calibration images, or fp32)"
    else:
        fidelity = f"signs as fp32 {result['sign_agreement']:.4f}, relative error {result['relative_error']:.4f}"
    if result["in_float"]:
        fidelity += f", {len(result['in_float'])} tensors in floating point"
    lines = [
        f"{result['engine']}: {result['precision']} on {result['runtime']}, {result['features']:,d} features, "
        f"{result['megabytes']:.1f} MB, {fidelity}, {result['seconds']:.1f} s"
    ]
    return "\n".join([*lines, *_speed_lines(result["images_per_second"])])


def _speed_lines(speeds: dict[str, float]) -> list[str]:
    """Say what int8 gains on this machine, and what leaving layers in floating point costs."""
    if not speeds:
        return []
    int8 = speeds["int8"]
    rival = next(name for name in speeds if not name.startswith("int8"))
    verdict = f"{int8 / speeds[rival]:.2f} x {rival}" if int8 > speeds[rival] else f"NOT faster than {rival}"
    lines = [f"int8 on this machine: {int8:.1f} images/s, {verdict} ({speeds[rival]:.1f})"]
    if "int8 throughout" in speeds:
        whole = speeds["int8 throughout"]
        lines.append(f"the tensors in floating point cost {1 - int8 / whole:.0%} of {whole:.1f} images/s")
    return lines
