"""Files in tar archives, read in place, and archives that are damaged or mean harm."""

import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tar_files import header, pack, records, summed

from aurevoir.errors import AurevoirError, AurevoirWarning, DataError
from aurevoir.images import archives
from aurevoir.images.archives import (
    content_digest,
    exists,
    is_archive,
    is_file,
    member_of,
    members,
    open_file,
    signature,
)
from aurevoir.images.batches import ImageFiles
from aurevoir.images.decode import UnreadableImageError, decode
from aurevoir.images.duplicates import conflicting_labels, shared_files
from aurevoir.images.labelled import list_images


@pytest.fixture
def photographs(data):
    return sorted(data("caltech10").rglob("*.jpg"))[::40]


def test_photographs_are_decoded_as_those_in_files_by_threads_at_once(photographs, tmp_path):
    given = [
        (f"{index // 10}/{path.parent.name}-{path.name}", path.read_bytes()) for index, path in enumerate(photographs)
    ]
    shard = pack(tmp_path / "shard.tar", *given)
    inside = list_images([shard])
    assert [str(path) for path in inside] == [f"{shard}/{name}" for name, _ in given]
    for _ in range(2):
        found = list(ImageFiles(inside, (96, 96), workers=8).batches(4))
        wanted = list(ImageFiles(photographs, (96, 96), workers=8).batches(4))
        for (indices, pixels), (same, others) in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(indices, same)
            np.testing.assert_array_equal(pixels, others)
    assert not list(tmp_path.glob("[!s]*"))


def test_a_member_can_be_sought_and_read_like_a_file(tmp_path):
    content = np.random.default_rng(0).bytes(100_000)
    shard = pack(tmp_path / "s.tar", ("x", b"123"), ("d/y.bin", content), ("z", b"456"))
    with open_file(shard / "d" / "y.bin") as file, open_file(shard / "x") as other:
        assert file.read(10) == content[:10]
        assert other.read() == b"123"
        assert (file.seek(-5, os.SEEK_END), file.read()) == (99_995, content[-5:])
        assert (file.seek(7), file.seek(3, os.SEEK_CUR), file.read(4)) == (7, 10, content[10:14])
        assert (file.seek(200_000), file.read()) == (200_000, b"")
        with pytest.raises(ValueError, match="before the first byte"):
            file.raw.seek(-1)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: open_file(f"{shard}//d/./y.bin").read(), range(64))) == {content}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_every_form(tmp_path, form):
    names = ["./a.jpg", "caf\udce9.jpg", "ü/b.jpg"] + (
        [] if form == tarfile.USTAR_FORMAT else [f"{'l' * 200}/{'n' * 200}.jpg"]
    )
    shard = pack(tmp_path / "s.TAR", *((name, name.encode("utf-8", "surrogateescape")) for name in names), form=form)
    assert [each.name for each in members(shard)] == [name.removeprefix("./") for name in names]
    for name in names:
        assert open_file(f"{shard}/{name}").read() == name.encode("utf-8", "surrogateescape")


