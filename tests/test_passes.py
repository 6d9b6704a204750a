"""What a pass is asked for is what a whole pass would have given there, and no more is computed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from cases import EACH, EACH_HOST
from models import build, tiny

import steerlens as sl
from steerlens.passes import logits_at

pytestmark = pytest.mark.host
TOKENS = torch.tensor([[1, 5, 9, 20, 30], [1, 6, 7, 8, 9]])
MASK = torch.tensor([[0, 0, 1, 0, 1], [0, 1, 1, 0, 0]]) > 0


def unembedded(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of what is unembedded from now on, one a pass."""
    kind, seen = type(model.unembed), list[torch.Size]()
    forward = kind.forward

    def spy(self: Any, x: torch.Tensor, *rest: Any) -> Any:
        seen.append(x.shape)
        return forward(self, x, *rest)

    monkeypatch.setattr(kind, "forward", spy)
    return seen


@EACH
def test_only_the_asked_positions_are_unembedded(
    architecture: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(architecture, host)
    whole, seen = model(TOKENS), unembedded(model, monkeypatch)
    asked = logits_at(model, TOKENS, MASK)
    assert [tuple(shape[:2]) for shape in seen] == [(1, 4)]
    torch.testing.assert_close(asked, whole[MASK], atol=2e-5, rtol=2e-5)
    assert logits_at(model, TOKENS, MASK & False).shape == (0, whole.shape[-1])


@EACH_HOST
def test_a_hook_at_the_unembedding_sees_every_position(host: str) -> None:
    model, seen = tiny("llama", host), list[torch.Size]()

    def doubled(x: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append(x.shape)
        return 2 * x

    with model.hooks(fwd_hooks=[("unembed.hook_in", doubled)]):
        whole, asked = model(TOKENS), logits_at(model, TOKENS, MASK)
    assert seen[0] == seen[1]
    torch.testing.assert_close(asked, whole[MASK], atol=0, rtol=0)
    assert not torch.equal(asked, logits_at(model, TOKENS, MASK))


@EACH_HOST
def test_a_steering_at_the_last_norm_is_scored(host: str) -> None:
    """What is written between the last block and the unembedding is written before the choice."""
    model = tiny("llama", host)
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    for name in ("ln_final.hook_normalized", "unembed.hook_in"):
        with sl.add(sl.Direction(name, vector)).on(model):
            whole, asked = model(TOKENS), logits_at(model, TOKENS, MASK)
        torch.testing.assert_close(asked, whole[MASK], atol=2e-5, rtol=2e-5)
        assert (asked - model(TOKENS)[MASK]).abs().max() > 1e-3


@EACH_HOST
def test_an_error_leaves_no_hook(host: str) -> None:
    model = tiny("llama", host)
    before = model(TOKENS)

    def broken(x: torch.Tensor, hook: Any) -> None:
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", broken)]),
    ):
        logits_at(model, TOKENS, MASK)
    torch.testing.assert_close(model(TOKENS), before, atol=0, rtol=0)


def test_dropout_at_work_is_told() -> None:
    model = build("gpt2", "bridge")
    steering = sl.add(sl.Direction("blocks.1.hook_resid_post", torch.ones(32)))
    for each in model.modules():
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sl.compare(model, steering, ["good day"], max_new_tokens=1)
    model.train()
    for use in (
        lambda: sl.compare(model, steering, ["good day"], max_new_tokens=1),
        lambda: sl.collect(model, ["good day"], progress=False),
        lambda: sl.effect(model, steering, ["good day"]),
    ):
        with pytest.warns(UserWarning, match=r"Call model.eval\(\) first"):
            use()
