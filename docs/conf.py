"""Sphinx's configuration; `make docs` builds the pages from the files of the repository as they are."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import aurevoir  # noqa: E402
from command_line import command_pages  # noqa: E402

project, author, release = "aurevoir", "the aurevoir authors", aurevoir.__version__
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
        source[0] = source[0].replace("<!-- commands -->", command_pages()) if name == "cli" else source[0]

    app.connect("source-read", fill)
