"""The work folder: ours, locked, bounded; what it has is what was put there, of the same key."""

import errno
import os

import pytest

from aurevoir import kept, limits
from aurevoir.errors import AurevoirWarning, UsageError
from aurevoir.kept import key_of
from aurevoir.work import Work, check_work


def test_what_was_put_is_there_for_its_key_alone(tmp_path):
    with Work(tmp_path / "a" / "work") as work:
        assert work.get("table", key_of(1)) is None
        work.put("table", key_of(1), b"one")
        work.put("bits", key_of(1), b"first", 0)
        work.put("bits", key_of(1), b"second", 1)
    with Work(tmp_path / "a" / "work") as work:
        assert work.get("table", key_of(1)) == b"one"
        assert [work.get("bits", key_of(1), number) for number in range(3)] == [b"first", b"second", None]
        assert work.get("table", key_of(2)) is None


def test_another_key_takes_the_place_of_the_kind_and_of_no_file_of_the_user(tmp_path):
    with Work(tmp_path / "work") as work:
        for number in range(3):
            work.put("bits", key_of(1), b"x", number)
        work.put("table", key_of(1), b"x")
        (tmp_path / "work" / "bits-notes.kept").write_text("mine")
        work.put("bits", key_of(2), b"y", 0)
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert names == {
        "work.json",
        "bits-notes.kept",
        f"table-{key_of(1)}.kept",
        f"bits-{key_of(2)}-000000.kept",
    }


def test_its_size_is_of_what_was_kept_of_some_kinds(tmp_path):
    with Work(tmp_path / "work") as work:
        assert work.size_of("train", "test") == 0
        for number in range(2):
            work.put("train", key_of(1), b"bits", number)
        work.put("engine", key_of(1), b"an engine")
        (tmp_path / "work" / "train-notes.kept").write_text("mine")
        (tmp_path / "work" / "film").write_bytes(bytes(1000))
        each = (tmp_path / "work" / f"train-{key_of(1)}-000000.kept").stat().st_size
        assert work.size_of("train", "test") == 2 * each > 8


def test_a_changed_or_cut_file_is_as_if_it_were_not_there(tmp_path):
    with Work(tmp_path / "work") as work:
        work.put("table", key_of(1), b"content")
        path = tmp_path / "work" / f"table-{key_of(1)}.kept"
        data = path.read_bytes()
        for changed in (data[:-1], data[:-1] + b"x", b"", data[:30]):
            path.write_bytes(changed)
            assert work.get("table", key_of(1)) is None


def test_a_pipe_in_place_of_what_was_kept_is_not_waited_for_nor_a_hole_read(tmp_path):
    with Work(tmp_path / "w") as work:
        work.put("bits", "k" * 64, b"content", 0)
        (kept,) = (tmp_path / "w").glob("*.kept")
        kept.unlink()
        os.mkfifo(kept)
        assert work.get("bits", "k" * 64, 0) is None
    with (tmp_path / "w" / "work.json").open("wb") as marker:
        marker.truncate(1 << 40)
    with pytest.raises(UsageError, match="is not a work folder"), Work(tmp_path / "w"):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path):
    for name, content in (("notes.txt", "mine"), ("work.json", "{}"), ("work.json", '{"schema": "other"}')):
        folder = tmp_path / f"{name}{len(content)}"
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(UsageError, match="holds something and is not a work folder; give an empty folder"):
            check_work(folder)
        assert [path.name for path in folder.iterdir()] == [name]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is not a folder"):
        check_work(tmp_path / "file")


def test_two_at_once_are_refused(tmp_path):
    other = Work(tmp_path / "work")
    with Work(tmp_path / "work"), pytest.raises(UsageError, match="is in use by another fit; give another folder"):
        other.__enter__()
    with Work(tmp_path / "work"):
        pass


def test_a_full_disk_is_noted_once_and_ends_nothing(tmp_path, monkeypatch):
    with Work(tmp_path / "work") as work:
        monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.warns(AurevoirWarning, match="no space left; free some; the fit goes on without its work") as noted:
            work.put("table", key_of(1), b"x")
            work.put("table", key_of(2), b"x")
        assert len(noted) == 1
        assert work.get("table", key_of(1)) is None


def test_the_key_is_that_of_everything(monkeypatch):
    assert key_of(1, "a") == key_of(1, "a")
    assert len({key_of(1), key_of("1"), key_of(1, 2), key_of(None), key_of({"a": 1}), key_of()}) == 6
    before = key_of(1)
    for name, value in (("versions", {"openvino": "0"}), ("processor", "x"), ("variables", {"ONEDNN_X": "1"})):
        changed = kept.environment() | {name: value}
        monkeypatch.setattr(kept, "environment", lambda changed=changed: changed)
        assert key_of(1) != before
        monkeypatch.undo()


def test_the_environment_is_this_machine_s():
    found = kept.environment()
    assert found["versions"]["numpy"]
    assert found["processors"] == (limits.affinity(), limits.processors())
