import inspect
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from aurevoir.errors import BudgetError, DataError, UsageError
from aurevoir.kernels.arrays import on_device, on_host
from aurevoir.kernels.bits import pack_signs, popcount, unpack
from aurevoir.kernels.camera import Camera
from aurevoir.kernels.exact_kernel import exact_kernel
from aurevoir.kernels.fit import comparison
from aurevoir.kernels.fit.problem import check_rows
from aurevoir.kernels.fitting import fit_readout, kernel_paths
from aurevoir.kernels.gram import gram, overlap
from aurevoir.kernels.projection import Dense, DenseSigns, Hadamard
from aurevoir.kernels.readout import (
    PROJECTIONS,
    BitsReadout,
    ExactReadout,
    RadialReadout,
    SpeckleReadout,
    SumReadout,
    readout_on,
    rows_of_call,
)
from aurevoir.kernels.ridge import dual_path, form, one_vs_rest
from aurevoir.kernels.ridge.form import POOLED
from aurevoir.kernels.row_blocks import signed

M = 201
every = pytest.mark.parametrize("projection", PROJECTIONS)


def separable(seed=0, n=120, m=M, classes=3, noise=1.2):
    """Signs of features that scatter about one centre a class."""
    centres = np.random.default_rng(99).normal(size=(classes, m))
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return pack_signs(centres[labels] + noise * random.normal(size=(n, m))), labels


