"""Seconds of the ridge and its parts: over n, m and k, beside scikit-learn and torch, and at the post's full size.

Four parts, each with rows of its own: ``growth``, ``peers`` (see `ridge_peers`), ``choice`` (what
halving loses; see `ridge_choice`) and with ``--full`` that alone (see `ridge_full`).
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...errors import BudgetError, UsageError
from ...kernels.gram import gram, overlap
from ...kernels.memory import memory_budget, require
from ...kernels.ridge import dual_path, one_vs_rest
from ...kernels.ridge.solvers import CholeskySolver
from ..harness.failures import reason
from ..harness.machine import describe_machine
from ..harness.scaling import Contestant, draw_growth, exponent, measure, prepare, threads
from ..harness.synthetic_bits import digits, generated, generated_bits, photographs
from ..reporting.tables import markdown
from ..rivals import ridge_peers
from ..rivals.ridge_peers import Speckle
from . import ridge_choice, ridge_full
from .ridge_fit import POST_SIZE

SIZES = (750, 1500, 3000, 6000)
CLASSES = 10
AXES = {"n": "rows n", "m": "features m", "k": "components k"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows n (default: 750 to 6000)")
    parser.add_argument("--rows", type=int, default=3000, help="rows beside the peers (default: 3000)")
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
        choices=list(ridge_full.RUNS),
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


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts asked for; a row that fails stays, with the reason."""
    if args.data and not args.backbone:
        raise UsageError(f"data {' '.join(args.data)} has no bits without a network; give --backbone")
    if args.device != "cpu" and not args.full:
        raise UsageError(f"--device {args.device} is of the post's full size; give --full, or leave it out")
    with threads(args.threads) as count:
        rows = _full(args) if args.full else _parts(args)
    return {
        "benchmark": "ridge",
        "threads": count,
        "backbone": Path(args.backbone).name if args.data else None,
        "rows": rows,
        "exponents": {
            f"{name} over {over}": exponent(sizes, seconds)
            for over in AXES
            for name, (_, sizes, seconds) in _series(rows, over).items()
        },
        "speedup": _speedup(rows),
        "machine": describe_machine(),
    }


def _full(args: argparse.Namespace) -> list[dict[str, Any]]:
    return ridge_full.measure_full(tuple(args.full_size), args.memory, args.threads, args.device)


def _parts(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = _growth(args)
    try:
        rows += ridge_peers.compare(args.rows, args.features, args.components, args.repeats)
    except MemoryError as error:
        rows.append(
            ridge_peers.shape(args.rows, args.features, args.components) | {"name": "all", "error": reason(error)}
        )
    sets = [digits(args.splits), generated(args.rows, args.features, args.splits)]
    sets += photographs(args.data, args.backbone, args.splits) if args.data else []
    return rows + [row for data in sets for row in ridge_choice.compare_choices(data, args.components)]


def _growth(args: argparse.Namespace) -> list[dict[str, Any]]:
    steps = [(n, args.features, args.components, "n") for n in args.sizes]
    middle = sorted(args.sizes)[len(args.sizes) // 2]
    for part in (16, 8, 4, 2, 1):
        steps.append((middle, max(8, args.features // part), args.components, "m"))
        steps.append((middle, args.features, max(8, args.features // 2 // part), "k"))
    rows: list[dict[str, Any]] = []
    for n, m, k, over in (bar := tqdm(steps, desc="growth")):
        bar.set_postfix_str(f"n={n} m={m} k={k}")
        common = {"part": "growth", "over": over, "n": n, "m": m, "k": k, "group": "aurevoir"}
        try:
            contestants = [
                Contestant(common | {"name": name}, partial(_given, run))
                for name, run in _stages(n, m, k, over, memory_budget(args.memory))
            ]
        except (BudgetError, MemoryError) as error:
            rows.append(common | {"name": "all", "error": reason(error)})
            continue
        prepare(contestants)
        measure(contestants, None, args.repeats, progress=False)
        rows += [each.row for each in contestants]
    return rows


def _given(run: Callable[[], Any]) -> Callable[[], Any]:
    return run


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


def _series(rows: list[dict[str, Any]], over: str) -> dict[str, tuple[str, list[float], list[float]]]:
    series: dict[str, tuple[str, list[float], list[float]]] = {}
    for row in rows:
        if row["part"] == "growth" and row["over"] == over and "error" not in row:
            _, sizes, seconds = series.setdefault(row["name"], (row["group"], [], []))
            sizes.append(row[over])
            seconds.append(row["seconds"])
    return series


def _speedup(rows: list[dict[str, Any]]) -> float | None:
    """Return the exhaustive search's median ratio to `ridge_peers.BASE`."""
    for row in rows:
        found = row.get(f"times_{ridge_peers.BASE.replace(' ', '_')}")
        if found and row["name"] == "aurevoir all":
            return float(found["median"])
    return None


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: the peers, and the post's full size."""
    rows = [_in_brief(row) for row in result["rows"] if row["part"] in ("peers", "full") and "error" not in row]
    header = ["", "rows", "alphas", "seconds", "x RidgeClassifierCV", "test accuracy"]
    return markdown(header, rows)


def _in_brief(row: dict[str, Any]) -> list[str]:
    if row["part"] == "full":
        size = row.get("peak_gpu_gib", row["peak_resident_gib"])
        name = f"{ridge_full.name(row)}, everything behind the convolutions, {size:.1f} GiB"
        measured = [f"{row['total']:.{0 if row['total'] > 10 else 2}f}", "", f"{row['test_accuracy']:.4f}"]
    else:
        name, times = f"{row['name']}, k = {row['k']:,d}", row.get("times_RidgeClassifierCV_accuracy", {})
        accuracy = row.get("test_accuracy")
        ratio = f"{times['median']:.2f}" if times else ""
        measured = [f"{row['seconds']:.2f}", ratio, "" if accuracy is None else f"{accuracy:.4f}"]
    return [name, f"{row['n']:,d}", str(row["alphas"]), *measured]


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out, a table a part."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        rows.setdefault(row["part"], []).append(row)
    lines = [f"{result['threads']} threads"]
    lines += [_growth_line(row) for row in rows.get("growth", [])]
    lines += [f"{name}: exponent {slope:.2f}" for name, slope in result["exponents"].items() if slope is not None]
    lines += ridge_peers.describe(rows.get("peers", []))
    lines += ridge_choice.describe(rows.get("choice", []))
    full = [row for part in ("full", "solver", "check") for row in rows.get(part, [])]
    return "\n".join(lines + ridge_full.describe(full))


def _growth_line(row: dict[str, Any]) -> str:
    head = f"over {row['over']}  n={row['n']:6d} m={row['m']:6d} k={row['k']:6d}  {row['name']:30s}"
    return f"{head} {row['error']}" if "error" in row else f"{head} {row['seconds']:9.4f} s, spread {row['spread']:.1%}"


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw seconds over n, m and k; at the full size, the stages of each projection."""
    from matplotlib.figure import Figure

    if any(row["part"] == "full" for row in result["rows"]):
        figure = Figure(figsize=(9, 3), layout="constrained")
        ridge_full.draw(figure.subplots(), result["rows"])
    else:
        figure = Figure(figsize=(16, 5), layout="constrained")
        for axes, (over, words) in zip(figure.subplots(1, len(AXES)), AXES.items(), strict=True):
            draw_growth(axes, _series(result["rows"], over))
            axes.set_xlabel(words)
            axes.set_ylabel("seconds")
    figure.savefig(path, dpi=150)
