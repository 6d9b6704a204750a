"""Views of a steering at work: the tokens it wrote to, and the heads that respond."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.host import Host, device_of, hook_name, split_name
from steerlens.passes import telling
from steerlens.steering import Steering
from steerlens.text import Item, encode, pad, token_strings
from steerlens.trace import Trace
from steerlens.views.attention import attention
from steerlens.views.page import View
from steerlens.views.tokens import colored_tokens


def tokens(trace: Trace, *, text: int = 0, row: int = 0, title: str = "Where it writes") -> View:
    """Colour the tokens of a traced text by the change's share of the stream's norm.

    One line an intervention that wrote at its own hook point. Raises BadInputError if the
    trace holds no such text.

    >>> with steering.trace(model) as trace:
    ...     text = model.generate("Once upon a time", max_new_tokens=8, verbose=False)
    >>> tokens(trace).title
    'Where it writes'
    """
    if text >= len(trace.texts):
        raise BadInputError(f"The trace holds {len(trace.texts)} texts; there is no text {text}.")
    traced = trace.texts[text]
    real = traced.real[row]
    share = traced.share[:, row, real]
    strength = traced.strength[:, row, real]
    strings = [s for s, kept in zip(traced.strings[row], real.tolist(), strict=True) if kept]
    generated = traced.generated[row, real].nonzero().flatten().tolist()
    return colored_tokens(
        strings,
        share * strength.sign(),
        labels=[_label(leaf.hook_name) for leaf in trace.interventions],
        details=[[f"strength {value:.3g}" for value in line] for line in strength.tolist()],
        marks={generated[0]: "generated"} if generated else None,
        title=title,
    )


def heads(
    model: Host, steering: Steering, item: Item, layer: int, *, title: str | None = None
) -> View:
    """Show a layer's attention patterns on a text under a steering, and how each head responds.

    A head's response is the share of its attention that the steering moves: half the absolute
    change of its pattern, mean over the queries. Cost: two forward passes of the text.

    >>> heads(model, steering, "Once upon a time", layer=3).element
    'AttentionHeads'
    """
    encoded = encode(model, item)
    base = _pattern(model, encoded, layer)
    with steering.on(model):
        steered = _pattern(model, encoded, layer)
    moved = (steered - base).abs().sum(-1).mean(-1) / 2
    return attention(
        token_strings(model, torch.tensor(encoded.tokens)),
        steered,
        names=[f"L{layer}H{head}" for head in range(len(moved))],
        responses=moved.tolist(),
        response_unit="share of attention moved by the steering",
        title=title or f"Attention at layer {layer} under the steering",
    )


def _pattern(model: Host, item: Any, layer: int) -> Float[Tensor, "head query key"]:
    kept: list[Tensor] = []

    def keep(pattern: Tensor, hook: Any) -> None:
        kept.append(pattern[0].detach().float().cpu())

    batch = pad(model, [item], device_of(model))
    name = hook_name("pattern", layer)
    with torch.no_grad(), telling(model, batch), model.hooks(fwd_hooks=[(name, keep)]):
        model(batch.tokens)
    return kept[0]


def _label(name: str) -> str:
    site, layer = split_name(name)
    return site if layer is None else f"L{layer} {site}"
