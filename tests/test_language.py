"""The language at work: gates that read elsewhere, coefficients a layer, shares of the stream."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import forward, hosts, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.directions import Eraser
from steerlens.errors import BadInputError, HookError
from steerlens.names import hook_name
from steerlens.signals import Cosine, Latch, OfPrompt, Probe, Projection, Steps
from steerlens.transforms import (
    Ablate,
    Add,
    Erase,
    Function,
    Interchange,
    KeepNorm,
    Replace,
    Scale,
    stored_pass,
)

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
def test_a_gate_at_its_own_point_sees_what_its_transform_sees(host: str) -> None:
    model = tiny("gpt2", host)
    gate = Projection(direction()) > 0.0
    for joint in ("+", ">>"):
        first, second = sl.add(direction(), 9.0), sl.add(direction(seed=2))
        ways = [second.when(gate), second.when(gate.at(POST))]
        steered = [
            stream(model, first + way if joint == "+" else first >> way, POST) for way in ways
        ]
        assert torch.equal(*steered)


@EACH_HOST
def test_what_is_read_elsewhere_is_what_was_written_there(host: str) -> None:
    """Under one steering or two, and by either name of one stream."""
    model = tiny("llama", host)
    before = sl.add(direction("blocks.0.hook_resid_post"), 4.0)
    ways = []
    for name in (PRE, "blocks.0.hook_resid_post"):
        reading = sl.add(direction()).when(Probe(direction(PRE, 1)).at(name))
        ways.append(stream(model, before + reading, POST))
        with before.on(model):
            ways.append(stream(model, reading, POST))
    for other in ways[1:]:
        torch.testing.assert_close(other, ways[0], atol=1e-5, rtol=0)


@EACH_HOST
def test_one_signal_at_two_points_keeps_two_states(host: str) -> None:
    model = tiny("llama", host)
    held = OfPrompt(Probe(direction()))
    latch = Latch(Projection(direction()))
    names = "blocks.0.hook_resid_post", PRE.replace("1", "0")
    gate = held.at(names[0]) & held.at(names[1]) & (latch.at(names[0]) | latch.at(names[1]))
    steering = sl.add(direction(), positions="predicting").when(gate)
    with steering.trace(model) as written:
        model.generate(TOKENS, max_new_tokens=4, do_sample=False, verbose=False)
    whole = written.texts[0].tokens
    with steering.trace(model, prompt_lengths=[TOKENS.shape[1]]) as scored:
        model(whole)
    torch.testing.assert_close(scored.texts[0].gate, written.texts[0].gate, atol=1e-4, rtol=0)


@EACH_HOST
def test_a_sequence_against_the_order_of_the_pass_is_reported(host: str) -> None:
    model = tiny("llama", host)
    late, early = sl.add(direction()), sl.ablate(direction(PRE))
    with pytest.warns(UserWarning, match="the second comes first"), (late >> early).on(model):
        model(TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (early >> late, late + early, late >> late):
            with fine.on(model):
                model(TOKENS)


@EACH_HOST
def test_a_share_of_the_stream_however_it_is_given(host: str) -> None:
    model = tiny("llama", host)
    before, tenth = stream(model, None, POST), sl.of_stream(0.1)
    ways = [
        sl.add(direction(), tenth),
        sl.add([direction()], {1: tenth}),
        tenth * sl.add(direction()),
        sl.steer(Add(direction()), coeff=tenth),
        sl.add(direction(), tenth & Steps(0)).where("predicting")
        + sl.add(direction(), tenth, positions=slice(1, -1)),
    ]
    for steering in ways:
        change = (stream(model, steering, POST) - before).norm(dim=-1) / before.norm(dim=-1)
        torch.testing.assert_close(change[:, 1:], torch.full_like(change[:, 1:], 0.1))
    with pytest.raises(BadInputError, match="how long an added direction is"):
        sl.ablate(direction(), tenth)


@EACH_HOST
def test_functions_cannot_write_by_the_back_door(host: str) -> None:
    model = tiny("llama", host)
    plain = forward(model, TOKENS)

    def gate(x: Tensor) -> Tensor:
        return x.zero_()[..., 0] + 1

    steerings = (
        sl.add(direction(), 0.0).when(gate),
        sl.steer(Function(lambda x: x.zero_()), POST),
    )
    for steering in steerings:
        with steering.on(model):
            assert torch.equal(forward(model, TOKENS), plain)


@EACH_HOST
def test_what_is_not_finite_is_an_error(host: str) -> None:
    model = tiny("llama", host)
    wrong = [
        sl.steer(Function(lambda x: x * torch.nan), POST),
        sl.add(direction()).when(lambda x: x[..., 0] * torch.inf),
        sl.ablate(direction()).when(lambda x: x[..., 0] * torch.nan),
    ]
    for steering in wrong:
        with pytest.raises(BadInputError, match=r"finite|share"), steering.on(model):
            model(TOKENS)


@EACH_HOST
def test_what_a_signal_looks_for_must_fit(host: str) -> None:
    model = tiny("llama", host)
    heads = torch.randn(models.N_HEADS, models.D_HEAD["llama"])
    gate = Probe(sl.Direction("blocks.1.attn.hook_z", heads, name="of heads"))
    with pytest.raises(BadInputError, match="looks for 'of heads'"):
        with sl.add(direction()).when(gate).on(model):
            model(TOKENS)


@EACH_HOST
def test_a_stored_pass_is_kept_by_index(host: str) -> None:
    """Replaced by its own activations a text stays as it is, padded or alone."""
    model = tiny("llama", host)
    rows = random_rows([8, 5])
    reference = stored_pass(model, rows, POST)
    assert reference.shape[:2] == (2, 8)
    assert reference[1, 5:].isnan().all()
    tokens, mask = models.padded(rows, "left")
    plain = forward(model, tokens, mask)
    for transform in (
        Replace(reference, by_index=True),
        Interchange(direction(), reference, by_index=True),
    ):
        with sl.steer(transform, POST).on(model):
            torch.testing.assert_close(
                forward(model, tokens, mask)[mask.bool()], plain[mask.bool()], atol=1e-4, rtol=0
            )
    changed = torch.zeros_like(reference)
    with sl.steer(Replace(changed, by_index=True), POST).on(model):
        assert not torch.allclose(forward(model, tokens, mask)[mask.bool()], plain[mask.bool()])


@EACH_HOST
def test_a_prompt_held_is_read_elsewhere_too(host: str) -> None:
    model = tiny("llama", host)
    probe = Probe(direction(PRE))
    gates = OfPrompt(probe.at(PRE)), OfPrompt(probe).at(PRE)
    streams = [stream(model, sl.add(direction()).when(gate), POST) for gate in gates]
    torch.testing.assert_close(*streams)


@EACH_HOST
def test_erasing_leaves_nothing_to_read(host: str) -> None:
    model = tiny("llama", host)
    positive, negative = (torch.randn(20, models.D_MODEL) + shift for shift in (0.5, 0.0))
    eraser = Eraser.of(positive, negative)
    after = stream(model, sl.steer(Erase(eraser), POST), POST)[:, 1:]
    left = ((after - eraser.mean) * eraser.covector).sum(-1)
    torch.testing.assert_close(left, torch.zeros_like(left), atol=1e-4, rtol=0)
    with pytest.raises(BadInputError, match="share from 0 to 1"):
        sl.steer(Erase(eraser), POST, 2.0)


@EACH_HOST
def test_a_block_without_a_pass_says_so(host: str) -> None:
    with (
        pytest.warns(UserWarning, match="No pass was run"),
        sl.add(direction()).on(tiny("llama", host)),
    ):
        pass


@EACH_HOST
def test_a_block_that_nobody_enters_says_so_at_the_users_line(host: str) -> None:
    model, steering = tiny("llama", host), sl.add(direction())
    with pytest.warns(UserWarning, match=r"never entered. Write `with steering.on") as told:
        steering.on(model)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="No pass was run") as told, steering.on(model):
        pass
    assert told[0].filename == __file__
    waiting = steering.trace(model)
    assert "enter it with" in repr(waiting)
    assert not hasattr(waiting, "texts")
    plain = model(TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ExitStack() as stack:
            trace = stack.enter_context(waiting)
            model(TOKENS)
        around = steering.on(model)(lambda tokens: model(tokens))
        assert not torch.equal(around(TOKENS), plain)
        assert torch.equal(around(TOKENS), around(TOKENS))
    assert len(trace.texts) == 1


@EACH_HOST
def test_hooks_without_tokens_serve_one_pass(host: str) -> None:
    model = tiny("llama", host)
    hooks = sl.add(direction(), positions=0).fwd_hooks(model)
    model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    with pytest.raises(HookError, match="fired again"):
        model.run_with_hooks(TOKENS, fwd_hooks=hooks)


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
    with pytest.raises(
        BadInputError, match="Coefficients are given for layers 0, and what is steered is at 0, 2"
    ):
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


class Own(sl.signals.Combining):
    """A signal of somebody's own, of an activation that it does not say it reads."""

    def __call__(self, moment: Any) -> Any:
        return moment.at("blocks.0.hook_resid_pre").x.sum(-1)


