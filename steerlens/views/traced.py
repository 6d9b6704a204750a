"""Views of a text under a steering: what is written, what it carries, which heads respond."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import number
from steerlens.directions import Direction
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.host import Host, check_hook_name, check_model, check_read, device_of
from steerlens.names import hook_name, split_name
from steerlens.passes import keeping, one_pass
from steerlens.steering import Steering, check_steering
from steerlens.text import Item, encode, pad, token_strings
from steerlens.trace import Trace
from steerlens.views.attention import attention
from steerlens.views.page import View
from steerlens.views.tokens import colored_tokens

UNITS = {
    "share": "share of the stream's norm, with the strength's sign",
    "strength": "strength: coefficient times gate",
    "gate": "gate",
    "along": "change along the direction",
}


def tokens(
    trace: Trace,
    show: str = "share",
    *,
    text: int = 0,
    row: int = 0,
    title: str = "Where it writes",
) -> View:
    """Colour the tokens of a traced text by what the steering wrote there.

    - `show`: the change's `share` of the stream's norm; its `strength`, coefficient times gate;
      the `gate` alone; or the change `along` the direction, in the stream's units.
    - `text`, `row`: which of the traced texts, and which row of its batch. Where there are several,
      the view says which it is, and the coefficient of a row.

    One line an intervention. Raises BadInputError if the trace holds no such text, and
    UnknownNameError on another `show`.

    >>> with steering.trace(model) as trace:
    ...     text = model.generate("Once upon a time", max_new_tokens=8, verbose=False)
    >>> tokens(trace, "gate").legend.count("gate")
    1
    """
    if not isinstance(trace, Trace):
        raise BadInputError(
            f"Tokens are shown of a Trace; got a {type(trace).__name__}. Write `with "
            "steering.trace(model) as trace:`, run the model in it, and give the trace."
        )
    if show not in UNITS:
        raise UnknownNameError(f"There is no {show!r} to show: choose of {', '.join(UNITS)}.")
    if not 0 <= text < len(trace.texts) or not 0 <= row < len(trace.texts[text].tokens):
        held = ", ".join(str(len(each.tokens)) for each in trace.texts)
        raise BadInputError(
            f"The trace holds {len(trace.texts)} texts, of {held or 'no'} rows; there is no row "
            f"{row} of text {text}."
        )
    traced = trace.texts[text]
    real = traced.real[row]
    strength = traced.strength[:, row, real]
    grids = {
        "share": traced.share[:, row, real] * strength.sign(),
        "strength": strength,
        "gate": traced.gate[:, row, real],
        "along": traced.along[:, row, real],
    }
    strings = [s for s, kept in zip(traced.strings[row], real.tolist(), strict=True) if kept]
    generated = traced.generated[row, real].nonzero().flatten().tolist()
    view = colored_tokens(
        strings,
        grids[show],
        labels=[_label(leaf.hook_name) for leaf in trace.interventions],
        details=[[f"strength {value:.3g}" for value in line] for line in strength.tolist()],
        marks={generated[0]: "generated"} if generated else None,
        unit=UNITS[show],
        title=title,
    )
    return replace(view, subtitle=", ".join([*_which(trace, text, row), view.subtitle]))


def _which(trace: Trace, text: int, row: int) -> list[str]:
    """Which text and row is drawn, where there are others, and the coefficients of that row."""
    traced = trace.texts[text]
    held = (("text", text, len(trace.texts)), ("row", row, len(traced.tokens)))
    told = [
        f"{noun} {at} of {size} ({noun}=... for another)" for noun, at, size in held if size > 1
    ]
    if len(traced.tokens) > 1:
        each = [line[line.isfinite()].unique() for line in traced.coeff[:, row, traced.real[row]]]
        told += [f"coefficient {number(float(one))}" for one in each if len(one) == 1]
    return list(dict.fromkeys(told))


def projections(
    model: Host,
    directions: Direction | Sequence[Direction],
    item: Item,
    *,
    steering: Steering | None = None,
    title: str = "Where the direction is",
) -> View:
    """Colour a text's tokens by the cosine of their activation with a direction; one line each.

    Under `steering`, if given, as it leaves the activations. Raises BadInputError on what is no
    direction, and on one of another shape. Cost: one forward pass of the text.

    >>> layers = [directions["resid_post", layer] for layer in (1, 2, 3)]
    >>> projections(model, layers, "I love this").element
    'ColoredTokensMulti'
    """
    check_model(model)
    found = [directions] if isinstance(directions, Direction) else list(directions)
    if not found or not all(isinstance(each, Direction) for each in found):
        raise BadInputError("Projections are those on one Direction or more; got something else.")
    for each in found:
        check_read(model, each.hook_name)
    encoded = encode(model, item)
    with nullcontext() if steering is None else steering.on(model):
        read = _read(model, encoded, [each.hook_name for each in found])
    lines = []
    for each in found:
        x = read[each.hook_name]
        if x.shape[1:] != each.vector.shape:
            raise BadInputError(
                f"{each!r} does not fit activations of shape {tuple(x.shape[1:])} there. Take "
                "one found at that hook point."
            )
        lines.append(torch.cosine_similarity(x.flatten(1), each.vector.flatten()[None], dim=1))
    return colored_tokens(
        token_strings(model, torch.tensor(encoded.tokens)),
        torch.stack(lines),
        labels=[f"{_label(each.hook_name)} {each.name}" for each in found],
        unit="cosine with the direction",
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
    check_steering(steering)
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
    name = check_hook_name(model, hook_name("pattern", layer))
    return _read(model, item, [name])[name]


def _read(model: Host, item: Any, names: Sequence[str]) -> dict[str, Float[Tensor, "_ *rest"]]:
    """What passes the hook points named in one pass of a text, in float32 on the CPU."""
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        one_pass(model, pad(model, [item], device_of(model)), keeping(seen, names))
    return {name: activation[0].float().cpu() for name, activation in seen.items()}


def _label(name: str) -> str:
    site, layer = split_name(name)
    return site if layer is None else f"L{layer} {site}"
