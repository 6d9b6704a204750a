"""Cells of sweeps that run in other processes; light, as every worker imports it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

ODD = [float("nan"), float("inf"), 1 / 3, -0.0, 2**60, True, None, "a\nb"]


def cell(layer: int, method: str, dose: float) -> list[dict[str, Any]]:
    """Two rows a cell, one of them with a further measure."""
    value = layer * len(method) / 3 + dose
    return [{"coeff": 0.0, "value": value}, {"coeff": 1.0, "value": -value, "odd": ODD[layer]}]


def slow(layer: int, method: str, dose: float) -> list[dict[str, Any]]:
    """The same; the first cells of the grid end last."""
    time.sleep(0.004 * layer)
    return cell(layer, method, dose)


def told(x: int, folder: str) -> dict[str, int]:
    """Leave a trace of the cell on the disk, and fail at 2; what comes after takes its time."""
    (Path(folder) / str(x)).touch()
    time.sleep(0.04 * (x > 2))
    if x == 2:
        raise ZeroDivisionError("by two.")
    return {"y": x}
