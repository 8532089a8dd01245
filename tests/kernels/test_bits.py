import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aurevoir.kernels.bits import _pack, _unpack, pack_signs, packed_length, popcount, unpack

quick = settings(deadline=None, max_examples=40, database=None)
rows = st.integers(1, 12)
widths = st.integers(1, 200)
seeds = st.integers(0, 2**32 - 1)
budgets = st.sampled_from([None, 1, 9_000, "64KiB", "1GiB"])


def ones_and_zeros(seed, n, m):
    return np.random.default_rng(seed).integers(0, 2, size=(n, m), dtype="uint8")


@given(seed=seeds, n=rows, m=widths)
@example(seed=0, n=1, m=1)
@example(seed=0, n=3, m=8)
@example(seed=0, n=3, m=9)
@quick
def test_unpack_gives_back_the_signs_that_were_packed(seed, n, m):
    features = np.random.default_rng(seed).normal(size=(n, m))
    bits = pack_signs(features)
    assert bits.shape == (n, packed_length(m))
    assert bits.dtype == np.uint8
    np.testing.assert_array_equal(unpack(bits, m), features > 0)


@given(seed=seeds, n=rows, m=widths)
@quick
def test_packing_is_that_of_numpy_with_zeros_at_the_end(seed, n, m):
    ones = ones_and_zeros(seed, n, m)
    bits = pack_signs(ones.astype("float32"))
    np.testing.assert_array_equal(bits, np.packbits(ones, axis=1))
    assert not unpack(bits, 8 * bits.shape[1])[:, m:].any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_only_what_is_strictly_positive_is_a_one(dtype):
    tiny = np.finfo(dtype).tiny
    features = np.array([[0.0, -0.0, np.nan, -tiny, -1.0, -np.inf, tiny, 1.0, np.inf]], dtype=dtype)
    np.testing.assert_array_equal(unpack(pack_signs(features), 9), [[0, 0, 0, 0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize(("m", "length"), [(0, 0), (1, 1), (7, 1), (8, 1), (9, 2), (50_176, 6_272)])
def test_packed_length_rounds_up_to_whole_bytes(m, length):
    assert packed_length(m) == length


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_unpack_returns_the_dtype_asked_for(dtype):
    assert unpack(np.array([[0b10100000]], dtype="uint8"), 3, dtype).dtype == dtype


@given(seed=seeds, n=rows, m=widths)
@quick
def test_popcount_is_the_row_sum(seed, n, m):
    ones = ones_and_zeros(seed, n, m)
    counts = popcount(np.packbits(ones, axis=1))
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, ones.sum(axis=1, dtype="int64"))


def test_popcount_counts_past_one_block_of_columns():
    ones = ones_and_zeros(3, 2, 8 * 4096 * 2 + 11)
    np.testing.assert_array_equal(popcount(np.packbits(ones, axis=1)), ones.sum(axis=1, dtype="int64"))


@given(seed=seeds, n=st.integers(0, 5), m=widths)
@quick
def test_what_packs_bits_for_cupy_packs_as_numpy_does(seed, n, m):
    ones = np.random.default_rng(seed).integers(0, 2, size=(n, m), dtype="uint8")
    np.testing.assert_array_equal(_pack(ones == 1), np.packbits(ones, axis=1))
    np.testing.assert_array_equal(_unpack(np.packbits(ones, axis=1)), np.unpackbits(np.packbits(ones, axis=1), axis=1))
