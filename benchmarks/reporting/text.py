"""Cells, rows and tables as text: plain, or in Markdown."""

import math
from collections.abc import Sequence
from typing import Any

from ..contract import Json


def is_number(value: Any) -> bool:
    """Tell numbers from all else that JSON holds."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """Return a cell for people: four significant digits, whole numbers in full, lists by their range."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{len(value)} values, {shown(min(value))} to {shown(max(value))}"
    if isinstance(value, bool) or not is_number(value):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and math.isfinite(value)):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def plus_minus(value: float, error: float | None, digits: int, sign: str = "") -> str:
    """Return a value with its standard error, where there is one."""
    return f"{value:{sign}.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; what would end a cell or begin a tag is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return [
        f"|{'|'.join(cells)}|" if cells[:1] == ["---"] else f"| {' | '.join(map(_escaped, cells))} |" for cells in lines
    ]


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;")


def of_median(ratios: Json, digits: int = 2) -> str:
    """Return ratios by their median, least and most."""
    return f"{ratios['median']:.{digits}f} ({ratios['min']:.{digits}f} to {ratios['max']:.{digits}f})"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a plain table, columns of numbers flush right.

    A row of fewer cells than the header ends in text that widens no column, such as why it failed; a cell more is a
    remark behind the others.
    """
    full = [row[: len(header)] for row in rows if len(row) >= len(header)]
    columns = list(zip(*full, strict=True)) if full else [()] * len(header)
    widths = [max(map(len, (name, *cells))) for name, cells in zip(header, columns, strict=True)]
    widths[0] = max(len(row[0]) for row in (header, *rows))
    right = [all(cell[:1] in "+-.0123456789" for cell in cells) for cells in columns]
    return ["  ".join(_padded(row, widths, right)).rstrip() for row in (header, *rows)]


def _padded(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    columns = len(widths) if len(row) >= len(widths) else len(row) - 1
    padded = zip(row[:columns], widths, right, strict=False)
    return [*(cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in padded), *row[columns:]]
