"""Fifteen alphas with leave-one-out on one speckle, compared with scikit-learn and torch, and whether all agree.

Each starts from the same features and ends in weights: ours from uint8 speckle, scikit-learn from the
same values as float32, torch as int8. Every row's scores are compared with those of scikit-learn's own fit in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from ...errors import DataError
from ...kernels.gram import gram
from ...kernels.projection import Hadamard, expose_sample, project
from ...kernels.ridge import dual_path, one_vs_rest
from ...kernels.row_blocks import combine_rows, few_columns, signed, speckle_rows
from ..contract import Cells, Json, Row
from ..harness.contestants import Contestant, measure, prepare
from ..harness.synthetic_bits import generated_bits
from ..reporting.text import aligned, of_median

BASE = "RidgeClassifierCV accuracy"
CLASSES, TEST_ROWS = 10, 1000


@dataclass(frozen=True)
class Speckle:
    """Speckle of generated bits, and labels."""

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def generate(cls, n: int, m: int, k: int) -> "Speckle":
        """Project generated bits of n training rows and `TEST_ROWS` test rows by Hadamard transforms."""
        bits, labels = generated_bits(n + TEST_ROWS, m, CLASSES)
        projection = Hadamard(m, k)
        camera = expose_sample(projection, bits[:n])
        speckle = np.concatenate([block for _, block in project(projection, camera, bits)])
        return cls(speckle[:n], speckle[n:], labels[:n], labels[n:])


@dataclass(frozen=True)
class _Fit:
    alpha: float
    loo_accuracy: float | None
    weights: np.ndarray
    intercept: np.ndarray


def compare(n: int, m: int, k: int, repeats: int) -> list[Row]:
    """Return a row for each search of ours and each peer; one that fails keeps its row, with the reason."""
    data = Speckle.generate(n, m, k)
    targets = one_vs_rest(data.labels, CLASSES)
    alphas = dual_path(gram(data.train), targets, search="halving").alphas
    X = signed(data.train)
    common = shape(n, m, k) | {"alphas": len(alphas)}
    contestants = [
        Contestant(Row(common | {"group": group, "name": name}), partial(partial, run))
        for group, name, run in _runs(data, X, targets, alphas)
    ]
    prepare(contestants, keep=True)
    measure(contestants, BASE, repeats)
    _check(contestants, data, X)
    for each in contestants:
        if each.found is None and each.row.error is None:
            each.row.note(remark="no leave-one-out: it chooses no alpha")
    return [each.row for each in contestants]


def shape(n: int, m: int, k: int) -> Cells:
    """Return what all rows of this part have."""
    return {"part": "peers", "n": n, "m": m, "k": k}


def _runs(
    data: Speckle, X: np.ndarray, targets: np.ndarray, alphas: np.ndarray
) -> Iterator[tuple[str, str, Callable[[], _Fit | None]]]:
    for search in ("all", "halving"):
        yield "aurevoir", f"aurevoir {search}", partial(_own, data.train, targets, alphas, search)
    yield "peer", BASE, partial(_cross_validated, X, data.labels, alphas, "accuracy")
    yield "peer", "RidgeClassifierCV default", partial(_cross_validated, X, data.labels, alphas, None)
    yield "peer", f"{len(alphas)} RidgeClassifier", partial(_one_by_one, X, data.labels, alphas)
    levels = (data.train ^ 0x80).view("int8")
    yield "peer", "torch eigh float64", partial(_torch, levels, targets, alphas, _by_spectrum)
    yield "peer", "torch Cholesky float64", partial(_torch, levels, targets, alphas, _by_factors)


def _own(speckle: np.ndarray, targets: np.ndarray, alphas: np.ndarray, search: str) -> _Fit:
    path = dual_path(gram(speckle), targets, alphas, search=search)
    k = speckle.shape[1]
    weights = combine_rows(speckle_rows(speckle, few_columns(speckle)), k, path.coefficients)
    return _Fit(path.alpha, path.loo_accuracy, weights, path.intercept)


def _cross_validated(X: np.ndarray, labels: np.ndarray, alphas: np.ndarray, scoring: str | None) -> _Fit:
    from sklearn.linear_model import RidgeClassifierCV

    model = RidgeClassifierCV(alphas, scoring=scoring).fit(X, labels)
    loo = float(model.best_score_) if scoring else None
    return _Fit(float(model.alpha_), loo, model.coef_.T, model.intercept_)


def _one_by_one(X: np.ndarray, labels: np.ndarray, alphas: np.ndarray) -> None:
    from sklearn.linear_model import RidgeClassifier

    for alpha in alphas:
        RidgeClassifier(alpha=float(alpha)).fit(X, labels)


def _torch(
    levels: np.ndarray,
    targets: np.ndarray,
    alphas: np.ndarray,
    solve: Callable[[Any, Any, np.ndarray], Iterator[tuple[Any, Any]]],
) -> _Fit:
    """Solve the dual by the textbook, in float64 from torch's exact product of int8."""
    import torch

    rows, wanted = torch.from_numpy(levels), torch.from_numpy(targets)
    n = len(rows)
    products = torch._int_mm(rows, rows.T).double()
    means = products.mean(0)
    products += means.mean() - means - means[:, None]
    target_means, labels = wanted.mean(0), wanted.argmax(1)
    goal = wanted - target_means
    found, best = None, (-1.0, 0.0)
    for alpha, (coefficients, diagonal) in zip(alphas, solve(products, goal, alphas), strict=True):
        residuals = coefficients / (diagonal - 1 / (n * alpha))[:, None]
        right = ((wanted - residuals).argmax(1) == labels).double().mean().item()
        rank = (right, -residuals.square().mean().item())
        if rank > best:
            best, found = rank, (float(alpha), coefficients)
    if found is None:
        raise DataError("the system is singular at every alpha")
    features = rows.double()
    weights = features.T @ found[1]
    return _Fit(found[0], best[0], weights.numpy(), (target_means - features.mean(0) @ weights).numpy())


