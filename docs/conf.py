"""Sphinx's configuration; `make docs` builds the pages from the files of the repository as they are."""

import aurevoir

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
