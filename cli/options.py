"""Arguments that several commands take."""

import argparse
from typing import Any

from ..errors import UsageError

_OF_INT8 = ("method", "activation_dtype", "placement")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which truncated network, and on which images int8 is calibrated."""
    group = parser.add_argument_group("network")
    group.add_argument("--cut", help="where the network ends (see `aurevoir cuts`)")
    group.add_argument("--weights", default="default", help="default, random, or a .pth or .safetensors file")
    group.add_argument("--size", type=positive, help="height and width of the input (default: the backbone's)")
    group.add_argument("--resize", default="stretch", help="stretch, or crop: keep proportions (default: stretch)")
    group.add_argument("--normalization", default="imagenet", help="imagenet, or data: the images' own statistics")
    group.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    group = parser.add_argument_group("calibration")
    group.add_argument("--calibration", metavar="DIR", help="images, or a calibration table, for int8 thresholds")
    group.add_argument("--calibration-images", type=positive, default=128, metavar="N", help="how many (default: 128)")
    group.add_argument(
        "--method",
        default="percentile",
        help="percentile (default), entropy, mse, max, sign or native (TensorRT 10's own, on its GPU)",
    )
    group.add_argument(
        "--placement",
        default="conv-inputs",
        help="what int8 quantizes: conv-inputs (default), concat-inputs: also what concatenations join, or "
        "shared-concat: that, with one scale for each group of concatenated tensors",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which engine to build of the network."""
    add_network_options(parser)
    group = parser.add_argument_group("engine")
    group.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: fp32)")
    group.add_argument(
        "--runtime", default="auto", help="auto, openvino, onnxruntime, torch, tensorrt or tensorrt-rtx (default: auto)"
    )
    group.add_argument("--device", help="where the engine runs, such as cpu or cuda (default: the runtime's first)")
    group.add_argument("--activation-dtype", default="auto", help="auto, int8 (as TensorRT needs) or uint8")
    group.add_argument(
        "--min-sign-agreement",
        type=share,
        metavar="T",
        help="leave the fewest layers of int8 in floating point for a sign agreement with fp32 of T; "
        "exit with 4 if it is not reached",
    )
    group.add_argument(
        "--prefer-faster", action="store_true", help="keep bf16 or fp16 where int8 is not faster on this machine"
    )


def network_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_network_options`, the seed left out, by the names that Python gives them."""
    names = ("cut", "weights", "size", "resize", "normalization", "calibration", "calibration_images")
    return {name: getattr(args, name) for name in (*names, "method", "placement")}


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_engine_options`, the seed left out, by the names that Python gives them.

    Raises
    ------
    UsageError
        If one of int8 is given for another precision.
    """
    if args.precision != "int8":
        refuse_unused(args, _OF_INT8, f"precision {args.precision}", add_engine_options)
    names = ("precision", "runtime", "device", "activation_dtype", "min_sign_agreement", "prefer_faster")
    return network_arguments(args) | {name: getattr(args, name) for name in names}


def refuse_unused(args: argparse.Namespace, names: Any, why: str, declare: Any) -> None:
    """Refuse options, among those that `declare` adds to a parser, that are given and have no effect.

    Raises
    ------
    UsageError
        If one of them is not at its default.
    """
    parser = argparse.ArgumentParser()
    declare(parser)
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            raise UsageError(f"--{name.replace('_', '-')} has no effect with {why}; leave it out")


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
    """Say which files were skipped, for people."""
    return [f"skipped: {path} ({reason})" for path, reason in skipped.items()]
