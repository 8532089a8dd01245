"""The page of ``aurevoir review``: pictures to look through, of each kind of finding."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from ..page import cards, contents, page, picture, section, tag

if TYPE_CHECKING:
    from ..transfer.review import Review

_STYLE = """
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .25rem; }
.pairs .cards { grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
.rather { font-weight: 600; }
"""
_EXPLAINED = {
    "labels": "A classifier that has not seen the image prefers another label; the most suspicious come first.",
    "conflicts": "The same photograph under two labels: one of them is wrong, or it has both.",
    "leaks": "Test images that are copies of training images: the accuracy on them is too high.",
    "copies": "The same photograph again, resized, compressed or mirrored: it counts twice.",
}
_HEADINGS = {
    "labels": "Contradicted labels",
    "conflicts": "Copies under another label",
    "leaks": "Copies among the test images",
    "copies": "Copies under the same label",
}


def review_page(found: "Review", name: str, most: int) -> bytes:
    """Return the page as bytes of HTML.

    Parameters
    ----------
    found : Review
    name : str
        What was reviewed.
    most : int
        How many of a kind are shown; those that are left out are said.
    """
    lists = found.lists()
    shown = {key: each[:most] for key, each in lists.items()}
    pictures = _pictures([row for each in shown.values() for row in each])
    sections = [
        _section(key, each, len(lists[key]), pictures)
        for key, each in shown.items()
        if each or key in ("labels", "copies")
    ]
    counts = [
        f"{_HEADINGS[key].lower()}: {len(each):,d}" for key, each in lists.items() if key != "leaks" or found.tested
    ]
    summary = f"{len(found.images):,d} training images; {', '.join(counts)}"
    advice = (
        "Write the table with --csv, delete the rows of images that shall stay, and give it to aurevoir refit: "
        "--remove leaves the images out, --relabel gives them the suggested labels."
    )
    head = [tag("p", f"{summary}."), tag("p", advice, class_="note"), contents(sections)]
    return page(f"aurevoir: review of {name}", *head, tag("main", *sections), style=_STYLE)


def _pictures(rows: Sequence[dict[str, Any]]) -> Callable[[str], Element]:
    """Return a function from a file to its picture, or to a word where it cannot be read any more."""
    from ..images.thumbnail import thumbnails

    paths = list(dict.fromkeys(path for row in rows for path in (row["path"], row.get("other")) if path is not None))
    small = dict(zip(paths, thumbnails(paths), strict=True))

    def shown(path: str) -> Element:
        data = small[path]
        return tag("p", "not readable", class_="error") if data is None else picture(data, path, "jpeg")

    return shown


def _section(key: str, rows: Sequence[dict[str, Any]], total: int, shown: Callable[[str], Element]) -> Element:
    heading = f"{_HEADINGS[key]}: {total:,d}"
    said = [tag("p", _EXPLAINED[key])]
    if total > len(rows):
        said.append(tag("p", f"The first {len(rows):,d} are shown (--top).", class_="note"))
    if not rows:
        return section(heading, tag("p", "None."), anchor=key)
    if key == "labels":
        return section(heading, *said, cards(_card(row, shown) for row in rows), anchor=key)
    pairs = tag("div", cards(_pair(key, row, shown) for row in rows), class_="pairs")
    return section(heading, *said, pairs, anchor=key)


def _named(label: Any) -> str:
    return ", ".join(map(str, label)) or "none" if isinstance(label, list) else str(label)


def _card(row: dict[str, Any], shown: Callable[[str], Element]) -> list[Element | str]:
    return [
        shown(row["path"]),
        tag("div", f"labelled {_named(row['label'])} ({row['probability']:.1%})"),
        tag("div", f"rather {_named(row['suggested'])} ({row['suggested_probability']:.1%})", class_="rather"),
        tag("div", row["path"], class_="file"),
    ]


def _pair(key: str, row: dict[str, Any], shown: Callable[[str], Element]) -> list[Element | str]:
    labels = [_named(row["label"]), "test image" if key == "leaks" else _named(row["other_label"])]
    sides = [
        tag("div", shown(path), tag("div", label), tag("div", path, class_="file"))
        for path, label in zip((row["path"], row["other"]), labels, strict=True)
    ]
    how = "mirrored" if row["mirrored"] else "not mirrored"
    return [tag("div", *sides, class_="pair"), tag("div", f"{how}; distance of bits {row['distance']:.3f}")]
