"""Every backend that is available computes what the reference does, to the last bit where sums are exact."""

import os

import numpy as np
import pytest

from aurevoir.errors import MissingPackageError, UsageError
from aurevoir.kernels import backends
from aurevoir.kernels.arrays import on_device, on_host
from aurevoir.kernels.backends import available_backends, backend_for, get_backend, reference
from aurevoir.kernels.random_matrix import hadamard_signs

# Triton's kernels run on a GPU, or interpreted; `test_triton` runs this file so in a child process.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TRITON = () if INTERPRETED else pytest.mark.gpu
COMPILED = [
    pytest.param(name, marks=TRITON if name == "triton" else ())
    for name in available_backends()
    if name != "reference" and (name == "triton" or not INTERPRETED)
]
every_backend = pytest.mark.parametrize("name", COMPILED)


def on(name, array):
    """The array where a backend's functions take it."""
    return on_device(array, "cuda" if name == "triton" and not INTERPRETED else "cpu")


def random_bytes(n, length, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, length), dtype="uint8")


def random_bits(n, m, seed=0):
    return np.packbits(np.random.default_rng(seed).integers(0, 2, size=(n, m), dtype="uint8"), axis=1)


def equal(found, expected):
    found = on_host(found)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@every_backend
@pytest.mark.parametrize(("n", "others_n", "length"), [(1, 1, 1), (5, 3, 17), (40, 33, 130), (3, 0, 2)])
def test_shared_ones_are_those_of_the_reference(name, n, others_n, length):
    bits, others = random_bytes(n, length), random_bytes(others_n, length, seed=1)
    backend = get_backend(name)
    equal(backend.shared_ones(on(name, bits)), reference.shared_ones(bits))
    equal(backend.shared_ones(on(name, bits), on(name, others), budget=1), reference.shared_ones(bits, others))


@every_backend
@pytest.mark.parametrize("m", [64, 1000, 1096])
def test_bits_with_columns_first_give_the_same(name, m):
    bits, backend = random_bits(9, m), get_backend(name)
    first = on(name, np.asfortranarray(bits))
    signs = np.packbits(hadamard_signs(m, 20, 3) > 0, axis=-1, bitorder="little")
    equal(backend.shared_ones(first), reference.shared_ones(bits))
    equal(backend.shared_ones(first[:4], first), reference.shared_ones(bits[:4], bits))
    equal(backend.dense(first, m, 20, 7), reference.dense(bits, m, 20, 7))
    equal(backend.hadamard(first, m, 20, signs), on_host(backend.hadamard(on(name, bits), m, 20, signs)))
    if name != "triton":  # speckle is made there, with rows first
        equal(backend.gram(first), reference.gram(bits))


@every_backend
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 200), (67, 1030)])
def test_the_gram_is_that_of_the_reference(name, n, k):
    speckle = random_bytes(n, k)
    equal(get_backend(name).gram(on(name, speckle)), reference.gram(speckle))


@every_backend
@pytest.mark.parametrize("entries", ["gaussian", "signs"])
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (3, 130, 20), (35, 503, 33)])
def test_dense_intensities_and_speckle_are_those_of_the_reference(name, entries, n, m, k):
    bits, backend = random_bits(n, m), get_backend(name)
    expected = reference.dense(bits, m, k, 7, entries)
    equal(backend.dense(on(name, bits), m, k, 7, entries), expected)
    gain = 255 / max(1, float(np.quantile(expected, 0.9)))
    equal(backend.dense(on(name, bits), m, k, 7, entries, gain), reference.dense(bits, m, k, 7, entries, gain))


@every_backend
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (2, 8, 3), (3, 16, 16), (5, 100, 300)])
def test_hadamard_intensities_and_speckle_are_those_of_the_reference(name, n, m, k):
    bits, backend = random_bits(n, m), get_backend(name)
    signs = np.packbits(hadamard_signs(m, k, 3) > 0, axis=-1, bitorder="little")
    expected = reference.hadamard(bits, m, k, signs)
    intensities = on_host(backend.hadamard(on(name, bits), m, k, signs))
    assert intensities.dtype == np.float32
    # Sums in float32, in an order of their own.
    np.testing.assert_allclose(intensities, expected, rtol=1e-4, atol=1e-3)
    gain = 255 / max(1, float(expected.max()))
    speckle = on_host(backend.hadamard(on(name, bits), m, k, signs, gain))
    assert speckle.dtype == np.uint8
    assert np.abs(speckle.astype("int64") - reference.hadamard(bits, m, k, signs, gain)).max() <= 1


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cholesky_factor_is_that_of_the_reference(name, dtype):
    rows = np.random.default_rng(0).normal(size=(30, 30))
    matrix, backend = (rows @ rows.T + np.eye(30)).astype(dtype), get_backend(name)
    factor = on_host(backend.cholesky(on(name, matrix.copy())))
    assert factor.dtype == dtype
    np.testing.assert_allclose(factor, reference.cholesky(matrix.copy()), rtol=1e-3, atol=1e-4)
    with pytest.raises(np.linalg.LinAlgError):
        backend.cholesky(on(name, -matrix))


@every_backend
@pytest.mark.parametrize("size", [0, 1, 2, 1000, 4097])
def test_magnitudes_are_those_of_the_reference(name, size):
    values, backend = np.random.default_rng(0).normal(size=size).astype("float32") * 4, get_backend(name)
    assert backend.largest_magnitude(on(name, values)) == reference.largest_magnitude(values)
    counts, largest = backend.count_magnitudes(on(name, values), 8.0, 64)
    expected, expected_largest = reference.count_magnitudes(values, 8.0, 64)
    equal(counts, expected)
    assert largest == expected_largest


def test_the_reference_counts_magnitudes_as_a_histogram_does():
    values = np.array([0.0, -0.5, 1.0, 7.99, 8.0, np.nan, -np.inf], dtype="float32")
    counts, largest = reference.count_magnitudes(values, 8.0, 8)
    np.testing.assert_array_equal(counts, [2, 1, 0, 0, 0, 0, 0, 1])
    assert largest == np.float32(7.99)
    assert np.isnan(reference.largest_magnitude(values))
    assert reference.largest_magnitude(values[:4]) == np.float32(7.99)


def test_the_reference_multiplies_integers():
    bits, others = random_bytes(4, 9), random_bytes(3, 9, seed=1)
    ones, other_ones = (np.unpackbits(each, axis=1).astype("int64") for each in (bits, others))
    equal(reference.shared_ones(bits, others, budget=1), ones @ other_ones.T)
    speckle = random_bytes(5, 1100)
    shifted = speckle.astype("int64") - 128
    equal(reference.gram(speckle), shifted @ shifted.T)


def test_an_array_goes_to_the_fastest_backend_of_its_library(cupy, monkeypatch):
    assert backend_for(np.zeros(1)) is get_backend("numba")
    assert backend_for(cupy.asarray(np.zeros(1))) is reference
    monkeypatch.setattr(backends, "has_triton", lambda: True)
    assert "triton" in available_backends()
    pytest.importorskip("triton")
    assert backend_for(cupy.asarray(np.zeros(1))) is get_backend("triton")


def test_an_unknown_backend_is_refused_by_name_and_one_that_is_missing_with_the_way_to_it(monkeypatch):
    with pytest.raises(UsageError, match="backend 'fortran' is not known; choose one of reference, numba, triton"):
        get_backend("fortran")
    monkeypatch.setattr(backends, "has_triton", lambda: False)
    assert available_backends() == ("reference", "numba")
    with pytest.raises(MissingPackageError, match="pip install"):
        get_backend("triton")
