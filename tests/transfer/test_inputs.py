"""What a classifier is given: every form of paths, images, labels and features, and what is refused of each."""

from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse

from aurevoir import OpticalClassifier
from aurevoir.errors import DataError, UsageError
from aurevoir.images.sources import class_folders, list_files
from aurevoir.transfer.inputs import as_images, as_inputs, as_labels, images_and_labels, is_features

TEXT = np.dtypes.StringDType()
PATHS = ["photos/a.png", "photos/b.png", "c.png"]


@pytest.mark.parametrize(
    "given",
    [
        PATHS,
        tuple(PATHS),
        deque(PATHS),
        [Path(PATHS[0]), *PATHS[1:]],
        np.array(PATHS),
        np.array(PATHS, dtype=object),
        np.array([Path(path) for path in PATHS], dtype=object),
        np.array(PATHS, dtype=TEXT),
        np.array(PATHS)[:, None],
        pd.Series(PATHS, index=[7, 8, 9]),
        pd.Series(PATHS, dtype=object),
        pd.Series(PATHS, dtype="category"),
        pd.Series([Path(path) for path in PATHS]),
        pd.Index(PATHS),
        pd.DataFrame({"path": PATHS}),
    ],
)
def test_paths_of_any_container_are_a_list_of_paths(given):
    found = as_inputs(given)
    assert isinstance(found, list)
    assert not is_features(found)
    assert [str(path) for path in found] == PATHS


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_the_files_under_it_and_gives_labels(class_folder, kind):
    assert as_inputs(kind(class_folder)) == list_files(class_folder) == class_folders(class_folder).paths
    assert as_inputs(kind(class_folder / "red" / "0.png")) == [class_folder / "red" / "0.png"]
    paths, labels, weights = images_and_labels(kind(class_folder), None)
    assert weights is None
    assert (paths, labels.tolist()) == (class_folders(class_folder).paths, class_folders(class_folder).labels)
    given = images_and_labels(kind(class_folder), labels[::-1])
    assert (given[0], given[1].tolist(), given[2]) == (paths, labels[::-1].tolist(), None)


def test_images_of_any_library_are_an_array_of_pixels(pixels):
    ragged = np.empty(len(pixels), dtype=object)
    ragged[:] = list(pixels)
    for given in (pixels, torch.from_numpy(pixels), list(pixels), tuple(torch.from_numpy(pixels)), ragged):
        found = as_inputs(given)
        assert not is_features(found)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, pixels)
        np.testing.assert_array_equal(as_images(found, (28, 28, 3), "stretch", None).pixels, pixels)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda pixels: pixels.transpose(0, 3, 1, 2), "X.transpose(0, 2, 3, 1)"),
        (lambda pixels: pixels / 255, "(255 * X).round().astype('uint8')"),
        (lambda pixels: pixels.astype("float32"), "X.round().astype('uint8')"),
        (
            lambda pixels: (pixels / 255).transpose(0, 3, 1, 2),
            "(255 * X).round().astype('uint8').transpose(0, 2, 3, 1)",
        ),
        (lambda pixels: pixels.astype(int), "X.astype('uint8')"),
        (lambda pixels: pixels[..., 0], "np.repeat(X[..., None], 3, axis=3)"),
        (lambda pixels: pixels[0], "X[None]"),
        (lambda pixels: list(pixels.transpose(0, 3, 1, 2)), "np.stack(X).transpose(0, 2, 3, 1)"),
        (lambda pixels: torch.from_numpy(pixels).permute(0, 3, 1, 2), "X.numpy().transpose(0, 2, 3, 1)"),
    ],
)
def test_the_remedy_for_images_of_another_form_makes_images_of_them(pixels, make, remedy):
    X = make(pixels)
    with pytest.raises(UsageError) as refused:
        as_inputs(X)
    assert f"give {remedy}" in str(refused.value)
    found = as_inputs(eval(remedy, {"X": X, "np": np}))
    assert found.dtype == np.uint8
    assert found.shape[1:] == (28, 28, 3)


