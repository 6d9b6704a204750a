"""What cannot be edited is named, never skipped, and nothing is half-edited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from edits import (
    CONTRAST,
    MAKERS,
    MANY,
    ONE_HOST,
    PROMPTS,
    at_z,
    bits,
    direction,
    made,
    same,
)
from models import D_HEAD, D_MODEL, N_HEADS, build, tiny
from torch import nn

import steerlens as sl
from steerlens.components import Components, Norm
from steerlens.editing import (
    Edit,
    Gates,
    candidates,
    fold_gates,
    orthogonalise,
    steer2edit,
    thinkedit,
)
from steerlens.errors import BadInputError

pytestmark = pytest.mark.host


def refused(model: Any, match: str, *attempts: Callable[[], Any]) -> None:
    before = bits(model)
    for attempt in attempts:
        with pytest.raises(BadInputError, match=match):
            attempt()
        assert same(bits(model), before)


def without_neurons(architecture: str, host: str, layer: int, experts: int | None) -> Any:
    """A model one of whose MLPs has no W_out: of experts, or of a layout not known."""
    model = build(architecture, host)
    model.blocks[layer]._modules["mlp"] = nn.Identity()
    model.cfg.num_experts = experts
    return model


@EACH_HOST
def test_a_mixture_of_experts(host: str) -> None:
    model, edit = without_neurons("llama", host, 0, experts=4), made("paper", "llama", host)
    refused(
        model,
        r"blocks.0.mlp has no W_out: its layout is a mixture of experts",
        lambda: edit.apply_(model),
        lambda: steer2edit(model, CONTRAST, **MANY),
        lambda: candidates(model, CONTRAST, progress=False),
        lambda: orthogonalise(model, direction()),
    )


@ONE_HOST
def test_heads_of_a_mixture_of_experts_are_edited(host: str) -> None:
    """Its MLPs are named in the certificate as left alone."""
    model = build("llama", host)
    model.cfg.num_experts = 4
    edit = steer2edit(model, CONTRAST, **{**MANY, "rho_mlp": None})
    certificate = edit.certify(model, PROMPTS)
    assert certificate.holds
    left = certificate.left.set_index("component")["reason"]
    for layer in range(3):
        assert "a mixture of experts" in left[f"L{layer} mlp"]
    neurons = made("paper", "llama", host)
    refused(model, "blocks.0.mlp has no W_out", lambda: neurons.apply_(model))


@EACH_HOST
def test_a_layout_that_is_not_known(host: str) -> None:
    model, edit = without_neurons("gpt2", host, 2, experts=None), made("paper", "gpt2", host)
    refused(
        model,
        r"blocks.2.mlp has no W_out: its layout is not known",
        lambda: edit.apply_(model),
        lambda: steer2edit(model, CONTRAST, **MANY),
        lambda: orthogonalise(model, direction()),
    )


@EACH_HOST
@pytest.mark.parametrize("block", ["attn", "mlp"])
@pytest.mark.parametrize("kind", ["int8", "packed", "float8"])
def test_a_quantised_weight(host: str, block: str, kind: str) -> None:
    """The last layer's alone: what comes before it must not be written either."""
    model = build("llama", host)
    edits = [made(maker, "llama", host) for maker in ("paper", "orthogonalise")]
    quantise(model, host, block, kind)
    name = {"attn": r"blocks.2.attn.W_O", "mlp": r"blocks.2.mlp.W_out"}[block]
    attempts: list[Callable[[], Any]] = [
        lambda: edits[0].apply_(model),
        lambda: edits[1].apply_(model),
        lambda: steer2edit(model, CONTRAST, **MANY),
        lambda: orthogonalise(model, direction()),
    ]
    if block == "attn":
        attempts += [
            lambda: fold_gates(model, {2: torch.ones(N_HEADS, 1)}),
            lambda: thinkedit(model, CONTRAST, progress=False),
        ]
    refused(model, f"{name} is quantised", *attempts)


def quantise(model: Any, host: str, block: str, kind: str) -> None:
    """A weight as quantised loading leaves it: integers, packed or not, or 8-bit floats."""
    part = model.blocks[2].attn if block == "attn" else model.blocks[2].mlp
    name = "W_O" if block == "attn" else "W_out"
    if host == "bridge":
        part, name = part.o if block == "attn" else part.out, "weight"
        while "weight" not in part._parameters:
            part = part._original_component
    weight = part._parameters[name].detach()
    if kind == "float8":
        coded = weight.to(torch.float8_e4m3fn)
    else:
        coded = (10 * weight).to(torch.int8)
        if kind == "packed" and host == "bridge":
            coded = coded.view(torch.uint8).reshape(-1, 1)[::2].contiguous()
    part._parameters[name] = nn.Parameter(coded, requires_grad=False)


