"""Several labels an image: by name in fits, model folders, engines and evaluations."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, precision_score, recall_score

from aurevoir.errors import AurevoirWarning, DataError
from aurevoir.images.sources import LabelledPaths, class_folders
from aurevoir.transfer.estimator import OpticalClassifier, load
from aurevoir.transfer.evaluate import evaluate, split, train_and_test
from aurevoir.transfer.multilabel import evaluate_labels, given_labels, indicator

SETS = {"blue": ("cold", "colour"), "green": ("colour",), "red": ("colour", "warm")}


@pytest.fixture
def photographs(class_folder):
    """Paths of images, and their names: every third image has none."""
    found = class_folders(class_folder)
    return found.paths, [() if row % 3 == 2 else SETS[label] for row, label in enumerate(found.labels)]


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    directions, y = random.standard_normal((3, 64)), random.integers(0, 2, (120, 3))
    return (2 * y - 1) @ directions + random.standard_normal((120, 64)), y


def test_names_in_sets_and_in_columns_are_the_classes_of_an_indicator_matrix(features, tmp_path):
    X, y = features
    names = np.array(["cat", "dog", "sofa"])
    sets = [tuple(names[row > 0]) for row in y]
    plain = OpticalClassifier(projection="none").fit(X, y)
    assert plain.classes_.tolist() == [0, 1, 2]
    given = (sets, [set(each) for each in sets], [list(each) for each in sets], np.array([*sets, 0], object)[:-1])
    for labels in (*given, pd.Series(sets), pd.DataFrame(y, columns=names), pd.DataFrame(y > 0, columns=names)):
        classifier = OpticalClassifier(projection="none").fit(X, labels)
        assert (classifier.classes_.tolist(), classifier.multilabel_) == (names.tolist(), True)
        np.testing.assert_array_equal(classifier.predict(X), plain.predict(X))
        np.testing.assert_array_equal(classifier.scores(X), plain.scores(X))
    assert classifier.score(X, sets) == classifier.score(X, y) == plain.score(X, y)
    classifier.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert (loaded.classes_.tolist(), loaded.multilabel_) == (names.tolist(), True)
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    whole = loaded.refit(X[:20], sets[:20])
    np.testing.assert_array_equal(whole.scores(X), classifier.refit(X[:20], y[:20]).scores(X))


def test_labels_that_do_not_belong_together_are_refused(features):
    X, y = features
    sets = [("cat",), ("dog", "sofa")] * 60
    classifier = OpticalClassifier(projection="none").fit(X, sets)
    with pytest.raises(DataError, match="label 'cow' is not one of cat, dog, sofa"):
        classifier.refit(X[:2], [("cow",), ()])
    with pytest.raises(DataError, match="y gives images several labels, and the classifier one"):
        OpticalClassifier().fit(X, y[:, 0]).refit(X, sets)
    with pytest.raises(DataError, match="the images have 1 labels together; give two or more"):
        OpticalClassifier().fit(X, [("cat",), ()] * 60)
    assert not OpticalClassifier().fit(X, y[:, 0]).multilabel_


def test_a_whole_classifier_has_the_names_as_its_labels(photographs, tiny_onnx, tmp_path):
    paths, sets = photographs
    classifier = OpticalClassifier(tiny_onnx, smoke=False).fit(paths, sets)
    assert classifier.training_.labels.tolist() == indicator(sets, classifier.classes_.tolist()).tolist()
    classifier.save(tmp_path / "model")
    whole = load(tmp_path / "model").to_engine(smoke=False)
    assert (whole.manifest.labels, whole.manifest.multilabel) == (("cold", "colour", "warm"), True)
    pixels = next(classifier.image_files(paths).batches(len(paths)))[1]
    found = whole.classify(pixels)
    assert found.label.tolist() == classifier.predict(paths).tolist()
    np.testing.assert_allclose(found.probabilities, classifier.predict_proba(paths), atol=1e-3)


def test_a_label_whose_images_cannot_be_read_is_refused(photographs, tiny_onnx, tmp_path):
    paths, sets = photographs
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(DataError, match="class rare has no readable image left; 1 files could not be read"):
        OpticalClassifier(tiny_onnx, smoke=False).fit([*paths, tmp_path / "bad.png"], [*sets, ("rare", "warm")])


def test_scores_are_compared_as_scikit_learn_does():
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (80, 4))
    truth[:, 3] = 0
    scores = truth + random.standard_normal((80, 4))
    scores[:, 1] = -np.abs(scores[:, 1])
    found = evaluate_labels(truth, scores, {})
    given = scores > 0
    assert found.images == 80
    assert found.accuracy == (given == truth).all(axis=1).mean()
    for label, score in enumerate(found.labels[:3]):
        assert score.images == truth[:, label].sum()
        assert score.average_precision == average_precision_score(truth[:, label], scores[:, label])
        assert score.recall == recall_score(truth[:, label], given[:, label])
    assert [found.labels[label].precision for label in (0, 2)] == [
        precision_score(truth[:, label], given[:, label]) for label in (0, 2)
    ]
    assert (found.labels[1].precision, found.labels[1].recall) == (None, 0)
    assert (found.labels[3].average_precision, found.labels[3].recall) == (None, None)
    assert found.labels[3].precision == 0
    assert found.mean_average_precision == pytest.approx(average_precision_score(truth[:, :3], scores[:, :3]))
    assert found.confusion.sum(axis=(1, 2)).tolist() == [80] * 4
    assert evaluate_labels(truth[:, [3, 3]], scores[:, 2:], {}).mean_average_precision is None


def test_an_image_is_given_every_label_whose_score_is_above_zero():
    classes, scores = np.array(["a", "b", "c"]), np.array([0.5, -1.0, 2.0])
    found = given_labels(classes, scores, np.array([0.6, 0.1, 0.9]))
    assert found["label"] == ["c", "a"]
    assert found["labels"][0] == {"label": "c", "score": 2.0, "probability": 0.9}
    assert given_labels(classes, -np.abs(scores), None) == {"label": [], "labels": []}
    assert given_labels(classes, scores, None)["labels"][1]["probability"] is None


def test_a_split_has_every_label_in_training_and_the_shares_of_the_rare_ones(tmp_path):
    sets = [("a",)] * 60 + [("a", "b")] * 30 + [()] * 8 + [("a", "c"), ("d", "b")]
    data = LabelledPaths([tmp_path / str(row) for row in range(100)], sets, [*map(float, range(100))])
    for seed in range(8):
        train, test = split(data, seed)
        assert train.names == ["a", "b", "c", "d"]
        assert 18 <= len(test.paths) <= 20
        assert 5 <= sum("b" in labels for labels in test.labels) <= 7
        assert sorted(map(str, train.paths + test.paths)) == sorted(map(str, data.paths))
        assert [float(path.name) for path in test.paths] == test.weights
    for few in ([("a",), ("b", "a")], [("a",), ("b",), ("c",)]):
        with pytest.raises(DataError, match=f"{len(few)} images are too few to split; give --test"):
            split(LabelledPaths(data.paths[: len(few)], few))
    tiny, one = split(LabelledPaths(data.paths[:5], [("a",), ("b",), ("a", "b"), ("a",), ("b",)]))
    assert (len(tiny.paths), len(one.paths)) == (4, 1)


def table(path, paths, sets):
    lines = (f"{image},{';'.join(labels)}\n" for image, labels in zip(paths, sets, strict=True))
    path.write_text("path,labels\n" + "".join(lines))
    return path


def test_a_folder_of_one_label_each_tests_a_classifier_of_several(photographs, class_folder, tiny_onnx, tmp_path):
    paths, sets = photographs
    train = table(tmp_path / "train.csv", paths, sets)
    single = table(tmp_path / "test.csv", paths[::4], [("warm",)] * len(paths[::4]))
    with pytest.warns(AurevoirWarning):
        trained, tested = train_and_test(train, single)
    assert tested.labels == [("warm",)] * len(paths[::4])
    classifier = OpticalClassifier(tiny_onnx, smoke=False).fit(trained.paths, trained.labels)
    found = evaluate(classifier, tested)
    assert (found.labels[2].images, found.labels[0].images) == (len(paths[::4]), 0)
    assert classifier.score(single) == found.accuracy
    with pytest.warns(AurevoirWarning), pytest.raises(DataError, match="gives images several labels, and the training"):
        train_and_test(class_folder, train)
    one = OpticalClassifier(engine=classifier.engine_).fit(class_folder)
    with pytest.warns(AurevoirWarning), pytest.raises(DataError, match="several labels each, and the model gives one"):
        one.score(train)
    with pytest.warns(AurevoirWarning), pytest.raises(DataError, match="'odd', of which there is no training image"):
        train_and_test(train, table(tmp_path / "odd.csv", paths[:6], [("odd", "warm")] * 6))
