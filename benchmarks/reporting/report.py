"""One HTML page of result files: tables, figures, machines.

The page is built as a tree by the standard library's ElementTree, which escapes every text and attribute as it
writes; results come from files, and no string of theirs is ever pasted into HTML.
"""

import argparse
import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from ...calibration.fidelity import require_plotting
from ...errors import UsageError
from ...saving import write_atomically
from .. import registry
from ..contract import Benchmark, Cells, Json, Result, Row
from .charts import charts
from .tables import RESULTS, columns, facts, identifying, machine_line, machine_of, read_result, tables
from .text import is_number, shown

LONG = 40
"""Letters beyond which a cell breaks into lines."""

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --bad: #b00020; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 0 1rem 3rem; }
body { overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { white-space: nowrap; background: var(--soft); }
td { white-space: nowrap; }
td.number { text-align: right; }
td.long { white-space: normal; min-width: 20rem; overflow-wrap: anywhere; }
:is(td, th):first-child { position: sticky; left: 0; background: Canvas; }
.error { color: var(--bad); }
figure { margin: 1rem 0; }
figure.scroll img { width: 100%; min-width: 40rem; max-width: 56rem; background: white; border-radius: .25rem; }
pre { white-space: pre-wrap; }
dl { display: grid; grid-template-columns: fit-content(45%) 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "results", nargs="*", metavar="RESULT.json", help="result files (default: those of the checkout)"
    )
    parser.add_argument("--out", default="report.html", metavar="F.html", help="(default: report.html)")
    parser.add_argument("--figures", metavar="DIR", help="where PNG figures go (default: F-figures, next to the page)")


def run(args: argparse.Namespace) -> Result:
    """Write the page and its figures."""
    require_plotting()
    paths = [Path(path) for path in args.results] or sorted(RESULTS.glob("*.json"))
    if not paths:
        raise UsageError(
            "no result files are given, and an installed package has none of its own; name some, as --out wrote them"
        )
    out = Path(args.out)
    rows = write_report([(path, read_result(path)) for path in paths], out, args.figures)
    return Result("report", [Row(row) for row in rows], {"report": str(out)})


def describe(result: Json) -> str:
    """Say what was written."""
    lines = [
        f"{row['file']}: {row['rows']} rows, {row['failed']} failed, {len(row['figures'])} figures"
        for row in result["rows"]
    ]
    return "\n".join([*lines, f"report: {result['report']}"])


def write_report(
    results: Sequence[tuple[Path, Json]], out: str | Path, figures: str | Path | None = None
) -> list[Cells]:
    """Write one self-contained page of results, and its figures as PNG files.

    The same results give the same bytes, as far as matplotlib draws the same.

    Parameters
    ----------
    results : sequence of (path, result)
        The path gives the section its name.
    out : path
        The page.
    figures : path, optional
        A folder for the figures; by default one next to the page, of its name and ``-figures``.

    Returns
    -------
    list of dict
        A row a result: ``file``, ``benchmark``, ``rows``, ``failed`` and ``figures``, the files written.
    """
    sections, rows = [], []
    folder = Path(figures) if figures else Path(out).with_name(f"{Path(out).stem}-figures")
    names = _distinct([path.stem for path, _ in results])
    for name, (path, result) in zip(names, results, strict=True):
        drawn = dict(_figures(name, result))
        pictures = {title: drawing for title, drawing in drawn.items() if isinstance(drawing, bytes)}
        sections.append(_section(name, result, drawn))
        own = tables(result).get("rows", [])
        rows.append(
            {
                "file": path.name,
                "benchmark": result.get("benchmark"),
                "rows": len(own),
                "failed": sum("error" in row for row in own),
                "figures": [str(folder / _file(name, title)) for title in pictures],
            }
        )
        for title, png in pictures.items():
            write_atomically(folder / _file(name, title), png)
    write_atomically(Path(out), _page(names, sections))
    return rows


def _distinct(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    again = {name: iter(range(1, count + 1)) for name, count in seen.items()}
    return [name if seen[name] == 1 else f"{name}-{next(again[name])}" for name in names]


def _file(name: str, title: str) -> str:
    return f"{name}-{''.join(letter if letter.isalnum() else '-' for letter in title)}.png"


def _figures(name: str, result: Json) -> Iterator[tuple[str, bytes | str]]:
    """Yield every figure by title, or why it cannot be drawn."""
    draws = charts(result)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.png"
        for title, draw in draws.items():
            try:
                draw(path)
            except Exception as error:  # A file of another version may lack what is drawn.
                yield title, f"{title} cannot be drawn: {type(error).__name__}: {error}"
            else:
                yield title, path.read_bytes()


def _page(names: Sequence[str], sections: Sequence[Element]) -> bytes:
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("title", "aurevoir: results"),
        _tag("style", STYLE),
    )
    links = [_tag("li", _tag("a", name, href=f"#{name}")) for name in names]
    body = _tag("body", _tag("h1", "aurevoir: results"), _tag("nav", _tag("ul", *links)), _tag("main", *sections))
    text = tostring(_tag("html", head, body, lang="en"), encoding="unicode", method="html")
    # JSON may hold halves of surrogate pairs, which are no characters.
    return f"<!doctype html>\n{text}\n".encode(errors="replace")


def _tag(tag: str, *children: "Element | str", **attributes: str) -> Element:
    """Return an element; ``class_`` is its class."""
    element = Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def _section(name: str, result: Json, drawn: Mapping[str, bytes | str]) -> Element:
    section = _tag("section", _tag("h2", name), id=name)
    section.extend(_about(result))
    for title, drawing in drawn.items():
        if isinstance(drawing, str):
            section.append(_tag("p", drawing, class_="error"))
            continue
        picture = _image(drawing, f"{name}: {title}")
        section.append(_tag("figure", picture, _tag("figcaption", title), class_="scroll", tabindex="0"))
    benchmark = registry.find(result.get("benchmark"))
    section.extend(_table(title, rows, identifying([rows], benchmark)) for title, rows in tables(result).items())
    return section


def _about(result: Json) -> Iterator[Element]:
    yield _list(facts(result))
    machine = machine_of(result)
    if not machine:
        yield _tag("p", "No machine is recorded.")
        return
    yield _tag("p", machine_line(machine))
    if "command" in machine:
        yield _tag("pre", str(machine["command"]))
    aside = {name: cell for name, cell in machine.items() if name in ("date", "system", "python", "versions")}
    yield _tag("details", _tag("summary", "Versions"), _list(facts(aside)))


def _list(cells: Cells) -> Element:
    return _tag(
        "dl", *(_tag(tag, text) for name, cell in cells.items() for tag, text in (("dt", name), ("dd", shown(cell))))
    )


def _table(title: str, rows: Sequence[Cells], first: Sequence[str]) -> Element:
    found = columns(rows)
    # Why a row failed is next to its name: on a phone the end of the line is far.
    before = [*first, *(["error"] if "error" in found else [])]
    names = [*before, *(name for name in found if name not in before)]
    body = [_tag("tr", *(_cell(name, row.get(name)) for name in names)) for row in rows]
    return _boxed(title, names, body)


def _boxed(title: str, header: Sequence[str], body: Sequence[Element]) -> Element:
    head = _tag("thead", _tag("tr", *(_tag("th", name, scope="col") for name in header)))
    table = _tag("table", _tag("caption", title), head, _tag("tbody", *body))
    return _tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=title)


def _cell(name: str, value: Any) -> Element:
    text = shown(value) if value is not None else ""
    kinds = {"number": is_number(value), "long": len(text) > LONG, "error": name == "error"}
    return _tag("td", text, class_=" ".join(kind for kind, holds in kinds.items() if holds))


def _image(data: bytes, text: str) -> Element:
    return _tag("img", alt=text, src=f"data:image/png;base64,{base64.b64encode(data).decode()}")


BENCHMARK = Benchmark("report", add_arguments, run, describe)
