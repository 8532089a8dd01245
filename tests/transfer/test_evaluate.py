from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from aurevoir import OpticalClassifier, build_engine
from aurevoir.errors import BudgetError, DataError
from aurevoir.images.sources import LabelledPaths, class_folders
from aurevoir.transfer.evaluate import Evaluating, accuracy_interval, evaluate


@pytest.fixture
def classifier(tiny_onnx, class_folder):
    found = class_folders(class_folder)
    # A few images a class leave some wrong.
    return OpticalClassifier(engine=build_engine(tiny_onnx, smoke=False)).fit(found.paths[::4], found.labels[::4])


@pytest.fixture
def data(class_folder):
    found = class_folders(class_folder)
    paths = [*found.paths, Path(class_folder, "gone.png"), *found.paths]
    return LabelledPaths(paths, [*found.labels, "red", *(["blue"] * len(found.labels))])


def test_an_evaluation_as_it_goes_counts_what_the_classifier_predicts(classifier, data):
    running = Evaluating(classifier, data)
    records = [record for block in running for record in block]
    tested = running.result()
    readable = [index for index in range(61) if index != 30]
    predicted = classifier.predict([data.paths[index] for index in readable])
    truth = [data.labels[index] for index in readable]
    np.testing.assert_array_equal(tested.confusion, confusion_matrix(truth, predicted))
    assert tested.accuracy == np.mean(np.array(truth) == predicted)
    assert list(tested.skipped) == [str(data.paths[30])]
    assert [record["path"] for record in records] == [str(path) for path in data.paths]
    assert [record["label"] for record in records] == data.labels
    assert [record.get("predicted") for record in records] == [*predicted[:30], None, *predicted[30:]]
    assert records[30]["error"] == tested.skipped[str(data.paths[30])]
    chances = classifier.predict_proba([data.paths[index] for index in readable]).max(axis=1)
    np.testing.assert_allclose([records[index]["probability"] for index in readable], chances, atol=1e-12)


def test_with_a_work_folder_it_is_the_same(classifier, data, tmp_path):
    one, other = evaluate(classifier, data), evaluate(classifier, data, tmp_path / "work")
    np.testing.assert_array_equal(one.confusion, other.confusion)
    assert (one.accuracy, one.per_class, one.skipped) == (other.accuracy, other.per_class, other.skipped)


def test_an_evaluation_that_failed_has_no_result(classifier, data, monkeypatch):
    calls, run = [], classifier.engine_.run

    def failing(pixels, outputs):
        calls.append(None)
        if len(calls) == 2:
            raise BudgetError("no memory")
        return run(pixels, outputs)

    monkeypatch.setattr(classifier.engine_, "run", failing)
    running = Evaluating(classifier, data)
    with pytest.raises(BudgetError, match="no memory"):
        list(running)
    with pytest.raises(BudgetError, match="no memory"):
        running.result()


def test_nothing_readable_and_an_unknown_class_are_refused(classifier, tmp_path):
    with pytest.raises(DataError, match="none of the 2 test files is a readable image"):
        evaluate(classifier, LabelledPaths([tmp_path / "a", tmp_path / "b"], ["red", "red"]))
    with pytest.raises(DataError, match="none of the 1 test files is a readable image"):
        evaluate(classifier, LabelledPaths([tmp_path / "a"], ["red"]), tmp_path / "work")
    with pytest.raises(DataError, match="class 'pink' is not one of the model's classes: blue, green, red"):
        evaluate(classifier, LabelledPaths([tmp_path / "a"], ["pink"]))


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I: score method without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(right, images, low, high):
    assert accuracy_interval(right, images) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_is_of_the_confusion_matrix(classifier, data):
    tested = evaluate(classifier, data)
    assert tested.interval == accuracy_interval(int(np.trace(tested.confusion)), 60)
    assert tested.interval[0] < tested.accuracy < tested.interval[1]