@pytest.mark.parametrize(("channels", "remedy"), [(1, "np.repeat(X, 3, axis=3)"), (4, "X[..., :3]")])
def test_other_channels_than_the_engines_are_refused(channels, remedy):
    X = np.zeros((2, 28, 28, channels), "uint8")
    with pytest.raises(UsageError) as refused:
        as_images(as_inputs(X), (28, 28, 3), "stretch", None)
    assert str(refused.value).endswith(f"give {remedy}")
    assert eval(remedy, {"X": X, "np": np}).shape == (2, 28, 28, 3)
    assert len(as_images(as_inputs(X), (28, 28, channels), "stretch", None)) == 2
    with pytest.raises(UsageError, match="give images with 5"):
        as_images(as_inputs(X), (28, 28, 5), "stretch", None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((path for path in PATHS), r"X is a generator, .* give a list, such as list\(X\)"),
        ({"a": 1}, "X is a dict"),
        (set(PATHS), "X is a set"),
        (b"a.png", "X is bytes; give the path of an image as str"),
        ([b"a.png"], "X holds bytes"),
        (np.array([b"a.png"]), "holds bytes; give the paths of images as str"),
        ([], "X is empty"),
        (np.empty((0, 8, 8, 3), "uint8"), "X is empty"),
        (pd.Series([], dtype=str), "X is empty"),
        ([PATHS[0], ""], r"X\[1\] is '' among paths"),
        (pd.Series([PATHS[0], None]), r"X\[1\] is (nan|None) among paths"),
        (np.array([None, PATHS[0]]), r"X\[0\] is None among paths"),
        ([PATHS[0], np.zeros((9, 9, 3), "uint8")], r"X\[1\] is array\(.* among paths"),
        (pd.DataFrame({"path": PATHS, "label": [1, 2, 3]}), "X has 2 columns, with text among them"),
        (np.array([PATHS, PATHS]), "X has 3 columns, with text among them"),
        ([np.zeros((9, 9, 3), "uint8"), np.zeros((8, 9, 3), "uint8")], r"images of shapes \(8, 9, 3\) and \(9, 9, 3\)"),
        ([Image.new("RGB", (8, 8))], r"X holds PIL images; give the paths of the files, .* or np.stack"),
        (sparse.eye(3), r"X is sparse, and sparse input is not supported; give X.toarray\(\)"),
        (np.zeros((1, 1, 8, 8, 3), "uint8"), r"shape \(1, 1, 8, 8, 3\) is not images"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), "X, a Tensor, cannot be read as an array"),
    ],
)
def test_what_is_neither_paths_nor_images_is_refused_in_a_line(given, message):
    with pytest.raises(UsageError, match=message) as refused:
        as_inputs(given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["b", "a"], np.array(["b", "a"])),
        (np.array(["b", "a"], dtype=object), np.array(["b", "a"], dtype=object)),
        (np.array(["b", "a"], dtype=TEXT), np.array(["b", "a"])),
        (pd.Series(["b", "a"], index=[3, 4]), np.array(["b", "a"], dtype=object)),
        (pd.Categorical(["b", "a"]), np.array(["b", "a"], dtype=object)),
        (pd.Series([2, 1], dtype="Int64"), np.array([2, 1])),
        (pd.Series([True, False], dtype="boolean"), np.array([True, False])),
        (np.array([2, 1], dtype=object), np.array([2, 1])),
        (np.array([True, False], dtype=object), np.array([True, False])),
        (np.array([2, 1], dtype="int8"), np.array([2, 1], dtype="int8")),
        (torch.tensor([2, 1]), np.array([2, 1])),
        (np.array([[0, 1], [1, 1], [0, 0]]), np.array([[0, 1], [1, 1], [0, 0]])),
    ],
)
def test_labels_keep_their_kind(given, expected):
    found = as_labels(given)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", float("nan")], r"y\[1\] is nan, which is no label"),
        (["a", None], r"y\[1\] is None, which is no label"),
        (pd.Series(["a", None]), r"y\[1\] is (nan|None)"),
        (pd.Series([1, None], dtype="Int64"), "NaN"),
        (pd.Series(["a", pd.NA], dtype=object), r"y\[1\] is <NA>"),
        (pd.Series(["a", None], dtype="category"), r"y\[1\] is nan"),
        (np.array(["a", np.nan], dtype=np.dtypes.StringDType(na_object=np.nan)), r"y\[1\] is nan"),
        (np.array([0, np.nan]), "y contains NaN or infinity"),
        (np.array([0, np.inf]), "y contains NaN or infinity"),
        ([1, "a"], "y holds text and other labels"),
        (np.array([1, "a"], dtype=object), "y holds text and other labels"),
        ([b"a", b"b"], r"y of dtype \|S1 holds bytes; give classes as text"),
        ([0.5, 0.7], "Unknown label type: continuous"),
        (iter("ab"), "give the labels as a list or array"),
        (sparse.eye(2), "give the labels as a list or array"),
        (pd.to_datetime(["2020", "2021"]), r"give classes as text, such as y.astype\(str\)"),
        (np.array([[0, 1], [2, 1], [3, 0]]), "must hold zeros and ones only"),
        (np.array([[-1, 1], [1, 1], [-1, 0]]), "must hold zeros and ones only"),
        ([[1], [1, 2]], "inhomogeneous"),
        ("a", "Unknown label type"),
    ],
)
def test_what_is_no_labels_is_refused_in_a_line(given, message):
    with pytest.raises(DataError, match=message) as refused:
        as_labels(given)
    assert "\n" not in str(refused.value)


def test_the_weights_of_a_table_count(class_folder, tiny_onnx, tmp_path):
    found = class_folders(class_folder)
    lines = [f"{path},{label},{1 + index}" for index, (path, label) in enumerate(zip(found.paths, found.labels))]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,weight", *lines]))
    weights = np.arange(1.0, 1 + len(lines))
    assert (images_and_labels(tmp_path / "t.csv", None)[2] == weights).all()
    classifier = OpticalClassifier(tiny_onnx, smoke=False).fit(tmp_path / "t.csv")
    assert (classifier.training_.weights == weights).all()


@pytest.mark.parametrize(
    "wrong", [{"class_weight": "balnced"}, {"class_weight": {"red": 1e200}}, {"alphas": [-1]}], ids=str
)
def test_choices_are_checked_before_an_image_is_read(class_folder, tiny_onnx, wrong, monkeypatch):
    monkeypatch.setattr("aurevoir.images.batches.decode", None)
    with pytest.raises(UsageError, match=next(iter(wrong))):
        OpticalClassifier(tiny_onnx, smoke=False, **wrong).fit(class_folder)


def test_what_is_scored_has_a_label_an_image(class_folder, tiny_onnx):
    found = class_folders(class_folder)
    classifier = OpticalClassifier(tiny_onnx, smoke=False).fit(class_folder)
    for call in (classifier.score, classifier.embed_labelled):
        with pytest.raises(DataError, match="30 images and 29 labels"):
            call(found.paths, found.labels[:-1])
