"""How long each command takes to print its help, as a whole process."""

import argparse
import subprocess
import sys
from functools import partial
from statistics import median

from ...engine.timing import alternate
from ..contract import Benchmark, Json, Result, Row

COMMANDS = (
    "cuts",
    "build",
    "calibrate",
    "inspect",
    "profile",
    "export",
    "sign",
    "verify",
    "embed",
    "fit",
    "plan",
    "sweep",
    "predict",
    "evaluate",
    "review",
    "refit",
    "doctor",
    "cache",
    "bench",
    "demo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each command (default: 7)")


def run(args: argparse.Namespace) -> Result:
    """Time ``aurevoir COMMAND --help``, and for comparison a Python that does nothing."""
    contestants = {name: partial(_process, "-m", "aurevoir", name, "--help") for name in COMMANDS}
    seconds = alternate({"python -c pass": partial(_process, "-c", "pass"), **contestants}, args.rounds)
    rows = [Row({"command": name, "seconds": median(times), "most": max(times)}) for name, times in seconds.items()]
    return Result("startup", rows)


def _process(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def describe(result: Json) -> str:
    """Lay the rows out as a table."""
    lines = [f"{row['command']:15s} {row['seconds']:.3f} s, at most {row['most']:.3f} s" for row in result["rows"]]
    return "\n".join(lines)


def markdown(result: Json) -> list[str]:
    """Return the slowest command."""
    bare, *commands = result["rows"]
    slowest = max(row["seconds"] for row in commands)
    return [
        f"The slowest command prints its help in {slowest:.3f} s; `{bare['command']}` takes {bare['seconds']:.3f} s."
    ]


BENCHMARK = Benchmark("startup", add_arguments, run, describe, markdown, keys=("command",))
