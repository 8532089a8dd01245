"""The model folder: identical, checked, whole."""

import json
import subprocess
import sys

import numpy as np
import pytest

from aurevoir import OpticalClassifier, load
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.images.sources import class_folders


@pytest.fixture(params=["none", "exact", "hadamard", "dense", "pooled", "rbf", "bits+rbf", "exact+rbf", "auto"])
def fitted(request, class_folder, tiny_onnx):
    return OpticalClassifier(tiny_onnx, projection=request.param, precision="int8", n_components=50).fit(class_folder)


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fit_twice_gives_identical_files(fitted, class_folder, tmp_path):
    fitted.save(tmp_path / "a")
    OpticalClassifier(**fitted.get_params()).fit(class_folder).save(tmp_path / "b")
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    arrays = {"readout.safetensors", "training.safetensors"}
    assert set(_bytes(tmp_path / "a")) == {"model.json", "engine.aurevoir", "README.md", *arrays}


def test_a_new_process_gives_identical_labels_and_scores(fitted, class_folder, tmp_path):
    fitted.save(tmp_path / "model")
    paths = [str(path) for path in class_folders(class_folder).paths]
    code = (
        "import sys, json, aurevoir\n"
        "model = aurevoir.load(sys.argv[1])\n"
        "print(json.dumps([model.predict(sys.argv[2:]).tolist(), model.scores(sys.argv[2:]).tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), *paths], capture_output=True, text=True, check=True
    )
    labels, scores = json.loads(done.stdout)
    assert labels == fitted.predict(paths).tolist()
    np.testing.assert_array_equal(np.array(scores), fitted.scores(paths))


def test_a_loaded_model_is_fitted_alike(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.projection_ == fitted.projection_
    assert loaded.path_.loo_accuracy_of == fitted.path_.loo_accuracy_of
    assert bool(loaded.path_.loo_accuracy_of) == (fitted.projection == "auto")
    assert (loaded.alpha_, loaded.loo_accuracy_) == (fitted.alpha_, fitted.loo_accuracy_)
    np.testing.assert_array_equal(loaded.path_.loo_accuracies, fitted.path_.loo_accuracies)
    loaded.save(tmp_path / "again")
    assert _bytes(tmp_path / "again") == _bytes(tmp_path / "model")


def test_a_model_trained_on_features_needs_no_engine(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(40, 9)), np.arange(40) % 3
    classifier = OpticalClassifier().fit(X, y)
    classifier.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.scores(X), classifier.scores(X))
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert not (tmp_path / "model" / "engine.aurevoir").exists()


@pytest.mark.parametrize("name", ["readout.safetensors", "engine.aurevoir"])
def test_a_changed_or_missing_file_is_named(class_folder, tiny_onnx, tmp_path, name):
    OpticalClassifier(tiny_onnx).fit(class_folder).save(tmp_path / "model")
    path = tmp_path / "model" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(AurevoirError, match=f"{name} is missing or has changed"):
        load(tmp_path / "model")
    path.unlink()
    with pytest.raises(AurevoirError, match=f"{name} is missing or has changed"):
        load(tmp_path / "model")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a model folder"):
        load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(AurevoirError, match="damaged"):
        load(tmp_path)
    (tmp_path / "model.json").write_text('{"schema": "other/1"}')
    with pytest.raises(AurevoirError, match="schema 'other/1'"):
        load(tmp_path)


def test_saving_replaces_a_model_and_nothing_else(class_folder, tiny_onnx, tmp_path):
    classifier = OpticalClassifier(tiny_onnx).fit(class_folder)
    target = tmp_path / "out" / "model"
    classifier.save(target)
    (target / "README.md").write_text("stale")
    classifier.save(target)
    assert "stale" not in (target / "README.md").read_text()
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(UsageError, match="is not a model folder"):
        classifier.save(class_folder)
    assert len(class_folders(class_folder).paths) == 30


def test_a_failed_save_leaves_the_old_model(class_folder, tiny_onnx, tmp_path, monkeypatch):
    classifier = OpticalClassifier(tiny_onnx).fit(class_folder)
    classifier.save(tmp_path / "model")
    before = _bytes(tmp_path / "model")
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        classifier.save(tmp_path / "model")
    monkeypatch.undo()
    assert _bytes(tmp_path / "model") == before
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "photos"}


def test_no_file_of_a_model_is_a_pickle_or_names_this_machine(class_folder, tiny_onnx, tmp_path):
    OpticalClassifier(tiny_onnx, precision="int8").fit(class_folder).save(tmp_path / "model")
    files = _bytes(tmp_path / "model")
    assert str(class_folder).encode() in files["training.safetensors"]
    for name, data in files.items():
        # The training images' files are kept as they were given.
        assert str(tmp_path).encode() not in data or name == "training.safetensors", name
        assert not data.startswith(b"\x80"), name
