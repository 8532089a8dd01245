"""Model folders of right digests and hostile contents are refused in one line, and never end otherwise."""

import hashlib
import json
import os
import shutil
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import damaged_bytes, damaged_json
from safetensors.numpy import load, save

import aurevoir
from aurevoir import OpticalClassifier
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.images.procedural import write_class_folders

M = 17
X = np.random.default_rng(0).normal(size=(40, M))
Y = np.array(["a", "bb", "c"])[np.arange(40) % 3]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The files of a model of each kind."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    for kind in ("none", "exact", "hadamard", "dense"):
        OpticalClassifier(projection=kind, n_components=20).fit(X, Y).save(folder / kind)
        found[kind] = {path.name: path.read_bytes() for path in (folder / kind).iterdir()}
    return found


def write(folder, files, model=None, arrays=None, data=None):
    """Write a model folder with changed fields and arrays; digests are repaired."""
    content = json.loads(files["model.json"]) | (model or {})
    data = data or save({**load(files["readout.safetensors"]), **(arrays or {})})
    if "files" not in (model or {}):
        content["files"]["readout.safetensors"] = hashlib.sha256(data).hexdigest()
    folder.mkdir(exist_ok=True)
    (folder / "readout.safetensors").write_bytes(data)
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def refused(folder, message):
    with pytest.raises(AurevoirError, match=message) as error:
        aurevoir.load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


FIELDS = [
    ({"features": 16}, "array rows is uint8 of shape"),
    ({"features": 2**40}, "features 1099511627776 is not an integer"),
    ({"features": True}, "features True is not an integer"),
    ({"classes": ["a", "b"]}, "classes_dtype|array intercept is float64 of shape"),
    ({"classes": ["a", "a", "c"]}, "class 'a' is repeated"),
    ({"classes": ["a"]}, "1 classes; at least 2"),
    ({"classes": ["a", "b", "\ud800"]}, r"classes\[2\]"),
    ({"classes": ["a", "b", ["c"]]}, r"classes\[2\] \['c'\] is not a string"),
    ({"classes_dtype": "<U100000000"}, "of dtype '<U100000000' are more than"),
    ({"classes_dtype": "<U999999999"}, "of dtype '<U999999999' are more than"),
    ({"classes_dtype": "<U1"}, "does not hold the classes as they are"),
    ({"classes_dtype": "<i8"}, "does not hold the classes as they are"),
    ({"classes_dtype": "<c16"}, "is not a plain NumPy dtype"),
    ({"classes_dtype": "V8"}, "is not a plain NumPy dtype"),
    ({"classes": [1, 2, 300], "classes_dtype": "|u1"}, "does not hold the classes as they are"),
    ({"alpha": float("nan")}, "alpha nan is not a number"),
    ({"alpha": 0.123}, "alpha 0.123 there"),
    ({"best": 15}, "best is 15, of 15 alphas"),
    ({"best": -1}, "best -1 is not an integer"),
    ({"multilabel": 1}, "multilabel 1 is not true or false"),
    ({"seed": -1}, "seed -1 is not an integer"),
    ({"seed": 2**200}, "seed .* is not an integer"),
    ({"parameters": {"backbone": "evil"}}, "parameters.'backbone' is not known"),
    ({"parameters": {"projection": "zzz"}}, "parameters.projection 'zzz' is not one of"),
    ({"readout": {"kind": "zzz"}}, "readout.kind 'zzz' is not one of"),
    ({"readout": {"kind": ["exact"]}}, "readout.kind"),
    ({"readout": {"kind": "exact", "k": 3}}, "readout.'k' is not known"),
    ({"readout": {"kind": "hadamard"}}, "readout.k is missing"),
    ({"readout": {"kind": "opu", "k": 3, "seed": 0, "gain": 1, "saturation": 0}}, "array 'weights' is missing"),
    ({"feature_names": ["x"]}, "1 feature_names for 17 features"),
    ({"files": {}}, "files.readout.safetensors is missing"),
    ({"files": {"../../../etc/passwd": "0" * 64}}, "'../../../etc/passwd' is not one of"),
    ({"files": {"readout.safetensors": "0"}}, "is not the 64 lower-case hexadecimal digits"),
    ({"schema": "aurevoir-model/3"}, "written by a newer version of aurevoir; upgrade"),
    ({"schema": ["aurevoir-model/2"]}, "is of schema"),
    ({"extra": 1}, "'extra' is not known to this version"),
]


