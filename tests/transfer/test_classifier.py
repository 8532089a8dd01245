"""OpticalClassifier: images and features, what it refuses, and what it promises to scikit-learn."""

import copy
import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from aurevoir import OpticalClassifier, build_engine, load
from aurevoir.errors import BudgetError, DataError, UsageError
from aurevoir.images.sources import class_folders
from aurevoir.kernels.stopwatch import STAGES


# Every check applies to features, the one kind of input that the checks can make. Labels by image files and
# folders, and uint8 images, are tested below. `poor_score` is declared: only signs of features are used.
# Weights: the temperature of probabilities comes from leave-one-out, which leaves out an image of weight 2 whole, and
# of two equal images one. Scores at one alpha are equal: see the test below.
@parametrize_with_checks(
    [OpticalClassifier(), OpticalClassifier(projection="hadamard"), OpticalClassifier(projection="none")],
    expected_failed_checks=lambda estimator: {
        "check_sample_weight_equivalence_on_dense_data": "leave-one-out leaves out images, not weights",
        "check_sample_weight_equivalence_on_sparse_data": "1.6.0 asks it of estimators without sparse data too",
    },
)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("projection", ["none", "exact"])
def test_a_weight_of_two_is_the_image_twice(projection):
    random = np.random.default_rng(0)
    X, y, weights = random.normal(size=(30, 10)), np.arange(30) % 3, random.integers(0, 4, 30)
    new = OpticalClassifier(projection=projection, alphas=[10.0])
    weighted = clone(new).fit(X, y, weights)
    repeated = clone(new).fit(X.repeat(weights, axis=0), y.repeat(weights))
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X), atol=1e-6)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    # The digits come writer by writer: unshuffled, new rows would be by other writers.
    order = np.random.default_rng(0).permutation(len(X))[:600]
    return (X - X.mean(axis=0))[order], y[order]


@pytest.mark.parametrize(
    ("projection", "least"), [("none", 0.8), ("exact", 0.85), ("auto", 0.85), ("dense", 0.75), ("hadamard", 0.75)]
)
def test_features_of_real_digits_are_learnt(digits, projection, least):
    X, y = digits
    classifier = OpticalClassifier(projection=projection, n_components=400).fit(X[:400], y[:400])
    assert classifier.score(X[400:], y[400:]) > least
    assert abs(classifier.loo_accuracy_ - classifier.score(X[400:], y[400:])) < 0.08
    assert classifier.engine_ is None


def test_it_works_in_grid_search_and_cross_validation(digits):
    X, y = digits
    search = GridSearchCV(OpticalClassifier(), {"projection": ["none", "exact"]}, cv=2).fit(X[:300], y[:300])
    assert search.best_score_ > 0.75
    assert cross_val_score(clone(search.best_estimator_), X[:200], y[:200], cv=2).mean() > 0.7


