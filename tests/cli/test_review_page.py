"""The page of a review: each kind of finding, its pictures, on a phone and in the dark."""

from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from aurevoir.cli.review_page import review_page
from aurevoir.transfer.copies import Copy
from aurevoir.transfer.review import Review, Suspect

EVIL = "<script>x</script>\u202e"


@pytest.fixture
def found(tmp_path):
    """A review of twelve images, with names that would be markup, of which two files are not there any more."""
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{EVIL.replace('/', '.')}{number}-{'long' * 20}.png" for number in range(12)]
    for number, path in enumerate(paths[:10]):
        size = (300, 80) if number % 2 else (80, 300)
        Image.fromarray(random.integers(0, 256, (*size, 3), "uint8")).save(path)
    names = tuple(map(str, paths))
    suspected = [Suspect(row, EVIL, "b" * 60, 0.01 * row, 0.9) for row in range(12)]
    conflicts, copies = [Copy(3, 2, True, 0.2, 0.1)], [Copy(5, 4, False, 0.1, 0.02), Copy(11, 0, False, 0.3, None)]
    return Review(names, [EVIL] * 12, suspected, conflicts, copies, names[6:9], [Copy(1, 7, True, 0.2, 0.1)])


def _tags(html):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append(tag)
    parser.feed(html)
    return found


def test_everything_is_shown_and_escaped(found):
    html = review_page(found, EVIL, 200).decode()
    assert "script" not in _tags(html)
    assert "\u202e" not in html
    for heading in ("Contradicted labels: 12", "Copies under another label: 1", "Copies among the test images: 1"):
        assert heading in html
    assert "Copies under the same label: 2" in html
    # Two files of the labels are not there, and one of the copies.
    assert html.count("<img") == 10 + 2 + 2 + 3
    assert html.count("not readable") == 3
    assert html.count("data:image/jpeg;base64,") == html.count("<img")


def test_no_more_than_is_wanted_is_shown_and_what_is_left_out_is_said(found):
    html = review_page(found, "model", 3).decode()
    assert html.count("<img") == 3 + 2 + 2 + 3
    assert "The first 3 are shown" in html
    assert "Contradicted labels: 12" in html


def test_a_review_of_nothing_says_so():
    html = review_page(Review(("a",), ["x"], [], [], []), "model", 10).decode()
    assert html.count("None.") == 2
    assert "test images" not in html


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, found, tmp_path, scheme):
    path = tmp_path / "page.html"
    path.write_bytes(review_page(found, EVIL, 200))
    shown = browser.show(path, 360, 740, scheme)
    assert (shown.width, shown.viewport) == (360, 360)
    assert (shown.console, shown.requests) == ([], [])
