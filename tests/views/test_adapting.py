"""The pictures of a search and its compositions: what stands in them, escaped."""

from __future__ import annotations

import pytest
import torch

import steerlens as sl
from steerlens import views
from steerlens.errors import BadInputError
from steerlens.methods.steer2adapt import Adaptation, Effects, Trial

BASIS = sl.Basis({"hook_embed": torch.eye(2)}, ["<b>joy</b>", "fear"])
TRIALS = (
    Trial((0.0, 0.0), 0.0, 0.0, 0.0, 0.0),
    Trial((1.0, -2.0), 0.5, 0.6, 0.0, 0.05),
    Trial((3.0, 3.0), -19.0, 1.0, 2.0, 0.5),
)


def found(trials: tuple[Trial, ...] = TRIALS, chosen: int = 1) -> Adaptation:
    return Adaptation(BASIS, trials, chosen, "random", "the budget of 2 is spent", 3, 3)


def test_trajectory() -> None:
    view = views.trajectory(found())
    assert view.element is None
    for name in ("best so far", "gain, wrong examples", "drop, right", "flips", "no steering"):
        assert name in view.static
    assert view.subtitle == "2 candidates by random; the budget of 2 is spent"
    with pytest.raises(BadInputError, match="no search to draw"):
        views.trajectory(found(TRIALS[:1], 0))


def test_names_are_escaped_and_numbers_told() -> None:
    view = views.shares({"<i>task</i>": found(), "other": found(chosen=2)})
    assert "<b>joy" not in view.static
    assert "<i>task" not in view.static
    assert "&lt;i&gt;task&lt;/i&gt;, fear: −2" in view.static
    effects = Effects(
        ("all",),
        ("a", "b"),
        torch.tensor([[0.9, 0.1]]),
        torch.tensor([0.5, 0.4]),
        ("accuracy",) * 2,
    )
    drawn = views.compositions(effects)
    assert "all, a: +0.4" in drawn.static
    assert "without steering: a 0.50, b 0.40" in drawn.subtitle
    assert "change of accuracy" in drawn.legend
    assert "fear, fear: 1" in views.concepts(BASIS).static


def test_pictures_that_cannot_be() -> None:
    with pytest.raises(BadInputError, match="1 rows and 2 columns"):
        views.matrix([[1.0]], ["a"], ["b", "c"])
    with pytest.raises(BadInputError, match="shape"):
        views.matrix(torch.zeros(0, 0), [], [])
    other = Adaptation(sl.Basis({"hook_embed": torch.eye(2)}), TRIALS, 1, "random", "spent", 3, 3)
    with pytest.raises(BadInputError, match="one basis"):
        views.shares({"a": found(), "b": other})
