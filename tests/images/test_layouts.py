"""Folders as people have them: links, what systems leave behind, archives and splits."""

import os
import re
import warnings

import pytest

from aurevoir.errors import AurevoirWarning, DataError
from aurevoir.images.labelled import list_images
from aurevoir.images.sources import class_folders, find_splits, list_files
from aurevoir.images.sources import test_part as part_to_test
from aurevoir.transfer.evaluate import train_and_test


@pytest.fixture
def tree(tmp_path):
    """Return a function that makes files, each of its own content, by their names under a folder."""

    def make(*names):
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return tmp_path / "set"

    return make


@pytest.fixture(autouse=True)
def no_warning():
    """A warning is an error, unless a test expects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", AurevoirWarning)
        yield


def names(root, paths):
    return [path.relative_to(root).as_posix() for path in paths]


def listed(root, **options):
    found = class_folders(root, **options)
    return list(zip(names(root, found.paths), found.labels))


def test_links_to_files_and_folders_are_followed(tree, tmp_path):
    root = tree("cat/1.jpg")
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "2.jpg").write_text("2")
    (tmp_path / "store" / "deep" / "3.jpg").write_text("3")
    (root / "cat" / "link.jpg").symlink_to(tmp_path / "store" / "2.jpg")
    (root / "cat" / "more").symlink_to(tmp_path / "store" / "deep")
    (root / "dog").symlink_to(tmp_path / "store" / "deep")
    assert listed(root) == [
        ("cat/1.jpg", "cat"),
        ("cat/link.jpg", "cat"),
        ("cat/more/3.jpg", "cat"),
        ("dog/3.jpg", "dog"),
    ]


def test_a_class_of_links_to_folders_only(tree, tmp_path):
    root = tree("cat/1.jpg")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "2.jpg").write_text("2")
    (root / "dog").mkdir()
    (root / "dog" / "all").symlink_to(tmp_path / "store")
    assert listed(root) == [("cat/1.jpg", "cat"), ("dog/all/2.jpg", "dog")]


def test_a_file_under_several_names_counts_once_under_its_own(tree):
    root = tree("b/1.jpg", "b/c/2.jpg")
    (root / "b" / "a.jpg").symlink_to("1.jpg")
    (root / "b" / "aa").symlink_to("c")
    (root / "b" / "z.jpg").symlink_to("c/2.jpg")
    assert names(root, list_files(root)) == ["b/1.jpg", "b/c/2.jpg"]


def test_loops_are_cut_and_bring_no_images_of_other_classes(tree):
    root = tree("cat/1.jpg", "dog/2.jpg")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "self").symlink_to(".")
    (root / "dog" / "out").symlink_to(root.parent)
    (root / "dog" / "never").symlink_to("never")
    assert listed(root) == [("cat/1.jpg", "cat"), ("dog/2.jpg", "dog"), ("dog/never", "dog")]


def test_a_link_that_leads_nowhere_is_kept_to_be_reported(tree):
    root = tree("cat/1.jpg")
    (root / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    assert names(root, list_files(root)) == ["cat/1.jpg", "cat/gone.jpg"]


def test_a_class_that_is_a_broken_link_is_noted(tree):
    root = tree("cat/1.jpg", "dog/2.jpg")
    (root / "owl").symlink_to("nowhere")
    with pytest.warns(AurevoirWarning, match="owl is a link that leads nowhere; it is left out"):
        assert set(class_folders(root).labels) == {"cat", "dog"}


def test_what_systems_and_people_leave_beside_images_is_left_out(tree):
    junk = ["Thumbs.db", "desktop.ini", ".DS_Store", "._1.jpg", "README", "readme.md", "labels.csv", "1.txt", "1.xml"]
    root = tree(
        "cat/1.jpg",
        "dog/2.jpg",
        *(f"cat/{name}" for name in junk),
        "__MACOSX/cat/._1.jpg",
        "@eaDir/x/1.jpg",
        "cat/@eaDir/1.jpg",
        "cat/__MACOSX/1.jpg",
        ".git/config",
        "annotations/1.xml",
        "LICENSE",
    )
    assert listed(root) == [("cat/1.jpg", "cat"), ("dog/2.jpg", "dog")]


def test_what_may_be_an_image_whatever_its_ending_is_kept(tree):
    root = tree("a.jpg", "B.JPEG", "no_ending", "x.bin", "clip.mp4", "read me.png")
    assert len(list_files(root)) == 6


def test_a_document_that_is_named_is_kept(tree):
    root = tree("notes.txt")
    assert list_images([root / "notes.txt"]) == [root / "notes.txt"]


def test_a_missing_path_is_kept_on_request(tree):
    root = tree("d/1.jpg")
    assert list_images([root / "gone.jpg", root / "d"], keep_missing=True) == [root / "gone.jpg", root / "d" / "1.jpg"]


@pytest.mark.parametrize("depth", ["x", "x/x", "images", "x/y/z"])
def test_an_archive_extracted_into_a_folder_of_its_own_stands_for_it(tree, depth):
    root = tree(f"{depth}/cat/1.jpg", f"{depth}/dog/2.jpg", "__MACOSX/x/._1.jpg", "readme.txt")
    assert [label for _, label in listed(root)] == ["cat", "dog"]


def test_one_class_is_no_wrapper(tree):
    root = tree("cat/1.jpg", "cat/more/2.jpg", "cat/less/3.jpg")
    assert {label for _, label in listed(root)} == {"cat"}
    assert {label for _, label in listed(tree("cat/1.jpg"))} == {"cat"}


def test_nested_class_folders_belong_to_the_uppermost(tree):
    root = tree("cat/white/1.jpg", "cat/black/2.jpg", "dog/a/b/c/3.jpg")
    assert [label for _, label in listed(root)] == ["cat", "cat", "dog"]


SPLITS = [
    ("train", "val"),
    ("train", "test"),
    ("training", "validation"),
    ("Train", "Test"),
    ("training_set", "test_set"),
]
SPLITS += [("images/train", "images/val"), ("seg_train/seg_train", "seg_test/seg_test"), ("train2017", "val2017")]


@pytest.mark.parametrize(("train", "test"), SPLITS)
def test_splits_are_recognised(tree, train, test):
    root = tree(
        *(f"{part}/{label}/{part[-4:]}{k}.jpg" for part in (train, test) for label in ("a", "b") for k in range(3))
    )
    with pytest.warns(AurevoirWarning) as notes:
        trained, tested = train_and_test(root)
    assert set(trained.labels) == set(tested.labels) == {"a", "b"}
    assert {path.relative_to(root).as_posix().split("/a/")[0].split("/b/")[0] for path in trained.paths} == {train}
    assert {path.relative_to(root).as_posix().split("/a/")[0].split("/b/")[0] for path in tested.paths} == {test}
    assert any("not classes: using" in str(note.message) for note in notes)
    assert any(
        f"testing on {find_splits(root)['test' if 'est' in test else 'val']}" in str(note.message) for note in notes
    )


def test_of_three_parts_test_is_tested_on_and_evaluated(tree):
    root = tree(*(f"{part}/{label}/{part}.jpg" for part in ("train", "val", "test") for label in ("a", "b")))
    assert part_to_test(find_splits(root)) == root / "test"
    with pytest.warns(AurevoirWarning, match="contains the parts test, train, val, not classes: using .*test"):
        assert names(root, class_folders(root, "test").paths) == ["test/a/test.jpg", "test/b/test.jpg"]


def test_test_images_without_labels_are_not_tested_on(tree):
    root = tree("test/1.jpg", "test/2.jpg", *(f"train/{label}/{k}.jpg" for label in "ab" for k in range(5)))
    with pytest.warns(AurevoirWarning):
        train, test = train_and_test(root)
    assert (len(train.paths), len(test.paths)) == (8, 2)
    with pytest.raises(DataError, match="contains no test images, only train"):
        class_folders(root, "test")


def test_folders_beside_the_parts_are_no_classes(tree):
    root = tree("chest/train/a/1.jpg", "chest/train/b/2.jpg", "chest/val/a/3.jpg", "chest/chest/train/a/4.jpg")
    with pytest.warns(AurevoirWarning, match="train, val"):
        assert {path.name for path in class_folders(root).paths} == {"1.jpg", "2.jpg"}


def test_parts_without_classes_are_refused(tree):
    root = tree("train/1.jpg", "train/2.jpg", "test/3.jpg")
    with pytest.raises(
        DataError, match="contains the parts test, train instead of classes.*no class folders.*a CSV file"
    ):
        class_folders(root)


@pytest.mark.parametrize(
    "classes", [("train", "bus"), ("train", "car", "boat"), ("test", "val"), ("training wheels", "bike")]
)
def test_a_class_named_as_a_part_is_a_class(tree, classes):
    root = tree(*(f"{name}/1.jpg" for name in classes))
    assert set(class_folders(root).labels) == set(classes)


def test_names_that_differ_only_in_case_or_spaces_are_noted(tree):
    root = tree("Cat/1.jpg", "cat /2.jpg", "dog/3.jpg")
    with pytest.warns(AurevoirWarning, match="the classes 'Cat', 'cat ' in .* differ only in case, spaces"):
        assert set(class_folders(root).labels) == {"Cat", "cat ", "dog"}


def test_a_name_that_is_not_utf8_is_a_label(tree):
    root = tree("cat/1.jpg")
    (root / os.fsdecode(b"caf\xe9")).mkdir()
    (root / os.fsdecode(b"caf\xe9") / "1.jpg").write_text("x")
    assert class_folders(root).labels == ["caf\udce9", "cat"]


def test_an_image_in_two_classes_and_in_both_parts_is_noted(tree):
    root = tree(*(f"{label}/{k}.jpg" for label in "ab" for k in range(20)))
    (root / "b" / "copy.jpg").write_bytes((root / "a" / "0.jpg").read_bytes())
    with pytest.warns(AurevoirWarning) as notes:
        train_and_test(root)
    first = str(notes[0].message)
    assert re.search("1 images are in more than one class, first .*0.jpg and .*copy.jpg; keep each in one", first)


def test_few_test_images_are_noted(tree):
    root = tree(*(f"{label}/{k}.jpg" for label in "ab" for k in range(5)))
    with pytest.warns(AurevoirWarning, match="the accuracy on only 2 test images says little"):
        train_and_test(root)
