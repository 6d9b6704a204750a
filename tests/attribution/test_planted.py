"""A circuit that one can know: on Steerling, heads that carry a name from the request to the reply.

"I need the rope from Leo" is answered "Honoured Leo": at the token after "Honoured" some heads
must fetch the name. Putting each head's output of a run with another name in its place finds
them by brute force; effect and attribution must point at the same ones.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import steerlens as sl
from steerlens import positions as at
from steerlens.demo import load_model, world
from steerlens.effects import look, mediation

REPLY = re.compile(r" Honoured (\w+),")
NAMES = " Otto", " Leo"
pytestmark = pytest.mark.host


@cache
def setting() -> tuple[Any, tuple[str, ...]]:
    model = load_model()
    pairs = world.contrast("formality", "fit", 60)
    drawn = [(text, REPLY.match(reply)) for (text, reply), _ in pairs]
    named = [(text, f" {found[1]}") for text, found in drawn if found and f" {found[1]}" in text]
    texts = dict.fromkeys(text.replace(name, " Leo") + " Honoured" for text, name in named)
    return model, tuple(texts)[:6]


def lean(model: Any, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    otto, leo = (model.tokenizer.encode(name, add_special_tokens=False)[0] for name in NAMES)
    return logits[:, otto] - logits[:, leo]


@cache
def patched() -> Float[Tensor, "layer head"]:
    """By how much each head's output at the last token, from the run with Otto, leans to Otto."""
    model, texts = setting()
    return torch.stack([one_patched(model, text) for text in texts]).mean(0)


def one_patched(model: Any, text: str) -> Float[Tensor, "layer head"]:
    """Of one text: a row of the batch for each head, in which that head alone is put in place."""
    layers, heads = range(model.cfg.n_layers), model.cfg.n_heads
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda z, hook: kept.update({layer: z[0, -1]})

    def put(layer: int) -> Any:
        def hook(z: Tensor, hook: Any) -> Tensor:
            z = z.clone()
            for head in range(heads):
                z[layer * heads + head, -1, head] = kept[layer][head]
            return z

        return hook

    name = "blocks.{}.attn.hook_z".format
    with torch.no_grad():
        other = text.replace(" Leo", " Otto")
        model.run_with_hooks(other, fwd_hooks=[(name(i), keep(i)) for i in layers])
        rows = model.to_tokens(text).repeat(len(layers) * heads, 1)
        base = lean(model, model(text)[:, -1])
        logits = model.run_with_hooks(rows, fwd_hooks=[(name(i), put(i)) for i in layers])
    return (lean(model, logits[:, -1]) - base).reshape(-1, heads)


def order(values: Tensor) -> list[tuple[int, int]]:
    flat = values.abs().flatten().argsort(descending=True).tolist()
    return [divmod(i, values.shape[1]) for i in flat]


def test_attribution_ranks_the_heads_that_patching_finds() -> None:
    model, texts = setting()
    contrast = sl.Contrast.from_pairs([(text.replace(" Leo", " Otto"), text) for text in texts])
    otto, leo = (model.tokenizer.encode(name, add_special_tokens=False)[0] for name in NAMES)
    readout = (model.W_U[:, otto] - model.W_U[:, leo]).detach()
    direction = sl.Direction("blocks.5.hook_resid_post", readout, name="Otto, not Leo")
    found = sl.attribute(
        model, contrast, direction, metric=lambda x: lean(model, x), probes=False, progress=False
    )
    assert found.heads.gradient is not None
    wanted = order(patched())
    assert order(found.heads.gradient)[:2] == wanted[:2]
    assert order(found.heads.contribution)[0] in wanted[:2]
    both = torch.stack([patched().flatten(), found.heads.gradient.flatten().float()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9


def test_an_effect_rests_on_the_name_through_the_same_heads() -> None:
    """The name steered where it stands: what comes to the reply comes through heads alone."""
    model, texts = setting()
    pairs = sl.Contrast.from_pairs([(text.replace(" Leo", " Otto"), text) for text in texts])
    directions = sl.find_directions(
        model,
        pairs,
        hook_names="blocks.0.hook_resid_pre",
        positions=at.matching(" Leo") | at.matching(" Otto"),
        quality=False,
        progress=False,
    )
    steering = sl.add(directions, positions=at.matching(" Leo"))
    account = sl.effect(model, steering, texts, NAMES)
    assert account.change > 10
    assert account.direct == pytest.approx(0, abs=1e-5)
    assert set(account.top(2)) <= set(order(patched())[:3])
    paths = mediation(model, steering, texts[:2], NAMES, alone=False)
    assert paths.direct == pytest.approx(0, abs=1e-4)
    seen = look(model, steering, texts[0], account.top(2), NAMES)
    for rests in seen.rests_on:
        assert seen.tokens[int(rests.argmax())] == " Leo"
        assert float(rests.max()) > 0.9 * float(rests.sum())
