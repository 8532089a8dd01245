"""Arguments shared by several commands."""

import argparse
from math import isfinite
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UsageError
from .text import name

if TYPE_CHECKING:
    from ..cluster.spec import Cluster

MAX_COUNT, MAX_SIZE = 2**63 - 1, 16_384
_INT8_OPTIONS = ("method", "activation_dtype", "placement", "prefer_faster")

CUT = "where to truncate the network (see `aurevoir cuts`)"
DATA = (
    "a folder of class folders; a CSV or JSON-lines file of path and label, or metadata.csv beside its images; "
    "or WebDataset tar files: one, a folder of them, or 'shard-{000..009}.tar'; or the URL of any, as s3://bucket/photos"
)
MIN_ACCURACY = " (of several labels an image, the share of images with all of them right)"


def add_network_options(parser: argparse.ArgumentParser, cut: str | None = CUT) -> None:
    """Add the options of the truncated network and its int8 calibration; `cut` is the help of ``--cut``."""
    group = parser.add_argument_group("network")
    if cut is None:
        parser.set_defaults(cut=None)
    else:
        group.add_argument("--cut", help=cut)
    group.add_argument(
        "--weights",
        default="default",
        help="default (the name's, downloaded once or from a package), random, or a file as training frameworks write "
        "it",
    )
    group.add_argument("--size", type=pixels, help="input height and width (default: the backbone's)")
    group.add_argument("--resize", default="stretch", help="stretch (default), or crop to keep the aspect ratio")
    group.add_argument(
        "--pool-layers",
        action="store_true",
        help="average the channels of layers before the cut too, and try the kernel 'layers' of all",
    )
    group.add_argument(
        "--normalization",
        default="auto",
        help="auto (default: the network's own), imagenet, data (statistics of the images), none (pixels from 0 to "
        "255), unit (0 to 1), symmetric (-1 to 1), caffe, or numbers as MEANS/STDS, such as 0.5,0.5,0.5/0.5,0.5,0.5; "
        "with :bgr behind for networks that take BGR",
    )
    group.add_argument("--seed", type=seed, default=0, help="random seed (default: 0)")
    group.add_argument(
        "--no-cache", action="store_true", help="take no graph, table or engine from the cache, and keep none there"
    )
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calibration",
        metavar="DIR",
        help="calibration images, as a folder, a table of paths or tar files; to build int8 also a calibration table",
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


def add_engine_options(parser: argparse.ArgumentParser, cut: str = CUT) -> None:
    """Add the options of the network and its engine."""
    add_network_options(parser, cut)
    group = parser.add_argument_group("engine")
    group.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: fp32)")
    group.add_argument(
        "--runtime",
        default="auto",
        help="auto, openvino, onnxruntime, torch, triton, tensorrt or tensorrt-rtx (default: auto)",
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
        "--prefer-faster",
        action="store_true",
        help="build bf16 or fp16 instead if it is faster than int8 on this machine in every turn of their timing",
    )


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the cluster."""
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="embed images on a Ray cluster: auto (the one of this machine or of RAY_ADDRESS), local (started for this "
        "command, here) or HOST:PORT",
    )
    group.add_argument(
        "--workers", type=positive, metavar="N", help="processes that embed (default: as many as the cluster holds)"
    )
    group.add_argument(
        "--cpus-per-worker", type=positive, metavar="N", help="processors of each (default: up to 4, or a GPU's part)"
    )
    group.add_argument(
        "--gpus-per-worker", type=above_zero, metavar="G", help="GPUs of each, of an engine on GPUs (default: 1)"
    )
    group.add_argument(
        "--any-processor",
        action="store_true",
        help="take workers whose processors or versions give other bits too: the result depends on which computed what",
    )


_CLUSTER = ("workers", "cpus_per_worker", "gpus_per_worker", "any_processor")


def cluster_of(args: argparse.Namespace) -> "Cluster | None":
    """Return the cluster of `add_cluster_options`.

    Raises
    ------
    UsageError
        If its address is invalid, or an option of it is given without one.
    """
    if args.cluster is None:
        refuse_unused(args, _CLUSTER, "no cluster (--cluster)", add_cluster_options)
        return None
    from ..cluster.spec import Cluster

    return Cluster(args.cluster, **{name: getattr(args, name) for name in _CLUSTER})


def network_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_network_options`, except the seed, by their Python names."""
    names = ("cut", "weights", "size", "resize", "pool_layers", "normalization", "calibration", "calibration_images")
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
    for each in names:
        if getattr(args, each) != parser.get_default(each):
            raise UsageError(f"--{each.replace('_', '-')} has no effect with {why}; omit it")


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    """Add the option to rebuild a plan of another machine."""
    parser.add_argument(
        "--rebuild", action="store_true", help="rebuild the engine's plan if it is for another GPU or version"
    )


def whole(text: str) -> int:
    """Parse an integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None


def positive(text: str) -> int:
    """Parse a positive integer."""
    value = whole(text)
    if not 1 <= value <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{value} is {'less than 1' if value < 1 else f'more than {MAX_COUNT:,d}'}")
    return value


def pixels(text: str) -> int:
    """Parse a height and width of images."""
    value = positive(text)
    if value > MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{value} pixels are more than {MAX_SIZE:,d}")
    return value


def seed(text: str) -> int:
    """Parse a random seed, of 32 bits as NumPy and scikit-learn take it."""
    value = whole(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and {2**32 - 1}")
    return value


def finite(text: str) -> float:
    """Parse a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}") from None
    if not isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def above_zero(text: str) -> float:
    """Parse a finite number above 0."""
    value = finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def fraction(text: str) -> float:
    """Parse a fraction between 0 and 1."""
    value = finite(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def skipped_lines(skipped: dict[str, str]) -> list[str]:
    """Format one line per skipped file."""
    return [f"skipped: {name(path)} ({name(reason)})" for path, reason in skipped.items()]


def none_readable(files: int, skipped: dict[str, str]) -> DataError:
    """Return the error that no image can be read, with the reason of the first."""
    path, reason = next(iter(skipped.items()), (None, None))
    if path is None:
        return DataError("there is no image file to work on; check the paths")
    return DataError(f"none of the {files} files is a readable image; the first, {path}: {reason}")
