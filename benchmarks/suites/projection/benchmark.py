"""Seconds of the projections and of the popcount Gram over their size, compared with their peers, in one run.

The task of a projection is |Rx|^2 of n rows, as float32; that of the Gram, the inner products of n
rows of bits. Ours start from packed bits and draw R on the way. The peers' rows are unpacked and
their R drawn before they are timed. With ``--accuracy``: what a projection is worth, instead; see
`accuracy`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ....kernels.bits import unpack
from ....kernels.gram import overlap
from ....kernels.memory import memory_budget, require
from ....kernels.readout import PROJECTORS
from ....progress import progress_bar
from ....transfer.opu import SimulatedOpu
from ...contract import Benchmark, Cells, Json, Result, Row
from ...harness.contestants import Contestant, measure, prepare
from ...harness.scaling import Series, series
from ...harness.synthetic_bits import generated_bits
from ...harness.threads import threads
from ...reporting.figures import draw_scaling, figure, sound
from ...reporting.text import aligned, markdown_table, of_median
from . import accuracy

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
    accuracy.add_arguments(parser)


def run(args: argparse.Namespace) -> Result:
    """Time every projection and peer at every size; one that fails keeps its row, with the reason."""
    if args.accuracy is not None:
        return accuracy.run(args)
    rows: list[Row] = []
    memory = memory_budget(args.memory)
    with threads(args.threads) as count:
        steps = [(m, task) for m in args.sizes for task in (_projections, _grams)]
        for m, contestants in (bar := progress_bar(steps, desc="sizes")):
            bar.set_postfix_str(f"m={m}")
            rows += _timed(list(contestants(args, m, memory)), args.repeats)
    peaks = _note_peaks(rows)
    scaling = _scaling([row.to_json() for row in rows])
    return Result(
        "projection",
        rows,
        {"threads": count},
        {
            "exponents": {f"{task} {name}": own.exponent for (task, name), own in scaling.items()},
            "peak_tops": peaks,
            "speedup": _speedup(rows),
        },
    )


def _timed(contestants: Sequence[Contestant], repeats: int) -> list[Row]:
    prepare(contestants)
    measure(contestants, BASE, repeats, progress=False)
    for each in contestants:
        row, operations = each.row, each.row.cells.pop("operations")
        if row.error is None:
            row.note(seconds_per_row=row["seconds"] / row["n"], effective_tops=operations / row["seconds"] / 1e12)
    return [each.row for each in contestants]


def _projections(args: argparse.Namespace, m: int, memory: int) -> Iterator[Contestant]:
    n, k = args.rows, max(1, m // 2)
    bits = generated_bits(n, m)[0]
    common = {"task": "projection", "n": n, "m": m, "k": k, "operations": 4 * n * m * k}
    for name, make in PROJECTORS.items():
        yield Contestant(Row(common | _named(name, "aurevoir")), partial(_own, make(m, k, 0), bits, memory))
    yield Contestant(
        Row(common | _named("opu-simulated", "peer")), partial(_own, SimulatedOpu(m, k, budget=memory), bits, memory)
    )
    # Both parts of R in float32, no more than a quarter of the budget.
    columns = max(1, min(k, memory // 4 // (8 * m)))
    part = {} if columns == k else {"remark": f"measured on {columns} of {k} columns of R, seconds scaled"}
    matrix = partial(_matrix, m, columns)
    for name, multiply in (("sgemm", _sgemm), ("torch float32", _torch_float32), (INT8, _torch_int8)):
        make_peer = partial(_peer, multiply, bits, m, memory, matrix)
        yield Contestant(Row(common | _named(name, "peer") | part), make_peer, k / columns)


def _grams(args: argparse.Namespace, m: int, memory: int) -> Iterator[Contestant]:
    n = args.gram_rows
    bits = generated_bits(n, m)[0]
    common = {"task": "gram", "n": n, "m": m, "k": None, "operations": 2 * m * n**2}
    halved = {"remark": "by symmetry, half of the counted operations are done"}
    yield Contestant(Row(common | _named("popcount", "aurevoir") | halved), lambda: partial(overlap, bits))
    for name, multiply in (("sgemm", _sgemm), ("torch float32", _torch_float32), (INT8, _torch_int8)):
        yield Contestant(Row(common | _named(name, "peer")), partial(_peer, multiply, bits, m, memory, None))
    # NumPy computes a product with the own transpose by ssyrk.
    yield Contestant(Row(common | _named("ssyrk", "peer") | halved), partial(_peer, _ssyrk, bits, m, memory, None))


def _named(name: str, group: str) -> Cells:
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
        real: np.ndarray = x @ matrix[0]
        imaginary = x @ matrix[1]
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


def _note_peaks(rows: Sequence[Row]) -> dict[str, float]:
    """Note each row's share of the best rates that matrix products reached in this run; return those."""
    timed = [row for row in rows if row.error is None]
    rates = {name: [row["effective_tops"] for row in timed if row["name"] == name] for name in (BASE, INT8)}
    peaks = {name: max(found) for name, found in rates.items() if found}
    for row in timed:
        row.note(of_peak={name: row["effective_tops"] / peak for name, peak in peaks.items()})
    return peaks