@EACH_HOST
def test_quantised_embeddings(host: str) -> None:
    model, edit = build("llama", host), made("orthogonalise", "llama", host)
    holder = model.embed
    if host == "bridge":
        holder = model.original_model.get_input_embeddings()
        while "weight" not in holder._parameters:
            holder = holder._original_component
    name = "weight" if host == "bridge" else "W_E"
    weight = holder._parameters[name].detach()
    holder._parameters[name] = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    refused(model, r"embed.W_E is quantised", lambda: edit.apply_(model))


@ONE_HOST
def test_another_shape(host: str) -> None:
    model, edit = build("qwen3", host), Edit(made("paper", "llama", host).factors)
    refused(
        model,
        r"blocks.0.attn.W_O has shape \(4, 12, 32\); the edit was made for \(4, 8, ",
        lambda: edit.apply_(model),
    )
    [neurons] = [each for each in edit.factors if each.place == (2, "mlp")]
    more = replace(neurons, of=49)
    refused(model, r"blocks.2.mlp.W_out has shape \(48, 32\)", lambda: Edit((more,)).apply_(model))
    gates = Edit((), gates=(Gates(1, torch.ones(4, 8), torch.ones(4, 8)),))
    refused(model, r"blocks.1.attn.W_O has shape", lambda: gates.apply_(model))
    for layer in (-1, 3):
        wrong = Edit((replace(neurons, place=(layer, "mlp")),))
        refused(model, r"its layers are 0 to 2", lambda wrong=wrong: wrong.apply_(model))


def test_an_offset_without_a_bias_to_hold_it() -> None:
    """Heads before it in the plan are not scaled either; hooks run it all the same."""
    model = build("llama", "bridge")
    edit = MAKERS["gates"](model, "llama")
    offsets = {1: torch.ones(N_HEADS, D_HEAD["llama"])}
    edit = fold_gates(model, {0: edit.gates[0].gain}, offsets)
    refused(
        model,
        r"blocks.1.attn has no b_O to hold a constant .* edit.as_steering\(\)",
        lambda: edit.apply_(model),
        lambda: edit.certify(model, PROMPTS),
    )
    plain = model(PROMPTS[0][None])
    with edit.as_steering().on(model):
        assert not torch.allclose(model(PROMPTS[0][None]), plain, atol=0.1)


@ONE_HOST
def test_an_edit_too_strong_for_the_dtype(host: str) -> None:
    model, edit = build("llama", host, torch.float16), made("paper", "llama", host)
    refused(model, r"blocks.0.attn.W_O would overflow", lambda: (1e5 * edit).apply_(model))


# Makers


@ONE_HOST
def test_what_is_no_direction(host: str) -> None:
    model = tiny("llama", host)
    zero = sl.Direction("blocks.1.hook_resid_post", torch.zeros(D_MODEL))
    inside = sl.Direction("blocks.1.mlp.hook_post", torch.ones(D_MODEL))
    for wrong, match in (
        (zero, "length 0"),
        (at_z(1, "llama"), "no vector of the stream"),
        (inside, "no vector of the stream"),
    ):
        refused(
            model,
            match,
            lambda wrong=wrong: steer2edit(model, CONTRAST, wrong, **MANY),
            lambda wrong=wrong: orthogonalise(model, wrong),
            lambda wrong=wrong: thinkedit(model, CONTRAST, wrong, progress=False),
        )


@ONE_HOST
def test_what_is_no_contrast_or_no_number(host: str) -> None:
    model = tiny("llama", host)

    def made_with(**options: Any) -> Callable[[], Any]:
        return lambda: steer2edit(model, CONTRAST, direction(), **{**MANY, **options})

    refused(model, "alpha lies between", made_with(alpha=1.0), made_with(alpha=0.0))
    refused(model, "not all finite", made_with(rho_attn=float("nan")))
    refused(
        model,
        "share of the heads",
        lambda: thinkedit(model, CONTRAST, share=0.0),
        lambda: thinkedit(model, CONTRAST, share=1.1),
        lambda: thinkedit(model, CONTRAST, share=float("nan")),
    )
    edit = made("orthogonalise", "llama", host)
    refused(
        model,
        "a share from 0 to 1",
        lambda: orthogonalise(model, direction(), share=1.5),
        lambda: -edit,
        lambda: 2 * edit,
    )
    refused(model, "not all finite", lambda: float("inf") * made("paper", "llama", host))
    refused(model, "certified on a list", lambda: edit.certify(model, []))


