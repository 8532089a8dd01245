"""Seconds and memory of the ridge by default settings over the number of rows, each in a process of its own.

The bits are generated into a file of which memory is a map, as those of many images are. The memory of a process is
that of its own, and apart from it the pages of files, of which the system takes back what it needs.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from ....children import run_child
from ....errors import UsageError
from ....kernels.bits import packed_length
from ....kernels.memory import format_bytes, memory_budget
from ....kernels.ridge.form import plan_ridge
from ....progress import progress_bar
from ...contract import Benchmark, Cells, Json, Result, Row
from ...harness.scaling import Series, exponent
from ...reporting.figures import STAGES as STAGE_STYLES
from ...reporting.figures import draw_scaling, figure, sound
from ...reporting.text import markdown_table
from .measure import CLASSES, STAGES

SIZES, FEATURES = (1000, 3000, 10_000, 30_000, 100_000), 62_720


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows n (default: 1000 to 100000)")
    parser.add_argument("--features", type=int, default=FEATURES, help=f"m (default: {FEATURES})")
    parser.add_argument("--projection", default="auto", help="as of fit (default: auto)")
    parser.add_argument("--memory", help="budget, for example 8GiB (default: 4GiB)")


def run(args: argparse.Namespace) -> Result:
    """Measure each size; one that fails stays, with the reason."""
    if min(args.sizes) < CLASSES or args.features < 1:
        raise UsageError(f"sizes {args.sizes} of {args.features} features; give {CLASSES} rows and 1 feature or more")
    budget = memory_budget(args.memory)
    _check_disk(max(args.sizes), args.features)
    rows = [
        _in_a_process(n, args.features, args.projection, budget)
        for n in progress_bar(sorted(args.sizes), desc="rows of the ridge", unit="size")
    ]
    settings = {"features": args.features, "classes": CLASSES, "memory_budget": budget}
    return Result("scale", rows, settings, _exponents([row.to_json() for row in rows]))


def _check_disk(n: int, m: int) -> None:
    needed, free = n * packed_length(m), shutil.disk_usage(gettempdir()).free
    if needed > free:
        raise UsageError(
            f"{n} rows of {m} bits take {format_bytes(needed)} in {gettempdir()}, where {format_bytes(free)} are free; "
            "give fewer --sizes, or set TMPDIR to a folder with more"
        )


def _in_a_process(n: int, m: int, projection: str, budget: int) -> Row:
    row = Row({"n": n, "m": m, "projection": projection})
    with row.attempt():
        plan = plan_ridge(n, m, CLASSES, projection, budget=budget)
        row.note(form=plan.name, order=plan.order, planned=plan.bytes, operations=dict(plan.operations))
        done = run_child(f"{__package__}.one_size", [str(n), str(m), projection, str(budget)], stderr=None)
        if done.returncode:
            row.error = f"exit status {done.returncode}"
            return row
        found = json.loads(done.stdout.splitlines()[-1])
        row.error = found.pop("error", None)
        row.note(**found)
    return row


def _exponents(rows: Sequence[Json]) -> Cells:
    """Return the exponents of seconds and memory over rows, of the forms that have more than one size."""
    found: dict[str, dict[str, float | None]] = {}
    for form in dict.fromkeys(row["form"] for row in sound(rows)):
        own = [row for row in sound(rows) if row["form"] == form]
        sizes = [row["n"] for row in own]
        if len(set(sizes)) > 1:
            found[form] = {
                "seconds": exponent(sizes, [row["total"] for row in own]),
                "memory": exponent(sizes, [max(row["peak_mib"].values()) for row in own])
                if all(row["peak_mib"] for row in own)
                else None,
            }
    return {"exponents": found}


def describe(result: Json) -> str:
    """Lay the rows out as lines."""
    lines = [f"{result['features']:,d} features, {result['classes']} classes", *map(_line, result["rows"])]
    for form, own in result["exponents"].items():
        shown = ", ".join(f"{name} {value:.2f}" for name, value in own.items() if value is not None)
        lines.append(f"exponents over rows, {form}: {shown}")
    return "\n".join(lines)


def _line(row: Json) -> str:
    head = f"{row['n']:>9,d} rows"
    if "error" in row:
        return f"{head}: {row['error']}"
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row["seconds"].items() if seconds)
    memory = ", ".join(f"{stage} {size:,.0f}" for stage, size in row["peak_mib"].items())
    line = (
        f"{head}, {row['form']} of {row['order']:,d}, {row['kind']}: {row['total']:.1f} s ({stages}); "
        f"peak MiB {memory}; leave-one-out {row['loo_accuracy']:.4f}, test {row['test_accuracy']:.4f}"
    )
    if row["checked_rows"]:
        line += f"; {row['checked_rows']} leave-one-out scores within {row['largest_difference']:.1e} of refits"
    return line


def markdown(result: Json) -> list[str]:
    """Return a table of the sizes."""
    head = ["rows", "form", "seconds", "own memory, MiB", "pages of the file, MiB", "test accuracy", "from refits"]
    cells = [
        [
            f"{row['n']:,d}",
            f"{row['form']}, {row['order']:,d}",
            f"{row['total']:.1f}",
            f"{max(row['peak_mib'].values(), default=np.nan):,.0f}",
            f"{max(row['file_mib'].values(), default=np.nan):,.0f}",
            f"{row['test_accuracy']:.3f}",
            f"{row['largest_difference']:.1e}" if row["checked_rows"] else "",
        ]
        for row in sound(result["rows"])
    ]
    return [f"{result['machine']['processor']}:", "", *markdown_table(head, cells)]


def plot(result: Json, path: Path) -> None:
    """Draw seconds and memory over rows, by stage."""
    rows = sound(result["rows"])
    with figure(path, (11, 4.5), (1, 2)) as (_, panels):
        seconds, memory = panels[0]
        draw_scaling(seconds, _by_stage(rows, "seconds"))
        pages = [max(row["file_mib"].values(), default=np.nan) for row in rows]
        of_file = {"pages of the file": Series("peer", [row["n"] for row in rows], pages)}
        draw_scaling(memory, _by_stage(rows, "peak_mib") | of_file)
        seconds.set_ylabel("seconds")
        memory.set_ylabel("resident memory (MiB)")
        for axes in panels[0]:
            axes.set_xlabel("rows")


def _by_stage(rows: Sequence[Json], column: str) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for row in rows:
        for stage in STAGES:
            if row[column].get(stage):
                own = found.setdefault(STAGE_STYLES.get(stage, (stage,))[0], Series("aurevoir"))
                own.sizes.append(row["n"])
                own.seconds.append(row[column][stage])
    return found


BENCHMARK = Benchmark("scale", add_arguments, run, describe, markdown, plot, keys=("n", "projection"))
