import tracemalloc

import numpy as np
import pytest
from cupy_fake import modules
from threadpoolctl import threadpool_limits

from aurevoir.kernels import training_kernel
from aurevoir.kernels.fitting import fit_readout
from aurevoir.kernels.memory import blocks, format_bytes
from aurevoir.kernels.pooled import Standardizations
from aurevoir.kernels.projection import Hadamard
from aurevoir.kernels.ridge import dual_path, form, landmark_path, one_vs_rest
from aurevoir.kernels.ridge.form import KERNELS, plan_ridge
from aurevoir.kernels.row_blocks import RowSource

N, M, CHANNELS, CLASSES = 90, 83, 12, 3
every_kernel = pytest.mark.parametrize("kind", KERNELS)


def layers_of(kind):
    """Channels of two layers, for the kernel that reads several."""
    return (5, CHANNELS - 5) if kind == "layers" else ()


def images(n=N, m=M, seed=0):
    """Bits, pooled features and labels of rows about a centre a class, and weights."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, size=n)
    centres = np.random.default_rng(99).normal(size=(CLASSES, m))
    features = centres[labels] + 1.5 * random.normal(size=(n, m))
    pooled = (0.4 * labels[:, None] + random.normal(size=(n, CHANNELS))).astype("float32")
    return np.packbits(features > 0, axis=1), pooled, labels, random.uniform(0.5, 2, size=n)


def kernels(kind, p=25, n=N):
    """The kernel of landmarks, between all rows and them, and the landmarks."""
    bits, pooled, labels, weights = images(n)
    rows = np.sort(np.random.default_rng(5).permutation(n)[:p])
    kernel = training_kernel.TrainingKernel(kind, bits[rows], pooled[rows], np.ones(p), layers=layers_of(kind))
    return kernel.gram(), kernel.rows(bits, pooled), labels, weights


def passes(across, length=32):
    """A pass over rows that are held."""
    return RowSource(lambda held: ((which, held[which]) for which in blocks(len(held), length)), (across,))


def direct(kernel, across, targets, weights, alpha):
    """Solve the normal equations of coefficients that sum to zero and of the intercept."""
    p = len(kernel)
    sums_to_zero = np.linalg.qr(np.eye(p)[:, 1:] - 1 / p)[0]
    columns = np.hstack([across @ sums_to_zero, np.ones((len(across), 1))])
    penalty = np.zeros((p, p))
    penalty[:-1, :-1] = alpha * sums_to_zero.T @ kernel @ sums_to_zero
    # The kernel of channel means has fewer eigenvalues than landmarks: of many solutions, the shortest.
    system = columns.T @ (weights[:, None] * columns) + penalty
    found = np.linalg.lstsq(system, columns.T @ (weights[:, None] * targets), rcond=1e-12)[0]
    return sums_to_zero @ found[:-1], found[-1]


@pytest.mark.parametrize("targets", ["classes", "sets"])
@pytest.mark.parametrize("weighted", [False, True])
@every_kernel
def test_leave_one_out_is_that_of_fits_without_the_row_on_the_same_landmarks(kind, weighted, targets):
    kernel, across, labels, weights = kernels(kind)
    weights = weights if weighted else np.ones(N)
    y = one_vs_rest(labels, CLASSES)
    if targets == "sets":
        y = np.where(np.random.default_rng(1).random(y.shape) < 0.3, -y, y)
    for alpha in np.array([1e-2, 1.0, 30.0]) * across.var(axis=1).mean():
        path = landmark_path(kernel.copy(), passes(across), y, [alpha], weights, targets == "sets")
        coefficients, intercept = direct(kernel, across, y, weights, alpha)
        scores = across @ coefficients + intercept
        np.testing.assert_allclose(across @ path.coefficients + path.intercept, scores, atol=1e-5)
        assert abs(path.coefficients.sum(axis=0)).max() < 1e-9 * abs(path.coefficients).max()
        for row in range(0, N, 7):
            others = np.arange(N) != row
            left, shift = direct(kernel, across[others], y[others], weights[others], alpha)
            np.testing.assert_allclose(path.loo_scores[row], across[row] @ left + shift, atol=1e-5)


def test_each_of_many_alphas_is_scored_as_alone():
    kernel, across, labels, _ = kernels("exact")
    y, alphas = one_vs_rest(labels, CLASSES), np.logspace(-3, 2, 6) * across.var(axis=1).mean()
    path = landmark_path(kernel.copy(), passes(across), y, alphas)
    alone = [landmark_path(kernel.copy(), passes(across), y, [alpha]) for alpha in alphas]
    np.testing.assert_allclose(path.loo_errors, [each.loo_errors[0] for each in alone])
    np.testing.assert_allclose(path.coefficients, alone[path.best].coefficients, rtol=1e-6)
    few = landmark_path(kernel.copy(), passes(across), y, alphas, budget=1)
    np.testing.assert_allclose(few.loo_errors, path.loo_errors)


@pytest.mark.parametrize("weighted", [False, True])
@every_kernel
def test_with_all_rows_as_landmarks_it_is_the_dual(kind, weighted):
    kernel, across, labels, weights = kernels(kind, p=N)
    weights = weights if weighted else None
    y = one_vs_rest(labels, CLASSES)
    expected = dual_path(across, y, None, weights, "all")
    path = landmark_path(kernel, passes(across), y, None, weights)
    np.testing.assert_allclose(path.alphas, expected.alphas, rtol=1e-8)
    np.testing.assert_allclose(path.loo_errors, expected.loo_errors, rtol=1e-4)
    assert path.best == expected.best
    scores = across @ expected.coefficients + expected.intercept
    np.testing.assert_allclose(across @ path.coefficients + path.intercept, scores, atol=1e-4)
    np.testing.assert_allclose(path.loo_scores, expected.loo_scores, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "exact", "bits+rbf"])
def test_blocks_and_threads_change_rounding_alone(kind):
    kernel, across, labels, weights = kernels(kind, p=70, n=600)
    y = one_vs_rest(labels, CLASSES)
    paths = []
    for length, threads in ((512, 2), (512, 1), (600, 1), (37, 2)):
        with threadpool_limits(threads):
            paths.append(landmark_path(kernel.copy(), passes(across, length), y, None, weights))
    for path in paths[1:]:
        assert path.best == paths[0].best
        np.testing.assert_allclose(path.loo_errors, paths[0].loo_errors, rtol=1e-7)
        np.testing.assert_allclose(path.loo_scores, paths[0].loo_scores, atol=1e-5)


@every_kernel
def test_landmarks_twice_and_rows_that_are_alike_are_solved(kind):
    bits, pooled, labels, _ = images()
    rows, y = np.array([0, 0, 0, 3, 3, 8, 20, 21, 22, 23]), one_vs_rest(labels, CLASSES)
    standardize = Standardizations(pooled, np.ones(N), layers_of(kind)).of(kind)
    paths = []
    for some in (rows, np.unique(rows)):
        kernel = training_kernel.TrainingKernel(kind, bits[some], pooled[some], np.ones(len(some)), None, standardize)
        gram, across = kernel.gram(), kernel.rows(bits, pooled)
        paths.append(landmark_path(gram, passes(across), y, [1.0] if kind in form.SUMS else None))
        assert np.isfinite(paths[-1].loo_scores).all()
    # What a sum's kernels are divided by depends on the landmarks.
    if kind not in form.SUMS:
        np.testing.assert_allclose(paths[0].loo_errors, paths[1].loo_errors, rtol=1e-6)
    alike = landmark_path(np.full((4, 4), 9.0), passes(np.full((N, 4), 9.0)), one_vs_rest(labels, CLASSES))
    shares = np.bincount(labels) / N
    np.testing.assert_allclose(9 * alike.coefficients.sum(axis=0) + alike.intercept, 2 * shares - 1, atol=1e-9)


BUDGET = 700_000
"""Of 300 rows, whose dual takes 2.2 MB."""


def on_landmarks(kind, device="cpu", **options):
    bits, pooled, labels, weights = images(300)
    if device != "cpu":
        arrays = modules()["cupy"].asarray
        bits, pooled, labels, weights = (arrays(each) for each in (bits, pooled, labels, weights))
    options |= {"budget": BUDGET, "weights": weights, "pooled": pooled, "seed": 3, "layers": layers_of(kind)}
    return fit_readout(bits, M, labels, CLASSES, kind, **options)


@pytest.mark.parametrize("kind", [kind for kind in KERNELS if kind != "pooled"])
def test_a_readout_beyond_the_dual_is_that_of_sampled_rows(kind):
    bits, pooled, labels, weights = images(300)
    readout, path = on_landmarks(kind)
    plan = plan_ridge(300, M, CLASSES, kind, channels=CHANNELS, budget=BUDGET)
    assert (plan.name, readout.kind, path.coefficients.shape) == ("landmarks", kind, (plan.order, CLASSES))
    assert path.loo_scores.shape == (300, CLASSES)
    rows = np.sort(np.random.default_rng(3).permutation(300)[: plan.order])
    standardize = Standardizations(pooled, weights, layers_of(kind)).of(kind)
    kernel = training_kernel.TrainingKernel(kind, bits[rows], pooled[rows], weights[rows], standardize=standardize)
    gram, new = kernel.gram(), images(40, seed=1)
    expected = direct(gram, kernel.rows(bits, pooled), one_vs_rest(labels, CLASSES), weights, path.alpha)
    scores = kernel.rows(*new[:2]) @ expected[0] + expected[1]
    np.testing.assert_allclose(readout.scores(new[0], pooled=new[1]), scores, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "rbf", "bits+rbf"])
def test_one_thread_and_two_give_the_same_bits_whatever_the_number_of_rows(kind):
    bits, pooled, labels, weights = images(1301)
    paths = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            options = {"weights": weights, "pooled": pooled, "budget": "3MiB"}
            paths.append(fit_readout(bits, M, labels, CLASSES, kind, **options)[1])
    assert len(paths[0].coefficients) % form.WHOLE == 0
    np.testing.assert_array_equal(paths[0].coefficients, paths[1].coefficients)
    np.testing.assert_array_equal(paths[0].loo_scores, paths[1].loo_scores)


def test_pooled_features_of_many_rows_are_solved_in_the_primal(monkeypatch):
    monkeypatch.setattr(form, "COMPARED_ROWS", 200)
    bits, pooled, labels, weights = images(300)
    readout, path = on_landmarks("pooled")
    assert path.coefficients.shape == (CHANNELS, CLASSES)
    monkeypatch.setattr(form, "COMPARED_ROWS", 300)
    dual, expected = fit_readout(bits, M, labels, CLASSES, "pooled", weights=weights, pooled=pooled, search="all")
    np.testing.assert_allclose(path.loo_errors, expected.loo_errors, rtol=1e-5)
    np.testing.assert_allclose(readout.scores(bits, pooled=pooled), dual.scores(bits, pooled=pooled), atol=1e-5)


def test_auto_beyond_the_dual_compares_kernels_on_the_rows_that_fit():
    readout, path = on_landmarks("auto")
    plan = plan_ridge(300, M, CLASSES, "auto", budget=BUDGET)
    assert plan.compared < 300
    assert readout.kind == max(path.loo_accuracy_of, key=path.loo_accuracy_of.get)
    _, own = on_landmarks(readout.kind)
    np.testing.assert_array_equal(path.loo_scores, own.loo_scores)


@pytest.mark.parametrize("kind", ["none", "exact+rbf", "pooled"])
def test_on_cupy_it_is_as_on_the_host(cupy, monkeypatch, kind):
    monkeypatch.setattr(form, "COMPARED_ROWS", 200)
    (_, path), (_, other) = on_landmarks(kind), on_landmarks(kind, "cuda")
    assert type(other.coefficients).__module__.startswith("cupy")
    if other.coefficients.shape == path.coefficients.shape:
        np.testing.assert_allclose(other.coefficients.get(), path.coefficients, atol=1e-6)
    else:
        np.testing.assert_allclose(other.loo_accuracy, path.loo_accuracy, atol=0.03)


@pytest.mark.parametrize(("kind", "k"), [("none", None), ("exact+rbf", None), ("hadamard", None)])
def test_a_fit_of_many_rows_stays_within_its_budget(kind, k):
    n, budget = 3000, 32 * 2**20
    bits, pooled, labels, _ = images(n, m=2000)
    options = {"projection": kind, "n_components": k, "alphas": [1.0], "pooled": pooled, "budget": budget}
    plan = plan_ridge(n, 2000, CLASSES, kind, channels=CHANNELS, budget=budget)
    assert plan.name == ("primal" if kind == "hadamard" else "landmarks")
    # Compiled kernels are compiled, and libraries loaded, before memory is counted.
    fit_readout(bits[:200], 2000, labels[:200], CLASSES, kind, pooled=pooled[:200])
    tracemalloc.start()
    fit_readout(bits, 2000, labels, CLASSES, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.bytes / 2 < peak < budget, format_bytes(peak)


@pytest.mark.parametrize("weighted", [False, True])
def test_speckle_that_does_not_fit_is_projected_again(weighted):
    bits, _, labels, weights = images(2000)
    options = {"n_components": 60, "seed": 2, "weights": weights if weighted else None}
    plan = plan_ridge(2000, M, CLASSES, "hadamard", 60, budget="230KB")
    assert not plan.holds_speckle
    held, expected = fit_readout(bits, M, labels, CLASSES, "hadamard", **options)
    readout, path = fit_readout(bits, M, labels, CLASSES, Hadamard, budget="230KB", **options)
    check = np.testing.assert_allclose
    check(path.loo_errors, expected.loo_errors, rtol=1e-9)
    check(path.loo_scores, expected.loo_scores, atol=1e-6)
    check(path.coefficients, expected.coefficients, rtol=1e-6)
    assert readout.saturation == held.saturation


def test_bits_in_a_file_that_cannot_be_written_are_read_in_blocks(tmp_path):
    bits, _, labels, _ = images(300, m=1024)
    bits.tofile(tmp_path / "bits")
    mapped = np.memmap(tmp_path / "bits", dtype="uint8", mode="r", shape=bits.shape)
    (_, path), (_, other) = (fit_readout(each, 1024, labels, CLASSES, "exact", budget="1MB") for each in (bits, mapped))
    assert len(path.coefficients) < 300
    np.testing.assert_array_equal(other.loo_scores, path.loo_scores)
