import tracemalloc

import pytest

from aurevoir.errors import DataError, UsageError
from aurevoir.images.labelled import list_images
from aurevoir.images.sources import class_folders, iter_files, list_files


@pytest.fixture
def tree(tmp_path):
    """Return a function that makes empty files by their names under a folder."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def names(root, paths):
    return [path.relative_to(root).as_posix() for path in paths]


def test_files_are_listed_sorted_by_name(tree):
    root = tree("b.jpg", "c.png", "a.jpg", "B.jpg", "10.jpg", "9.jpg")
    assert names(root, list_files(root)) == ["10.jpg", "9.jpg", "B.jpg", "a.jpg", "b.jpg", "c.png"]


def test_nested_files_are_listed_in_the_order_of_their_paths(tree):
    root = tree("z.jpg", "b/x.jpg", "b/a/y.jpg", "a.jpg", "b.jpg")
    found = list_files(root)
    assert found == sorted(found)
    assert set(names(root, found)) == {"z.jpg", "b/x.jpg", "b/a/y.jpg", "a.jpg", "b.jpg"}


def test_hidden_files_and_folders_are_left_out(tree):
    root = tree("a.jpg", ".DS_Store", ".thumbnails/a.jpg", "b/.hidden", "b/c.jpg", "b/.cache/d/e.jpg")
    assert names(root, list_files(root)) == ["a.jpg", "b/c.jpg"]


def test_a_hidden_folder_is_listed_when_it_is_asked_for_itself(tree):
    root = tree(".photos/a.jpg")
    assert names(root, list_files(root / ".photos")) == [".photos/a.jpg"]


def test_an_empty_folder_lists_nothing(tmp_path):
    assert list_files(tmp_path) == []


def test_a_folder_may_be_given_as_text(tree):
    root = tree("a.jpg")
    assert list_files(str(root)) == [root / "a.jpg"]


def test_a_link_back_to_the_folder_is_not_followed_for_ever(tree):
    root = tree("a/b.jpg")
    (root / "a" / "loop").symlink_to(root)
    assert [path for path in names(root, list_files(root)) if path.endswith("b.jpg")] == ["a/b.jpg"]


@pytest.mark.parametrize("function", [list_files, class_folders])
def test_a_missing_folder_is_refused(tmp_path, function):
    with pytest.raises(UsageError, match=r"nowhere does not exist"):
        function(tmp_path / "nowhere")


@pytest.mark.parametrize("function", [list_files, class_folders])
def test_a_file_instead_of_a_folder_is_refused(tree, function):
    root = tree("a.jpg")
    with pytest.raises(UsageError, match=r"a.jpg is not a folder"):
        function(root / "a.jpg")


def test_labels_are_the_folders_names_in_their_order(tree):
    root = tree("dog/2.jpg", "cat/9.jpg", "dog/1.jpg", "cat/10.jpg", "Ant/x.jpg")
    found = class_folders(root)
    assert found.labels == ["Ant", "cat", "cat", "dog", "dog"]
    assert names(root, found.paths) == ["Ant/x.jpg", "cat/10.jpg", "cat/9.jpg", "dog/1.jpg", "dog/2.jpg"]


def test_nested_files_belong_to_the_uppermost_folder(tree):
    root = tree("cat/a.jpg", "cat/dog/b.jpg", "dog/c.jpg")
    found = class_folders(root)
    assert list(zip(names(root, found.paths), found.labels, strict=True)) == [
        ("cat/a.jpg", "cat"),
        ("cat/dog/b.jpg", "cat"),
        ("dog/c.jpg", "dog"),
    ]


def test_loose_and_hidden_files_belong_to_no_class(tree):
    root = tree("cat/a.jpg", "cat/.DS_Store", "readme.txt", ".DS_Store", ".git/config")
    found = class_folders(root)
    assert names(root, found.paths) == ["cat/a.jpg"]
    assert found.labels == ["cat"]


@pytest.mark.parametrize("loose", [[], ["a.jpg"], [".git/config"]])
def test_a_folder_without_class_folders_is_refused(tree, loose):
    root = tree(*loose)
    with pytest.raises(DataError, match="no class folders"):
        class_folders(root)


@pytest.mark.parametrize("hidden", [[], ["dog/.DS_Store"], ["dog/.cache/a.jpg"]])
def test_an_empty_class_folder_is_refused_by_name(tree, hidden):
    root = tree("cat/a.jpg", *hidden)
    (root / "dog").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"dog is empty"):
        class_folders(root)


def test_expand_keeps_files_and_their_order(tree):
    root = tree("b.jpg", "a.jpg")
    assert names(root, list_images([root / "b.jpg", str(root / "a.jpg"), root / "b.jpg"])) == [
        "b.jpg",
        "a.jpg",
        "b.jpg",
    ]


def test_expand_puts_a_folder_s_files_in_its_place(tree):
    root = tree("z.jpg", "d/2.jpg", "d/1.jpg", "d/e/3.jpg", "d/.hidden", "a.jpg")
    found = list_images([root / "z.jpg", root / "d", root / "a.jpg"])
    assert names(root, found) == ["z.jpg", "d/1.jpg", "d/2.jpg", "d/e/3.jpg", "a.jpg"]


def test_expand_takes_a_hidden_file_that_is_named(tree):
    root = tree(".hidden.jpg")
    assert list_images([root / ".hidden.jpg"]) == [root / ".hidden.jpg"]


def test_expand_of_nothing_is_nothing(tmp_path):
    assert list_images([]) == []
    assert list_images([tmp_path]) == []


def test_expand_refuses_a_missing_path(tree):
    root = tree("a.jpg")
    with pytest.raises(UsageError, match=r"gone.jpg does not exist"):
        list_images([root / "a.jpg", root / "gone.jpg"])


def test_the_files_of_many_folders_are_not_held(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}").mkdir()
        for name in range(100):
            (tmp_path / f"{number:02}" / f"{name}.jpg").touch()
    # A link stands for its file where that is not listed, and a folder is listed once.
    (tmp_path / "20" / "5.txt").touch()
    (tmp_path / "10" / "link.jpg").symlink_to(tmp_path / "20" / "5.txt")
    (tmp_path / "30" / "again").symlink_to(tmp_path / "20")
    (tmp_path / "30" / "same.jpg").symlink_to(tmp_path / "20" / "7.jpg")
    found = [tmp_path / f"{number:02}" / f"{name}.jpg" for number in range(40) for name in range(100)]
    expected = sorted([*found, tmp_path / "10" / "link.jpg"])
    assert list_files(tmp_path) == expected
    peaks = []
    for number, each in enumerate((lambda: [*iter_files(tmp_path)], lambda: sum(1 for _ in iter_files(tmp_path)))):
        tracemalloc.start()
        assert each() == (expected if number == 0 else len(expected))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] / 8
