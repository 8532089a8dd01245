import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from aurevoir.kernels.backends.reference import walsh_hadamard

quick = settings(deadline=None, max_examples=25, database=None)
seeds = st.integers(0, 2**32 - 1)


def hadamard_matrix(p):
    return scipy.linalg.hadamard(p) / np.sqrt(p)


@pytest.mark.parametrize("p", [2**i for i in range(10)])
def test_walsh_hadamard_is_the_product_with_the_hadamard_matrix(p):
    x = np.random.default_rng(p).normal(size=(3, p)).astype("float32")
    np.testing.assert_allclose(walsh_hadamard(x), x @ hadamard_matrix(p), atol=2e-5)


@pytest.mark.parametrize("p", [4096, 8192])
def test_walsh_hadamard_of_unit_vectors_are_rows_of_a_large_hadamard_matrix(p):
    picked = [0, 1, 63, 64, 65, p // 2, p - 1]
    units = np.zeros((len(picked), p), dtype="float32")
    units[np.arange(len(picked)), picked] = 1
    signs = [[(-1) ** (i & j).bit_count() for j in range(p)] for i in picked]
    np.testing.assert_allclose(walsh_hadamard(units) * np.sqrt(p), signs, atol=1e-4)


@given(seed=seeds, n=st.integers(1, 5), log_p=st.integers(0, 12))
@quick
def test_walsh_hadamard_is_its_own_inverse(seed, n, log_p):
    x = np.random.default_rng(seed).normal(size=(n, 2**log_p)).astype("float32")
    np.testing.assert_allclose(walsh_hadamard(walsh_hadamard(x)), x, atol=5e-5)


def test_walsh_hadamard_keeps_float32_and_its_input():
    x = np.ones((2, 128), dtype="float32")
    assert walsh_hadamard(x).dtype == np.float32
    np.testing.assert_array_equal(x, 1)
