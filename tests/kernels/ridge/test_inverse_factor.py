"""Inverses of Cholesky factors, of orders above and below those that are treated whole."""

import numpy as np
import pytest

from aurevoir.kernels.arrays import on_device, on_host
from aurevoir.kernels.ridge.inverse_factor import inverse_factor


def positive(n, condition=1e3):
    """A symmetric matrix with eigenvalues from 1 to its condition number, at no cost of n^3."""
    rows = np.random.default_rng(n).normal(size=(n, min(n, 8)))
    return np.eye(n) + rows @ rows.T * ((condition - 1) / np.linalg.norm(rows, 2) ** 2)


def check(device, n, dtype):
    matrix = positive(n)
    inverse = on_host(inverse_factor(on_device(matrix.astype(dtype), device))).astype("float64")
    assert np.abs(np.triu(inverse, 1)).max() == 0
    # L^-1 A L^-T = 1, up to epsilon times the condition number, and n for the sums.
    identity = inverse @ matrix @ inverse.T
    assert np.abs(identity - np.eye(n)).max() < 10 * np.finfo(dtype).eps * 1e3 * np.sqrt(n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 50, 300])
def test_the_inverse_turns_the_matrix_into_the_identity(n, dtype):
    check("cpu", n, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 300, 1025, 5001])
def test_a_gpu_inverts_by_halves(n, dtype):
    check("cuda", n, dtype)


@pytest.mark.gpu
def test_what_is_not_positive_definite_is_reported_on_a_gpu():
    with pytest.raises(np.linalg.LinAlgError):
        inverse_factor(on_device(-np.eye(700), "cuda"))


def test_what_is_not_positive_definite_is_reported():
    with pytest.raises(np.linalg.LinAlgError):
        inverse_factor(-np.eye(7))
