"""Figures of a result: its benchmark's own, else what its columns allow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..harness.splits import standard_error
from .tables import Row, benchmark_of, identifying, is_number, tables

STAGES = ("timings", "stages", "seconds")
"""Names of cells that hold seconds by stage."""

TALLEST = 40
"""Rows that a figure has room for."""

LONGEST = 40
"""Letters of a row's name that a figure has room for."""

Draw = Callable[[Path], None]


def charts(result: Mapping[str, Any]) -> dict[str, Draw]:
    """Return what can be drawn of a result, by title; each writes one figure to a path."""
    module = benchmark_of(result)
    sound = [row for row in tables(result).get("rows", []) if "error" not in row]
    rows = sound[:TALLEST]
    part = f", first {len(rows)} of {len(sound)} rows" if len(rows) < len(sound) else ""
    names = identifying([rows], module)
    labels = _labels(rows, names)
    found: dict[str, Draw] = {}
    plots = bool(rows) and hasattr(module, "plot")
    if plots:
        found["overview"] = lambda path: module.plot(result, path)  # type: ignore[union-attr]
    if stages := _stages(rows):
        found[f"seconds by stage{part}"] = lambda path: _bars(path, rows, labels, stages)
    if plots:
        return found
    quality, cost = _column(rows, "accuracy"), _column(rows, "seconds", "total", "second")
    if quality and cost:
        found[f"{quality} against {cost}{part}"] = lambda path: _scatter(path, rows, labels, cost, quality)
    if found:
        return found
    value = quality or cost or next((name for name in _numbers(rows) if name not in names), None)
    spread = getattr(module, "SPREADS", {}).get(value, ("", ""))
    return {f"{value}{part}": lambda path: _dots(path, rows, labels, value, spread)} if value else {}


def _labels(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    telling = [name for name in names if len({str(row.get(name)) for row in rows}) > 1]
    return [" ".join(str(row[name]) for name in telling if name in row)[:LONGEST] for row in rows]


def _numbers(rows: Sequence[Row]) -> list[str]:
    """Return the columns in which every row has a number."""
    return [name for name in (rows[0] if rows else ()) if all(is_number(row.get(name)) for row in rows)]


def _column(rows: Sequence[Row], *endings: str) -> str | None:
    found = _numbers(rows)
    return next((name for ending in endings for name in found if name.rpartition(".")[2].endswith(ending)), None)


def _stages(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [name for name in names if name.partition(".")[0] in STAGES and "." in name and not name.endswith(".total")]


def _axes(rows: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.26 * rows), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _bars(path: Path, rows: Sequence[Row], labels: Sequence[str], stages: Sequence[str]) -> None:
    figure, axes = _axes(len(rows) + len(stages) // 4)
    places, left = range(len(rows)), [0.0] * len(rows)
    for stage in stages:
        widths = [row.get(stage) or 0.0 for row in rows]
        axes.barh(places, widths, left=left, label=stage.partition(".")[2])
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    figure.legend(loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=150)


def _dots(path: Path, rows: Sequence[Row], labels: Sequence[str], value: str, spread: tuple[str, ...]) -> None:
    figure, axes = _axes(len(rows))
    recorded = [row.get(spread[1]) for row in rows]
    whiskers = [(standard_error(own) if isinstance(own, list) else own) or 0.0 for own in recorded]
    axes.errorbar([row[value] for row in rows], range(len(rows)), xerr=whiskers, fmt="o", color="tab:red", capsize=2)
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(value + (" ± standard error" if any(whiskers) else ""))
    figure.savefig(path, dpi=150)


def _scatter(path: Path, rows: Sequence[Row], labels: Sequence[str], cost: str, quality: str) -> None:
    figure, axes = _axes(max(12, len(rows)))
    colours = [f"C{place}" for place in range(10)]
    for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
        axes.plot(row[cost], row[quality], "os^Dv"[place // 10 % 5], color=colours[place % 10], label=label)
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel(cost)
    axes.set_ylabel(quality)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=150)


def plot_confusion(confusion: Sequence[Sequence[int]], path: Path) -> None:
    """Draw a confusion matrix of many classes: shares of each true class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="viridis"), label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.savefig(path, dpi=150)
