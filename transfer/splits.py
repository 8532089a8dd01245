"""Draw rows to test on, in the proportions of classes: the same rows as scikit-learn's ``train_test_split``.

Importing scikit-learn takes longer than the ridge of a thousand images, and a fit needs no more of it than this.
"""

from collections.abc import Sequence

import numpy as np


def draw_split(
    n: int, tested: int, strata: Sequence[object] | None = None, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Return the rows to train on and the rows to test on, both in random order.

    Parameters
    ----------
    n : int
        The number of rows.
    tested : int
        How many of them to test on.
    strata : sequence of n values, optional
        The class of each row. Every class has two rows or more, and both parts have room for a row of each.
    seed : int
        From 0 to 2^32 - 1.
    """
    random = np.random.RandomState(seed)
    if strata is None:
        order = random.permutation(n)
        return order[tested:].tolist(), order[:tested].tolist()
    _, classes, counts = np.unique(np.asarray(strata), return_inverse=True, return_counts=True)
    trained_of = _shares(counts, n - tested, random)
    tested_of = _shares(counts - trained_of, tested, random)
    train: list[int] = []
    test: list[int] = []
    rows_of = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    for rows, first, second in zip(rows_of, trained_of, tested_of, strict=True):
        drawn = rows[random.permutation(len(rows))]
        train += drawn[:first].tolist()
        test += drawn[first : first + second].tolist()
    return random.permutation(train).tolist(), random.permutation(test).tolist()


def _shares(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """Return how many rows of each class there are among so many: its share, rounded; among equals chance decides."""
    exact = counts / counts.sum() * total
    whole = np.floor(exact)
    rest = exact - whole
    left = int(total - whole.sum())
    for fraction in np.unique(rest)[::-1]:
        if left <= 0:
            break
        equals = np.flatnonzero(rest == fraction)
        chosen = random.choice(equals, size=min(len(equals), left), replace=False)
        whole[chosen] += 1
        left -= len(chosen)
    rounded: np.ndarray = whole.astype(int)
    return rounded