def test_links_devices_and_names_that_lead_outside_are_no_files(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    entries = [(header(f"{kind.decode()}.jpg", 0, kind, linkname="../secret.jpg"), b"") for kind in kinds]
    names = ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", ".."]
    shard = pack(tmp_path / "s.tar", *entries, *((name, b"abc") for name in names), ("a/b.jpg", b"abc"))
    with pytest.warns(AurevoirWarning, match="4 files of .*s.tar have names that lead out of it, first '/etc/passwd'"):
        assert [each.name for each in members(shard)] == ["a/b.jpg"]
    for name in (*names, *(f"{kind.decode()}.jpg" for kind in kinds)):
        assert not exists(f"{shard}/{name}")
        with pytest.raises(UnreadableImageError, match=r"holds no file"):
            decode(f"{shard}/{name}", (8, 8))


def test_of_several_files_of_one_name_the_last_counts(tmp_path):
    shard = pack(tmp_path / "s.tar", ("a", b"1"), ("b", b"2"), ("./a", b"33"))
    assert {each.name: each.size for each in members(shard)} == {"a": 2, "b": 1}
    assert open_file(shard / "a").read() == b"33"


def test_what_ends_in_tar_and_is_no_archive_of_files(tmp_path):
    (tmp_path / "f.tar").mkdir()
    (tmp_path / "f.tar" / "x.jpg").write_bytes(b"abc")
    assert not is_archive(tmp_path / "f.tar")
    assert member_of(tmp_path / "f.tar" / "x.jpg") is None
    assert open_file(tmp_path / "f.tar" / "x.jpg").read() == b"abc"
    shard = pack(tmp_path / "s.tar", ("in.tar/y.jpg", b"def"), ("z.tar", b"ghi"))
    assert open_file(shard / "in.tar" / "y.jpg").read() == b"def"
    assert open_file(shard / "z.tar").read() == b"ghi"
    os.mkfifo(tmp_path / "p.tar")
    assert not is_archive(tmp_path / "p.tar")
    assert not exists(tmp_path / "p.tar" / "x.jpg")
    with pytest.raises(DataError, match=r"p.tar is not a file"):
        members(tmp_path / "p.tar")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"", "empty file"),
        (lambda content: b"\x1f\x8b" + content, "not an uncompressed tar archive"),
        (lambda content: content[:1500], "ends behind the archive"),
        (lambda content: content[:3072] + b"x" * 512 + content[3584:], "no header at byte"),
        (lambda content: content[:300], "truncated header"),
        (lambda content: content[:1000], "ends behind the archive"),
        (lambda content: content[:1636], "truncated header"),
        (lambda content: content[:124] + b"\xff" * 12 + content[136:], "no header at byte"),
        (lambda content: summed(content[:124] + b"\xff" * 12 + content[136:512]) + content[512:], "no size in"),
        (lambda content: summed(content[:124] + b"12x4\0".ljust(12) + content[136:512]) + content[512:], "no size in"),
    ],
)
def test_a_damaged_archive_is_refused_in_one_line(tmp_path, spoil, message):
    shard = pack(tmp_path / "s.tar", *((f"{k}.jpg", b"x" * 600) for k in range(4)), form=tarfile.USTAR_FORMAT)
    shard.write_bytes(spoil(shard.read_bytes()[:6144]))
    with pytest.raises(DataError, match=message) as caught:
        members(shard)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImageError, match="s.tar"):
        decode(shard / "0.jpg", (8, 8))


def test_headers_that_ask_for_more_than_they_may_are_refused_before_it_is_read(tmp_path):
    def refused(*infos, size=1 << 40):
        with (tmp_path / "s.tar").open("wb") as file:
            file.writelines(info.tobuf(tarfile.GNU_FORMAT) for info in infos)
            file.truncate(size)
        with pytest.raises(DataError, match="not an uncompressed tar archive, or it is damaged"):
            members(tmp_path / "s.tar")

    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        refused(header(size=1 << 39, kind=kind))
    refused(header(size=1 << 41))
    refused(header(size=-512), size=1 << 20)
    refused(*[header(size=0, kind=tarfile.GNUTYPE_LONGNAME)] * 3000, size=1 << 22)


