"""Sphinx: `make docs` builds the pages into docs/_build, with every warning an error."""

project = "SteerLens"
author = "the SteerLens developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
html_title = "SteerLens"
autosummary_generate = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
nitpicky = False
suppress_warnings = ["myst.xref_missing"]  # links that lead out of docs/ are tested elsewhere
