"""Views of a text under a steering show the numbers of the trace and of the activations."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import tiny

import steerlens as sl
from steerlens import views
from steerlens.errors import BadInputError, HookError, UnknownNameError
from steerlens.views.traced import UNITS

pytestmark = pytest.mark.host
TEXT = "good day w1 w2 bad"


def direction(layer: int = 1, site: str = "hook_resid_post") -> sl.Direction:
    shape = (4, 8) if site.endswith("hook_z") else (32,)
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(layer))
    return sl.Direction(f"blocks.{layer}.{site}", vector, name="up")


def traced(model: Any, steering: sl.Steering) -> sl.Trace:
    tokens = model.to_tokens(TEXT)
    with steering.trace(model) as trace, torch.no_grad():
        model(tokens)
    return trace


def numbers(view: views.View) -> list[list[float]]:
    """What the live drawing holds, a row a line."""
    assert view.props is not None
    values = torch.tensor(view.props["values"])
    return (values[None] if values.ndim == 1 else values.T).tolist()


def same(found: list[Any], wanted: torch.Tensor) -> None:
    """A drawing keeps four digits of its greatest number: it is off by half of the last of them."""
    top = float(wanted.abs().max())
    assert top > 0
    torch.testing.assert_close(torch.tensor(found), wanted, atol=5.1e-4 * top, rtol=0)


@EACH_HOST
def test_a_view_of_one_row_of_several_says_which(host: str) -> None:
    model, doses = tiny("gpt2", host), [0, 1, 2, 4, 8]
    with sl.add(direction(), doses).trace(model) as trace, torch.no_grad():
        model(model.to_tokens([TEXT] * 5))
    assert repr(trace).startswith("Trace(1 text, 5 rows)\n  rows(0, 1, 2, 4, 8) *")
    for row, dose in enumerate(doses):
        told = views.tokens(trace, row=row).subtitle
        assert told.startswith(f"row {row} of 5 (row=... for another), coefficient {dose}, ")
    assert views.tokens(traced(model, sl.add(direction()))).subtitle.startswith("6 tokens")


@EACH_HOST
@pytest.mark.parametrize("show", UNITS)
def test_tokens_show_what_the_trace_holds(host: str, show: str) -> None:
    model = tiny("gpt2", host)
    gate = sl.signals.Probe(direction(0), bias=0.3)
    steering = sl.add(direction(), -1.5, gate=gate) + sl.add(direction(0), 0.5)
    trace = traced(model, steering)
    text = trace.texts[0]
    wanted = {
        "share": text.share * text.strength.sign(),
        "strength": text.strength,
        "gate": text.gate,
        "along": text.along,
    }[show][:, 0]
    same(numbers(views.tokens(trace, show)), wanted)


@EACH_HOST
@pytest.mark.parametrize("site", ["hook_resid_post", "attn.hook_z", "hook_attn_out"])
def test_projections_are_cosines_of_what_the_steering_leaves(host: str, site: str) -> None:
    model, up = tiny("llama", host), direction(1, site)
    _, cache = model.run_with_cache(model.to_tokens(TEXT))
    x = cache[up.hook_name][0].detach()
    plain = views.projections(model, up, TEXT)
    want = torch.cosine_similarity(x.flatten(1), up.vector.flatten()[None], dim=1)
    same(numbers(plain)[0], want)
    steering = sl.add(up, 2, positions="every_token")
    steered = views.projections(model, [up, up], TEXT, steering=steering)
    moved = (x + 2 * up.vector).flatten(1)
    want = torch.cosine_similarity(moved, up.vector.flatten()[None], dim=1)
    same(numbers(steered)[1], want)
    assert "cosine" in steered.legend + steered.static


@EACH_HOST
def test_heads_tell_the_share_of_attention_moved(host: str) -> None:
    model = tiny("gpt2", host)
    still = views.heads(model, sl.add(direction(0), 0.0), TEXT, layer=2)
    moved = views.heads(model, sl.add(direction(0), 40.0), TEXT, layer=2)
    told = [re.findall(r"<span[^>]*>([^<]*)</span></div>", each.static) for each in (still, moved)]
    assert len(told[0]) == len(told[1]) == 4
    assert set(told[0]) == {"0"}
    assert "0" not in told[1]


@EACH_HOST
def test_what_cannot_be_shown(host: str) -> None:
    model = tiny("gpt2", host)
    trace = traced(model, sl.add(direction(), 1.0))
    with pytest.raises(UnknownNameError, match="no 'dose' to show"):
        views.tokens(trace, "dose")
    for place in ({"text": 1}, {"row": 1}, {"text": -1}):
        with pytest.raises(BadInputError, match="The trace holds 1 texts, of 1 rows"):
            views.tokens(trace, **place)
    with pytest.raises(BadInputError, match="one Direction or more"):
        views.projections(model, [], TEXT)
    with pytest.raises(BadInputError, match="does not fit activations of shape"):
        views.projections(model, sl.Direction("blocks.1.hook_resid_post", torch.ones(4)), TEXT)
    with pytest.raises(HookError, match="for every query and key"):
        views.projections(model, sl.Direction("blocks.1.attn.hook_pattern", torch.ones(4)), TEXT)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
