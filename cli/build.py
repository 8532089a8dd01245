"""``aurevoir build``."""

import argparse
import time
from typing import TYPE_CHECKING, Any

from .options import add_engine_options, engine_arguments, positive, refuse_unused
from .outputs import check_outputs, refuse_inside, save

if TYPE_CHECKING:
    from ..engine.engine import Engine

_KIND = "an engine file"
_OF_CLASSIFIERS = ("runtime", "precision", "device")
"""Options of an engine that one of a whole classifier has too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "backbone",
        help="a torchvision name, efficientnet_lite0 (or 1, 2), timm:NAME, an ONNX file, or a model folder: the whole "
        "classifier as one engine",
    )
    parser.add_argument("--out", required=True, metavar="F", help="the engine file to write")
    parser.add_argument(
        "--keep-speeds",
        action="store_true",
        help="keep the measured images/s in the file; two builds of the same inputs then differ",
    )
    add_engine_options(parser)
    group = parser.add_argument_group("TensorRT and TensorRT-RTX plan")
    group.add_argument("--target", metavar="SM", help="GPU architecture to build for ahead of time, such as sm89")
    group.add_argument("--workspace", type=positive, metavar="BYTES", help="maximum GPU workspace per layer")
    group.add_argument(
        "--batches",
        type=positive,
        nargs=3,
        default=(1, 16, 64),
        metavar=("MIN", "OPT", "MAX"),
        help="minimum, optimal and maximum batch size (default: 1 16 64)",
    )
    group.add_argument("--timing-cache", metavar="F", help="TensorRT timing cache to read and update")
    parser.set_defaults(precision=None)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Build and write the engine."""
    from pathlib import Path

    from ..engine.build import build_engine
    from ..errors import UsageError
    from ..kernels.stopwatch import Stopwatch

    smallest, usual, largest = args.batches
    if not smallest <= usual <= largest:
        raise UsageError(f"--batches {smallest} {usual} {largest} do not grow; give MIN OPT MAX, such as 1 16 64")
    check_outputs(args, {"out": _KIND, "timing_cache": "a timing cache"}, (args.backbone,))
    if (Path(args.backbone) / "model.json").is_file():
        return _whole(args)
    args.precision = args.precision or "fp32"
    if args.keep_speeds and (args.precision != "int8" or args.target):
        raise UsageError(
            "--keep-speeds has no effect: speeds are measured of int8 engines for this machine; leave it out"
        )
    watch = Stopwatch(report=True)
    engine = build_engine(
        args.backbone,
        seed=args.seed,
        target=args.target,
        workspace=args.workspace,
        timing_cache=args.timing_cache,
        batches=tuple(args.batches),
        progress=True,
        stages=watch,
        **engine_arguments(args),
    )
    made, seconds = engine.manifest, watch.total()
    quantized, products = engine.quantized_products()
    result: dict[str, Any] = {"engine": args.out}
    save(result, args.out, lambda: engine.save(args.out, args.keep_speeds), _KIND, "engine")
    return {
        **result,
        "runtime": made.runtime,
        "precision": made.precision,
        "features": made.features,
        "normalization": made.normalization,
        "megabytes": Path(args.out).stat().st_size / 1e6 if result["engine"] else engine.megabytes,
        "activation_dtype": made.activation_dtype,
        "dialect": made.dialect,
        "placement": made.placement,
        "in_float": list(made.in_float),
        "in_float32": list(made.in_float32),
        "quantized_layers": quantized,
        "layers": products,
        "target": made.target,
        "sign_agreement": made.sign_agreement,
        "relative_error": made.relative_error,
        "measured_on": None if made.sign_agreement is None else ("this processor" if args.target else made.runtime),
        "not_measured": _not_measured(engine, args),
        "images_per_second": engine.images_per_second,
        "images_per_second_by_turn": engine.images_per_second_by_turn,
        "engine_built": engine.built,
        "timings": {stage: seconds[stage] for stage in ("decode", "calibrate", "build", "total")},
        "seconds": seconds["total"],
    }


def _whole(args: argparse.Namespace) -> dict[str, Any]:
    """Build and write the engine of a whole classifier."""
    from pathlib import Path

    from ..kernels.stopwatch import Stopwatch
    from ..transfer.classifier import load

    # Of int8, for which every option of an engine has an effect.
    options = engine_arguments(argparse.Namespace(**vars(args) | {"precision": "int8"}))
    unused = [name for name in (*options, "seed", "keep_speeds") if name not in _OF_CLASSIFIERS]
    refuse_unused(args, unused, "a model folder, whose engine is built", add_arguments)
    refuse_inside("--out", args.out, args.backbone)
    classifier, watch = load(args.backbone), Stopwatch(report=True)
    with watch("build"):
        engine = classifier.to_engine(
            args.runtime,
            **{name: getattr(args, name) for name in (*_OF_CLASSIFIERS[1:], "target", "workspace", "timing_cache")},
            batches=tuple(args.batches),
            progress=True,
        )
    made, result = engine.manifest, {"engine": args.out}
    save(result, args.out, lambda: engine.save(args.out), _KIND, "engine")
    return {
        **result,
        "model": args.backbone,
        "runtime": made.runtime,
        "precision": made.precision,
        "projection": classifier.projection_,
        "outputs": list(engine.outputs),
        "classes": list(made.labels),
        "megabytes": Path(args.out).stat().st_size / 1e6 if result["engine"] else engine.megabytes,
        "target": made.target,
        "seconds": watch.total()["total"],
    }


