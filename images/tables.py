"""Tables of images: rows of path and label, and of part and weight where they have them, as CSV or JSON."""

import csv
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import AurevoirWarning, DataError, UsageError
from ..files import read_file
from ..schema import first_repeated
from .archives import exists, is_file
from .remote import is_remote, is_url, path_of, read, status

_JSON, _DELIMITED = (".json", ".jsonl", ".ndjson"), (".csv", ".tsv", ".txt", ".lst")
TABLES = (*_DELIMITED, *_JSON)
"""Endings of tables of paths and labels."""
LISTS = frozenset(TABLES) - {".txt", ".lst"}
"""Of these, the endings of lists of images that have no labels."""
METADATA = ("metadata.csv", "metadata.jsonl")
"""Names of tables beside the images that they label, as Hugging Face's imagefolder has them."""
_LARGEST = 1 << 30
"""Bytes of a table: ten million images."""
_LONGEST_HEADER = 1 << 16
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""Bytes that are not UTF-8, as Python escapes them."""
_DELIMITERS = (",", "\t", ";", "|")
_PATHS = {"path", "file", "filename", "filepath", "image", "images", "imagepath", "imagename", "img", "imgpath"}
_PATHS |= {"imagefile", "imagefilename"}
_SEVERAL = "labels"
"""The name of a column or key that holds several labels an image."""
_LABELS = {"label", _SEVERAL, "class", "classname", "category", "target", "y"}
_SPLITS = {"split", "subset", "partition"}
_WEIGHTS = {"weight", "weights", "sampleweight"}


class Row(NamedTuple):
    """A row of a table, or a sample of an archive.

    Attributes
    ----------
    line : int or str
        Its number in the table, or the file in an archive that labels it; see `place_of`.
    path : Path
    label : object
        As it is there; None if it has none.
    several : bool
        Whether the label may be several: a list, or a text with semicolons between them.
    split, weight : object
        As they are there; None if it has none.
    """

    line: int | str
    path: Path
    label: Any = None
    several: bool = False
    split: Any = None
    weight: Any = None


class _Columns(NamedTuple):
    """Which of the names of columns or keys are known; None for what is missing."""

    path: str | None
    label: str | None
    several: bool
    split: str | None
    weight: str | None


def read_table(table: Path, labelled: bool = True) -> list[Row]:
    """Return the rows of a table.

    Parameters
    ----------
    table : path
        Ending in one of `TABLES`.
    labelled : bool
        Whether there must be labels; else a table may be one column of paths.

    Raises
    ------
    DataError
        If the file is no such table, or a row has no path.
    """
    text = read_text(table, "the table", "give a table of paths and labels")
    try:
        found = list(
            _json_rows(table, text) if table.suffix.lower() in _JSON else _delimited_rows(table, text, labelled)
        )
    except RecursionError:
        raise DataError(f"{table} is nested too deeply; give an object with path and label a line") from None
    if _NOT_UTF8.search(text):
        _note_bytes(table, found)
    return found


def read_text(path: Path | str, what: str, remedy: str) -> str:
    """Return the text of a list or table: UTF-8, of which other bytes are escaped, or UTF-16 behind its mark.

    Raises
    ------
    UsageError
        If it is no file that can be read.
    DataError
        If it holds null characters, as UTF-16 without a mark does.
    """
    data = _read_at(path) if is_remote(path) else read_file(path, _LARGEST, what, remedy)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", "replace")
    else:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise DataError(f"{what} {path} holds a null character in line {line}; save it as text in UTF-8")
    return text


def _read_at(url: Path | str, most: int | None = None) -> bytes:
    """Return a table at a URL, or at most so many of its first bytes."""
    try:
        size = status(url).size
        if most is None and size > _LARGEST:
            raise DataError(f"{url} holds {size:,d} bytes, and at most {_LARGEST:,d} are read; split it")
        return read(url) if most is None or size <= most else read(url, 0, most)
    except OSError as error:
        raise UsageError(f"{url} cannot be read ({type(error).__name__}); check the address and your access") from None


def _note_bytes(table: Path, rows: list[Row]) -> None:
    """Warn of what is no UTF-8, but for names of files that are there."""
    for row in rows:
        if _NOT_UTF8.search(str(row.label)) or (_NOT_UTF8.search(str(row.path)) and not exists(row.path)):
            warnings.warn(
                f"line {row.line} of {table} is not in UTF-8, and its bytes are taken as they are; if it is not meant "
                "so, save the table in UTF-8",
                AurevoirWarning,
                stacklevel=2,
            )
            return


def is_metadata(table: Path) -> bool:
    """Return whether a table labels the files beside it: whether it has the columns ``file_name`` and a label."""
    line = _first_line(table).decode("utf-8-sig", "replace")
    try:
        names = list(json.loads(line)) if table.suffix == ".jsonl" else next(csv.reader([line]), [])
    except (ValueError, TypeError, RecursionError, csv.Error):
        return False
    found = _columns(tuple(map(str, names)))
    return found.label is not None and any(_plain(str(name)).endswith("filename") for name in names)


def _first_line(table: Path) -> bytes:
    if is_remote(table):
        return _read_at(table, _LONGEST_HEADER).partition(b"\n")[0]
    with table.open("rb") as file:
        return file.readline(_LONGEST_HEADER)


def place_of(source: Path | str, line: int | str) -> str:
    """Return where a row stands, for messages."""
    return f"line {line} of {source}" if isinstance(line, int) else line


def sample_of(line: int | str, path: Path, item: dict[str, Any]) -> Row:
    """Return the row of an image whose label is in an object beside it."""
    found = _columns(tuple(item))
    label, split, weight = (None if name is None else item[name] for name in (found.label, found.split, found.weight))
    return Row(line, path, label, found.several, split, weight)


def parsed_object(text: str) -> Any:
    """Return JSON of which no name is there twice in an object; raises ValueError."""
    return json.loads(text, object_pairs_hook=_once)


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
    stripped = name.strip()
    if is_url(stripped):
        return _at_url(table, stripped, line)
    if is_remote(table) and stripped.startswith("/"):
        raise DataError(
            f"line {line} of {table} names {stripped}, a path of one machine; give paths relative to the table"
        )
    if is_remote(table):
        return _at_url(table, f"{table.parent}/{stripped}", line)
    found = table.parent / stripped
    if stripped == name and "\\" not in name and name.isascii():
        return found
    # Archives from macOS have names in the decomposed form, and most tables in the composed one.
    forms = [stripped.replace("\\", "/"), *(unicodedata.normalize(form, stripped) for form in ("NFC", "NFD"))]
    tried = (table.parent / name, found, *(table.parent / each for each in forms))
    return next((each for each in tried if exists(each)), found)


def _at_url(table: Path, url: str, line: int) -> Path:
    try:
        return path_of(url)
    except UsageError as error:
        raise DataError(f"line {line} of {table}: {error}") from None


def _json_rows(table: Path, text: str) -> Iterator[Row]:
    for line, item in _json_objects(table, text):
        if not isinstance(item, dict):
            raise DataError(f"line {line} of {table} is not an object with path and label")
        name = _columns(tuple(item)).path
        if name is None:
            raise DataError(f"line {line} of {table} has the keys {_joined(list(item))}; name one of them path")
        yield sample_of(line, _resolved(table, item[name], line), item)


def _json_objects(table: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield the values of an array, or of lines, with their numbers."""
    remedy = "write an object with path and label a line, or one array of them"
    if text.lstrip().startswith("["):
        try:
            objects = parsed_object(text)
        except ValueError as error:
            raise DataError(f"{table} is not a JSON array: {error}; {remedy}") from None
        yield from enumerate(objects, 1)
        return
    # Not `splitlines`, which also splits at characters that JSON allows in strings.
    for line, row in enumerate(text.split("\n"), 1):
        try:
            found = parsed_object(row) if row.strip() else None
        except json.JSONDecodeError as error:
            why = f"{error.msg.lower()} at character {error.colno}"
            raise DataError(f"line {line} of {table} is not JSON: {why}; {remedy}") from None
        except ValueError as error:
            raise DataError(f"line {line} of {table} is not JSON: {error}; {remedy}") from None
        if row.strip():
            yield line, found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, of which no name is there twice, with two paths or labels."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"the name {first_repeated(name for name, _ in pairs)!r} is repeated in an object")
    return found


