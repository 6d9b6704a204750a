"""Completions, log-probabilities and divergence, against hand-computed ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import hosts, tiny

import steerlens as sl
from steerlens.evaluation import completions, divergence, log_probability, perplexity
from steerlens.evaluation.dice import Dice
from steerlens.text import encode

pytestmark = pytest.mark.host
PROMPTS = ["good w1 w2", "bad", "not the happy w3 w4"]
ITEMS = [("good w1", " w2 w3"), ("bad", " w4"), ("the sad w5 w6", " good w7 bad w8")]


@pytest.fixture(params=hosts())
def model(request: pytest.FixtureRequest) -> Any:
    return tiny("llama", request.param)


@pytest.fixture
def steering(model: Any) -> sl.Steering:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(model.cfg.d_model, generator=generator)
    direction = sl.Direction("blocks.1.hook_resid_post", vector)
    return sl.add(direction, 2.0, positions="predicting")


def by_hand(model: Any, item: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
    encoded = encode(model, item)
    tokens = torch.tensor(encoded.tokens)
    with torch.no_grad():
        logps = model(tokens[None])[0].log_softmax(-1)
    return logps, tokens, encoded.prompt_length


def test_log_probability_is_the_mean_over_the_completion(model: Any) -> None:
    wanted = []
    for item in ITEMS:
        logps, tokens, start = by_hand(model, item)
        places = range(start, len(tokens))
        wanted.append(sum(logps[i - 1, tokens[i]] for i in places) / len(places))
    found = log_probability(model, ITEMS)
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=0)
    assert perplexity(model, ITEMS) == pytest.approx(float((-found).mean().exp()))


@pytest.mark.parametrize("batch_tokens", [1, 16, 4096])
def test_scores_do_not_depend_on_the_batch(model: Any, batch_tokens: int) -> None:
    found = log_probability(model, ITEMS, batch_tokens=batch_tokens)
    torch.testing.assert_close(found, log_probability(model, ITEMS), atol=1e-5, rtol=0)


def test_divergence_is_kl_over_the_completion(model: Any, steering: sl.Steering) -> None:
    found = divergence(model, steering, ITEMS, [0.0, 1.0, -0.5])
    assert found[0].abs().max() == 0
    for column, item in enumerate(ITEMS):
        base, tokens, start = by_hand(model, item)
        with (-0.5 * steering).on(model, prompt_lengths=[start]):
            steered, _, _ = by_hand(model, item)
        nats = (base.exp() * (base - steered)).sum(-1)[start - 1 : len(tokens) - 1]
        assert float(found[2, column]) == pytest.approx(float(nats.mean()), abs=1e-5)


def test_items_without_a_completion_are_refused(model: Any) -> None:
    with pytest.raises(sl.SteerLensError, match="Item 0 has no completion"):
        log_probability(model, ["good w1"])


def test_completions_are_what_generate_writes(model: Any, steering: sl.Steering) -> None:
    alone = [completions(model, [p], steering, max_new_tokens=6, temperature=0)[0] for p in PROMPTS]
    together = completions(model, PROMPTS, steering, max_new_tokens=6, temperature=0)
    assert [c.encoded for c in together] == [c.encoded for c in alone]
    with steering.on(model):
        ids = model.generate(
            model.to_tokens(PROMPTS[2]), max_new_tokens=6, do_sample=False, verbose=False
        )
    whole = together[2].encoded.tokens
    assert list(whole) == ids[0, : len(whole)].tolist()
    assert together[2].encoded.prompt_length == 6


def test_a_coefficient_a_prompt(model: Any, steering: sl.Steering) -> None:
    coeffs = [3.0, 0.0, -3.0]
    rows = completions(
        model, PROMPTS, steering, coeffs=coeffs, max_new_tokens=6, temperature=0, batch_rows=2
    )
    for prompt, coeff, row in zip(PROMPTS, coeffs, rows, strict=True):
        [alone] = completions(model, [prompt], coeff * steering, max_new_tokens=6, temperature=0)
        assert row == alone


def test_the_seed_decides_and_the_callers_dice_are_left_alone(model: Any) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = completions(model, PROMPTS, max_new_tokens=8, seed=1)
    assert torch.equal(torch.rand(1), wanted)
    assert completions(model, PROMPTS, max_new_tokens=8, seed=1) == first
    assert completions(model, PROMPTS, max_new_tokens=8, seed=2) != first


def test_a_completion_ends_before_eos(model: Any) -> None:
    eos = model.tokenizer.eos_token_id
    for each in completions(model, PROMPTS * 10, max_new_tokens=20, temperature=2.0):
        assert eos not in each.encoded.tokens[each.encoded.prompt_length :]


def test_coeffs_need_a_steering(model: Any) -> None:
    with pytest.raises(sl.SteerLensError, match="coeffs need a steering"):
        completions(model, PROMPTS, coeffs=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_an_infinite_logit_has_overflowed(temperature: float) -> None:
    logits = torch.zeros(4, 1, 3)
    logits[0, 0, 1] = -torch.inf  # a token that cannot come is no overflow
    logits[1, 0, 1], logits[2, 0, 1], logits[3] = torch.inf, torch.nan, -torch.inf
    dice = Dice(0, range(4), temperature)
    dice.race(logits)
    assert dice.overflowed == {1, 2, 3}
