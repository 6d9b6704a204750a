"""What was measured: rows, kept as JSON a case, and shown as tables in docs/performance.md."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Figure, Goal

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"
TABLE = re.compile(r"(<!-- case: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADER = "| what | figure | 95% interval | goal | |\n|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """One line of a table. A row without a figure says in its note why there is none."""

    what: str
    figure: Figure | None
    goal: Goal | None = None
    unit: str = ""
    """Of the figure: "" for a ratio, "MB", "s", "ms"."""
    note: str = ""

    @property
    def verdict(self) -> str:
        """What the goal makes of the figure."""
        if self.goal is None:
            return ""
        return "not measured" if self.figure is None else self.goal.verdict(self.figure)


@dataclass(frozen=True)
class Result:
    """The rows of a case, and what they were measured on."""

    case: str
    rows: tuple[Row, ...]
    machine: str


def machine() -> str:
    """Say what the figures are of: device, threads, versions."""
    threads = torch.get_num_threads()
    device = f"{processor()}, {threads} thread{'s' * (threads > 1)} of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    names = ("torch", "transformers", "transformer-lens")
    return "; ".join([device, *(f"{name} {version(name)}" for name in names)])


def processor() -> str:
    """Return the processor's name, or that it is one."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def save(result: Result, folder: Path = FOLDER) -> None:
    """Keep a case's rows; those of other cases stay."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False)
    (folder / f"{result.case}.json").write_text(text + "\n", encoding="utf-8")


def load(case: str, folder: Path = FOLDER) -> Result | None:
    """Return what was last measured of a case, if anything was."""
    path = folder / f"{case}.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    return Result(data["case"], tuple(_row(row) for row in data["rows"]), data["machine"])


def _row(data: dict[str, Any]) -> Row:
    figure, goal = data["figure"], data["goal"]
    if figure is not None:
        interval = figure["interval"]
        figure = Figure(figure["value"], None if interval is None else tuple(interval))
    goal = None if goal is None else Goal(**goal)
    return Row(data["what"], figure, goal, data["unit"], data["note"])


def table(rows: Iterable[Row]) -> str:
    """Return rows as a Markdown table."""
    return HEADER + "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows)


def _cells(row: Row) -> Sequence[str]:
    figure = row.figure
    what = row.what + (f" ({row.note})" if row.note else "")
    value = interval = ""
    if figure is not None:
        value = " ".join([_number(figure.value), row.unit]).strip()
        interval = "" if figure.interval is None else " to ".join(map(_number, figure.interval))
    return what, value, interval, "" if row.goal is None else str(row.goal), row.verdict


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_page(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Put every case's table where the page has its mark; the prose between stays as it is."""

    def shown(match: re.Match[str]) -> str:
        opening, case, closing = match.groups()
        result = load(case, folder)
        if result is None:
            return f"{opening}\nNot measured yet.\n\n{closing}"
        return f"{opening}\n{table(result.rows)}\n{result.machine}.\n\n{closing}"

    page.write_text(TABLE.sub(shown, page.read_text(encoding="utf-8")), encoding="utf-8")