def _joined(names: list[str]) -> str:
    """Return names for a message, with what cannot be printed escaped."""
    return repr(", ".join(names)[:80])[1:-1]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


@lru_cache(64)
def _columns(names: tuple[str, ...]) -> _Columns:
    """Return the first names that are known, whatever their case and punctuation."""
    plain = {name: _plain(name) for name in names}

    def first(known: set[str]) -> str | None:
        return next((name for name, each in plain.items() if each in known), None)

    label = first(_LABELS)
    several = label is not None and plain[label] == _SEVERAL
    return _Columns(first(_PATHS), label, several, first(_SPLITS), first(_WEIGHTS))


def _delimited_rows(table: Path, text: str, labelled: bool) -> Iterator[Row]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    if not lines.strip():
        return
    rows = _split_rows(table, lines, labelled)
    header = rows[0][1]
    named = _columns(tuple(header))
    several = named.several
    if named.path is not None and (named.label is not None or not labelled):
        rows = rows[1:]
        path, label, split, weight = (
            None if name is None else header.index(name)
            for name in (named.path, named.label, named.split, named.weight)
        )
    else:
        (rows, path, label), several, split, weight = _without_names(table, rows), False, None, None

    def cell(cells: list[str], column: int | None) -> str | None:
        return cells[column] if column is not None and column < len(cells) else None

    for line, cells in rows:
        found = _resolved(table, cell(cells, path), line)
        yield Row(line, found, cell(cells, label), several, cell(cells, split), cell(cells, weight))


