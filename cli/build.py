"""``aurevoir build``."""

import argparse
import time
from typing import Any

from .options import add_engine_options, engine_arguments, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("backbone", help="a torchvision name or an ONNX file")
    parser.add_argument("--out", required=True, metavar="F", help="the engine file to write")
    parser.add_argument(
        "--dialect", default="auto", help="of int8: auto, s8 (as TensorRT needs), mixed or u8 (default: auto)"
    )
    parser.add_argument(
        "--min-sign-agreement",
        type=share,
        metavar="T",
        help="leave the fewest layers of int8 in floating point that reach T; exit with 4 if it is not reached",
    )
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
        "in_float": list(made.in_float),
        "sign_agreement": made.sign_agreement,
        "relative_error": made.relative_error,
        "seconds": time.perf_counter() - start,
    }


def describe(result: dict[str, Any]) -> str:
    """Say what was built."""
    if result["sign_agreement"] is None:
        fidelity = "fidelity not measured (no calibration images, or fp32)"
    else:
        fidelity = f"signs as fp32 {result['sign_agreement']:.4f}, relative error {result['relative_error']:.4f}"
    if result["in_float"]:
        fidelity += f", {len(result['in_float'])} convolutions in floating point"
    return (
        f"{result['engine']}: {result['precision']} on {result['runtime']}, {result['features']:,d} features, "
        f"{result['megabytes']:.1f} MB, {fidelity}, {result['seconds']:.1f} s"
    )