@ONE_HOST
def test_answers_of_one_token_after_the_same_prompts(host: str) -> None:
    """What predicts them is the prompt alone, in whatever order: no direction, only rounding."""
    model, prompts = tiny("llama", host), [f"w{i} the w{2 * i}" for i in range(12)]
    sides = [(each, " good") for each in prompts], [(each, " bad") for each in prompts[::-1]]
    contrast = sl.Contrast(*sides)
    refused(
        model,
        "read the same at every block.*positions='generated'",
        lambda: steer2edit(model, contrast, **MANY, batch_tokens=16),
        lambda: thinkedit(model, contrast, progress=False),
    )
    assert steer2edit(model, contrast, **MANY, positions="generated").factors
    assert steer2edit(model, contrast, direction(), **MANY).factors


@ONE_HOST
def test_pairs_need_prompts_of_their_own(host: str) -> None:
    """Token ids in tuples are items too, and have no prompt."""
    model = tiny("llama", host)
    texts = [("good", " w1"), ("bad", " w2")]
    for contrast in (
        sl.Contrast([(1, 5), (1, 6)], [(1, 7), (1, 8)]),
        sl.Contrast(["good", "bad"], texts),
        sl.Contrast(texts, [("w1", " w2")], paired=False),
    ):
        refused(
            model,
            "give a paired contrast",
            lambda contrast=contrast: steer2edit(model, contrast, paired_prompt=True, **MANY),
        )


@ONE_HOST
def test_gates_of_another_shape(host: str) -> None:
    model, whole = tiny("llama", host), torch.ones(N_HEADS, D_HEAD["llama"])
    for wrong in (whole[:3], whole.T, whole[:, :3]):
        refused(
            model,
            r"tensors \(head, d_head\), here \(4, 8\)",
            lambda wrong=wrong: fold_gates(model, {1: wrong}),
            lambda wrong=wrong: fold_gates(model, None, {1: wrong}),
        )
    refused(model, "layers are 0 to 2", lambda: fold_gates(model, {3: whole}))
    refused(model, "Give gains", lambda: fold_gates(model), lambda: fold_gates(model, {}, {}))
    refused(model, "not finite", lambda: fold_gates(model, {1: whole / 0}))


def test_heads_changed_in_two_ways() -> None:
    """Their order would matter."""
    host = "bridge"
    gates, heads = made("gates", "gpt2", host), made("paper", "gpt2", host)
    with pytest.raises(BadInputError, match="both gates and rank-1 changes"):
        Edit(heads.factors, gates=gates.gates)
    with pytest.raises(BadInputError, match="one set of gates"):
        Edit((), gates=(*gates.gates, gates.gates[0]))
    neurons = tuple(each for each in heads.factors if each.place[1] == "mlp")
    assert Edit(neurons, gates=gates.gates).certify(tiny("gpt2", host), PROMPTS).holds


def test_factors_that_do_not_go_together() -> None:
    whole = made("paper", "llama", "bridge").factors[0]
    n = len(whole.units)
    nan = torch.full((D_MODEL,), float("nan"))
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("different ones from 0", {"units": torch.zeros(n, dtype=torch.long)}),
        ("different ones from 0", {"units": torch.arange(n) + 4}),
        ("different ones from 0", {"of": 1}),
        ("not all finite", {"writes": nan}),
        ("not all finite", {"bias": float("nan")}),
        ("not all finite", {"bias": float("inf")}),
    ]
    for match, change in wrong:
        with pytest.raises(BadInputError, match=match):
            replace(whole, **change)


@ONE_HOST
def test_norms_that_an_edit_cannot_pass(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gain of 0 lets nothing arrive as û alone; a bias along û is none of the block's."""
    model, after = tiny("gemma2", host), Components.after

    def dead(self: Components, layer: int, block: Any) -> Norm:
        norm = after(self, layer, block)
        assert norm is not None
        return replace(norm, gain=torch.where(torch.arange(D_MODEL) == 3, 0.0, norm.gain))

    monkeypatch.setattr(Components, "after", dead)
    refused(model, "gains of 0", lambda: steer2edit(model, CONTRAST, direction(), **MANY))
    assert steer2edit(model, CONTRAST, direction(), through="steepest", **MANY).total > 0

    def shifted(self: Components, layer: int, block: Any) -> Norm:
        norm = after(self, layer, block)
        assert norm is not None
        return replace(norm, bias=norm.bias + direction().vector)

    monkeypatch.setattr(Components, "after", shifted)
    refused(model, "adds a bias along the direction", lambda: orthogonalise(model, direction()))


@ONE_HOST
def test_embeddings_that_pass_a_norm(host: str) -> None:
    """As BLOOM's do: what is taken out of W_E would come back."""
    model = build("llama", host)
    model.embed.ln = nn.LayerNorm(D_MODEL)
    refused(model, r"pass a norm \('ln'\)", lambda: orthogonalise(model, direction()))
    assert orthogonalise(tiny("llama", host), direction()).embeddings is not None