def _not_measured(engine: "Engine", args: argparse.Namespace) -> str | None:
    """Return why the sign agreement was not measured, or None if it was or does not apply."""
    from ..engine.spec import CalibrationSpec

    made = engine.manifest
    if made.sign_agreement is not None or made.precision == "fp32":
        return None
    if args.target is not None and args.precision != "int8":
        return f"the engine runs on {args.target} GPUs, which this machine does not have"
    if args.calibration is None:
        return "no images were given (--calibration DIR)"
    if CalibrationSpec(data=args.calibration).is_table:
        return "a calibration table holds no images"
    return "it needs 4 or more images (--calibration DIR)"


def describe(result: dict[str, Any]) -> str:
    """Summarize the engine."""
    if "outputs" in result:
        return (
            f"{result['engine'] or 'not saved'}: {result['precision']} on {result['runtime']}, projection "
            f"{result['projection']}, {len(result['classes'])} classes, {result['megabytes']:.1f} MB\n"
            f"images -> {', '.join(result['outputs'])}"
        )
    spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["timings"].items())
    lines = [
        f"{result['engine'] or 'not saved'}: {result['precision']} on {result['runtime']}, "
        f"{result['features']:,d} features, {result['megabytes']:.1f} MB",
        f"normalization: {result['normalization']}",
    ]
    if result["precision"] == "int8":
        lines.append(f"int8: {result['quantized_layers']} of {result['layers']} convolutions and matrix products")
    if result["sign_agreement"] is not None:
        lines.append(
            f"sign agreement with fp32: {result['sign_agreement']:.1%}, relative error {result['relative_error']:.4f}"
            + (" (of its quantized graph, on this processor)" if result["measured_on"] == "this processor" else "")
        )
    elif result["not_measured"]:
        lines.append(f"sign agreement with fp32 was not measured: {result['not_measured']}")
    lines += speed_lines(result["images_per_second"], len(result["in_float"]), result["images_per_second_by_turn"])
    lines += built_lines(result["engine_built"])
    return "\n".join([*lines, f"seconds: {spent}"])


def built_lines(built: float | None) -> list[str]:
    """Say of an engine that was kept when it was built, in seconds since the epoch, and its figures measured."""
    if built is None:
        return []
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(built))
    return [f"the engine was kept by an earlier run: built and measured {day}"]


def speed_lines(speeds: dict[str, float], in_float: int, turns: dict[str, list[float]]) -> list[str]:
    """Report the speed of int8 on this machine, and the cost of keeping layers in floating point, with the spread."""
    if not speeds:
        return []
    peer = next(name for name in speeds if not name.startswith("int8"))
    lines = [f"int8 on this machine: {_rate('int8', speeds, turns)}, {_verdict(peer, speeds, turns)}"]
    if "int8 throughout" in speeds:
        int8, whole = speeds["int8"], speeds["int8 throughout"]
        verb = "falls" if int8 < whole else "changes"
        before = _rate("int8 throughout", speeds, turns)
        lines.append(
            f"throughput {verb} from {whole:.1f} to {int8:.1f} images/s ({int8 / whole - 1:+.0%}) because {in_float} "
            f"tensor{'s stay' if in_float != 1 else ' stays'} in float; before: {before}"
        )
    return lines


def _rate(name: str, speeds: dict[str, float], turns: dict[str, list[float]]) -> str:
    own = turns.get(name)
    spread = f"{min(own):.1f} to {max(own):.1f} in {len(own)} turns" if own else "its spread was not kept"
    return f"{speeds[name]:.1f} images/s ({spread})"


def _verdict(peer: str, speeds: dict[str, float], turns: dict[str, list[float]]) -> str:
    from ..engine.timing import is_faster

    ratio, rate = f"{speeds['int8'] / speeds[peer]:.2f} x", _rate(peer, speeds, turns)
    if peer not in turns:
        return f"{ratio} {peer}, {rate}" if speeds["int8"] > speeds[peer] else f"NOT faster than {peer}, {rate}"
    pairs = [ours / theirs for ours, theirs in zip(turns["int8"], turns[peer], strict=True)]
    ratio += f" ({min(pairs):.2f} to {max(pairs):.2f})"
    faster = is_faster(turns["int8"], turns[peer])
    if faster is None:
        return f"as fast as {peer} within the spread: {ratio} its {rate}"
    return f"{ratio} {peer}, {rate}" if faster else f"NOT faster than {peer}: {ratio} its {rate}"
