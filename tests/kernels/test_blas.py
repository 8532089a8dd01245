import numpy as np
import pytest

from aurevoir.kernels.blas import product


@pytest.mark.parametrize(("n", "k", "c"), [(1, 1, 1), (5, 7, 3), (3, 0, 2), (0, 4, 2), (4, 3, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_is_that_of_numpy_in_whatever_order_arrays_lie(n, k, c, dtype):
    random = np.random.default_rng(0)
    left, right = random.normal(size=(n, k)).astype(dtype), random.normal(size=(k, c)).astype(dtype)
    wide = np.zeros((n, 2 * k), dtype=dtype)
    wide[:, ::2] = left
    for one in (left, np.asfortranarray(left), wide[:, ::2]):
        for other in (right, np.asfortranarray(right)):
            found = product(one, other)
            assert found.dtype == dtype
            assert found.shape == (n, c)
            np.testing.assert_allclose(found, left @ right, rtol=1e-5, atol=1e-5)
    if n:
        np.testing.assert_allclose(product(left[0], right), left[0] @ right, rtol=1e-5, atol=1e-5)