def test_two_classes_give_one_column(digits):
    X, y = digits
    two = y < 2
    classifier = OpticalClassifier().fit(X[two], np.where(y[two] == 0, "none", "one"))
    decision = classifier.decision_function(X[two])
    assert decision.shape == (two.sum(),)
    np.testing.assert_array_equal(classifier.predict(X[two]), np.where(decision > 0, "one", "none"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_folder_of_images_is_learnt(class_folder, tiny_onnx, precision):
    classifier = OpticalClassifier(tiny_onnx, precision=precision).fit(class_folder)
    labelled = class_folders(class_folder)
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    assert classifier.score(labelled.paths, labelled.labels) > 0.9
    assert classifier.loo_accuracy_ > 0.8
    assert set(classifier.timings_) == {*STAGES, "total"}
    assert sum(classifier.timings_[stage] for stage in STAGES) <= classifier.timings_["total"]
    assert (classifier.timings_["calibrate"] > 0) == (precision == "int8")


def test_paths_arrays_and_a_built_engine_give_the_same(class_folder, tiny_onnx):
    labelled = class_folders(class_folder)
    images = np.stack(
        [np.asarray(Image.open(path).resize((28, 28), Image.Resampling.BILINEAR)) for path in labelled.paths]
    )
    by_path = OpticalClassifier(tiny_onnx).fit([str(path) for path in labelled.paths], labelled.labels)
    by_array = OpticalClassifier(tiny_onnx).fit(images, labelled.labels)
    by_engine = OpticalClassifier(engine=build_engine(tiny_onnx)).fit(images, labelled.labels)
    scores = by_path.scores(labelled.paths)
    np.testing.assert_array_equal(by_array.scores(images), scores)
    np.testing.assert_array_equal(by_engine.scores(images), scores)


def test_an_engine_file_can_be_given(class_folder, tiny_onnx, tmp_path):
    build_engine(tiny_onnx, out=tmp_path / "e.engine")
    assert OpticalClassifier(engine=tmp_path / "e.engine").fit(class_folder).engine_.features == 196


def test_a_calibration_table_stands_in_for_images(class_folder, tiny_onnx, tmp_path):
    first = OpticalClassifier(tiny_onnx, precision="int8").fit(class_folder)
    (tmp_path / "t.json").write_text(first.engine_.table.to_json())
    again = OpticalClassifier(tiny_onnx, precision="int8", calibration=tmp_path / "t.json").fit(class_folder)
    assert again.timings_["calibrate"] == 0
    assert again.engine_.to_bytes() == first.engine_.to_bytes()
    with pytest.raises(UsageError, match=r"calibration table none.json does not exist"):
        OpticalClassifier(tiny_onnx, precision="int8", calibration="none.json").fit(class_folder)


@pytest.mark.parametrize("options", [{}, {"precision": "int8", "normalization": "data"}])
def test_paths_in_an_array_are_paths(class_folder, tiny_onnx, options):
    found = class_folders(class_folder)
    by_array, by_list = (
        OpticalClassifier(tiny_onnx, smoke=False, **options).fit(paths, found.labels)
        for paths in (np.array([str(path) for path in found.paths]), found.paths)
    )
    assert by_array.engine_.to_bytes() == by_list.engine_.to_bytes()
    assert by_array.alpha_ == by_list.alpha_


def test_data_normalisation_is_that_of_the_training_images(class_folder, tiny_onnx):
    classifier = OpticalClassifier(tiny_onnx, normalization="data").fit(class_folder)
    pixels = np.stack(
        [
            np.asarray(Image.open(path).resize((28, 28), Image.Resampling.BILINEAR))
            for path in class_folders(class_folder).paths
        ]
    )
    np.testing.assert_allclose(classifier.engine_.manifest.mean, pixels.reshape(-1, 3).mean(axis=0) / 255, rtol=1e-6)


def test_unreadable_files_are_skipped_with_their_labels(class_folder, tiny_onnx):
    for name in ("blue/0.png", "red/7.png"):
        (class_folder / name).write_bytes(b"")
    (class_folder / "green" / "notes.txt").write_text("for people")
    (class_folder / "green" / "notes.jpg").write_text("not an image")
    classifier = OpticalClassifier(tiny_onnx).fit(class_folder)
    expected = {str(class_folder / name) for name in ("blue/0.png", "red/7.png", "green/notes.jpg")}
    assert set(classifier.skipped_) == expected
    with pytest.raises(DataError, match=r"1 of 1 files cannot be read; first: .*0.png: the file is empty"):
        classifier.predict([class_folder / "blue" / "0.png"])


def test_a_class_that_is_left_empty_is_named(class_folder, tiny_onnx):
    for path in (class_folder / "red").iterdir():
        path.write_bytes(b"")
    said = "class red has no readable image left; 10 files could not be read, the first /.*/0.png: the file is empty$"
    with pytest.raises(DataError, match=said):
        OpticalClassifier(tiny_onnx).fit(class_folder)


def test_the_same_seed_gives_the_same_scores_and_another_does_not(digits):
    X, y = digits
    scores = [
        OpticalClassifier(projection="dense", n_components=50, random_state=seed).fit(X, y).scores(X)
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()


def test_the_memory_budget_is_kept(digits):
    X, y = digits
    with pytest.raises(
        BudgetError, match=r"600 rows and 10 classes on 32 landmarks needs .* memory budget is 200.0 KiB"
    ):
        OpticalClassifier(projection="exact", memory_budget="200KiB").fit(X, y)
    fitted = OpticalClassifier(memory_budget="2MiB").fit(X, y)
    assert fitted.projection_ in ("none", "exact")
    assert 32 <= len(fitted.path_.coefficients) < len(fitted.loo_scores_) == 600
    assert fitted.score(X, y) > 0.9


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"projection": "optical"}, UsageError, "projection 'optical' is not known; choose one of auto, none"),
        ({"n_components": 0}, UsageError, "n_components 0 must be at least 1"),
        ({"alphas": [-1.0]}, UsageError, "must be one or more finite, non-negative numbers"),
        ({"resize": "pad"}, UsageError, "resize 'pad' is not known"),
        ({"memory_budget": "much"}, UsageError, "memory budget 'much' is invalid"),
    ],
)
def test_a_wrong_parameter_is_named(digits, options, error, message):
    with pytest.raises(error, match=message):
        OpticalClassifier(**options).fit(*digits)


