"""Figures of the project's own results: nothing is cut or covered, promises are kept, and the files are current."""

import importlib.util
from functools import cache
from pathlib import Path

import matplotlib
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
from aurevoir.benchmarks.reporting.tables import read_result
from aurevoir.benchmarks.suites import rivals


@pytest.fixture(scope="module")
def plot_of(root):
    """What draws a result: the tool as a module, since it is no part of the package."""
    spec = importlib.util.spec_from_file_location("figures_tool", root / "tools" / "figures.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.plot_of


@pytest.fixture(scope="module")
def draw():
    """Draw, and return matplotlib's figures as they were saved."""

    def run(plot, *given):
        made = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(figures, "save_figure", lambda figure, path: made.append(figure))
            plot(*given, Path("not written.png"))
        (figure,) = made
        FigureCanvasAgg(figure)
        figure.set_dpi(150)
        figure.canvas.draw()
        return figure

    return run


@pytest.fixture(scope="module")
def figures_of(root, draw, plot_of):
    """A function from a result's name to what a report has of it, and what is next to its file."""

    @cache
    def run(name):
        result = read_result(root / "benchmarks" / "results" / f"{name}.json")
        reported = [draw(plot) for plot in charts(result).values()]
        plot = plot_of(result)
        if plot is None or name == "reliability":
            return reported, plot and draw(plot, result)
        return reported, reported[0]

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
    "accuracy-mobilenetv2", "accuracy-resnet50v2", "calibration-densenet169", "calibration-mobilenetv2", "cluster",
    "depth", "engines-cpu", "engines-efficientnet_lite0", "engines-mobilenetv2", "engines-resnet50v2_stage3",
    "engines-without-amx", "families", "gpu-h200", "gpu-h200-fused", "patches", "post-size", "projection",
    "projections-accuracy", "reliability", "ridge", "rivals-caltech10", "rivals-eurosat1000", "rivals-hymenoptera",
    "rivals-zoo", "scale", "scale-avx2", "startup", "table1-caltech10", "table1-generated", "threads", "time-to-model",
    "time-to-model-avx2", "time-to-model-densenet169-avx2",
]  # fmt: skip


def test_every_result_is_checked(root):
    assert sorted(path.stem for path in (root / "benchmarks" / "results").glob("*.json")) == RESULTS


@pytest.mark.parametrize("name", RESULTS)
def test_nothing_is_cut_or_covered(figures_of, name):
    reported, own = figures_of(name)
    assert reported
    for figure in [*reported, *([own] if own else [])]:
        _check(figure)


@pytest.mark.parametrize("name", RESULTS)
def test_the_figure_files_are_what_is_drawn_now(figures_of, root, name):
    figure, path = figures_of(name)[1], root / "benchmarks" / "results" / f"{name}.png"
    assert path.is_file() == (figure is not None)
    if figure:
        with Image.open(path) as file:
            assert file.size == figure.canvas.get_width_height(), "run `make figures`"
            # Another release of matplotlib sets and draws letters otherwise.
            if f"version{matplotlib.__version__}," in file.info["Software"]:
                drawn = np.asarray(figure.canvas.buffer_rgba(), dtype=int)
                assert np.abs(np.asarray(file.convert("RGBA"), dtype=int) - drawn).mean() < 0.01, "run `make figures`"


def test_what_is_cut_or_covered_is_found(draw):
    def plot(legend, place, label, path):
        with figures.figure(path, (4, 3)) as (whole, panels):
            panels[0, 0].plot([0, 1], [0, 1], label="a line")
            panels[0, 0].legend(loc=legend)
            whole.text(*place, label)

    _check(draw(plot, "upper left", (0.8, 0.4), "a text"))
    wrong = [
        ("upper right", (0.8, 0.4), "a text", "Line2D"),
        ("upper left", (0.8, 0.4), "a text that ends outside", "figwidth"),
        ("upper left", (0.2, 0.9), "a text on the legend", "a line"),
    ]
    for legend, place, label, complaint in wrong:
        with pytest.raises(AssertionError, match=complaint):
            _check(draw(plot, legend, place, label))


@pytest.mark.parametrize("name", ["threads", "reliability"])
def test_a_flat_line_is_off_the_frame(figures_of, name):
    for axes in figures_of(name)[1].axes:
        (line,) = axes.lines
        assert axes.get_ylim()[0] == 0
        assert 0.7 < max(line.get_ydata()) / axes.get_ylim()[1] < 0.8


def test_rivals_promise_whiskers_where_there_are_some(draw, figures_of, committed):
    several, one = (figures_of(f"rivals-{name}")[1] for name in ("caltech10", "zoo"))
    assert sum(isinstance(each, ErrorbarContainer) for each in several.axes[0].containers) == 17
    assert sum(isinstance(each, ErrorbarContainer) for each in one.axes[0].containers) == 0
    assert several.axes[0].get_xlabel() == "accuracy, mean and standard error of 3 splits of 300 images"
    assert one.axes[0].get_xlabel() == "accuracy, one split of 244 images"
    result = committed("rivals-caltech10")
    result["rows"][0] |= {"standard_error": None}
    mixed = draw(rivals.plot, result)
    assert mixed.axes[0].get_xlabel().endswith("\nno whisker: one split")


def test_rivals_name_random_weights_colours_chance_and_data_sets(figures_of):
    figure = figures_of("rivals-zoo")[1]
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


def test_a_legend_has_the_stages_that_can_be_seen(figures_of):
    (legend,) = _legends(figures_of("post-size")[1])
    assert [each.get_text() for each in legend.get_texts()] == ["project", "Gram", "ridge", "predict"]
