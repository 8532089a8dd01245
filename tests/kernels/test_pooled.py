import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler

from aurevoir.errors import UsageError
from aurevoir.kernels.bits import pack_signs, unpack
from aurevoir.kernels.fit import comparison, problem
from aurevoir.kernels.fit.comparison import sampled_rows
from aurevoir.kernels.fitting import AUTO, AUTO_POOLED, fit_readout
from aurevoir.kernels.memory import format_bytes
from aurevoir.kernels.pooled import Standardization, mean_eigenvalue, radial_kernel, standardization
from aurevoir.kernels.ridge import dual_path, form, one_vs_rest
from aurevoir.kernels.ridge.form import POOLED

N, CHANNELS, PLACES = 90, 24, 9
M = CHANNELS * PLACES


def images(seed=0, n=N, classes=3, of_places=1.0, of_means=1.0):
    """Bits, pooled features and labels of features whose places and channel means each tell some of the class."""
    centres = np.random.default_rng(99)
    place, mean = centres.normal(size=(classes, CHANNELS, PLACES)), centres.normal(size=(classes, CHANNELS, 1))
    place -= place.mean(axis=2, keepdims=True)
    random, labels = np.random.default_rng(seed), np.arange(n) % classes
    features = of_places * place[labels] + of_means * mean[labels] + 2 * random.normal(size=(n, CHANNELS, PLACES))
    return pack_signs(features.reshape(n, -1)), features.mean(axis=2).astype("float32"), labels


def layers_of(kind, channels=CHANNELS):
    """Channels of two layers, for the kernel that reads several."""
    return (channels - 2, 2) if kind == "layers" else ()


def centred(kernel):
    return kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()


def test_channels_are_standardized_as_by_scikit_learn():
    pooled = images()[1] * np.arange(1, CHANNELS + 1, dtype="float32") + 100
    found = standardization(pooled, np.ones(N))(pooled)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, StandardScaler().fit_transform(pooled.astype("float64")), atol=1e-5)


@pytest.mark.parametrize("n", [1, 256, 600])
def test_the_radial_kernel_of_rows_with_themselves_is_symmetric(n):
    rows = np.random.default_rng(0).normal(size=(n, CHANNELS)).astype("float32")
    kernel = radial_kernel(rows, rows, 0.02)
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_allclose(kernel, rbf_kernel(rows.astype("float64"), gamma=0.02), rtol=1e-12)
    np.testing.assert_allclose(kernel, radial_kernel(rows, rows.copy(), 0.02), rtol=1e-12)


def test_weights_are_repetitions():
    pooled, counts = images()[1], np.arange(N) % 3 + 1
    weighted, repeated = (
        standardization(rows, weights)
        for rows, weights in (
            (pooled, counts.astype(float)),
            (np.repeat(pooled, counts, axis=0), np.ones(counts.sum())),
        )
    )
    np.testing.assert_allclose(weighted.mean, repeated.mean)
    np.testing.assert_allclose(weighted.scale, repeated.scale)


@pytest.mark.parametrize("value", [0.0, 3.25, 1e-30, 1e30])
def test_a_constant_channel_counts_for_nothing(value):
    pooled = images()[1]
    more = np.concatenate([pooled, np.full((N, 1), value, dtype="float32")], axis=1)
    without, found = standardization(pooled, np.ones(N)), standardization(more, np.ones(N))
    assert found.gamma == without.gamma
    assert not found(more)[:, -1].any()


def test_far_and_tiny_values_stay_finite():
    standardize = Standardization(np.zeros(2), np.array([1e30, 1.0]))
    rows = standardize(np.array([[3e38, 1.0], [-3e38, 0.0]], dtype="float32"))
    assert np.isfinite(rows).all()
    assert np.isfinite(radial_kernel(rows, rows, standardize.gamma)).all()
    assert standardization(np.array([[1e-36], [3e-36]], dtype="float32"), np.ones(2)).scale.tolist() == [0]


def test_the_radial_kernel_is_that_of_scikit_learn_at_the_mean_squared_distance():
    pooled = images()[1]
    standardize = standardization(pooled, np.ones(N))
    rows = standardize(pooled)
    differences = rows[:, None].astype("float64") - rows
    assert 1 / standardize.gamma == pytest.approx((differences**2).sum(axis=2).mean(), rel=1e-5)
    found = radial_kernel(rows[:7], rows, standardize.gamma)
    np.testing.assert_allclose(found, rbf_kernel(rows[:7].astype("float64"), rows, standardize.gamma), atol=1e-12)


