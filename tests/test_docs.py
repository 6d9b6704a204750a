"""The code in README and docs runs, top to bottom, on the bundled model."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {
    "docs/start.md": ["Direction('sentiment'", "Calibrated("],
    "docs/one-equation.md": ["Comparison("],
    "docs/views.md": ["Otto, not Leo promotes ' Otto'", "suppresses ' Leo'", "kB"],
    "docs/evaluating.md": ["at 0.1 nats a token", "Calibrated("],
    "docs/effects.md": ["logit of the first answer above the second", "L2H7"],
    "docs/editing.md": ["hooks and weights the same", "a fresh load gives the edited logits"],
    "docs/methods.md": ["6 of 6 hook points kept", "Condition(score at"],
    "docs/adapting.md": ["Adaptation(", "prompts held out"],
}
"""What each page prints, among other things."""


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.host
@pytest.mark.filterwarnings("ignore:.*never opened")
def test_the_first_cell_runs() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(blocks("README.md")[0], names)
    assert "steered" not in said.getvalue()
    assert len(said.getvalue()) > 40


@pytest.mark.host
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str) -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        if page == "docs/one-equation.md":
            warnings.simplefilter("error")
        for number, block in enumerate(blocks(page)):
            exec(compile(block, f"{page}, block {number}", "exec"), names)
    for words in PAGES[page]:
        assert words in said.getvalue()


def test_links_lead_somewhere() -> None:
    """To pages, pictures and headings of the repository."""
    for page in ROOT.glob("**/*.md"):
        if ".venv" in page.parts or any(part.startswith(".venv") for part in page.parts):
            continue
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
