"""Law 7: an edit run as hooks is the edit in the weights; what it does is what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import models
import pytest
import torch
from cases import EACH, EACH_HOST, PAIRS
from edits import (
    CONTRAST,
    MAKERS,
    MANY,
    MASK,
    NORMED,
    ONE_HOST,
    PROMPTS,
    QUIET,
    STEERED,
    TOKENS,
    at_z,
    direction,
    gap,
    inputs,
    logits,
    made,
    read,
    writer,
)
from models import N_LAYERS, cached_forward, hf, hosts, tiny
from torch import Tensor

import steerlens as sl
from steerlens.components import components
from steerlens.editing import Edit, fold_gates, thinkedit
from steerlens.editing.factors import Factors
from steerlens.editing.removing import removed
from steerlens.errors import BadInputError

pytestmark = pytest.mark.host
UNIT = direction().unit().vector


def close(first: Tensor, second: Tensor) -> bool:
    """Logits to 1e-4, as a share of the largest where that is above 1."""
    return gap(first, second) < 1e-4 * max(1.0, float(second.abs().max()))


# Hooks and weights


ON = {
    "gpt2": ("paper", "gates"),
    "llama": ("exact", "relative"),
    "qwen3": ("paper",),
    "pythia": ("exact", "gates"),
    "gemma2": ("paper", "steepest"),
    "mistral": ("thinkedit",),
    "olmo2": ("exact", "steepest", "thinkedit"),
}
"""Every maker, and every architecture; orthogonalisation is on all of them, below."""
MADE = [(name, host, maker) for name, host in PAIRS for maker in ON[name]]
SCORED = [each for each in MADE if each[2] in STEERED]


@pytest.mark.parametrize(("architecture", "host", "maker"), MADE)
def test_law_7_hooks_are_weights(architecture: str, host: str, maker: str) -> None:
    """Padded on the left, which weights do not see."""
    model, edit = tiny(architecture, host), made(maker, architecture, host)
    with edit.applied(model):
        weights = logits(model)
    with edit.as_steering(model).on(model):
        assert close(logits(model, "left"), weights)
    assert gap(logits(model), weights) > 0.1


@ONE_HOST
@pytest.mark.parametrize("maker", ["paper", "orthogonalise", "gates"])
def test_law_7_of_multiples(host: str, maker: str) -> None:
    model, edit = tiny("gpt2", host), made(maker, "gpt2", host)
    found = []
    for factor in (0.5, 0.0) if maker == "orthogonalise" else (-1, 2, 0.0):
        with (factor * edit).applied(model):
            found.append(logits(model))
        with (factor * edit).as_steering().on(model):
            assert close(logits(model), found[-1])
    assert gap(found[0], found[1]) > 0.1
    assert torch.equal(found[-1], logits(model))


@EACH_HOST
@pytest.mark.parametrize("architecture", ["qwen3", "gemma2"])
def test_law_7_under_a_cache(architecture: str, host: str) -> None:
    model, edit = tiny(architecture, host), made("exact", architecture, host)
    tokens = PROMPTS[1][None]
    with torch.no_grad():
        with edit.applied(model):
            weights = model(tokens)
        with edit.as_steering(model).on(model):
            cached = cached_forward(model, tokens, [4, 1, 4])
    assert close(cached, weights)


@EACH_HOST
def test_law_7_in_generation(host: str) -> None:
    model, edit = tiny("gemma2", host), made("exact", "gemma2", host)
    with edit.applied(model):
        weights = model.generate(PROMPTS[0][None], max_new_tokens=5, **QUIET)
    with edit.as_steering(model).on(model):
        hooks = model.generate(PROMPTS[0][None], max_new_tokens=5, **QUIET)
    assert torch.equal(hooks, weights)
    assert not torch.equal(hooks, model.generate(PROMPTS[0][None], max_new_tokens=5, **QUIET))


@EACH_HOST
@pytest.mark.parametrize("architecture", ["pythia", "gemma2"])
def test_law_7_beside_a_steering_that_writes_z(architecture: str, host: str) -> None:
    """Edit hooks read z after every other writer there, whatever the order of the formula."""
    model, edit = tiny(architecture, host), made("exact", architecture, host)
    moved = sl.add(at_z(1, architecture), coeff=2.0)
    hooks = edit.as_steering(model)
    with edit.applied(model), moved.on(model):
        weights = logits(model)
    with (hooks + moved).on(model):
        assert close(logits(model), weights)
    with moved.on(model), hooks.on(model):
        assert close(logits(model), weights)


@EACH_HOST
def test_an_edit_of_one_host_is_that_of_the_other(host: str) -> None:
    edit, other = made("paper", "gemma2", hosts()[-1]), made("paper", "gemma2", host)
    assert edit.frame()["component"].tolist() == other.frame()["component"].tolist()


def test_olmo_norms_are_found_by_each_hosts_name() -> None:
    edit = made("exact", "olmo2", "bridge")
    for host in hosts():
        assert Edit(edit.factors).certify(tiny("olmo2", host), PROMPTS).holds


@EACH_HOST
def test_scaling_is_by_rows_too(host: str) -> None:
    """2 * edit is the steering of the edit times 2, and a batch may carry a strength a row."""
    model, edit = tiny("gemma2", host), made("exact", "gemma2", host)
    factors = [1.0, -1.0, 2.0]
    with (torch.tensor(factors) * edit.as_steering(model)).on(model), torch.no_grad():
        rows = model(TOKENS)
    for factor, row, prompt in zip(factors, rows, PROMPTS, strict=True):
        with (factor * edit).applied(model), torch.no_grad():
            assert close(row[: len(prompt)], model(prompt[None])[0])


@ONE_HOST
def test_two_directions_in_front_of_one_norm_are_refused(host: str) -> None:
    """Hooks cannot add them up; weights can. Without a norm both do."""
    both = {
        name: Edit((*made("paper", name, host).factors, *made("exact", name, host).factors))
        for name in ("llama", "gemma2")
    }
    assert both["llama"].certify(tiny("llama", host), PROMPTS).holds
    with pytest.raises(BadInputError, match="2 directions are written in front of the norm"):
        both["gemma2"].as_steering()
    with both["gemma2"].applied(tiny("gemma2", host)) as model:
        together = logits(model)
    with made("paper", "gemma2", host).applied(model), made("exact", "gemma2", host).applied(model):
        assert close(logits(model), together)


# Toward +v


def changes(model: Any, edit: Edit) -> Iterator[tuple[Factors, Tensor]]:
    """What an edit changes in the weights of the components it edits: (unit, d_in, d_model)."""
    before = [writer(model, each.place) for each in edit.factors]
    with edit.applied(model):
        after = [writer(model, each.place) for each in edit.factors]
    for each, old, new in zip(edit.factors, before, after, strict=True):
        change = (new - old)[each.units]
        yield each, change if each.place[1] == "attn" else change[:, None]


def units(weights: Tensor, factors: Factors) -> Tensor:
    """The edited components' weights: (unit, d_in, d_model)."""
    return weights[factors.units].reshape(*factors.reads.shape, -1)


