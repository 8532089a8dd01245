import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from aurevoir.errors import DataError, UsageError
from aurevoir.kernels.memory import blocks
from aurevoir.kernels.ridge import default_alphas, dual_path, one_vs_rest, primal_path
from aurevoir.kernels.ridge.solvers import CholeskySolver, EighSolver
from aurevoir.kernels.ridge.sums import RowSums
from aurevoir.kernels.row_blocks import RowSource

quick = settings(deadline=None, max_examples=20, database=None)
seeds = st.integers(0, 2**32 - 1)
ALPHAS = [1e-9, 1e-5, 1e-2, 1.0, 30.0, 1e4]


def problem(seed, n, k, classes=3):
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, k)) + 3 * random.normal(size=k)
    labels = random.integers(0, classes, size=n)
    labels[:classes] = np.arange(classes)
    return X, labels, one_vs_rest(labels, classes)


def passes(X, length=4):
    return RowSource(lambda held: ((which, held[which]) for which in blocks(len(held), length)), (X,))


def row_sums(X, targets, weights=None):
    """The sums of `RowSums.of`, of any numbers instead of bytes."""
    s = np.ones(len(X)) if weights is None else np.asarray(weights)
    return RowSums(s.sum(), s @ X, X.T @ (s[:, None] * X), X.T @ (s[:, None] * targets), s @ targets)


def primal(X, targets, alphas=None, weights=None, **options):
    return primal_path(row_sums(X, targets, weights), passes(X), targets, alphas, weights, **options)


def dual(X, targets, alphas=None, weights=None, **options):
    return dual_path(X @ X.T, targets, alphas, weights, **options)


both = pytest.mark.parametrize("solve", [dual, primal])


def rounding(X, alphas):
    """How far apart float64 may leave two solutions at an alpha, as a share of their norm.

    Condition number times epsilon, for each of the two and with a margin of five. Single coefficients may be further
    apart, and are, by whatever order the processor and its BLAS sum in.
    """
    largest = np.linalg.norm(X - X.mean(axis=0), 2) ** 2
    return 2 * 5 * (1 + largest / np.asarray(alphas)) * np.finfo("float64").eps