def test_wrong_images_and_labels_are_named(tiny_onnx, pixels, class_folder):
    classifier = OpticalClassifier(tiny_onnx)
    with pytest.raises(DataError, match="20 images and 3 labels"):
        classifier.fit(pixels, [0, 1, 1])
    with pytest.raises(DataError, match="only one class"):
        classifier.fit(pixels, [1] * 20)
    with pytest.raises(DataError, match="only a folder names its classes"):
        classifier.fit(pixels)
    with pytest.raises(UsageError, match="this engine takes uint8"):
        classifier.fit(pixels[:, :20], [0, 1] * 10)
    with pytest.raises(NotFittedError):
        OpticalClassifier(tiny_onnx).predict(pixels)
    with pytest.raises(UsageError, match="trained on images; give files or uint8"):
        classifier.fit(class_folder).predict(np.zeros((3, 196)))
    with pytest.raises(UsageError, match="trained on features"):
        OpticalClassifier().fit(np.eye(4), [0, 1, 0, 1]).image_files(["x.png"])


def test_nothing_of_n_by_m_floats_is_held(monkeypatch, tiny_onnx, pixels):
    """The engine hands the classifier bits; its features are never asked for."""
    from aurevoir.engine.engine import Engine

    monkeypatch.setattr(Engine, "__call__", lambda *_: pytest.fail("features were computed"))
    OpticalClassifier(tiny_onnx).fit(pixels, [0, 1] * 10).predict(pixels)


@pytest.mark.parametrize("projection", ["none", "exact", "hadamard", "dense-signs"])
def test_a_weight_of_zero_leaves_an_image_out(digits, projection):
    X, y = digits[0][:300], digits[1][:300]
    weights = np.where(np.arange(300) < 200, 1.0, 0.0)
    weighted = OpticalClassifier(projection=projection, n_components=100).fit(X, y, weights)
    without = OpticalClassifier(projection=projection, n_components=100).fit(X[:200], y[:200])
    np.testing.assert_allclose(weighted.scores(X), without.scores(X), atol=1e-9)


def test_a_rare_class_of_more_weight_is_predicted_more_often(digits):
    X, y = digits
    kept = (y == 8) & (np.arange(len(y)) % 4 > 0)
    X, y = X[~kept], y[~kept] == 8
    plain, balanced = OpticalClassifier(), OpticalClassifier(class_weight="balanced")
    shares = [classifier.fit(X[:300], y[:300]).predict(X[300:]).mean() for classifier in (plain, balanced)]
    assert shares[1] > shares[0]
    given = OpticalClassifier().fit(X[:300], y[:300], 300 / (2 * np.bincount(y[:300])[y[:300].astype(int)]))
    np.testing.assert_allclose(balanced.scores(X), given.scores(X), atol=1e-9)


@pytest.mark.parametrize("weights", [np.ones(9), -np.ones(300), np.zeros(300), np.full(300, np.nan)])
def test_sample_weights_that_are_none_are_refused(digits, weights):
    with pytest.raises(UsageError, match="sample_weight"):
        OpticalClassifier().fit(digits[0][:300], digits[1][:300], weights)


def test_several_labels_an_image_are_learnt(digits, tmp_path):
    X, y = digits
    labels = np.stack([y % 2 == 0, y < 5, np.isin(y, [0, 6, 8, 9])], axis=1).astype(int)
    classifier = OpticalClassifier(projection="exact").fit(X[:400], labels[:400])
    predicted = classifier.predict(X[400:])
    assert predicted.shape == (200, 3)
    assert (predicted == labels[400:]).mean() > 0.9
    assert abs(classifier.loo_accuracy_ - (predicted == labels[400:]).mean()) < 0.05
    classifier.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(X[400:]), predicted)
    with pytest.raises(UsageError, match="class_weight does not support multilabel targets"):
        OpticalClassifier(class_weight="balanced").fit(X[:400], labels[:400])


