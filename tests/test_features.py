"""Each public feature runs on each architecture or says why not, as docs/architectures.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from features import FEATURES, NAMES
from models import EVERY, hosts

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architectures.md"
SHORT = {"hooked_transformer": "HT", "bridge": "bridge"}
ALL = [name for chapter in FEATURES.values() for name in chapter]


@cache
def table() -> tuple[dict[tuple[str, str], str], dict[int, str]]:
    """The page's cells by feature and architecture, and its notes by number."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[part.strip() for part in line.strip("| ").split(" | ")] for line in lines]
    cells = {
        (row[0], architecture): cell
        for row in rows
        if row[0] in ALL
        for architecture, cell in zip(NAMES, row[1:], strict=True)
    }
    notes = (re.fullmatch(r"(\d+)\. (.+)\.", line) for line in lines)
    return cells, {int(note[1]): note[2] for note in notes if note}


def told(name: str, architecture: str, host: str) -> str | None:
    """Why the page says that a feature is refused; None where it says that it runs."""
    cells, notes = table()
    cell = cells[name, architecture]
    if ", " in cell:
        cell = dict(part.split(" ") for part in cell.split(", "))[SHORT[host]]
    return None if cell == "yes" else notes[int(cell.strip("()"))]


@pytest.mark.host
@pytest.mark.timeout(900)  # a minute for each host where nothing else runs
@pytest.mark.parametrize("host", hosts())
def test_every_cell_is_true(host: str) -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "tests" / "features.py", host],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    wrong = {
        (name, architecture): (why, told(name, architecture, host))
        for name, each in json.loads(found.stdout.splitlines()[-1]).items()
        for architecture, why in each.items()
        if why != told(name, architecture, host)
    }
    assert not wrong


def test_the_page_is_whole() -> None:
    """A row for every feature, a column for every architecture, and each note is used."""
    cells, notes = table()
    assert set(cells) == {(name, architecture) for name in ALL for architecture in EVERY}
    used = {int(number) for cell in cells.values() for number in re.findall(r"\((\d+)\)", cell)}
    assert used == set(notes)
