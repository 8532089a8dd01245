"""Folders of more images than there are files."""

import hashlib

import pytest

from aurevoir.benchmarks.harness.repeated import repeated
from aurevoir.errors import UsageError
from aurevoir.images.sources import class_folders
from aurevoir.transfer.evaluate import split


@pytest.fixture
def parts(class_folder):
    return split(class_folders(class_folder), 0)


def digests(folder, part):
    files = (path for path in (folder / part).rglob("*") if path.is_file())
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


@pytest.mark.parametrize("crops", [False, True])
def test_a_fifth_are_test_images_and_the_folder_goes_afterwards(parts, tmp_path, crops):
    with repeated(parts, 100, tmp_path, crops) as folder:
        trained, tested = digests(folder, "train"), digests(folder, "test")
        assert (len(trained), len(tested)) == (80, 20)
        assert not set(trained) & set(tested)
        distinct = len(set(trained)), len(set(tested))
        assert distinct == ((80, 20) if crops else (len(parts[0].paths), len(parts[1].paths)))
        labels = class_folders(folder / "train").labels
        assert sorted(set(labels)) == sorted(parts[0].names)
    assert not folder.exists()


def test_crops_are_the_same_every_time(parts, tmp_path):
    found = []
    for _ in range(2):
        with repeated(parts, 60, tmp_path, crops=True) as folder:
            found.append(sorted(digests(folder, "train")))
    assert found[0] == found[1]


def test_less_than_an_image_a_class_is_refused(parts, tmp_path):
    with pytest.raises(UsageError, match="too few for 3 classes"), repeated(parts, 10, tmp_path):
        pass
