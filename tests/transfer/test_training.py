"""What a model folder keeps of its training images."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import load as arrays_of
from safetensors.numpy import save as bytes_of

from aurevoir import OpticalClassifier, load
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.images.sources import class_folders
from aurevoir.transfer.training import Training

KINDS = ("none", "exact", "hadamard", "pooled", "bits+rbf", "exact+rbf")
NAME = "training.safetensors"


@pytest.fixture(params=KINDS)
def fitted(request, class_folder, tiny_onnx):
    return OpticalClassifier(tiny_onnx, projection=request.param, n_components=50).fit(class_folder)


def test_it_comes_back_when_it_is_asked_for(fitted, class_folder, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded._training is None
    assert loaded.path_.loo_scores is None
    kept, given = loaded.training_, fitted.training_
    for name in ("bits", "labels", "weights", "pooled"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(given, name))
    assert kept.paths == given.paths == tuple(map(str, class_folders(class_folder).paths))
    np.testing.assert_array_equal(loaded.loo_scores_, fitted.loo_scores_)
    assert (loaded.loo_scores_.argmax(axis=1) == kept.labels).mean() == pytest.approx(fitted.loo_accuracy_)


def test_bits_that_the_readout_has_are_kept_once(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    kept, readout = (arrays_of((tmp_path / "model" / name).read_bytes()) for name in (NAME, "readout.safetensors"))
    assert ("bits" in kept) == ("rows" not in readout)
    assert "paths" in kept


@pytest.mark.parametrize("class_weight", [None, "balanced", {"c0": 3.0}])
def test_a_loaded_model_is_refitted_like_the_one_that_was_saved(class_folder, tiny_onnx, tmp_path, class_weight):
    data = class_folders(class_folder)
    names = sorted(set(data.labels))
    weights = {names[0]: 3.0} if isinstance(class_weight, dict) else class_weight
    half, rest = slice(0, None, 2), slice(1, None, 2)
    made = OpticalClassifier(tiny_onnx, projection="exact", alphas=[10.0, 1e3], class_weight=weights)
    made.fit(data.paths[half], data.labels[half]).save(tmp_path / "model")
    loaded = load(tmp_path / "model").refit(data.paths[rest], data.labels[rest])
    made.refit(data.paths[rest], data.labels[rest])
    np.testing.assert_array_equal(loaded.scores(data.paths), made.scores(data.paths))
    assert len(loaded.training_) == len(data.paths)
    assert loaded.alpha_ in (10.0, 1e3)


def test_a_loaded_model_is_pickled_before_and_after_it_is_read(class_folder, tiny_onnx, tmp_path):
    OpticalClassifier(tiny_onnx, projection="none").fit(class_folder).save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    unread = pickle.loads(pickle.dumps(loaded))
    assert unread._training is None
    assert unread.training_.paths == pickle.loads(pickle.dumps(unread)).training_.paths == loaded.training_.paths


def test_a_model_without_it_predicts_and_says_what_it_lacks(class_folder, tiny_onnx, tmp_path):
    made = OpticalClassifier(tiny_onnx, projection="none").fit(class_folder)
    made.save(tmp_path / "small", training=False)
    small = load(tmp_path / "small")
    assert not (tmp_path / "small" / NAME).exists()
    assert small.predict(class_folder).tolist() == made.predict(class_folder).tolist()
    with pytest.raises(UsageError, match="does not hold the bits of its training images"):
        small.refit(class_folder)
    made.save(tmp_path / "model")
    (tmp_path / "model" / NAME).unlink()
    emptied = load(tmp_path / "model")
    assert emptied.predict(class_folder).tolist() == made.predict(class_folder).tolist()
    assert not emptied.keeps_training
    with pytest.raises(UsageError, match="does not hold the bits of its training images"):
        emptied.training_  # noqa: B018
    made.save(tmp_path / "model")
    late = load(tmp_path / "model")
    (tmp_path / "model" / NAME).write_bytes(b"other")
    with pytest.raises(AurevoirError, match=f"{NAME} is missing or has changed"):
        late.training_  # noqa: B018


def test_a_loaded_model_is_saved_with_it(class_folder, tiny_onnx, tmp_path):
    OpticalClassifier(tiny_onnx, projection="none").fit(class_folder).save(tmp_path / "a")
    load(tmp_path / "a").save(tmp_path / "b")
    load(tmp_path / "a").save(tmp_path / "c", training=False)
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()
    assert not (tmp_path / "c" / NAME).exists()


HOSTILE = [
    ("labels", lambda each: each + 9, "a label is not one of the classes"),
    ("labels", lambda each: each[1:], "array labels is int64"),
    ("labels", lambda each: each.astype("int32"), "array labels is int32"),
    ("weights", lambda each: -each, "a weight is not positive"),
    ("weights", lambda each: each * np.nan, "a weight is not positive"),
    ("weights", lambda each: each[1:], "array labels|weights, and"),
    ("loo_scores", lambda each: each * np.inf, "a value of loo_scores is not finite"),
    ("loo_scores", lambda each: each[:, 1:], "array loo_scores is float32 of shape"),
    ("bits", lambda each: each[:, 1:], "array bits is uint8 of shape"),
    ("bits", lambda each: each | 255, "bits have ones behind"),
    ("pooled", lambda each: each * np.nan, "a value of pooled is not finite"),
    ("pooled", lambda each: each[0, 0], "array pooled is float32 of shape"),
    ("paths", lambda each: each[:-40], "paths of|is damaged"),
    ("strange", lambda each: np.zeros(3), "array 'strange' is strange"),
    ("weights", None, "array 'weights' is missing|array labels"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    X = np.random.default_rng(0).normal(size=(40, 17))
    folder = tmp_path_factory.mktemp("saved") / "model"
    made = OpticalClassifier(projection="none").fit(X, np.arange(40) % 3)
    pooled = np.ones((40, 4), "float32")
    made._training = Training(**{**vars(made.training_), "pooled": pooled, "paths": tuple(map(str, range(100, 140)))})
    made.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("name", "change", "message"), HOSTILE)
def test_an_array_of_another_kind_is_refused(saved, tmp_path, name, change, message):
    arrays = arrays_of(saved[NAME])
    if change is None:
        del arrays[name]
    else:
        arrays[name] = np.ascontiguousarray(change(arrays.get(name)))
    data, content = bytes_of(arrays), json.loads(saved["model.json"])
    content["files"][NAME] = hashlib.sha256(data).hexdigest()
    for each, found in {**saved, NAME: data, "model.json": json.dumps(content).encode()}.items():
        (tmp_path / each).write_bytes(found)
    loaded = load(tmp_path)
    with pytest.raises(AurevoirError, match=message) as error:
        loaded.training_  # noqa: B018
    assert "\n" not in str(error.value)