@pytest.mark.parametrize(("architecture", "host", "maker"), SCORED)
def test_every_edit_moves_the_mean_output_toward_v(
    architecture: str, host: str, maker: str
) -> None:
    model, edit = tiny(architecture, host), made(maker, architecture, host)
    means, against = inputs(architecture, host), 0
    for each, change in changes(model, edit):
        mean = means[each.place][each.units].reshape(change.shape[:2])
        moved = torch.einsum("ui,uid->ud", mean, change)
        along = moved @ each.writes
        rest = moved - along[:, None] * each.writes
        assert float(along.min()) > 0
        assert float(rest.norm(dim=1).max()) < 1e-4 * float(along.max())
        g = edit.importance[each.place][each.units]
        assert torch.equal(g.sign(), each.strengths.sign())
        against += int((g < 0).sum())
    assert against > 10


@EACH
def test_how_far_the_mean_output_moves(architecture: str, host: str) -> None:
    """A head by |λ g| |Wμ| / |W v|, a neuron by |λ μ|: the paper's form, worked out."""
    model, edit = tiny(architecture, host), made("paper", architecture, host)
    means = inputs(architecture, host)
    for each, change in changes(model, edit):
        weights = writer(model, each.place)[each.units]
        mean = means[each.place][each.units]
        moved = torch.einsum("ui,uid->ud", mean.reshape(change.shape[:2]), change) @ each.writes
        wanted = each.strengths.abs() * mean.abs() if each.place[1] == "mlp" else None
        if wanted is None:
            g = edit.importance[each.place][each.units]
            outputs = torch.einsum("hi,hid->hd", mean, weights).norm(dim=1)
            wanted = (each.strengths * g).abs() * outputs / (weights @ each.writes).norm(dim=1)
        torch.testing.assert_close(moved, wanted, atol=1e-4, rtol=1e-3)


