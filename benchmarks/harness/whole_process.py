"""Run a command as a process of its own, with its seconds and its peak memory.

The process is started from a small one, this module's: what its parent holds counts in a child's peak memory.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...children import run_child
from ...errors import AurevoirError
from ..contract import Cells


@dataclass(frozen=True)
class Finished:
    """What a process printed, as JSON, its seconds from start to end, and its peak resident memory in megabytes."""

    printed: Any
    seconds: float
    megabytes: float


def run_whole(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Finished:
    """Run a command that prints a JSON object, with some variables set.

    Raises
    ------
    AurevoirError
        If it fails, with the last line that it wrote to stderr.
    """
    ran = run_child(__name__, command, {**os.environ, **(environment or {})})
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
        raise AurevoirError(f"{' '.join(command[1:4])} failed: {lines[-1]}")
    printed, _, measured = ran.stdout.rstrip("\n").rpartition("\n")
    return Finished(json.loads(printed), **json.loads(measured))


def fit_cells(found: Sequence[Finished]) -> Cells:
    """Return what a row says of processes of ``aurevoir fit --json``, or of scripts that print some of it."""
    last = found[-1].printed
    cells = {
        "seconds": median(each.seconds for each in found),
        "all_seconds": [each.seconds for each in found],
        "accuracy": last["accuracy"],
        "peak_megabytes": max(each.megabytes for each in found),
        "precision": last["precision"],
    }
    if "timings" not in last:
        return cells
    stages = {name: median(each.printed["timings"][name] for each in found) for name in last["timings"]}
    stages["test"] = median(each.printed["test_seconds"] for each in found)
    if last["refit"]:
        stages["refit"] = median(each.printed["refit"]["seconds"] for each in found)
    return cells | {"stages": stages, "train_images": last["train_images"], "test_images": last["test_images"]}


def _main(command: Sequence[str]) -> int:
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    sys.stdout.write("\n" + json.dumps({"seconds": seconds, "megabytes": usage.ru_maxrss / 1e3}) + "\n")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]) and 1)