def test_records_are_taken_whole_or_refused(tmp_path):
    def found(data, kind=tarfile.XHDTYPE, name="a"):
        shard = pack(tmp_path / "s.tar", (header("pax", len(data), kind), data), (name, b"abc"))
        return [(each.name, each.size) for each in members(shard)]

    assert found(records(path="ü/" * 90 + "b", size="3", mtime="nan") + bytes(9)) == [("ü/" * 90 + "b", 3)]
    assert found(records(path="b"), tarfile.XGLTYPE) == [("a", 3)]
    assert found(b"b\0c", tarfile.GNUTYPE_LONGNAME) == [("b", 3)]
    assert found(b"b", tarfile.GNUTYPE_LONGLINK) == [("a", 3)]
    assert found(b"", name="folder/") == []
    assert found(records(**{"GNU.sparse.major": "1"})) == []
    # What searches these for its end takes minutes.
    for damaged in (b"9" * 1_000_000, b"0 a=b\n", b"6 ab\n\n", b"5 a=b\n", b"99 a=b\n", b" 6 a=b\n", b"a=b\n"):
        with pytest.raises(DataError, match="no record at byte 512"):
            found(damaged)
    for size in ("-512", "nan", "1e3", "9" * 5000, ""):
        with pytest.raises(DataError, match="no size in the records before byte"):
            found(records(size=size))
    with pytest.raises(DataError, match="ends behind the archive"):
        found(records(size="9" * 19))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_those_that_tarfile_finds(tmp_path, form):
    random = np.random.default_rng(0)
    names = [f"d{'d' * int(random.integers(60))}/{'é' * int(random.integers(30))}{index}" for index in range(40)]
    entries = [(name, random.bytes(int(random.choice([0, 1, 511, 512, 513, 3000])))) for name in names]
    shard = pack(tmp_path / "s.tar", *entries, (header("link", 0, tarfile.SYMTYPE, linkname="x"), b""), form=form)
    with tarfile.open(shard) as tar:
        wanted = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert [(each.name, each.offset, each.size) for each in members(shard)] == wanted


