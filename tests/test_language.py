"""The language at work: gates that read elsewhere, coefficients a layer, shares of the stream."""

from __future__ import annotations

import warnings
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import forward, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, HookError
from steerlens.host import hook_name
from steerlens.signals import Cosine, Latch, Probe, Projection, Steps
from steerlens.transforms import Ablate, Add, Function, KeepNorm, Scale

pytestmark = pytest.mark.host
TOKENS = random_rows([8])[0][None]
PRE = "blocks.1.hook_resid_pre"
POST = "blocks.1.hook_resid_post"


def direction(
    name: str = POST, seed: int = 0, shape: tuple[int, ...] | None = None
) -> sl.Direction:
    generator = torch.Generator().manual_seed(seed)
    return sl.Direction(name, torch.randn(shape or (models.D_MODEL,), generator=generator))


def stream(model: Any, steering: sl.Steering | None, name: str) -> Tensor:
    """What stands at a hook point, steered or not, once everything is written."""
    kept: list[Tensor] = []
    hooks = [(name, lambda x, hook: kept.append(x.clone()))]
    if steering is None:
        model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    else:
        with steering.on(model):
            model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    return kept[0]


@EACH_HOST
def test_a_gate_reads_another_hook_point(host: str) -> None:
    model = tiny("llama", host)
    gate = Probe(direction(PRE, 1)).at(PRE)
    before, there = stream(model, None, POST), stream(model, None, PRE)
    wanted = torch.sigmoid(there @ direction(PRE, 1).vector)[:, 1:, None] * direction().vector
    after = stream(model, sl.add(direction()).when(gate), POST)
    torch.testing.assert_close((after - before)[:, 1:], wanted, atol=1e-5, rtol=0)


@EACH_HOST
def test_a_gate_reads_its_own_point_before_it_is_written(host: str) -> None:
    model = tiny("gpt2", host)
    gate = Projection(direction()) > 0.0
    two = sl.add(direction(), 9.0) >> sl.add(direction(seed=2)).when(gate.at(POST))
    before = stream(model, None, POST)
    open_there = (before @ direction().vector > 0)[:, 1:, None]
    wanted = 9 * direction().vector + open_there * direction(seed=2).vector
    torch.testing.assert_close(
        (stream(model, two, POST) - before)[:, 1:], wanted, atol=1e-4, rtol=0
    )


@EACH_HOST
@pytest.mark.parametrize("later", ["blocks.2.hook_resid_pre", "blocks.1.hook_resid_post"])
def test_a_gate_that_reads_later_is_an_error(host: str, later: str) -> None:
    model = tiny("llama", host)
    steering = sl.add(direction(PRE)).when(Probe(direction(later)).at(later))
    with pytest.raises(HookError, match="computes it later"), steering.on(model):
        model(TOKENS)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    with pytest.raises(BadInputError, match="needs fwd_hooks"):
        steering.fwd_hooks(model)


@EACH_HOST
def test_a_name_to_read_is_checked_like_one_to_write(host: str) -> None:
    model = tiny("llama", host)
    gate = Probe(direction()).at("blocks.1.hook_resid_pots")
    with pytest.raises(sl.SteerLensError, match="hook_resid_post"):
        with sl.add(direction()).when(gate).on(model):
            pass


@EACH_HOST
def test_a_transform_reads_one_point_and_writes_another(host: str) -> None:
    """Ablating what the stream carries from what the attention adds."""
    model = tiny("llama", host)
    out = "blocks.1.hook_attn_out"
    steering = sl.steer(Ablate(direction(PRE)), out, reads=PRE)
    there, before = stream(model, None, PRE), stream(model, None, out)
    unit = direction().unit().vector
    wanted = -(there @ unit)[..., None] * unit
    torch.testing.assert_close(
        (stream(model, steering, out) - before)[:, 1:], wanted[:, 1:], atol=1e-5, rtol=0
    )
    assert f"reads {PRE}" in repr(steering)


@EACH_HOST
def test_what_is_read_must_fit(host: str) -> None:
    model = tiny("llama", host)
    heads = "blocks.1.attn.hook_z"
    with pytest.raises(BadInputError, match="does not fit"):
        with sl.steer(Ablate(direction()), "blocks.1.hook_attn_out", reads=heads).on(model):
            model(TOKENS)
    change = sl.steer(Function(torch.tanh), "blocks.1.hook_attn_out", reads=heads)
    with pytest.raises(BadInputError, match="does not fit the strength"), change.on(model):
        model(TOKENS)