def gain(architecture: str, layer: int, block: str) -> Tensor:
    """γ of the norm after a block, as Hugging Face holds it."""
    name = {"attn": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}[block]
    weight = getattr(hf(architecture).model.layers[layer], name).weight.detach()
    return weight + 1 if architecture == "gemma2" else weight


@EACH_HOST
@pytest.mark.parametrize("architecture", NORMED)
def test_through_norms_the_stream_moves_along_the_direction(architecture: str, host: str) -> None:
    """At a fixed scale: "exact" arrives as û alone, "steepest" furthest along û for its length.

    g has the sign of what the component's mean output does along û behind the norm.
    """
    for maker in ("exact", "steepest"):
        model, edit = tiny(architecture, host), made(maker, architecture, host)
        for each, change in changes(model, edit):
            mean = inputs(architecture, host)[each.place][each.units].reshape(change.shape[:2])
            moved = torch.einsum("ui,uid->ud", mean, change) * gain(architecture, *each.place)
            along = moved @ UNIT
            assert float(along.min()) > 0
            share = along / moved.norm(dim=1)
            assert (float(share.min()) > 1 - 1e-5) == (maker == "exact")
            assert torch.equal(each.toward, UNIT)
            outputs = torch.einsum("ui,uid->ud", mean, units(writer(model, each.place), each))
            behind = (outputs * gain(architecture, *each.place)) @ UNIT
            g = behind / outputs.norm(dim=1) / (gain(architecture, *each.place) * UNIT).norm()
            torch.testing.assert_close(
                edit.importance[each.place][each.units], g, atol=1e-4, rtol=1e-3
            )
    found = {maker: made(maker, architecture, host).factors for maker in ("exact", "steepest")}
    for exact, steepest in zip(found["exact"], found["steepest"], strict=True):
        assert torch.equal(exact.units, steepest.units)
        at = gain(architecture, *exact.place)
        assert float(UNIT @ (at * steepest.writes)) > float(UNIT @ (at * exact.writes)) > 0
        best = at * UNIT
        torch.testing.assert_close(steepest.writes, best / best.norm(), atol=1e-5, rtol=1e-4)


@ONE_HOST
def test_without_norms_both_ways_are_one(host: str) -> None:
    exact, steepest = (made(name, "llama", host) for name in ("exact", "steepest"))
    for one, other in zip(exact.factors, steepest.factors, strict=True):
        assert torch.equal(one.strengths, other.strengths)
        assert torch.equal(one.writes, other.writes)


# Taking a direction out


STREAM = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]
SITES = ["blocks.0.hook_resid_pre", *STREAM]


def remains(model: Any, unit: Tensor = UNIT) -> float:
    """The largest component along the direction, anywhere in the stream."""
    found = read(model, PROMPTS, SITES)
    return max(float((each @ unit)[MASK.bool()].abs().max()) for each in found.values())


@EACH
def test_orthogonalised_writers_leave_nothing(architecture: str, host: str) -> None:
    model, edit = tiny(architecture, host), made("orthogonalise", architecture, host)
    certificate = edit.certify(model, PROMPTS)
    assert certificate.holds
    assert float(certificate.remaining["largest_edited"].max()) < 1e-4
    assert float(certificate.remaining["largest_base"].max()) > 0.3
    assert len(certificate.remaining) == 3 * N_LAYERS
    assert remains(model) > 0.3
    with edit.applied(model):
        assert remains(model) < 1e-4


