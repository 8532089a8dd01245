import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aurevoir.errors import UsageError
from aurevoir.kernels.backends.numba import products
from aurevoir.kernels.bits import pack_signs, popcount
from aurevoir.kernels.gram import gram, overlap

quick = settings(deadline=None, max_examples=40, database=None)
seeds = st.integers(0, 2**32 - 1)
rows = st.integers(1, 12)
widths = st.integers(1, 200)
budgets = st.sampled_from([None, 1, 20_000, "1MiB"])


def ones_and_zeros(seed, n, m):
    return np.random.default_rng(seed).integers(0, 2, size=(n, m), dtype="uint8")


def random_speckle(seed, n, k):
    return np.random.default_rng(seed).integers(0, 256, size=(n, k), dtype="uint8")


def brute_force(speckle):
    shifted = speckle.astype("int64") - 128
    return shifted @ shifted.T


@pytest.fixture(params=["this processor", "no int8 dot product"])
def processor(request, monkeypatch):
    if request.param != "this processor":
        monkeypatch.setattr(products, "has_dot_product", lambda: False)
    elif not products.has_dot_product():
        pytest.skip("this processor has no int8 dot product, or Numba is told not to use it")


@given(seed=seeds, n=st.integers(1, 9), k=st.integers(1, 2500))
@example(seed=0, n=0, k=5)
@example(seed=0, n=4, k=1024)
@example(seed=0, n=4, k=1025)
@example(seed=0, n=4, k=2049)
@example(seed=0, n=4, k=2111)
@example(seed=0, n=4, k=2112)
@example(seed=0, n=4, k=4097)
@example(seed=0, n=64, k=64)
@example(seed=0, n=67, k=2200)
@example(seed=0, n=131, k=63)
@settings(quick, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gram_is_the_integer_product(processor, seed, n, k):
    speckle = random_speckle(seed, n, k)
    found = gram(speckle)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, brute_force(speckle))


@given(seed=seeds, k=st.integers(1000, 4200))
@quick
def test_gram_of_the_extreme_bytes_is_exact(seed, k):
    speckle = np.random.default_rng(seed).choice(np.array([0, 255], dtype="uint8"), size=(6, k))
    speckle[0], speckle[1] = 0, 255
    np.testing.assert_array_equal(gram(speckle), brute_force(speckle))


def test_gram_is_exact_where_float32_is_not():
    speckle = np.zeros((2, 40_000), dtype="uint8")
    speckle[1, 0] = 129
    np.testing.assert_array_equal(gram(speckle), brute_force(speckle))
    assert gram(speckle)[0, 0] == 40_000 * 128**2


def test_gram_of_no_rows_is_empty():
    assert gram(np.zeros((0, 5), dtype="uint8")).shape == (0, 0)


@given(seed=seeds, n=rows, m=widths, budget=budgets)
@quick
def test_overlap_of_rows_with_themselves_is_the_integer_product(seed, n, m, budget):
    ones = ones_and_zeros(seed, n, m).astype("int64")
    counts = overlap(np.packbits(ones.astype("uint8"), axis=1), budget=budget)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, ones @ ones.T)


@given(seed=seeds, n=rows, others=rows, m=widths, budget=budgets)
@quick
def test_overlap_of_two_sets_of_rows_is_the_integer_product(seed, n, others, m, budget):
    left, right = ones_and_zeros(seed, n, m).astype("int64"), ones_and_zeros(seed + 1, others, m).astype("int64")
    packed = [np.packbits(ones.astype("uint8"), axis=1) for ones in (left, right)]
    np.testing.assert_array_equal(overlap(*packed, budget=budget), left @ right.T)


@pytest.mark.parametrize("width", [31, 32, 33, 63, 64, 65, 95, 96, 127, 980, 2048, 2049, 2079, 2080, 2111, 2112, 4159])
def test_overlap_of_wide_rows_is_the_integer_product(width):
    data = np.random.default_rng(width).integers(0, 256, size=(70, 2 * width), dtype="uint8")
    ones = np.unpackbits(data[:, :width], axis=1).astype("float64")
    # Rows whose bytes are among those of others.
    for bits in (data[:, :width], np.ascontiguousarray(data[:, :width])):
        np.testing.assert_array_equal(overlap(bits), ones @ ones.T)
        np.testing.assert_array_equal(overlap(bits[:3], bits), ones[:3] @ ones.T)


def test_overlap_counts_exactly_where_every_bit_is_one():
    m = 300_001
    bits = pack_signs(np.ones((2, m), dtype="int8"))
    np.testing.assert_array_equal(overlap(bits), np.full((2, 2), m))


def test_the_diagonal_of_the_overlap_is_the_popcount():
    bits = np.random.default_rng(5).integers(0, 256, size=(20, 33), dtype="uint8")
    np.testing.assert_array_equal(np.diag(overlap(bits)), popcount(bits))


def test_no_rows_overlap_nothing():
    bits = np.zeros((3, 2), dtype="uint8")
    assert overlap(bits[:0]).shape == (0, 0)
    assert overlap(bits, bits[:0]).shape == (3, 0)
    assert popcount(bits[:0]).shape == (0,)


def test_bits_of_different_widths_are_refused():
    with pytest.raises(UsageError, match="3 and of 2 bytes"):
        overlap(np.zeros((2, 2), dtype="uint8"), np.zeros((2, 3), dtype="uint8"))
