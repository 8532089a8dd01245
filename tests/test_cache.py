"""The cache: bounded, whole or not there, the user's own; and never in the way."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from aurevoir.cache import Cache, cache_folder, clear, contents, fault, size_limit, user_cache, without_cache
from aurevoir.errors import AurevoirWarning, SaveError, UsageError
from aurevoir.kept import key_of

ONE, TWO, THREE = (key_of(number) for number in range(3))


@pytest.fixture
def own(tmp_path):
    return Cache(tmp_path / "own", 1000)


def _put_at(cache, key, content, used):
    cache.put("engine", key, content)
    os.utime(cache.folder / "engine" / key, (used, used))


def test_what_was_put_is_there_for_its_kind_and_key_alone(own):
    assert own.get("engine", ONE) is None
    own.put("engine", ONE, b"one")
    own.put("table", ONE, b"table")
    assert own.get("engine", ONE) == b"one"
    assert own.get("table", ONE) == b"table"
    assert own.get("graph", ONE) is own.get("engine", TWO) is None
    own.put("engine", ONE, b"another")
    assert own.get("engine", ONE) == b"another"
    assert {(each.kind, each.path.name) for each in own.entries()} == {("engine", ONE), ("table", ONE)}


def test_a_changed_entry_is_dropped(own):
    own.put("engine", ONE, b"content")
    path = own.folder / "engine" / ONE
    entry = path.read_bytes()
    for changed in (entry[:-1], entry[:-1] + b"x", entry + b"x", b"", entry[:30], b"x" + entry[1:]):
        path.write_bytes(changed)
        assert own.get("engine", ONE) is None
        assert not path.exists()
    # An entry of another key or kind in its place.
    for name in (f"engine/{TWO}", f"table/{ONE}"):
        (own.folder / name).parent.mkdir(exist_ok=True)
        (own.folder / name).write_bytes(entry)
        assert own.get(*name.split("/")) is None


def test_what_was_not_used_for_longest_goes_first(own):
    for used, key in enumerate((ONE, TWO, THREE)):
        _put_at(own, key, bytes(236), 1000 + used)
    assert own.get("engine", ONE) == bytes(236)
    own.put("table", ONE, bytes(136))
    assert {each.path.name for each in own.entries() if each.kind == "engine"} == {ONE, THREE}
    own.put("graph", TWO, bytes(2000))
    assert sum(each.size for each in own.entries()) == 300 + 300 + 200


def test_no_file_but_its_own_is_deleted(own):
    own.put("engine", ONE, bytes(900))
    (own.folder / "engine" / "notes").write_text("mine")
    (own.folder / "mine").mkdir()
    own.put("engine", TWO, bytes(900))
    (own.folder / "checked-engines").write_text("x")
    (own.folder / "numba" / "kernels_1").mkdir(parents=True)
    (own.folder / "numba" / "kernels_1" / "f-1.py311.nbi").write_text("xy")
    assert [each.kind for each in contents(own.folder)] == ["engine", "numba", "checked-engines"]
    assert len(clear(own.folder)) == 3
    left = sorted(str(path.relative_to(own.folder)) for path in own.folder.rglob("*"))
    assert left == ["engine", "engine/notes", "mine"]
    assert clear(own.folder) == contents(own.folder.parent / "nowhere") == []


def test_a_full_disk_is_noted_once(own, monkeypatch):
    own.put("engine", ONE, b"one")
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.warns(AurevoirWarning, match="no space left; free some; nothing more is kept in the cache") as noted:
        own.put("engine", ONE, b"two")
        own.put("engine", TWO, b"two")
    assert len(noted) == 1
    assert (own.get("engine", ONE), own.get("engine", TWO)) == (b"one", None)
    assert [path.name for path in (own.folder / "engine").iterdir()] == [ONE]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
def test_other_faults_of_the_disk_are_no_word_worth(own, monkeypatch, recwarn, code):
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(code, "fault")))
    own.put("engine", ONE, b"one")
    assert own.get("engine", ONE) is None
    assert not recwarn


def test_there_is_none_where_others_may_write_or_nobody(cache, monkeypatch, tmp_path):
    assert user_cache().folder == cache
    assert cache.stat().st_mode & 0o777 == 0o700
    user_cache().put("engine", ONE, b"one")
    (cache / "engine").chmod(0o770)
    assert user_cache().get("engine", ONE) is None
    (cache / "engine").chmod(0o700)
    assert user_cache().get("engine", ONE) == b"one"
    cache.chmod(0o722)
    assert user_cache() is None
    assert "may be written by others; take that away (chmod go-w)" in fault()
    cache.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: os.getuid() + 1)
        assert "is another user's" in fault()
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").touch()
    assert "cannot be made: not a directory" in fault()
    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is user_cache() is None
    assert fault().startswith("no home folder is known; set AUREVOIR_CACHE")


def test_its_size_is_the_variable_s(cache, monkeypatch):
    assert size_limit() == 2 << 30
    monkeypatch.setenv("AUREVOIR_CACHE_SIZE", "1.5 MB")
    assert user_cache().limit == 1_500_000
    monkeypatch.setenv("AUREVOIR_CACHE_SIZE", "0")
    assert user_cache() is None
    assert fault() == "AUREVOIR_CACHE_SIZE is 0"
    for wrong in ("much", "-1", "1e30", "99999999999GiB"):
        monkeypatch.setenv("AUREVOIR_CACHE_SIZE", wrong)
        with pytest.raises(UsageError, match="is invalid; give a number of bytes, for example '2GiB', or 0"):
            size_limit()
    with without_cache():
        assert user_cache() is None


def test_many_writers_and_readers_see_whole_entries(own):
    own.limit, wrong = 1 << 20, []
    texts = [bytes([number]) * 20_000 for number in range(4)]

    def work(content):
        for _ in range(10):
            own.put("engine", ONE, content)
            if own.get("engine", ONE) not in texts:
                wrong.append(content)

    threads = [threading.Thread(target=work, args=(content,)) for content in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [path.name for path in (own.folder / "engine").iterdir()] == [ONE]


def test_a_killed_writer_leaves_nothing_that_counts(own):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nimport aurevoir.saving\n"
        "aurevoir.saving.renameat2 = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from aurevoir.cache import Cache\n"
        f"Cache(Path({str(own.folder)!r})).put('engine', {ONE!r}, bytes(1000))\n"
    )

    def write_and_be_killed():
        done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
        assert done.returncode == -signal.SIGKILL

    write_and_be_killed()
    assert own.get("engine", ONE) is None
    assert own.entries() == []
    assert list((own.folder / "engine").iterdir()) != []
    assert clear(own.folder) == []
    assert not (own.folder / "engine").exists()
    write_and_be_killed()
    own.put("engine", TWO, b"two")
    assert [path.name for path in (own.folder / "engine").iterdir()] == [TWO]


def test_what_numba_was_writing_when_it_was_killed_is_cleared(own):
    place = own.folder / "numba" / "products_1"
    place.mkdir(parents=True)
    for name in ("f-1.py311.1.nbc", "f-1.py311.1.nbc.tmp.72d3125f1c504d0d", "f-1.py311.nbi.tmp.0123abcd"):
        (place / name).write_bytes(b"1")
    (place / "notes.txt").write_text("mine")
    assert len(clear(own.folder)) == 3
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


def test_a_writer_whose_folder_is_cleared_goes_on_with_the_next_entry(own, monkeypatch):
    monkeypatch.setattr("aurevoir.saving._require_space", lambda *_: clear(own.folder))
    own.put("engine", ONE, b"one")
    assert own.get("engine", ONE) is None
    monkeypatch.undo()
    own.put("engine", TWO, b"two")
    assert own.get("engine", TWO) == b"two"


def test_a_folder_that_may_not_be_read_is_said_before_anything_is_deleted(own, monkeypatch):
    own.put("engine", ONE, b"one")
    own.put("table", TWO, b"two")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path).endswith("table") is False and access(path, mode))
    with pytest.raises(SaveError, match=r"table may not be read or written, and nothing was deleted; allow it \(chmod"):
        clear(own.folder)
    monkeypatch.undo()
    assert own.get("engine", ONE) == b"one"


def test_the_package_s_own_code_is_part_of_every_key(tmp_path, monkeypatch):
    from aurevoir import kept

    monkeypatch.setattr(kept, "__file__", str(tmp_path / "kept.py"))
    (tmp_path / "engine" / "runtimes").mkdir(parents=True)
    seen = {kept._sources()}
    for name in ("a.py", "engine/b.py", "engine/runtimes/c.py"):
        (tmp_path / name).write_text("1")
        seen.add(kept._sources())
        (tmp_path / name).write_text("2")
        seen.add(kept._sources())
    assert len(seen) == 7
