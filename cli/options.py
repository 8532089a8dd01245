"""Arguments that several commands take."""

import argparse
from typing import Any

PLACEMENT_HELP = (
    "what int8 quantizes: conv-inputs (default), concat-inputs: what concatenations join too, or shared-concat: "
    "with one scale for all that meets"
)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which engine to build."""
    group = parser.add_argument_group("engine")
    group.add_argument("--cut", help="where the network ends (see `aurevoir cuts`)")
    group.add_argument("--weights", default="default", help="default, random, or a .pth or .safetensors file")
    group.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: fp32)")
    group.add_argument(
        "--runtime", default="auto", help="auto, openvino, onnxruntime, torch, tensorrt or tensorrt-rtx (default: auto)"
    )
    group.add_argument("--calibration", metavar="DIR", help="images, or a table, for int8 thresholds")
    group.add_argument("--calibration-images", type=positive, default=128, metavar="N", help="how many (default: 128)")
    group.add_argument(
        "--method",
        default="percentile",
        help="percentile (default), entropy, mse, max, sign or native (TensorRT 10's own, on its GPU)",
    )
    group.add_argument("--normalization", default="imagenet", help="imagenet, or data: the images' own statistics")
    group.add_argument("--size", type=positive, help="height and width of the input (default: the backbone's)")
    group.add_argument("--resize", default="stretch", help="stretch, or crop: keep proportions (default: stretch)")
    group.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_engine_options` by the names that Python gives them."""
    names = (
        "cut",
        "weights",
        "precision",
        "runtime",
        "calibration",
        "calibration_images",
        "method",
        "normalization",
        "size",
        "resize",
    )
    return {name: getattr(args, name) for name in names}


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    """Add what says how to meet a plan of another machine."""
    parser.add_argument(
        "--rebuild", action="store_true", help="where the engine's plan is for another GPU or version, build it anew"
    )


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def share(text: str) -> float:
    """Read a share between 0 and 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def skipped_lines(skipped: dict[str, str]) -> list[str]:
    """Say which files were set aside, for people."""
    return [f"set aside: {path}: {reason}" for path, reason in skipped.items()]
