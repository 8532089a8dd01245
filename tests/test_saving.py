"""Files and folders are the old or the new, whole, after a fault at any call; what is not ours stays."""

import errno
import fcntl
import json
import os
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from aurevoir import saving
from aurevoir.errors import AurevoirError, SaveError, UsageError
from aurevoir.saving import (
    FolderKind,
    recover,
    replacing_only,
    require_file_target,
    require_folder_target,
    scratch,
    write_atomically,
    write_folder,
)

KIND = FolderKind("test folder", frozenset({"a", "b", "c"}), lambda folder: (folder / "a").is_file())
OLD, NEW = {"a": b"old", "b": b"o" * 5000}, {"a": b"new", "c": b"n" * 7000}
CALLS = ("mkdir", "open", "write", "fsync", "rename", "link", "unlink", "rmdir", "chmod", "listdir", "stat")


class Killed(BaseException):
    """The process is dead: no handler of it does anything more."""


class Faults:
    """Counts the calls of a save to the system, and lets one fail."""

    def __init__(self, monkeypatch, number=None, how=None, exchange=True):
        self.count, self.number, self.how, self.dead = 0, number, how, False
        for name in CALLS:
            monkeypatch.setattr(f"os.{name}", self._wrapped(getattr(os, name)))
        monkeypatch.setattr("fcntl.flock", self._wrapped(fcntl.flock))
        monkeypatch.setattr(saving, "renameat2", self._wrapped(saving.renameat2 if exchange else _no_exchange))

    def _wrapped(self, function):
        def call(*arguments, **options):
            if self.dead:
                raise Killed
            self.count += 1
            if self.count != self.number:
                return function(*arguments, **options)
            if isinstance(self.how, int):
                raise OSError(self.how, os.strerror(self.how))
            if self.how == "kill before":
                self.dead = True
                raise Killed
            result = function(*arguments, **options)
            self.dead = self.how == "kill after"
            del result
            raise Killed if self.dead else KeyboardInterrupt

        return call


def _no_exchange(*_):
    raise OSError(errno.EINVAL, "no exchange here")


def _save(target, content):
    if isinstance(content, dict):
        write_folder(target, content, KIND)
    else:
        write_atomically(target, content)


def _content(target):
    if target.is_dir():
        return {path.name: path.read_bytes() for path in target.iterdir()}
    return target.read_bytes() if target.exists() else None


def _remove(target):
    for path in [*target.glob("*"), target] if target.is_dir() else [target]:
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture(params=["file", "new file", "folder", "new folder"])
def contents(request):
    """What is there before, and what is written."""
    old, new = (OLD, NEW) if "folder" in request.param else (b"old" * 2000, b"new" * 3000)
    return (None if "new" in request.param else old), new


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("how", ["kill before", "kill after", "interrupt", errno.ENOSPC, errno.EIO])
def test_a_fault_at_any_call_leaves_the_old_or_the_new(contents, how, exchange, tmp_path, monkeypatch):
    old, new = contents
    target, number, seen = tmp_path / "made" / "target", 0, set()
    while True:
        number += 1
        if old is not None:
            _save(target, old)
        with monkeypatch.context() as patch:
            faults = Faults(patch, number, how, exchange)
            failed = None
            try:
                _save(target, new)
            except (Killed, KeyboardInterrupt, SaveError) as error:
                failed = error
        recover(target)
        found = _content(target)
        assert found in (old, new), (number, failed)
        if isinstance(failed, SaveError):
            assert exchange is False or found == old, (number, failed)
            assert "\n" not in str(failed)
        if failed is None:
            assert found == new
        seen.add(found == new)
        _save(target, new)
        assert _content(target) == new
        assert [path.name for path in target.parent.iterdir()] == ["target"], number
        if faults.count < number:
            break
        _remove(target)
        target.parent.rmdir()
    assert number > 20
    assert seen == {True, False}


