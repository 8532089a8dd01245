"""Images at URLs: listed, read and labelled as in a folder."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest
from http_files import served
from tar_files import pack

from aurevoir.errors import AurevoirWarning, DataError, MissingPackageError, UsageError
from aurevoir.images import remote
from aurevoir.images.archives import content_digest, exists, is_file
from aurevoir.images.batches import ImageFiles
from aurevoir.images.decode import UnreadableImageError, decode
from aurevoir.images.duplicates import shared_files
from aurevoir.images.labelled import labelled_images, labelled_parts, list_images
from aurevoir.images.listing import image_paths
from aurevoir.images.procedural import write_class_folders
from aurevoir.images.remote import RemotePath, path_of

pytest.importorskip("aiohttp")


@pytest.fixture
def photos(tmp_path):
    write_class_folders(tmp_path / "photos", 2, 16)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(remote, "_WAITS", (0, 0))
    monkeypatch.setattr(remote, "_KNOWN", {})


@pytest.fixture
def server(tmp_path):
    """A web server of the files in the temporary folder."""
    with served(tmp_path) as found:
        yield found


@pytest.fixture
def store():
    """A function that copies a folder to a store of this process, and returns its URL."""
    from fsspec.implementations.memory import MemoryFileSystem

    def put(folder):
        MemoryFileSystem().put(str(folder), f"/bucket/{folder.name}", recursive=True)
        return f"memory://bucket/{folder.name}"

    yield put
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("changed", [copy, lambda path: pickle.loads(pickle.dumps(path)), RemotePath.absolute])
def test_the_text_of_a_path_is_its_url(changed):
    path = changed(path_of("s3://bucket/a b/c.jpg"))
    assert str(path) == f"{path}" == path.__fspath__() == "s3://bucket/a b/c.jpg"
    assert (path.name, path.suffix, str(path.parent), str(path.parent / "d.png")) == (
        "c.jpg",
        ".jpg",
        "s3://bucket/a b",
        "s3://bucket/a b/d.png",
    )
    assert path == path_of("s3://bucket/a b/c.jpg") != path_of("gs://bucket/a b/c.jpg")
    assert path.is_absolute()
    assert isinstance(path_of(path), RemotePath)


def test_what_is_no_url_is_a_local_path():
    for text in ("a.jpg", "/a/b", "C://x", "a:/b", "://x", "s3:/b/k", "a/http://b"):
        assert type(path_of(text)) is type(Path(text))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///a/b.jpg", "is on this machine; give its path without file://"),
        ("zip://a.jpg::s3://b/c.zip", "is a file inside another"),
        ("s3://bucket//a.jpg", "an empty or dotted name"),
        ("hdfs:///a.jpg", "an empty or dotted name"),
        ("s3://bucket/./a.jpg", "an empty or dotted name"),
    ],
)
def test_urls_that_no_path_can_hold_are_refused(url, message):
    with pytest.raises(UsageError, match=message):
        path_of(url)


def test_a_folder_is_labelled_as_where_it_lies(store, photos):
    for junk in ("readme.txt", "bricks/.hidden.jpg", "bricks/Thumbs.db", "bricks/a b.jpg"):
        (photos / junk).write_bytes(b"x")
    url = store(photos)
    here, there = labelled_images(photos), labelled_images(f"{url}/")
    assert list(there.labels) == list(here.labels)
    assert [str(path) for path in there.paths] == [f"{url}/{path.relative_to(photos)}" for path in here.paths]
    assert list_images([url]) == sorted(there.paths)
    photos = photos.rename(photos.with_name("labelled"))
    (photos / "metadata.csv").write_text("file_name,label\nbricks/0000.jpg,b\nbricks/0001.jpg,a\n")
    assert list(labelled_images(store(photos)).labels) == ["a", "b"]


def test_parts_of_a_data_set_are_found(store, tmp_path):
    for part in ("train", "val"):
        write_class_folders(tmp_path / "set" / part, 1, 16)
    train, test = labelled_parts(store(tmp_path / "set"))
    assert test is not None
    assert {path.parts[3] for path in train.paths} == {"train"}
    assert {path.parts[3] for path in test.paths} == {"val"}
    assert train.names == test.names


@pytest.mark.parametrize("web", [True, False])
def test_pixels_digests_and_copies_are_those_of_the_files(server, store, photos, web):
    here = labelled_images(photos).paths
    url = f"{server.url}/photos" if web else store(photos)
    there = [path_of(f"{url}/{path.relative_to(photos)}") for path in here]
    for local, path in zip(here[:3], there, strict=False):
        np.testing.assert_array_equal(decode(path, (8, 8)), decode(local, (8, 8)))
        assert content_digest(path) == content_digest(local)
    assert shared_files(here, there) == list(zip(here, there, strict=True))
    images = ImageFiles([there[0], here[0], f"{url}/none.jpg"], (8, 8))
    [(indices, pixels)] = images.batches()
    assert indices.tolist() == [0, 1]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert images.skipped == {f"{url}/none.jpg": "does not exist (FileNotFoundError)"}


@pytest.mark.parametrize("ranges", [True, False])
def test_archives_are_read_in_parts(server, photos, tmp_path, ranges):
    server.parts = ranges
    paths = labelled_images(photos).paths
    pack(tmp_path / "s-0.tar", *((str(path.relative_to(photos)), path.read_bytes()) for path in paths))
    if not ranges:
        with pytest.raises(DataError, match=r"s-0.tar cannot be read \(ValueError: Cannot seek"):
            labelled_images(f"{server.url}/s-0.tar")
        with pytest.raises(DataError, match=r"s-0.tar cannot be read in parts: its server sends \S+ bytes for 10"):
            remote.read(f"{server.url}/s-0.tar", 0, 10)
        return
    found = labelled_images(f"{server.url}/s-{{0..0}}.tar")
    assert list(found.labels) == [path.parent.name for path in paths]
    server.asked.clear()
    np.testing.assert_array_equal(decode(found.paths[0], (8, 8)), decode(paths[0], (8, 8)))
    assert server.asked == ["/s-0.tar"]
    assert is_file(found.paths[0])
    assert not exists(f"{server.url}/s-0.tar/none.jpg")


def test_tables_name_urls_and_files_beside_them(server, photos, tmp_path):
    path = labelled_images(photos).paths[0].relative_to(tmp_path)
    (tmp_path / "t.csv").write_text(f"path,label\n{server.url}/{path},a\n{path},b\n")
    url = f"{server.url}/{path}"
    assert [str(each) for each in labelled_images(tmp_path / "t.csv").paths] == [url, str(tmp_path / path)]
    assert [str(each) for each in labelled_images(f"{server.url}/t.csv").paths] == [url, url]
    assert [str(each) for each in list_images([f"{server.url}/t.csv"])] == [url]
    (tmp_path / "t.csv").write_text(f"path,label\n{tmp_path / path},a\n")
    with pytest.raises(DataError, match=r"line 2 of http.*t.csv names /.*, a path of one machine; give"):
        labelled_images(f"{server.url}/t.csv")


def test_images_of_a_stream_are_not_asked_for_before_they_are_read(server):
    urls = [f"{server.url}/none-{index}.jpg" for index in range(3)]
    assert list(map(str, image_paths(urls))) == urls
    assert not server.asked


def test_what_is_not_there_is_said_to_be(server, store, photos):
    url = store(photos)
    with pytest.raises(UsageError, match=r"bucket/none (holds no images|cannot be listed)"):
        labelled_images("memory://bucket/none")
    with pytest.raises(UsageError, match=r"bucket/none.jpg (holds no images|cannot be listed)"):
        list_images(["memory://bucket/none.jpg"])
    with pytest.raises(UsageError, match=r"none is no file that is known, and web servers list no folders"):
        labelled_images(f"{server.url}/none")
    with pytest.raises(UsageError, match=r"none.csv cannot be read \(FileNotFoundError\)"):
        labelled_images(f"{server.url}/none.csv")
    with pytest.raises(UnreadableImageError, match="does not exist"):
        decode(f"{server.url}/none.jpg", (8, 8))
    with pytest.raises(UnreadableImageError, match="a folder, not a file"):
        decode(url, (8, 8))


def test_a_server_that_fails_is_asked_again_and_then_no_more(server, photos):
    path = labelled_images(photos).paths[0]
    url = f"{server.url}/photos/{path.relative_to(photos)}"
    remote.status(url)
    server.failures = 2
    np.testing.assert_array_equal(decode(url, (8, 8)), decode(path, (8, 8)))
    server.failures = 100
    with pytest.raises(UnreadableImageError, match="503"):
        decode(url, (8, 8))
    assert server.failures == 97


@pytest.mark.parametrize(("answer", "times"), [(503, 6), (429, 6), (403, 2), (401, 2)])
def test_what_a_web_server_answers_is_said_and_not_that_there_is_no_file(server, photos, answer, times):
    path = labelled_images(photos).paths[0]
    url = f"{server.url}/photos/{path.relative_to(photos)}"
    server.failure, server.failures = answer, 100
    with pytest.raises(UnreadableImageError, match=f"0000.jpg cannot be read .*{answer}"):
        decode(url, (8, 8))
    # Each time the head alone, and then the file.
    assert len(server.asked) == times
    server.failures = 2
    if times > 2:
        np.testing.assert_array_equal(decode(url, (8, 8)), decode(path, (8, 8)))


def test_a_table_of_files_that_no_one_may_read_ends_with_the_reason(server, tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{server.url}/{n}.jpg,{n % 2}\n" for n in range(40)))
    server.failure, server.failures = 403, 10_000
    with pytest.raises(DataError, match=r"/\d+.jpg cannot be read .*403"):
        labelled_images(tmp_path / "t.csv")
    assert len(server.asked) < 80
    server.failures = 0
    with pytest.raises(DataError, match="none of the 40 files that .*t.csv names exists"):
        labelled_images(tmp_path / "t.csv")


def test_a_server_that_says_nothing_is_not_waited_for(server, monkeypatch):
    remote._shared.cache_clear()
    monkeypatch.setattr(remote, "_PATIENCE", 0.05)
    server.answering.clear()
    with pytest.raises(UnreadableImageError, match="cannot be read .*[Tt]imeout"):
        decode(f"{server.url}/a.jpg", (8, 8))
    remote._shared.cache_clear()


def test_a_process_that_ends_waits_for_no_answer(server, monkeypatch):
    monkeypatch.setattr(remote, "_GIVEN_UP", Event())
    server.answering.clear()
    with ThreadPoolExecutor() as pool:
        found = pool.submit(decode, f"{server.url}/a.jpg", (8, 8))
        while not server.asked:
            pass
        remote.give_up()
        with pytest.raises(UnreadableImageError, match="cannot be read .*given up|exist"):
            found.result(timeout=10)


def test_names_that_no_path_can_hold_are_left_out_of_a_folder(store, photos):
    (photos / "bricks" / "a::b.jpg").write_bytes(b"x")
    with pytest.warns(AurevoirWarning, match=r"1 files in .* have names with ::.*a::b.jpg"):
        found = labelled_images(store(photos))
    assert [path.name for path in found.paths] == [
        path.name for path in labelled_images(photos).paths if "::" not in str(path)
    ]


def test_a_row_with_a_url_that_is_refused_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\na.jpg,a\nfile:///etc/passwd,b\n")
    with pytest.raises(DataError, match=r"line 3 of .*t.csv: file:///etc/passwd is on this machine"):
        labelled_images(tmp_path / "t.csv")


def test_of_files_of_one_size_the_ends_alone_are_read(server, photos, monkeypatch):
    (photos / "a.jpg").write_bytes(bytes(20_000))
    (photos / "b.jpg").write_bytes(bytes(19_999) + b"x")
    asked = []
    read = remote.read
    monkeypatch.setattr(remote, "read", lambda path, *part: asked.append(part) or read(path, *part))
    urls = [path_of(f"{server.url}/photos/{name}.jpg") for name in "ab"]
    assert shared_files(urls[:1], urls[1:]) == []
    assert asked == [(20_000 - 8192, 20_000)] * 2
    server.parts = False
    assert shared_files([photos / "a.jpg"], urls[:1]) == [(photos / "a.jpg", urls[0])]


def test_as_many_files_are_asked_for_at_once_whatever_the_batch():
    together = Barrier(remote.REQUESTS)

    def waiting(path, size, resize, channels):
        together.wait(timeout=20)
        return np.zeros((*size, channels), "uint8")

    images = ImageFiles([path_of(f"s3://a/{n}.jpg") for n in range(remote.REQUESTS)], (8, 8), decoder=waiting)
    assert len(list(images.batches(1))) == remote.REQUESTS


def test_a_page_in_place_of_an_image_is_asked_for_once(server, tmp_path):
    (tmp_path / "a.jpg").write_text("<!doctype html>")
    with pytest.raises(UnreadableImageError, match="an HTML page"):
        decode(f"{server.url}/a.jpg", (8, 8))
    assert len(server.asked) == 2


def test_what_cannot_be_read_for_lack_of_a_package_is_no_fault_of_the_file(server, monkeypatch):
    remote._shared.cache_clear()
    with pytest.raises(UsageError, match="nope://bucket cannot be read: Protocol not known: nope"):
        labelled_images("nope://bucket/x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingPackageError, match="gs://bucket needs a package that is not installed: .*gcsfs"):
        decode("gs://bucket/x.jpg", (8, 8))
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'aurevoir\[remote\]'"):
        decode("s3://bucket/x.jpg", (8, 8))
