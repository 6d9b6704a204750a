"""Sphinx: `make docs` builds the pages into docs/_build, with every warning an error."""

from __future__ import annotations

import re
from typing import Any

project = "SteerLens"
author = "the SteerLens developers"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
nb_execution_mode = "off"
myst_heading_anchors = 3
html_theme = "furo"
html_title = "SteerLens"
autosummary_generate = True
autosummary_imported_members = False
autodoc_member_order = "bysource"
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
suppress_warnings = [
    "myst.xref_missing",  # links out of docs/ are tested in tests/test_docs.py
    "autosummary.import_cycle",
    "ref.python",  # a name at the top level and in its own room
]


def as_restructured(lines: list[str]) -> list[str]:
    """Docstrings as they are written here (`code`, |g|, indented equations) in Sphinx's markup."""
    made: list[str] = []
    literal = doctest = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        doctest = line.lstrip().startswith(">>>") or (doctest and bool(line.strip()))
        starts = indented and not literal and not doctest and number and not lines[number - 1]
        if starts:
            made += ["::", ""]
        literal = (literal or bool(starts)) and (indented or not line)
        plain = doctest or literal
        made.append(line if plain else _escaped(line))
    return made


def _escaped(line: str) -> str:
    parts = re.split(r"(`+[^`]+`+)", line)
    return "".join(
        f"``{part.strip('`')}``" if part.startswith("`") else re.sub(r"([|*_\\])", r"\\\1", part)
        for part in parts
    )


def setup(app: Any) -> None:
    """Tell Sphinx how docstrings are written."""

    def process(
        app: Any, what: str, name: str, thing: object, options: Any, lines: list[str]
    ) -> None:
        lines[:] = as_restructured(lines)

    app.connect("autodoc-process-docstring", process)
