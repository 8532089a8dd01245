"""The post's full size on generated bits: everything after the network, stage by stage, on the CPU or a GPU.

Each projection runs in a process of its own, whose peak of memory is then its own, and whose end, where
memory runs out, leaves the other rows standing.
"""

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from ..errors import AurevoirError
from ..kernels.arrays import memory_budget, on_device, on_host
from ..kernels.readout import fit_readout
from .failures import reason
from .labelled import generated_bits
from .ridge_gpu import DeviceStopwatch, look_closer

# A GPU is quick enough to score every alpha on all rows as well, and for the dense projections.
RUNS = {
    "cpu": [("exact", "auto"), ("hadamard", "auto")],
    "cuda": [(kind, search) for kind in ("exact", "hadamard", "dense", "dense-signs") for search in ("auto", "all")],
}
POST_SIZE = (19_363, 50_176, 25_088)
# What everything but the convolutions took in the post.
POST_SECONDS = 58.05
POST_REMARK = "the post's seconds are of one alpha, with an OPU, on a GPU of 2018: another machine and less work"
CLASSES, TEST_ROWS = 10, 1000
STAGES = ("upload", "project", "gram", "solve", "predict")
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
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS") if threads else ()
    environment = os.environ | dict.fromkeys(names, str(threads))
    return [_in_a_process(run, size, memory_budget(budget), device, environment) for run in RUNS[device]]


def _in_a_process(
    run: tuple[str, str], size: tuple[int, int, int], budget: int, device: str, environment: dict[str, str]
) -> dict[str, Any]:
    (kind, search), (n, m, k) = run, size
    row: dict[str, Any] = {"part": "full", "projection": kind, "n": n, "m": m, "k": None if kind == "exact" else k}
    row |= {"classes": CLASSES, "memory_budget": budget, "device": device, "search": search}
    command = [sys.executable, "-m", __name__, kind, search, device, *map(str, size), str(budget)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        killed = "; killed, and memory is the likeliest reason" if done.returncode < 0 else ""
        return row | {"error": f"exit status {done.returncode}{killed}"}
    row |= json.loads(done.stdout.splitlines()[-1])
    if size == POST_SIZE and "error" not in row:
        row |= {"post_seconds": POST_SECONDS, "times_post": POST_SECONDS / row["total"], "remark": POST_REMARK}
    return row


def fit_and_predict(kind: str, search: str, device: str, n: int, m: int, k: int, budget: int) -> dict[str, Any]:
    """Fit on n generated rows, predict `TEST_ROWS` others; return seconds by stage, accuracy and peak memory."""
    _warm(kind, m, device)
    start = time.perf_counter()
    bits, labels = generated_bits(n + TEST_ROWS, m, CLASSES)
    generated = time.perf_counter() - start
    _say(f"{kind}: {n} x {m} bits generated in {generated:.1f} s")
    watch = DeviceStopwatch(device)
    with watch("upload"):
        rows, targets, others = (on_device(part, device) for part in (bits[:n], labels[:n], bits[n:]))
    readout, path = fit_readout(rows, m, targets, CLASSES, kind, k, budget=budget, search=search, timer=watch)
    stages = watch.total()
    _say(f"{kind}, {search}: fitted in {stages['total']:.1f} s")
    with watch("predict"):
        scores = on_host(readout.scores(others, budget))
    found = {
        "seconds": {"generate": generated, **dict.fromkeys(STAGES, 0.0), **watch.seconds},
        "total": stages["total"],
        "alphas": len(path.alphas),
        "alphas_on_all_rows": int(np.isfinite(path.loo_accuracies).sum()),
        "alpha": path.alpha,
        "loo_accuracy": path.loo_accuracy,
        "test_accuracy": float((scores.argmax(axis=1) == labels[n:]).mean()),
        "peak_resident_gib": _peak_bytes() / 2**30,
    }
    return found if device == "cpu" else found | look_closer(rows, targets, CLASSES)


def _warm(kind: str, m: int, device: str) -> None:
    """Compile what is compiled on first use."""
    bits, labels = (on_device(part, device) for part in generated_bits(WARM_ROWS, m, 2))
    fit_readout(bits, m, labels, 2, kind, 2 * WARM_ROWS)[0].scores(bits[:64])


def _peak_bytes() -> int:
    # In KiB on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def describe(rows: list[dict[str, Any]]) -> list[str]:
    """Lay the rows out as a table."""
    return [_line(row) for row in rows]


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
    if "gpu" in row:
        parts = ", ".join(f"{part} {seconds:.4f}" for part, seconds in row["parts"].items())
        line += f"; {row['gpu']}, {row['peak_gpu_gib']:.1f} GiB; seconds: {parts}; against NumPy: {row['checked']}"
    return line


def name(row: dict[str, Any]) -> str:
    """Return what a row is of."""
    return row["projection"] if row.get("device", "cpu") == "cpu" else f"{row['projection']} on a GPU, {row['search']}"


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the seconds of each stage, end to end, a bar a projection."""
    sound = [row for row in rows if "error" not in row]
    names, start = [name(row) for row in sound], np.zeros(len(sound))
    for stage in STAGES:
        seconds = np.array([row["seconds"].get(stage, 0.0) for row in sound])
        axes.barh(names, seconds, left=start, label=stage)
        start += seconds
    axes.set_xlabel("seconds")
    axes.grid(axis="x", alpha=0.3)
    if sound:
        axes.legend(fontsize=8)


def _main(kind: str, search: str, device: str, *numbers: str) -> None:
    try:
        found = fit_and_predict(kind, search, device, *map(int, numbers))
    except (AurevoirError, MemoryError) as error:
        found = {"error": reason(error)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
