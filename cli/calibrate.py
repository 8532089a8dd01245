"""``aurevoir calibrate``."""

import argparse
from typing import Any

from .options import add_network_options, network_arguments
from .outputs import check_outputs, save
from .text import name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("backbone", help="a torchvision name, efficientnet_lite0 (or 1, 2), timm:NAME or an ONNX file")
    parser.add_argument("--out", required=True, metavar="F.json", help="the calibration table to write")
    parser.add_argument("--cache", metavar="F.cache", help="also write TensorRT's calibration cache")
    parser.add_argument("--onnx", metavar="F.onnx", help="also write the Q/DQ graph for TensorRT")
    parser.add_argument(
        "--body",
        default="fp32",
        help="float type of the Q/DQ graph: fp32, or fp16 for strongly typed TensorRT (default: fp32)",
    )
    parser.add_argument(
        "--runtime",
        default="auto",
        help="runtime to measure the int8 fidelity for: auto, openvino, onnxruntime, ... (default: auto)",
    )
    parser.add_argument("--plot", metavar="F.png", help="plot SQNR and sign agreement of every tensor")
    add_network_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate on most of the images and measure every quantized tensor on the held-out ones."""
    from dataclasses import asdict
    from math import isfinite

    from ..cache import user_cache
    from ..calibration.fidelity import plot_fidelity
    from ..calibration.trt_cache import write_cache
    from ..engine.assemble import check_body, quantized_graph
    from ..engine.build import EngineBuilder
    from ..engine.calibrate import find_overflow, tensor_fidelity
    from ..engine.runtimes import calibration_runtime
    from ..engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
    from ..errors import UsageError
    from ..kernels.stopwatch import Stopwatch
    from ..saving import write_atomically

    options = network_arguments(args)
    source = CalibrationSpec(
        data=options.pop("calibration"), images=options.pop("calibration_images"), method=options.pop("method")
    )
    placement = EngineSpec(placement=options.pop("placement")).placement
    if source.data is None or source.is_table:
        raise UsageError("no images to calibrate on; give a folder (--calibration DIR)")
    check_body(args.body)
    calibration_runtime(args.runtime)
    outputs = {
        "out": "a calibration table",
        "cache": "a calibration cache",
        "onnx": "an ONNX file",
        "plot": "a figure",
    }
    check_outputs(args, outputs, (args.backbone,))
    watch = Stopwatch(report=True)
    network = NetworkSpec(backbone=args.backbone, seed=args.seed, **options)
    builder = EngineBuilder(network, source, stages=watch, progress=True, cache=user_cache(report=True))
    exported, (used, held_out) = builder.exported, builder.sample
    assert used is not None
    if args.plot and held_out is None:
        raise UsageError(
            f"--plot needs 4 or more images to measure on, and there are {len(used)}; give more, or omit it"
        )
    table = builder.table(placement, smoke=True)
    result: dict[str, Any] = {"table": args.out, "cache": args.cache, "onnx": args.onnx}
    save(result, args.out, lambda: write_atomically(args.out, table.to_json().encode()), outputs["out"], "table")
    if args.cache:
        cache = write_cache(table.thresholds)
        save(result, args.cache, lambda: write_atomically(args.cache, cache), outputs["cache"], "cache")
    keep_float32: list[str] = []
    if args.onnx:
        keep_float32 = find_overflow(exported, used) if args.body == "fp16" else []
        graph = quantized_graph(exported, table, "int8", placement, args.body, keep_float32).SerializeToString()
        save(result, args.onnx, lambda: write_atomically(args.onnx, graph), outputs["onnx"], "onnx")
    result |= {"in_float32": keep_float32, "plot": None}
    measured = []
    if held_out is not None:
        measured = tensor_fidelity(exported, table, held_out, args.runtime, progress=True, placement=placement)
        if args.plot:
            result["plot"] = args.plot
            save(result, args.plot, lambda: plot_fidelity(measured, args.plot), outputs["plot"], "plot")
    return {
        **result,
        "method": args.method,
        "images": len(used),
        "seconds": watch.seconds["calibrate"],
        # The ratio of identical tensors is infinite, which JSON cannot represent.
        "tensors": [asdict(tensor) | {"sqnr": tensor.sqnr if isfinite(tensor.sqnr) else None} for tensor in measured],
        "sign_agreement": measured[-1].sign_agreement if measured else None,
    }


def describe(result: dict[str, Any]) -> str:
    """Format the tensors as a table, in graph order."""
    lines = [f"{'tensor':50s} {'threshold':>10s} {'SQNR dB':>8s} {'sign agreement':>15s}"]
    for tensor in result["tensors"]:
        threshold = "" if tensor["threshold"] is None else f"{tensor['threshold']:.4g}"
        ratio = "" if tensor["sqnr"] is None else f"{tensor['sqnr']:.2f}"
        lines.append(f"{name(tensor['name']):50s} {threshold:>10s} {ratio:>8s} {tensor['sign_agreement']:15.4f}")
    lines.append(
        f"{result['table'] or 'not saved'}: {result['method']}, {result['images']} images, {result['seconds']:.1f} s"
    )
    return "\n".join(lines)
