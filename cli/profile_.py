"""``aurevoir profile``."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import positive
from .outputs import check_outputs, save
from .text import name as plain

if TYPE_CHECKING:
    from ..engine.engine import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("engine", metavar="ENGINE", help="an engine file")
    parser.add_argument("--batch", type=positive, default=1, help="images a call (default: 1)")
    parser.add_argument("--calls", type=positive, default=20, help="profiled calls (default: 20)")
    parser.add_argument("--device", help="device of the engine (default: the runtime's first)")
    parser.add_argument("--top", type=positive, default=20, metavar="N", help="layers that are printed (default: 20)")
    parser.add_argument("--trace", metavar="F.json", help="write a trace for chrome://tracing or ui.perfetto.dev")
    parser.add_argument("--plot", metavar="F.png", help="plot the slowest layers")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the layers of an engine on images of noise."""
    import numpy as np

    from ..engine.layer_times import plot_profile, profile_engine, write_trace
    from ..engine.load import load_engine

    outputs = {"trace": "a trace", "plot": "a figure"}
    check_outputs(args, outputs, (args.engine,))
    engine = load_engine(args.engine, args.device)
    images = np.random.default_rng(0).integers(0, 256, (args.batch, *engine.input_shape), dtype="uint8")
    found = profile_engine(engine, images, args.calls)
    result: dict[str, Any] = {**_about(engine, args.engine), **found.to_json(), "top": args.top}
    if args.trace:
        save(result, args.trace, lambda: write_trace(found, args.trace), outputs["trace"])
    if args.plot:
        save(result, args.plot, lambda: plot_profile(found, _title(result), args.plot), outputs["plot"])
    return result


def _about(engine: "Engine", path: str) -> dict[str, Any]:
    made = engine.manifest
    return {
        "engine": path,
        "backbone": made.backbone,
        "cut": made.cut,
        "precision": made.precision,
        "runtime": made.runtime,
        "device": engine.device,
    }


def _title(result: dict[str, Any]) -> str:
    return (
        f"{result['backbone']} to {result['cut']}, {result['precision']} on {result['runtime']} ({result['device']}), "
        f"batch {result['batch']}"
    )


def describe(result: dict[str, Any]) -> str:
    """Lay the slowest layers out as a table, with the shares by type and precision."""
    layers = sorted(result["layers"], key=lambda layer: -layer["milliseconds"])
    shown = layers[: result["top"]]
    rows = [
        [
            f"{layer['milliseconds']:9.3f}",
            f"{layer['share']:6.1%}",
            f"{layer['cumulative']:6.1%}",
            f"{plain(layer['precision']):9s}",
            f"{plain(layer['type']):14s}",
            _made_of(layer),
        ]
        for layer in shown
    ]
    header = f"{'ms':>9s}  {'share':>6s}  {'sum':>6s}  {'precision':9s}  {'type':14s}  layer"
    left = len(layers) - len(shown)
    more = [f"{left} more layers; --top N shows more, --json all"] if left else []
    return "\n".join(
        [
            plain(_title(result)),
            f"a call takes {result['call_milliseconds']:.2f} ms, its {len(layers)} layers "
            f"{result['layers_milliseconds']:.2f} ms when profiled, means of {result['calls']} calls",
            header,
            *("  ".join(row) for row in rows),
            *more,
            *(_shares(result, key) for key in ("type", "precision")),
        ]
    )


def _made_of(layer: dict[str, Any]) -> str:
    """Return a layer's name and, where it was fused, the operators that it computes."""
    fused = f" ({layer['operation']})" if " + " in layer["operation"] else ""
    return plain(layer["name"] + fused)


def _shares(result: dict[str, Any], key: str) -> str:
    return f"by {key}: " + ", ".join(f"{plain(name)} {share:.1%}" for name, share in result[f"by_{key}"].items())
