"""Splits are those of scikit-learn, row by row, and intervals those of SciPy."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.model_selection import train_test_split

from aurevoir.transfer.multilabel import accuracy_interval
from aurevoir.transfer.splits import draw_split


@pytest.mark.parametrize("seed", range(40))
def test_strata_are_split_as_scikit_learn_splits_them(seed):
    random = np.random.default_rng(seed)
    labels = [f"class {name}" for name in random.permutation(np.repeat(np.arange(9), random.integers(2, 40, 9)))]
    tested = round(0.2 * len(labels))
    expected = train_test_split(range(len(labels)), test_size=tested, stratify=labels, random_state=seed)
    assert list(draw_split(len(labels), tested, labels, seed)) == expected


def test_rows_without_strata_are_split_as_scikit_learn_splits_them():
    assert list(draw_split(57, 11, seed=3)) == train_test_split(range(57), test_size=11, random_state=3)


def test_equal_classes_are_split_as_scikit_learn_splits_them():
    # Shares of equal classes tie, and chance decides which is rounded up.
    labels = ["c", "a", "b"] * 7
    for seed in range(20):
        expected = train_test_split(range(21), test_size=4, stratify=labels, random_state=seed)
        assert list(draw_split(21, 4, labels, seed)) == expected


def test_the_interval_is_scipys():
    for images in (1, 2, 7, 200, 12345):
        for right in {0, 1, images // 3, images - 1, images}:
            found = binomtest(right, images).proportion_ci(0.9, method="wilson")
            assert accuracy_interval(right, images, 0.9) == (found.low, found.high)
