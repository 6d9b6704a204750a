"""The code in README and docs runs, top to bottom, on the bundled model."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/one-equation.md",
    "docs/evaluating.md",
    "docs/effects.md",
    "docs/editing.md",
    "docs/adapting.md",
)


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.host
@pytest.mark.filterwarnings("ignore:.*never opened")
def test_the_first_cell_runs() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(blocks(PAGES[0])[0], names)
    assert "steered" not in said.getvalue()
    assert len(said.getvalue()) > 40


@pytest.mark.host
def test_the_page_one_equation_runs() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, block in enumerate(blocks(PAGES[1])):
            exec(compile(block, f"{PAGES[1]}, block {number}", "exec"), names)
    assert "Comparison(" in said.getvalue()


def test_the_page_evaluating_runs() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for number, block in enumerate(blocks(PAGES[2])):
            exec(compile(block, f"{PAGES[2]}, block {number}", "exec"), names)
    assert "at 0.1 nats a token" in said.getvalue()
    assert "Calibrated(" in said.getvalue()


@pytest.mark.host
def test_the_page_effects_runs() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for number, block in enumerate(blocks(PAGES[3])):
            exec(compile(block, f"{PAGES[3]}, block {number}", "exec"), names)
    assert "logit of the first answer above the second" in said.getvalue()
    assert "L2H7" in said.getvalue()


@pytest.mark.host
def test_the_page_editing_runs() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for number, block in enumerate(blocks(PAGES[4])):
            exec(compile(block, f"{PAGES[4]}, block {number}", "exec"), names)
    assert "hooks and weights the same" in said.getvalue()
    assert "a fresh load gives the edited logits" in said.getvalue()


@pytest.mark.host
def test_the_page_adapting_runs() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for number, block in enumerate(blocks(PAGES[5])):
            exec(compile(block, f"{PAGES[5]}, block {number}", "exec"), names)
    assert "Adaptation(" in said.getvalue()
    assert "prompts held out" in said.getvalue()


def test_links_lead_somewhere() -> None:
    """To pages, pictures and headings of the repository."""
    for page in ROOT.glob("**/*.md"):
        if ".venv" in page.parts or any(part.startswith(".venv") for part in page.parts):
            continue
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
