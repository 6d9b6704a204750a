"""Tables of studies: a line a method, with its gain over the unsteered model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas
import torch

from steerlens.statistics import holm, paired_difference


def gains(
    scores: Mapping[str, torch.Tensor], base: str = "none", **more: Mapping[str, float]
) -> pandas.DataFrame:
    """A line a method of (model, item) scores: mean, gain over `base`, interval, each model's gain.

    p-values are Holm's, over the methods. `more` are further columns, by method.
    """
    start = scores[base]
    found = {m: paired_difference(each, start) for m, each in scores.items() if m != base}
    corrected = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    lines: list[dict[str, Any]] = []
    for m, each in scores.items():
        line: dict[str, Any] = {"method": m, "score": float(each.mean())}
        line |= {name: column[m] for name, column in more.items()}
        if m in found:
            low, high = found[m].interval
            line |= {"gain": found[m].mean, "low": low, "high": high, "Holm p": corrected[m]}
            line["by model"] = ", ".join(f"{float(g):+.3f}" for g in (each - start).mean(1))
        lines.append(line)
    return pandas.DataFrame(lines).round(3)
