"""Rows of CSV files: labels, numbers and paths as text, and text as bytes."""

import json
from collections.abc import Iterable


def csv_line(cells: Iterable[str]) -> str:
    """Return a row of a CSV file: the same in every version of Python, whose `csv` changed what it quotes."""
    return ",".join(map(_quoted, cells)) + "\n"


def _quoted(cell: str) -> str:
    return f'"{cell.replace(chr(34), chr(34) * 2)}"' if any(each in cell for each in ',"\r\n') else cell


def label_text(label: object) -> str:
    """Return a label, or several of an image, as text; names of which one has a semicolon as a JSON array."""
    if not isinstance(label, list):
        return str(label)
    names = list(map(str, label))
    return json.dumps(names, ensure_ascii=False) if any(";" in each for each in names) else ";".join(names)


def number_text(number: float | None) -> str:
    """Return a score or probability as text, which does not show how a sum was rounded."""
    return "" if number is None else f"{number:.6f}"


def encoded(text: str) -> bytes:
    """Return text as UTF-8, and of names that are not UTF-8 their own bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
