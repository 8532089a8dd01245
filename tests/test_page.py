"""Pages that stand alone: everything is escaped, whatever texts hold, and a browser shows them on a phone."""

import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from aurevoir.page import cards, cell, contents, listing, page, picture, row, section, table, tag

EVIL = "<script>alert(1)</script>&amp;\"'\ud800 \x1b]0;x\x07"
SHOWN = "<script>alert(1)</script>&amp;\"'\\ud800 \\x1b]0;x\\x07"


def png(side=8):
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 200, "uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def made():
    texts = tag("p", EVIL, tag("b", EVIL), EVIL)
    rows = [row(EVIL, 3.5), row("a" * 50, cell("1 %", "number"))]
    images = cards([picture(png(), EVIL), EVIL * 40] for _ in range(3))
    parts = [
        section("Of texts", texts, listing({EVIL: EVIL}), anchor="texts"),
        section("Of tables", table(EVIL, ["name", EVIL], rows), anchor="tables"),
        section("Of pictures", images, anchor="pictures"),
    ]
    return page(EVIL, contents(parts), tag("main", *parts))


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_texts_and_attributes_are_escaped_whatever_they_hold():
    elements = Elements(made().decode())
    assert "script" not in {name for name, _ in elements.found}
    title, texts, tables, pictures = 2, 5, 3, 3 * 40
    assert "".join(elements.texts).count(SHOWN) == title + texts + tables + pictures
    assert [attributes["alt"] for name, attributes in elements.found if name == "img"] == [SHOWN] * 3


def test_the_same_elements_give_the_same_bytes_which_begin_as_a_page_of_aurevoirs_is_known_by():
    assert made() == made()
    assert made().startswith(b'<!doctype html>\n<html lang="en">')


def test_cells_of_numbers_and_long_texts_have_their_classes():
    classes = [cell(value).get("class") for value in (3, 2.5, "3", "x" * 41)]
    assert classes == ["number", "number", "", "long"]
    assert cell("bad", "error").get("class") == "error"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_a_page_on_a_phone_without_scrolling_sideways(browser, tmp_path, scheme):
    path = tmp_path / "page.html"
    path.write_bytes(made())
    shown = browser.show(path, 360, 740, scheme)
    assert (shown.width, shown.viewport) == (360, 360)
    assert (shown.console, shown.requests) == ([], [])
    assert (np.median(shown.pixels) > 128) == (scheme == "light")


def test_the_browser_hears_what_a_page_must_not_do(browser, tmp_path):
    path = tmp_path / "page.html"
    wide = tag("div", "wide", style="width: 900px")
    loads = tag("img", src="http://127.0.0.1:1/x.png", alt="")
    path.write_bytes(page("A page", tag("script", "undefined.x"), wide, loads))
    shown = browser.show(path, 360, 740)
    assert shown.width > 360
    assert shown.requests == ["http://127.0.0.1:1/x.png"]
    assert any("Cannot read properties of undefined" in each for each in shown.console)
