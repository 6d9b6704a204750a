"""The code in README and docs runs, top to bottom, on the bundled model."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest

import steerlens as sl

ROOT = Path(__file__).parent.parent
PAGES = {
    "docs/start.md": ["Direction('sentiment'", "Calibrated("],
    "docs/one-equation.md": ["Comparison("],
    "docs/positions.md": ["tokens:", "the same tokens: True"],
    "docs/gates.md": ["probe('happy'", "gate", "soup. unchanged: False", "park. unchanged: True"],
    "docs/views.md": ["Otto, not Leo promotes ' Otto'", "suppresses ' Leo'", "kB"],
    "docs/evaluating.md": ["feelings tensor", "cheer tensor", "at 0.1 nats a token", "Calibrated("],
    "docs/effects.md": ["logit of the first answer above the second", "L2H7"],
    "docs/editing.md": ["hooks and weights the same", "a fresh load gives the edited logits"],
    "docs/methods.md": ["6 of 6 hook points kept", "Condition(score at"],
    "CONTRIBUTING.md": ["affine(128 entries)", "Calibrated("],
    "docs/adapting.md": ["Adaptation(", "prompts held out"],
    "docs/files.md": ["this model is 'another'", "cannot be handed on", "3.0", "True"],
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
        names["text"] = "On Friday I got the meal."
        exec(blocks("README.md")[-1], names)
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


def test_no_page_with_code_is_left_out() -> None:
    """Of README the first cell and the last run; what loads GPT-2 needs a network."""
    pages = {str(page.relative_to(ROOT)) for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
    assert {page for page in pages if blocks(page)} == {*PAGES, "README.md"}


def test_links_lead_somewhere() -> None:
    """To pages, pictures and headings of the repository."""
    for page in ROOT.glob("**/*.md"):
        if ".venv" in page.parts or any(part.startswith(".venv") for part in page.parts):
            continue
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def public(module: ModuleType) -> dict[str, object]:
    """The names that a module offers: those of its own and those it takes from its rooms."""
    found = {name: getattr(module, name) for name in vars(module) if not name.startswith("_")}
    return {
        name: value
        for name, value in found.items()
        if getattr(value, "__module__", "").startswith("steerlens")
    }


ROOMS = [
    *(sl.positions, sl.transforms, sl.signals, sl.evaluation, sl.effects, sl.editing),
    *(sl.methods, sl.formats, sl.views, sl.demo),
]


def test_every_name_at_the_top_is_on_the_api_page() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"auto(?:class|function):: (\w+)", page))
    names = public(sl)
    assert "Contrast" in names
    assert listed == names.keys() | {"report"}
    assert {room.__name__ for room in ROOMS} <= set(re.findall(r"steerlens\.\w+", page))


@pytest.mark.parametrize("room", [sl, *ROOMS], ids=lambda room: room.__name__)
def test_every_public_name_is_documented(room: ModuleType) -> None:
    assert room.__doc__
    for name, value in public(room).items():
        assert inspect.getdoc(value), f"{room.__name__}.{name} has no docstring"
        members = vars(value).items() if inspect.isclass(value) else ()
        for member, part in members:
            own = inspect.isfunction(part) or isinstance(part, property | classmethod)
            if own and not member.startswith("_"):
                assert inspect.getdoc(part), f"{room.__name__}.{name}.{member} has no docstring"