def test_the_mean_eigenvalue_is_that_of_the_centred_kernel():
    kernel = np.random.default_rng(0).normal(size=(20, 20))
    kernel = kernel @ kernel.T
    assert mean_eigenvalue(kernel, np.ones(20)) == pytest.approx(np.linalg.eigvalsh(centred(kernel)).mean())
    assert mean_eigenvalue(np.full((4, 4), 7.0), np.ones(4)) == 1


def test_linear_scores_are_those_of_a_ridge_on_standardized_channels():
    bits, pooled, labels = images()
    new = images(seed=1)[1]
    readout, path = fit_readout(bits, M, labels, 3, "pooled", pooled=pooled)
    assert (readout.kind, readout.uses_pooled) == ("pooled", True)
    scaler = StandardScaler().fit(pooled.astype("float64"))
    ridge = Ridge(alpha=path.alpha).fit(scaler.transform(pooled), one_vs_rest(labels, 3))
    np.testing.assert_allclose(readout.scores(bits, pooled=new), ridge.predict(scaler.transform(new)), atol=1e-5)


@pytest.mark.parametrize(("kind", "power"), [("bits+rbf", 1), ("exact+rbf", 2)])
def test_a_sum_has_both_kernels_in_equal_parts(kind, power):
    bits, pooled, labels = images()
    new_bits, new_pooled, _ = images(seed=1)
    readout, path = fit_readout(bits, M, labels, 3, kind, pooled=pooled)
    assert (readout.kind, readout.uses_pooled) == (kind, True)
    standardize = standardization(pooled, np.ones(N))
    gamma = standardize.gamma

    def kernels(some_bits, some_pooled):
        left, right = unpack(some_bits, M, "float64"), unpack(bits, M, "float64")
        of_bits = left @ right.T
        if power == 2:
            of_bits = of_bits**2 + np.outer(left.sum(axis=1), right.sum(axis=1))
        return of_bits, rbf_kernel(standardize(some_pooled), standardize(pooled), gamma)

    sizes = [np.linalg.eigvalsh(centred(kernel)).mean() for kernel in kernels(bits, pooled)]
    together, new = (
        sum(kernel / size for kernel, size in zip(kernels(*rows), sizes, strict=True))
        for rows in ((bits, pooled), (new_bits, new_pooled))
    )
    expected = dual_path(together, one_vs_rest(labels, 3))
    assert path.alpha == pytest.approx(expected.alpha)
    np.testing.assert_allclose(
        readout.scores(new_bits, pooled=new_pooled), new @ expected.coefficients + expected.intercept, atol=1e-5
    )


@pytest.mark.parametrize("kind", POOLED)
def test_weighted_rows_are_repeated_rows(kind):
    bits, pooled, labels = images()
    counts = np.arange(N) % 2 + 1
    options = {"alphas": [1e-2], "layers": layers_of(kind)}
    weighted, _ = fit_readout(bits, M, labels, 3, kind, weights=counts.astype(float), pooled=pooled, **options)
    rows = np.repeat(np.arange(N), counts)
    repeated, _ = fit_readout(bits[rows], M, labels[rows], 3, kind, pooled=pooled[rows], **options)
    np.testing.assert_allclose(weighted.scores(bits, pooled=pooled), repeated.scores(bits, pooled=pooled), atol=2e-4)


@pytest.mark.parametrize(("of_places", "of_means"), [(0.5, 0.0), (0.0, 0.25), (0.3, 0.15)])
def test_auto_takes_the_best_kernel_and_says_what_each_scored(of_places, of_means):
    bits, pooled, labels = images(n=150, of_places=of_places, of_means=of_means)
    readout, path = fit_readout(bits, M, labels, 3, "auto", pooled=pooled)
    alone = {kind: fit_readout(bits, M, labels, 3, kind, pooled=pooled)[1] for kind in (*AUTO, *AUTO_POOLED)}
    assert path.loo_accuracy_of == {kind: each.loo_accuracy for kind, each in alone.items()}
    assert path.loo_accuracy == max(path.loo_accuracy_of.values())
    assert path.loo_accuracy_of[readout.kind] == path.loo_accuracy
    if of_means == 0:
        assert path.loo_accuracy_of["none"] > path.loo_accuracy_of["rbf"] + 0.1
    if of_places == 0:
        assert path.loo_accuracy_of["rbf"] > path.loo_accuracy_of["none"]


