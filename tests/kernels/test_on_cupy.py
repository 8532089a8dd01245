"""The array code as a GPU runs it, over a stand-in for CuPy that refuses what CuPy refuses."""

import cupy_fake
import numpy as np
import pytest

from aurevoir import limits
from aurevoir.errors import BudgetError, DataError
from aurevoir.kernels.arrays import namespace, on_device, on_host
from aurevoir.kernels.bits import agreement, pack_signs
from aurevoir.kernels.fitting import fit_readout, kernel_paths
from aurevoir.kernels.memory import DEFAULT_BUDGET, memory_budget
from aurevoir.kernels.readout import PROJECTIONS, path_on_host, readout_on
from aurevoir.kernels.ridge import dual, dual_path, inverse_factor, one_vs_rest
from aurevoir.kernels.ridge.form import POOLED
from aurevoir.kernels.ridge.solvers import CholeskySolver, refine


def problem(n, m=83, classes=3):
    """Bits of rows around a centre a class, and labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, size=n)
    features = random.normal(size=(classes, m))[labels] + 1.5 * random.normal(size=(n, m))
    return np.packbits(features > 0, axis=1), labels


def both(bits, labels, m=83, classes=3, weights=None, **options):
    """Fit on NumPy's arrays and on the stand-in's; return (readout, path) of each."""
    fits = []
    for device in ("cpu", "cuda"):
        arrays = [None if it is None else on_device(it, device) for it in (bits, labels, weights)]
        fits.append(fit_readout(arrays[0], m, arrays[1], classes, weights=arrays[2], **options))
    return fits


# Rows whose leave-one-out label rounding may turn: their two best scores are equal to its last digits.
TURNED = 2


def same(first, second, bits):
    """Hold two fits to one solution; return whether the second lives with the stand-in."""
    (readout, path), (other, other_path) = first, second
    np.testing.assert_allclose(other_path.loo_errors, path.loo_errors, rtol=1e-5)
    np.testing.assert_allclose(other_path.loo_accuracies, path.loo_accuracies, atol=TURNED / len(bits))
    scores = other.scores(on_device(bits, "cuda"))
    if other_path.best == path.best:
        found = path_on_host(other_path)
        np.testing.assert_allclose(found.coefficients, path.coefficients, atol=1e-9 * abs(path.coefficients).max())
        np.testing.assert_allclose(on_host(scores), readout.scores(bits), atol=1e-8)
    np.testing.assert_allclose(on_host(scores), readout_on(other, "cpu").scores(bits), atol=1e-8)
    return namespace(scores).__name__ == "cupy" == namespace(other_path.coefficients).__name__


@pytest.mark.parametrize("k", [30, 200])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_every_projection_fits_as_on_the_host(cupy, projection, k):
    bits, labels = problem(90)
    assert same(*both(bits, labels, projection=projection, n_components=k), bits)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("projection", (*POOLED, "auto"))
def test_kernels_of_pooled_features_fit_as_on_the_host(cupy, projection, weighted):
    bits, labels = problem(90)
    random = np.random.default_rng(2)
    pooled = (labels[:, None] * 0.3 + random.normal(size=(90, 12))).astype("float32")
    weights = random.uniform(0.5, 2, size=90) if weighted else None
    fits = []
    for device in ("cpu", "cuda"):
        arrays = [None if it is None else on_device(it, device) for it in (bits, labels, pooled, weights)]
        options = {"weights": arrays[3], "pooled": arrays[2], "layers": (5, 7) if projection == "layers" else ()}
        fits.append(fit_readout(arrays[0], 83, arrays[1], 3, projection, **options))
    (readout, path), (other, other_path) = fits
    assert (other.kind, other_path.best) == (readout.kind, path.best)
    expected = readout.scores(bits, pooled=pooled)
    found = other.scores(on_device(bits, "cuda"), pooled=on_device(pooled, "cuda"))
    np.testing.assert_allclose(on_host(found), expected, atol=1e-6)
    np.testing.assert_allclose(readout_on(other, "cpu").scores(bits, pooled=pooled), expected, atol=1e-6)
    assert namespace(found).__name__ == "cupy" == namespace(other_path.coefficients).__name__


@pytest.mark.parametrize("projection", ["none", "exact", "dense"])
def test_weights_and_several_labels_a_row_too(cupy, projection):
    bits, labels = problem(90)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=90)
    several = (np.stack([labels == 0, labels > 0, labels % 2 == 0], axis=1)).astype("int64")
    assert same(*both(bits, labels, weights=weights, projection=projection), bits)
    assert same(*both(bits, several, weights=weights, projection=projection), bits)


@pytest.mark.parametrize(("search", "n"), [("all", 600), ("halving", 640)])
@pytest.mark.parametrize(("ratio", "dtype"), [(64, "float32"), (2, "float64")])
def test_factors_are_in_float32_and_refined_where_float64_is_slow(cupy, search, n, ratio, dtype, monkeypatch):
    monkeypatch.setitem(cupy_fake.ATTRIBUTES, "SingleToDoublePrecisionPerfRatio", ratio)
    monkeypatch.setattr(inverse_factor, "_INVERTED_WHOLE", 100)
    monkeypatch.setattr(inverse_factor, "_MULTIPLIED_WHOLE", 90)
    monkeypatch.setattr(dual, "_SINGLE_ROWS", 100)
    bits, labels = problem(n, m=400, classes=5)
    dtypes = []
    made = CholeskySolver.__init__

    def noted(self, matrix, alpha, dtype="float64"):
        made(self, matrix, alpha, dtype)
        if namespace(matrix) is cupy:
            dtypes.append(dtype)

    monkeypatch.setattr(CholeskySolver, "__init__", noted)
    assert same(*both(bits, labels, m=400, classes=5, projection="exact", search=search), bits)
    assert set(dtypes) == {dtype}


@pytest.mark.parametrize("n", [1, 2, 7, 64, 65, 129])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_inverse_by_halves_is_the_inverse(cupy, n, dtype, monkeypatch):
    monkeypatch.setattr(inverse_factor, "_INVERTED_WHOLE", 8)
    monkeypatch.setattr(inverse_factor, "_MULTIPLIED_WHOLE", 5)
    rows = np.random.default_rng(0).normal(size=(n, n))
    matrix = rows @ rows.T + np.eye(n)
    found = CholeskySolver(cupy.asarray(matrix), 0.5, dtype)
    expected = np.linalg.inv(matrix + 0.5 * np.eye(n))
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(on_host(found.inverse_diagonals())[:, 0], np.diag(expected), rtol=tolerance)
    solutions, trusted = refine(cupy.asarray(matrix), found, cupy.asarray(rows[:, :1]))
    assert on_host(trusted).all()
    np.testing.assert_allclose(
        on_host(solutions)[:, 0], np.linalg.solve(matrix + 0.5 * np.eye(n), rows[:, :1]), atol=1e-10
    )


def test_a_singular_system_is_reported_on_a_gpu_and_not_computed_with(cupy):
    # CuPy's own Cholesky says nothing of its failures unless asked.
    gram, targets = np.ones((600, 600)), one_vs_rest(np.arange(600) % 2, 2)
    arrays = cupy.asarray(gram), cupy.asarray(targets)
    with pytest.raises(DataError, match="singular at every alpha"):
        dual_path(*arrays, np.array([0.0]))
    path = dual_path(*arrays, np.array([0.0, 1.0]))
    assert path.alpha == 1.0
    assert np.isnan(path.loo_accuracies[0])


def test_bits_are_packed_and_compared_there(cupy):
    features = np.random.default_rng(0).normal(size=(5, 21))
    packed = pack_signs(cupy.asarray(features))
    np.testing.assert_array_equal(on_host(packed), pack_signs(features))
    assert agreement(packed, packed, 21) == 1
    assert agreement(packed, packed ^ 1, 21) < 1


def test_the_budget_of_a_gpu_is_what_it_has_free(cupy, monkeypatch):
    monkeypatch.delenv("AUREVOIR_MEMORY", raising=False)
    monkeypatch.setattr(limits, "memory", lambda: 0)
    array = cupy.asarray(np.zeros(1))
    assert memory_budget(None, array) == int(0.8 * (cupy_fake.FREE + 2**30))
    assert memory_budget(None, np.zeros(1)) == DEFAULT_BUDGET
    assert memory_budget("1MiB", array) == 2**20
    monkeypatch.setenv("AUREVOIR_MEMORY", "2MiB")
    assert memory_budget(None, array) == 2**21


def test_the_working_set_of_a_gpu_is_five_matrices(cupy):
    bits, labels = problem(200)
    needed = 5 * 8 * 200**2
    fits = {"m": 83, "classes": 3, "projection": "exact", "budget": needed}
    assert same(*both(bits, labels, **fits), bits)
    with pytest.raises(BudgetError, match=r"needs 1\.5 MiB"):
        kernel_paths(on_device(bits, "cuda"), 83, on_device(labels, "cuda"), 3, ["exact"], budget=needed - 1)


@pytest.mark.parametrize("name", ["none", "dense", "dense-signs", "hadamard"])
def test_the_budget_reaches_every_kernel(cupy, monkeypatch, name):
    """With a budget given, none falls back to the default."""

    def default():
        raise AssertionError("the default budget was asked for")

    monkeypatch.delenv("AUREVOIR_MEMORY", raising=False)
    monkeypatch.setattr("aurevoir.kernels.memory._free_on_gpu", default)
    bits, labels = problem(90)
    for k in (30, 200):
        given = [on_device(it, "cuda") for it in (bits, labels)]
        readout, _ = fit_readout(given[0], 83, given[1], 3, name, k, budget="64MiB")
        readout.scores(given[0], "64MiB")