@ONE_HOST
@pytest.mark.parametrize("architecture", NORMED)
def test_the_direction_itself_would_not_do_through_norms(architecture: str, host: str) -> None:
    """û in place of γ ⊙ û: the mistake that tools of the field make."""
    model, edit = tiny(architecture, host), made("orthogonalise", architecture, host)
    parts = components(model)
    plain = [removed(parts, each.place, UNIT, UNIT, 1.0, bias=True) for each in edit.factors]
    naive = Edit(tuple(each for each in plain if each is not None), embeddings=edit.embeddings)
    certificate = naive.certify(model, PROMPTS)
    assert certificate.holds
    assert float(certificate.remaining["largest_edited"].max()) > 0.1


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "olmo2"])
def test_thinkedit_takes_it_from_the_heads_that_write_against_it(
    architecture: str, host: str
) -> None:
    model, share = tiny(architecture, host), 0.25
    edit = thinkedit(model, CONTRAST, direction(), share=share, progress=False)
    against, seen = {}, {}
    for layer in range(N_LAYERS):
        arrives = gain(architecture, layer, "attn") * UNIT if architecture in NORMED else UNIT
        seen[layer] = arrives / arrives.norm()
        mean = inputs(architecture, host)[layer, "attn"]
        written = torch.einsum("hi,hid->hd", mean, writer(model, (layer, "attn")))
        against |= {(layer, h): -float(each @ seen[layer]) for h, each in enumerate(written)}
    wanted = sorted(against, key=lambda head: -against[head])[: round(share * len(against))]
    assert len(wanted) == 3
    found = {(each.place[0], h) for each in edit.factors for h in each.units.tolist()}
    assert found == set(wanted)
    before = [writer(model, (layer, "attn")) for layer in range(N_LAYERS)]
    with edit.applied(model):
        after = [writer(model, (layer, "attn")) for layer in range(N_LAYERS)]
    for layer, h in against:
        if (layer, h) not in found:
            assert torch.equal(after[layer][h], before[layer][h])
    for each in edit.factors:
        for h in each.units.tolist():
            left = after[each.place[0]][h] @ seen[each.place[0]]
            assert float(left.abs().max()) < 1e-5


@EACH_HOST
def test_folded_gates_are_gates_at_z(host: str) -> None:
    """z' = gain * z + offset, by a plain hook."""
    architecture = "gpt2"
    model, dice = tiny(architecture, host), torch.Generator().manual_seed(1)
    shape = (models.N_HEADS, models.D_HEAD[architecture])
    gains, offsets = (torch.randn(shape, generator=dice) for _ in range(2))
    edit = fold_gates(model, {1: gains}, {1: offsets})

    def gated(z: Tensor, hook: Any) -> Tensor:
        return gains * z + offsets

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", gated)]):
        hooked = logits(model)
    with edit.applied(model):
        assert close(logits(model), hooked)
    with edit.as_steering().on(model):
        assert close(logits(model), hooked)
    with (0.5 * edit).applied(model), torch.no_grad():
        half = logits(model)
    gains, offsets = 0.5 + gains / 2, offsets / 2
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", gated)]):
        assert close(half, logits(model))


# Odd texts and hosts


def test_a_bridge_in_compatibility_mode() -> None:
    """Its folded weights are edited like any others."""
    architecture = "gpt2"
    model = models.build(architecture, "bridge")
    model.enable_compatibility_mode()
    for maker in ("paper", "orthogonalise"):
        edit = MAKERS[maker](model, architecture)
        certificate = edit.certify(model, PROMPTS)
        assert certificate.holds, certificate
        assert certificate.change > 0.1


@ONE_HOST
def test_texts_of_every_kind(host: str) -> None:
    """One token, text, completions on some sides alone, chats; pads in one batch."""
    model = tiny("llama", host)
    items: list[Any] = [[5], "good day", ("bad w1", " w2 w3")]
    edit = sl.steer2edit(model, sl.Contrast(items, [[7], "w5", ("w3", " good")]), **MANY)
    assert edit.certify(model, items).holds
    chat = [[{"role": "user", "content": "good w1"}]]
    with pytest.raises(BadInputError, match="no chat template"):
        sl.steer2edit(model, sl.Contrast(chat, chat), **MANY)
    model = models.build("llama", host)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    other = [[{"role": "user", "content": "bad w1"}]]
    assert sl.steer2edit(model, sl.Contrast(chat, other), **MANY).certify(model, chat).holds


@EACH_HOST
def test_in_half_precision(host: str) -> None:
    """No more than 3 times the same unsteered model's own gap."""
    model = models.build("gemma2", host, torch.bfloat16)
    own = gap(logits(model), logits(tiny("gemma2", host)))
    edit = 0.2 * MAKERS["exact"](model, "gemma2")
    certificate = edit.certify(model, PROMPTS)
    assert certificate.difference < 3 * own < 3 * certificate.change
