"""The house keeps its order: imports point upwards, files are short, the import is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import steerlens

ROOT = Path(steerlens.__file__).parent
ORDER = [
    "errors",
    "waiting",
    "records",
    "storage",
    "statistics",
    "moments",
    "cards",
    "names",
    "host",
    "provenance",
    "components",
    "text",
    "positions",
    "continued",
    "clock",
    "passes",
    "prefixes",
    "sharing",
    "contrast",
    "reading",
    "activations",
    "directions",
    "basis",
    "transforms",
    "signals",
    "interventions",
    "trace",
    "session",
    "running",
    "packing",
    "steering",
    "rows",
    "verbs",
    "effects",
    "attribution",
    "editing",
    "evaluation",
    "methods",
    "saving",
    "formats",
    "views",
    "demo",
    "cli",
    "__main__",
]
FILES = sorted(path for path in ROOT.rglob("*.py"))
HEAVY = ["transformer_lens", "circuitsvis", "matplotlib", "optuna", "sklearn", "pandas", "typer"]


def imported(path: Path) -> set[str]:
    """The rooms of steerlens that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("steerlens.")}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_module_imports_only_from_those_above_it(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    assert here in ORDER, f"{here} has no place in the order"
    allowed = {*ORDER[: ORDER.index(here)], here}
    assert imported(path) - allowed == set()


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_trap_23_the_import_is_light() -> None:
    code = f"import sys, steerlens; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_listed_can_be_had_and_no_inner_room_is_listed() -> None:
    import steerlens as sl

    assert all(hasattr(sl, name) for name in dir(sl))
    assert {"add", "Steering", "views", "methods", "report"} <= set(dir(sl))
    assert not {"Any", "cards", "session"} & set(dir(sl))