@pytest.mark.parametrize("projection", ["auto", "hadamard", "dense"])
def test_the_ridge_on_a_gpu_ends_in_the_same_classifier(cupy, digits, projection, tmp_path):
    X, y = digits
    of = {"projection": projection, "n_components": 200, "class_weight": "balanced"}
    here, there = (OpticalClassifier(ridge_device=device, **of).fit(X[:300], y[:300]) for device in ("cpu", "cuda"))
    for _ in range(2):
        np.testing.assert_allclose(there.decision_function(X), here.decision_function(X), atol=1e-8)
        assert there.path_.best == here.path_.best
        here, there = here.refit(X[300:400], y[300:400]), there.refit(X[300:400], y[300:400])
    there.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").decision_function(X), there.decision_function(X))


@pytest.mark.parametrize("projection", ["none", "exact", "hadamard", "dense"])
def test_refit_is_a_fit_on_all(digits, projection):
    X, y = digits
    options = {"projection": projection, "n_components": 300, "class_weight": "balanced"}
    grown = OpticalClassifier(**options).fit(X[:200], y[:200])
    before = grown.score(X[400:], y[400:])
    grown.refit(X[200:400], y[200:400])
    whole = OpticalClassifier(**options).fit(X[:400], y[:400])
    # The camera's exposure is fitted to the first images, which are the same.
    np.testing.assert_allclose(grown.scores(X[400:]), whole.scores(X[400:]), atol=1e-9)
    assert grown.loo_accuracy_ == whole.loo_accuracy_
    assert grown.score(X[400:], y[400:]) > before


def test_refit_keeps_engine_and_projection_and_adds_images(class_folder, tiny_onnx):
    labelled = class_folders(class_folder)
    paths, labels = np.array(labelled.paths), np.array(labelled.labels)
    half = np.arange(len(paths)) % 2 == 0
    engine = OpticalClassifier(tiny_onnx).fit(paths[half].tolist(), labels[half])
    made = engine.engine_
    engine.refit(paths[~half].tolist(), labels[~half])
    assert engine.engine_ is made
    order = np.r_[np.flatnonzero(half), np.flatnonzero(~half)]
    whole = OpticalClassifier(engine=made, projection=engine.projection_).fit(paths[order].tolist(), labels[order])
    np.testing.assert_allclose(engine.scores(paths.tolist()), whole.scores(paths.tolist()), atol=1e-9)


def test_refit_refuses_a_new_label_and_a_model_saved_without_its_training(digits, tmp_path):
    X, y = digits[0][:100], digits[1][:100].copy()
    classifier = OpticalClassifier().fit(X, y)
    with pytest.raises(DataError, match="label 77 was not among those before"):
        classifier.refit(X[:1], [77])
    classifier.save(tmp_path / "model", training=False)
    with pytest.raises(UsageError, match="does not hold the bits of its training images"):
        load(tmp_path / "model").refit(X, y)


def _files(classifier, folder):
    classifier.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("projection", ["auto", "exact", "hadamard", "bits+rbf"])
def test_a_model_without_images_is_byte_for_byte_one_that_never_saw_them(class_folder, tiny_onnx, tmp_path, projection):
    labelled = class_folders(class_folder)
    options = {"projection": projection, "n_components": 60, "class_weight": "balanced"}
    OpticalClassifier(tiny_onnx, **options).fit(class_folder).save(tmp_path / "all")
    loaded = load(tmp_path / "all")
    gone = [labelled.paths[row] for row in (0, 4, 11, 27)]
    kept = [row for row, path in enumerate(labelled.paths) if path not in gone]
    loaded.refit(remove=gone)
    never = OpticalClassifier(engine=loaded.engine_, **options)
    never.fit([labelled.paths[row] for row in kept], [labelled.labels[row] for row in kept])
    assert _files(loaded, tmp_path / "without") == _files(never, tmp_path / "never")
    assert len(loaded.training_) == len(labelled.paths) - len(gone)


def test_a_real_model_without_images_is_byte_for_byte_one_that_never_saw_them(data, mobilenet, tmp_path):
    labelled = class_folders(data("hymenoptera/train"))
    paths, labels = labelled.paths[::6], labelled.labels[::6]
    classifier = OpticalClassifier(mobilenet, precision="int8", smoke=False).fit(paths, labels)
    kept = [row for row in range(len(paths)) if row % 5]
    never = OpticalClassifier(engine=classifier.engine_).fit(
        [paths[row] for row in kept], [labels[row] for row in kept]
    )
    classifier.refit(remove=paths[::5])
    assert _files(classifier, tmp_path / "without") == _files(never, tmp_path / "never")


