import os

from aurevoir.images.duplicates import conflicting_labels, same_files, shared_files


def write(folder, **contents):
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values()):
        path.write_bytes(content)
    return paths


def test_files_of_one_content_are_a_group(tmp_path):
    middle = os.urandom(60_000)
    files = {"a": middle, "b": b"x" + middle[1:], "c": middle, "d": middle[:-1], "e": b"", "f": b""}
    files["g"] = middle[:30_000] + bytes([middle[30_000] ^ 1]) + middle[30_001:]
    paths = write(tmp_path, **files)
    assert list(same_files([*paths, tmp_path / "gone", tmp_path])) == [[paths[0], paths[2]]]


def test_what_is_no_file_is_not_opened(tmp_path):
    for name in "ab":
        os.mkfifo(tmp_path / name)
    assert list(same_files([tmp_path / "a", tmp_path / "b"])) == []


def test_shared_files_are_found_by_path_link_and_content(tmp_path):
    a, b, c, d = write(tmp_path, a=b"1", b=b"2", c=b"1", d=b"4")
    (tmp_path / "link").symlink_to(b)
    assert shared_files([a, b], [c, d]) == [(a, c)]
    assert shared_files([a, b], [b, d]) == [(b, b)]
    assert shared_files([a, b], [tmp_path / "link"]) == [(b, tmp_path / "link")]
    assert shared_files([a, b], [d]) == []


def test_one_content_under_two_labels_is_a_conflict(tmp_path):
    a, b, c, d = write(tmp_path, a=b"1", b=b"1", c=b"1", d=b"4")
    assert conflicting_labels([a, b, c, d], ["x", "x", "y", "y"]) == [(a, c)]
    assert conflicting_labels([a, b, d], ["x", "x", "y"]) == []
    assert conflicting_labels([d, d], ["x", "y"]) == [(d, d)]