def _by_spectrum(products: Any, goal: Any, alphas: np.ndarray) -> Iterator[tuple[Any, Any]]:
    import torch

    values, vectors = torch.linalg.eigh(products)
    turned, squares = vectors.T @ goal, vectors.square()
    for alpha in alphas:
        inverse = 1 / (values + alpha)
        yield vectors @ (inverse[:, None] * turned), squares @ inverse


def _by_factors(products: Any, goal: Any, alphas: np.ndarray) -> Iterator[tuple[Any, Any]]:
    import torch

    for alpha in alphas:
        shifted = products.clone()
        shifted.diagonal().add_(alpha)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
        yield inverse @ goal, inverse.diagonal()


def _check(contestants: list[Contestant], data: Speckle, X: np.ndarray) -> None:
    """Note what each chose, its accuracy, and how its scores differ from those of scikit-learn at the same alpha."""
    test = signed(data.test).astype("float64")

    @cache
    def expected(alpha: float) -> np.ndarray:
        from sklearn.linear_model import RidgeClassifier

        model = RidgeClassifier(alpha=alpha).fit(X.astype("float64"), data.labels)
        return np.asarray(model.decision_function(test))

    for each in contestants:
        fit = each.found
        if fit is None or each.row.error:
            continue
        scores, reference = test @ fit.weights + fit.intercept, expected(fit.alpha)
        each.row.note(
            alpha=fit.alpha,
            loo_accuracy=fit.loo_accuracy,
            test_accuracy=float((scores.argmax(1) == data.test_labels).mean()),
            same_labels=float((scores.argmax(1) == reference.argmax(1)).mean()),
            score_difference=float(np.abs(scores - reference).max() / np.abs(reference).max()),
        )


def describe(rows: Sequence[Json]) -> list[str]:
    """Lay the rows out as a table."""
    if not rows:
        return []
    first = rows[0]
    note = (
        f"n={first['n']}, k={first['k']}, {first.get('alphas', 'no')} alphas with leave-one-out; labels and scores "
        f"compared with RidgeClassifier's in float64 at the same alpha, on {TEST_ROWS} other rows"
    )
    header = ["", "seconds", "spread", f"x {BASE}", "alpha", "leave-one-out", "test", "same labels", "scores within"]
    return [note, *aligned(header, [_cells(row) for row in rows])]


def _cells(row: Json) -> list[str]:
    if "error" in row:
        return [row["name"], row["error"]]
    found = row.get(f"times_{BASE.replace(' ', '_')}")
    cells = [row["name"], f"{row['seconds']:.3f}", f"{row['spread']:.1%}", of_median(found) if found else "-"]
    if "remark" in row:
        return [*cells, row["remark"]]
    loo = "-" if row["loo_accuracy"] is None else f"{row['loo_accuracy']:.4f}"
    scores = [f"{row['test_accuracy']:.4f}", f"{row['same_labels']:.4f}", f"{row['score_difference']:.1e}"]
    return [*cells, f"{row['alpha']:.3g}", loo, *scores]
