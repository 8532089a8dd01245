"""Peers of the ridge."""

import pytest


def test_torch_says_what_scikit_learn_says():
    pytest.importorskip("torch")
    from aurevoir.benchmarks.rivals.ridge_peers import compare

    rows = {row["name"]: row.to_json() for row in compare(100, 256, 150, 1)}
    for name in ("torch eigh float64", "torch Cholesky float64"):
        assert rows[name]["alpha"] == rows["aurevoir all"]["alpha"]
        assert rows[name]["loo_accuracy"] == pytest.approx(rows["aurevoir all"]["loo_accuracy"])
        assert rows[name]["same_labels"] == 1
