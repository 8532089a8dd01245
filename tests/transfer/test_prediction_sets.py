"""Prediction sets and familiarity of a classifier, on photographs where there are any."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from aurevoir import OpticalClassifier, load
from aurevoir.errors import BudgetError, UsageError
from aurevoir.images.sources import class_folders
from aurevoir.kernels.ridge.form import POOLED
from aurevoir.kernels.training_kernel import TrainingKernel

KINDS = ("none", "exact", *POOLED)


@pytest.fixture(scope="module")
def digits():
    """Handwritten digits, centred, and shuffled: as they come, those of the same writers are together."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return (X - X.mean(axis=0))[order], y[order]


@pytest.mark.parametrize("projection", KINDS)
def test_its_kernel_gives_the_scores_of_the_readout(projection, class_folder, staged_onnx):
    paths = class_folders(class_folder).paths
    classifier = OpticalClassifier(staged_onnx, projection=projection, pool_layers=True).fit(class_folder)
    sets, training = classifier.set_predictor(), classifier.training_
    layers = classifier.engine_.manifest.pooled_layers
    kernel = TrainingKernel(projection, training.bits, training.pooled, training.weights, layers=layers)
    gram = kernel.gram()
    np.testing.assert_allclose(kernel.own(training.bits, training.pooled), gram.diagonal(), rtol=1e-6)
    rows = kernel.rows(training.bits, training.pooled)
    np.testing.assert_allclose(rows, gram, rtol=1e-9)
    found = sets._ridge._solution
    scores = rows @ found + sets._ridge._intercept - sets._ridge._means @ found
    np.testing.assert_allclose(scores, classifier.scores(paths), atol=1e-6)


@pytest.mark.parametrize("by_class", [False, True])
def test_sets_grow_with_coverage_and_have_the_labels_of_training_images(by_class, class_folder, tiny_onnx, tmp_path):
    data = class_folders(class_folder)
    classifier = OpticalClassifier(tiny_onnx, projection="exact").fit(class_folder)
    few, many = (classifier.prediction_sets(data.paths, coverage, by_class) for coverage in (0.5, 0.95))
    assert (few <= many).all()
    assert few.sum() < many.sum()
    own = np.array(data.labels)[:, None] == classifier.classes_
    assert many[own].mean() >= 0.9
    classifier.save(tmp_path / "model")
    assert (load(tmp_path / "model").prediction_sets(data.paths, 0.95, by_class) == many).all()


def test_features_have_sets_and_familiarity(digits):
    X, y = digits
    classifier = OpticalClassifier(projection="exact").fit(X[:400], y[:400])
    sets = classifier.prediction_sets(X[400:900], 0.9)
    assert 0.86 < sets[np.arange(500), y[400:900]].mean() < 0.94
    familiar, noise = classifier.familiarity(X[400:900]), np.random.default_rng(0).normal(size=(50, X.shape[1]))
    assert (familiar.p_values <= 0.05).mean() < 0.09
    assert (classifier.familiarity(noise).p_values <= 0.05).mean() > 0.9


def test_what_has_no_sets_is_told_why(digits, tmp_path):
    X, y = digits[0][:90], digits[1][:90]
    with pytest.raises(UsageError, match="projection 'hadamard' does not have here; fit with one of none, exact"):
        OpticalClassifier(projection="hadamard", n_components=40).fit(X, y).prediction_sets(X)
    both = OpticalClassifier().fit(X, np.c_[y > 4, y % 2 == 0])
    with pytest.raises(UsageError, match="labels that exclude each other"):
        both.prediction_sets(X)
    assert len(both.familiarity(X).p_values) == 90
    classifier = OpticalClassifier(projection="none").fit(X, y)
    for coverage in (0, 1, -0.5, float("nan")):
        with pytest.raises(UsageError, match="is not between 0 and 1"):
            classifier.prediction_sets(X, coverage)
    with pytest.raises(BudgetError, match="inverse of the 90 x 90 ridge system"):
        classifier.set_params(memory_budget="100kB").prediction_sets(X)
    classifier.save(tmp_path / "model", training=False)
    for ask in ("prediction_sets", "familiarity"):
        with pytest.raises(UsageError, match="does not hold the bits of its training images"):
            getattr(load(tmp_path / "model"), ask)(X)
