"""The checks of dtypes and shapes that `array_checks` installs: they must bite, on every kernel."""

import importlib

import numpy as np
import pytest
from array_checks import checked_modules
from jaxtyping import TypeCheckError

from aurevoir.kernels.backends import get_backend, reference
from aurevoir.kernels.exact_kernel import exact_kernel
from aurevoir.kernels.gram import gram, overlap
from aurevoir.kernels.ridge import RidgePath, dual_path, one_vs_rest
from aurevoir.kernels.row_blocks import score_rows, speckle_rows

pytest.importorskip("beartype")

BITS = np.zeros((4, 3), dtype="uint8")


def wrong_calls():
    """Calls whose arrays have a wrong dtype, a wrong number of axes, or lengths that do not go together."""
    targets = np.zeros((4, 2))
    yield "a dtype", lambda: overlap(BITS.astype("int64"))
    yield "the number of axes", lambda: gram(BITS[0])
    yield "two lengths", lambda: exact_kernel(np.zeros((4, 4), "int64"), np.zeros(4, "int64"), np.zeros(3, "int64"))
    yield "a shape that is not square", lambda: dual_path(np.zeros((4, 3)), targets)
    yield "labels of floats", lambda: one_vs_rest(np.zeros(4), 2)
    yield "weights of float32", lambda: score_rows(speckle_rows(BITS), 4, np.zeros((3, 2), "float32"), np.zeros(2))
    yield "a field", lambda: RidgePath(np.ones(2), np.ones(2), np.ones(3), 0, targets, np.ones(2))
    yield "a backend's arguments", lambda: get_backend("numba").shared_ones(BITS, BITS[:, :2])


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in wrong_calls()])
def test_a_wrong_array_is_seen(call):
    with pytest.raises(TypeCheckError):
        call()


def test_a_wrong_result_is_seen(monkeypatch):
    monkeypatch.setattr("aurevoir.kernels.gram.backend_for", lambda array: reference)
    assert overlap(BITS).dtype == np.int64
    monkeypatch.setattr(reference, "shared_ones", lambda *arguments, **options: np.zeros((4, 4), "int32"))
    with pytest.raises(TypeCheckError, match="return"):
        overlap(BITS)


def test_arrays_of_cupy_are_checked_alike(cupy):
    assert overlap(cupy.asarray(BITS)).shape == (4, 4)
    with pytest.raises(TypeCheckError):
        overlap(cupy.asarray(BITS.astype("int64")))


@pytest.mark.parametrize("name", checked_modules())
def test_every_module_of_the_kernels_is_under_the_hook(name):
    if "triton" in name:
        pytest.importorskip("triton")
    assert type(importlib.import_module(name).__spec__.loader).__name__ == "_JaxtypingLoader"
