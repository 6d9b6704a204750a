"""The router: its network on plain tensors, its steering on plain hooks, what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import PROMPTS, REAL, TOKENS, behaves, close, logits
from cases import EACH_HOST
from models import D_MODEL, forward, hosts, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.methods import riser
from steerlens.methods.distilling import Learning, fitted, nearest_label, split
from steerlens.signals import Network, Routed
from steerlens.text import Encoded

HOOKS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
QUIET: dict[str, Any] = dict(progress=False)
ONE_HOST = pytest.mark.parametrize("host", hosts()[:1])
DICE = torch.Generator().manual_seed(0)
FEW = Learning(steps=20)
HEADS = ("linear", "softmax", "gated")
LABELLED = {"a": random_rows([5, 6, 7, 4], seed=4), "b": random_rows([6, 5, 4, 8], seed=5)}
WEIGHTS = {"a": [1.0, 0.0, -2.0], "b": [0.0, 1.5, 0.5]}


def basis() -> sl.Basis:
    dice = torch.Generator().manual_seed(7)
    vectors = {hook: torch.randn(3, D_MODEL, generator=dice) for hook in HOOKS}
    return sl.Basis(vectors, ["x", "y", "z"])


def routes() -> riser.Routes:
    return riser.Routes(basis(), LABELLED, WEIGHTS)


def adding(vector: Tensor) -> Any:
    return lambda x, hook: torch.cat([x[:, :1], x[:, 1:] + vector], 1)


def by_hand(network: Network, x: Tensor) -> Tensor:
    if network.hidden is not None and network.hidden_bias is not None:
        x = torch.tanh(network.hidden @ x + network.hidden_bias)
    z = network.out @ x + network.bias
    if network.table is not None:
        p = z.exp() / z.exp().sum()
        return sum(p[i] * network.table[i] for i in range(len(p)))  # type: ignore[return-value]
    if network.head == "gated":
        k = len(z) // 2
        return z[k:] / (1 + (-z[:k]).exp())
    return z


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("hidden", [None, 5])
def test_the_network_row_by_row(head: Any, hidden: int | None) -> None:
    outputs = {"linear": 3, "softmax": 2, "gated": 6}[head]
    width = hidden or 4
    network = Network(
        torch.randn(outputs, width, generator=DICE),
        torch.randn(outputs, generator=DICE),
        torch.randn(5, 4, generator=DICE) if hidden else None,
        torch.randn(5, generator=DICE) if hidden else None,
        torch.randn(2, 3, generator=DICE) if head == "softmax" else None,
        head,
    )
    assert (len(network), network.inputs) == (3, 4)
    x = torch.randn(6, 4, generator=DICE)
    for row, weights in zip(x, network.weights(x), strict=True):
        torch.testing.assert_close(weights, by_hand(network, row), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("hidden", [None, 8])
def test_a_planted_rule_is_recovered(head: Any, hidden: int | None) -> None:
    """Two clouds far apart, of very unlike spreads: each gets its label's weights."""
    labels = torch.arange(2).repeat_interleave(30)
    x = torch.randn(60, 6, generator=DICE)
    x[:, 0] += 6 * labels
    x = x * torch.tensor([1.0, 100.0, 1e-2, 1.0, 1.0, 0.0]) + 3.0
    table = torch.tensor([[40.0, 0.0, -80.0], [0.0, 60.0, 20.0]])
    learning = Learning(steps=120, lr=0.1, decay=1e-4)
    network = fitted(x, labels, table, head, hidden, learning)
    off = (network.weights(x) - table[labels]).abs().mean()
    assert float(off) < 12.0
    assert float((nearest_label(network.weights(x), table) == labels).float().mean()) > 0.98
    again = fitted(x, labels, table, head, hidden, learning)
    assert torch.equal(network.out, again.out)
    with torch.inference_mode():
        within = fitted(x, labels, table, head, hidden, learning)
    assert torch.equal(network.out, within.out)


def test_split_keeps_one_of_each_label() -> None:
    labels = torch.tensor([0] * 8 + [1] * 2)
    kept, held = split(labels, 0.9, seed=0)
    assert sorted(kept.tolist() + held.tolist()) == list(range(10))
    assert set(labels[kept].tolist()) == {0, 1}
    assert len(split(labels, 0.0, seed=0)[1]) == 0


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_a_routed_steering_by_hand(pool: Any, host: str) -> None:
    """What is read of the prompt, through the network, times the vectors, at each hook point."""
    model = tiny("gpt2", host)
    config = riser.Config(pool=pool, positions="everywhere", hidden=4, head="gated", learning=FEW)
    router = riser.train(model, routes(), config, **QUIET)
    assert router.reads == "blocks.1.hook_resid_pre"
    weights = []
    for row in PROMPTS:
        with torch.no_grad():
            _, cache = model.run_with_cache(row[None])
        x = cache[router.reads][0]
        weights.append(by_hand(router.network, x[-1] if pool == "last" else x[1:].mean(0)))
    found = router.weights(model, PROMPTS)
    torch.testing.assert_close(found, torch.stack(weights), atol=1e-4, rtol=1e-4)
    wanted = []
    for row, given in zip(PROMPTS, weights, strict=True):
        hooks = [(h, adding(given @ v)) for h, v in router.basis.vectors.items()]
        with model.hooks(fwd_hooks=hooks), torch.no_grad():
            wanted.append(forward(model, row[None])[0])
    steered = logits(model, router.steering())
    assert close(steered, torch.cat(wanted))
    assert not close(steered, logits(model))
    with router.for_prompts(model, PROMPTS).on(model):
        assert close(forward(model, TOKENS)[REAL], steered)
    assert router.frame(model, PROMPTS).shape == (3, 3)


