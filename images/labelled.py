"""List labelled images: a folder of class folders, or a table of paths and labels."""

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..files import read_file
from ..schema import first_repeated
from .sources import LabelledPaths, Part, class_folders

_JSON, _DELIMITED = (".json", ".jsonl", ".ndjson"), (".csv", ".tsv", ".txt", ".lst")
TABLES = (*_DELIMITED, *_JSON)
"""Endings of tables of paths and labels."""
_LARGEST = 1 << 30
"""Bytes of a table: ten million images."""
_DELIMITERS = (",", "\t", ";", "|")
_PATH_NAMES = {"path", "file", "filename", "filepath", "image", "images", "imagepath", "imagename", "img", "imgpath"}
_LABEL_NAMES = {"label", "labels", "class", "classname", "category", "target", "y"}
_Cell = tuple[int, Any, Any]
"""Line number, path and label."""


def labelled_images(data: Path | str, part: Part = "train") -> LabelledPaths:
    """List the images of a folder of class folders, or of a table of paths and labels.

    Parameters
    ----------
    data : path
        A folder: see `class_folders`. A file ending in .csv, .tsv or .txt: a path and a label a line,
        separated by a comma, tab, semicolon, bar or space, under a header that names them ``path`` and ``label`` or
        without one. A file ending in .jsonl, .ndjson or .json: an object a line, or one array of them, with ``path``
        and ``label``. Paths are relative to the table's folder.
    part : {"train", "test"}
        Which part of a folder with splits.

    Raises
    ------
    UsageError
        If `data` does not exist, or is a file of another kind.
    DataError
        If a table cannot be read, or a row has no label.
    """
    path = Path(data)
    if not path.is_file():
        return class_folders(path, part)
    if path.suffix.lower() not in TABLES:
        raise UsageError(f"{path} is neither a folder nor a table of paths and labels ({', '.join(TABLES)})")
    try:
        return _checked(path, list(_json_rows(path) if path.suffix.lower() in _JSON else _delimited_rows(path)))
    except RecursionError:
        raise DataError(f"{path} is nested too deeply; give an object with path and label a line") from None


def _checked(table: Path, rows: list[_Cell]) -> LabelledPaths:
    unlabelled = [line for line, _, label in rows if _is_missing(label)]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {len(rows)} rows of {table} have no label, the first in line {unlabelled[0]}; label "
            "them or remove the rows"
        )
    if not rows:
        raise DataError(f"{table} contains no rows; give a path and a label a line")
    # A row given twice counts once.
    found = dict.fromkeys((_text(label, table, line), _resolved(table, path, line)) for line, path, label in rows)
    pairs = sorted(found)
    if not any(os.path.lexists(path) for _, path in pairs):
        raise DataError(
            f"none of the {len(pairs)} files that {table} names exists, such as {pairs[0][1]}; paths are relative to "
            "the folder of the table"
        )
    return LabelledPaths([path for _, path in pairs], [label for label, _ in pairs])


def _is_missing(label: Any) -> bool:
    # JSON of other programs has NaN for what is missing.
    return label is None or (isinstance(label, float) and math.isnan(label)) or not str(label).strip()


def _text(label: Any, table: Path, line: int) -> str:
    if isinstance(label, list | dict):
        raise DataError(f"the label in line {line} of {table} is {json.dumps(label)}; give one label an image")
    return str(label).strip()


def _resolved(table: Path, path: Any, line: int) -> Path:
    """Return a path of a table relative to the table's folder; backslashes separate folders where no such file is."""
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"line {line} of {table} has no path; give one or remove the row")
    # Text is decoded as UTF-8, file names as the locale says.
    try:
        name = os.fsdecode(path.encode("utf-8", "surrogateescape"))
    except UnicodeError:
        raise DataError(
            f"the path in line {line} of {table} holds half a character, {path[:80]!r}; write it anew"
        ) from None
    if "\0" in name:
        raise DataError(f"the path in line {line} of {table} holds a null character; write it anew")
    tried = [table.parent / each for each in (name, name.strip(), name.strip().replace("\\", "/"))]
    return next((each for each in tried if os.path.lexists(each)), tried[1])


