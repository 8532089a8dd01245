"""Hamming distances block by block, and mirrored feature maps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurevoir.kernels.bits import pack_signs
from aurevoir.kernels.hamming import distance_blocks, mirrored, typical_distance

quick = settings(deadline=None, max_examples=40, database=None)


def rows(seed, n, m):
    return np.random.default_rng(seed).integers(0, 2, size=(n, m), dtype="uint8")


def expected(left, right):
    differ = (left[:, None] != right).sum(axis=2)
    total = left.sum(axis=1)[:, None] + right.sum(axis=1).astype(int)
    return differ / np.maximum(total, 1)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 12),
    others=st.integers(0, 12),
    m=st.integers(1, 100),
    budget=st.sampled_from([None, 1, 1500, "1MiB"]),
)
@quick
def test_every_pair_comes_once_with_its_distance(seed, n, others, m, budget):
    left, right = rows(seed, n, m), rows(seed + 1, others, m)
    found = np.full((n, others), np.nan)
    for which, columns, distances in distance_blocks(pack_signs(left), pack_signs(right), budget=budget):
        assert np.isnan(found[which, columns]).all()
        found[which, columns] = distances
    np.testing.assert_array_equal(found, expected(left, right))


@pytest.mark.parametrize("budget", [None, 1, 3000])
def test_of_one_set_what_is_above_the_diagonal_comes(budget):
    ones = rows(0, 30, 50)
    found = np.full((30, 30), np.nan)
    for which, columns, distances in distance_blocks(pack_signs(ones), pack_signs(ones), True, budget):
        found[which, columns] = distances
    above = np.triu_indices(30, 1)
    np.testing.assert_array_equal(found[above], expected(ones, ones)[above])
    assert budget is None or np.isnan(found).any()


def test_rows_without_ones_are_equal():
    empty = pack_signs(np.zeros((2, 9)))
    ((_, _, distances),) = distance_blocks(empty, empty)
    assert (distances == 0).all()


def test_the_typical_distance_is_the_median_of_different_rows():
    ones = rows(0, 40, 64)
    assert typical_distance(pack_signs(ones)) == np.median(expected(ones, ones)[np.triu_indices(40, 1)])
    few = typical_distance(pack_signs(ones), sample=10)
    assert few == np.median(expected(ones[::4], ones[::4])[np.triu_indices(10, 1)])
    assert typical_distance(pack_signs(ones[:1])) == 1


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1), (7, 3, 3), (2, 1, 6)])
@pytest.mark.parametrize("last", [False, True])
def test_mirrored_maps_are_those_of_mirrored_features(shape, last):
    channels, height, width = shape
    order = (height, width, channels) if last else shape
    maps = np.random.default_rng(0).normal(size=(5, *order))
    turned = maps[:, :, ::-1] if last else maps[..., ::-1]
    found = mirrored(pack_signs(maps.reshape(5, -1)), *shape, channels_last=last)
    np.testing.assert_array_equal(found, pack_signs(turned.reshape(5, -1)))