def _scaling(rows: Sequence[Json]) -> dict[tuple[str, str], Series]:
    return series(rows, lambda row: (row["task"], row["name"]), "m", "seconds_per_row")


def _speedup(rows: Sequence[Row]) -> float | None:
    """Return hadamard's median ratio to sgemm at the last size."""
    found = [row for row in rows if row["name"] == "hadamard"][-1].get(f"times_{BASE}")
    return None if found is None else float(found["median"])


def markdown(result: Json) -> list[str]:
    """Return the largest size that was timed; or accuracy over k."""
    if "part" in result:
        return accuracy.markdown(result)
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
    return [heading, "", *markdown_table(["", "", "ms a row", "x sgemm"], rows)]


def describe(result: Json) -> str:
    """Lay the rows out as a table."""
    if "part" in result:
        return accuracy.describe(result)
    peaks = ", ".join(f"{name} {peak:.3f}" for name, peak in result["peak_tops"].items())
    lines = [
        f"{result['threads']} threads. Effective TOPS count 4 m k operations a row for a projection, whatever is done "
        "in their stead, and 2 m n^2 for a Gram.",
        f"Best matrix products of this run, TOPS: {peaks}",
    ]
    header = ["", "", "m", "k", "ms a row", "spread", "x sgemm (least to most)", "TOPS", "of the peak"]
    return "\n".join([*lines, *aligned(header, [_cells(row) for row in result["rows"]])])


def _cells(row: Json) -> list[str]:
    head = [row["task"], row["name"], str(row["m"]), str(row["k"] or "")]
    if "error" in row:
        return [*head, row["error"]]
    ratio = of_median(row[f"times_{BASE}"]) if f"times_{BASE}" in row else "-"
    remarks = ["WIDE SPREAD"] if row["spread"] > WIDE_SPREAD else []
    remarks += [row["remark"]] if "remark" in row else []
    return [
        *head,
        f"{1e3 * row['seconds_per_row']:.4f}",
        f"{row['spread']:.1%}",
        ratio,
        f"{row['effective_tops']:.3f}",
        ", ".join(f"{share:.2f} {name}" for name, share in row["of_peak"].items()),
        *(["; ".join(remarks)] if remarks else []),
    ]


def plot(result: Json, path: Path) -> None:
    """Draw seconds a row over m, a panel a task; or accuracy over k."""
    if "part" in result:
        accuracy.plot(result, path)
        return
    scaling = _scaling(sound(result["rows"]))
    with figure(path, (12, 5.5), (1, 2)) as (_, panels):
        for axes, task in zip(panels[0], ("projection", "gram"), strict=True):
            title = {"projection": "|Rx|²", "gram": "Gram of bits"}[task]
            draw_scaling(axes, {name: own for (of, name), own in scaling.items() if of == task}, title)
            axes.set_xlabel("features m" + (", k = m / 2" if task == "projection" else ""))
            axes.set_ylabel("seconds a row")


BENCHMARK = Benchmark("projection", add_arguments, run, describe, markdown, plot)
