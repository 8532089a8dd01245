"""WebDataset archives and archives of class folders as labelled images."""

import json
import tarfile
from collections import Counter

import pytest
from tar_files import pack

from aurevoir.errors import AurevoirWarning, DataError, UsageError
from aurevoir.images.labelled import labelled_images, labelled_parts, list_images


def listed(data, part="train"):
    found = labelled_images(data, part)
    return [(label, str(path).partition(".tar/")[2]) for label, path in zip(found.labels, found.paths, strict=True)]


def files(*names):
    return [(name, b"x") for name in names]


LABELLED = [("a.jpg", b"1"), ("a.cls", b"3"), ("d/b.png", b"2"), ("d/b.cls", b"cat \n"), ("c.cls", b"7")]


def test_a_sample_is_the_files_of_one_name(tmp_path):
    shard = pack(tmp_path / "s.tar", *LABELLED, ("__index__", b""), (".c.jpg", b""), ("d/b.npy", b""))
    assert listed(shard) == [("3", "a.jpg"), ("cat", "d/b.png")]
    assert [str(path.relative_to(shard)) for path in list_images([shard])] == ["a.jpg", "d/b.png"]


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"cls": b"3", "txt": b"a caption"}, "3"),
        ({"cls.txt": "chat\u00e9".encode()}, "chat\u00e9"),
        ({"txt": b"\xef\xbb\xbfa dog\n"}, "a dog"),
        ({"json": b'{"label": 4, "width": 80}'}, "4"),
        ({"json": b'{"caption": "x"}', "txt": b"dog"}, "dog"),
        ({"json": b'{"class": "cat"}', "txt": b"a caption"}, "cat"),
        ({"json": b'"cat"'}, "cat"),
        ({"JSON": b'{"labels": ["a", "b"]}'}, ("a", "b")),
        ({"json": b'["b", "a"]'}, ("a", "b")),
        ({"cls": b'["b", "a", "b"]'}, ("a", "b")),
        ({"json": b"[]"}, ()),
    ],
)
def test_labels_of_every_kind(tmp_path, given, label):
    shard = pack(tmp_path / "s.tar", ("k.jpg", b"x"), *((f"k.{ending}", content) for ending, content in given.items()))
    assert labelled_images(shard).labels == [label]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"json": b"{"}, "s.tar/a.json is not JSON"),
        ({"json": b"[" * 100_000}, "s.tar/a.json is nested too deeply"),
        ({"json": b'{"label": "a", "label": "b"}'}, "the name 'label' is repeated"),
        (
            {"json": b'{"label": ["a", "b"]}'},
            "the label in .*a.json is .*; give one label an image, or name the key labels",
        ),
        ({"json": b'{"labels": [["a"]]}'}, "the labels in .*a.json are .*; give a list of texts"),
        ({"cls": b"x" * (1 << 21)}, "s.tar/a.cls holds 2,097,152 bytes, which is no label"),
        ({"json": b'{"label": "a", "weight": -1}'}, "the weight in .*a.json is '-1'"),
        ({}, "1 of 2 rows of .*s.tar have no label, the first in .*s.tar/a.jpg"),
    ],
)
def test_a_label_that_is_none_is_refused_with_its_file(tmp_path, content, message):
    own = [(f"a.{ending}", value) for ending, value in content.items()]
    shard = pack(tmp_path / "s.tar", ("a.jpg", b"x"), *own, ("b.jpg", b"x"), ("b.cls", b"1"))
    with pytest.raises(DataError, match=message) as caught:
        labelled_images(shard)
    assert "\n" not in str(caught.value)


def test_of_several_images_of_a_sample_the_first_counts_and_it_is_noted(tmp_path):
    shard = pack(tmp_path / "s.tar", *files("a.left.jpg", "a.right.jpg", "a.cls", "b.jpg", "b.cls"))
    with pytest.warns(AurevoirWarning, match="1 samples of .*s.tar hold more than one image; the first of each counts"):
        assert listed(shard) == [("x", "a.left.jpg"), ("x", "b.jpg")]
    assert len(list_images([shard])) == 3


def test_an_archive_of_class_folders_is_one_of_classes_at_any_depth(tmp_path, recwarn):
    names = ["photos/cat/IMG.1.jpg", "photos/cat/IMG.2.jpg", "photos/dog/a/3.jpg", "photos/README.md"]
    shard = pack(tmp_path / "s.tar", *files(*names))
    assert listed(shard) == [("cat", names[0]), ("cat", names[1]), ("dog", names[2])]
    assert not recwarn.list
    shard = pack(tmp_path / "s.tar", *files("1.jpg", "2.jpg"))
    with pytest.raises(DataError, match="2 of 2 rows of .* have no label"):
        labelled_images(shard)
    with pytest.raises(DataError, match="holds no images"):
        labelled_images(pack(tmp_path / "s.tar", *files("a.cls", "b.txt")))


def test_an_archive_of_parts_is_split_as_a_folder_is(tmp_path):
    names = [f"d/{part}/{label}/{part}{k}.jpg" for part in ("train", "val") for label in "ab" for k in range(3)]
    shard = pack(tmp_path / "s.tar", *files(*names))
    with pytest.warns(AurevoirWarning, match=r"s.tar has the parts train \(6\), val \(6\): using"):
        train, test = labelled_parts(shard)
    assert {path.name[:-5] for path in train.paths} == {"train"}
    assert {path.name[:-5] for path in test.paths} == {"val"}
    assert train.names == test.names == ["a", "b"]