def test_relabelled_images_count_as_fitted_so(class_folder, tiny_onnx):
    labelled = class_folders(class_folder)
    classifier = OpticalClassifier(tiny_onnx).fit(class_folder)
    labels, wrong = np.array(labelled.labels), [0, 12, 25]
    labels[wrong] = ["red", "blue", "green"]
    changes = {str(labelled.paths[0]): "red", labelled.paths[12]: "blue", 25: "green", 3: "red"}
    classifier.refit(labelled.paths[:2], ["blue", "blue"], relabel=changes, remove=[3])
    kept = [row for row in range(30) if row != 3]
    expected = OpticalClassifier(engine=classifier.engine_)
    expected.fit([*(labelled.paths[row] for row in kept), *labelled.paths[:2]], [*labels[kept], "blue", "blue"])
    np.testing.assert_array_equal(classifier.scores(labelled.paths), expected.scores(labelled.paths))
    assert classifier.training_.paths == expected.training_.paths


def test_a_file_is_found_by_another_way_to_it(class_folder, tiny_onnx, tmp_path, monkeypatch):
    classifier = OpticalClassifier(tiny_onnx, projection="none").fit(class_folder)
    (tmp_path / "link").symlink_to(class_folder)
    monkeypatch.chdir(class_folder / "red")
    classifier.refit(remove=["0.png", tmp_path / "link" / "blue" / "3.png"])
    assert len(classifier.training_) == 28
    assert not {str(class_folder / name) for name in ("red/0.png", "blue/3.png")} & set(classifier.training_.paths)


def test_images_that_are_not_there_and_classes_without_any_are_refused(digits, class_folder, tiny_onnx):
    X, y = digits[0][:60], digits[1][:60]
    classifier = OpticalClassifier().fit(X, y)
    before, seen = classifier.scores(X), classifier.training_
    for images, error, said in (
        ([3, 60], UsageError, "60 is not one of the 60 training images"),
        ([-1], UsageError, "-1 is not one"),
        (["0.png"], UsageError, "0.png is not one"),
        (np.flatnonzero(y == 4), DataError, "no training image of class 4 would be left"),
    ):
        with pytest.raises(error, match=said):
            classifier.refit(remove=images)
    with pytest.raises(DataError, match="label 77 was not among those before"):
        classifier.refit(relabel={0: 77})
    assert classifier.training_ is seen
    np.testing.assert_array_equal(classifier.scores(X), before)


def test_several_labels_an_image_are_changed_alike(digits):
    X = digits[0][:80]
    y = np.stack([digits[1][:80] % 2, digits[1][:80] > 4], axis=1).astype(int)
    classifier = OpticalClassifier(projection="none").fit(X, y)
    classifier.refit(relabel={5: [0, 1]}, remove=[6])
    y[5] = 0, 1
    expected = OpticalClassifier(projection="none").fit(np.delete(X, 6, 0), np.delete(y, 6, 0))
    np.testing.assert_array_equal(classifier.scores(X), expected.scores(X))


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return build_engine(tiny_onnx, smoke=False)


@pytest.fixture
def photographs(class_folder):
    found = class_folders(class_folder)
    return [str(path) for path in found.paths], np.array(found.labels)


@pytest.fixture
def by_engine(engine, photographs):
    return OpticalClassifier(engine=engine).fit(*photographs)


def _same(left, right, X):
    """Whether two classifiers are the same one to a user."""
    np.testing.assert_array_equal(left.decision_function(X), right.decision_function(X))
    np.testing.assert_array_equal(left.predict(X), right.predict(X))
    return left.predict(X).dtype == right.predict(X).dtype


@pytest.mark.parametrize("kind", ["engine", "str", "path", "backbone", "loaded"])
def test_it_is_cloned_pickled_and_copied(engine, photographs, tiny_onnx, tmp_path, kind):
    X, y = photographs
    engine.save(tmp_path / "e.engine")
    given = {"engine": engine, "str": str(tmp_path / "e.engine"), "path": tmp_path / "e.engine", "loaded": engine}
    made = OpticalClassifier(tiny_onnx, smoke=False) if kind == "backbone" else OpticalClassifier(engine=given[kind])
    fitted = made.fit(X, y)
    if kind == "loaded":
        fitted.save(tmp_path / "model")
        fitted = load(tmp_path / "model")
    other = clone(fitted)
    assert not hasattr(other, "classes_")
    assert {**other.get_params(), "engine": None} == {**fitted.get_params(), "engine": None}
    assert clone(fitted).set_params(**fitted.get_params()).fit(X, y).score(X, y) == 1
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert _same(pickle.loads(pickle.dumps(fitted, protocol)), fitted, X)
        assert not hasattr(pickle.loads(pickle.dumps(other, protocol)), "classes_")
    assert _same(copy.deepcopy(fitted), fitted, X)
    for name in ("x.joblib", "x.joblib.gz"):
        joblib.dump(fitted, tmp_path / name)
        assert _same(joblib.load(tmp_path / name), fitted, X)
    cloudpickle = pytest.importorskip("cloudpickle")
    assert _same(cloudpickle.loads(cloudpickle.dumps(fitted)), fitted, X)


