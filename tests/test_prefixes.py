"""Prompts computed once give what whole texts give, under any steering, on every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EACH, EACH_HOST
from models import build, tiny

import steerlens as sl
from steerlens import prefixes
from steerlens.evaluation import predicting
from steerlens.evaluation.scoring import token_log_probs
from steerlens.prefixes import Prefix, shared_parts
from steerlens.rows import Family
from steerlens.text import Encoded

pytestmark = pytest.mark.host
ITEMS = [
    ("good day w1 w2", "w3"),
    ("good day w1 w2", "w3 w4 w5"),
    ("good day w1 w2", "bad w7 w8"),
    ("w9 w8 w7 w6", "w5 w4"),
    ("w9 w8 w7 w6", "w1 w2 w3 w4"),
    ("w1 bad", "w2 w3"),
    ("w1 bad", "w2 w4"),
    ("sad w1 w2 w3 w4 w5", "w6"),
]


def direction(layer: int, seed: int = 0) -> sl.Direction:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return sl.Direction(f"blocks.{layer}.hook_resid_post", vector, name="d")


def steerings() -> dict[str, sl.Steering]:
    signals, add = sl.signals, sl.add(direction(1), 2.0)
    probe = signals.Probe(direction(0, 1))
    return {
        "everywhere": add,
        "predicting": add.where("predicting"),
        "last prompt token": add.where("last_prompt_token"),
        "last two": add.where(sl.positions.last(2)),
        "second and later": add.where(~sl.positions.first(1)),
        "a share of the stream": sl.add(direction(1), sl.of_stream(0.3)),
        "latch": add.when(signals.Latch(signals.Projection(direction(0, 1)) > 0.1)),
        "of the prompt": add.when(signals.OfPrompt(probe)),
        "decay": add.when(signals.Decay(2)),
        "in turn": add >> sl.add(direction(2, 3), 0.5),
    }


def alone_and_shared(
    model: Any, monkeypatch: pytest.MonkeyPatch, *given: Any
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    with monkeypatch.context() as patch:
        patch.setattr(predicting, "shared_parts", lambda *given: None)
        alone = token_log_probs(model, ITEMS, *given)
    with monkeypatch.context() as patch:
        patch.setattr(prefixes, "pass_tokens", lambda model: -100.0)
        shared = token_log_probs(model, ITEMS, *given)
    return alone, shared


@EACH_HOST
@pytest.mark.parametrize("name", steerings())
def test_shared_prompts_change_no_score(
    host: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama", host)
    alone, shared = alone_and_shared(model, monkeypatch, steerings()[name], [0.0, 1.0, -0.5])
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@EACH
def test_on_every_architecture(
    architecture: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(architecture, host)
    every = steerings()
    whole = every["of the prompt"] + every["latch"] + every["predicting"]
    alone, shared = alone_and_shared(model, monkeypatch, whole, [0.0, 1.0])
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@EACH_HOST
def test_without_a_steering_and_of_a_family(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", host)
    family = Family(sl.add(direction(1), coeff=[0.0, 1.0]), 2)
    for given in ((None, [1.0, 2.0]), (family, [1.0, 1.0])):
        alone, shared = alone_and_shared(model, monkeypatch, *given)
        for one, other in zip(alone, shared, strict=True):
            assert one.shape[0] == 2
            torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@EACH
def test_a_prefix_is_left_as_it_was(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    prompts = torch.tensor([[1, 5, 9, 20], [1, 6, 7, 8]])
    prefix = Prefix(model, prompts)
    more = torch.tensor([[10, 11, 12], [13, 0, 0]])
    lengths = torch.tensor([3, 1])
    first, other, again = (prefix.then(each, lengths) for each in (more, more + 1, more))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first, other)
    whole = model(torch.cat([prompts, more], 1))
    expected = torch.cat([whole[0, 4:], whole[1, 4:5]])
    torch.testing.assert_close(first, expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(prefix.last, whole[:, 3], atol=2e-5, rtol=2e-5)


def test_sharing_is_for_what_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2", "bridge")
    monkeypatch.setattr(prefixes, "pass_tokens", lambda model: 48.0)
    long, short = tuple(range(200)), (1, 2, 3)
    told = [Encoded((*prompt, 300 + i), len(prompt)) for prompt in (long, short) for i in range(9)]
    assert shared_parts(model, told[:9], 4_000) == [[list(range(9))]]
    assert shared_parts(model, told[9:], 4_000) is None
    assert shared_parts(model, told[9:], 4_000, times=100) == [[list(range(9))]]
    assert shared_parts(model, [Encoded((*long[i:], 5), 200 - i) for i in range(9)], 4_000) is None


def test_parts_hold_every_text_once_and_no_more_than_there_is_room() -> None:
    model = tiny("gpt2", "bridge")
    told = [Encoded((*range(n % 7 + 1), 50 + n, 9), n % 7 + 2) for n in range(40) for _ in (0, 1)]
    parts = shared_parts(model, told, 30, times=10**6)
    assert parts is not None
    assert sorted(number for part in parts for group in part for number in group) == [*range(80)]
    for part in parts:
        assert len({told[group[0]].prompt_length for group in part}) == 1
        assert sum(max(len(told[number].tokens) for number in group) for group in part) <= 30


@EACH_HOST
def test_passes_are_counted(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts of one length with three answers each: four passes over twelve tokens a row."""
    model, widths = build("gpt2", host), list[int]()
    run = Prefix._run

    def counted(self: Prefix, tokens: Any, *rest: Any) -> Any:
        widths.append(tokens.shape[1])
        return run(self, tokens, *rest)

    monkeypatch.setattr(Prefix, "_run", counted)
    monkeypatch.setattr(prefixes, "pass_tokens", lambda model: 1.0)
    prompts = [f"w{i} w1 w2 w3 w4 w5" for i in range(3)]
    items = [(prompt, f"w{i} w{j} w9") for i, prompt in enumerate(prompts) for j in range(3)]
    token_log_probs(model, items, sl.add(direction(1)), [0.0, 1.0])
    assert widths == [7, 2, 2, 2]  # BOS and six, then what comes before each answer's last
