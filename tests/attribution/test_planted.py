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


@cache
def setting() -> tuple[Any, tuple[str, ...]]:
    model = load_model()
    drawn = [
        (text, REPLY.match(reply)) for (text, reply), _ in world.contrast("formality", "fit", 60)
    ]
    named = [(text, f" {found[1]}") for text, found in drawn if found and f" {found[1]}" in text]
    texts = dict.fromkeys(text.replace(name, " Leo") + " Honoured" for text, name in named)
    return model, tuple(texts)[:8]


def lean(model: Any, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    otto, leo = (model.tokenizer.encode(name, add_special_tokens=False)[0] for name in NAMES)
    return logits[:, otto] - logits[:, leo]


@cache
def patched() -> Float[Tensor, "layer head"]:
    """By how much each head's output at the last token, from the run with Otto, leans to Otto."""
    model, texts = setting()
    moved = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for text in texts:
        kept: dict[str, Tensor] = {}
        names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
        keep = [(name, lambda z, hook, name=name: kept.update({name: z[0, -1]})) for name in names]
        with torch.no_grad():
            model.run_with_hooks(text.replace(" Leo", " Otto"), fwd_hooks=keep)
            base = lean(model, model(text)[:, -1])
            for layer, name in enumerate(names):
                for head in range(model.cfg.n_heads):

                    def put(z: Tensor, hook: Any, head: int = head, name: str = name) -> Tensor:
                        z = z.clone()
                        z[0, -1, head] = kept[name][head]
                        return z

                    logits = model.run_with_hooks(text, fwd_hooks=[(name, put)])
                    moved[layer, head] += float(lean(model, logits[:, -1]) - base) / len(texts)
    return moved


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