def _read(table: Path) -> str:
    data = read_file(table, _LARGEST, "the table", "give a table of paths and labels")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _json_rows(table: Path) -> Iterator[_Cell]:
    text = _read(table)
    try:
        if text.lstrip().startswith("["):
            objects = list(enumerate(json.loads(text, object_pairs_hook=_once), 1))
        else:
            # Not `splitlines`, which also splits at characters that JSON allows in strings.
            lines = [(line, row) for line, row in enumerate(text.split("\n"), 1) if row.strip()]
            objects = [(line, json.loads(row, object_pairs_hook=_once)) for line, row in lines]
    except ValueError as error:
        raise DataError(f"{table} is not JSON lines: {error}; write an object with path and label a line") from None
    for line, item in objects:
        if not isinstance(item, dict):
            raise DataError(f"line {line} of {table} is not an object with path and label")
        names = list(item)
        path, label = _named(names, _PATH_NAMES), _named(names, _LABEL_NAMES)
        if path is None:
            raise DataError(f"line {line} of {table} has the keys {_joined(names)}; name one of them path")
        yield line, item[names[path]], None if label is None else item[names[label]]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, of which no name is there twice, with two paths or labels."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"the name {first_repeated(name for name, _ in pairs)!r} is repeated in an object")
    return found


def _joined(names: list[str]) -> str:
    """Return names for a message, with what cannot be printed escaped."""
    return repr(", ".join(names)[:80])[1:-1]


def _named(names: list[str], known: set[str]) -> int | None:
    """Return the index of the first name that is known, whatever its case and punctuation."""
    plain = [re.sub(r"[\W_]", "", name).lower() for name in names]
    return next((index for index, name in enumerate(plain) if name in known), None)


def _delimited_rows(table: Path) -> Iterator[_Cell]:
    lines = _read(table).replace("\r\n", "\n").replace("\r", "\n")
    if not lines.strip():
        return
    rows = _split_rows(table, lines)
    header = rows[0][1]
    path, label = _named(header, _PATH_NAMES), _named(header, _LABEL_NAMES)
    if path is not None and label is not None:
        rows = rows[1:]
    else:
        rows, path, label = _without_names(table, rows)
    for line, cells in rows:
        yield line, cells[path] if path < len(cells) else "", cells[label] if label < len(cells) else None


def _without_names(table: Path, rows: list[tuple[int, list[str]]]) -> tuple[list[tuple[int, list[str]]], int, int]:
    """Return the rows and the indices of path and label, where the header does not name them or is missing."""
    if len(rows[0][1]) != 2:
        raise DataError(
            f"the first line of {table} has {len(rows[0][1])} columns: {_joined(rows[0][1])}; name those of the "
            "image and its class path and label there"
        )

    def is_file(row: int, column: int) -> bool:
        cells = rows[row][1]
        # Path.is_file raises OSError for a name that is too long.
        given = column < len(cells) and bool(cells[column].strip())
        return given and os.path.isfile(_resolved(table, cells[column], 0))  # noqa: PTH113

    last = len(rows) - 1
    path = 1 if any(is_file(row, 1) for row in (0, last)) and not any(is_file(row, 0) for row in (0, last)) else 0
    is_header = last > 0 and not is_file(0, path) and any(is_file(row, path) for row in range(1, min(last, 5) + 1))
    return rows[1:] if is_header else rows, path, 1 - path


def _split_rows(table: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return line numbers and cells, split at the delimiter that gives most lines as many columns as the first."""
    try:
        parsed = {each: _parse(text, each) for each in _DELIMITERS}
    except csv.Error as error:
        raise DataError(f"{table} is not a table of paths and labels: {error}") from None

    def fit(delimiter: str) -> int:
        rows = parsed[delimiter]
        width = len(rows[0][1]) if rows else 0
        return Counter(len(cells) for _, cells in rows)[width] if width > 1 else 0

    best = max(_DELIMITERS, key=fit)
    if fit(best):
        return parsed[best]
    words = [(line, row.rsplit(None, 1)) for line, row in enumerate(text.split("\n"), 1) if row.strip()]
    if not any(len(cells) == 2 for _, cells in words):
        raise DataError(f"{table} has one column; give a path and a label a line, separated by a comma")
    return words


def _parse(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    lines = [f"{line}\n" for line in text.split("\n")]
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
