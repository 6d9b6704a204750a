"""The card of directions: one table, however many layers."""

from __future__ import annotations

import torch

import steerlens as sl
from steerlens.directions.direction import Quality


def test_a_line_each_with_what_is_known() -> None:
    quality = Quality(0.9, (0.8, 1.0), 2.5, 0.7, (0.4, 0.6), (0.3, 0.7), 1, 50)
    found = {
        name: sl.Direction(name, torch.ones(4), name="<up>", quality=each, items="8 pairs")
        for name, each in (
            ("blocks.0.hook_resid_post", quality), ("blocks.1.hook_resid_post", None),
        )
    }  # fmt: skip
    html = sl.Directions(found)._repr_html_()
    assert html.count("<tr>") == 3
    for words in ("&#x27;&lt;up&gt;&#x27;: 2 directions, 8 pairs", "0.90 [0.80, 1.00]", "2.5 sd"):
        assert words in html
    assert "labels [0.40, 0.60], random [0.30, 0.70]" in html
    assert "1 of 101" in html
    assert html.count("not measured") == 1
