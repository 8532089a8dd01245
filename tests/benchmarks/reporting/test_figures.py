"""Figures of the project's own results: nothing is cut or covered, promises are kept, and the files are current."""

import importlib.util

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from aurevoir.benchmarks.harness.datasets import shown_name
from aurevoir.benchmarks.reporting import figures
from aurevoir.benchmarks.reporting.charts import charts
from aurevoir.benchmarks.suites import rivals


@pytest.fixture(scope="module")
def plot_of(root):
    """What draws a result: the tool as a module, since it is no part of the package."""
    spec = importlib.util.spec_from_file_location("figures_tool", root / "tools" / "figures.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.plot_of


@pytest.fixture
def draw(monkeypatch):
    """Draw, and return matplotlib's figures as they were saved."""

    def run(plot, *given):
        made = []
        monkeypatch.setattr(figures, "save_figure", lambda figure, path: made.append(figure))
        plot(*given)
        (figure,) = made
        FigureCanvasAgg(figure)
        figure.set_dpi(150)
        figure.draw_without_rendering()
        return figure

    return run


def _texts(figure):
    """Every text that is seen, with its box, but rotated ones, whose boxes are larger than they."""
    axises = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    # An axis keeps the labels of ticks beyond its ends, and does not draw them.
    beyond = {
        label
        for axis in axises
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    shown = (text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in beyond)
    # Without the arrows of annotations.
    return [(text.get_text(), Text.get_window_extent(text)) for text in shown if not text.get_rotation()]


def _legends(figure):
    return [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]


def _covered(figure, box):
    """Return what of the data is under a box."""
    for axes in figure.axes:
        for line in axes.lines:
            path = line.get_path().transformed(line.get_transform())
            if len(path.vertices) and (box.count_contains(path.vertices) or path.intersects_bbox(box, filled=False)):
                yield line
        yield from (patch for patch in axes.patches if box.overlaps(patch.get_window_extent()))
        for each in axes.collections:
            yield from (
                each for path in each.get_paths() if path.transformed(each.get_transform()).intersects_bbox(box)
            )


def _check(figure):
    inside = figure.get_tightbbox()
    assert inside.x0 >= 0
    assert inside.y0 >= 0
    assert inside.x1 <= figure.get_figwidth()
    assert inside.y1 <= figure.get_figheight()
    for legend in _legends(figure):
        assert list(_covered(figure, legend.get_window_extent())) == []
    texts = _texts(figure)
    for index, (text, box) in enumerate(texts):
        smaller = Bbox.from_extents(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)
        assert [other for other, own in texts[index + 1 :] if own.overlaps(smaller)] == [], text


RESULTS = [
    "accuracy-mobilenetv2", "accuracy-resnet50v2", "calibration-densenet169", "calibration-mobilenetv2", "depth",
    "engines-cpu", "families", "gpu-h200", "patches", "post-size", "projection", "projections-accuracy", "reliability",
    "ridge", "rivals-caltech10", "rivals-hymenoptera", "rivals-zoo", "startup", "table1-caltech10", "table1-generated",
    "threads",
]  # fmt: skip


def test_every_result_is_checked(root):
    assert sorted(path.stem for path in (root / "benchmarks" / "results").glob("*.json")) == RESULTS


@pytest.mark.parametrize("name", RESULTS)
def test_nothing_is_cut_or_covered(draw, committed, plot_of, name, tmp_path):
    result = committed(name)
    plots = list(charts(result).values())
    if name == "reliability":
        plots.append(lambda path: plot_of(result)(result, path))
    assert plots
    for plot in plots:
        _check(draw(plot, tmp_path / "x.png"))


def test_what_is_cut_or_covered_is_found(draw, tmp_path):
    def plot(path, legend, label):
        with figures.figure(path, (4, 3)) as (_, panels):
            panels[0, 0].plot([0, 1], [0, 1], label=label)
            panels[0, 0].legend(loc=legend)

    _check(draw(plot, tmp_path / "x.png", "upper left", "a line"))
    with pytest.raises(AssertionError):
        _check(draw(plot, tmp_path / "x.png", "upper right", "a line"))
    with pytest.raises(AssertionError):
        _check(draw(plot, tmp_path / "x.png", "upper left", "a line of a name that is far too long for it" * 2))


def test_the_figure_files_are_what_is_drawn_now(root, committed, plot_of, tmp_path):
    files = sorted((root / "benchmarks" / "results").glob("*.png"))
    assert len(files) >= 16
    for path in files:
        plot_of(committed(path.stem))(committed(path.stem), tmp_path / path.name)
        old, new = (Image.open(each).convert("L") for each in (path, tmp_path / path.name))
        assert old.size == new.size, "run `make figures`"
        # Fonts differ a little among matplotlib's releases: what is compared is coarse.
        small = [np.asarray(each.reduce(8), dtype=float) for each in (old, new)]
        assert np.abs(small[0] - small[1]).mean() < 2, f"{path.name}: run `make figures`"


@pytest.mark.parametrize("name", ["threads", "reliability"])
def test_a_flat_line_is_off_the_frame(draw, committed, plot_of, name, tmp_path):
    for axes in draw(plot_of(committed(name)), committed(name), tmp_path / "x.png").axes:
        (line,) = axes.lines
        assert axes.get_ylim()[0] == 0
        assert 0.7 < max(line.get_ydata()) / axes.get_ylim()[1] < 0.8


def test_rivals_promise_whiskers_where_there_are_some(draw, committed, tmp_path):
    several, one = (draw(rivals.plot, committed(f"rivals-{name}"), tmp_path / "x.png") for name in ("caltech10", "zoo"))
    assert sum(isinstance(each, ErrorbarContainer) for each in several.axes[0].containers) == 17
    assert sum(isinstance(each, ErrorbarContainer) for each in one.axes[0].containers) == 0
    assert several.axes[0].get_xlabel() == "accuracy, mean and standard error of 3 splits of 300 images"
    assert one.axes[0].get_xlabel() == "accuracy, one split of 244 images"
    result = committed("rivals-caltech10")
    result["rows"][0] |= {"standard_error": None}
    mixed = draw(rivals.plot, result, tmp_path / "x.png")
    assert mixed.axes[0].get_xlabel().endswith("\nno whisker: one split")


def test_rivals_name_random_weights_colours_chance_and_data_sets(draw, committed, tmp_path):
    figure = draw(rivals.plot, committed("rivals-zoo"), tmp_path / "x.png")
    accuracy, seconds = figure.axes
    labels = [each.get_text() for each in accuracy.get_yticklabels()]
    assert labels[0] == "projection auto"
    assert sum(label.endswith(", random weights") for label in labels) == 14
    assert "squeezenet1_1 deep" in labels
    (legend,) = figure.legends
    words = [each.get_text() for each in legend.get_texts()]
    assert "the same from random weights: compare only the seconds" in words
    assert "chance, one of 2 classes" in words
    assert accuracy.get_title() == "hymenoptera"
    colours = {patch.get_facecolor() for patch in accuracy.patches}
    assert colours == {handle.get_facecolor() for handle in legend.legend_handles if handle in legend.get_patches()}
    (chance,) = [line for line in accuracy.lines if line.get_label().startswith("chance")]
    assert list(chance.get_xdata()) == [0.5, 0.5]
    assert seconds.get_xscale() == "log"
    assert len(seconds.patches) == 0


def test_data_sets_keep_the_folders_around_them_where_only_these_distinguish_them():
    assert shown_name("data/caltech10", ["data/caltech10", "hymenoptera/train"]) == "caltech10"
    assert shown_name("hymenoptera/train", ["hymenoptera/train"]) == "hymenoptera"
    assert shown_name("hymenoptera/train", ["hymenoptera/train", "hymenoptera/val"]) == "hymenoptera/train"
    assert shown_name("generated", ["generated"]) == "generated"


def test_a_legend_has_the_stages_that_can_be_seen(draw, committed, tmp_path):
    figure = draw(next(iter(charts(committed("post-size")).values())), tmp_path / "x.png")
    (legend,) = _legends(figure)
    assert [each.get_text() for each in legend.get_texts()] == ["project", "Gram", "ridge", "predict"]
