import weakref
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurevoir.errors import DataError
from aurevoir.kernels.ridge import one_vs_rest, primal_path
from aurevoir.kernels.ridge.sums import RowSums, total
from aurevoir.kernels.row_blocks import speckle_rows

quick = settings(deadline=None, max_examples=20, database=None)
seeds = st.integers(0, 2**32 - 1)


def rows(seed, n, k, classes=3):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, size=(n, k), dtype="uint8"), one_vs_rest(
        random.integers(0, classes, size=n), classes
    )


def equal(a, b):
    for left, right in zip(astuple(a), astuple(b), strict=True):
        np.testing.assert_array_equal(left, right)


@given(seed=seeds, n=st.integers(0, 20), k=st.integers(1, 70))
@quick
def test_statistics_are_their_sums(seed, n, k):
    speckle, targets = rows(seed, n, k)
    x = speckle.astype("int64") - 128
    found = RowSums.of(speckle, targets)
    assert found.products.dtype == found.sums.dtype == found.crosses.dtype == np.int64
    equal(found, RowSums(n, x.sum(axis=0), x.T @ x, x.T @ targets.astype("int64"), targets.sum(axis=0)))


@given(seed=seeds, cuts=st.lists(st.integers(0, 30), min_size=1, max_size=4), order=st.randoms(use_true_random=False))
@quick
def test_statistics_add_up_bit_for_bit_in_any_order(seed, cuts, order):
    speckle, targets = rows(seed, 30, 9)
    edges = [0, *sorted(cuts), 30]
    parts = [RowSums.of(speckle[a:b], targets[a:b]) for a, b in pairwise(edges)]
    order.shuffle(parts)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    equal(total, RowSums.of(speckle, targets))


def test_the_budget_cuts_the_rows_but_changes_nothing():
    speckle, targets = rows(1, 50, 12)
    equal(RowSums.of(speckle, targets, budget=1), RowSums.of(speckle, targets))


def test_weights_count_rows_as_often():
    speckle, targets = rows(1, 8, 5)
    times = np.array([1, 2, 3, 1, 1, 2, 1, 4])
    weighted = RowSums.of(speckle, targets, times.astype("float64"))
    repeated = RowSums.of(np.repeat(speckle, times, axis=0), np.repeat(targets, times, axis=0))
    for left, right in zip(astuple(weighted), astuple(repeated), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


def test_statistics_of_other_shapes_do_not_add_up():
    with pytest.raises(DataError, match=r"\(5, 3\) and of \(6, 3\)"):
        RowSums.of(*rows(1, 8, 5)) + RowSums.of(*rows(1, 8, 6))


def test_merged_statistics_solve_as_those_of_all_rows():
    speckle, targets = rows(3, 40, 6)
    merged = RowSums.of(speckle[:15], targets[:15]) + RowSums.of(speckle[15:], targets[15:])
    a = primal_path(merged, speckle_rows(speckle), targets)
    b = primal_path(RowSums.of(speckle, targets), speckle_rows(speckle), targets)
    np.testing.assert_array_equal(a.coefficients, b.coefficients)


def test_while_a_part_is_made_only_the_sum_of_the_others_is_held():
    made, alive = [], []

    def parts():
        for seed in range(4):
            alive.append(sum(part() is not None for part in made))
            part = RowSums.of(*rows(seed, 10, 8))
            made.append(weakref.ref(part))
            yield part
            del part

    found = total(parts())
    # The first one is the sum until the second has been added.
    assert alive == [0, 1, 0, 0]
    first, *others = (RowSums.of(*rows(seed, 10, 8)) for seed in range(4))
    equal(found, sum(others, first))
