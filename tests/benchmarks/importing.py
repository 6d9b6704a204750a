"""What `import steerlens` costs a session that has torch already."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import torch

from benchmarks.measuring import Goal, median
from benchmarks.results import ROOT, Row

LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
CODE = (
    "import gc, sys, torch; gc.collect(); gc.freeze(); "  # torch's objects are not ours to collect
    "print('here', file=sys.stderr); import steerlens"
)


def imports(tiny: bool) -> Iterator[Row]:
    """`import steerlens` after `import torch`: self times of the modules it is first to load."""
    with tempfile.TemporaryDirectory() as compiled:
        seconds, count = [], 0
        for _ in range(3 if tiny else 12):
            own, count = _imported(compiled)
            seconds.append(own)
    figure = median(torch.tensor(seconds[1:]).double())  # the first has compiled them
    yield Row("import steerlens", figure, Goal(0.3), "s", f"{count} modules")


def _imported(compiled: str) -> tuple[float, int]:
    """Seconds in the modules that steerlens is first to load, and how many these are."""
    own = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", CODE],
        env={**os.environ, **own}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = LINE.findall(told.stderr.partition("here\n")[2])
    return sum(int(microseconds) for microseconds, _ in found) / 1e6, len(found)
