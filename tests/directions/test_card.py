"""The card of directions: one table, however many layers."""

from __future__ import annotations

from dataclasses import replace

import torch

import steerlens as sl
from steerlens.directions.direction import Quality

QUALITY = Quality(0.9, (0.8, 1.0), 2.5, 0.7, (0.4, 0.6), (0.3, 0.7), 1, 50)


def made(*qualities: Quality | None) -> sl.Directions:
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(len(qualities))]
    return sl.Directions(
        {
            name: sl.Direction(name, torch.ones(4), name="<up>", quality=each, items="8 pairs")
            for name, each in zip(names, qualities, strict=True)
        }
    )


def test_a_table_says_what_lies_beyond_placebos() -> None:
    found = made(QUALITY, replace(QUALITY, auc=0.65, rank=9), None)
    frame = found.frame()
    assert frame.layer.tolist() == [0, 1, 2]
    assert frame.auc.tolist()[:2] == [0.9, 0.65]
    assert (frame.placebo_high[0], frame.random_low[0], frame["rank"][1]) == (0.6, 0.3, 9)
    assert frame.beyond_placebo.tolist()[:2] == [True, False]
    assert frame.isna().sum(axis=1).tolist() == [0, 0, 10]
    assert "not beyond" not in repr(found["resid_post", 0])
    assert "not beyond placebos)" in repr(found["resid_post", 1])


def test_a_line_each_with_what_is_known() -> None:
    html = made(QUALITY, None)._repr_html_()
    assert html.count("<tr>") == 3
    for words in ("&#x27;&lt;up&gt;&#x27;: 2 directions, 8 pairs", "0.90 [0.80, 1.00]", "2.5 sd"):
        assert words in html
    assert "labels [0.40, 0.60], random [0.30, 0.70]" in html
    assert "1 of 101" in html
    assert html.count("not measured") == 1
