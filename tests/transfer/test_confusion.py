import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from aurevoir.transfer.confusion import draw_confusion, plot_confusion


def matrix(count, images=50):
    shares = np.full((count, count), 0.3 / count) + 0.7 * np.eye(count)
    return np.random.default_rng(0).multinomial(images, shares / shares.sum(axis=1, keepdims=True))


def boxes(texts, figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer) for text in texts]


@pytest.mark.parametrize("count", [2, 3, 10, 60, 61, 100, 200, 250])
def test_labels_do_not_overlap_and_lie_in_the_picture(count):
    names = [f"class {number} of a rather long name" for number in range(count)]
    figure = draw_confusion(matrix(count), names, "accuracy 0.700 (0.650 to 0.750)")
    axes = figure.axes[0]
    labels = axes.get_yticklabels()
    assert len(labels) == count if count <= 200 else 50 < len(labels) < count
    assert all(label.get_fontsize() >= 7 for label in labels)
    for ticks, edges in ((labels, ("y0", "y1")), (axes.get_xticklabels(), ("x0", "x1"))):
        spans = sorted((getattr(box, edges[0]), getattr(box, edges[1])) for box in boxes(ticks, figure))
        assert all(later[0] >= before[1] for before, later in pairwise(spans))
        assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes(ticks, figure))


@pytest.mark.parametrize(("count", "images"), [(2, 60), (2, 3_000_000), (10, 50), (60, 5000)])
def test_counts_fit_into_their_cells(count, images):
    confusion = matrix(count, images)
    figure = draw_confusion(confusion, [str(number) for number in range(count)])
    axes = figure.axes[0]
    assert sorted(int(text.get_text()) for text in axes.texts) == sorted(confusion[confusion > 0].tolist())
    cell = axes.get_window_extent().width / count
    assert all(box.width < cell and box.height < cell for box in boxes(axes.texts, figure))


def test_many_classes_have_no_counts():
    assert not draw_confusion(matrix(61), list(map(str, range(61)))).axes[0].texts


def test_colours_are_shares_of_the_true_class():
    confusion = np.array([[900, 100, 0], [1, 9, 0], [0, 0, 0]])
    shown = draw_confusion(confusion, ["a", "b", "c"]).axes[0].images[0]
    np.testing.assert_allclose(shown.get_array(), [[0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0, 0]])
    assert (shown.norm.vmin, shown.norm.vmax) == (0, 1)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "html"])
def test_every_form_is_written(tmp_path, ending):
    path = tmp_path / f"c.{ending}"
    plot_confusion(matrix(3), ["cat", "dog", "bird"], path, "accuracy")
    head = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype html>"}
    assert path.read_bytes().startswith(head[ending])


NAMES = ["$x$ and $", "<script>alert(1)</script>", "two\nlines", "\x1b[31mred", "caf\udce9", "日本", "x" * 300]


@pytest.mark.filterwarnings("error")
def test_names_of_any_kind_are_text(tmp_path):
    confusion = matrix(len(NAMES))
    plot_confusion(confusion, NAMES, tmp_path / "c.svg")
    texts = [
        "".join(each.itertext()) for each in ElementTree.parse(tmp_path / "c.svg").iter() if each.tag.endswith("text")
    ]
    for name in ("$x$ and $", "<script>alert(1)</script>", r"two\nlines", r"\x1b[31mred", r"caf\udce9", "日本"):
        assert texts.count(name) == 2 or (len(name) > 24 and any(text.startswith(name[:15]) for text in texts))
    assert any(re.fullmatch("x{15}…x{8}", text) for text in texts)


def test_the_page_needs_nothing_else_and_is_the_same_every_time(tmp_path):
    class Tags(HTMLParser):
        found: list

        def handle_starttag(self, tag, attributes):
            self.found.append((tag, dict(attributes)))

    for name in ("a.html", "b.html"):
        plot_confusion(matrix(len(NAMES)), NAMES, tmp_path / name, "<b>accuracy</b>")
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    parser = Tags()
    parser.found = []
    parser.feed(page)
    tags = {tag for tag, _ in parser.found}
    assert {"html", "svg", "text"} <= tags
    assert not tags & {"script", "img", "link", "iframe", "b"}
    links = [
        value
        for _, attributes in parser.found
        for key, value in attributes.items()
        if key in ("href", "src", "xlink:href")
    ]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in parser.found
