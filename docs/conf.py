"""Sphinx's configuration; `make docs` builds the pages from the files of the repository as they are."""

import argparse
import os
from typing import Any

import aurevoir
from aurevoir.cli.main import COMMANDS, parser_for

project, author, release = "aurevoir", "the aurevoir developers", aurevoir.__version__
copyright = "2026, the aurevoir developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc"]
exclude_patterns = ["_build", "figures"]
html_theme, html_title = "furo", f"aurevoir {release}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False


def setup(app: Any) -> None:
    """Write the help texts of the commands into their page as it is read."""

    def fill(app: Any, name: str, source: list[str]) -> None:
        source[0] = source[0].replace("<!-- commands -->", command_sections()) if name == "cli" else source[0]

    app.connect("source-read", fill)


def command_sections() -> str:
    """Return a section of Markdown for every command, from its parser."""
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
