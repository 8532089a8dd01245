"""Write the results in the documentation from the result files: ``python tools/results.py [--check] [FILE.md ...]``.

What is between ``<!-- results: NAME -->`` and ``<!-- /results -->`` is made here; all else is prose. NAME is a
benchmark, ``summary``, ``machines`` (where all were measured) or ``others``: the benchmarks that no mark names. A
benchmark may offer Markdown lines of a result; where it does not, all its rows make one table. Links are relative to
the file.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aurevoir.benchmarks import registry
from aurevoir.benchmarks.contract import Json
from aurevoir.benchmarks.reporting.tables import columns, machine_line, machine_of, read_result, tables
from aurevoir.benchmarks.reporting.text import markdown_table, shown
from aurevoir.errors import AurevoirError, DataError, UsageError
from aurevoir.saving import write_atomically
from aurevoir.tools.summary import summary

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/results.md", "docs/reliability.md")
FILES = [ROOT / page for page in PAGES if (ROOT / page).is_file()]

MARKED = re.compile(r"(?P<open><!-- results: (?P<name>\S+) -->\n).*?(?P<close><!-- /results -->)", re.DOTALL)

Results = Mapping[Path, Json]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument(
        "files", nargs="*", type=Path, default=FILES, metavar="FILE.md", help="(default: the project's)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="(default: the project's own)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file would change")
    args = parser.parse_args(argv)
    try:
        changed = update(args.files, args.results, args.check)
    except AurevoirError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for path in args.files:
        print(f"{path}: {'written' if path in changed else 'unchanged'}")
    return 0


def update(files: Sequence[Path], folder: Path, check: bool = False) -> list[Path]:
    """Make the marked sections of some files anew; return the files that changed.

    Raises
    ------
    UsageError
        If a file does not exist.
    DataError
        If marks are missing or unpaired, or name a benchmark without results.
    AurevoirError
        If `check`, and a file would change.
    """
    if missing := [path for path in files if not path.is_file()]:
        raise UsageError(f"{missing[0]} does not exist; name Markdown files with marked sections")
    results = {path: read_result(path) for path in sorted(folder.glob("*.json"))}
    texts = {path: path.read_text() for path in files}
    named = names_in(texts.values())
    made = {path: fill(text, results, path.parent, named) for path, text in texts.items()}
    changed = [path for path in files if made[path] != texts[path]]
    if check and changed:
        listed = ", ".join(map(str, changed))
        raise AurevoirError(f"{listed} and the results in {folder} differ; write them with: make results")
    for path in changed:
        write_atomically(path, made[path].encode())
    return changed


def names_in(texts: Iterable[str]) -> list[str]:
    """Return the names of all marks.

    Raises
    ------
    DataError
        If there are none, or one is not closed.
    """
    named = []
    for text in texts:
        found = [match["name"] for match in MARKED.finditer(text)]
        if len(found) != text.count("<!-- results: "):
            raise DataError("marks <!-- results: NAME --> ... <!-- /results --> are unpaired; close each")
        named += found
    if not named:
        raise DataError("there are no marks <!-- results: NAME --> ... <!-- /results -->; set some")
    return named


def fill(text: str, results: Results, folder: Path, named: Sequence[str]) -> str:
    """Return a text with its marked sections made anew.

    Parameters
    ----------
    text : str
    results : mapping from path to result
    folder : path
        Where the text is, for links.
    named : sequence of str
        The names of the marks in all texts; ``others`` leaves them out.

    Raises
    ------
    DataError
        If a mark names a benchmark without results.
    """
    return MARKED.sub(
        lambda match: f"{match['open']}\n{_block(match['name'], named, results, folder)}\n{match['close']}", text
    )


def _block(name: str, named: Sequence[str], results: Results, folder: Path) -> str:
    if name == "summary":
        return "\n".join([*summary({path.stem: result for path, result in results.items()}), ""])
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
        raise DataError(f"a mark asks for results of {name!r}, and there is no such result file")
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
    rules = [index for index, line in enumerate(block) if re.fullmatch(r"\|(-+\|)+", line)]
    return list(block[: rules[-1] + 1]) if rules and block[-1].startswith("|") else []


def _lines(result: Json) -> list[str]:
    benchmark = registry.find(result.get("benchmark"))
    if benchmark and benchmark.markdown:
        return benchmark.markdown(result)
    rows = [{name: cell for name, cell in row.items() if not isinstance(cell, list)} for row in tables(result)["rows"]]
    names = columns(rows)
    return markdown_table(
        names, [["" if row.get(name) is None else shown(row[name]) for name in names] for row in rows]
    )


def _link(path: Path, folder: Path) -> str:
    figure = path.with_suffix(".png")
    drawn = f" ([figure]({_relative(figure, folder)}))" if figure.is_file() else ""
    return f"[{path.name}]({_relative(path, folder)}){drawn}"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


if __name__ == "__main__":
    sys.exit(main())
