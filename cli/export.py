"""``aurevoir export``."""

import argparse
from typing import TYPE_CHECKING, Any

from .outputs import check_outputs, refuse_inside, save
from .text import name

if TYPE_CHECKING:
    from ..engine.delivery import Form
    from ..engine.engine import Engine

_KIND = "an exported ONNX file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("engine", metavar="PATH", help="an engine file or a model folder")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORM",
        help="onnx; openvino, its IR after the rewrites that OpenVINO needs; or plan, of TensorRT or TensorRT-RTX",
    )
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="for onnx the file to write, for openvino and plan the folder"
    )
    parser.add_argument("--outputs", nargs="+", metavar="NAME", help="the outputs to keep, such as bits (default: all)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the engine in one form."""
    from dataclasses import asdict

    from ..engine.delivery import check_form, check_target, deliver

    form = check_form(args.to)
    refuse_inside("--out", args.out, args.engine)
    if form == "onnx":
        check_outputs(args, {"out": _KIND}, (args.engine,))
    check_target(args.out, form)
    made = deliver(_engine(args.engine, form), form, args.outputs)
    result: dict[str, Any] = {"engine": args.engine, "to": form, "out": args.out}
    save(result, args.out, lambda: made.write(args.out), _KIND if form == "onnx" else None, "out")
    return {
        **result,
        "files": made.digests(args.out) if result["out"] else [],
        "inputs": [asdict(each) for each in made.inputs],
        "outputs": [asdict(each) for each in made.outputs],
        "metadata": made.metadata,
    }


def _engine(path: str, form: "Form") -> "Engine":
    from pathlib import Path

    from ..engine.delivery import runnable_on_openvino
    from ..engine.first_load import check_first_load
    from ..engine.load import read_engine

    if Path(path).is_dir():
        from ..transfer.classifier import load

        whole: Engine = load(path).to_engine()
        return whole
    engine = read_engine(path)
    if form == "openvino":
        # OpenVINO parses the graph in this process: one from elsewhere goes through another process first.
        check_first_load(runnable_on_openvino(engine), path)
    return engine


def describe(result: dict[str, Any]) -> str:
    """Say what was written, what the graph takes and gives, and what a program has to set."""
    made = result["metadata"]
    labels = f", {len(made['labels'])} labels" if made["labels"] else ""
    lines = [
        f"{result['out'] or 'not saved'}: {made['precision']} for {made['runtime']} {made['runtime_version']}{labels}"
    ]
    for end in ("inputs", "outputs"):
        for each in result[end]:
            shape = ", ".join(map(str, each["shape"]))
            lines.append(f"{end[:-1]:10s} {each['name']:14s} {each['dtype']} ({shape})")
    lines.append(f"images     {made['channel_order']}, resized by {made['resize']}")
    if result["to"] == "openvino":
        hint = made["openvino_precision"]
        lines.append(f"hint       INFERENCE_PRECISION_HINT={hint}" + (", else f32" if hint == "bf16" else ""))
    for each in result["files"]:
        lines.append(f"file       {name(each['path'])}, {each['bytes']:,d} bytes, {each['sha256']}")
    return "\n".join(lines)
