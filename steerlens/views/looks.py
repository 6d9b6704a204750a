"""A closer look drawn: heads' patterns base and steered, and what their response rests on."""

from __future__ import annotations

from dataclasses import replace

import torch

from steerlens.effects import Look
from steerlens.errors import UnknownNameError
from steerlens.views.attention import attention
from steerlens.views.page import View
from steerlens.views.scale import signed
from steerlens.views.theme import token_text
from steerlens.views.tokens import colored_tokens

PAIRS_WIDE = 672
"""Pixels that hold two heads' pairs of patterns, so that no pair is broken."""


def looked(found: Look, show: str = "change", *, title: str | None = None) -> View:
    """Show heads' attention under a steering, each coloured by its part of the change.

    - `show`: `change` of the patterns; `base` or `steered`; or `pairs`, base beside steered
      (without the parts).

    Only tokens from the first steered one on can attend otherwise: the rows above are empty.

    Raises UnknownNameError on another `show`.

    >>> from steerlens.effects import look
    >>> looked(look(model, steering, "a good day", [(3, 0)], (" good", " bad"))).element
    'AttentionHeads'
    """
    titles = {
        "change": "How the steering changes heads' attention",
        "pairs": "Heads' attention, base and steered",
        "base": "Heads' attention, base",
        "steered": "Heads' attention, steered",
    }
    if show not in titles:
        raise UnknownNameError(f"There is no {show!r} to show: choose of {', '.join(titles)}.")
    grid = {"base": found.base, "steered": found.steered, "change": found.steered - found.base}
    if show == "pairs":
        view = attention(
            found.tokens,
            torch.stack([found.base, found.steered], dim=1).flatten(0, 1),
            names=[f"{name} {side}" for name in found.names for side in ("base", "steered")],
            title=title or titles[show],
        )
        return replace(view, static=f'<div style="max-width:{PAIRS_WIDE}px">{view.static}</div>')
    return attention(
        found.tokens,
        grid[show],
        names=found.names,
        responses=found.parts.tolist(),
        unit="change of attention" if show == "change" else "attention",
        response_unit=f"head's part of the change: {found.metric}",
        title=title or titles[show],
    )


def rests_on(found: Look, *, title: str = "The tokens that heads' responses rest on") -> View:
    """Colour each token by what it adds to each head's part of the change; one row a head.

    >>> from steerlens.effects import look
    >>> rests_on(look(model, steering, "a good day", [(3, 0), (4, 1)])).element
    'ColoredTokensMulti'
    """
    labels = [
        f"{name} {signed(part)}"
        for name, part in zip(found.names, found.parts.tolist(), strict=True)
    ]
    view = colored_tokens(
        found.tokens,
        found.rests_on,
        labels=labels,
        unit=f"token's part of the change: {found.metric}",
        title=title,
    )
    scored = [f"“{token_text(found.tokens[at])}” ({at})" for at in found.scored.tolist()]
    named = ", ".join(scored[:4]) + (f" and {len(scored) - 4} more" if len(scored) > 4 else "")
    return replace(view, subtitle=f"{view.subtitle}; read at {named}")
