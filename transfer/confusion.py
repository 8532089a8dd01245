"""The confusion matrix as a picture: PNG, SVG and what else matplotlib writes, or an HTML page."""

import html
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.fidelity import require_plotting, save_figure
from ..printable import shown
from ..saving import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_LABEL = 24
_MOST_COUNTED = 60
"""Classes up to which cells hold counts: in smaller cells they could not be read."""
_SMALL_CELL = 0.17
"""Inches of a cell without a count, which still has a label."""
_LARGEST_SIDE = 34.0
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aurevoir",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.15,
}
_STYLE = "body{margin:0 auto;padding:1rem;max-width:max-content;font-family:sans-serif;background:#fff;color:#222}"
_STYLE += "div{overflow-x:auto}svg{max-width:none}"


def draw_confusion(confusion: np.ndarray, classes: list[str], title: str = "") -> "Figure":
    """Draw a confusion matrix: colours are shares of the true class, so rows of few images show as those of many.

    Parameters
    ----------
    confusion : int64 array of shape (c, c)
        Images by true class (rows) and predicted class (columns).
    classes : list of str
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Its size grows with the number of classes, so that labels stay readable; cells of more than 60 classes hold no
        counts, and of more than 200 not every class is named.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    require_plotting()
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    count, counted = len(classes), len(classes) <= _MOST_COUNTED
    names = [_shortened(each) for each in classes]
    cell = float(np.clip(0.11 * len(str(confusion.max())) + 0.12, 0.3, 0.7)) if counted else _SMALL_CELL
    cell = min(cell, _LARGEST_SIDE / count)
    side, font = max(count * cell, 2.2), 9 if counted else 7
    margin = 0.7 + 0.011 * font * max(map(len, names))
    # Beside the matrix is room for the labels, and on the right for the bar of colours.
    width, height = margin + side + 1.2, margin + side + 0.6
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    # Of many classes each confusion has a small share, which a straight scale would leave white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="equal")
    labelled = range(0, count, int(np.ceil(_SMALL_CELL / cell)))
    axes.set_xticks(labelled, [names[each] for each in labelled], rotation=90, fontsize=font)
    axes.set_yticks(labelled, [names[each] for each in labelled], fontsize=font)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(_plain(title), fontsize=10)
    axes.tick_params(length=0)
    if cell >= _SMALL_CELL:
        _draw_grid(axes, count)
    if counted:
        _write_counts(axes, confusion, shares)
    tall = min(side, 3.0)
    bar = ((margin + side + 0.2) / width, (margin + side - tall) / height, 0.15 / width, tall / height)
    figure.colorbar(image, cax=figure.add_axes(bar), label="share of the true class", ticks=(0, 0.05, 0.2, 0.5, 1))
    return figure


def _draw_grid(axes: "Axes", count: int) -> None:
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#d0d0d0", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _write_counts(axes: "Axes", confusion: np.ndarray, shares: np.ndarray) -> None:
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = "white" if shares[row, column] > 0.4 else "black"
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8, color=colour)


def _shortened(name: str) -> str:
    name = shown(name).replace("\n", "\\n")
    if len(name) > _LONGEST_LABEL:
        name = f"{name[: _LONGEST_LABEL - 9]}…{name[-8:]}"
    return _plain(name)


def _plain(text: str) -> str:
    # Between dollar signs matplotlib reads formulas.
    return text.replace("$", r"\$")


def plot_confusion(confusion: np.ndarray, classes: list[str], path: str | Path, title: str = "") -> None:
    """Draw a confusion matrix into a file, whose ending is one of matplotlib's, or .html; see `draw_confusion`.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    SaveError
        If the file cannot be written.
    """
    figure = draw_confusion(confusion, classes, title)
    import matplotlib

    # Text stays text, which can be searched; and the same matrix gives the same bytes.
    with warnings.catch_warnings(), matplotlib.rc_context(_SETTINGS):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        if Path(path).suffix.lower() not in (".html", ".htm"):
            save_figure(figure, path)
            return
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="generator" content="aurevoir">\n'
        f"<title>{html.escape(title) or 'Confusion matrix'}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<div>{svg[svg.index('<svg') :]}</div>\n</body>\n</html>\n"
    )
    write_atomically(path, page.encode("utf-8", "backslashreplace"))
