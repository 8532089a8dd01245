"""The post's full size on generated bits: everything after the network, stage by stage, on the CPU or a GPU.

On the CPU each projection runs in a process of its own, whose peak of memory is then its own, and whose end,
where memory runs out, leaves the other rows standing. For a GPU see `ridge_gpu`.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from ...errors import AurevoirError
from ...kernels.arrays import on_device
from ...kernels.memory import memory_budget
from ...kernels.readout import fit_readout
from ..harness.failures import reason
from ..harness.synthetic_bits import generated_bits
from .ridge_fit import CLASSES, STAGES, TEST_ROWS, fit_and_predict
from .ridge_gpu import measure_on_gpu

# A GPU is quick enough to score every alpha on all rows as well, and for the dense projections.
RUNS = {
    "cpu": [("exact", "auto"), ("hadamard", "auto")],
    "cuda": [(kind, search) for kind in ("exact", "hadamard", "dense", "dense-signs") for search in ("auto", "all")],
}
# Enough for every path that the full size takes.
WARM_ROWS = 2100


def measure_full(
    size: tuple[int, int, int], budget: int | str | None, threads: int | None = None, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Return a row a projection and search for (n, m, k); one that fails or is killed keeps its row, with the reason.

    Raises
    ------
    UsageError, MissingPackageError
        If the device is not here.
    """
    on_device(np.zeros(0), device)
    if device != "cpu":
        return list(measure_on_gpu(RUNS[device], size, budget, device))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS") if threads else ()
    environment = os.environ | dict.fromkeys(names, str(threads))
    return [_in_a_process(run, size, memory_budget(budget), environment) for run in RUNS[device]]


def _in_a_process(
    run: tuple[str, str], size: tuple[int, int, int], budget: int, environment: dict[str, str]
) -> dict[str, Any]:
    (kind, search), (n, m, k) = run, size
    row: dict[str, Any] = {"part": "full", "projection": kind, "n": n, "m": m, "k": None if kind == "exact" else k}
    row |= {"classes": CLASSES, "memory_budget": budget, "device": "cpu", "search": search}
    command = [sys.executable, "-m", __name__, kind, search, *map(str, size), str(budget)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        killed = "; killed, and memory is the likeliest reason" if done.returncode < 0 else ""
        return row | {"error": f"exit status {done.returncode}{killed}"}
    return row | json.loads(done.stdout.splitlines()[-1])


def _measure(kind: str, search: str, n: int, m: int, k: int, budget: int) -> dict[str, Any]:
    # What is compiled on first use.
    few, few_labels = generated_bits(WARM_ROWS, m, 2)
    fit_readout(few, m, few_labels, 2, kind, 2 * WARM_ROWS)[0].scores(few[:64])
    start = time.perf_counter()
    bits, labels = generated_bits(n + TEST_ROWS, m, CLASSES)
    generated = time.perf_counter() - start
    _say(f"{kind}: {n} x {m} bits generated in {generated:.1f} s")
    given = bits[:n], labels[:n], bits[n:], labels[n:]
    found = fit_and_predict(kind, search, "cpu", given, m, k, budget)
    _say(f"{kind}, {search}: fitted in {found['total']:.1f} s")
    return found | {"seconds": {"generate": generated, **found["seconds"]}}


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def describe(rows: list[dict[str, Any]]) -> list[str]:
    """Lay the rows out as a table."""
    return [_LINES[row["part"]](row) for row in rows]


def _line(row: dict[str, Any]) -> str:
    head = f"n={row['n']}, m={row['m']}, k={row['k'] or 'infinite'}, {name(row)}:"
    if "error" in row:
        return f"{head} {row['error']}"
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in row["seconds"].items())
    line = (
        f"{head} {row['total']:.2f} s to fit, {row['alphas']} alphas ({row['alphas_on_all_rows']} on all rows) with "
        f"leave-one-out; seconds: {stages} ({TEST_ROWS} rows); leave-one-out {row['loo_accuracy']:.4f}, test "
        f"{row['test_accuracy']:.4f}; peak {row['peak_resident_gib']:.2f} GiB"
    )
    if "times_post" in row:
        line += f"; {row['times_post']:.2f} x the post's {row['post_seconds']} s ({row['remark']})"
    if "peak_gpu_gib" in row:
        line += f"; {row['peak_gpu_gib']:.1f} GiB of the GPU; the first time {row['first_total']:.2f} s"
    return line


def _solver_line(row: dict[str, Any]) -> str:
    return f"n={row['n']}, {row['name']}: {row['seconds']:.4f} s"


def _check_line(row: dict[str, Any]) -> str:
    return (
        f"against NumPy, {row['rows']} rows: same Gram {row['same_gram']}, same alpha {row['same_alpha']}, largest "
        f"differences: leave-one-out accuracy {row['loo_accuracies']:.1e}, coefficients {row['coefficients']:.1e}"
    )


_LINES = {"full": _line, "solver": _solver_line, "check": _check_line}


def name(row: dict[str, Any]) -> str:
    """Return what a row is of."""
    return row["projection"] if row.get("device", "cpu") == "cpu" else f"{row['projection']} on a GPU, {row['search']}"


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the seconds of each stage, end to end, a bar a projection."""
    sound = [row for row in rows if row["part"] == "full" and "error" not in row]
    names, start = [name(row) for row in sound], np.zeros(len(sound))
    for stage in STAGES:
        seconds = np.array([row["seconds"].get(stage, 0.0) for row in sound])
        axes.barh(names, seconds, left=start, label=stage)
        start += seconds
    axes.set_xlabel("seconds")
    axes.grid(axis="x", alpha=0.3)
    if sound:
        axes.legend(fontsize=8, ncols=len(STAGES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _main(kind: str, search: str, *numbers: str) -> None:
    try:
        found = _measure(kind, search, *map(int, numbers))
    except (AurevoirError, MemoryError) as error:
        found = {"error": reason(error)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
