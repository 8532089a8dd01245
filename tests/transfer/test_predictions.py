import numpy as np
import pytest

from aurevoir import OpticalClassifier, build_engine
from aurevoir.images.sources import class_folders
from aurevoir.transfer import predictions
from aurevoir.transfer.predictions import BlockEnds


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return build_engine(tiny_onnx, smoke=False)


@pytest.fixture
def photos(class_folder):
    found = class_folders(class_folder)
    return [str(path) for path in found.paths], found.labels


@pytest.mark.parametrize("projection", ["none", "exact", "pooled", "bits+rbf", "hadamard", "dense"])
def test_scores_block_by_block_are_those_of_all_at_once(engine, photos, projection, tmp_path):
    paths, labels = photos
    classifier = OpticalClassifier(engine=engine, projection=projection, n_components=40).fit(paths, labels)
    paths.insert(7, str(tmp_path / "gone.jpg"))
    images = classifier.image_files(paths)
    indices, scores = classifier.score_images(images)
    assert indices.tolist() == [*range(7), *range(8, 31)]
    parts = list(classifier.iter_scores(classifier.image_files(paths)))
    assert [len(each) for each, _ in parts] == [16, 14]
    for streamed in (
        parts,
        [classifier.score_images(images, tmp_path / "work")],
        list(classifier.iter_scores(classifier.image_stream(paths))),
    ):
        np.testing.assert_array_equal(np.concatenate([each for each, _ in streamed]), indices)
        np.testing.assert_array_equal(np.concatenate([each for _, each in streamed]), scores)
    # All rows in one product may be rounded otherwise, and no more.
    values = engine.run(np.concatenate([pixels for _, pixels in images.batches(30)]), ["bits", "pooled"])
    whole = classifier.readout_.scores(values["bits"], None, values["pooled"])
    np.testing.assert_allclose(scores, whole, rtol=0, atol=1e-12)


def test_blocks_are_of_full_batches_and_larger_where_a_call_reads_much(engine, photos, monkeypatch):
    paths, labels = photos
    classifier = OpticalClassifier(engine=engine, projection="none").fit(paths, labels)
    assert [len(each) for each in predictions.predictions(classifier, paths * 3)] == [16] * 5 + [10]
    monkeypatch.setattr("aurevoir.transfer.classifier.rows_of_call", lambda readout: 17)
    assert classifier.rows_at_once() == 32
    assert [len(each) for each in predictions.predictions(classifier, paths * 3)] == [32, 32, 26]


@pytest.mark.parametrize("share", [0.95, 0.5, 0.05])
def test_blocks_end_where_they_are_said_to(engine, photos, tmp_path, monkeypatch, share):
    paths, labels = photos
    classifier = OpticalClassifier(engine=engine, projection="none").fit(paths, labels)
    monkeypatch.setattr("aurevoir.transfer.classifier.rows_of_call", lambda readout: 17)
    monkeypatch.setattr("aurevoir.images.batches.LONGEST_BATCH", 20)
    monkeypatch.setattr(predictions, "LONGEST_BATCH", 20)
    readable = np.random.default_rng(0).random(300) < share
    given = [paths[number % 30] if good else f"{tmp_path}/{number}" for number, good in enumerate(readable)]
    found = list(predictions.predictions(classifier, given))
    records = [record for block in found for record in block]
    assert [record["path"] for record in records] == given
    assert ["error" not in record for record in records] == readable.tolist()
    ends, counted = BlockEnds(classifier), []
    stops = [number + 1 for number, good in enumerate(readable) if ends(bool(good))]
    for block in found:
        counted.append((counted[-1] if counted else 0) + len(block))
    assert counted == [*stops, *([300] if not stops or stops[-1] < 300 else [])]


def test_several_labels_an_image_are_kept_as_the_classifier_has_them(engine, photos):
    paths, labels = photos
    targets = np.array([[label == "red", label != "blue"] for label in labels], "int64")
    classifier = OpticalClassifier(engine=engine).fit(paths, targets)
    found = [
        record for block in predictions.predictions(classifier, paths, predictions.Details(top=2)) for record in block
    ]
    expected = [np.flatnonzero(row).tolist() for row in classifier.predict(paths)]
    assert [sorted(record["label"]) for record in found] == expected
    assert len({tuple(each) for each in expected}) > 1
