"""Seconds of the ridge and its parts: over n, m and k, compared with scikit-learn and torch; and the post's size.

Four parts, each with rows of its own: ``growth`` over size, ``peers`` (see `ridge_peers`), ``choice`` (what
halving loses; see `choice`) and with ``--full`` that alone (see `full`).
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import BudgetError, UsageError
from ....kernels.gram import gram, overlap
from ....kernels.memory import memory_budget, require
from ....kernels.ridge import dual_path, one_vs_rest
from ....kernels.ridge.solvers import CholeskySolver
from ....progress import progress_bar
from ...contract import Benchmark, Json, Result, Row, reason
from ...harness.contestants import Contestant, measure, prepare
from ...harness.labelled_bits import photographs
from ...harness.scaling import Series, series
from ...harness.synthetic_bits import digits, generated, generated_bits
from ...harness.threads import threads
from ...reporting.figures import draw_scaling, figure, sound
from ...reporting.text import markdown_table
from ...rivals import ridge_peers
from ...rivals.ridge_peers import Speckle
from . import choice, full
from .fit import POST_SIZE

SIZES = (750, 1500, 3000, 6000)
CLASSES = 10
AXES = {"n": "rows n", "m": "features m", "k": "components k"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows n (default: 750 to 6000)")
    parser.add_argument("--rows", type=int, default=3000, help="rows compared with the peers (default: 3000)")
    parser.add_argument("--features", type=int, default=50_176, help="m (default: 50176)")
    parser.add_argument("--components", type=int, default=8000, help="k (default: 8000)")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns of each (default: 3)")
    parser.add_argument("--threads", type=int, help="of BLAS, Numba and torch (default: each its own choice)")
    parser.add_argument("--memory", help="budget, for example 20GiB (default: 4GiB)")
    parser.add_argument("--data", nargs="+", default=[], help="folders of class folders, for what halving loses")
    parser.add_argument("--backbone", help="of --data: a torchvision name or an ONNX file")
    parser.add_argument("--splits", type=int, default=5, help="80:20 splits, seeds from 0 (default: 5)")
    parser.add_argument("--full", action="store_true", help="measure the post's full size, and that only")
    parser.add_argument(
        "--device",
        choices=list(full.RUNS),
        default="cpu",
        help="of --full: cuda runs it on the current NVIDIA GPU (default: cpu)",
    )
    parser.add_argument(
        "--full-size",
        type=int,
        nargs=3,
        metavar=("N", "M", "K"),
        default=POST_SIZE,
        help="another size of it",
    )
    parser.add_argument(
        "--min-speedup",
        type=float,
        metavar="X",
        help="exit with 4 if the exhaustive search is less than X times RidgeClassifierCV",
    )


def run(args: argparse.Namespace) -> Result:
    """Measure the parts asked for; a row that fails stays, with the reason."""
    if args.data and not args.backbone:
        raise UsageError(f"data {' '.join(args.data)} has no bits without a network; give --backbone")
    if args.device != "cpu" and not args.full:
        raise UsageError(f"--device {args.device} is of the post's full size; give --full, or leave it out")
    with threads(args.threads) as count:
        rows = _full(args) if args.full else _parts(args)
    cells = [row.to_json() for row in rows]
    return Result(
        "ridge",
        rows,
        {"threads": count, "backbone": Path(args.backbone).name if args.data else None},
        {
            "exponents": {
                f"{name} over {over}": own.exponent for over in AXES for name, own in _scaling(cells, over).items()
            },
            "speedup": _speedup(rows),
        },
    )


def _full(args: argparse.Namespace) -> list[Row]:
    return full.measure_full(tuple(args.full_size), args.memory, args.threads, args.device)


def _parts(args: argparse.Namespace) -> list[Row]:
    rows = _measure_scaling(args)
    try:
        rows += ridge_peers.compare(args.rows, args.features, args.components, args.repeats)
    except MemoryError as error:
        shape = ridge_peers.shape(args.rows, args.features, args.components)
        rows.append(Row(shape | {"name": "all"}, reason(error)))
    datasets = [digits(args.splits), generated(args.rows, args.features, args.splits)]
    datasets += photographs(args.data, args.backbone, args.splits) if args.data else []
    return rows + [row for data in datasets for row in choice.compare_choices(data, args.components)]


def _measure_scaling(args: argparse.Namespace) -> list[Row]:
    steps = [(n, args.features, args.components, "n") for n in args.sizes]
    middle = sorted(args.sizes)[len(args.sizes) // 2]
    for part in (16, 8, 4, 2, 1):
        steps.append((middle, max(8, args.features // part), args.components, "m"))
        steps.append((middle, args.features, max(8, args.features // 2 // part), "k"))
    rows: list[Row] = []
    for n, m, k, over in (bar := progress_bar(steps, desc="scaling")):
        bar.set_postfix_str(f"n={n} m={m} k={k}")
        common = {"part": "growth", "over": over, "n": n, "m": m, "k": k, "group": "aurevoir"}
        try:
            contestants = [
                Contestant(Row(common | {"name": name}), partial(partial, run))
                for name, run in _stages(n, m, k, over, memory_budget(args.memory))
            ]
        except (BudgetError, MemoryError) as error:
            rows.append(Row(common | {"name": "all"}, reason(error)))
            continue
        prepare(contestants)
        measure(contestants, None, args.repeats, progress=False)
        rows += [each.row for each in contestants]
    return rows


def _stages(n: int, m: int, k: int, over: str, memory: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the stages that grow with `over`, and what runs them."""
    system = 5 * 8 * n**2 if over == "n" else 2 * 8 * n**2
    require(n * (m // 8 + k) + system, memory, f"{n} rows of {m} bits and {k} speckle with their Gram", "lower --sizes")
    if over != "k":
        bits = generated_bits(n, m)[0]
        yield "Gram of bits", partial(overlap, bits)
    if over == "m":
        return
    data = Speckle.generate(n, m, k)
    yield "Gram of speckle", partial(gram, data.train)
    if over == "n":
        yield from _solvers(gram(data.train), one_vs_rest(data.labels, CLASSES))


def _solvers(products: np.ndarray, targets: np.ndarray) -> Iterator[tuple[str, Callable[[], Any]]]:
    matrix, alpha = products.astype("float64"), float(np.trace(products)) / len(products)
    for dtype in ("float32", "float64"):
        yield f"Cholesky and inverse, {dtype}", partial(CholeskySolver, matrix, alpha, dtype)
    yield "one alpha", partial(dual_path, products, targets, np.array([alpha]), search="all")
    for search in ("all", "halving"):
        yield f"15 alphas, {search}", partial(dual_path, products, targets, search=search)


def _scaling(rows: Sequence[Json], over: str) -> dict[str, Series]:
    own = (row for row in rows if row["part"] == "growth" and row["over"] == over)
    return series(own, lambda row: str(row["name"]), over, "seconds")


def _speedup(rows: Sequence[Row]) -> float | None:
    """Return the exhaustive search's median ratio to `ridge_peers.BASE`."""
    for row in rows:
        found = row.get(f"times_{ridge_peers.BASE.replace(' ', '_')}")
        if found and row["name"] == "aurevoir all":
            return float(found["median"])
    return None


def markdown(result: Json) -> list[str]:
    """Return the peers, and the post's full size."""
    rows = [_in_brief(row) for row in sound(result["rows"]) if row["part"] in ("peers", "full")]
    header = ["", "rows", "alphas", "seconds", "x RidgeClassifierCV", "test accuracy"]
    return markdown_table(header, rows)


def _in_brief(row: Json) -> list[str]:
    if row["part"] == "full":
        size = row.get("peak_gpu_gib", row["peak_resident_gib"])
        name = f"{full.name(row)}, everything behind the convolutions, {size:.1f} GiB"
        measured = [f"{row['total']:.{0 if row['total'] > 10 else 2}f}", "", f"{row['test_accuracy']:.4f}"]
    else:
        name, times = f"{row['name']}, k = {row['k']:,d}", row.get("times_RidgeClassifierCV_accuracy", {})
        accuracy = row.get("test_accuracy")
        ratio = f"{times['median']:.2f}" if times else ""
        measured = [f"{row['seconds']:.2f}", ratio, "" if accuracy is None else f"{accuracy:.4f}"]
    return [name, f"{row['n']:,d}", str(row["alphas"]), *measured]


def describe(result: Json) -> str:
    """Lay the rows out, a table a part."""
    rows: dict[str, list[Json]] = {}
    for row in result["rows"]:
        rows.setdefault(row["part"], []).append(row)
    lines = [f"{result['threads']} threads"]
    lines += [_scaling_line(row) for row in rows.get("growth", [])]
    lines += [f"{name}: exponent {slope:.2f}" for name, slope in result["exponents"].items() if slope is not None]
    lines += ridge_peers.describe(rows.get("peers", []))
    lines += choice.describe(rows.get("choice", []))
    whole = [row for part in ("full", "solver", "check") for row in rows.get(part, [])]
    return "\n".join(lines + full.describe(whole))


def _scaling_line(row: Json) -> str:
    head = f"over {row['over']}  n={row['n']:6d} m={row['m']:6d} k={row['k']:6d}  {row['name']:30s}"
    return f"{head} {row['error']}" if "error" in row else f"{head} {row['seconds']:9.4f} s, spread {row['spread']:.1%}"


def plot(result: Json, path: Path) -> None:
    """Draw seconds over n, m and k; at the full size, the stages of each projection."""
    if any(row["part"] == "full" for row in result["rows"]):
        with figure(path, (9, 3)) as (_, panels):
            full.draw(panels[0, 0], result["rows"])
        return
    with figure(path, (16, 5.5), (1, len(AXES))) as (_, panels):
        for axes, (over, words) in zip(panels[0], AXES.items(), strict=True):
            draw_scaling(axes, _scaling(result["rows"], over))
            axes.set_xlabel(words)
            axes.set_ylabel("seconds")


BENCHMARK = Benchmark("ridge", add_arguments, run, describe, markdown, plot)