def test_a_pickled_classifier_is_refitted_alike(by_engine, photographs):
    X, y = photographs
    other = pickle.loads(pickle.dumps(by_engine)).refit(X[:5], y[:5])
    assert _same(other, by_engine.refit(X[:5], y[:5]), X)


@pytest.mark.parametrize("container", [list, np.array, pd.Series, lambda X: pd.DataFrame({"path": X})])
def test_it_is_cross_validated_with_an_engine(engine, photographs, container):
    X, y = photographs
    assert cross_val_score(OpticalClassifier(engine=engine), container(X), y, cv=2).tolist() == [1, 1]


def test_it_is_searched_in_other_processes(engine, photographs, tmp_path):
    X, y = photographs
    grid = {"projection": ["hadamard"], "n_components": np.array([20, 40])}
    search = GridSearchCV(OpticalClassifier(engine=engine), grid, cv=2, n_jobs=2)
    with joblib.parallel_config(backend="loky"):
        search.fit(X, y)
    assert search.best_score_ > 0.9
    assert search.best_estimator_.engine_ is engine
    search.best_estimator_.save(tmp_path / "model")
    assert _same(load(tmp_path / "model"), search.best_estimator_, X)


def test_meta_estimators_of_scikit_learn_take_images(engine, photographs, by_engine):
    X, y = photographs
    new = OpticalClassifier(engine=engine)
    pixels = np.stack([np.asarray(Image.open(path).resize((28, 28))) for path in X])
    for images in (X, pixels):
        for calibrated in (
            CalibratedClassifierCV(new, cv=2),
            CalibratedClassifierCV(new, cv=2, ensemble=False, method="isotonic"),
            CalibratedClassifierCV(FrozenEstimator(by_engine)),
        ):
            probabilities = calibrated.fit(images, y).predict_proba(images)
            np.testing.assert_allclose(probabilities.sum(axis=1), 1)
            assert (calibrated.classes_[probabilities.argmax(axis=1)] == y).mean() > 0.9
        pair = [("bits", new), ("exact", clone(new).set_params(projection="exact"))]
        for several in (VotingClassifier(pair), StackingClassifier(pair, cv=2), OneVsRestClassifier(new)):
            assert several.fit(images, y).score(images, y) > 0.9
        assert make_pipeline("passthrough", new).fit(images, y).score(images, y) == 1
        assert cross_val_predict(new, images, y, cv=2, method="decision_function").shape == (30, 3)
    two = y != "red"
    probabilities = CalibratedClassifierCV(new, cv=2).fit(pixels[two], y[two]).predict_proba(pixels)
    assert (probabilities[:10, 0] > 0.5).all()
    assert (probabilities[10:20, 1] > 0.5).all()