def test_the_moment_without_a_model_where_nothing_exchanges_is_recovered_from(tmp_path, monkeypatch):
    write_folder(tmp_path / "target", OLD, KIND)
    missing = 0
    for number in range(1, 80):
        with monkeypatch.context() as patch, suppress(Killed):
            Faults(patch, number, "kill after", exchange=False)
            write_folder(tmp_path / "target", NEW, KIND)
        missing += not (tmp_path / "target").exists()
        recover(tmp_path / "target")
        assert _content(tmp_path / "target") in (OLD, NEW)
        write_folder(tmp_path / "target", OLD, KIND)
    assert missing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_atomically(tmp_path / "e.engine", b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "e.engine", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "e.engine"]
    assert (tmp_path / "e.engine").read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_an_error_is_one_line_with_a_remedy(number, tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    remedy = "free some" if number in (errno.ENOSPC, errno.EDQUOT) else "choose another path"
    with pytest.raises(SaveError, match=f"file cannot be written: {os.strerror(number).lower()}; {remedy}"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("call", ["mkdir", "unlink", "rmdir"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_where_a_save_begins_or_cleans_leaves_nothing(call, when, tmp_path, monkeypatch):
    """Those calls are the last ones that would tell nobody of the folder."""
    real, calls = getattr(os, call), []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1 and when == "before":
            raise KeyboardInterrupt
        real(*arguments, **options)
        if len(calls) == 1:
            raise KeyboardInterrupt

    (tmp_path / "f").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == (b"old" if call == "mkdir" else b"new")


def test_a_size_beyond_the_free_space_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"total": 10**6, "free": 10}))
    with pytest.raises(SaveError, match="100 bytes are needed, and 10 are free; free some"):
        write_atomically(tmp_path / "file", bytes(100))
    assert _content(tmp_path / "file") == b"old"


def test_parts_are_written_as_they_come_and_none_of_them_where_one_is_missing(tmp_path):
    def parts(fails):
        yield b"first"
        staged = [path for path in tmp_path.rglob("new")]
        assert [path.read_bytes() for path in staged] == [b"first"]
        if fails:
            raise KeyboardInterrupt
        yield b"second"

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", parts(True))
    assert list(tmp_path.iterdir()) == []
    write_atomically(tmp_path / "file", parts(False))
    assert (tmp_path / "file").read_bytes() == b"firstsecond"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_everything_is_flushed_before_and_after_it_is_placed(tmp_path, monkeypatch):
    write_folder(tmp_path / "target", OLD, KIND)
    done = []
    fsync, exchange = os.fsync, saving.renameat2
    monkeypatch.setattr("os.fsync", lambda fd: (done.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    monkeypatch.setattr(saving, "renameat2", lambda *given: (done.append("exchange"), exchange(*given)))
    write_folder(tmp_path / "target", NEW, KIND)
    before = [Path(path).name for path in done[: done.index("exchange")]]
    assert before[:4] == ["journal", "a", "c", "new"]
    assert str(tmp_path) in done[done.index("exchange") :]


def test_a_link_is_followed_when_it_is_written_to(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store" / "file")
    write_atomically(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "store" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_stays_and_its_folder_is_replaced(there, tmp_path):
    (tmp_path / "store").mkdir()
    if there:
        write_folder(tmp_path / "store" / "target", OLD, KIND)
    (tmp_path / "link").symlink_to("store/target")
    require_folder_target(tmp_path / "link", KIND)
    write_folder(tmp_path / "link", NEW, KIND)
    assert (tmp_path / "link").is_symlink()
    assert _content(tmp_path / "store" / "target") == NEW


def test_a_link_to_a_file_and_one_to_itself_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="link exists and is not a test folder"):
        require_folder_target(tmp_path / "link", KIND)
    for check in (require_file_target, lambda path: require_folder_target(path, KIND)):
        with pytest.raises(UsageError, match="loop is a link that leads to itself"):
            check(tmp_path / "loop")


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    require_file_target(tmp_path / ("x" * 255))
    write_atomically(tmp_path / ("x" * 255), b"x")
    for path in (tmp_path / ("x" * 256), tmp_path / "a" / ("x" * 256) / "b", tmp_path / "/".join(["x" * 200] * 21)):
        with pytest.raises(UsageError, match="cannot be written: file name too long"):
            require_file_target(path)
        with pytest.raises(UsageError, match="cannot be written: file name too long"):
            require_folder_target(path, KIND)


def test_a_target_in_folders_that_do_not_exist_yet_is_fine_and_leaves_nothing(tmp_path):
    require_file_target(tmp_path / "a" / "b" / "c")
    require_folder_target(tmp_path / "a" / "b" / "c", KIND)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/a/b cannot be written: .*file is not a folder"):
        require_file_target(tmp_path / "file" / "a" / "b")
    with pytest.raises(UsageError, match="is a folder; give the name of a file"):
        require_file_target(tmp_path)
    with pytest.raises(UsageError, match="names a folder; give the name of a file"):
        require_file_target(f"{tmp_path}/name/")
    with pytest.raises(UsageError, match="/dev/null is not a regular file"):
        require_file_target("/dev/null")
    require_file_target(tmp_path / "file")


@pytest.mark.parametrize("path", ["/", "..", ".", "a\0b", "\ud800"])
def test_names_that_are_no_targets_are_refused_before_the_work(path, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for check in (require_file_target, lambda each: require_folder_target(each, KIND)):
        with pytest.raises(UsageError) as caught:
            check(path)
        assert str(caught.value).isprintable()


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch):
    write_folder(tmp_path / "target", OLD, KIND)
    monkeypatch.chdir(tmp_path / "target")
    for path in (".", tmp_path / "target", "../target/"):
        with pytest.raises(UsageError, match="is the working directory, which cannot be replaced; give a name in it"):
            require_folder_target(path, KIND)
        with pytest.raises(UsageError, match="is the working directory"):
            write_folder(path, NEW, KIND)
    assert _content(tmp_path / "target") == OLD


def test_a_deleted_working_directory_refuses_relative_names_alone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="working directory, which has been deleted; change to another"):
        require_file_target("name")
    require_file_target(tmp_path / "name")
    require_folder_target(tmp_path / "name", KIND)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_read_only_is_refused(tmp_path):
    (tmp_path / "file").touch(0o444)
    with pytest.raises(UsageError, match="file is read-only"):
        require_file_target(tmp_path / "file")


def test_a_mount_point_is_refused(tmp_path, monkeypatch):
    for name in ("file", "folder"):
        target = tmp_path / f"{name} of a host"
        target.touch() if name == "file" else target.mkdir()
        line = f"1 2 8:1 / {target} rw - ext4 /dev/sda rw\n".replace(" of a host", r"\040of\040a\040host")
        monkeypatch.setattr("pathlib.Path.read_bytes", lambda _, line=line: line.encode())
        check = require_file_target if name == "file" else lambda path: require_folder_target(path, KIND)
        with pytest.raises(UsageError, match="is a mount point, which cannot be replaced"):
            check(target)
        monkeypatch.undo()
        check(target)


def test_permissions_are_those_of_what_is_replaced_or_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x")
        write_folder(tmp_path / "target", OLD, KIND)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o750
    (tmp_path / "file").chmod(0o600)
    write_atomically(tmp_path / "file", b"y")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def _foreign(target, what):
    if what == "file":
        (target / "notes.txt").write_text("mine")
    elif what == "folder":
        (target / "b").unlink(missing_ok=True)
        (target / "b").mkdir()
        (target / "b" / "photo.jpg").write_text("mine")
    else:
        (target / "c").symlink_to("a")
    return {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_a_folder_that_holds_something_else_is_refused_and_stays(what, tmp_path):
    write_folder(tmp_path / "target", OLD, KIND)
    before = _foreign(tmp_path / "target", what)
    for save in (
        lambda: require_folder_target(tmp_path / "target", KIND),
        lambda: write_folder(tmp_path / "target", NEW, KIND),
    ):
        with pytest.raises(UsageError, match=r"is a test folder that also holds (notes.txt|b|c), which would be lost"):
            save()
    assert {path: path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_comes_into_a_folder_after_the_check_stays_too(what, exchange, tmp_path, monkeypatch):
    target = tmp_path / "target"
    write_folder(target, OLD, KIND)
    if not exchange:
        monkeypatch.setattr(saving, "renameat2", _no_exchange)
    save = saving._save
    monkeypatch.setattr(saving, "_save", lambda *given: (before.update(_foreign(target, what)), save(*given)))
    before = {}
    with pytest.raises(SaveError, match="target now holds what is not part of it, and is left as it is"):
        write_folder(target, NEW, KIND)
    assert before
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [target]


def _arrives(target, what):
    """Let something of another program come to a place; return all of it."""
    if what in ("file", "model file"):
        target.write_bytes(b"mine")
    elif what == "folder of our names":
        target.mkdir()
        (target / "b").write_bytes(b"mine")
    elif what == "empty folder":
        target.mkdir()
    elif what == "link":
        (target.parent / "mine").write_bytes(b"mine")
        target.symlink_to("mine")
    else:
        os.mkfifo(target)
    return _state(target)


def _state(target):
    parts = [target, *target.rglob("*")] if target.is_dir() else [target]
    return {path.name: (stat.S_IFMT(path.lstat().st_mode), path.is_file() and path.read_bytes()) for path in parts}


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("when", ["before the check", "behind the check"])
@pytest.mark.parametrize(
    ("new", "what"),
    [(b"new", each) for each in ("file", "folder of our names", "empty folder", "link", "fifo")]
    + [(NEW, each) for each in ("file", "folder of our names", "link", "fifo")],
)
def test_what_comes_to_a_target_that_was_free_stays(new, what, when, exchange, tmp_path, monkeypatch):
    target, came = tmp_path / "target", {}
    if when == "behind the check":
        exists = saving._exists
        monkeypatch.setattr(
            saving,
            "_exists",
            lambda folder, name: (
                exists(folder, name) or bool(name == "target" and not came and came.update(_arrives(target, what)))
            ),
        )
    else:
        save = saving._save
        monkeypatch.setattr(saving, "_save", lambda *given: (came.update(_arrives(target, what)), save(*given)))
    if not exchange:
        monkeypatch.setattr(saving, "renameat2", _no_exchange)
    with replacing_only(lambda head: head == b"old"), pytest.raises(SaveError, match=str(target)) as caught:
        _save(target, new)
    assert "\n" not in str(caught.value)
    assert came
    assert _state(target) == came
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "target"][what != "link" :]


@pytest.mark.parametrize("new", [b"new", NEW], ids=["file", "folder"])
def test_what_comes_between_the_check_and_the_exchange_is_put_back(new, tmp_path, monkeypatch):
    target, exchange, came = tmp_path / "target", saving.renameat2, {}
    _save(target, b"old" if isinstance(new, bytes) else OLD)

    def late(*given):
        if not came:
            _remove(target)
            came.update(_arrives(target, "folder of our names" if isinstance(new, dict) else "file"))
        exchange(*given)

    monkeypatch.setattr(saving, "renameat2", late)
    with replacing_only(lambda head: head == b"old"), pytest.raises(SaveError, match="and is left as it is"):
        _save(target, new)
    assert _state(target) == came
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("interrupt", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_what_cannot_be_put_back_is_kept_under_a_name_that_is_told(interrupt, tmp_path, monkeypatch):
    target, exchange, calls = tmp_path / "target", saving.renameat2, []
    target.write_bytes(b"old")

    def once(*given):
        calls.append(given)
        if len(calls) > 1:
            raise interrupt
        target.write_bytes(b"mine")
        exchange(*given)

    monkeypatch.setattr(saving, "renameat2", once)
    with replacing_only(lambda head: head == b"old"), pytest.raises((SaveError, KeyboardInterrupt)) as caught:
        write_atomically(target, b"new")
    kept = next(tmp_path.glob(".aurevoir-*/kept"))
    assert kept.read_bytes() == b"mine"
    if isinstance(caught.value, SaveError):
        assert str(caught.value) == f"{target} is the new one; what was there is {kept} now"
    monkeypatch.undo()
    write_atomically(tmp_path / "other", b"x")
    assert kept.read_bytes() == b"mine"


def test_saves_in_a_block_replace_empty_files_and_those_that_pass(tmp_path):
    target = tmp_path / "target"
    with replacing_only(lambda head: head.startswith(b"old")):
        for before in (None, b"", b"old and so on"):
            if before is not None:
                target.write_bytes(before)
            write_atomically(target, b"new")
            assert target.read_bytes() == b"new"
        with pytest.raises(SaveError, match="is another file, and is left as it is"):
            write_atomically(target, b"newer")
    write_atomically(target, b"newest")
    assert target.read_bytes() == b"newest"


def _leftover(folder, journal=True, digits="0" * 16, **parts):
    left = folder / f".aurevoir-{digits}"
    left.mkdir()
    if journal:
        described = {"schema": "aurevoir-save/1", "target": "target", "files": ["a", "b"]}
        (left / "journal").write_text(json.dumps(described) if journal is True else journal)
    for name, names in parts.items():
        (left / name).mkdir()
        for each in names:
            (left / name / each).write_text("x")
    return left


def test_what_killed_saves_left_is_cleaned_by_the_next(tmp_path):
    left = [
        _leftover(tmp_path, new=["a", "b"]),
        _leftover(tmp_path, digits="1" * 16, new=[]),
        _leftover(tmp_path, journal=False, digits="2" * 16),
        _leftover(tmp_path, journal='{"schem', digits="3" * 16),
    ]
    write_atomically(tmp_path / "other", b"x")
    assert not any(path.exists() for path in left)


def test_what_is_not_surely_a_killed_save_s_is_left_alone(tmp_path):
    left = [
        _leftover(tmp_path, new=["a", "notes.txt"]),
        _leftover(tmp_path, digits="1" * 16, new=["a"], more=[]),
        _leftover(tmp_path, journal=False, digits="2" * 16, new=["a"]),
        _leftover(tmp_path, journal='{"schem', digits="3" * 16, new=["a"]),
        _leftover(tmp_path, digits="4" * 15, new=["a"]),
        _leftover(tmp_path, digits="notes", new=["a"]),
        _leftover(tmp_path, journal='{"schema": "aurevoir-save/1", "target": "../x"}', digits="5" * 16, new=[]),
        _leftover(tmp_path, journal="[" * 60000, digits="6" * 16, new=[]),
    ]
    (tmp_path / f".aurevoir-{'7' * 16}").symlink_to(_leftover(tmp_path, digits="kept", new=["a"]))
    before = {path: _content(path / "new") for path in left if (path / "new").exists()}
    write_atomically(tmp_path / "other", b"x")
    assert {path: _content(path / "new") for path in left if (path / "new").exists()} == before
    assert (tmp_path / f".aurevoir-{'7' * 16}" / "new" / "a").exists()


def test_what_a_living_process_works_on_is_left_alone(tmp_path):
    left = _leftover(tmp_path, new=["a"])
    with (left / "journal").open("r+") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        write_atomically(tmp_path / "other", b"x")
        assert (left / "new" / "a").exists()
    write_atomically(tmp_path / "other", b"x")
    assert not left.exists()


def test_a_folder_that_was_moved_away_is_put_back(tmp_path):
    left = _leftover(tmp_path, old=["a"], new=["a"])
    recover(tmp_path / "other")
    assert left.exists()
    recover(tmp_path / "target")
    assert _content(tmp_path / "target") == {"a": b"x"}
    assert not left.exists()


def test_saves_to_one_target_at_once_leave_one_of_them_whole_and_readers_see_no_other(tmp_path):
    target, wrong, done = tmp_path / "target", [], threading.Event()
    versions = [{"a": bytes([each]) * 3000, "b": bytes([each]) * 3000} for each in range(4)]
    write_atomically(tmp_path / "file", versions[0]["a"])

    def save(version):
        for _ in range(40):
            write_folder(target, version, KIND)
            write_atomically(tmp_path / "file", version["a"])

    def read():
        while not done.is_set():
            found = (tmp_path / "file").read_bytes()
            wrong.extend([found] if {"a": found, "b": found} not in versions else [])

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(save, version) for version in versions]:
            writer.result()
        done.set()
        reader.result()
    assert _content(target) in versions
    assert not wrong
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "target"]


def test_a_scratch_folder_goes_with_its_block_and_a_killed_one_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(OSError, match="of the block"), scratch("a") as folder:
        (folder / "a").touch()
        raise OSError("of the block")
    assert not list(tmp_path.iterdir())
    pid = os.fork()
    if not pid:
        with scratch("a") as folder:
            (folder / "a").touch()
            os._exit(0)
    os.waitpid(pid, 0)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch("b"):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_no_space_in_a_check_is_no_error_of_usage(tmp_path, monkeypatch):
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(AurevoirError, match="no space left on device; free some") as caught:
        require_file_target(tmp_path / "file")
    assert not isinstance(caught.value, UsageError)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux exchanges folders")
def test_linux_exchanges(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    folder = os.open(tmp_path, os.O_RDONLY)
    saving.renameat2(folder, "a", folder, "b", saving._EXCHANGE)
    os.close(folder)
    assert (tmp_path / "a").read_text() == "b"


def test_a_temporary_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "missing"))
    with pytest.raises(SaveError, match=r"temporary folder \(TMPDIR\) cannot be written: no such file"), scratch("a"):
        pass
