"""The report: one page, whole or not at all, that says what it was made on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import steerlens as sl
from steerlens import views
from steerlens.demo import load_model, world
from steerlens.errors import BadInputError

HOSTILE = "</script><img src=x onerror=alert(1)>"


def direction(name: str = "joy") -> sl.Direction:
    about = {"model": "folder/steerling", "host": "bridge", "data": "abc"}
    return sl.Direction("blocks.1.hook_resid_post", torch.ones(4), name=name, provenance=about)


@pytest.mark.host
def test_a_study_on_one_page(tmp_path: Path) -> None:
    model: Any = load_model()
    contrast = sl.Contrast.from_pairs(world.contrast("sentiment", "fit", 24))
    directions = sl.find_directions(model, contrast, name="sentiment", progress=False)
    steering = sl.add(directions["resid_post", 0], 3, positions="predicting")
    prompts = world.prompts("sentiment", "validation", 2)
    with steering.trace(model) as trace:
        model.generate(prompts[0], max_new_tokens=4, verbose=False)
    edit = sl.steer2edit(model, contrast, rho_attn=0.05, rho_mlp=None, progress=False)
    values = [
        "The direction",
        directions,
        steering,
        trace,
        sl.compare(model, steering, prompts, max_new_tokens=4),
        sl.effect(model, steering, prompts),
        edit,
    ]
    path = sl.report(tmp_path / "report.html", *values, title="Sentiment")
    html = path.read_text(encoding="utf-8")
    for words in ("<h1>Sentiment</h1>", "<h2>The direction</h2>", "Where it writes", "made on"):
        assert words in html
    assert "What the edit changes" in html
    assert "steerling" in html.split("made on")[1]
    assert html.count("CircuitsVis.render") == 1  # the script once, many views on it
    assert not re.search(r"https?://(?!www\.w3\.org)", html.split("<script")[0])


def test_hostile_names_are_text(tmp_path: Path) -> None:
    path = sl.report(tmp_path / "a.html", HOSTILE, sl.add(direction(HOSTILE), 2), title=HOSTILE)
    html = path.read_text(encoding="utf-8")
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html


def test_what_it_was_made_on_is_told_once_and_without_folders(tmp_path: Path) -> None:
    steering = sl.add(direction(), 2) + sl.ablate(direction("other"))
    html = sl.report(tmp_path / "a.html", steering).read_text(encoding="utf-8")
    assert html.count("steerling, bridge, abc") == 1
    assert "folder/" not in html


def test_what_cannot_be_shown_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    with pytest.raises(BadInputError, match="one value or more"):
        sl.report(path)
    with pytest.raises(BadInputError, match="cannot show int"):
        sl.report(path, sl.add(direction(), 2), 5)
    with pytest.raises(BadInputError, match="no folder"):
        sl.report(tmp_path / "none" / "a.html", views.prose("x"))
    assert not list(tmp_path.iterdir())
