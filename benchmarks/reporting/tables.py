"""Result files as tables: what `report`, `compare` and `readme` read alike.

A result is a JSON object; lists of objects in it, first of all ``rows``, are its tables. A cell inside
objects gets a dotted name, and a row that lists objects becomes one row for each of them. A benchmark
may offer ``KEYS``, the columns that tell its rows apart, and ``SPREADS``, what is known of a number's
chance: (kind, column), see `compare`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import DataError, UsageError

RESULTS = Path(__file__).parents[1] / "results"

ASIDE = ("machine", "samples", "predictions", "confusion")
"""Parts of a result that are no cells."""

TEXTS = ("error", "remark")
"""Columns of text that say how a row went, not which it is."""

Row = dict[str, Any]


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a result file.

    Raises
    ------
    UsageError
        If there is no such file.
    DataError
        If it does not hold a JSON object.
    """
    try:
        result = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"result file {path} cannot be read ({error.strerror}); give one that --out wrote") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); give a file that --out wrote") from None
    if not isinstance(result, dict):
        raise DataError(f"{path} holds a {type(result).__name__}, not a JSON object; give a file that --out wrote")
    return result


def benchmark_of(result: Mapping[str, Any]) -> ModuleType | None:
    """Return the module of the benchmark that made a result; None where this version has none of that name."""
    name = result.get("benchmark")
    # The name comes from a file: only a module that stands in this folder is imported.
    if not isinstance(name, str) or not name.isidentifier() or find_spec(f"..suites.{name}", __package__) is None:
        return None
    return import_module(f"..suites.{name}", __package__)


def tables(result: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the tables of a result by name, flat."""
    return {name: flat(value) for name, value in result.items() if name not in ASIDE and _is_table(value)}


def facts(result: Mapping[str, Any]) -> Row:
    """Return the cells of a result outside its tables."""
    return dict(_cells({name: value for name, value in result.items() if name not in ASIDE and not _is_table(value)}))


def flat(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return rows whose cells are scalars and lists of numbers."""
    found: list[Row] = []
    for row in rows:
        lists = {name: value for name, value in row.items() if name not in ASIDE and _is_table(value)}
        own = dict(_cells({name: value for name, value in row.items() if name not in (*ASIDE, *lists)}))
        entries = [dict(_cells({name: entry})) for name, listed in lists.items() for entry in listed]
        found += [own | entry for entry in entries] or [own]
    return found


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _cells(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, cell in value.items():
        if isinstance(cell, Mapping):
            yield from _cells(cell, f"{prefix}{name}.")
        elif not isinstance(cell, list):
            yield prefix + name, cell
        elif cell and all(isinstance(entry, str) for entry in cell):
            yield prefix + name, ", ".join(cell)
        elif cell and all(is_number(entry) for entry in cell):
            yield prefix + name, cell


def is_number(value: Any) -> bool:
    """Tell numbers from all else that JSON holds."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of all cells, in the order in which they come up."""
    return list(dict.fromkeys(name for row in rows for name in row))


def identifying(rows: Sequence[Sequence[Row]], module: ModuleType | None = None) -> list[str]:
    """Return the columns that tell rows apart.

    Those are the benchmark's own ``KEYS``, or else all texts; where that leaves rows alike, whole numbers
    join in, column by column.

    Parameters
    ----------
    rows : sequence of tables
        Flat; rows are told apart within each.
    module : module, optional
        Of the benchmark.
    """
    every = [row for table in rows for row in table]
    sound = [row for row in every if "error" not in row] or every
    names = [name for name in columns(sound) if name not in TEXTS]
    chosen = [name for name in getattr(module, "KEYS", ()) if name in names]
    chosen = chosen or [name for name in names if all(isinstance(row.get(name), str) for row in sound)]
    for name in names:
        if all(_distinct(table, chosen) for table in rows):
            break
        if name not in chosen and all(isinstance(row.get(name), int) for row in sound):
            chosen.append(name)
    return chosen


def _distinct(rows: Sequence[Row], names: Sequence[str]) -> bool:
    keys = [tuple(row.get(name) for name in names) for row in rows]
    return len(set(keys)) == len(keys)


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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; what would end a cell or begin a tag is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return [
        f"|{'|'.join(cells)}|" if cells[:1] == ["---"] else f"| {' | '.join(map(_escaped, cells))} |" for cells in lines
    ]


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;")


def machine_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a result was measured; nothing where that is not recorded."""
    machine = result.get("machine")
    return machine if isinstance(machine, dict) else {}


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return a machine in words, without versions, date and command."""
    units = {"processor": "{}", "cores": "{} cores", "memory_gib": "{} GiB"}
    aside = ("versions", "date", "command", "system", "python")
    return ", ".join(
        units.get(name, f"{name} {{}}").format(value)
        for name, value in _cells({name: value for name, value in machine.items() if name not in aside})
        if value is not None
    )