def apart(found, expected):
    """The distance of two arrays as a share of the second's norm."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def loses_to(best, path):
    """How many rows an alpha gets wrong of those that the best gets right."""
    return len(path.coefficients) * (path.loo_accuracy - path.loo_accuracies[best])


def refits(X, targets, alpha):
    """Scores of every row by a fit without it."""
    left_out = []
    for i in range(len(X)):
        others = np.arange(len(X)) != i
        model = Ridge(alpha=alpha, solver="svd").fit(X[others], targets[others])
        left_out.append(model.predict(X[i : i + 1])[0])
    return np.array(left_out)


@pytest.mark.parametrize(("n", "k"), [(12, 40), (12, 12), (12, 11), (25, 6)])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_dual_leave_one_out_is_that_of_brute_force_refits(n, k, alpha):
    X, labels, targets = problem(n * k, n, k)
    path, scores = dual(X, targets, [alpha]), refits(X, targets, alpha)
    assert path.loo_errors[0] == pytest.approx(np.mean((targets - scores) ** 2), rel=1e-4)
    assert path.loo_accuracies[0] == np.mean(scores.argmax(axis=1) == labels)


@pytest.mark.parametrize(("n", "k"), [(12, 40), (12, 12), (25, 6)])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_primal_leave_one_out_is_that_of_brute_force_refits(n, k, alpha):
    X, labels, targets = problem(n + k, n, k)
    path, scores = primal(X, targets, [alpha]), refits(X, targets, alpha)
    assert path.loo_errors[0] == pytest.approx(np.mean((targets - scores) ** 2), rel=1e-4)
    assert path.loo_accuracies[0] == np.mean(scores.argmax(axis=1) == labels)


@given(seed=seeds, n=st.integers(4, 12), k=st.integers(1, 15), log_alpha=st.floats(-6, 4))
@quick
def test_leave_one_out_of_one_target_is_that_of_brute_force_refits(seed, n, k, log_alpha):
    X = np.random.default_rng(seed).normal(size=(n, k))
    target = np.random.default_rng(seed + 1).normal(size=(n, 1))
    expected = np.mean((target - refits(X, target, 10**log_alpha).reshape(n, 1)) ** 2)
    assert dual(X, target, [10**log_alpha]).loo_errors[0] == pytest.approx(expected, rel=1e-4)


@given(seed=seeds, n=st.integers(3, 20), k=st.integers(1, 25), c=st.integers(2, 3))
@quick
def test_dual_and_primal_agree(seed, n, k, c):
    X, _, targets = problem(seed, n, k, c)
    alphas = np.array([1e-3, 0.1, 10.0]) * k
    a, b = dual(X, targets, alphas), primal(X, targets, alphas)
    np.testing.assert_allclose(a.loo_errors, b.loo_errors, rtol=1e-6)
    np.testing.assert_array_equal(a.loo_accuracies, b.loo_accuracies)
    np.testing.assert_allclose(X @ X.T @ a.coefficients + a.intercept, X @ b.coefficients + b.intercept, atol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(15, 40), (40, 15)])
def test_dual_and_primal_choose_the_same_default_alphas(n, k):
    X, _, targets = problem(1, n, k)
    a, b = dual(X, targets), primal(X, targets)
    np.testing.assert_allclose(a.alphas, b.alphas, rtol=1e-9)
    assert a.best == b.best


@pytest.mark.parametrize(
    ("solve", "n", "k", "alpha"),
    [(solve, n, k, alpha) for solve in (dual, primal) for n, k in ((15, 40), (40, 15)) for alpha in (1e-2, 1.0, 100.0)]
    + [(dual, 15, 40, 1e-8), (primal, 40, 15, 1e-8)],
)
def test_scores_are_those_of_sklearn(solve, n, k, alpha):
    X, _, targets = problem(n, n, k)
    path = solve(X, targets, [alpha])
    weights = X.T @ path.coefficients if solve is dual else path.coefficients
    new = np.random.default_rng(9).normal(size=(7, k))
    expected = Ridge(alpha=alpha, solver="svd").fit(X, targets).predict(new)
    np.testing.assert_allclose(new @ weights + path.intercept, expected, atol=1e-6)


@given(seed=seeds, n=st.integers(3, 20), log_alpha=st.floats(-5, 3))
@quick
def test_dual_coefficients_sum_to_zero(seed, n, log_alpha):
    X, _, targets = problem(seed, n, 30, classes=2)
    coefficients = dual(X, targets, [10**log_alpha]).coefficients
    assert np.abs(coefficients.sum(axis=0)).max() < 1e-9 * np.abs(coefficients).sum()


@given(seed=seeds, shift=st.floats(-50, 50))
@quick
def test_a_shift_of_all_features_changes_nothing(seed, shift):
    X, _, targets = problem(seed, 12, 20)
    a, b = dual(X, targets, [0.5]), dual(X + shift, targets, [0.5])
    np.testing.assert_allclose(a.coefficients, b.coefficients, atol=1e-7)
    np.testing.assert_allclose(a.loo_errors, b.loo_errors, rtol=1e-6)


@both
@pytest.mark.parametrize("factor", [2.0**-10, 3.0, 1e4])
def test_default_alphas_follow_the_scale_of_the_features(solve, factor):
    X, _, targets = problem(4, 20, 30)
    a, b = solve(X, targets), solve(factor * X, targets)
    np.testing.assert_allclose(b.alphas, factor**2 * a.alphas, rtol=1e-9)
    np.testing.assert_allclose(b.loo_errors, a.loo_errors, rtol=1e-5)
    np.testing.assert_array_equal(b.loo_accuracies, a.loo_accuracies)
    np.testing.assert_allclose(b.intercept, a.intercept, atol=1e-5)


def test_default_alphas_span_seven_decades_about_the_mean_eigenvalue():
    X, _, targets = problem(4, 20, 30)
    alphas = dual(X, targets).alphas
    spectrum = np.linalg.eigvalsh(np.cov(X.T, bias=True) * 20)
    assert len(alphas) == 15
    assert np.all(np.diff(alphas) > 0)
    np.testing.assert_allclose(alphas[[0, -1]], spectrum.sum() / 20 * np.array([1e-5, 1e2]))


def test_default_alphas_of_no_spread_are_positive():
    assert np.all(default_alphas(0.0) > 0)


def test_an_integer_gram_is_solved_as_a_float_one():
    X = np.random.default_rng(0).integers(0, 2, size=(20, 30))
    targets = one_vs_rest(np.arange(20) % 3, 3)
    a, b = dual(X, targets), dual(X.astype("float64"), targets)
    np.testing.assert_array_equal(a.coefficients, b.coefficients)
    np.testing.assert_array_equal(a.loo_errors, b.loo_errors)


def test_the_gram_is_not_written_to():
    X, _, targets = problem(0, 9, 5)
    products = X @ X.T
    before = products.copy()
    dual_path(products, targets)
    np.testing.assert_array_equal(products, before)


@both
def test_the_best_alpha_has_the_highest_leave_one_out_accuracy(solve):
    X, _, targets = problem(30, 30, 8)
    path = solve(X, targets, np.logspace(-4, 5, 19))
    assert path.loo_accuracies[np.argmin(path.loo_errors)] < path.loo_accuracies.max()
    assert path.loo_accuracy == path.loo_accuracies.max() == path.loo_accuracies[path.best]
    assert path.alpha == path.alphas[path.best]


@both
def test_among_equally_accurate_alphas_the_least_error_is_best(solve):
    labels = np.arange(20) % 2
    X = np.random.default_rng(0).normal(size=(20, 4)) + 12 * labels[:, None]
    path = solve(X, one_vs_rest(labels, 2), [1e3, 1e-3, 1e2, 1.0])
    np.testing.assert_array_equal(path.loo_accuracies, 1.0)
    assert path.best == np.argmin(path.loo_errors) == 2


@both
def test_the_solution_kept_is_the_one_at_the_best_alpha(solve):
    X, _, targets = problem(12, 30, 8)
    path = solve(X, targets, [1e-3, 1.0, 1e3])
    alone = solve(X, targets, [path.alpha])
    assert apart(path.coefficients, alone.coefficients) < rounding(X, path.alpha)
    assert apart(path.intercept, alone.intercept) < rounding(X, path.alpha)


@both
def test_one_alpha_may_be_a_number(solve):
    X, _, targets = problem(12, 10, 8)
    assert solve(X, targets, 2.0).alpha == 2.0


@given(seed=seeds, length=st.integers(1, 40))
@quick
def test_primal_does_not_depend_on_the_blocks(seed, length):
    X, _, targets = problem(seed, 30, 6)
    a, b = (primal_path(row_sums(X, targets), passes(X, by), targets, [0.1, 10.0]) for by in (length, 30))
    np.testing.assert_allclose(a.coefficients, b.coefficients, atol=1e-10)
    np.testing.assert_allclose(a.loo_errors, b.loo_errors, rtol=1e-9)


def test_one_vs_rest_is_plus_one_at_the_label_and_minus_one_elsewhere():
    np.testing.assert_array_equal(
        one_vs_rest(np.array([2, 0, 1]), 4), [[-1, -1, 1, -1], [1, -1, -1, -1], [-1, 1, -1, -1]]
    )


@both
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_constant_features_score_every_row_by_the_class_shares(solve, value):
    labels = np.array([0, 0, 0, 1, 1])
    X, targets = np.full((5, 3), value), one_vs_rest(labels, 2)
    path = solve(X, targets)
    weights = X.T @ path.coefficients if solve is dual else path.coefficients
    scores = X @ weights + path.intercept
    np.testing.assert_allclose(scores, np.tile(targets.mean(axis=0), (5, 1)), atol=1e-9)
    assert path.loo_errors[path.best] == pytest.approx(np.mean((targets - refits(X, targets, 1.0)) ** 2))


def test_an_all_zero_gram_has_a_solution():
    path = dual_path(np.zeros((6, 6), dtype="int64"), one_vs_rest(np.array([0, 0, 0, 0, 1, 1]), 2))
    assert np.all(path.alphas > 0)
    assert np.all(np.isfinite(path.coefficients))
    assert path.loo_accuracy == pytest.approx(4 / 6)


@both
@pytest.mark.parametrize("alpha", [1e-6, 1.0])
def test_duplicate_rows_are_solved_as_brute_force_does(solve, alpha):
    X, _, targets = problem(3, 10, 25)
    X, targets = np.concatenate([X, X]), np.concatenate([targets, targets])
    path = solve(X, targets, [alpha])
    assert path.loo_errors[0] == pytest.approx(np.mean((targets - refits(X, targets, alpha)) ** 2), rel=1e-3, abs=1e-9)


def test_dual_alpha_zero_interpolates_where_the_system_is_not_singular():
    X, _, targets = problem(8, 12, 40)
    path = dual(X, targets, [0.0])
    np.testing.assert_allclose(X @ X.T @ path.coefficients + path.intercept, targets, atol=1e-9)
    assert path.loo_errors[0] == pytest.approx(np.mean((targets - refits(X, targets, 1e-10)) ** 2), rel=1e-4)


def test_primal_alpha_zero_is_least_squares_where_the_system_is_not_singular():
    X, _, targets = problem(8, 40, 5)
    path = primal(X, targets, [0.0])
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(40)]), targets, rcond=None)[0]
    np.testing.assert_allclose(np.vstack([path.coefficients, path.intercept]), expected, atol=1e-9)


@pytest.mark.parametrize(("solve", "n", "k"), [(dual, 40, 5), (primal, 12, 40)])
def test_alpha_zero_of_a_singular_system_is_refused(solve, n, k):
    X, _, targets = problem(8, n, k)
    with pytest.raises(DataError, match="singular at every alpha"):
        solve(X, targets, [0.0])


@pytest.mark.parametrize(("solve", "n", "k"), [(dual, 40, 5), (primal, 12, 40)])
def test_a_singular_alpha_is_passed_over_for_one_that_is_not(solve, n, k):
    X, _, targets = problem(8, n, k)
    path = solve(X, targets, [0.0, 1.0])
    assert np.isnan(path.loo_accuracies[0])
    assert np.isnan(path.loo_errors[0])
    assert path.alpha == 1.0
    assert np.all(np.isfinite(path.coefficients))


@pytest.mark.parametrize("seed", range(4))
def test_leave_one_out_of_a_nearly_singular_system_is_right_or_is_not_given(seed):
    X, _, targets = problem(seed, 40, 5)
    path = dual(X, targets, 10.0 ** np.arange(-19, -5))
    given = np.isfinite(path.loo_errors)
    assert not given[0]
    assert given[-1]
    expected = [np.mean((targets - refits(X, targets, alpha)) ** 2) for alpha in path.alphas[given]]
    np.testing.assert_allclose(path.loo_errors[given], expected, rtol=0.1)


def test_leave_one_out_is_refused_where_no_other_row_bears_on_a_feature():
    X, targets = np.array([[-3.0], [3.0]]), one_vs_rest(np.arange(2), 2)
    with np.errstate(all="ignore"), pytest.raises(DataError, match="singular"):
        primal(X, targets, [0.0])


@both
def test_a_huge_alpha_leaves_the_class_shares(solve):
    X, _, targets = problem(8, 15, 20)
    path = solve(X, targets, [1e30])
    weights = X.T @ path.coefficients if solve is dual else path.coefficients
    np.testing.assert_allclose(X @ weights + path.intercept, np.tile(targets.mean(axis=0), (15, 1)), atol=1e-9)
    assert path.loo_errors[0] == pytest.approx(np.mean((targets - refits(X, targets, 1e30)) ** 2))


@both
def test_two_rows_are_the_fewest_that_can_be_learnt_from(solve):
    X, _, targets = problem(8, 2, 5, classes=2)
    assert np.all(np.isfinite(solve(X, targets, [1.0]).coefficients))
    with pytest.raises(DataError, match="at least 2"):
        solve(X[:1], targets[:1])


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(solve, bad):
    X, _, targets = problem(8, 9, 5)
    X[4, 2] = bad
    with pytest.raises(DataError, match="not finite"), np.errstate(invalid="ignore"):
        solve(X, targets)


def test_a_nan_off_the_diagonal_of_the_gram_is_refused():
    X, _, targets = problem(8, 9, 5)
    products = X @ X.T
    products[1, 2] = np.nan
    with pytest.raises(DataError, match="nan or inf"):
        dual_path(products, targets)


@both
@pytest.mark.parametrize("alphas", [-1.0, [1.0, -1e-9], [], [np.nan], [1.0, np.inf], [[1.0, 2.0]]])
def test_alphas_that_are_none_are_refused(solve, alphas):
    X, _, targets = problem(8, 9, 5)
    with pytest.raises(UsageError, match="alphas"):
        solve(X, targets, alphas)


def test_a_row_that_is_fitted_whatever_its_target_counts_as_singular():
    X = np.array([[-15.0], [15.0]])
    with pytest.raises(DataError, match="singular at every alpha"):
        primal(X, one_vs_rest(np.arange(2), 2), [0.0])


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_are_refused(n):
    with pytest.raises(DataError, match=rf"{n} row\(s\) to train on"):
        dual_path(np.zeros((n, n)), np.zeros((n, 2)))
    with pytest.raises(DataError, match=rf"{n} row\(s\) to train on"):
        primal(np.zeros((n, 3)), np.zeros((n, 2)))


def weighted_refits(X, targets, alpha, weights):
    """Scores of every row by a weighted fit without it."""
    left_out = []
    for i in range(len(X)):
        others = np.arange(len(X)) != i
        model = Ridge(alpha=alpha, solver="svd").fit(X[others], targets[others], weights[others])
        left_out.append(model.predict(X[i : i + 1])[0])
    return np.array(left_out)


@both
@pytest.mark.parametrize(("n", "k"), [(12, 30), (25, 6)])
@pytest.mark.parametrize("alpha", [1e-4, 1.0, 100.0])
def test_weighted_leave_one_out_is_that_of_weighted_refits(solve, n, k, alpha):
    X, labels, targets = problem(n * k, n, k)
    weights = np.random.default_rng(0).uniform(0.1, 5, size=n)
    path, scores = solve(X, targets, [alpha], weights), weighted_refits(X, targets, alpha, weights)
    errors = np.mean((targets - scores) ** 2, axis=1)
    assert path.loo_errors[0] == pytest.approx(np.average(errors, weights=weights), rel=1e-4)
    assert path.loo_accuracies[0] == pytest.approx(np.average(scores.argmax(axis=1) == labels, weights=weights))


@both
@pytest.mark.parametrize(("n", "k"), [(15, 40), (40, 15)])
def test_weighted_scores_are_those_of_sklearn(solve, n, k):
    X, _, targets = problem(n, n, k)
    weights = np.random.default_rng(0).uniform(0.1, 5, size=n)
    path = solve(X, targets, [0.5], weights)
    slopes = X.T @ path.coefficients if solve is dual else path.coefficients
    new = np.random.default_rng(9).normal(size=(7, k))
    expected = Ridge(alpha=0.5, solver="svd").fit(X, targets, weights).predict(new)
    np.testing.assert_allclose(new @ slopes + path.intercept, expected, atol=1e-6)


@both
@pytest.mark.parametrize("weights", [np.ones(8), np.zeros(9), np.full(9, np.nan), -np.ones(9)])
def test_weights_that_are_none_are_refused(solve, weights):
    X, _, targets = problem(8, 9, 5)
    with pytest.raises(UsageError, match="weights of shape"):
        if solve is dual:
            dual(X, targets, weights=weights)
        else:
            primal_path(row_sums(X, targets), passes(X), targets, weights=weights)


@both
def test_with_several_labels_a_row_the_least_error_picks_alpha(solve):
    random = np.random.default_rng(5)
    X = random.normal(size=(60, 20))
    targets = np.where(X @ random.normal(size=(20, 4)) + random.normal(size=(60, 4)) > 1.5, 1.0, -1.0)
    alphas = np.logspace(-3, 4, 8)
    path = solve(X, targets, alphas, multilabel=True)
    assert path.best == np.argmin(path.loo_errors)
    scores = refits(X, targets, path.alpha)
    assert path.loo_accuracy == pytest.approx(np.mean((scores > 0) == (targets > 0)))


def large_problem(n=1200, k=900, noise=1.0):
    random = np.random.default_rng(1)
    labels = random.integers(0, 5, size=n)
    X = random.normal(size=(5, k))[labels] * 0.15 + noise * random.normal(size=(n, k))
    return X, labels, one_vs_rest(labels, 5)


@pytest.mark.parametrize("alphas", [np.logspace(-5, 3, 9) * 900, [900.0]])
def test_float32_factors_give_float64_solutions(monkeypatch, alphas):
    X, _, targets = large_problem()
    single = dual(X, targets, alphas)
    monkeypatch.setattr("aurevoir.kernels.ridge.dual._SINGLE_ROWS", 10**9)
    double = dual(X, targets, alphas)
    np.testing.assert_allclose(single.loo_errors, double.loo_errors, rtol=1e-3)
    # float32's diagonals may turn a row or two whose best scores are all but equal.
    np.testing.assert_allclose(single.loo_accuracies, double.loo_accuracies, atol=2.5 / len(X))
    assert loses_to(single.best, double) < 2.5
    same = dual(X, targets, [single.alpha])
    # What refinement leaves: a correction of less than 1e-6, by a solver that is good to 1e-4.
    assert apart(single.coefficients, same.coefficients) < 1e-10 + rounding(X, single.alpha)


@pytest.mark.parametrize("alphas", [np.logspace(-9, -4, 8), [1e-8]])
def test_where_float32_leaves_no_digit_float64_is_taken(monkeypatch, alphas):
    X, _, targets = large_problem(k=300)
    monkeypatch.setattr("aurevoir.kernels.ridge.dual._SPECTRAL_ROWS", 10**9)
    single = dual(X, targets, alphas)
    monkeypatch.setattr("aurevoir.kernels.ridge.dual._SINGLE_ROWS", 10**9)
    double = dual(X, targets, alphas)
    assert (np.abs(single.loo_errors / double.loo_errors - 1) < rounding(X, alphas)).all()
    # These alphas are alike to leave-one-out: rounding may prefer another in either.
    same = dual(X, targets, [single.alpha])
    assert apart(single.coefficients, same.coefficients) < rounding(X, single.alpha)


@pytest.mark.parametrize(
    ("lost_by_factors", "expected"),
    [
        (0, [("float32", 2), ("float32", 1), ("float32", 0)]),
        (1, [("float32", 2), ("float32", 1), ("float32", 0), ("float64", 0)]),
        (2, [("float32", 2), ("float32", 1), ("float64", 0), ("float64", 1)]),
    ],
)
def test_alphas_that_eigenvectors_fail_are_factored_in_float32_until_that_fails_too(
    monkeypatch, lost_by_factors, expected
):
    X, _, targets = large_problem(n=600, k=2400)
    alphas = np.logspace(1, 4, 8)
    double = dual(X, targets, alphas)
    made = []

    class Coarse(EighSolver):
        """Loses digits of the three smallest alphas."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self._inverses[:, :3] *= np.float32(1.01)

    class Noted(CholeskySolver):
        """Loses those of the `lost_by_factors` smallest, in float32."""

        def __init__(self, matrix, alpha, dtype="float64"):
            super().__init__(matrix, alpha, dtype)
            made.append((dtype, int(np.flatnonzero(alphas == alpha)[0])))
            if dtype == "float32" and made[-1][1] < lost_by_factors:
                self._inverse *= np.float32(1.01)

    monkeypatch.setattr("aurevoir.kernels.ridge.dual.EighSolver", Coarse)
    monkeypatch.setattr("aurevoir.kernels.ridge.dual.CholeskySolver", Noted)
    found = dual(X, targets, alphas)
    assert made == expected
    np.testing.assert_allclose(found.loo_errors, double.loo_errors, rtol=1e-4)
    assert loses_to(found.best, double) < 2.5


