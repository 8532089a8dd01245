"""Seconds of the projections and of the popcount Gram over their size, beside their peers, in one run.

The task of a projection is |Rx|^2 of n rows, as float32; that of the Gram, the inner products of n
rows of bits. Ours start from packed bits and draw R on the way. The peers' rows stand unpacked and
their R drawn before they are timed. With ``--accuracy``: what a projection is worth, instead; see
`projection_accuracy`.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...kernels.bits import unpack
from ...kernels.gram import overlap
from ...kernels.memory import memory_budget, require
from ...kernels.readout import PROJECTORS
from ...transfer.opu import SimulatedOpu
from ..harness.machine import describe_machine
from ..harness.scaling import Contestant, draw_growth, exponent, measure, prepare, threads
from ..harness.synthetic_bits import generated_bits
from ..reporting.tables import markdown
from . import projection_accuracy

BASE, INT8 = "sgemm", "torch int8"
# The post's, divided by powers of two: all are padded alike for a Hadamard transform.
SIZES = (784, 1568, 3136, 6272, 12_544, 25_088, 50_176)
WIDE_SPREAD = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=list(SIZES),
        help="features m; k is m / 2 (default: 784 to 50176)",
    )
    parser.add_argument("--rows", type=int, default=1024, help="rows to project (default: 1024)")
    parser.add_argument("--gram-rows", type=int, default=2048, help="rows of the Gram (default: 2048)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each (default: 5)")
    parser.add_argument("--threads", type=int, help="of BLAS, Numba and torch (default: each its own choice)")
    parser.add_argument("--memory", help="budget, for example 4GiB; a larger R is measured in part (default: 4GiB)")
    parser.add_argument(
        "--min-speedup", type=float, metavar="X", help="exit with 4 if hadamard at the last size is below X times sgemm"
    )
    projection_accuracy.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time every projection and peer at every size; one that fails keeps its row, with the reason."""
    if args.accuracy is not None:
        return {"benchmark": "projection", **projection_accuracy.run(args), "machine": describe_machine()}
    rows: list[dict[str, Any]] = []
    memory = memory_budget(args.memory)
    with threads(args.threads) as count:
        steps = [(m, task) for m in args.sizes for task in (_projections, _grams)]
        for m, contestants in (bar := tqdm(steps, desc="sizes")):
            bar.set_postfix_str(f"m={m}")
            rows += _timed(list(contestants(args, m, memory)), args.repeats)
    peaks = _note_peaks(rows)
    return {
        "benchmark": "projection",
        "threads": count,
        "rows": rows,
        "exponents": {
            f"{task} {name}": exponent(sizes, seconds) for (task, name), (_, sizes, seconds) in _series(rows).items()
        },
        "peak_tops": peaks,
        "speedup": _speedup(rows),
        "machine": describe_machine(),
    }


def _timed(contestants: list[Contestant], repeats: int) -> list[dict[str, Any]]:
    prepare(contestants)
    measure(contestants, BASE, repeats, progress=False)
    for each in contestants:
        operations = each.row.pop("operations")
        if "seconds" in each.row:
            each.row["seconds_per_row"] = each.row["seconds"] / each.row["n"]
            each.row["effective_tops"] = operations / each.row["seconds"] / 1e12
    return [each.row for each in contestants]


