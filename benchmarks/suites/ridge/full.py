"""The post's full size on generated bits: everything after the network, stage by stage, on the CPU or a GPU.

On the CPU each projection runs in a process of its own, whose peak of memory is then its own, and whose end,
where memory runs out, leaves the other rows. For a GPU see `gpu`.
"""

import json
import os
from collections.abc import Sequence

import numpy as np

from ....children import run_child
from ....kernels.arrays import on_device
from ....kernels.memory import memory_budget
from ...contract import Json, Row
from ...reporting.figures import Axes, draw_stages, legend_beside, sound
from .fit import STAGES, TEST_ROWS, full_row
from .gpu import measure_on_gpu

# A GPU is quick enough to score every alpha on all rows as well, and for the dense projections.
RUNS = {
    "cpu": [("exact", "auto"), ("hadamard", "auto")],
    "cuda": [(kind, search) for kind in ("exact", "hadamard", "dense", "dense-signs") for search in ("auto", "all")],
}


def measure_full(
    size: tuple[int, int, int], budget: int | str | None, threads: int | None = None, device: str = "cpu"
) -> list[Row]:
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


def _in_a_process(run: tuple[str, str], size: tuple[int, int, int], budget: int, environment: dict[str, str]) -> Row:
    row = full_row(*run, size, "cpu")
    row.note(memory_budget=budget)
    arguments = [*run, *map(str, size), str(budget)]
    done = run_child(f"{__package__}.one_run", arguments, environment, stderr=None)
    if done.returncode:
        killed = "; killed, and memory is the likeliest reason" if done.returncode < 0 else ""
        row.error = f"exit status {done.returncode}{killed}"
        return row
    found = json.loads(done.stdout.splitlines()[-1])
    row.error = found.pop("error", None)
    row.note(**found)
    return row


def describe(rows: Sequence[Json]) -> list[str]:
    """Lay the rows out as a table."""
    return [_LINES[row["part"]](row) for row in rows]


def _line(row: Json) -> str:
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


def _solver_line(row: Json) -> str:
    return f"n={row['n']}, {row['name']}: {row['seconds']:.4f} s"


def _check_line(row: Json) -> str:
    return (
        f"against NumPy, {row['rows']} rows: same Gram {row['same_gram']}, same alpha {row['same_alpha']}, largest "
        f"differences: leave-one-out accuracy {row['loo_accuracies']:.1e}, coefficients {row['coefficients']:.1e}"
    )


_LINES = {"full": _line, "solver": _solver_line, "check": _check_line}


def name(row: Json) -> str:
    """Return what a row is of."""
    return row["projection"] if row.get("device", "cpu") == "cpu" else f"{row['projection']} on a GPU, {row['search']}"


def draw(axes: Axes, rows: Sequence[Json]) -> None:
    """Draw the seconds of each stage, end to end, a bar a projection."""
    fits = [row for row in sound(rows) if row["part"] == "full"]
    seconds = {stage: [row["seconds"].get(stage, 0.0) for row in fits] for stage in STAGES}
    draw_stages(axes, [name(row) for row in fits], seconds)
    if fits:
        axes.set_title(f"the post's size, behind the network: {fits[0]['n']:,d} images, {fits[0]['alphas']} alphas")
        if any(row.get("device", "cpu") != "cpu" for row in fits):
            axes.set_xlabel("seconds; all: every alpha scored on all images, auto: searched on fewer")
        legend_beside(axes)