@pytest.mark.host
@EACH_HOST
def test_it_behaves_and_a_file_gives_equal_logits(host: str, tmp_path: Path) -> None:
    model = tiny("llama", host)
    config = riser.Config(positions="everywhere", learning=FEW)
    steering = riser.fit(model, routes(), config, **QUIET)
    behaves(steering, model, tmp_path / "router.safetensors")
    again: Any = sl.load(tmp_path / "router.safetensors", model)
    assert torch.equal(logits(model, again), logits(model, steering))
    with pytest.raises(BadInputError, match=r"out \(z, width\)"):
        Network(torch.ones(2, 3), torch.ones(2), table=torch.ones(2, 4))


@pytest.mark.host
@EACH_HOST
def test_weights_are_held_from_the_prompt_on(host: str) -> None:
    """A longer completion changes nothing: the router saw the prompt alone."""
    model = tiny("gpt2", host)
    config = riser.Config(positions="everywhere", learning=FEW)
    steering = riser.fit(model, routes(), config, **QUIET)
    text = torch.tensor([[1, 9, 12, 5, 20, 30, 7]])
    with steering.on(model, prompt_lengths=[4]):
        long = forward(model, text)
    with steering.on(model, prompt_lengths=[4]):
        short = forward(model, text[:, :5])
    torch.testing.assert_close(long[:, :5], short, atol=1e-4, rtol=1e-4)
    with steering.on(model):
        other = forward(model, text)
    assert not torch.allclose(long, other, atol=1e-3)


@pytest.mark.host
@ONE_HOST
def test_labels_name_vectors_and_how_often_it_is_right(host: str) -> None:
    model = tiny("gpt2", host)
    ends = {name: [[1, 9 + i, 8, token] for i in range(8)] for name, token in (("x", 5), ("z", 6))}
    data = riser.Routes(basis(), ends)
    assert data.table().tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    router = riser.train(model, data, riser.Config(learning=Learning(60)), **QUIET)
    assert (router.accuracy, router.held_out) == (1.0, 4)
    assert "100% right on 4 prompts held out" in repr(router)
    assert "1 * x" in router._repr_html_()
    alike = riser.Routes(basis(), ends, {name: [0.0, 0.0, 0.0] for name in ends})
    assert riser.train(model, alike, riser.Config(learning=FEW), **QUIET).accuracy == 1.0
    none = riser.train(model, data, riser.Config(held_out=0.0, learning=FEW), **QUIET)
    assert none.accuracy is None
    deep = none
    for reads in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post"):
        deep = riser.train(model, data, riser.Config(reads=reads, learning=FEW), **QUIET)
        with pytest.raises(BadInputError, match="for_prompts"):
            deep.steering()
    alone = riser.Routes(basis().at("blocks.1.hook_resid_post"), ends)
    single = riser.train(model, alone, riser.Config(positions="everywhere", learning=FEW), **QUIET)
    assert single.reads == "blocks.1.hook_resid_post"
    assert close(
        logits(model, single.steering()), logits(model, single.for_prompts(model, PROMPTS))
    )
    prompts = [Encoded(tuple(ends["x"][0]), 4)]
    with deep.for_prompts(model, prompts).on(model):
        forward(model, torch.tensor([ends["x"][0]]))


def test_routes_and_choices_that_cannot_be() -> None:
    for wrong, told in (
        (dict(prompts={"x": ["a", "b"]}), "two labels or more"),
        (dict(prompts={"x": ["a"], "y": ["b", "c"]}), "one prompt. Give two or more"),
        (dict(prompts=LABELLED, weights={"a": [1.0] * 3}), "for the same labels"),
        (dict(prompts=LABELLED, weights={"a": [1.0], "b": [2.0]}), "takes 3 weights"),
    ):
        with pytest.raises(BadInputError, match=told):
            riser.Routes(basis(), **wrong)
    for name, value in (("hidden", 0), ("held_out", 1.0)):
        with pytest.raises(BadInputError):
            riser.Config(**{name: value})
    with pytest.raises(BadInputError, match="a step or more"):
        Learning(steps=0)
    with pytest.raises(BadInputError, match="has no weight 3"):
        Routed(Network(torch.ones(3, 2), torch.ones(3)), 3)
    with pytest.raises(BadInputError, match="not finite"):
        Network(torch.full((3, 2), torch.nan), torch.ones(3))
