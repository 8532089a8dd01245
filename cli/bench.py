"""``aurevoir bench``."""

import argparse
from importlib import import_module
from typing import Any

BENCHMARKS = {
    "engines": "throughput and latency by runtime and precision, beside their peers",
    "calibration": "int8 by calibration method, beside today's quantizers",
    "accuracy": "accuracy by precision and projection over splits of real photographs",
    "patches": "multi-label photographs by patches at several scales, beside the whole image",
    "projection": "projections and the popcount Gram over their size, or accuracy over k, beside their peers",
    "ridge": "Gram, Cholesky and leave-one-out over their size, beside scikit-learn and torch",
    "threads": "one engine under many threads: outputs and memory",
    "startup": "how long each command takes to print its help",
    "table1": "accuracy, seconds by stage and megabytes by precision and runtime, as the post's Table 1",
    "depth": "accuracy and training time over the depth of the cut, beside backprop, as the post's Figures 5 and 6",
    "gpu": "everything that needs an NVIDIA GPU: tests, the post's size, the network, photographs to a classifier",
    "rivals": "optics, linear probes and backprop on the same network and splits, and retraining over the zoo",
}

TOOLS = {
    "report": "one HTML page of result files, with figures",
    "compare": "what changed between two result files, and which changes are more than chance",
    "readme": "write the README's results from the result files",
}


def add_arguments(parser: argparse.ArgumentParser, benchmark: str | None) -> None:
    """Declare the command's arguments; importing a benchmark is slow, so only the one at hand fills in its own."""
    names = parser.add_subparsers(dest="benchmark", metavar="NAME", required=True)
    for name, summary in {**BENCHMARKS, **TOOLS}.items():
        own = names.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        own.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
        if name == benchmark:
            module = _module(name)
            module.add_arguments(own)
            if name in BENCHMARKS:
                _add_outputs(own, hasattr(module, "plot"))


def _add_outputs(parser: argparse.ArgumentParser, plots: bool) -> None:
    parser.add_argument("--out", metavar="F.json", help="write the result")
    parser.add_argument("--report", metavar="F.html", help="write the result as a page; see `aurevoir bench report`")
    if plots:
        parser.add_argument("--plot", metavar="F.png", help="draw the result")


def _module(name: str) -> Any:
    return import_module(f"..benchmarks.{'reporting' if name in TOOLS else 'suites'}.{name}", __package__)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run one benchmark and write what was asked for."""
    import json
    from pathlib import Path

    from ..calibration.fidelity import require_plotting
    from ..files import write_atomically

    module, figure = _module(args.benchmark), getattr(args, "plot", None)
    if args.benchmark in TOOLS:
        done: dict[str, Any] = module.run(args)
        return done
    if figure or args.report:
        require_plotting()
    result: dict[str, Any] = module.run(args)
    if args.out:
        write_atomically(Path(args.out), (json.dumps(result, indent=1) + "\n").encode())
    if figure:
        module.plot(result, figure)
    if args.report:
        _module("report").write_report([(Path(args.out or args.benchmark), result)], args.report)
        result["report"] = args.report
    return result


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as the benchmark does."""
    text: str = _module(result["benchmark"]).describe(result)
    return text
