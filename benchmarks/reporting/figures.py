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
COLOURS = {"aurevoir": "#0b6e8f", "peer": "#c2571a", "float": "0.45", "probe": "#7a5195", "random": "#e9c1a8"}
"""Of aurevoir, of what it is compared with, of what is not quantized, of linear probes, and of random weights."""

STAGES = {
    "decode": ("decode files", "0.7"),
    "upload": ("copy to the device", "0.7"),
    "engine": ("network", "tab:orange"),
    "draw": ("draw R", "tab:olive"),
    "project": ("project", "tab:green"),
    "gram": ("Gram", "tab:purple"),
    "solve": ("ridge", "tab:blue"),
    "predict": ("predict", "tab:pink"),
}
"""Stages in words, and their colours: the same in every figure."""

ROOM = 1.3
"""What an axis from zero shows, of the largest value: a flat line at the frame would be hidden."""

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
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    made = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    rows = made.subplots(*panels, squeeze=False, **options)
    for axes in rows.flat:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    yield made, rows
    save_figure(made, path)


def legend_beside(axes: Axes) -> None:
    """Explain what is drawn in a panel on its right, off the data."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def legend_below(whole: Any, entries: Mapping[str, Any], columns: int = 4) -> None:
    """Explain what is drawn in all panels below them: by labels, colours or what was drawn."""
    from matplotlib.patches import Patch

    handles = [Patch(color=each) if isinstance(each, str) else each for each in entries.values()]
    whole.legend(handles, list(entries), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def drawn(panels: Iterable[Axes]) -> dict[str, Any]:
    """Return what is drawn in some panels by its label, each label once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


def draw_memory(axes: Axes, series: Iterable[Sequence[float]], over: str) -> None:
    """Draw resident megabytes over counts, from zero, with room above."""
    counts, sizes = zip(*series, strict=True)
    axes.plot(counts, sizes)
    axes.set_ylim(0, ROOM * max(sizes))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(over)
    axes.set_ylabel("resident memory (MB)")


def draw_stages(axes: Axes, names: Sequence[str], seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """Draw the seconds of each stage end to end, a bar a row, the first row on top; return where each bar ends.

    A stage that would be too thin to be seen in any bar is left out of the legend.
    """
    indices, ends = range(len(names)), [0.0] * len(names)
    longest = max(map(sum, zip(*seconds.values(), strict=True)), default=0.0)
    for stage, widths in seconds.items():
        words, colour = STAGES.get(stage, (stage, None))
        label = words if max(widths, default=0.0) > longest / 1000 else None
        axes.barh(indices, widths, left=ends, label=label, color=colour)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(indices, names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    return ends


def draw_scaling(axes: Axes, series: Mapping[str, Series], title: str | None = None) -> None:
    """Draw seconds over sizes by name, both logarithmic, with the fitted exponents in the legend, above the panel."""
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
    legend = axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    legend.set_title(title, {"size": 12})


def sound(rows: Iterable[Any]) -> list[Any]:
    """Return the rows that did not fail."""
    return [row for row in rows if "error" not in row]
