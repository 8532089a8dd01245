"""One HTML page of result files: tables, figures, machines."""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from ...calibration.fidelity import require_plotting
from ...errors import UsageError
from ...page import cell, contents, listing, page, picture, row, section, table, tag
from ...saving import write_atomically
from .. import registry
from ..contract import Benchmark, Cells, Json, Result, Row
from .charts import charts
from .tables import RESULTS, columns, facts, identifying, machine_line, machine_of, read_result, tables
from .text import is_number, shown


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
    write_atomically(Path(out), page("aurevoir: results", contents(sections), tag("main", *sections)))
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


def _section(name: str, result: Json, drawn: Mapping[str, bytes | str]) -> Element:
    found = section(name, *_about(result), anchor=name)
    for title, drawing in drawn.items():
        if isinstance(drawing, str):
            found.append(tag("p", drawing, class_="error"))
            continue
        image = picture(drawing, f"{name}: {title}")
        found.append(tag("figure", image, tag("figcaption", title), class_="scroll", tabindex="0"))
    benchmark = registry.find(result.get("benchmark"))
    found.extend(_table(title, rows, identifying([rows], benchmark)) for title, rows in tables(result).items())
    return found


def _about(result: Json) -> Iterator[Element]:
    yield _list(facts(result))
    machine = machine_of(result)
    if not machine:
        yield tag("p", "No machine is recorded.")
        return
    yield tag("p", machine_line(machine))
    if "command" in machine:
        yield tag("pre", str(machine["command"]))
    aside = {name: value for name, value in machine.items() if name in ("date", "system", "python", "versions")}
    yield tag("details", tag("summary", "Versions"), _list(facts(aside)))


def _list(cells: Cells) -> Element:
    return listing({name: shown(cell) for name, cell in cells.items()})


def _table(title: str, rows: Sequence[Cells], first: Sequence[str]) -> Element:
    found = columns(rows)
    # Why a row failed is next to its name: on a phone the end of the line is far.
    before = [*first, *(["error"] if "error" in found else [])]
    names = list(dict.fromkeys([*before, *found]))
    return table(title, names, [row(*(_cell(name, each.get(name)) for name in names)) for each in rows])


def _cell(name: str, value: Any) -> Element:
    kinds = {"number": is_number(value), "error": name == "error"}
    return cell(shown(value) if value is not None else "", *(kind for kind, holds in kinds.items() if holds))


BENCHMARK = Benchmark("report", add_arguments, run, describe)
