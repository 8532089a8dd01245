"""The commands' help texts as Markdown, a section a command, from the parsers themselves."""

import argparse
import os

from aurevoir.cli.main import COMMANDS, parser_for


def command_pages() -> str:
    """Return a section for every command, and the benchmarks' names in that of ``bench``."""
    # argparse wraps at the width of the terminal.
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    return "\n".join(_section(command, summary) for command, summary in COMMANDS.items())


def _section(command: str, summary: str) -> str:
    text = _own_parser(command).format_help()
    return f"## {command}\n\n{summary[0].upper()}{summary[1:]}.\n\n```text\n{text}```\n"


def _own_parser(command: str) -> argparse.ArgumentParser:
    parser = parser_for(command)
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    own: argparse.ArgumentParser = commands.choices[command]
    return own