def _projections(args: argparse.Namespace, m: int, memory: int) -> Iterator[Contestant]:
    n, k = args.rows, max(1, m // 2)
    bits = generated_bits(n, m)[0]
    common = {"task": "projection", "n": n, "m": m, "k": k, "operations": 4 * n * m * k}
    for name, make in PROJECTORS.items():
        yield Contestant(common | _named(name, "aurevoir"), partial(_own, make(m, k, 0), bits, memory))
    yield Contestant(
        common | _named("opu-simulated", "peer"), partial(_own, SimulatedOpu(m, k, budget=memory), bits, memory)
    )
    # Both parts of R in float32, no more than a quarter of the budget.
    columns = max(1, min(k, memory // 4 // (8 * m)))
    part = {} if columns == k else {"remark": f"measured on {columns} of {k} columns of R, seconds scaled"}
    matrix = partial(_matrix, m, columns)
    for name, multiply in (("sgemm", _sgemm), ("torch float32", _torch_float32), (INT8, _torch_int8)):
        make_peer = partial(_peer, multiply, bits, m, memory, matrix)
        yield Contestant(common | _named(name, "peer") | part, make_peer, k / columns)


def _grams(args: argparse.Namespace, m: int, memory: int) -> Iterator[Contestant]:
    n = args.gram_rows
    bits = generated_bits(n, m)[0]
    common = {"task": "gram", "n": n, "m": m, "k": None, "operations": 2 * m * n**2}
    halved = {"remark": "by symmetry, half of the counted operations are done"}
    yield Contestant(common | _named("popcount", "aurevoir") | halved, lambda: partial(overlap, bits))
    for name, multiply in (("sgemm", _sgemm), ("torch float32", _torch_float32), (INT8, _torch_int8)):
        yield Contestant(common | _named(name, "peer"), partial(_peer, multiply, bits, m, memory, None))
    # NumPy sends a product with the own transpose to ssyrk.
    yield Contestant(common | _named("ssyrk", "peer") | halved, partial(_peer, _ssyrk, bits, m, memory, None))


def _named(name: str, group: str) -> dict[str, Any]:
    return {"name": name, "group": group}


def _own(projection: Any, bits: np.ndarray, memory: int) -> Callable[[], Any]:
    require(8 * len(bits) * projection.k, memory, f"{len(bits)} x {projection.k} intensities", "give fewer --rows")
    return lambda: projection.intensities(bits)


def _matrix(m: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, m, columns), dtype="float32")


def _peer(
    multiply: Callable[..., Callable[[], Any]],
    bits: np.ndarray,
    m: int,
    memory: int,
    matrix: Callable[[], np.ndarray] | None,
) -> Callable[[], Any]:
    require(8 * len(bits) * m, memory, f"{len(bits)} x {m} bits as float32", "give fewer rows")
    return multiply(unpack(bits, m, "float32"), None if matrix is None else matrix())


def _sgemm(x: np.ndarray, matrix: np.ndarray | None) -> Callable[[], Any]:
    if matrix is None:
        other = x.copy()
        return lambda: x @ other.T

    def intensities() -> np.ndarray:
        real, imaginary = x @ matrix[0], x @ matrix[1]
        np.square(real, out=real)
        np.square(imaginary, out=imaginary)
        real += imaginary
        return real

    return intensities


def _ssyrk(x: np.ndarray, matrix: None) -> Callable[[], Any]:
    return lambda: x @ x.T


def _torch_float32(x: np.ndarray, matrix: np.ndarray | None) -> Callable[[], Any]:
    import torch

    rows = torch.from_numpy(x)
    if matrix is None:
        return lambda: rows @ rows.T
    real, imaginary = torch.from_numpy(matrix)
    return lambda: (rows @ real).square_().add_((rows @ imaginary).square_())


def _torch_int8(x: np.ndarray, matrix: np.ndarray | None) -> Callable[[], Any]:
    """Multiply by `torch._int_mm`, whose sums are exact int32; R is Gaussian with 40 levels a sigma."""
    import torch

    rows = torch.from_numpy(x).to(torch.int8)
    if matrix is None:
        return lambda: torch._int_mm(rows, rows.T)
    real, imaginary = (torch.from_numpy(part).mul(40).clamp(-127, 127).to(torch.int8) for part in matrix)
    return lambda: torch._int_mm(rows, real).float().square_().add_(torch._int_mm(rows, imaginary).float().square_())


def _note_peaks(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Note each row's share of the best rates that matrix products reached in this run; return those."""
    peaks = {}
    for name in (BASE, INT8):
        rates = [row["effective_tops"] for row in rows if row["name"] == name and "error" not in row]
        if rates:
            peaks[name] = max(rates)
    for row in rows:
        if "error" not in row:
            row["of_peak"] = {name: row["effective_tops"] / peak for name, peak in peaks.items()}
    return peaks


def _series(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[str, list[float], list[float]]]:
    series: dict[tuple[str, str], tuple[str, list[float], list[float]]] = {}
    for row in rows:
        if "error" not in row:
            _, sizes, seconds = series.setdefault((row["task"], row["name"]), (row["group"], [], []))
            sizes.append(row["m"])
            seconds.append(row["seconds_per_row"])
    return series


def _speedup(rows: list[dict[str, Any]]) -> float | None:
    """Return hadamard's median ratio to sgemm at the last size."""
    last = [row for row in rows if row["name"] == "hadamard"][-1]
    found = last.get(f"times_{BASE}")
    return None if found is None else float(found["median"])


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: the largest size that was timed; or accuracy over k."""
    if "part" in result:
        return projection_accuracy.summary(result)
    timed = [row for row in result["rows"] if "times_sgemm" in row]
    if not timed:
        return ["No size was timed."]
    last = max(row["m"] for row in timed)
    rows = [
        [row["task"], row["name"], f"{1e3 * row['seconds_per_row']:.3f}", f"{row['times_sgemm']['median']:.1f}"]
        for row in timed
        if row["m"] == last
    ]
    heading = f"m = {last:,d}, k = m / 2 of the projections; {timed[0]['n']:,d} rows:"
    return [heading, "", *markdown(["", "", "ms a row", "x sgemm"], rows)]


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table."""
    if "part" in result:
        return projection_accuracy.describe(result)
    peaks = ", ".join(f"{name} {peak:.3f}" for name, peak in result["peak_tops"].items())
    lines = [
        f"{result['threads']} threads. Effective TOPS count 4 m k operations a row for a projection, whatever is done "
        "in their stead, and 2 m n^2 for a Gram.",
        f"Best matrix products of this run, TOPS: {peaks}",
        f"{'':10s} {'':14s} {'m':>6s} {'k':>6s} {'ms a row':>10s} {'spread':>7s} {'x sgemm (least to most)':>26s} "
        f"{'TOPS':>8s}   of the peak",
    ]
    return "\n".join([*lines, *(_line(row) for row in result["rows"])])


def _line(row: dict[str, Any]) -> str:
    head = f"{row['task']:10s} {row['name']:14s} {row['m']:6d} {row['k'] or '':>6}"
    if "error" in row:
        return f"{head} {row['error']}"
    found = row.get(f"times_{BASE}")
    ratio = f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})" if found else "-"
    shares = ", ".join(f"{share:.2f} {name}" for name, share in row["of_peak"].items())
    wide = "; WIDE SPREAD" if row["spread"] > WIDE_SPREAD else ""
    remark = f"; {row['remark']}" if "remark" in row else ""
    return (
        f"{head} {1e3 * row['seconds_per_row']:10.4f} {row['spread']:7.1%} {ratio:>26s} "
        f"{row['effective_tops']:8.3f}   {shares}{wide}{remark}"
    )


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw seconds a row over m, a panel a task; or accuracy over k."""
    if "part" in result:
        projection_accuracy.plot(result, path)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, task in zip(figure.subplots(1, 2), ("projection", "gram"), strict=True):
        draw_growth(axes, {name: found for (of, name), found in _series(result["rows"]).items() if of == task})
        axes.set_xlabel("features m" + (", k = m / 2" if task == "projection" else ""))
        axes.set_ylabel("seconds a row")
        axes.set_title({"projection": "|Rx|²", "gram": "Gram of bits"}[task])
    figure.savefig(path, dpi=150)
