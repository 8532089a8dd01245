import io
import os
from pathlib import Path

import pytest

from aurevoir.errors import DataError, UsageError
from aurevoir.images.listing import image_paths, open_list


class _Lines(io.BytesIO):
    """Counts the lines that are read."""

    taken = 0

    def readline(self, *limit):
        self.taken += 1
        return super().readline(*limit)


def test_one_line_of_a_list_is_read_at_a_time(tmp_path):
    file = _Lines(b"a.jpg\nb.jpg\nc.jpg\n")
    paths = image_paths([tmp_path / "first.jpg"], file)
    assert (next(paths), file.taken) == (tmp_path / "first.jpg", 0)
    assert (next(paths), file.taken) == (Path("a.jpg"), 1)
    assert list(paths) == [Path("b.jpg"), Path("c.jpg")]


def test_folders_of_a_list_stand_for_their_files(tmp_path):
    for name in ("b/2.png", "b/1.png", "a/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    file = io.BytesIO(os.fsencode(f"{tmp_path}/b\n{tmp_path}/none\n{tmp_path}/a\n"))
    assert [str(path.relative_to(tmp_path)) for path in image_paths([], file)] == [
        "b/1.png",
        "b/2.png",
        "none",
        "a/3.png",
    ]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", []),
        (b"\n\r\n\n", []),
        (b"a", [b"a"]),
        (b"\xef\xbb\xbfa\nb", [b"a", b"b"]),
        (b"a\r\nb\n", [b"a", b"b"]),
        (b" a b \n", [b" a b "]),
        (b"caf\xe9\n", [b"caf\xe9"]),
        (b"x" * 8192 + b"\ny\n", [b"x" * 8192, b"y"]),
        (b"x" * 20_000 + b"\ny\n", [b"x" * 8192, b"y"]),
        (b"x" * 20_000, [b"x" * 8192]),
    ],
)
def test_lines_are_paths(content, names):
    assert [os.fsencode(path) for path in image_paths([], io.BytesIO(content))] == names


def test_a_list_in_utf16_is_refused():
    with pytest.raises(DataError, match="is in UTF-16"):
        list(image_paths([], io.BytesIO("a.png\n".encode("utf-16"))))


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    for path, why in ((tmp_path, "is a directory"), (tmp_path / "none", "no such file"), ("a\0b", "null")):
        with pytest.raises(UsageError, match=f"cannot be read: .*{why}.*; give a file of paths, one a line"):
            open_list(path)
