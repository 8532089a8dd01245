"""Figures: what all drawings share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...calibration.fidelity import save_figure
from ..harness.scaling import Series

Axes = Any
"""Matplotlib's: it is imported only to draw."""

MARKERS = "osD^vP*X"
_LINES = {"aurevoir": "-", "peer": "--"}


@contextmanager
def figure(
    path: str | Path, size: tuple[float, float], panels: tuple[int, int] = (1, 1), **options: Any
) -> Iterator[Any]:
    """Yield a figure and rows of its panels, with grids; write it when the block ends.

    Parameters
    ----------
    path : path
        Its ending names the format.
    size : (width, height)
        In inches.
    panels : (rows, columns)
    **options
        Of ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=size, layout="constrained")
    rows = made.subplots(*panels, squeeze=False, **options)
    for axes in rows.flat:
        axes.grid(alpha=0.3)
    yield made, rows
    save_figure(made, path)


def draw_stages(axes: Axes, names: Sequence[str], seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """Draw the seconds of each stage end to end, a bar a row, the first row on top; return where each bar ends."""
    indices, ends = range(len(names)), [0.0] * len(names)
    for stage, widths in seconds.items():
        axes.barh(indices, widths, left=ends, label=stage)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(indices, names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    return ends


def draw_scaling(axes: Axes, series: Mapping[str, Series]) -> None:
    """Draw seconds over sizes by name, both logarithmic, with the fitted exponents in the legend."""
    for index, (name, own) in enumerate(series.items()):
        slope = own.exponent
        label = name if slope is None else f"{name}: exponent {slope:.2f}"
        axes.plot(own.sizes, own.seconds, MARKERS[index % 8] + _LINES[own.group], markersize=5, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({size for own in series.values() for size in own.sizes})
    axes.set_xticks(ticks, [f"{size:,d}" for size in ticks], rotation=30)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)


def sound(rows: Iterable[Any]) -> list[Any]:
    """Return the rows that did not fail."""
    return [row for row in rows if "error" not in row]
