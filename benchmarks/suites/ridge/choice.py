"""What halving loses: leave-one-out and held-out accuracy at its alpha and at the exhaustive search's."""

from collections.abc import Sequence

import numpy as np

from ....kernels.bits import popcount
from ....kernels.exact_kernel import exact_kernel
from ....kernels.gram import gram, overlap
from ....kernels.projection import Hadamard, expose_sample, project
from ....kernels.ridge import RidgePath, dual_path, one_vs_rest
from ....kernels.row_blocks import signed
from ....progress import progress_bar
from ...contract import Cells, Json, Row
from ...harness.labelled_bits import LabelledBits
from ...harness.splits import paired
from ...reporting.text import plus_minus

KINDS = ("none", "exact", "hadamard")
TOLERANCE = 1e-3


def compare_choices(data: LabelledBits, components: int) -> list[Row]:
    """Return a row a projection: accuracies at the two choices over the splits, and their paired differences."""
    rows = []
    for kind in KINDS:
        row = Row({"part": "choice", "data": data.name, "projection": kind, "images": len(data.labels), "m": data.m})
        row.note(k=components if kind == "hadamard" else None)
        with row.attempt():
            splits = progress_bar(range(len(data.parts)), desc=f"{data.name} {kind}")
            row.note(**_summary([_split(data, kind, components, seed) for seed in splits], len(data.parts[0][0])))
        rows.append(row)
    return rows


def _split(data: LabelledBits, kind: str, components: int, seed: int) -> dict[str, dict[str, float]]:
    train, test = data.parts[seed]
    products, cross = _kernels(kind, data, components, seed)
    targets = one_vs_rest(data.labels[train], data.classes)
    found = {}
    for search in ("all", "halving"):
        path = dual_path(products, targets, search=search)
        right = _predicted(path, cross) == data.labels[test]
        found[search] = {"alpha": path.alpha, "loo_accuracy": path.loo_accuracy, "accuracy": float(right.mean())}
    return found


def _kernels(kind: str, data: LabelledBits, components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel of the training rows, and that of test rows with training rows."""
    train, test = (data.bits[part] for part in data.parts[seed])
    if kind == "hadamard":
        projection = Hadamard(data.m, components, seed)
        camera = expose_sample(projection, train)
        seen, other = (
            np.concatenate([block for _, block in project(projection, camera, rows)]) for rows in (train, test)
        )
        return gram(seen), signed(other).astype("float64") @ signed(seen).T.astype("float64")
    products, cross = overlap(train), overlap(test, train)
    if kind == "none":
        return products, cross
    norms, others = popcount(train), popcount(test)
    return exact_kernel(products, norms, norms), exact_kernel(cross, others, norms)


def _predicted(path: RidgePath, cross: np.ndarray) -> np.ndarray:
    labels: np.ndarray = (cross @ path.coefficients + path.intercept).argmax(axis=1)
    return labels


def _summary(found: Sequence[dict[str, dict[str, float]]], train_rows: int) -> Cells:
    summary: Cells = {
        "splits": len(found),
        "train_rows": train_rows,
        "same_alpha": sum(one["all"]["alpha"] == one["halving"]["alpha"] for one in found),
    }
    for name in ("loo_accuracy", "accuracy"):
        values = {search: [one[search][name] for one in found] for search in ("all", "halving")}
        less = paired(values["halving"], values["all"])
        summary[name] = {search: float(np.mean(value)) for search, value in values.items()} | {
            "halving_less_all": less["mean"],
            "standard_error": less["standard_error"],
            "within_a_tenth_of_a_point": bool(less["mean"] >= -TOLERANCE),
        }
    return summary


def describe(rows: Sequence[Json]) -> list[str]:
    """Lay the rows out as a table."""
    note = "What halving loses; the ridge uses it from 2048 rows on. Errors are over splits of the same rows."
    return [note, *(_line(row) for row in rows)] if rows else []


def _line(row: Json) -> str:
    head = f"{row['data']:12s} {row['projection']:9s}"
    if "error" in row:
        return f"{head} {row['error']}"
    line = f"{head} {row['train_rows']:5d} rows: the same alpha in {row['same_alpha']} of {row['splits']} splits"
    for name, words in (("loo_accuracy", "leave-one-out"), ("accuracy", "test")):
        found = row[name]
        less = plus_minus(found["halving_less_all"], found["standard_error"], 5, "+")
        line += f"; {words} accuracy {found['halving']:.4f}, less exhaustive {less}"
    return line
