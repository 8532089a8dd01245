"""The README's results, written from the result files.

What stands between ``<!-- results: NAME -->`` and ``<!-- /results -->`` is made here; all else is prose. NAME is a
benchmark, ``machines`` (where all were measured) or ``others``: the benchmarks that no mark names. A benchmark may
offer ``summary(result)``, the Markdown lines of one result; where it does not, all its rows make one table.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import AurevoirError, DataError, UsageError
from ...files import write_atomically
from .tables import RESULTS, benchmark_of, columns, machine_line, machine_of, markdown, read_result, shown, tables

README = Path(__file__).parents[2] / "README.md"

MARKED = re.compile(r"(?P<open><!-- results: (?P<name>\S+) -->\n).*?(?P<close><!-- /results -->)", re.DOTALL)

Results = Mapping[Path, Mapping[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--readme", default=str(README), metavar="F.md", help="(default: the project's own)")
    parser.add_argument("--results", default=str(RESULTS), metavar="DIR", help="(default: the project's own)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where it would change")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the README, or check it."""
    path = Path(args.readme)
    if not path.is_file():
        raise UsageError(f"README {path} does not exist; name it by --readme")
    results = {each: read_result(each) for each in sorted(Path(args.results).glob("*.json"))}
    text = path.read_text()
    made = fill(text, results, path.parent)
    if args.check and made != text:
        raise AurevoirError(f"{path} and the results in {args.results} differ; write it with: aurevoir bench readme")
    if made != text:
        write_atomically(path, made.encode())
    return {"benchmark": "readme", "readme": str(path), "changed": made != text, "results": len(results)}


def describe(result: dict[str, Any]) -> str:
    """Say whether anything changed."""
    return (
        f"{result['readme']}: {'written' if result['changed'] else 'as it was'}, from {result['results']} result files"
    )


def fill(text: str, results: Results, folder: Path) -> str:
    """Return a README with the blocks between its marks made anew.

    Parameters
    ----------
    text : str
        The README.
    results : mapping from path to result
    folder : path
        Where the README is, for links.

    Raises
    ------
    DataError
        If it has no marks, or names a benchmark without results.
    """
    named = [match["name"] for match in MARKED.finditer(text)]
    if len(named) != text.count("<!-- results: ") or not named:
        raise DataError("the README's marks <!-- results: NAME --> ... <!-- /results --> are missing or unpaired")
    return MARKED.sub(
        lambda match: f"{match['open']}\n{_block(match['name'], named, results, folder)}\n{match['close']}", text
    )


def _block(name: str, named: Sequence[str], results: Results, folder: Path) -> str:
    if name == "machines":
        return _machines(results)
    if name == "others":
        kinds = sorted({str(result.get("benchmark")) for result in results.values()} - set(named))
        return "\n".join(f"**{kind}** (`aurevoir bench {kind}`)\n\n{_of(kind, results, folder)}" for kind in kinds)
    return _of(name, results, folder)


def _machines(results: Results) -> str:
    """Say where everything was measured, a line a machine."""
    found: dict[str, list[Path]] = {}
    for path, result in results.items():
        found.setdefault(machine_line(machine_of(result)), []).append(path)
    if len(found) == 1:
        return f"Measured on {next(iter(found))}.\n"
    return "".join(f"- {machine}: {', '.join(path.stem for path in paths)}\n" for machine, paths in found.items())


def _of(name: str, results: Results, folder: Path) -> str:
    """Return what is known of one benchmark: its results' tables, those alike as one, and where they come from."""
    own = {path: result for path, result in results.items() if result.get("benchmark") == name}
    if not own:
        raise DataError(f"the README asks for results of {name!r}, and there is no such result file")
    lines: list[str] = []
    before: list[str] = []
    for result in own.values():
        block = _lines(result)
        head = _head(block)
        lines += block[len(head) :] if head and head == before else [*([""] if lines else []), *block]
        before = head
    return "\n".join([*lines, "", f"From {', '.join(_link(path, folder) for path in own)}.", ""])


def _head(block: Sequence[str]) -> list[str]:
    """Return the lines down to the header of a block's last table, where the block ends in it."""
    rules = [place for place, line in enumerate(block) if re.fullmatch(r"\|(-+\|)+", line)]
    return list(block[: rules[-1] + 1]) if rules and block[-1].startswith("|") else []


def _lines(result: Mapping[str, Any]) -> list[str]:
    module = benchmark_of(result)
    if hasattr(module, "summary"):
        return list(module.summary(result))  # type: ignore[union-attr]
    rows = [{name: cell for name, cell in row.items() if not isinstance(cell, list)} for row in tables(result)["rows"]]
    names = columns(rows)
    return markdown(names, [["" if row.get(name) is None else shown(row[name]) for name in names] for row in rows])


def _link(path: Path, folder: Path) -> str:
    figure = path.with_suffix(".png")
    drawn = f" ([figure]({_relative(figure, folder)}))" if figure.is_file() else ""
    return f"[{path.name}]({_relative(path, folder)}){drawn}"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