def _without_names(
    table: Path, rows: list[tuple[int, list[str]]]
) -> tuple[list[tuple[int, list[str]]], int, int | None]:
    """Return the rows and the indices of path and label, where the header does not name them or is missing."""
    if len(rows[0][1]) == 1:
        return rows, 0, None
    if len(rows[0][1]) != 2:
        raise DataError(
            f"the first line of {table} has {len(rows[0][1])} columns: {_joined(rows[0][1])}; name those of the "
            "image and its class path and label there"
        )

    def names_file(row: int, column: int) -> bool:
        cells = rows[row][1]
        given = column < len(cells) and bool(cells[column].strip())
        return given and is_file(_resolved(table, cells[column], rows[row][0]))

    last = len(rows) - 1
    path = 1 if any(names_file(row, 1) for row in (0, last)) and not any(names_file(row, 0) for row in (0, last)) else 0
    is_header = (
        last > 0 and not names_file(0, path) and any(names_file(row, path) for row in range(1, min(last, 5) + 1))
    )
    if is_header:
        name, rows = rows[0][1][1 - path], rows[1:]
        if all(_is_number(cells[1 - path]) for _, cells in rows if len(cells) > 1 - path):
            warnings.warn(
                f"{table} has numbers under {_joined([name])}, which are taken as names of classes; name the columns "
                "path and label if they are, or else give the column of labels",
                AurevoirWarning,
                stacklevel=2,
            )
    return rows, path, 1 - path


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _split_rows(table: Path, text: str, labelled: bool) -> list[tuple[int, list[str]]]:
    """Return line numbers and cells, split at the delimiter that gives most lines as many columns as the first."""

    def fit(delimiter: str) -> int:
        widths = [len(cells) for _, cells in _parse(text, delimiter)]
        return widths.count(widths[0]) if widths and widths[0] > 1 else 0

    try:
        fits = {each: fit(each) for each in _DELIMITERS}
        best = max(_DELIMITERS, key=fits.__getitem__)
        if fits[best] or not labelled:
            return list(_parse(text, best if fits[best] else _DELIMITERS[0]))
    except csv.Error as error:
        raise DataError(f"{table} is not a table of paths and labels: {error}") from None
    words = [(line, row.rsplit(None, 1)) for line, row in enumerate(text.split("\n"), 1) if row.strip()]
    if not any(len(cells) == 2 for _, cells in words):
        raise DataError(f"{table} has one column; give a path and a label a line, separated by a comma")
    return words


def _parse(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for line in text.split("\n")), delimiter=delimiter, skipinitialspace=True)
    yield from ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
