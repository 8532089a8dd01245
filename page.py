"""HTML pages that stand alone: one file with its style and its pictures, no script, nothing loaded from anywhere.

A page is built as a tree by the standard library's ElementTree, which escapes every text and attribute as it writes;
no string of a result, a file name or a class is ever pasted into HTML. It suits phones and dark mode.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from xml.etree.ElementTree import Element, tostring

from .printable import shown

LONG = 40
"""Letters beyond which a cell of a table breaks into lines."""

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --bad: #b00020; --good: #00695c; --mark: #1565c0; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #80cbc4; --mark: #90caf9; } }
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 0 1rem 3rem; }
body { overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { white-space: nowrap; background: var(--soft); }
td { white-space: nowrap; }
td.number, th.number { text-align: right; }
td.long { white-space: normal; min-width: 20rem; overflow-wrap: anywhere; }
:is(td, th):first-child { position: sticky; left: 0; background: Canvas; }
.error { color: var(--bad); }
.note { opacity: .8; max-width: 45rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; }
nav li { list-style: none; }
figure { margin: 1rem 0; }
figure.scroll img { width: 100%; min-width: 40rem; max-width: 56rem; background: white; border-radius: .25rem; }
pre { white-space: pre-wrap; background: var(--soft); padding: .6rem .8rem; border-radius: .4rem; }
dl { display: grid; grid-template-columns: fit-content(45%) 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem .75rem; padding: 0; }
.cards > li { list-style: none; font-size: .875rem; line-height: 1.35; }
.cards img { display: block; width: 100%; height: 9rem; object-fit: contain; background: var(--soft); }
.cards .file { opacity: .75; font-size: .75rem; }
"""


def tag(kind: str, /, *children: Element | str, **attributes: str) -> Element:
    """Return an element of an HTML page.

    Parameters
    ----------
    kind : str
    *children : Element or str
        Text, in which what cannot be shown is escaped here, and what is HTML where the page is written.
    **attributes : str
        ``class_`` is the attribute class, and ``aria_label`` is aria-label.
    """
    element = Element(kind, {name.rstrip("_").replace("_", "-"): shown(text) for name, text in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + shown(child)
        else:
            element.text = (element.text or "") + shown(child)
    return element


def page(title: str, *body: Element, style: str = "") -> bytes:
    """Return a page of a title and what follows it; the same elements give the same bytes.

    Parameters
    ----------
    title : str
    *body : Element
        Such as sections, under the title.
    style : str
        CSS besides `STYLE`.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", STYLE + style),
    )
    text = tostring(
        tag("html", head, tag("body", tag("h1", title), *body), lang="en"), encoding="unicode", method="html"
    )
    return f"<!doctype html>\n{text}\n".encode()


def section(title: str, *children: Element, anchor: str) -> Element:
    """Return a section under a heading, to which links lead by an anchor."""
    return tag("section", tag("h2", title), *children, id=anchor)


def contents(sections: Iterable[Element]) -> Element:
    """Return links to the sections by their headings."""
    links = [tag("li", tag("a", each[0].text or "", href=f"#{each.get('id')}")) for each in sections]
    return tag("nav", tag("ul", *links))


def listing(facts: Mapping[str, str]) -> Element:
    """Return names with what they stand for, a line each."""
    return tag("dl", *(tag(kind, text) for name, fact in facts.items() for kind, text in (("dt", name), ("dd", fact))))


def table(title: str, header: Sequence[str | Element], rows: Sequence[Element]) -> Element:
    """Return a table that scrolls within itself where it is wider than the page.

    Parameters
    ----------
    title : str
    header : sequence of str or Element
        Of each column the text, or its ``th``.
    rows : sequence of Element
        Each a ``tr``.
    """
    heads = [each if isinstance(each, Element) else tag("th", each, scope="col") for each in header]
    body = tag("table", tag("caption", title), tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag("div", body, class_="scroll", tabindex="0", role="region", aria_label=title)


def row(*cells: str | float | Element) -> Element:
    """Return a row of cells: text, numbers flush right as they are formatted, or elements of their own."""
    return tag("tr", *(each if isinstance(each, Element) else cell(each) for each in cells))


def cell(value: str | float, *kinds: str) -> Element:
    """Return a cell of a table; a number is flush right, and text of more than `LONG` letters breaks."""
    text = str(value)
    found = [*(["number"] if not isinstance(value, str) else []), *(["long"] if len(text) > LONG else []), *kinds]
    return tag("td", text, class_=" ".join(found))


def picture(data: bytes, text: str, kind: str = "png") -> Element:
    """Return an image, which is held by the page itself, with a text in its place for who cannot see it."""
    return tag("img", alt=text, src=f"data:image/{kind};base64,{base64.b64encode(data).decode()}")


def cards(items: Iterable[Iterable[Element | str]]) -> Element:
    """Return a grid of small cards, such as of a thumbnail and what is said of it; two columns on a phone."""
    return tag("ul", *(tag("li", *item) for item in items), class_="cards")
