"""Figures of a result: its benchmark's own, else what its columns allow."""

from collections.abc import Callable, Sequence
from pathlib import Path

from .. import registry
from ..contract import Cells, Json, Spread
from ..harness.splits import standard_error
from .figures import draw_stages, figure, sound
from .tables import identifying, tables
from .text import is_number

STAGES = ("timings", "stages", "seconds")
"""Names of cells that hold seconds by stage."""

TALLEST = 40
"""Rows that a figure has room for."""

LONGEST = 40
"""Letters of a row's name that a figure has room for."""

Draw = Callable[[Path], None]


def charts(result: Json) -> dict[str, Draw]:
    """Return what can be drawn of a result, by title; each writes one figure to a path."""
    benchmark = registry.find(result.get("benchmark"))
    every = sound(tables(result).get("rows", []))
    rows = every[:TALLEST]
    part = f", first {len(rows)} of {len(every)} rows" if len(rows) < len(every) else ""
    names = identifying([rows], benchmark)
    labels = _labels(rows, names)
    found: dict[str, Draw] = {}
    plot = benchmark.plot if benchmark and rows else None
    if plot:
        found["overview"] = lambda path: plot(result, path)
    if stages := _stages(rows):
        found[f"seconds by stage{part}"] = lambda path: _bars(path, rows, labels, stages)
    if found:
        return found
    numbers = [name for name in _numbers(rows) if name not in names]
    value = next((name for ending in ("accuracy", "seconds") for name in numbers if name.endswith(ending)), None)
    value = value or next(iter(numbers), None)
    if value is None:
        return {}
    spread = benchmark.spreads.get(value) if benchmark else None
    return {f"{value}{part}": lambda path: _dots(path, rows, labels, value, spread)}


def _labels(rows: Sequence[Cells], names: Sequence[str]) -> list[str]:
    telling = [name for name in names if len({str(row.get(name)) for row in rows}) > 1]
    return [" ".join(str(row[name]) for name in telling if name in row)[:LONGEST] for row in rows]


def _numbers(rows: Sequence[Cells]) -> list[str]:
    """Return the columns in which every row has a number."""
    return [name for name in (rows[0] if rows else ()) if all(is_number(row.get(name)) for row in rows)]


def _stages(rows: Sequence[Cells]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [name for name in names if name.partition(".")[0] in STAGES and "." in name and not name.endswith(".total")]


def _height(rows: int) -> float:
    return 1.2 + 0.26 * rows


def _bars(path: Path, rows: Sequence[Cells], labels: Sequence[str], stages: Sequence[str]) -> None:
    with figure(path, (8, _height(len(rows) + len(stages) // 4))) as (whole, panels):
        draw_stages(
            panels[0, 0],
            labels,
            {stage.partition(".")[2]: [row.get(stage) or 0.0 for row in rows] for stage in stages},
        )
        whole.legend(loc="outside upper center", ncols=4)


def _dots(path: Path, rows: Sequence[Cells], labels: Sequence[str], value: str, spread: Spread | None) -> None:
    recorded = [row.get(spread.column) if spread else None for row in rows]
    whiskers = [(standard_error(own) if isinstance(own, list) else own) or 0.0 for own in recorded]
    with figure(path, (8, _height(len(rows)))) as (_, panels):
        axes = panels[0, 0]
        axes.errorbar(
            [row[value] for row in rows], range(len(rows)), xerr=whiskers, fmt="o", color="tab:red", capsize=2
        )
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        axes.set_xlabel(value + (" ± standard error" if any(whiskers) else ""))
