"""``aurevoir bench``."""

import argparse
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmarks import registry
from ..benchmarks.registry import SUITES
from ..benchmarks.reporting import REPORTS
from .options import finite, positive, seed
from .outputs import KINDS, check_outputs, noted, save

if TYPE_CHECKING:
    from ..benchmarks.contract import Benchmark

_PAGES = "a report or a figure"


def add_arguments(parser: argparse.ArgumentParser, benchmark: str | None) -> None:
    """Declare the command's arguments; importing a benchmark is slow, so only `benchmark` adds its own."""
    names = parser.add_subparsers(dest="benchmark", metavar="NAME", required=True)
    for name, summary in {**SUITES, **REPORTS}.items():
        own = names.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        own.set_defaults(parser=own)
        # Given here or ahead of the name: without a default of its own it leaves that one.
        own.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
        own.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help="show the builder's log")
        if name == benchmark:
            chosen = load(name)
            chosen.add_arguments(own)
            _bound_numbers(own, own_checks=name in ("depth", "gpu"))
            if name in SUITES:
                _add_outputs(own, chosen.plot is not None)


def _bound_numbers(parser: argparse.ArgumentParser, own_checks: bool) -> None:
    """Refuse what no benchmark has a use for: integers below 1, unless it checks them itself, and infinite numbers."""
    for action in parser._actions:
        if action.type is int and not own_checks:
            action.type = seed if action.dest == "seed" else positive
        elif action.type is float:
            action.type = finite


def load(name: str) -> "Benchmark":
    """Import a benchmark suite or a report."""
    if name not in REPORTS:
        return registry.load(name)
    report: Benchmark = import_module(f"..benchmarks.reporting.{name}", __package__).BENCHMARK
    return report


def _add_outputs(parser: argparse.ArgumentParser, plots: bool) -> None:
    parser.add_argument("--out", metavar="F.json", help="write the result as JSON")
    parser.add_argument("--report", metavar="F.html", help="write the result as HTML; see `aurevoir bench report`")
    if plots:
        parser.add_argument("--plot", metavar="F.png", help="plot the result")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run one benchmark and write the requested outputs."""
    from ..benchmarks.contract import write_result
    from ..saving import replacing_only, require_file_target

    chosen = load(args.benchmark)
    reports = args.benchmark in REPORTS
    outputs = {"out": "a report" if reports else "a result file", "report": "a report", "plot": "a figure"}
    check_outputs(args, outputs, [*getattr(args, "results", []), *getattr(args, "files", [])])
    for folder in filter(None, (getattr(args, name, None) for name in ("figures", "keep"))):
        require_file_target(Path(folder, "file"))
    if reports:
        with ExitStack() as stack:
            if args.benchmark == "report":
                stack.enter_context(noted(args.out))
                stack.enter_context(replacing_only(KINDS[_PAGES]))
            return chosen.run(args).to_json()
    figure = getattr(args, "plot", None)
    if figure or args.report:
        from ..calibration.fidelity import require_plotting

        require_plotting()
    result = chosen.run(args).to_json()
    if args.out:
        save(result, args.out, lambda: write_result(result, args.out), outputs["out"])
    if figure and (plot := chosen.plot):
        save(result, figure, lambda: plot(result, Path(figure)), outputs["plot"])
    if args.report:
        from ..benchmarks.reporting.report import write_report

        shown = [(Path(args.out or args.benchmark), dict(result))]
        result["report"] = args.report
        save(result, args.report, lambda: write_report(shown, args.report), _PAGES, "report")
    return result


def describe(result: dict[str, Any]) -> str:
    """Format the result as the benchmark defines it."""
    return load(result["benchmark"]).describe(result)