def test_of_many_rows_kernels_are_compared_on_some(monkeypatch):
    bits, pooled, labels = images(n=150, of_places=0.0, of_means=0.25)
    weights = np.random.default_rng(3).uniform(0.5, 2, size=150)
    monkeypatch.setattr(form, "COMPARED_ROWS", 90)
    readout, path = fit_readout(bits, M, labels, 3, "auto", weights=weights, pooled=pooled)
    alone, own = fit_readout(bits, M, labels, 3, readout.kind, weights=weights, pooled=pooled)
    assert readout.kind == max(path.loo_accuracy_of, key=path.loo_accuracy_of.get)
    assert path.loo_accuracy == own.loo_accuracy
    assert path.loo_accuracy_of[readout.kind] != own.loo_accuracy
    np.testing.assert_array_equal(readout.scores(bits, pooled=pooled), alone.scores(bits, pooled=pooled))


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_kernel_that_is_clearly_worse_on_few_rows_is_not_compared_on_more(monkeypatch, weighted, multilabel):
    bits, pooled, labels = images(n=400, of_places=0.35, of_means=0.0)
    labels = np.eye(3, dtype="int64")[labels] if multilabel else labels
    weights = np.random.default_rng(3).uniform(0.5, 2, size=400) if weighted else None
    monkeypatch.setattr(form, "COMPARED_ROWS", 300)
    monkeypatch.setattr(comparison, "RACED_ROWS", 150)

    def seen_more(labels):
        """What each kernel scored, which was best, and those that were compared on all of the larger sample."""
        readout, path = fit_readout(bits, M, labels, 3, "auto", weights=weights, pooled=pooled)
        scores = {count: {kind: alone(kind, labels, count) for kind in path.loo_accuracy_of} for count in (150, 300)}
        more = [kind for kind, score in path.loo_accuracy_of.items() if score != scores[150][kind]]
        assert all(path.loo_accuracy_of[kind] == scores[300][kind] for kind in more)
        return path.loo_accuracy_of, readout.kind, more

    def alone(kind, labels, count):
        rows = sampled_rows(bits, count, 0)
        own = None if weights is None else weights[rows]
        return fit_readout(bits[rows], M, labels[rows], 3, kind, weights=own, pooled=pooled[rows])[1].loo_accuracy

    scores, best, more = seen_more(labels)
    assert scores["rbf"] < scores["none"] - 0.1
    assert best in more
    assert set(more) <= {"none", "exact", "bits+rbf"}
    noise = np.random.default_rng(0).permutation(labels)
    assert len(seen_more(noise)[2]) >= 4


def test_what_was_compared_on_some_rows_says_where_to_begin_on_all(monkeypatch):
    bits, pooled, labels = images(n=400, of_places=0.35, of_means=0.0)
    monkeypatch.setattr(form, "COMPARED_ROWS", 300)
    monkeypatch.setattr(comparison, "RACED_ROWS", 150)
    solved, solve = [], problem.dual_path

    def spied(gram, targets, alphas, weights, search, multilabel, start):
        path = solve(gram, targets, alphas, weights, search, multilabel, start)
        solved.append((len(gram), start, path.best))
        return path

    monkeypatch.setattr(problem, "dual_path", spied)
    fit_readout(bits, M, labels, 3, "auto", pooled=pooled, search="halving")
    few, more, (whole,) = ([each for each in solved if each[0] == rows] for rows in (150, 300, 400))
    assert [start for _, start, _ in few] == [None] * 5
    assert {start for _, start, _ in more} <= {best for _, _, best in few}
    assert whole[1] in {best for _, _, best in more}


def test_without_pooled_features_auto_has_the_kernels_of_bits():
    bits, _, labels = images()
    assert set(fit_readout(bits, M, labels, 3, "auto")[1].loo_accuracy_of) == set(AUTO)
    assert fit_readout(bits, M, labels, 3, "none")[1].loo_accuracy_of == {}
    with pytest.raises(UsageError, match=r"projection 'rbf' needs pooled features.*give images.*none"):
        fit_readout(bits, M, labels, 3, "rbf")


@pytest.mark.parametrize("kind", POOLED)
def test_a_fit_holds_three_systems_at_most(kind):
    bits, pooled, labels = images(n=1200)
    # Compiled kernels are compiled, and libraries loaded, before memory is counted.
    options = {"alphas": [1.0], "pooled": pooled, "layers": layers_of(kind)}
    fit_readout(bits, M, labels, 3, kind, **options)
    tracemalloc.start()
    fit_readout(bits, M, labels, 3, kind, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.3 * 8 * 1200**2, format_bytes(peak)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 9), kind=st.sampled_from(POOLED), alike=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_few_rows_of_any_values_have_finite_scores(seed, n, kind, alike):
    random = np.random.default_rng(seed)
    pooled = (random.normal(size=(n, 5)) * 10.0 ** random.integers(-30, 30, size=5)).astype("float32")
    if alike:
        pooled[:] = pooled[0]
    bits = random.integers(0, 256, size=(n, 2), dtype="uint8")
    labels = np.arange(n) % 2
    readout, _ = fit_readout(bits, 16, labels, 2, kind, pooled=pooled, layers=layers_of(kind, 5))
    assert np.isfinite(readout.scores(bits, pooled=pooled)).all()
