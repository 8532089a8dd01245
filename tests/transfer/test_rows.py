"""Rows of many images: in memory, or in a file without a name."""

import errno
import os
import pickle
from collections import namedtuple

import numpy as np
import pytest

from aurevoir.errors import SaveError
from aurevoir.transfer import rows as module
from aurevoir.transfer.rows import Rows, fits_memory, is_mapped, joined, picked, require_space

TYPES = {"bits": ((100,), "uint8"), "pooled": ((7,), "float32")}


def _filled(values, n, budget, folder):
    rows = Rows.of({"bits": TYPES["bits"]}, n, budget, folder)["bits"]
    for start in range(0, len(values), 300):
        rows.append(values[start : start + 300])
    return rows.array()


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(0, 256, (1000, 100), dtype="uint8")


def test_a_share_of_the_budget_is_held_in_memory():
    assert fits_memory(TYPES, 1000, 4 * 128_000)
    assert not fits_memory(TYPES, 1001, 4 * 128_000)


@pytest.mark.parametrize("n", [1000, 1400])
@pytest.mark.parametrize("budget", [10**9, 1])
def test_rows_are_those_that_came(values, n, budget, tmp_path):
    found = _filled(values, n, budget, tmp_path)
    np.testing.assert_array_equal(found, values)
    assert type(found) is np.ndarray
    assert is_mapped(found) == is_mapped(found[3:5]) == (budget == 1)
    # The file has no name from the beginning, so that a killed process leaves none.
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)), values)


def test_of_no_image_there_are_no_rows(tmp_path):
    found = {name: rows.array() for name, rows in Rows.of(TYPES, 10, 1, tmp_path).items()}
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "bits": ((0, 100), "uint8"),
        "pooled": ((0, 7), "float32"),
    }


def test_what_is_written_to_an_array_does_not_reach_the_file(values, tmp_path):
    first = _filled(values, 1000, 1, tmp_path)
    first[:] = 0
    np.testing.assert_array_equal(joined(first, values)[:1000], values)


@pytest.mark.parametrize("mapped", [(False, False), (True, False), (False, True), (True, True)])
def test_rows_are_joined_and_picked_where_they_are(values, mapped, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "temporary_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "_BLOCK", 7000)
    parts = [
        _filled(part, 700, 1 if file else 10**9, tmp_path) for part, file in zip((values[:700], values[700:]), mapped)
    ]
    both = joined(*parts)
    np.testing.assert_array_equal(both, values)
    assert is_mapped(both) == any(mapped)
    # Joined again, the first is no longer the end of its file.
    np.testing.assert_array_equal(joined(parts[0], values[:10]), np.concatenate([values[:700], values[:10]]))
    np.testing.assert_array_equal(both, values)
    some = picked(both, np.arange(0, 1000, 3))
    np.testing.assert_array_equal(some, values[::3])
    assert is_mapped(some) == any(mapped)


def test_of_a_file_that_rows_were_added_to_nothing_is_copied(values, tmp_path):
    first = _filled(values, 1000, 1, tmp_path)
    inode = os.fstat(first.base.file.descriptor).st_ino
    both = joined(first, values)
    assert os.fstat(both.base.file.descriptor).st_ino == inode


def test_a_full_disk_is_said_in_one_line(values, tmp_path, monkeypatch):
    written = []

    def pwrite(descriptor, data, offset):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(len(data))
        return os.write(descriptor, data)

    monkeypatch.setattr(module.os, "pwrite", pwrite)
    with pytest.raises(SaveError, match=r"is full, after 58\.6 KiB of the images; free some") as caught:
        _filled(values, 1000, 1, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_space_is_checked_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(3 << 30))
    require_space(tmp_path, 3 << 30, "the images")
    with pytest.raises(
        SaveError, match=r"the images take 4\.0 GiB on the disk of .*, where 3\.0 GiB are free; free some"
    ):
        require_space(tmp_path, 4 << 30, "the images")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SaveError, match="absent cannot be written: no such file"):
        Rows((3,), "uint8", 5, tmp_path / "absent")