def test_meta_estimators_of_scikit_learn_take_features(digits):
    X, y = pd.DataFrame(digits[0][:200]).rename(columns=lambda column: f"pixel{column}"), digits[1][:200]
    grid = {"opticalclassifier__projection": ["none", "exact"]}
    search = GridSearchCV(make_pipeline(StandardScaler(), OpticalClassifier()), grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.7
    fitted = OpticalClassifier().fit(X, y)
    importances = permutation_importance(fitted, X, y, n_repeats=1, random_state=0).importances_mean
    assert importances[0] == 0  # the corner is always black
    assert importances.max() > 0
    voted = VotingClassifier([("bits", OpticalClassifier()), ("floats", LogisticRegression(max_iter=5000))])
    assert voted.fit(X, y).score(X, y) > 0.7
    with sklearn.config_context(enable_metadata_routing=True):
        routed = OpticalClassifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        assert cross_val_score(routed, X, y, params={"sample_weight": np.ones(200)}, cv=2).mean() > 0.7


def test_every_method_takes_a_folder_as_fit_does(engine, class_folder, photographs):
    X, y = photographs
    classifier = OpticalClassifier(engine=engine).fit(class_folder)
    for folder in (class_folder, str(class_folder)):
        for method in ("predict", "decision_function", "scores"):
            np.testing.assert_array_equal(getattr(classifier, method)(folder), getattr(classifier, method)(X))
        assert classifier.score(folder) == classifier.score(X, y) == 1
        assert classifier.score(folder, np.where(y == "red", "blue", y)) == pytest.approx(2 / 3)
    assert classifier.predict(X[0]).tolist() == classifier.predict(Path(X[0])).tolist() == ["blue"]
    np.testing.assert_allclose(classifier.predict_proba(class_folder).sum(axis=1), 1)
    assert (classifier.predict_proba(X).argmax(axis=1) == classifier.scores(X).argmax(axis=1)).all()


def test_the_score_on_a_folder_skips_what_cannot_be_read_and_refuses_other_classes(by_engine, class_folder):
    with pytest.raises(UsageError, match="sample_weight needs an order of the images"):
        by_engine.score(class_folder, sample_weight=np.ones(30))
    (class_folder / "red" / "7.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 files cannot be read; first: .*7.png: the file is empty"):
        assert by_engine.score(class_folder) == 1
    with pytest.raises(DataError, match=r"1 of 30 files cannot be read; first: .*7.png"):
        by_engine.predict(class_folder)
    (class_folder / "red").rename(class_folder / "purple")
    with pytest.raises(DataError, match="class 'purple' is not one of the model's classes: blue, green, red"):
        by_engine.score(class_folder)
    (class_folder / "nothing").mkdir()
    with pytest.raises(UsageError, match="X is empty"):
        by_engine.predict(class_folder / "nothing")


def test_packed_bits_are_not_taken_for_features(engine, pixels, by_engine):
    y, bits = np.arange(20) % 2, engine.bits(pixels)
    by_features = OpticalClassifier().fit(engine(pixels), y)
    for refused in (lambda: OpticalClassifier().fit(bits, y), lambda: by_features.predict(bits)):
        with pytest.raises(UsageError, match="may be packed bits; give np.unpackbits") as error:
            refused()
    unpacked = eval(str(error.value).split("give ")[1].split(" for")[0], {"np": np, "X": bits, "m": engine.features})
    np.testing.assert_array_equal(by_features.scores(unpacked), by_features.scores(engine(pixels)))
    with pytest.raises(UsageError, match=r"X is of dtype uint8 and shape \(20, 25\), and the classifier was trained"):
        by_engine.predict(bits)
    for images in (pixels, ["a.png"]):
        with pytest.raises(UsageError, match="trained on features; give floats of shape"):
            by_features.predict(images)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", "b", "c"]),
        np.array(["a", "b", "c"], dtype=object),
        pd.Series(["a", "b", "c"]),
        pd.Categorical(["a", "b", "c"]),
        np.array([3, 5, 9], dtype="int8"),
        np.array([0.0, 1.0, 2.0]),
        np.array([False, True, True]),
    ],
)
def test_predictions_are_of_the_labels_kind_also_after_loading(labels, tmp_path):
    X, which = np.random.default_rng(0).normal(size=(60, 9)), np.arange(60) % 3
    y = labels.take(which)
    classifier = OpticalClassifier().fit(X, y)
    expected = np.asarray(y)
    assert classifier.predict(X).dtype == classifier.classes_.dtype == expected.dtype
    assert classifier.classes_.tolist() == sorted(set(expected.tolist()))
    assert classifier.decision_function(X).shape == ((60,) if len(classifier.classes_) == 2 else (60, 3))
    classifier.save(tmp_path / "model")
    assert _same(load(tmp_path / "model"), classifier, X)
    assert _same(pickle.loads(pickle.dumps(classifier)), classifier, X)


@pytest.mark.parametrize("projection", ["none", "exact", "hadamard", "dense"])
def test_features_with_columns_first_as_slices_of_data_frames_have_them_give_the_same(digits, projection):
    X, y = digits[0][:100], digits[1][:100]
    expected = OpticalClassifier(projection=projection).fit(X, y).scores(X)
    for columns_first in (np.asfortranarray(X), pd.DataFrame(np.asfortranarray(X)).iloc[:].rename(columns=str)):
        classifier = OpticalClassifier(projection=projection).fit(columns_first, y)
        np.testing.assert_allclose(classifier.scores(columns_first), expected, rtol=1e-9, atol=1e-9)