@pytest.mark.parametrize(("changes", "message"), FIELDS, ids=[str(index) for index in range(len(FIELDS))])
def test_a_field_of_another_kind_is_refused(models, tmp_path, changes, message):
    refused(write(tmp_path / "m", models["exact"], changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gain": float("nan")}, "readout.gain nan"),
        ({"gain": 0}, "readout.gain 0 is not a number"),
        ({"gain": -1.0}, "readout.gain -1.0 is not a number"),
        ({"gain": 1e300}, r"readout.gain 1e\+300 is not a number"),
        ({"saturation": 2}, "readout.saturation 2 is not"),
        ({"k": 21}, r"array weights is float64 of shape \(20, 3\), not float64 of shape \(21, 3\)"),
        ({"k": 2**33}, "readout.k 8589934592 is not an integer"),
        ({"k": 0}, "readout.k 0 is not an integer"),
        ({"seed": -1}, "readout.seed -1 is not"),
        ({"device": "x"}, "readout.'device' is not known"),
    ],
)
def test_a_readout_of_another_kind_is_refused(models, tmp_path, changes, message):
    described = json.loads(models["hadamard"]["model.json"])["readout"]
    refused(write(tmp_path / "m", models["hadamard"], {"readout": described | changes}), message)


def changed(array, at, value):
    array = array.copy()
    array.flat[at] = value
    return array


ARRAYS = [
    ("none", "weights", lambda a: changed(a, 5, np.nan), "a value of weights is not a finite number"),
    ("none", "weights", lambda a: changed(a, 5, np.inf), "a value of weights is not a finite number"),
    ("none", "weights", lambda a: changed(a, 5, 1e300), "a value of weights is not a finite number"),
    ("none", "weights", lambda a: a.astype("float32"), "array weights is float32"),
    ("none", "weights", lambda a: a[:-1], r"array weights is float64 of shape \(16, 3\)"),
    ("none", "intercept", lambda a: a[:-1], r"array intercept is float64 of shape \(2,\)"),
    ("none", "intercept", lambda a: changed(a, 0, -np.inf), "a value of intercept is not"),
    ("exact", "rows", lambda a: a.astype("int64"), "array rows is int64"),
    ("exact", "rows", lambda a: np.pad(a, ((0, 0), (0, 1))), "array rows is uint8 of shape"),
    ("exact", "rows", lambda a: a[:-1], "array coefficients is float64 of shape"),
    ("exact", "rows", lambda a: a | 1, "rows have ones behind their 17 bits"),
    ("exact", "rows", lambda a: a[:, 0], "array rows is uint8 of shape"),
    ("exact", "coefficients", lambda a: a[:, :2], "array coefficients is float64 of shape"),
    ("exact", "alphas", lambda a: a[:-1], "array loo_accuracies is float64"),
    ("exact", "alphas", lambda a: -a, "an alpha is not a finite number from 0"),
    ("exact", "loo_errors", lambda a: a[:-1], "array loo_errors is float64"),
    ("exact", "loo_errors", lambda a: -1 - a, "a loo_error is negative"),
    ("exact", "loo_accuracies", lambda a: a + 2, "a loo_accuracy is not from 0 to 1"),
    ("exact", "loo_accuracies", lambda a: a.astype("float32"), "array loo_accuracies is float32"),
    ("exact", "strange", lambda a: np.zeros(3), "array 'strange' is strange"),
    ("exact", "pooled_rows", lambda a: np.zeros((3, 2), "float32"), "array 'pooled_rows' is strange"),
]

POOLED = [
    ("rbf", "pooled_rows", lambda a: a.astype("float64"), "array pooled_rows is float64"),
    ("rbf", "pooled_rows", lambda a: a[:, :-1], r"array pooled_rows is float32 of shape \(\d+, 3\)"),
    ("rbf", "pooled_rows", lambda a: a[:-1], "array pooled_coefficients is float64 of shape"),
    ("rbf", "pooled_rows", lambda a: changed(a, 1, np.nan), "a value of pooled_rows is not a finite number"),
    ("rbf", "pooled_scale", lambda a: -a, "a value of pooled_scale is negative"),
    ("rbf", "pooled_mean", lambda a: changed(a, 0, np.inf), "a value of pooled_mean is not"),
    ("rbf", "pooled_mean", lambda a: changed(a, 0, 1e200), "a value of pooled_mean is not a finite number up to 3.4"),
    ("rbf", "pooled_scale", lambda a: changed(a, 0, 1e39), "a value of pooled_scale is not a finite number up to"),
    ("rbf", "weights", lambda a: np.zeros((3, 2)), "array 'weights' is strange"),
    ("bits+rbf", "weights", lambda a: a[:-1], "array weights is float64 of shape"),
    ("exact+rbf", "rows", lambda a: a[:, :-1], "array rows is uint8 of shape"),
    ("pooled", "weights", lambda a: a[:-1], r"array weights .* of shape \(3, 10\), not .* \(4, 10\)"),
]


