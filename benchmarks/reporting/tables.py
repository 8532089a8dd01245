"""Result files as tables.

A result is a JSON object; lists of objects in it, first of all ``rows``, are its tables. A cell inside
objects gets a dotted name, and a row that lists objects becomes one row for each of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, UsageError
from ...files import read_file
from ...schema import LONGEST, Check, MalformedError, parse_object, require_version, text
from ..contract import SCHEMA, Benchmark, Cells, Json
from .text import is_number

RESULTS = Path(__file__).parents[1] / "results"

ASIDE = ("machine", "schema")
"""Parts of a result that are no cells."""

TEXTS = ("error", "remark")
"""Columns of text that say how a row went, not which it is."""

_REMEDY = "give a file that --out wrote"
_DEEPEST = 12
_NAME = text(1000)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < 2**63)


_SCALAR = Check("text, or a number below 2^63", _is_scalar)


def read_result(path: str | Path) -> Cells:
    """Read a result file.

    Raises
    ------
    UsageError
        If there is no such file.
    DataError
        If it does not hold a JSON object, is of a newer version, or its tables or cells are none.
    """
    try:
        data = read_file(path, LONGEST, "result file", _REMEDY)
    except UsageError as error:
        raise UsageError(f"a result cannot be read: {error}") from None
    try:
        result = parse_object(data, "holds")
        if "schema" in result:
            require_version(result["schema"], (SCHEMA,))
        _check_cell(result, "")
    except MalformedError as error:
        raise DataError(f"{path} {error}; {_REMEDY}") from None
    return result


def _check_cell(value: Any, name: str, depth: int = 0) -> None:
    """Check what a result holds: scalars, and objects and lists of them, not too deep."""
    if depth > _DEEPEST:
        raise MalformedError(f"has wrong fields ({name[:80]} is nested more than {_DEEPEST} deep)")
    if isinstance(value, list):
        if any(isinstance(entry, dict) for entry in value) and not _is_table(value):
            raise MalformedError(f"has wrong fields ({name[:80]} lists objects and other values)")
        for index, entry in enumerate(value):
            _check_cell(entry, f"{name}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, entry in value.items():
            _NAME(key, "the name")
            _check_cell(entry, f"{name}.{key}" if name else key, depth + 1)
    elif value is not None:
        _SCALAR(value, name[:80])


def tables(result: Json) -> dict[str, list[Cells]]:
    """Return the tables of a result by name, flat."""
    return {name: flat(value) for name, value in result.items() if name not in ASIDE and _is_table(value)}


def facts(result: Json) -> Cells:
    """Return the cells of a result outside its tables."""
    return dict(_cells({name: value for name, value in result.items() if name not in ASIDE and not _is_table(value)}))


def flat(rows: Sequence[Json]) -> list[Cells]:
    """Return rows whose cells are scalars and lists of numbers."""
    found: list[Cells] = []
    for row in rows:
        lists = {name: value for name, value in row.items() if name not in ASIDE and _is_table(value)}
        own = dict(_cells({name: value for name, value in row.items() if name not in (*ASIDE, *lists)}))
        entries = [dict(_cells({name: entry})) for name, listed in lists.items() for entry in listed]
        found += [own | entry for entry in entries] or [own]
    return found


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _cells(value: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, cell in value.items():
        if isinstance(cell, Mapping):
            yield from _cells(cell, f"{prefix}{name}.")
        elif not isinstance(cell, list):
            yield prefix + name, cell
        elif cell and all(isinstance(entry, str) for entry in cell):
            yield prefix + name, ", ".join(cell)
        elif cell and all(is_number(entry) for entry in cell):
            yield prefix + name, cell


def columns(rows: Sequence[Cells]) -> list[str]:
    """Return the names of all cells, in the order in which they come up."""
    return list(dict.fromkeys(name for row in rows for name in row))


def identifying(rows: Sequence[Sequence[Cells]], benchmark: Benchmark | None = None) -> list[str]:
    """Return the columns that identify rows.

    Those are the benchmark's own keys, or else all texts; where that leaves rows alike, whole numbers
    join in, column by column.

    Parameters
    ----------
    rows : sequence of tables
        Flat; rows are identified within each.
    benchmark : Benchmark, optional
    """
    every = [row for table in rows for row in table]
    sound = [row for row in every if "error" not in row] or every
    names = [
        name
        for name in columns(sound)
        if name not in TEXTS and not any(isinstance(row.get(name), list) for row in every)
    ]
    chosen = [name for name in (benchmark.keys if benchmark else ()) if name in names]
    chosen = chosen or [name for name in names if all(isinstance(row.get(name), str) for row in sound)]
    taken = set(chosen)
    alike = [_parted(table, [0] * len(table), chosen) for table in rows]
    for name in names:
        if all(len(set(numbers)) == len(numbers) for numbers in alike):
            break
        if name not in taken and all(isinstance(row.get(name), int) for row in sound):
            chosen.append(name)
            alike = [_parted(table, numbers, [name]) for table, numbers in zip(rows, alike, strict=True)]
    return chosen


def _parted(rows: Sequence[Cells], numbers: Sequence[int], names: Sequence[str]) -> list[int]:
    """Part groups of rows, by number, into those whose columns are alike; return the numbers of these."""
    for name in names:
        known: dict[tuple[int, Any], int] = {}
        keys = ((number, row.get(name)) for number, row in zip(numbers, rows, strict=True))
        numbers = [known.setdefault(key, len(known)) for key in keys]
    return list(numbers)


def machine_of(result: Json) -> Cells:
    """Return where a result was measured; nothing where that is not recorded."""
    machine = result.get("machine")
    return machine if isinstance(machine, dict) else {}


def machine_line(machine: Json) -> str:
    """Return a machine in words, without versions, date and command."""
    units = {"processor": "{}", "cores": "{} cores", "memory_gib": "{} GiB"}
    aside = ("versions", "date", "command", "system", "python")
    return ", ".join(
        units[name].format(value) if name in units else f"{name} {value}"
        for name, value in _cells({name: value for name, value in machine.items() if name not in aside})
        if value is not None
    )
