"""ActAdd against a direct computation: two prompts' difference on the front of a text."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from models import build, hosts, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.methods import actadd

LOVE, HATE = "w3 good w5", "w3 bad"
PAIR = sl.Contrast([LOVE], [HATE])
QUIET: dict[str, Any] = {"progress": False}
on_hosts = pytest.mark.parametrize("host", hosts())
on_one_host = pytest.mark.parametrize("host", hosts()[:1])


def stream(model: Any, tokens: Tensor, layer: int) -> Tensor:
    kept: list[Tensor] = []
    hook = (f"blocks.{layer}.hook_resid_pre", lambda x, hook: kept.append(x.clone()))
    with torch.no_grad():
        model.run_with_hooks(tokens[None], fwd_hooks=[hook])
    return kept[0][0]


def gap(model: Any, layer: int) -> Tensor:
    """The difference token by token, the shorter prompt padded by hand."""
    first, second = (model.to_tokens(text)[0] for text in (LOVE, HATE))
    second = torch.cat([second, torch.zeros(1, dtype=torch.long)])  # <pad>: there is no space
    return stream(model, first, layer) - stream(model, second, layer)


def pushed(model: Any, tokens: Tensor, layer: int, vectors: Tensor) -> Tensor:
    def push(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[:, : len(vectors)] += vectors
        return x

    hook = f"blocks.{layer}.hook_resid_pre", push
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=[hook])


@pytest.mark.host
@on_hosts
@pytest.mark.parametrize(("architecture", "layer"), [("gpt2", 0), ("pythia", 1), ("gemma2", 2)])
def test_the_difference_is_added_from_the_front(architecture: str, host: str, layer: int) -> None:
    model = tiny(architecture, host)
    tokens = torch.stack(random_rows([7, 7], seed=2))
    steering = actadd.fit(model, PAIR, actadd.Config(layer=layer, coeff=3), **QUIET)
    wanted = pushed(model, tokens, layer, 3 * gap(model, layer))
    with torch.no_grad(), steering.on(model):
        found = model(tokens)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, model(tokens), atol=1e-2)
    # BOS and the word that both begin with differ in nothing, so nothing is added there.
    assert [repr(leaf.positions) for leaf in steering.interventions] == ["index(2)", "index(3)"]


@pytest.mark.host
@on_one_host
def test_it_may_begin_further_on(host: str) -> None:
    model, tokens = tiny("llama", host), random_rows([9], seed=2)[0][None]
    steering = actadd.fit(model, PAIR, actadd.Config(layer=1, coeff=2, start=3), **QUIET)
    found = gap(model, 1)
    vectors = torch.cat([torch.zeros(3, found.shape[1]), 2 * found])
    with torch.no_grad(), steering.on(model):
        logits = model(tokens)
    torch.testing.assert_close(logits, pushed(model, tokens, 1, vectors), atol=1e-4, rtol=1e-4)


@pytest.mark.host
@on_hosts
def test_only_the_front_of_what_is_generated_from_is_steered(host: str) -> None:
    """In generation as in one pass over what was generated."""
    model = tiny("llama", host)
    steering = actadd.fit(model, PAIR, actadd.Config(layer=1, coeff=4), **QUIET)
    tokens = random_rows([6], seed=4)[0][None]
    with torch.no_grad(), steering.trace(model) as trace:
        text = model.generate(
            tokens, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False
        )
    picked = trace.texts[0].share[:, 0] > 0
    assert picked.nonzero()[:, 1].tolist() == [2, 3]
    logits = pushed(model, text[:, :-1], 1, 4 * gap(model, 1))
    assert torch.equal(logits[0, 5:].argmax(-1), text[0, 6:])


@pytest.mark.host
@on_one_host
def test_the_shorter_prompt_is_padded(host: str) -> None:
    model = tiny("llama", host)
    first, second = actadd.padded(model, PAIR, " ")
    assert second.tokens == (*model.to_tokens(HATE)[0].tolist(), 0)
    _, by_word = actadd.padded(model, PAIR, "the w2")
    assert by_word.tokens[-1] == model.to_tokens("w2")[0, -1]
    assert first.tokens == tuple(model.to_tokens(LOVE)[0].tolist())
    swapped = actadd.padded(model, sl.Contrast([HATE], [LOVE]), " ")
    assert (swapped[1], swapped[0]) == (first, second)
    alone = build("llama", host)
    alone.tokenizer.pad_token = None
    with pytest.raises(sl.SteerLensError, match="another pad"):
        actadd.padded(alone, sl.Contrast([[1, 5]], [[1, 6, 7]]), " ")


def test_defaults_are_the_papers() -> None:
    config = actadd.Config()
    assert (config.coeff, config.pad, config.start) == (5, " ", 0)
    assert actadd.default_layer(48) == 6
    assert [actadd.default_layer(n) for n in (1, 2, 3, 6, 12, 32)] == [0, 1, 1, 1, 2, 4]


@pytest.mark.host
@on_hosts
def test_it_combines_takes_gates_and_positions_and_pickles(host: str) -> None:
    model, tokens = tiny("llama", host), torch.stack(random_rows([6, 6], seed=5))
    steering = actadd.fit(model, PAIR, **QUIET)
    assert steering.interventions[0].hook_name == "blocks.1.hook_resid_pre"

    def logits(each: sl.Steering) -> Tensor:
        with torch.no_grad(), each.on(model):
            return model(tokens)

    with torch.no_grad():
        base = model(tokens)
    assert torch.equal(logits(steering.when(0)), base)
    half = logits(steering.when(0.5))
    wanted = pushed(model, tokens, 1, 2.5 * gap(model, 1))
    torch.testing.assert_close(half, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(0.25 * steering + 0.25 * steering), half, atol=1e-4, rtol=0)
    everywhere = logits(steering.where("everywhere"))
    total = 5 * gap(model, 1).sum(0, keepdim=True)
    wanted = pushed(model, tokens, 1, torch.cat([0 * total, total.expand(5, -1)]))
    torch.testing.assert_close(everywhere, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(pickle.loads(pickle.dumps(steering))), logits(steering))


@pytest.mark.host
@on_one_host
def test_errors_say_what_to_do(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(sl.SteerLensError, match=r"steerlens\.methods\.caa"):
        actadd.fit(model, sl.Contrast(["good", "w1"], ["bad", "w2"]), **QUIET)
    with pytest.raises(sl.SteerLensError, match="prompts that differ"):
        actadd.fit(model, sl.Contrast(["good"], ["good"]), **QUIET)
    with pytest.raises(sl.SteerLensError, match="layers 0 to 2"):
        actadd.fit(model, PAIR, actadd.Config(layer=3), **QUIET)
    with pytest.raises(sl.SteerLensError, match="token 0 or later"):
        actadd.Config(start=-1)
    with pytest.raises(sl.SteerLensError, match="past every text"):
        with actadd.fit(model, PAIR, **QUIET).on(model):
            model(random_rows([3])[0][None])