def test_blocks_of_a_map_of_holes_are_passed_over(tmp_path):
    old = bytearray(header("holes", 3, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    old[482] = 1
    more = [bytes(504) + bytes([follows]) + bytes(7) for follows in (1, 0)]
    pack(tmp_path / "s.tar", ("a", b"abc"))
    content = summed(bytes(old)) + b"".join(more) + b"xyz".ljust(512, b"\0") + (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(content)
    assert [each.name for each in members(tmp_path / "s.tar")] == ["a"]
    (tmp_path / "s.tar").write_bytes(content[:1024])
    with pytest.raises(DataError, match="ends behind the archive"):
        members(tmp_path / "s.tar")


def test_a_changed_archive_is_read_anew_and_indices_that_are_not_used_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MOST", 5)
    monkeypatch.setattr(archives, "_INDICES", type(archives._INDICES)())
    shards = [pack(tmp_path / f"{k}.tar", *((f"{j}", bytes([k, j])) for j in range(2))) for k in range(5)]
    for _ in range(2):
        for k, shard in enumerate(shards):
            assert open_file(shard / "1").read() == bytes([k, 1])
            assert sum(len(each.keys) for each in archives._INDICES.values()) <= 5
    pack(shards[0], ("1", b"new"), ("2", b"two"))
    assert open_file(shards[0] / "1").read() == b"new"
    assert not is_file(shards[0] / "0")


def test_a_member_has_the_digest_of_its_bytes_and_a_signature_that_changes_with_its_archive(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc" * 9000)
    shard = pack(tmp_path / "s.tar", ("a.jpg", b"abc" * 9000), ("b.jpg", b"abd" * 9000))
    assert content_digest(shard / "a.jpg") == content_digest(tmp_path / "a.jpg") != content_digest(shard / "b.jpg")
    before = signature(shard / "a.jpg")
    assert before[0] == 27_000
    pack(shard, ("a.jpg", b"abc" * 9000), ("b.jpg", b"abe" * 9000))
    assert signature(shard / "a.jpg") != before
    paths = [tmp_path / "a.jpg", shard / "b.jpg"]
    assert shared_files(paths, [shard / "a.jpg"]) == [(tmp_path / "a.jpg", shard / "a.jpg")]
    assert conflicting_labels([*paths, shard / "a.jpg"], ["x", "y", "z"]) == [(tmp_path / "a.jpg", shard / "a.jpg")]


def test_a_hole_of_any_size_is_not_read_for_its_digest(tmp_path):
    found = []
    for size in (1 << 40, (1 << 40) + 1):
        with (tmp_path / "hole").open("wb") as file:
            file.truncate(size)
        found.append(content_digest(tmp_path / "hole"))
    assert len(set(found)) == 2


def test_a_file_is_read_once_for_its_digest_until_it_changes(tmp_path, monkeypatch):
    read, original = [], archives.open_file
    monkeypatch.setattr(archives, "open_file", lambda path: (read.append(path), original(path))[1])
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    # As new as it is, it may be written again without a sign of it.
    first = {content_digest(path) for _ in range(2)}
    assert len(read) == 2
    monkeypatch.setattr(archives, "_SETTLED", -(10**18))
    monkeypatch.setattr(archives, "_MOST_DIGESTS", 1)
    assert {content_digest(path) for _ in range(3)} == first
    assert len(read) == 3
    path.write_bytes(b"twice")
    assert {content_digest(path) for _ in range(2)}.isdisjoint(first)
    assert len(read) == 4
    (tmp_path / "b.jpg").write_bytes(b"two")
    content_digest(tmp_path / "b.jpg")
    assert list(archives._DIGESTS) == [str(tmp_path / "b.jpg")]
    with pytest.raises(FileNotFoundError):
        content_digest(tmp_path / "c.jpg")


def test_an_image_beyond_the_memory_budget_and_an_empty_one_are_reported_as_files_are(tmp_path, monkeypatch):
    shard = pack(tmp_path / "s.tar", ("big.png", b"x" * 5000), ("none.png", b""), ("text.png", b"not an image"))
    files = ImageFiles([shard / name for name in ("big.png", "none.png", "text.png", "gone.png")], (8, 8))
    monkeypatch.setenv("AUREVOIR_MEMORY", "4000")
    assert list(files.batches()) == []
    reasons = [reason for _, reason in sorted(files.skipped.items())]
    assert ["more than the memory budget" in reasons[0], "holds no file gone.png" in reasons[1]] == [True, True]
    assert ["empty" in reasons[2], "not an image" in reasons[3]] == [True, True]


def test_random_bytes_never_end_in_another_error(tmp_path):
    shard = pack(tmp_path / "s.tar", *((f"{k}.jpg", bytes(range(256)) * k) for k in range(6)), form=tarfile.GNU_FORMAT)
    whole = np.frombuffer(shard.read_bytes(), "uint8")
    random = np.random.default_rng(0)
    for _ in range(300):
        spoilt = whole.copy()
        spoilt[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
        shard.write_bytes(spoilt.tobytes()[: random.integers(1, len(whole) + 1)])
        try:
            for member in members(shard):
                with member.open() as file:
                    assert len(file.read()) == member.size
        except AurevoirError:
            pass


def test_a_child_that_is_forked_while_an_archive_is_read_reads_it_too(tmp_path):
    pack(tmp_path / "s.tar", ("a", b"abc"))
    program = (
        "import os, sys, threading\n"
        "from aurevoir.images import archives\n"
        "held = threading.Event()\n"
        "def hold():\n"
        "    key = archives._key(sys.argv[1].rpartition('/')[0])\n"
        "    with archives._LOCK, archives._SCANS.setdefault(key, threading.Lock()):\n"
        "        held.set(); held_up.wait(0.2)\n"
        "held_up = threading.Event()\n"
        "thread = threading.Thread(target=hold); thread.start(); held.wait()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(archives.open_file(sys.argv[1]).read() != b'abc')\n"
        "sys.exit(os.waitpid(child, 0)[1])\n"
    )
    root = Path(archives.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", program, tmp_path / "s.tar" / "a"]
    done = subprocess.run(command, env=environment, timeout=60, check=False)
    assert done.returncode == 0