class Broken(sl.signals.Combining):
    def __call__(self, moment: Any) -> Any:
        return moment.x[..., 0] / 0 * 0


@EACH_HOST
def test_a_signal_of_ones_own_says_what_it_reads_and_gives_no_nan(host: str) -> None:
    model, tokens = tiny("llama", host), random_rows([5])[0][None]
    with pytest.raises(BadInputError, match="is a dataclass"), sl.add(direction(), Own()).on(model):
        forward(model, tokens)
    with (
        pytest.raises(BadInputError, match="a finite number"),
        sl.add(direction(), Broken()).on(model),
    ):
        forward(model, tokens)


@pytest.mark.skipif("hooked_transformer" not in hosts(), reason="the bridge caches rotated keys")
def test_rotated_keys_are_no_place_under_a_cache() -> None:
    model, tokens = tiny("llama", "hooked_transformer"), random_rows([5])[0][None]
    heads, d = model.cfg.n_key_value_heads or model.cfg.n_heads, model.cfg.d_head
    steering = sl.add(sl.Direction("blocks.1.attn.hook_rot_k", torch.ones(heads, d)))
    options: dict[str, Any] = dict(max_new_tokens=3, verbose=False)
    with steering.on(model):
        model.generate(tokens, use_past_kv_cache=False, **options)
    with pytest.raises(HookError, match="over all cached keys"), steering.on(model):
        model.generate(tokens, **options)
