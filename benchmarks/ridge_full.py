"""The post's full size on generated bits: everything after the network, stage by stage.

Each projection runs in a process of its own, whose peak of resident memory is then its own, and whose
end, where memory runs out, leaves the other rows standing.
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
from ..kernels.arrays import memory_budget
from ..kernels.readout import fit_readout
from ..transfer.timing import Stopwatch
from .failures import reason
from .labelled import generated_bits

KINDS = ("exact", "hadamard")
POST_SIZE = (19_363, 50_176, 25_088)
# What everything but the convolutions took in the post.
POST_SECONDS = 58.05
POST_REMARK = "the post's seconds are of one alpha, with an OPU, on a GPU of 2018: another machine and less work"
CLASSES, TEST_ROWS = 10, 1000


def measure_full(
    size: tuple[int, int, int], budget: int | str | None, threads: int | None = None
) -> list[dict[str, Any]]:
    """Return a row a projection for (n, m, k); one that fails or is killed keeps its row, with the reason."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS") if threads else ()
    environment = os.environ | dict.fromkeys(names, str(threads))
    return [_in_a_process(kind, size, memory_budget(budget), environment) for kind in KINDS]


def _in_a_process(kind: str, size: tuple[int, int, int], budget: int, environment: dict[str, str]) -> dict[str, Any]:
    n, m, k = size
    row: dict[str, Any] = {"part": "full", "projection": kind, "n": n, "m": m, "k": None if kind == "exact" else k}
    row |= {"classes": CLASSES, "memory_budget": budget}
    command = [sys.executable, "-m", __name__, kind, *map(str, size), str(budget)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        killed = "; killed, and memory is the likeliest reason" if done.returncode < 0 else ""
        return row | {"error": f"exit status {done.returncode}{killed}"}
    row |= json.loads(done.stdout.splitlines()[-1])
    if size == POST_SIZE and "error" not in row:
        row |= {"post_seconds": POST_SECONDS, "times_post": POST_SECONDS / row["total"], "remark": POST_REMARK}
    return row


def fit_and_predict(kind: str, n: int, m: int, k: int, budget: int) -> dict[str, Any]:
    """Fit on n generated rows, predict `TEST_ROWS` others; return seconds by stage, accuracy and peak memory."""
    _warm(kind, m)
    start = time.perf_counter()
    bits, labels = generated_bits(n + TEST_ROWS, m, CLASSES)
    generated = time.perf_counter() - start
    _say(f"{kind}: {n} x {m} bits generated in {generated:.1f} s")
    watch = Stopwatch()
    readout, path = fit_readout(bits[:n], m, labels[:n], CLASSES, kind, k, budget=budget, timer=watch)
    stages = watch.total()
    _say(f"{kind}: fitted in {stages['total']:.1f} s")
    start = time.perf_counter()
    scores = readout.scores(bits[n:], budget)
    predicted = time.perf_counter() - start
    searched = int(np.isfinite(path.loo_accuracies).sum())
    return {
        "seconds": {"generate": generated, **{name: stages[name] for name in ("project", "gram", "solve")}}
        | {"predict": predicted},
        "total": stages["total"],
        "alphas": len(path.alphas),
        "alphas_on_all_rows": searched,
        "alpha": path.alpha,
        "loo_accuracy": path.loo_accuracy,
        "test_accuracy": float((scores.argmax(axis=1) == labels[n:]).mean()),
        "peak_resident_gib": _peak_bytes() / 2**30,
    }


def _warm(kind: str, m: int) -> None:
    """Compile what is compiled on first use."""
    bits, labels = generated_bits(64, m, 2)
    fit_readout(bits, m, labels, 2, kind, 128)[0].scores(bits)


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
    head = f"n={row['n']}, m={row['m']}, k={row['k'] or 'infinite'}, {row['projection']}:"
    if "error" in row:
        return f"{head} {row['error']}"
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in row["seconds"].items())
    line = (
        f"{head} {row['total']:.2f} s to fit, {row['alphas']} alphas ({row['alphas_on_all_rows']} on all rows) with "
        f"leave-one-out; seconds: {stages} ({TEST_ROWS} rows); leave-one-out {row['loo_accuracy']:.4f}, test "
        f"{row['test_accuracy']:.4f}; peak {row['peak_resident_gib']:.2f} GiB"
    )
    if "times_post" in row:
        line += f"; {row['times_post']:.2f} x the post's {row['post_seconds']} s ({row['remark']})"
    return line


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the seconds of each stage, end to end, a bar a projection."""
    sound = [row for row in rows if "error" not in row]
    names, start = [row["projection"] for row in sound], np.zeros(len(sound))
    for stage in sound[0]["seconds"] if sound else ():
        seconds = np.array([row["seconds"][stage] for row in sound])
        axes.barh(names, seconds, left=start, label=stage)
        start += seconds
    axes.set_xlabel("seconds")
    axes.grid(axis="x", alpha=0.3)
    if sound:
        axes.legend(fontsize=8)


def _main(kind: str, *numbers: str) -> None:
    try:
        found = fit_and_predict(kind, *map(int, numbers))
    except (AurevoirError, MemoryError) as error:
        found = {"error": reason(error)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