@EACH_HOST
def test_a_gate_that_never_opened_is_reported(host: str) -> None:
    model = tiny("llama", host)
    shut = sl.add(direction()).when(Cosine(direction()) > 1.5)
    with pytest.warns(UserWarning, match="never opened"), shut.on(model):
        model(TOKENS)
    opened = sl.add(direction()).when(Cosine(direction()) > -1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with opened.on(model):
            model(TOKENS)


@EACH_HOST
def test_a_share_of_the_stream(host: str) -> None:
    model = tiny("llama", host)
    before = stream(model, None, POST)
    for steering in (
        sl.add(direction(), sl.of_stream(0.1)),
        -0.5 * sl.add(direction(), sl.of_stream(-0.2)),
    ):
        change = stream(model, steering, POST) - before
        share = change.norm(dim=-1) / before.norm(dim=-1)
        torch.testing.assert_close(share[:, 1:], torch.full_like(share[:, 1:], 0.1))
        cosine = torch.cosine_similarity(change[:, 1:], direction().vector, dim=-1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


@EACH_HOST
def test_a_coefficient_a_layer(host: str) -> None:
    model = tiny("llama", host)
    each = [direction(f"blocks.{layer}.hook_resid_post", layer) for layer in (0, 2)]
    by_layer = sl.add(each, {0: 2.0, 2: -1.0})
    alone = sl.add(each[0], 2.0) + sl.add(each[1], -1.0)
    with by_layer.on(model):
        logits = forward(model, TOKENS)
    with alone.on(model):
        torch.testing.assert_close(logits, forward(model, TOKENS))
    with pytest.raises(BadInputError, match=r"No coefficient is given for 'blocks\.2"):
        sl.add(each, {0: 2.0})
    assert [leaf.hook_name for leaf in by_layer.layers(2).interventions] == [each[1].hook_name]
    with pytest.raises(BadInputError, match="Nothing is steered at layers"):
        by_layer.layers(1)


@EACH_HOST
@pytest.mark.parametrize("site", ["q", "k", "v", "rot_k", "z"])
def test_sites_with_heads(host: str, site: str) -> None:
    """Trap 18: keys and values have the heads that the architecture gives them."""
    model = tiny("llama", host)
    name = hook_name(site, 1)
    if name not in model.hook_dict:
        pytest.skip(f"this host has no {name}")
    shape = tuple(stream(model, None, name).shape[2:])
    steering = sl.add(direction(name, shape=shape))
    before, after = stream(model, None, name), stream(model, steering, name)
    torch.testing.assert_close(
        (after - before)[:, 1:],
        direction(name, shape=shape).vector.expand(1, 7, *shape),
        atol=1e-5,
        rtol=0,
    )
    with pytest.raises(BadInputError, match="does not fit"):
        with sl.add(direction(name, shape=(shape[0] + 1, shape[1]))).on(model):
            model(TOKENS)


@EACH_HOST
def test_latches_in_generate(host: str) -> None:
    """The state of a latch follows the cache: cached and uncached generation agree."""
    model = tiny("llama", host)
    gate = Latch(Probe(direction(), bias=-1.0))
    steering = sl.add(direction(seed=3), 2.0, positions="predicting").when(gate)
    texts = []
    for cached in (True, False):
        with steering.trace(model) as trace:
            model.generate(
                TOKENS, max_new_tokens=6, do_sample=False, use_past_kv_cache=cached, verbose=False
            )
        texts.append(trace.texts[0])
    assert texts[0].tokens.equal(texts[1].tokens)
    torch.testing.assert_close(texts[0].gate, texts[1].gate, atol=1e-5, rtol=0, equal_nan=True)
    gates = texts[0].gate[0, 0]
    opened = gates[~gates.isnan() & (gates > 0)]
    assert (opened.diff() >= -1e-6).all(), "once open, it stays as open"


@EACH_HOST
def test_steps_stop_a_steering_in_generate(host: str) -> None:
    model = tiny("llama", host)
    steering = sl.add(direction(), 3.0, positions="predicting").when(Steps(0, 2))
    with steering.trace(model) as trace:
        model.generate(TOKENS, max_new_tokens=5, do_sample=False, verbose=False)
    written = (trace.texts[0].strength[0, 0].nan_to_num() != 0).nonzero().flatten().tolist()
    assert written == [7, 8], "the last prompt token, and the first new one"


@EACH_HOST
def test_a_gate_may_take_a_gradient_under_inference_mode(host: str) -> None:
    """HookedTransformer generates under inference mode: such a gate makes its own gradient."""
    model = tiny("llama", host)
    weight = direction().vector

    def slope(x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            score = torch.tanh(leaf @ weight).sum()
            [gradient] = torch.autograd.grad(score, leaf)
        return gradient.norm(dim=-1)

    with sl.add(direction(), 0.5, positions="predicting").when(slope).on(model):
        model.generate(TOKENS, max_new_tokens=2, do_sample=False, verbose=False)


@EACH_HOST
def test_transforms_without_a_place_need_one(host: str) -> None:
    with pytest.raises(BadInputError, match="knows no hook point"):
        sl.steer(Scale(torch.ones(3)))
    placed = sl.steer(KeepNorm(Add(direction())), coeff=2.0)
    assert placed.interventions[0].hook_name == POST
    assert repr(placed) == "Steering(2 * keep_norm(add('direction')) @ " + POST + "[everywhere])"
    model = tiny("llama", host)
    before, after = stream(model, None, POST), stream(model, placed, POST)
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1), atol=1e-4, rtol=0)
