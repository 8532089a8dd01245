import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from numba.core import config

from aurevoir.kernels.backends.numba import products
from aurevoir.kernels.backends.numba.features import numba_features
from aurevoir.kernels.bits import unpack
from aurevoir.kernels.gram import gram
from aurevoir.kernels.row_blocks import bit_rows, combine_rows, score_rows, signed, speckle_rows

quick = settings(deadline=None, max_examples=40, database=None)
seeds = st.integers(0, 2**32 - 1)
budgets = st.sampled_from([None, 1, 20_000, "1MiB"])


def random_speckle(seed, n, k):
    return np.random.default_rng(seed).integers(0, 256, size=(n, k), dtype="uint8")


def brute_force(speckle):
    shifted = speckle.astype("int64") - 128
    return shifted @ shifted.T


def test_signed_is_speckle_less_128_for_every_byte():
    speckle = np.arange(256, dtype="uint8").reshape(16, 16)
    np.testing.assert_array_equal(signed(speckle), speckle.astype("float32") - 128)
    assert signed(speckle).dtype == np.float32


def test_signed_leaves_its_input_alone():
    speckle = np.arange(256, dtype="uint8")[None]
    signed(speckle)
    np.testing.assert_array_equal(speckle[0], np.arange(256))


@pytest.fixture(params=["this processor", "no int8 dot product"])
def processor(request, monkeypatch):
    if request.param != "this processor":
        monkeypatch.setattr(products, "has_dot_product", lambda: False)
    elif not products.has_dot_product():
        pytest.skip("this processor has no int8 dot product, or Numba is told not to use it")


def test_numba_s_instructions_are_those_that_it_is_told_of(monkeypatch):
    monkeypatch.setattr(config, "CPU_FEATURES", "")
    assert not any(numba_features().values())
    monkeypatch.setattr(config, "CPU_FEATURES", "+avx2,-avx512f")
    assert numba_features() == {"avx2": True, "avx512f": False}
    monkeypatch.setattr(config, "CPU_FEATURES", None)
    assert numba_features() == {name: bool(has) for name, has in get_host_cpu_features().items()}
    monkeypatch.setattr(config, "ENABLE_AVX", 0)
    assert not any(has for name, has in numba_features().items() if name.startswith("avx"))


def test_products_compile_to_the_plainest_instructions():
    """In a process of its own: what cannot be compiled ends it."""
    code = (
        "import numpy as np\n"
        "from aurevoir.kernels.gram import gram, overlap\n"
        "ones = np.random.default_rng(0).integers(0, 2, size=(5, 900), dtype='uint8')\n"
        "assert (overlap(np.packbits(ones, axis=1)) == ones.astype(int) @ ones.T).all()\n"
        "assert (gram(ones + 128) == ones.astype(int) @ ones.T).all()\n"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@given(seed=seeds, n=st.integers(1, 9), k=st.integers(1, 2500))
@example(seed=0, n=0, k=5)
@example(seed=0, n=4, k=1024)
@example(seed=0, n=4, k=1025)
@example(seed=0, n=4, k=2049)
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