def sample(key, label, **more):
    return [(f"{key}.jpg", b"x"), (f"{key}.json", json.dumps({"label": label, **more}).encode())]


def test_a_folder_of_archives_and_the_parts_that_their_names_say(tmp_path):
    for number, part in enumerate(["train", "train", "val", "test"]):
        pack(tmp_path / f"photos-{part}-{number:06d}.tar", *sample(f"{number}a", "cat"), *sample(f"{number}b", "dog"))
    (tmp_path / "README.md").write_text("x")
    with pytest.warns(AurevoirWarning) as notes:
        train, test = labelled_parts(tmp_path)
    assert {str(note.message) for note in notes} == {
        f"{tmp_path} has the parts train (4), val (2), test (2): using {part}" for part in ("train", "test")
    }
    assert sorted(path.name for path in train.paths) == ["0a.jpg", "0b.jpg", "1a.jpg", "1b.jpg"]
    assert sorted(path.name for path in test.paths) == ["3a.jpg", "3b.jpg"]
    assert [path.name for path in list_images([tmp_path])] == [f"{k}{name}.jpg" for k in (3, 0, 1, 2) for name in "ab"]
    (tmp_path / "photo.jpg").write_text("x")
    assert list_images([tmp_path]) == [tmp_path / "photo.jpg"]


def test_folders_of_parts_may_hold_archives(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for number in range(2):
            pack(tmp_path / part / f"{number}.tar", *sample(f"{part}{number}", f"class{number}"))
    with pytest.warns(AurevoirWarning) as notes:
        train, test = labelled_parts(tmp_path)
    assert [path.name for path in train.paths] == ["train0.jpg", "train1.jpg"]
    assert [path.name for path in test.paths] == ["test0.jpg", "test1.jpg"]
    assert f"testing on {tmp_path / 'test'}" in {str(note.message) for note in notes}


def test_parts_and_weights_in_json_count(tmp_path):
    rows = [("a", {}), ("b", {"weight": 2.5}), ("c", {"split": "test"}), ("d", {"weight": 0})]
    shard = pack(tmp_path / "s.tar", *(each for key, more in rows for each in sample(key, "x", **more)))
    with pytest.warns(AurevoirWarning, match="1 images of .*s.tar have weight 0 and are left out"):
        train, test = labelled_parts(shard)
    assert ([path.name for path in train.paths], train.weights) == (["a.jpg", "b.jpg"], [1, 2.5])
    assert [path.name for path in test.paths] == ["c.jpg"]


def test_patterns_name_archives_as_a_shell_expands_them(tmp_path):
    for number in range(12):
        pack(tmp_path / f"s-{number:03d}.tar", *sample(f"{number}", f"{number % 2}"))
    pattern = tmp_path / "s-{000..011}.tar"
    assert len(labelled_images(pattern).paths) == len(list_images([str(pattern)])) == 12
    assert Counter(labelled_images(pattern).labels) == {"0": 6, "1": 6}
    assert [path.name for path in list_images([tmp_path / "s-{002..000}.tar"])] == ["2.jpg", "1.jpg", "0.jpg"]
    assert [path.name for path in list_images([tmp_path / "s-0{0,1}{0..1}.tar"])] == [
        f"{k}.jpg" for k in (0, 1, 10, 11)
    ]
    assert [path.name for path in list_images([tmp_path / "{s-001,s-007}.tar"])] == ["1.jpg", "7.jpg"]
    with pytest.raises(UsageError, match=r"s-012.tar, of the pattern .*s-\{010..013\}.tar, is no file"):
        labelled_images(tmp_path / "s-{010..013}.tar")
    for text in ("{0..999999999999999999}", "{0..999}{0..999}"):
        with pytest.raises(UsageError, match="names more than 100,000 files"):
            labelled_images(tmp_path / f"s-{text}.tar")
    pack(tmp_path / "{0..3}.tar", *sample("own", "1"))
    assert [path.name for path in labelled_images(tmp_path / "{0..3}.tar").paths] == ["own.jpg"]


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.tar.zst"])
def test_a_compressed_archive_is_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(UsageError, match="is compressed, and files are read in place; uncompress it"):
        labelled_images(tmp_path / name)


def test_a_missing_archive_is_said_to_be_missing(tmp_path):
    with pytest.raises(UsageError, match="gone.tar does not exist"):
        labelled_images(tmp_path / "gone.tar")
    assert list_images([tmp_path / "gone.tar"], keep_missing=True) == [tmp_path / "gone.tar"]
    with pytest.raises(UsageError, match="gone.tar does not exist"):
        list_images([tmp_path / "gone.tar"])


def test_an_archive_that_tar_writes_of_real_photographs_has_their_classes(data, tmp_path):
    root = data("hymenoptera")
    with tarfile.open(tmp_path / "h.tar", "w") as tar:
        tar.add(root, "hymenoptera")
    with pytest.warns(AurevoirWarning, match=r"train \(244\), val \(153\)"):
        train, test = labelled_parts(tmp_path / "h.tar")
    assert (Counter(train.labels), Counter(test.labels)) == ({"ants": 123, "bees": 121}, {"ants": 70, "bees": 83})
    assert list(tmp_path.iterdir()) == [tmp_path / "h.tar"]
