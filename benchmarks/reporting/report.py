"""One HTML page of result files: tables, figures, confusion matrices, samples, machines.

The page is built as a tree by the standard library's ElementTree, which escapes every text and attribute as it
writes; results come from files, and no string of theirs is ever pasted into HTML.
"""

import argparse
import base64
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from ...calibration.fidelity import require_plotting
from ...errors import AurevoirError, UsageError
from ...files import write_atomically
from ..harness.machine import describe_machine
from .charts import charts, plot_confusion
from .tables import (
    RESULTS,
    Row,
    benchmark_of,
    columns,
    facts,
    flat,
    identifying,
    is_number,
    machine_line,
    machine_of,
    read_result,
    shown,
    tables,
)

THUMBNAIL = 96
"""Height and width of a sample image."""

SAMPLES = 24
"""Sample images shown of a result."""

WIDEST = 25
"""Classes up to which a confusion matrix is a table; beyond, it is a figure."""

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
.samples { display: flex; flex-wrap: wrap; gap: .75rem; }
.samples figure { margin: 0; width: 6rem; font-size: .8rem; }
.samples img { width: 6rem; height: 6rem; }
pre { white-space: pre-wrap; }
dl { display: grid; grid-template-columns: fit-content(45%) 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", nargs="*", metavar="RESULT.json", help="result files (default: the project's own)")
    parser.add_argument("--out", default="report.html", metavar="F.html", help="(default: report.html)")
    parser.add_argument("--figures", metavar="DIR", help="where PNG figures go (default: F-figures, beside the page)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the page and its figures."""
    require_plotting()
    paths = [Path(path) for path in args.results] or sorted(RESULTS.glob("*.json"))
    if not paths:
        raise UsageError(f"{RESULTS} holds no result files; name some")
    out = Path(args.out)
    rows = write_report([(path, read_result(path)) for path in paths], out, args.figures)
    return {"benchmark": "report", "report": str(out), "rows": rows, "machine": describe_machine()}


def describe(result: dict[str, Any]) -> str:
    """Say what was written."""
    lines = [
        f"{row['file']}: {row['rows']} rows, {row['failed']} failed, {len(row['figures'])} figures"
        for row in result["rows"]
    ]
    return "\n".join([*lines, f"report: {result['report']}"])


def write_report(
    results: Sequence[tuple[Path, Mapping[str, Any]]], out: str | Path, figures: str | Path | None = None
) -> list[dict[str, Any]]:
    """Write one self-contained page of results, and its figures as PNG files besides.

    The same results give the same bytes, as far as matplotlib draws the same.

    Parameters
    ----------
    results : sequence of (path, result)
        The path gives the section its name, and is where names of sample images are looked up from.
    out : path
        The page.
    figures : path, optional
        A folder for the figures; by default one beside the page, of its name and ``-figures``.

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
        sections.append(_section(name, path, result, drawn))
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


def _figures(name: str, result: Mapping[str, Any]) -> Iterator[tuple[str, bytes | str]]:
    """Yield every figure by title, or why it cannot be drawn."""
    draws = charts(result)
    for title, confusion, _ in _confusions(result):
        if len(confusion) > WIDEST:
            draws[title] = partial(plot_confusion, confusion)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.png"
        for title, draw in draws.items():
            try:
                draw(path)
            except Exception as error:  # A file of another version may lack whatever its benchmark draws; tables stand.
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


def _section(name: str, path: Path, result: Mapping[str, Any], drawn: Mapping[str, bytes | str]) -> Element:
    section = _tag("section", _tag("h2", name), id=name)
    section.extend(_about(result))
    for title, drawing in drawn.items():
        if isinstance(drawing, str):
            section.append(_tag("p", drawing, class_="error"))
            continue
        picture = _image(drawing, "png", f"{name}: {title}")
        section.append(_tag("figure", picture, _tag("figcaption", title), class_="scroll", tabindex="0"))
    module = benchmark_of(result)
    section.extend(_table(title, rows, identifying([rows], module)) for title, rows in tables(result).items())
    section.extend(
        _confusion_table(title, confusion, classes)
        for title, confusion, classes in _confusions(result)
        if len(confusion) <= WIDEST
    )
    section.extend(_samples(result, path.parent))
    return section


def _about(result: Mapping[str, Any]) -> Iterator[Element]:
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


def _list(cells: Row) -> Element:
    return _tag(
        "dl", *(_tag(tag, text) for name, cell in cells.items() for tag, text in (("dt", name), ("dd", shown(cell))))
    )


def _table(title: str, rows: Sequence[Row], first: Sequence[str]) -> Element:
    found = columns(rows)
    # Why a row failed stands next to its name: on a phone the end of the line is far.
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


def _holders(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what may hold a confusion matrix or samples: the result and its rows."""
    return [result, *_objects(result.get("rows"))]


def _objects(listed: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _confusions(result: Mapping[str, Any]) -> Iterator[tuple[str, list[list[int]], list[str]]]:
    """Yield (title, matrix, classes) of the result and of each row that has one."""
    for place, holder in enumerate(_holders(result)):
        matrix = holder.get("confusion")
        if not isinstance(matrix, list) or not matrix or any(not _is_line(row, len(matrix)) for row in matrix):
            continue
        classes = holder.get("classes", result.get("classes"))
        known = isinstance(classes, list) and len(classes) == len(matrix)
        title = f"confusion, row {place}" if place else "confusion"
        yield title, matrix, [str(name) for name in (classes if known else range(len(matrix)))]


def _is_line(row: Any, width: int) -> bool:
    return isinstance(row, list) and len(row) == width and all(is_number(count) for count in row)


def _confusion_table(title: str, confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Element:
    body = []
    for name, row in zip(classes, confusion, strict=True):
        shares = [count / max(1, sum(row)) for count in row]
        cells = [
            _tag("td", shown(count), class_="number", style=f"background: rgb(220 60 40 / {share:.2f})")
            for count, share in zip(row, shares, strict=True)
        ]
        body.append(_tag("tr", _tag("th", name, scope="row"), *cells))
    return _boxed(f"{title}: true classes down, predicted across", ["", *classes], body)


def _samples(result: Mapping[str, Any], folder: Path) -> Iterator[Element]:
    for holder in _holders(result):
        for name in ("samples", "predictions"):
            if listed := _objects(holder.get(name)):
                title = f"{name}: {min(SAMPLES, len(listed))} of {len(listed)}"
                yield _tag("h3", title)
                yield _tag("div", *(_sample(each, folder) for each in listed[:SAMPLES]), class_="samples")


def _sample(sample: Mapping[str, Any], folder: Path) -> Element:
    text = "; ".join(
        f"{name} {shown(cell)}" for name, cell in flat([sample])[0].items() if name not in ("path", "image")
    )
    try:
        return _tag("figure", _image(_thumbnail(sample, folder), "jpeg", text), _tag("figcaption", text))
    except AurevoirError as error:
        return _tag("figure", _tag("figcaption", text, _tag("p", f"{sample.get('path', '')}: {error}", class_="error")))


def _thumbnail(sample: Mapping[str, Any], folder: Path) -> bytes:
    """Return a small JPEG, written anew, of the image that a sample names (``path``) or holds (``image``, base64)."""
    from PIL import Image

    from ...images.decode import decode

    with tempfile.NamedTemporaryFile() as held:
        path = Path(str(sample.get("path", "")))
        if isinstance(sample.get("image"), str):
            with suppress(ValueError):
                held.write(base64.b64decode(sample["image"].rpartition(",")[2]))
            held.flush()
            path = Path(held.name)
        beside = folder / path
        pixels = decode(beside if beside.is_file() else path, (THUMBNAIL, THUMBNAIL), "crop")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _image(data: bytes, kind: str, text: str) -> Element:
    return _tag("img", alt=text, src=f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
