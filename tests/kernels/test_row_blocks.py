import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurevoir.kernels.bits import unpack
from aurevoir.kernels.row_blocks import bit_rows, combine_rows, score_rows, signed, speckle_rows

quick = settings(deadline=None, max_examples=40, database=None)
seeds = st.integers(0, 2**32 - 1)
budgets = st.sampled_from([None, 1, 20_000, "1MiB"])


def random_speckle(seed, n, k):
    return np.random.default_rng(seed).integers(0, 256, size=(n, k), dtype="uint8")


def test_signed_is_speckle_less_128_for_every_byte():
    speckle = np.arange(256, dtype="uint8").reshape(16, 16)
    np.testing.assert_array_equal(signed(speckle), speckle.astype("float32") - 128)
    assert signed(speckle).dtype == np.float32


def test_signed_leaves_its_input_alone():
    speckle = np.arange(256, dtype="uint8")[None]
    signed(speckle)
    np.testing.assert_array_equal(speckle[0], np.arange(256))


@given(seed=seeds, n=st.integers(0, 30), m=st.integers(1, 70), budget=budgets)
@quick
def test_bit_rows_are_the_unpacked_bits_in_order(seed, n, m, budget):
    bits = random_speckle(seed, n, -(-m // 8))
    seen = list(bit_rows(bits, m, budget)())
    assert [i for which, _ in seen for i in range(which.start, which.stop)] == list(range(n))
    for which, block in seen:
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, unpack(bits, m)[which])


def test_a_pass_over_rows_can_be_started_again():
    rows = speckle_rows(random_speckle(1, 10, 4), budget=1)
    assert len(list(rows())) == len(list(rows())) == 10


@given(seed=seeds, n=st.integers(1, 30), k=st.integers(1, 40), c=st.integers(1, 4), budget=budgets)
@quick
def test_combine_rows_is_the_transpose_times_the_coefficients(seed, n, k, c, budget):
    speckle = random_speckle(seed, n, k)
    coefficients = np.random.default_rng(seed).normal(size=(n, c))
    weights = combine_rows(speckle_rows(speckle, budget), k, coefficients)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, (speckle - 128.0).T @ coefficients, rtol=1e-11, atol=1e-9)


@given(seed=seeds, n=st.integers(0, 30), m=st.integers(1, 70), c=st.integers(1, 4), budget=budgets)
@quick
def test_score_rows_is_rows_times_weights_plus_intercept(seed, n, m, c, budget):
    bits = random_speckle(seed, n, -(-m // 8))
    random = np.random.default_rng(seed)
    weights, intercept = random.normal(size=(m, c)), random.normal(size=c)
    scores = score_rows(bit_rows(bits, m, budget), n, weights, intercept)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, unpack(bits, m) @ weights + intercept, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("budget", [1, 10_000, "1MiB"])
def test_the_budget_does_not_change_sums_of_rows(budget):
    speckle = random_speckle(2, 300, 50)
    coefficients = np.random.default_rng(2).integers(-9, 9, size=(300, 3)).astype("float64")
    whole = combine_rows(speckle_rows(speckle), 50, coefficients)
    np.testing.assert_array_equal(combine_rows(speckle_rows(speckle, budget), 50, coefficients), whole)


def test_a_smaller_budget_means_smaller_blocks():
    speckle = random_speckle(3, 100, 64)
    lengths = [max(len(block) for _, block in speckle_rows(speckle, budget)()) for budget in (1, 100_000, "1GiB")]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1
    assert 1 < lengths[1] < lengths[2] == 100