def test_halving_scores_few_alphas_on_all_rows_and_hardly_loses_accuracy():
    X, _, targets = large_problem(n=1600, noise=2.0)
    every, halved = dual(X, targets, search="all"), dual(X, targets, search="halving")
    assert np.isfinite(every.loo_accuracies).all()
    assert 3 <= np.isfinite(halved.loo_accuracies).sum() <= 6
    assert every.loo_accuracies.min() < every.loo_accuracy - 0.02
    # On half of these rows, fewer than features, another alpha is best; rounding in float32 may turn two rows more.
    assert loses_to(halved.best, every) < 3.5
    assert halved.loo_accuracy == pytest.approx(every.loo_accuracies[halved.best], abs=2.5 / len(X))


def test_many_rows_are_searched_and_few_are_not():
    X, _, targets = large_problem(n=2100, k=64)
    alphas = np.logspace(-3, 5, 9)
    assert np.isfinite(dual(X, targets, alphas).loo_errors).sum() < 7
    assert np.isfinite(dual(X[:2000], targets[:2000], alphas).loo_errors).all()


@pytest.mark.parametrize("start", [0, 7, 14])
def test_a_climb_from_a_given_alpha_reaches_the_best_and_scores_what_lies_between(start):
    X, _, targets = problem(0, 60, 10)
    every, climbed = dual(X, targets, search="all"), dual(X, targets, search="halving", start=start)
    scored = np.flatnonzero(np.isfinite(climbed.loo_accuracies))
    np.testing.assert_array_equal(scored, np.arange(scored[0], scored[-1] + 1))
    assert start in scored
    np.testing.assert_allclose(climbed.loo_accuracies[scored], every.loo_accuracies[scored])
    # Given where nothing is halved, it has no effect.
    assert dual(X, targets, start=start).best == every.best