def parity(seed, n):
    """Two classes that only products of bits tell apart: the sign of each half is random, their product is not."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, size=n)
    first = random.choice([-1.0, 1.0], size=n)
    features = np.concatenate([np.outer(first, np.ones(40)), np.outer(first * (2 * labels - 1), np.ones(40))], axis=1)
    return pack_signs(features + 0.5 * random.normal(size=(n, 80))), labels


def signs_of_speckle(readout, bits):
    return signed(readout.camera.expose(readout.projection.intensities(bits))).astype("float64")


@every
def test_a_separable_problem_is_learnt_and_carries_over_to_new_rows(projection):
    bits, labels = separable()
    new, truth = separable(seed=1)
    readout, path = fit_readout(bits, M, labels, 3, projection)
    assert np.mean(readout.scores(bits).argmax(axis=1) == labels) > 0.98
    scores = readout.scores(new)
    assert scores.shape == (120, 3)
    assert scores.dtype == np.float64
    assert np.mean(scores.argmax(axis=1) == truth) > 0.95
    assert path.loo_accuracy > 0.95
    np.testing.assert_allclose(scores.mean(axis=0), -1 / 3, atol=0.15)


@every
def test_scores_of_random_labels_do_not_carry_over(projection):
    bits, _ = separable()
    new, _ = separable(seed=1)
    labels, truth = np.random.default_rng(3).integers(0, 3, size=(2, 120))
    readout, path = fit_readout(bits, M, labels, 3, projection)
    assert path.loo_accuracy < 0.6
    assert np.mean(readout.scores(new).argmax(axis=1) == truth) < 0.6


@pytest.mark.parametrize(
    ("projection", "kind"), [("none", BitsReadout), ("exact", ExactReadout), ("hadamard", SpeckleReadout)]
)
def test_a_readout_is_of_the_kind_asked_for(projection, kind):
    bits, labels = separable(n=30)
    readout, _ = fit_readout(bits, M, labels, 3, projection)
    assert type(readout) is kind
    assert readout.kind == projection


def test_bits_scores_are_those_of_sklearn_on_the_unpacked_bits():
    bits, labels = separable(n=60, noise=3)
    new, _ = separable(seed=1, n=20, noise=3)
    readout, path = fit_readout(bits, M, labels, 3, "none")
    model = Ridge(alpha=path.alpha, solver="svd").fit(unpack(bits, M, "float64"), one_vs_rest(labels, 3))
    np.testing.assert_allclose(readout.scores(new), model.predict(unpack(new, M, "float64")), atol=1e-7)


def test_exact_scores_are_kernel_algebra():
    bits, labels = separable(n=60, noise=3)
    new, _ = separable(seed=1, n=20, noise=3)
    readout, path = fit_readout(bits, M, labels, 3, "exact")
    x, others = unpack(new, M, "int64"), unpack(bits, M, "int64")
    kernel = (x**2).sum(axis=1)[:, None] * (others**2).sum(axis=1) + (x @ others.T) ** 2
    np.testing.assert_allclose(readout.scores(new), kernel @ path.coefficients + path.intercept, atol=1e-9)
    assert path.coefficients.shape == (60, 3)


def test_exact_training_scores_shrink_towards_the_targets():
    bits, labels = separable(n=60, noise=3)
    readout, _ = fit_readout(bits, M, labels, 3, "exact", alphas=[1e-3])
    np.testing.assert_allclose(readout.scores(bits), one_vs_rest(labels, 3), atol=1e-3)


def test_exact_scores_many_rows_block_by_block():
    bits, labels = separable(n=30)
    readout, _ = fit_readout(bits, M, labels, 3, "exact")
    many, _ = separable(seed=1, n=2100)
    kernel = exact_kernel(overlap(many, bits), popcount(many), popcount(bits))
    np.testing.assert_allclose(readout.scores(many), kernel @ readout.coefficients + readout.intercept, atol=1e-9)


@pytest.mark.parametrize(("projection", "kind"), [("hadamard", Hadamard), ("dense", Dense)])
@pytest.mark.parametrize("k", [40, 300])
def test_speckle_scores_are_linear_in_the_camera_s_bytes(projection, kind, k):
    bits, labels = separable(n=90, noise=2)
    new, _ = separable(seed=1, n=20)
    readout, path = fit_readout(bits, M, labels, 3, projection, n_components=k, seed=5)
    assert readout.projection == kind(M, k, 5)
    model = Ridge(alpha=path.alpha, solver="svd").fit(signs_of_speckle(readout, bits), one_vs_rest(labels, 3))
    np.testing.assert_allclose(readout.scores(new), model.predict(signs_of_speckle(readout, new)), atol=1e-6)


@pytest.mark.parametrize("projection", ["hadamard", "dense"])
@pytest.mark.parametrize("k", [30, 90])
def test_the_primal_for_few_components_equals_the_dual_at_the_same_alphas(projection, k):
    bits, labels = separable(n=90, noise=2)
    alphas = [1e4, 1e5, 1e6]
    readout, path = fit_readout(bits, M, labels, 3, projection, n_components=k, alphas=alphas)
    assert path.coefficients.shape == (k, 3)
    X = signs_of_speckle(readout, bits)
    other = dual_path(X @ X.T, one_vs_rest(labels, 3), alphas)
    np.testing.assert_allclose(path.loo_errors, other.loo_errors, rtol=1e-6)
    np.testing.assert_array_equal(path.loo_accuracies, other.loo_accuracies)
    np.testing.assert_allclose(readout.weights, X.T @ other.coefficients, atol=1e-9)
    np.testing.assert_allclose(readout.intercept, other.intercept, atol=1e-6)


@pytest.mark.parametrize("projection", ["hadamard", "dense"])
def test_the_dual_serves_where_components_outnumber_rows(projection):
    bits, labels = separable(n=40)
    readout, path = fit_readout(bits, M, labels, 3, projection, n_components=41)
    assert path.coefficients.shape == (40, 3)
    speckle = readout.camera.expose(readout.projection.intensities(bits))
    expected = dual_path(gram(speckle), one_vs_rest(labels, 3))
    np.testing.assert_allclose(path.coefficients, expected.coefficients, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("m", "k"), [(201, 100), (1, 1), (2, 1)])
def test_components_default_to_half_the_features(m, k):
    bits, labels = separable(n=20, m=m)
    readout, _ = fit_readout(bits, m, labels, 3, "hadamard")
    assert readout.projection.k == k


def test_auto_takes_the_exact_kernel_where_products_of_bits_tell_the_classes():
    bits, labels = parity(0, 150)
    readout, path = fit_readout(bits, 80, labels, 2, "auto")
    linear, exact = (fit_readout(bits, 80, labels, 2, kind)[1] for kind in ("none", "exact"))
    assert exact.loo_accuracy > linear.loo_accuracy + 0.2
    assert readout.kind == "exact"
    assert path.loo_accuracy == exact.loo_accuracy


def test_auto_takes_the_bits_where_they_leave_fewer_rows_wrong():
    found = []
    for seed in range(12):
        bits, labels = separable(seed=seed, n=60, noise=6)
        readout, path = fit_readout(bits, M, labels, 3, "auto")
        rivals = {kind: fit_readout(bits, M, labels, 3, kind)[1].loo_accuracy for kind in ("none", "exact")}
        assert path.loo_accuracy == rivals[readout.kind] == max(rivals.values())
        found.append((readout.kind, rivals["none"] > rivals["exact"]))
    assert ("none", True) in found
    assert ("exact", False) in found


@every
def test_another_budget_gives_the_same_scores(projection):
    bits, labels = separable(n=60, noise=3)
    new, _ = separable(seed=1, n=70)
    readout, path = fit_readout(bits, M, labels, 3, projection)
    smaller, other = fit_readout(bits, M, labels, 3, projection, budget="100KiB")
    assert smaller.kind == readout.kind
    assert other.alpha == pytest.approx(path.alpha)
    np.testing.assert_allclose(smaller.scores(new), readout.scores(new), atol=1e-6)
    np.testing.assert_allclose(readout.scores(new, budget=1), readout.scores(new), atol=1e-6)


@every
def test_the_same_seed_gives_the_same_scores(projection):
    bits, labels = separable(n=40)
    first, second = (fit_readout(bits, M, labels, 3, projection, seed=4)[0].scores(bits) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("projection", ["hadamard", "dense"])
def test_another_seed_gives_other_scores(projection):
    bits, labels = separable(n=40)
    first, second = (fit_readout(bits, M, labels, 3, projection, seed=seed)[0].scores(bits) for seed in (1, 2))
    assert np.abs(first - second).max() > 1e-3


@every
def test_no_rows_have_no_scores(projection):
    bits, labels = separable(n=30)
    readout, _ = fit_readout(bits, M, labels, 3, projection)
    assert readout.scores(bits[:0]).shape == (0, 3)


@every
def test_rows_without_a_single_one_are_learnt_from_without_fault(projection):
    labels = np.array([0, 0, 0, 0, 1, 1])
    readout, _ = fit_readout(np.zeros((6, 3), dtype="uint8"), 20, labels, 2, projection)
    scores = readout.scores(np.zeros((2, 3), dtype="uint8"))
    np.testing.assert_allclose(scores, [[1 / 3, -1 / 3]] * 2, atol=1e-5)


@every
def test_one_row_is_refused(projection):
    bits, labels = separable(n=30)
    with pytest.raises(DataError, match="at least 2"):
        fit_readout(bits[:1], M, labels[:1], 3, projection)


@pytest.mark.parametrize("projection", ["", "opu", "Exact", "none, exact"])
def test_an_unknown_projection_is_refused_with_those_that_are_known(projection):
    bits, labels = separable(n=30)
    with pytest.raises(UsageError) as error:
        fit_readout(bits, M, labels, 3, projection)
    assert repr(projection) in str(error.value)
    assert all(name in str(error.value) for name in PROJECTIONS)


def test_a_projection_can_be_made_by_the_caller_and_bring_its_camera():
    class Filmed(Hadamard):
        kind, camera = "filmed", Camera(0.5)

    bits, labels = separable(n=30)
    own, _ = fit_readout(bits, M, labels, 3, Hadamard, n_components=9, seed=2)
    np.testing.assert_array_equal(
        own.scores(bits), fit_readout(bits, M, labels, 3, "hadamard", n_components=9, seed=2)[0].scores(bits)
    )
    filmed, _ = fit_readout(bits, M, labels, 3, Filmed, n_components=9, seed=2)
    assert (own.kind, filmed.kind, filmed.camera) == ("hadamard", "filmed", Camera(0.5))
    assert (filmed.projection.m, filmed.projection.k, filmed.projection.seed) == (M, 9, 2)


@every
@pytest.mark.parametrize("k", [0, -3])
def test_components_that_are_not_positive_are_refused(projection, k):
    bits, labels = separable(n=30)
    with pytest.raises(UsageError, match=f"n_components {k}"):
        fit_readout(bits, M, labels, 3, projection, n_components=k)


def big():
    n = 4000
    bits = np.random.default_rng(0).integers(0, 256, size=(n, 1), dtype="uint8")
    return bits, (bits[:, 0] & 1).astype("int64")


@contextmanager
def allocating_less_than(size):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def test_a_comparison_beyond_the_budget_is_refused_before_it_is_allocated():
    bits, labels = big()
    with allocating_less_than(2**20), pytest.raises(BudgetError) as error:
        kernel_paths(bits, 8, labels, 2, ["exact"], budget="100MiB")
    for text in ("4000 x 4000", "366.2 MiB", "100.0 MiB", "compare fewer images"):
        assert text in str(error.value)


@pytest.mark.parametrize("projection", ["hadamard", "dense"])
def test_components_beyond_the_budget_are_refused_before_anything_is_allocated(projection):
    bits, labels = big()
    with allocating_less_than(2**20), pytest.raises(BudgetError) as error:
        fit_readout(bits, 8, labels, 2, projection, n_components=3500, alphas=[1.0], budget="100MiB")
    for text in ("3500 x 3500", "467.3 MiB", "100.0 MiB", "n_components to at most 1619"):
        assert text in str(error.value)


def test_the_budget_counts_the_targets_of_many_classes():
    bits, labels = big()
    few, many = labels % 2, np.arange(len(labels)) % 2000
    options = {"n_components": 50, "alphas": [1.0], "budget": "5MiB"}
    assert fit_readout(bits[:2000], 8, few[:2000], 2, "hadamard", **options)[0].kind == "hadamard"
    for projection in ("hadamard", "none"):
        with allocating_less_than(2**20), pytest.raises(BudgetError):
            fit_readout(bits, 8, many, 2000, projection, **options)


def test_auto_goes_by_the_budget_and_not_by_the_rows():
    bits, labels = separable(n=100)
    system = 3 * 8 * 100**2
    paths = [fit_readout(bits, M, labels, 3, "auto", budget=system - less)[1] for less in (0, 1)]
    assert len(paths[0].loo_scores) == len(paths[1].loo_scores) == 100
    assert len(paths[1].coefficients) < len(paths[0].coefficients) == 100


@pytest.mark.parametrize(
    ("projection", "k", "stages"),
    [
        ("none", None, ["gram", "solve", "solve"]),
        ("exact", None, ["gram", "project", "solve"]),
        ("auto", None, ["gram", "solve", "project", "solve", "solve"]),
        ("hadamard", 100, ["project", "gram", "solve"]),
        ("hadamard", 31, ["project", "gram", "solve"]),
        ("hadamard", 30, ["project", "solve"]),
        ("dense", 10, ["project", "solve"]),
    ],
)
def test_each_stage_is_timed(projection, k, stages):
    seen = []

    @contextmanager
    def timer(stage):
        yield
        seen.append(stage)

    bits, labels = separable(n=30)
    fit_readout(bits, M, labels, 3, projection, n_components=k, timer=timer)
    assert seen == stages


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    m=st.integers(1, 40),
    k=st.integers(1, 30),
    classes=st.integers(2, 12),
    kind=st.sampled_from(["random", "zeros", "ones", "duplicates", "constant features"]),
    projection=st.sampled_from(["none", "exact", "auto", "hadamard", "dense", "dense-signs"]),
    alphas=st.sampled_from([None, [0.0], [0.0, 1.0], [1e-12, 1e30]]),
    search=st.sampled_from(["all", "halving"]),
)
@settings(deadline=None, max_examples=150, database=None)
def test_whatever_the_rows_the_result_is_sound_or_the_error_clear(
    seed, n, m, k, classes, kind, projection, alphas, search
):
    random = np.random.default_rng(seed)
    ones = {
        "random": random.integers(0, 2, size=(n, m)),
        "zeros": np.zeros((n, m)),
        "ones": np.ones((n, m)),
        "duplicates": np.repeat(random.integers(0, 2, size=(1, m)), n, axis=0),
        "constant features": np.tile(random.integers(0, 2, size=m), (n, 1))
        | (np.arange(m) == 0) * np.arange(n)[:, None] % 2,
    }[kind]
    bits, labels = np.packbits(ones.astype("uint8"), axis=1), random.integers(0, classes, size=n)
    try:
        readout, path = fit_readout(bits, m, labels, classes, projection, k, alphas, search=search)
    except DataError as error:
        assert n < 2 or (alphas is not None and "singular at every alpha" in str(error))
        return
    scores = readout.scores(bits)
    assert scores.shape == (n, classes)
    assert np.isfinite(scores).all()
    assert 0 <= path.loo_accuracy <= 1
    assert np.isfinite(path.coefficients).all()


@pytest.mark.gpu
@pytest.mark.parametrize("projection", ["none", "exact", "auto", "hadamard", "dense", "dense-signs"])
@pytest.mark.parametrize("k", [30, 400])
def test_a_gpu_fits_as_the_cpu_does(projection, k):
    bits, labels = separable(7, 200, 160, 4)[:2]
    readout, path = fit_readout(bits, 160, labels, 4, projection, k)
    on_gpu = [on_device(array, "cuda") for array in (bits, labels)]
    other, other_path = fit_readout(on_gpu[0], 160, on_gpu[1], 4, projection, k)
    assert other_path.alpha == pytest.approx(path.alpha)
    scores = readout_on(other, "cpu").scores(bits)
    if projection == "hadamard":
        # Sums in float32 round differently, and so may a byte.
        assert np.mean(scores.argmax(axis=1) == readout.scores(bits).argmax(axis=1)) > 0.98
    else:
        np.testing.assert_allclose(scores, readout.scores(bits), atol=1e-6)
    np.testing.assert_allclose(on_host(other.scores(on_gpu[0])), scores, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [*POOLED, "auto"])
@pytest.mark.parametrize(("n", "budget", "compared"), [(200, None, 400), (900, None, 400), (900, "6MiB", 128)])
def test_a_gpu_fits_channel_means_as_the_cpu_does(kind, n, budget, compared, monkeypatch):
    """By the dual, where ``auto`` compares kernels on fewer rows first, and on landmarks."""
    monkeypatch.setattr(form, "MOST_LANDMARKS", 64)
    monkeypatch.setattr(form, "COMPARED_ROWS", compared)
    monkeypatch.setattr(comparison, "RACED_ROWS", 150)
    bits, labels = separable(7, n, 160, 4)
    random = np.random.default_rng(0)
    pooled = random.normal(labels[:, None], 2, (n, 12)).astype("float32")
    arrays, fits = (bits, labels, pooled, random.uniform(0.5, 2, n)), []
    for device in ("cpu", "cuda"):
        own = [on_device(each, device) for each in arrays]
        options = {"pooled": own[2], "weights": own[3], "layers": (5, 7), "budget": budget}
        fits.append(fit_readout(own[0], 160, own[1], 4, kind, **options))
    (readout, path), (other, other_path) = fits
    assert other.kind == readout.kind
    assert other_path.alpha == pytest.approx(path.alpha)
    expected = readout.scores(bits, pooled=pooled)
    np.testing.assert_allclose(readout_on(other, "cpu").scores(bits, pooled=pooled), expected, atol=1e-5)
    found = other.scores(on_device(bits, "cuda"), pooled=on_device(pooled, "cuda"))
    np.testing.assert_allclose(on_host(found), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"m": 210}, "does not hold the packed bits of 210 features"),
        ({"labels": np.arange(119) % 3}, "119 labels for 120 rows of bits; give one a row"),
        ({"labels": np.arange(120) % 3 - 1}, "labels from -1 to 1 for 3 classes; give integers from 0 to 2"),
        ({"labels": np.arange(120) % 4}, "labels from 0 to 3 for 3 classes"),
        ({"labels": np.arange(120.0) % 3}, "labels of dtype float64; give integers"),
        ({"labels": np.zeros((120, 2), int)}, r"labels of shape \(120, 2\) for 3 classes; give a column a class"),
        ({"pooled": np.zeros((119, 7), "float32")}, "119 rows of pooled features for 120 rows of bits"),
        ({"pooled": np.zeros(120, "float32")}, r"pooled features of shape \(120,\) are not rows of the channels"),
        ({"pooled": np.zeros((120, 7), "float32"), "layers": (3, 5)}, "are not rows of 3 . 5 channels"),
        ({"pooled": np.zeros((120, 7), "float32"), "layers": (-1, 8)}, "are not rows of -1 . 8 channels"),
        ({"weights": np.ones(119)}, "119 weights for 120 rows of bits"),
    ],
)
def test_what_does_not_belong_together_is_refused(changed, said):
    bits, labels = separable()
    given = {"bits": bits, "m": M, "labels": labels, "classes": 3, "pooled": None, "weights": None, "layers": ()}
    with pytest.raises(UsageError, match=said):
        # Without the checks of types that tests have, which say it otherwise.
        inspect.unwrap(check_rows)(**given | changed)
    inspect.unwrap(check_rows)(**given)


def test_a_fit_checks_its_rows():
    with pytest.raises(UsageError, match="labels from -1 to 1 for 3 classes"):
        fit_readout(separable()[0], M, np.arange(120) % 3 - 1, 3)


def test_the_paths_of_several_kernels_are_those_of_a_fit_with_each():
    bits, labels = separable(noise=2)
    pooled = np.random.default_rng(0).normal(labels[:, None], 1, size=(len(bits), 7)).astype("float32")
    weights = np.random.default_rng(1).uniform(0.5, 2, len(bits))
    kinds = ("exact", "none", "rbf", "bits+rbf")
    paths = kernel_paths(bits, M, labels, 3, kinds, weights=weights, pooled=pooled)
    assert tuple(paths) == kinds
    for kind, path in paths.items():
        _, expected = fit_readout(bits, M, labels, 3, kind, weights=weights, pooled=pooled)
        np.testing.assert_array_equal(path.loo_scores, expected.loo_scores)
        assert path.alpha == expected.alpha
    with pytest.raises(BudgetError, match="120 x 120 ridge system of 3 classes needs"):
        kernel_paths(bits, M, labels, 3, kinds, budget=100_000, pooled=pooled)


def test_the_more_a_call_reads_the_more_rows_are_scored_at_once():
    def exact(n):
        return ExactReadout(np.zeros((n, 1 << 13), "uint8"), np.zeros((n, 2)), np.zeros(2))

    def speckle(projection):
        return SpeckleReadout(projection, Camera(1.0), np.zeros((projection.k, 2)), np.zeros(2))

    assert rows_of_call(BitsReadout(8, np.zeros((8, 2)), np.zeros(2))) == 1
    assert rows_of_call(exact(320)) == 20
    assert rows_of_call(exact(1 << 16)) == 1024
    radial = RadialReadout(
        np.zeros(4), np.ones(4), np.zeros((1 << 17, 4), "float32"), np.zeros((1 << 17, 1)), np.zeros(1)
    )
    assert rows_of_call(SumReadout(exact(320), radial)) == 20 + 24
    # A random matrix is drawn for each call.
    for kind in (Dense, DenseSigns):
        assert rows_of_call(speckle(kind(1 << 11, 1 << 10))) == 32
    assert rows_of_call(speckle(Hadamard(1 << 11, 1 << 10))) == 1
