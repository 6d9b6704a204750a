"""A closer look at some heads on one text: their patterns, and the tokens a response rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.cards import count
from steerlens.components import components
from steerlens.effects.decomposition import read_in_heads, read_through
from steerlens.effects.reading import read
from steerlens.effects.readout import MEANING, Metric, readout, scored
from steerlens.errors import BadInputError
from steerlens.host import Host, device_of
from steerlens.passes import keeping, one_pass
from steerlens.steering import Steering, check_steering, under
from steerlens.text import Batch, Item, encode, pad, token_strings


@dataclass(frozen=True, repr=False, eq=False)
class Look:
    """Some heads on one text, base and steered."""

    metric: str
    tokens: tuple[str, ...]
    scored: Int[Tensor, " scored"]
    """The tokens whose logits count."""
    heads: tuple[tuple[int, int], ...]
    """Each (layer, head)."""
    base: Float[Tensor, "head query key"]
    """Attention patterns."""
    steered: Float[Tensor, "head query key"]
    parts: Float[Tensor, " head"]
    """Each head's part of the change of the metric, mean over the scored tokens."""
    rests_on: Float[Tensor, "head key"]
    """What each source token adds to that part; a head's add up to its part."""

    @property
    def names(self) -> list[str]:
        """The heads' names, such as L3H1."""
        return [f"L{layer}H{head}" for layer, head in self.heads]

    def __repr__(self) -> str:
        """Return each head's part of the change."""
        parts = zip(self.names, self.parts.tolist(), strict=True)
        found = ", ".join(f"{name} {part:+.2g}" for name, part in parts)
        return f"Look({self.metric}: {found}; {count(len(self.tokens), 'token')})"


def look(
    model: Host,
    steering: Steering,
    prompt: Item,
    heads: Sequence[tuple[int, int]],
    metric: Metric = None,
) -> Look:
    """Return how some heads attend to a text, base and steered, and what their response rests on.

    - `prompt`, `metric`: as in `effect`, for one prompt.
    - `heads`: (layer, head) each, such as `effect(...).top(4)`.

    A head's z is a sum over source tokens of attention times value, so its part of the change is
    one too: each token's is its attention times what its value says, steered less base. Raises
    BadInputError on a head that is not there, or whose z the steering writes itself. Cost: four
    passes.

    >>> found = look(model, steering, "a good day", [(3, 0), (4, 1)], (" good", " bad"))
    >>> bool(torch.allclose(found.rests_on.sum(1), found.parts, atol=1e-5))
    True
    """
    check_steering(steering)
    _check(model, heads, steering)
    encoded, weights = encode(model, prompt), components(model)
    batch = pad(model, [encoded], device_of(model))
    asked = readout(model, [encoded], metric)
    mask = scored(batch, asked.kind)
    base, steered = (read(model, batch, mask, each, neurons=False) for each in (None, steering))
    at = mask[0].nonzero().flatten()
    read_out = asked.weights(torch.zeros_like(at), base.logits, steered.logits)
    through = read_through(weights, base, steered, read_out)[1]
    layers = sorted({layer for layer, _ in heads})
    inside = {layer: read_in_heads(weights, base, steered, layer, through)[0] for layer in layers}
    seen = [_attention(model, batch, each, layers) for each in (None, steering)]
    rests = []
    for layer, head in heads:
        said = [each.said(layer, head, inside[layer][:, head]) for each in seen]
        weighed = [
            each.patterns[layer][head, at] * one for each, one in zip(seen, said, strict=True)
        ]
        rests.append((weighed[1] - weighed[0]).mean(0))
    rests_on = torch.stack(rests)
    patterns = [
        torch.stack([each.patterns[layer][head] for layer, head in heads]).cpu() for each in seen
    ]
    return Look(
        metric=MEANING[asked.kind],
        tokens=tuple(token_strings(model, batch.tokens[0])),
        scored=at.cpu(),
        heads=tuple((int(layer), int(head)) for layer, head in heads),
        base=patterns[0],
        steered=patterns[1],
        parts=rests_on.sum(1).cpu(),
        rests_on=rests_on.cpu(),
    )


@dataclass(frozen=True, eq=False)
class _Attention:
    """Patterns and values of some layers in one pass over one text."""

    patterns: Mapping[int, Float[Tensor, "head query key"]]
    values: Mapping[int, Float[Tensor, "key kv_head d_head"]]

    def said(
        self, layer: int, head: int, read: Float[Tensor, "scored d_head"]
    ) -> Float[Tensor, "scored key"]:
        """Return what a readout of a head's z reads in each source token's value."""
        values = self.values[layer]
        shared = len(self.patterns[layer]) // values.shape[1]  # grouped queries share values
        return einsum(read, values[:, head // shared], "scored d, key d -> scored key")


def _attention(
    model: Host, batch: Batch, steering: Steering | None, layers: Sequence[int]
) -> _Attention:
    seen: dict[str, Tensor] = {}
    names = [f"blocks.{i}.attn.hook_{what}" for i in layers for what in ("pattern", "v")]
    with torch.no_grad(), under(steering, model):
        one_pass(model, batch, keeping(seen, names))
    return _Attention(
        {i: seen[f"blocks.{i}.attn.hook_pattern"][0].float() for i in layers},
        {i: seen[f"blocks.{i}.attn.hook_v"][0].float() for i in layers},
    )


def _check(model: Host, heads: Sequence[tuple[int, int]], steering: Steering) -> None:
    layers, size = int(model.cfg.n_layers), int(model.cfg.n_heads)
    if not heads:
        raise BadInputError("There are no heads to look at. Give [(layer, head), ...].")
    written = [leaf.hook_name for leaf in steering.interventions]
    for place in heads:
        if not isinstance(place, tuple) or len(place) != 2 or None in place:
            raise BadInputError(f"Heads are given as (layer, head); got {place!r}, which is none.")
        layer, head = place
        own = {f"blocks.{layer}.attn.hook_{site}" for site in ("z", "result")} & set(written)
        if own:
            raise BadInputError(
                f"The steering writes {own.pop()!r} itself, so that head's response rests on no "
                "token. Look at heads of other layers."
            )
        if not (0 <= layer < layers and 0 <= head < size):
            raise BadInputError(
                f"There is no head {head} in layer {layer}: layers go from 0 to {layers - 1}, "
                f"heads from 0 to {size - 1}."
            )
