import numpy as np

from aurevoir.kernels.bits import pack_signs, popcount, unpack
from aurevoir.kernels.exact_kernel import exact_kernel
from aurevoir.kernels.gram import overlap


def random_bits(seed, n, m):
    return pack_signs(np.random.default_rng(seed).normal(size=(n, m)))


def test_exact_kernel_is_its_formula_for_two_sets_of_rows():
    left, right = random_bits(3, 5, 77), random_bits(4, 7, 77)
    x, others = unpack(left, 77, "int64"), unpack(right, 77, "int64")
    expected = (x**2).sum(axis=1)[:, None] * (others**2).sum(axis=1) + (x @ others.T) ** 2
    counts = overlap(left, right)
    kernel = exact_kernel(counts, popcount(left), popcount(right))
    assert kernel.dtype == np.int64
    np.testing.assert_array_equal(kernel, expected)
    np.testing.assert_array_equal(counts, x @ others.T)
    assert exact_kernel(counts, popcount(left), popcount(right), out=counts) is counts
    np.testing.assert_array_equal(counts, expected)


def test_exact_kernel_counts_beyond_32_bits():
    norms = np.array([50_176])
    assert exact_kernel(norms[:, None], norms, norms)[0, 0] == 2 * 50_176**2
