"""Draw the figures of the result files anew, from what they hold: ``python tools/figures.py [RESULT.json ...]``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aurevoir.benchmarks import registry
from aurevoir.benchmarks.contract import Json
from aurevoir.benchmarks.reporting.tables import read_result
from aurevoir.errors import AurevoirError

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw each result's figure next to it; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULT.json", help="(default: the project's)")
    args = parser.parse_args(argv)
    try:
        for path in args.results or sorted(RESULTS.glob("*.json")):
            result = read_result(path)
            if plot := plot_of(result):
                plot(result, path.with_suffix(".png"))
                print(path.with_suffix(".png"))
    except AurevoirError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def plot_of(result: Json) -> Callable[[Any, Path], None] | None:
    """Return what draws a result into a file; None where its benchmark draws none."""
    if result.get("benchmark") == "reliability":
        from aurevoir.tools.reliability import memory

        return lambda result, path: memory.plot(result["resident_megabytes"], path)
    benchmark = registry.find(result.get("benchmark"))
    return benchmark.plot if benchmark else None


if __name__ == "__main__":
    sys.exit(main())
