"""Write the commands and their options into docs/cli.md, from the parsers: python tools/commands.py [--check]."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from aurevoir.cli.main import COMMANDS, parser_for

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
BEGIN, END = "<!-- commands -->\n", "<!-- /commands -->\n"


def filled(page: str) -> str:
    """Return the page with the commands of the parsers between its marks."""
    head, tail = page.partition(BEGIN)[0], page.partition(END)[2]
    return head + BEGIN + "".join(_section(*each) for each in COMMANDS.items()) + "\n" + END + tail


def _section(command: str, summary: str) -> str:
    """Return a command's heading, its call and its arguments, which do not depend on how argparse breaks lines."""
    rows = [*_rows(command)]
    table = ["| argument | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in rows)]
    names = [name for name, _ in rows if not name.startswith("-")]
    required = [name for name, text in rows if name.startswith("--") and "(required)" in text]
    call = " ".join(["aurevoir", command, *([] if command == "bench" else names), *required])
    return f"\n## {command}\n\n{summary[0].upper()}{summary[1:]}: `{call}`\n\n" + "\n".join(table) + "\n"


def _rows(command: str) -> Iterator[tuple[str, str]]:
    parser = parser_for(command)
    commands = next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    own: argparse.ArgumentParser = commands.choices[command]
    expand = own._get_formatter()._expand_help
    for action in own._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from ((f"NAME {each.dest}", _cell(each.help or "")) for each in action._choices_actions)
        elif not isinstance(action, argparse._HelpAction):
            required = " (required)" if action.required and action.option_strings else ""
            yield _name(action), _cell(expand(action)) + required


def _name(action: argparse.Action) -> str:
    values = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    text = " ".join(values) if isinstance(values, tuple) else values
    more = " ..." if action.nargs == "+" else ""
    if not action.option_strings:
        return text + more
    return action.option_strings[0] + (f" {text}{more}" if action.nargs != 0 else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` return 1 if it differs."""
    page = PAGE.read_text()
    if arguments == ["--check"]:
        return int(filled(page) != page)
    PAGE.write_text(filled(page))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