def test_two_labels_an_image_have_two_columns_of_scores(digits):
    X, y = digits[0][:100], digits[1][:100]
    labels = np.stack([y % 2, y < 5], axis=1).astype(int)
    classifier = OpticalClassifier().fit(X, labels)
    np.testing.assert_array_equal(classifier.decision_function(X) > 0, classifier.predict(X))


def test_a_failed_fit_leaves_the_earlier_one(by_engine, photographs, digits):
    X, y = photographs
    before, expected = dict(vars(by_engine)), by_engine.decision_function(X)
    failing = [
        lambda: by_engine.fit(X, ["a"] * 30),
        lambda: by_engine.fit(np.zeros((30, 20, 28, 3), "uint8"), y),
        lambda: by_engine.fit([*X[:20], *["none.png"] * 10], y),
        lambda: by_engine.fit(pd.DataFrame(digits[0][:30]).rename(columns=str), ["a"] * 30),
        lambda: by_engine.fit(digits[0][:30], np.arange(30) % 3, np.full(30, -1)),
        lambda: by_engine.refit([*X[:1], "none.png"], ["red", "purple"]),
    ]
    for fails in failing:
        with pytest.raises((DataError, UsageError)):
            fails()
        assert vars(by_engine).keys() == before.keys()
        assert all(vars(by_engine)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(by_engine.decision_function(X), expected)
    new = OpticalClassifier()
    with pytest.raises(DataError):
        new.fit(digits[0][:30], [1] * 30)
    assert not [name for name in vars(new) if name.endswith("_")]


def test_names_of_features_are_checked_also_after_loading(digits, tmp_path):
    X, y = pd.DataFrame(digits[0][:100]).rename(columns=lambda column: f"pixel{column}"), digits[1][:100]
    classifier = OpticalClassifier().fit(X, y)
    classifier.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    for each in (classifier, loaded):
        assert each.feature_names_in_.tolist() == X.columns.tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(each.predict(X), classifier.predict(X))
        with pytest.raises(UsageError, match="feature names should match") as refused:
            each.predict(X[X.columns[::-1]])
        assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="X has 3 features, but OpticalClassifier is expecting 64 features"):
        OpticalClassifier().fit(X.to_numpy(), y).predict(X.iloc[:, :3].to_numpy())


def test_images_after_features_leave_no_names_of_features(digits, photographs, engine):
    features, y = digits[0][:100], digits[1][:100]
    classifier = OpticalClassifier(engine=engine).fit(pd.DataFrame(features).rename(columns=str), y)
    classifier.fit(*photographs)
    assert not hasattr(classifier, "feature_names_in_")
    assert classifier.n_features_in_ == engine.features


def test_scikit_learn_is_told_what_it_is(by_engine, engine):
    check_is_fitted(by_engine)
    with pytest.raises(NotFittedError):
        check_is_fitted(OpticalClassifier(engine=engine))
    tags = get_tags(by_engine)
    assert (tags.estimator_type, tags.classifier_tags.multi_class, tags.classifier_tags.multi_label) == (
        "classifier",
        True,
        True,
    )
    assert (tags.input_tags.sparse, tags.input_tags.allow_nan, tags.target_tags.required) == (False, False, True)
    assert len(repr(by_engine)) < 300
    assert len(by_engine._repr_html_()) < 100_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 2.5}, "n_components 2.5 is not an integer"),
        ({"n_components": True}, "n_components True is not an integer"),
        ({"calibration_images": True}, "calibration_images True is not a number of images"),
        ({"engine": 5}, "engine 5 is not an engine; give an Engine or the path of an engine file"),
        ({"class_weight": "even"}, "class_weight 'even' is invalid; give 'balanced' or a dict"),
        ({"random_state": "seed"}, "random_state 'seed' is not known; give an integer from 0 up"),
        (
            {"random_state": 2**64, "projection": "none"},
            r"random_state 18446744073709551616 is not between 0 and 2\^64 - 1",
        ),
        ({"random_state": -1, "projection": "none"}, r"random_state -1 is not between 0 and 2\^64 - 1"),
    ],
)
def test_a_parameter_of_another_kind_is_named(digits, options, message):
    with pytest.raises(UsageError, match=message):
        OpticalClassifier(**options).fit(digits[0][:30], digits[1][:30])