@pytest.fixture(scope="module")
def of_images(tmp_path_factory, tiny_onnx):
    """The files of a model of each kind that reads pooled features."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    photos = folder / "photos"
    write_class_folders(photos, 10, 24, 0)
    for kind in ("pooled", "rbf", "bits+rbf", "exact+rbf"):
        OpticalClassifier(tiny_onnx, projection=kind, smoke=False).fit(photos).save(folder / kind)
        found[kind] = {path.name: path.read_bytes() for path in (folder / kind).iterdir()}
    return found


def with_engine(folder, files):
    folder.mkdir()
    (folder / "engine.aurevoir").write_bytes(files["engine.aurevoir"])
    return folder


@pytest.mark.parametrize(("kind", "name", "change", "message"), POOLED, ids=[str(i) for i in range(len(POOLED))])
def test_an_array_of_pooled_features_of_another_kind_is_refused(of_images, tmp_path, kind, name, change, message):
    found, files = load(of_images[kind]["readout.safetensors"]), of_images[kind]
    folder = with_engine(tmp_path / "m", files)
    refused(write(folder, files, arrays={name: change(found.get(name))}), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"readout": {"kind": "rbf"}}, "readout.channels is missing"),
        ({"readout": {"kind": "rbf", "channels": 0}}, "readout.channels 0 is not"),
        ({"readout": {"kind": "rbf", "channels": 5}}, "array pooled_mean is float64 of shape"),
        ({"readout": {"kind": "pooled", "channels": 4}}, "array 'weights' is missing"),
        ({"loo_accuracy_of": {"none": 2}}, "the accuracy 2 of none is not a number"),
        ({"loo_accuracy_of": {"other": 0.5}}, "'other'"),
    ],
)
def test_fields_of_pooled_features_are_checked(of_images, tmp_path, changes, message):
    files = of_images["rbf"]
    refused(write(with_engine(tmp_path / "m", files), files, model=changes), message)


def test_channels_are_the_engines(of_images, models, tmp_path):
    files = of_images["pooled"]
    found = load(files["readout.safetensors"])
    folder = with_engine(tmp_path / "m", files)
    wider = np.concatenate([found["weights"], found["weights"][:1]])
    content = {"readout": {"kind": "pooled", "channels": len(wider)}}
    message = "trained on the means of 5 channels, and its engine has 4"
    refused(write(folder, files, model=content, arrays={"weights": wider}), message)
    data = save({**load(models["none"]["readout.safetensors"])})
    alone = {"readout": {"kind": "pooled", "channels": M}}
    message = "trained on the means of 17 channels, and its engine has 0"
    refused(write(tmp_path / "n", models["none"], model=alone, data=data), message)


@pytest.mark.parametrize(("kind", "name", "change", "message"), ARRAYS, ids=[str(i) for i in range(len(ARRAYS))])
def test_an_array_of_another_kind_is_refused(models, tmp_path, kind, name, change, message):
    found = load(models[kind]["readout.safetensors"])
    refused(write(tmp_path / "m", models[kind], arrays={name: change(found.get(name))}), message)


def test_an_array_of_complex_numbers_is_refused(models, tmp_path):
    # By hand: safetensors writes them since 0.7.
    data = models["none"]["readout.safetensors"].replace(b'"F64"', b'"C64"')
    refused(write(tmp_path / "m", models["none"], data=data), r"is not a safetensors file|array \w+ is complex64")


def header(content, rest=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a header of 0 bytes"),
        (b"\xff" * 8, "a header of 18,446,744,073,709,551,615 bytes"),
        (header(b" " * (1 << 17)), "a header of 131,072 bytes"),
        (header(b"{"), "is not JSON"),
        (header(b'{"a": 1, "a": 2}'), "the name 'a' is repeated"),
        (
            header({"weights": {"dtype": "F64", "shape": [2**62], "data_offsets": [0, 8]}}, bytes(8)),
            "not a safetensors",
        ),
        (
            header({"weights": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, bytes(8)),
            "readout.safetensors",
        ),
        (header({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(16)), "not a safetensors"),
        (
            header({name: {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]} for name in "ab"}, bytes(8)),
            "not a safetensors",
        ),
    ],
)
def test_a_hostile_header_is_refused(models, tmp_path, data, message):
    refused(write(tmp_path / "m", models["exact"], data=data or b"\0"), message if data else "a header of 0 bytes")


@pytest.mark.parametrize("name", ["model.json", "readout.safetensors"])
def test_links_folders_and_fifos_are_no_files_of_a_model(models, tmp_path, name):
    folder = write(tmp_path / "m", models["exact"])
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    refused(folder, "is a link, which is not followed")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, "is not a file")
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, "is not a file")


def test_a_file_larger_than_the_budget_is_refused_before_it_is_read(models, tmp_path, monkeypatch):
    folder = write(tmp_path / "m", models["exact"])
    os.truncate(folder / "readout.safetensors", 1 << 40)
    refused(folder, r"holds 1,099,511,627,776 bytes, and at most .* raise the memory budget")
    shutil.copyfile(folder / "model.json", folder / "readout.safetensors")
    os.truncate(folder / "model.json", 1 << 40)
    refused(folder, r"model.json holds 1,099,511,627,776 bytes")


def test_labels_of_every_plain_kind_come_back(tmp_path):
    for labels in (Y, Y.astype(object), np.arange(40) % 3 == 0, np.arange(40) % 3 - 1, (np.arange(40) % 3) * 1.0):
        classifier = OpticalClassifier(projection="none").fit(X, labels)
        classifier.save(tmp_path / "m")
        loaded = aurevoir.load(tmp_path / "m")
        assert loaded.classes_.dtype == classifier.classes_.dtype
        np.testing.assert_array_equal(loaded.predict(X), classifier.predict(X))
    sets = np.random.default_rng(1).integers(0, 2, (40, 1))
    classifier = OpticalClassifier(projection="none").fit(X, np.hstack([sets, 1 - sets]))
    classifier.save(tmp_path / "m")
    np.testing.assert_array_equal(aurevoir.load(tmp_path / "m").predict(X), classifier.predict(X))


def test_choices_that_no_reader_would_accept_are_refused_before_the_fit():
    for name, value in (("alpha_search", "zzz"), ("method", "zzz"), ("calibration_images", "many")):
        with pytest.raises(UsageError, match=r"zzz|many"):
            OpticalClassifier(**{name: value}).fit(X, Y)


def test_a_reader_beside_a_replacing_writer_gets_one_model_whole(models, tmp_path):
    for kind in ("none", "exact"):
        write(tmp_path / kind, models[kind])
    target, stop, found = tmp_path / "m", threading.Event(), set()
    shutil.copytree(tmp_path / "none", target)

    def replace():
        while not stop.is_set():
            for kind in ("exact", "none"):
                shutil.copytree(tmp_path / kind, tmp_path / "new")
                target.rename(tmp_path / "old")
                (tmp_path / "new").rename(target)
                shutil.rmtree(tmp_path / "old")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(300):
            try:
                found.add(aurevoir.load(target).projection_)
            except UsageError as error:
                # This writer, unlike the package's, leaves a moment without a folder.
                assert "no such file" in str(error)
    finally:
        stop.set()
        writer.join()
    assert found == {"none", "exact"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_ends_in_one_line_or_finite_scores(models, tmp_path, data):
    kind = data.draw(st.sampled_from(sorted(models)))
    files = models[kind]
    folder = write(tmp_path / "m", files)
    if data.draw(st.booleans()):
        (folder / "model.json").write_bytes(data.draw(damaged_json((folder / "model.json").read_bytes())))
    else:
        readout = files["readout.safetensors"]
        length = int.from_bytes(readout[:8], "little")
        about = data.draw(damaged_json(readout[8 : 8 + length]))
        whole = data.draw(st.sampled_from([header(about, readout[8 + length :]), data.draw(damaged_bytes(readout))]))
        write(folder, files, data=whole or b"\0")
    try:
        scores = aurevoir.load(folder).scores(X)
    except AurevoirError as error:
        assert "\n" not in str(error)
    else:
        assert scores.shape[0] == len(X)
        assert np.isfinite(scores).all()