def test_a_climb_tries_float32_no_more_below_an_alpha_at_which_it_failed(monkeypatch):
    X, _, targets = large_problem(n=600, k=2400)
    alphas, made = np.logspace(1, 4, 8), []

    class Noted(CholeskySolver):
        """Loses digits in float32."""

        def __init__(self, matrix, alpha, dtype="float64"):
            super().__init__(matrix, alpha, dtype)
            made.append((dtype, len(matrix), int(np.flatnonzero(alphas == alpha)[0])))
            if dtype == "float32":
                self._inverse *= np.float32(1.01)

    expected = dual(X, targets, alphas, search="halving", start=5)
    monkeypatch.setattr("aurevoir.kernels.ridge.dual.CholeskySolver", Noted)
    path = dual(X, targets, alphas, search="halving", start=5)
    scored = {index for _, _, index in made}
    assert len(scored) >= 3
    tried = [index for dtype, _, index in made if dtype == "float32"]
    # It begins at 5; larger alphas are tried, smaller ones are not.
    assert sorted(tried) == sorted(index for index in scored if index >= 5)
    assert [index for dtype, _, index in made if dtype == "float64"] == list(dict.fromkeys(i for _, _, i in made))
    assert path.best == expected.best
    np.testing.assert_allclose(path.coefficients, expected.coefficients, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("start", [-1, 15, 99])
def test_a_start_that_is_no_index_is_refused(start):
    X, _, targets = problem(0, 60, 10)
    with pytest.raises(UsageError, match=f"start {start} is no index of 15 alphas; give 0 to 14"):
        dual(X, targets, start=start)


def test_halving_passes_over_singular_alphas_and_scores_all_where_every_one_is():
    X, _, targets = problem(8, 40, 5)
    path = dual(X, targets, [0.0, 0.0, 0.0, 1.0], search="halving")
    assert path.alpha == 1.0
    with pytest.raises(DataError, match="singular at every alpha"):
        dual(X, targets, np.zeros(4), search="halving")


def test_an_unknown_search_is_refused():
    X, _, targets = problem(8, 9, 5)
    with pytest.raises(UsageError, match="search 'golden' is not known"):
        dual(X, targets, search="golden")


@pytest.mark.parametrize("n", [80, 700])
def test_many_classes_are_solved_without_refinement_as_each_alpha_alone(n, monkeypatch):
    """Half as many classes as rows: the same scores as from a float64 factor at each alpha."""
    random, labels = np.random.default_rng(0), np.arange(n) % (n // 2)
    X, targets = random.normal(size=(n // 2, 60))[labels] + random.normal(size=(n, 60)), one_vs_rest(labels, n // 2)
    found = dual(X, targets, search="all")
    monkeypatch.setattr("aurevoir.kernels.ridge.dual._SPECTRAL_ROWS", 0)
    monkeypatch.setattr("aurevoir.kernels.ridge.dual.refine", None)
    factored = dual(X, targets, found.alphas, search="all")
    np.testing.assert_allclose(found.loo_errors, factored.loo_errors, rtol=1e-6)
    np.testing.assert_array_equal(found.best, factored.best)
    assert apart(found.coefficients, factored.coefficients) < 1e-7


def weighted_ridge(X, targets, weights, alpha):
    """Coefficients and intercept, by least squares with rows for the penalty."""
    means, target_means = weights @ X / weights.sum(), weights @ targets / weights.sum()
    k = X.shape[1]
    rows = np.concatenate([np.sqrt(weights)[:, None] * (X - means), np.sqrt(alpha) * np.eye(k)])
    wanted = np.concatenate([np.sqrt(weights)[:, None] * (targets - target_means), np.zeros((k, targets.shape[1]))])
    coefficients = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return coefficients, target_means - means @ coefficients


def left_out(X, targets, weights, alpha):
    """The scores of every row by a fit without it."""
    found = []
    for row in range(len(X)):
        others = np.arange(len(X)) != row
        coefficients, intercept = weighted_ridge(X[others], targets[others], weights[others], alpha)
        found.append(X[row] @ coefficients + intercept)
    return np.array(found)


def drawn(seed, n, k, c, multilabel, spread):
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, k)) * random.uniform(0.1, 3, k) + 2 * random.normal(size=k)
    if multilabel:
        targets = np.where(random.integers(0, 2, (n, c)), 1.0, -1.0)
    else:
        targets = np.where(random.integers(0, c, n)[:, None] == np.arange(c), 1.0, -1.0)
    return X, targets, 10 ** random.uniform(-spread, spread, n), random.normal(size=(5, k))


def check(solve, X, targets, weights, alphas, multilabel, new):
    path = solve(X, targets, alphas, weights, multilabel=multilabel)
    errors, accuracies = [], []
    for alpha in alphas:
        scores = left_out(X, targets, weights, alpha)
        right = (scores > 0) == (targets > 0) if multilabel else scores.argmax(axis=1) == targets.argmax(axis=1)
        accuracies.append(np.average(right.mean(axis=1) if multilabel else right, weights=weights))
        errors.append(np.average(((targets - scores) ** 2).mean(axis=1), weights=weights))
    np.testing.assert_allclose(path.loo_errors, errors, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(path.loo_accuracies, accuracies, rtol=1e-9)
    chosen = (
        errors
        if multilabel
        else [error for error, one in zip(errors, accuracies, strict=True) if one == max(accuracies)]
    )
    assert errors[path.best] <= min(chosen) * (1 + 1e-6) + 1e-12
    coefficients, intercept = weighted_ridge(X, targets, weights, path.alpha)
    own = X.T @ path.coefficients if solve is dual else path.coefficients
    expected = new @ coefficients + intercept
    np.testing.assert_allclose(new @ own + path.intercept, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@both
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(3, 14),
    k=st.integers(1, 20),
    c=st.integers(2, 4),
    multilabel=st.booleans(),
    spread=st.sampled_from([0, 1, 3]),
    decades=st.lists(st.integers(-3, 3), min_size=1, max_size=7, unique=True),
)
@settings(deadline=None, max_examples=40, database=None)
def test_random_problems_are_solved_as_numpy_does(solve, seed, n, k, c, multilabel, spread, decades):
    X, targets, weights, new = drawn(seed, n, k, c, multilabel, spread)
    check(solve, X, targets, weights, [10.0**each for each in decades], multilabel, new)


@both
@pytest.mark.parametrize(("n", "k", "c"), [(70, 20, 3), (70, 90, 3), (90, 8, 12), (80, 12, 60)])
@pytest.mark.parametrize("multilabel", [False, True])
def test_sizes_that_other_solvers_take_are_solved_as_numpy_does(solve, n, k, c, multilabel):
    X, targets, weights, new = drawn(n + k, n, k, c, multilabel, 1)
    check(solve, X, targets, weights, np.logspace(-2, 3, 8), multilabel, new)
