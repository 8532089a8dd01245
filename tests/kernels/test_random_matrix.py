import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from aurevoir.kernels.backends.numba import dense as numba_dense
from aurevoir.kernels.bits import unpack
from aurevoir.kernels.philox import philox
from aurevoir.kernels.random_matrix import gaussian_rows, hadamard_length, hadamard_signs, sign_rows

quick = settings(deadline=None, max_examples=25, database=None)
random_r = pytest.mark.parametrize("rows_of", [gaussian_rows, sign_rows, numba_dense.sign_rows])


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1000, 1024), (50_176, 65_536)])
def test_the_length_is_the_power_of_two_at_or_above_m(m, p):
    assert hadamard_length(m) == p


def test_hadamard_signs_are_plus_and_minus_one_in_equal_shares():
    signs = hadamard_signs(1000, 2500, 3)
    assert signs.shape == (3, 2, 3, 1024)
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean(dtype="float64")) < 4 / np.sqrt(signs.size)


@pytest.mark.parametrize(("k", "pairs"), [(1, 1), (64, 1), (65, 2), (128, 2)])
def test_there_are_no_more_pairs_of_chains_than_components_need(k, pairs):
    assert hadamard_signs(64, k, 0).shape == (pairs, 2, 3, 64)


def test_no_two_chains_of_signs_are_alike():
    signs = hadamard_signs(256, 700, 3).reshape(-1, 256)
    products = np.abs(signs.astype("int64") @ signs.T.astype("int64"))
    assert products[~np.eye(len(signs), dtype=bool)].max() < 6 * np.sqrt(256)


@pytest.mark.parametrize(("rows_of", "columns", "counter"), [(gaussian_rows, 16, 0), (sign_rows, 128, 1)])
def test_r_is_what_the_counters_of_its_docstring_draw(rows_of, columns, counter):
    rows = rows_of(slice(2, 5), 300, 2**40 + 3)
    drawn = philox((1, 4, 1, counter), 2**40 + 3)
    if rows_of is sign_rows:
        np.testing.assert_array_equal(rows[2, 1, 16:32], drawn)
    else:
        ranks = np.argsort(np.argsort(drawn, kind="stable"), kind="stable")
        found = rows[2, 1, columns : 2 * columns]
        np.testing.assert_array_equal(found[np.argsort(ranks)], np.sort(found))


@random_r
@given(m=st.integers(1, 290), start=st.integers(0, 20), length=st.integers(1, 20))
@quick
def test_rows_of_r_are_the_same_by_whatever_slice_they_are_drawn(rows_of, m, start, length):
    which = slice(start, start + length)
    np.testing.assert_array_equal(rows_of(which, m, 11), rows_of(slice(0, 40), m, 11)[which])


def test_signs_of_r_are_balanced_and_independent():
    signs = 2.0 * unpack(sign_rows(slice(0, 20), 4000, 5).reshape(40, -1), 4000) - 1
    assert np.abs(np.corrcoef(signs) - np.eye(40)).max() < 6 / np.sqrt(4000)
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)


def test_dense_rows_are_gaussian_of_sigma_40():
    drawn = gaussian_rows(slice(0, 100), 2000, 5)
    assert drawn.dtype == np.int8
    assert drawn.shape == (100, 2, 2000)
    values = drawn.ravel().astype("float64")
    assert abs(values.mean()) < 0.3
    assert abs(values.std() - 40) < 0.5
    assert abs(scipy.stats.skew(values)) < 0.02
    assert abs(scipy.stats.kurtosis(values, fisher=False) - 3) < 0.15


def test_dense_rows_and_their_two_parts_do_not_correlate():
    drawn = gaussian_rows(slice(0, 20), 4000, 5).reshape(40, 4000)
    correlations = np.corrcoef(drawn)
    assert np.abs(correlations - np.eye(40)).max() < 6 / np.sqrt(4000)
