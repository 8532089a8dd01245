import numpy as np
import pytest

from aurevoir.errors import AurevoirError, DataError, UsageError
from aurevoir.transfer.estimator import OpticalClassifier

X = np.random.default_rng(0).normal(size=(12, 40))
Y = np.arange(12) % 3


def fitted(weights=None, y=Y, **options):
    return OpticalClassifier(**{"projection": "none", **options}).fit(X, y, weights)


def test_a_class_of_weight_0_is_refused():
    with pytest.raises(DataError, match="sample_weight is 0 for every image of class 1, which could never"):
        fitted((Y != 1).astype(float))
    assert fitted(np.arange(12) % 4 > 0).classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize("weight", [0, -1, np.nan, np.inf, 1j, "a", None])
def test_a_weight_of_a_class_that_is_no_positive_number_is_refused(weight):
    with pytest.raises(UsageError, match="class_weight {.*must be positive"):
        fitted(class_weight={0: weight, 1: 1, 2: 1})


@pytest.mark.parametrize("weights", [np.ones(12) * 1j, [np.nan] * 12, [-1.0] * 12])
def test_sample_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(UsageError, match="sample_weight"):
        fitted(weights)


@pytest.mark.parametrize("weights", [np.zeros(12), np.full(12, np.nan), -np.ones(12), np.ones(11)])
def test_score_takes_the_weights_that_fit_takes(weights):
    with pytest.raises(UsageError, match="sample_weight"):
        fitted().score(X, Y, weights)


@pytest.mark.parametrize("alphas", [[1j], "a", [np.nan], [np.inf], [-1.0], []])
def test_alphas_that_are_no_numbers_are_refused(alphas):
    with pytest.raises(UsageError, match="alphas .* must be one or more finite, non-negative numbers"):
        fitted(alphas=alphas)


def test_two_columns_of_labels_are_two_labels_each_as_a_class_of_its_own():
    """Each column's scores are those of a binary fit at the same alpha, which one-hot columns mirror."""
    y = Y % 2
    binary = fitted(y=y, alphas=[3.0]).decision_function(X)
    columns = fitted(y=np.stack([1 - y, y], axis=1), alphas=[3.0]).decision_function(X)
    np.testing.assert_allclose(columns, np.stack([-binary, binary], axis=1), atol=1e-9)
    free = np.stack([y, Y == 0], axis=1).astype(int)
    both = fitted(y=free, alphas=[3.0])
    alone = [fitted(y=column, alphas=[3.0]).decision_function(X) for column in free.T]
    np.testing.assert_allclose(both.decision_function(X), np.stack(alone, axis=1), atol=1e-9)
    assert both.predict(X).shape == (12, 2)


@pytest.mark.parametrize("projection", ["none", "exact", "hadamard", "dense", "dense-signs"])
@pytest.mark.parametrize("alpha", [1e-2, 1.0, 1e5])
def test_weights_over_12_orders_give_the_ridge_of_extended_precision(projection, alpha):
    weights = np.logspace(-6, 6, 12)
    model = fitted(weights, projection=projection, n_components=5, alphas=[alpha])
    bits = (X > 0).astype("longdouble")
    if projection == "none":
        kernel = bits @ bits.T
    elif projection == "exact":
        ones = bits.sum(axis=1)
        kernel = ones[:, None] * ones + (bits @ bits.T) ** 2
    else:
        readout = model.readout_
        speckle = readout.projection.speckle(np.packbits(X > 0, axis=1), readout.camera).astype("longdouble") - 128
        kernel = speckle @ speckle.T
    expected = reference(kernel, weights.astype("longdouble"), alpha)
    np.testing.assert_allclose(model.scores(X), expected, rtol=1e-5, atol=1e-5)


def reference(kernel, weights, alpha):
    """Scores of the weighted ridge with an intercept, by elimination in extended precision."""
    n = len(kernel)
    targets = np.where(Y[:, None] == np.arange(3), 1, -1).astype("longdouble")
    # (K + alpha / w) a + b = y, sum(a) = 0.
    system = np.zeros((n + 1, n + 1), dtype="longdouble")
    system[:n, :n] = kernel
    system[np.arange(n), np.arange(n)] += alpha / weights
    system[:n, n] = system[n, :n] = 1
    table = np.concatenate([system, np.concatenate([targets, np.zeros((1, 3), "longdouble")])], axis=1)
    for column in range(n + 1):
        pivot = column + int(np.abs(table[column:, column]).argmax())
        table[[column, pivot]] = table[[pivot, column]]
        table[column] /= table[column, column]
        for row in range(n + 1):
            if row != column:
                table[row] -= table[row, column] * table[column]
    return (kernel @ table[:n, n + 1 :] + table[n, n + 1 :]).astype(float)


@pytest.mark.parametrize("projection", ["none", "hadamard"])
def test_weights_over_600_orders_are_refused_by_what_is_wrong_with_them(projection):
    assert np.isfinite(fitted(np.logspace(-49, 50, 12), projection=projection).scores(X)).all()
    with pytest.raises(UsageError, match=r"weights from 1e-300 to 1e\+300 span more orders of magnitude"):
        fitted(np.logspace(-300, 300, 12), projection=projection)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j])
def test_features_that_are_no_finite_numbers_are_refused_on_one_line(bad):
    features = X.astype(np.result_type(X, bad))
    features[1, 2] = bad
    with pytest.raises(UsageError, match="NaN|infinity|Complex") as caught:
        OpticalClassifier(projection="none").fit(features, Y)
    assert "\n" not in str(caught.value)


def test_many_alphas_that_are_all_too_small_are_named_on_one_line():
    with pytest.raises(DataError, match="singular at every alpha of") as caught:
        OpticalClassifier(projection="none", alphas=np.zeros(40)).fit(np.tile(X[:, :3], (5, 1)), np.tile(Y, 5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("projection", ["none", "exact", "hadamard", "dense", "dense-signs"])
def test_edges_are_sound_or_refused(projection):
    """Two rows, one feature, equal rows, extreme alphas: finite scores, or an error for the user."""
    cases = [
        (X[:2], [0, 1], {}),
        (X[:, :1], Y, {}),
        (np.ones((6, 8)), [0, 1] * 3, {}),
        (np.zeros((6, 8)), [0, 1] * 3, {}),
        (np.repeat(X[:3], 4, axis=0), np.repeat([0, 1, 2], 4), {}),
        (X, Y, {"alphas": [1e-300]}),
        (X, Y, {"alphas": [1e300]}),
        (X, Y, {"alphas": [0.0]}),
        (X[:4], [0, 1, 0, 1], {"n_components": 4000}),
        (np.tile(X, (100, 1)), np.tile(Y, 100), {"n_components": 1}),
    ]
    scored = 0
    for features, labels, options in cases:
        try:
            scores = OpticalClassifier(projection=projection, **options).fit(features, labels).scores(features)
        except AurevoirError as error:
            assert "\n" not in str(error)
        else:
            assert np.isfinite(scores).all()
            scored += 1
    assert scored >= 6
