"""Arguments shared by several commands."""

import argparse
from typing import Any

from ..errors import UsageError

_INT8_OPTIONS = ("method", "activation_dtype", "placement", "prefer_faster")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the truncated network and its int8 calibration."""
    group = parser.add_argument_group("network")
    group.add_argument("--cut", help="where to truncate the network (see `aurevoir cuts`)")
    group.add_argument(
        "--weights",
        default="default",
        help="default (the name's, downloaded once), random, or a file as training frameworks write it",
    )
    group.add_argument("--size", type=positive, help="input height and width (default: the backbone's)")
    group.add_argument("--resize", default="stretch", help="stretch (default), or crop to keep the aspect ratio")
    group.add_argument(
        "--normalization", default="imagenet", help="imagenet (default), or data: statistics of the images"
    )
    group.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calibration", metavar="DIR", help="calibration images; to build int8 also a calibration table"
    )
    group.add_argument(
        "--calibration-images", type=positive, default=128, metavar="N", help="how many images (default: 128)"
    )
    group.add_argument(
        "--method",
        default="percentile",
        help="for int8: percentile (default), entropy, mse, max, sign, or native, TensorRT 10's calibrator",
    )
    group.add_argument(
        "--placement",
        default="conv-inputs",
        help="for int8: tensors to quantize: conv-inputs (default), concat-inputs to add inputs of concatenations, or "
        "shared-concat to also share one scale within each group of concatenated tensors",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network and its engine."""
    add_network_options(parser)
    group = parser.add_argument_group("engine")
    group.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: fp32)")
    group.add_argument(
        "--runtime", default="auto", help="auto, openvino, onnxruntime, torch, tensorrt or tensorrt-rtx (default: auto)"
    )
    group.add_argument("--device", help="device of the engine, such as cpu or cuda (default: the runtime's first)")
    group.add_argument("--activation-dtype", default="auto", help="for int8: auto (default), int8 or uint8")
    group.add_argument(
        "--min-sign-agreement",
        type=fraction,
        metavar="T",
        help="minimum sign agreement with fp32: int8 keeps as few layers in floating point as needed; "
        "exit with code 4 if it is not reached",
    )
    group.add_argument(
        "--prefer-faster", action="store_true", help="build bf16 or fp16 instead if int8 is not faster on this machine"
    )


def network_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_network_options`, except the seed, by their Python names."""
    names = ("cut", "weights", "size", "resize", "normalization", "calibration", "calibration_images")
    return {name: getattr(args, name) for name in (*names, "method", "placement")}


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_engine_options`, except the seed, by their Python names.

    Raises
    ------
    UsageError
        If an int8 option is given for another precision.
    """
    if args.precision != "int8":
        refuse_unused(args, _INT8_OPTIONS, f"precision {args.precision}", add_engine_options)
    names = ("precision", "runtime", "device", "activation_dtype", "min_sign_agreement", "prefer_faster")
    return network_arguments(args) | {name: getattr(args, name) for name in names}


def refuse_unused(args: argparse.Namespace, names: Any, why: str, declare: Any) -> None:
    """Reject options that were given but have no effect; `declare` adds them to a parser.

    Raises
    ------
    UsageError
        If one of them does not have its default value.
    """
    parser = argparse.ArgumentParser()
    declare(parser)
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            raise UsageError(f"--{name.replace('_', '-')} has no effect with {why}; omit it")


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    """Add the option to rebuild a plan of another machine."""
    parser.add_argument(
        "--rebuild", action="store_true", help="rebuild the engine's plan if it is for another GPU or version"
    )


def positive(text: str) -> int:
    """Parse a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def fraction(text: str) -> float:
    """Parse a fraction between 0 and 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def skipped_lines(skipped: dict[str, str]) -> list[str]:
    """Format one line per skipped file."""
    return [f"skipped: {path} ({reason})" for path, reason in skipped.items()]
