"""Full conformal prediction: equal to solving the ridge anew for every candidate label and every image left out."""

import numpy as np
import pytest
from scipy.special import softmax

from aurevoir.errors import BudgetError, DataError
from aurevoir.kernels.ridge.conformal import ConformalRidge, require_memory

N, C, D, ALPHA, TEMPERATURE = 24, 3, 8, 3.0, 0.4


def _ridge(rows, targets, weights):
    extended, penalty = np.c_[rows, np.ones(len(rows))], ALPHA * np.eye(D + 1)
    penalty[-1, -1] = 0
    return np.linalg.solve(
        extended.T @ (extended * weights[:, None]) + penalty, extended.T @ (targets * weights[:, None])
    )


def _solved_anew(rows, labels, weights, row, candidate, by_class):
    rows, labels, weights = np.r_[rows, row[None]], np.r_[labels, candidate], np.r_[weights, 1]
    targets, chances = 2.0 * (np.arange(C) == labels[:, None]) - 1, []
    for left_out in range(len(rows)):
        others = np.arange(len(rows)) != left_out
        found = _ridge(rows[others], targets[others], weights[others])
        chances.append(softmax(np.r_[rows[left_out], 1] @ found / TEMPERATURE)[labels[left_out]])
    counted = weights * ((labels == candidate) if by_class else 1)
    return counted @ (np.array(chances) <= chances[-1] + 1e-12) / counted.sum()


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("shift", [0.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_p_values_are_those_of_solving_anew(by_class, shift, weighted):
    random = np.random.default_rng(0)
    labels = np.arange(N) % C
    rows = random.normal(size=(N, D)) + random.normal(size=(C, D))[labels] + shift
    new, weights = random.normal(size=(4, D)) + shift, np.ones(N)
    if weighted:
        weights = random.integers(1, 4, N).astype("float64")
    ridge = ConformalRidge(rows @ rows.T, ALPHA, labels, C, weights, TEMPERATURE, by_class)
    found = ridge.p_values(new @ rows.T, np.square(new).sum(axis=1))
    expected = [[_solved_anew(rows, labels, weights, row, label, by_class) for label in range(C)] for row in new]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("by_class", [False, True])
def test_true_labels_are_missed_no_more_often_than_promised(by_class):
    random, missed = np.random.default_rng(0), np.zeros(C)
    for _ in range(60):
        labels = random.permutation(np.arange(60) % C)
        rows = random.normal(size=(60, D)) + 0.8 * np.eye(C, D)[labels]
        train, new = slice(0, 45), slice(45, None)
        ridge = ConformalRidge(rows[train] @ rows[train].T, 1.0, labels[train], C, np.ones(45), TEMPERATURE, by_class)
        found = ridge.p_values(rows[new] @ rows[train].T, np.square(rows[new]).sum(axis=1))
        missed += np.bincount(labels[new], found[np.arange(15), labels[new]] <= 0.1, minlength=C)
    # Of 900 images, 300 of each class; three standard deviations above one tenth.
    assert missed.sum() / 900 < 0.13
    assert missed.sum() / 900 > 0.06
    if by_class:
        assert missed.max() / 300 < 0.152


def test_scores_far_apart_and_a_cold_temperature_stay_finite():
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(12, 3)), np.arange(12) % 2
    ridge = ConformalRidge(1e8 * rows @ rows.T, 1e-6, labels, 2, np.ones(12), 1e-3)
    found = ridge.p_values(1e8 * rows[:3] @ rows.T, 1e8 * np.square(rows[:3]).sum(axis=1))
    assert ((found > 0) & (found <= 1)).all()


def test_a_singular_system_and_one_beyond_the_budget_are_refused():
    with pytest.raises(DataError, match="singular at alpha 0"):
        ConformalRidge(np.zeros((4, 4)), 0.0, np.arange(4) % 2, 2, np.ones(4), 1.0)
    require_memory(100, "1MiB")
    with pytest.raises(BudgetError, match="inverse of the 1000 x 1000 ridge system"):
        require_memory(1000, "1MiB")
