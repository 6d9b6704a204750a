"""Attention patterns head by head, and how strongly each head responds to a steering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steerlens.cards import drawable
from steerlens.errors import BadInputError
from steerlens.views import live
from steerlens.views.page import View
from steerlens.views.png import heat_map
from steerlens.views.scale import Floats, Scale, numbers, shown, signed
from steerlens.views.theme import text, token_text

MOST_LIVE = 120_000
"""Cells beyond which the drawing's props would weigh about a megabyte; the view stays static."""
MOST_HOVERS = 600
"""Rows, over all heads, that carry a hover text."""


def attention(
    tokens: Sequence[str],
    patterns: Any,
    *,
    names: Sequence[str] | None = None,
    responses: Sequence[float] | None = None,
    unit: str = "attention",
    response_unit: str = "response",
    title: str = "Attention",
) -> View:
    """Show a pattern for each head, rows the queries and columns the keys.

    - `tokens`: the text's tokens, as strings.
    - `patterns`: shape `head query key`; patterns, or the change of patterns (signed).
    - `names`: the heads' names, such as `L5H3`.
    - `responses`: a number a head, written and coloured beside its name.
    - `unit`: what a cell is, for the legend.
    - `response_unit`: what a response is.
    - `title`: what stands above the view.

    About 3 kB a head of 100 tokens, and 60 bytes a row with hover text.

    >>> attention(["a", "b"], [[[1.0, 0.0], [0.5, 0.5]]], names=["L0H0"]).element
    'AttentionHeads'

    Raises BadInputError where the shapes do not agree.
    """
    grid = numbers(patterns)
    heads, strengths = _checked(tokens, grid, names, responses)
    if not grid.size:
        return View(title, '<div class="sl-muted">No attention to show.</div>')
    scale = Scale.of_maps(grid)
    response_scale = Scale.of(strengths)
    boxes = [
        _head(tokens, pattern, name, response, scale.top, response_scale, grid.shape[0])
        for name, pattern, response in zip(heads, grid, _each(strengths, len(heads)), strict=True)
    ]
    legend = scale.legend(unit)
    if strengths.size:
        legend += response_scale.legend(response_unit)
    labels = [
        drawable(name) if response is None else f"{drawable(name)} {signed(response)}"
        for name, response in zip(heads, _each(strengths, len(heads)), strict=True)
    ]
    subtitle = f"{len(heads)} heads, {len(tokens)} tokens; rows attend (queries) to columns (keys)"
    if scale.missing:
        subtitle += f"; {scale.missing:,} not finite (zero in the live drawing)"
    element, props = None, None
    if grid.size <= MOST_LIVE:
        finite = np.where(np.isfinite(grid), grid, 0.0)
        shapes = [token_text(token) for token in tokens]
        element, props = live.attention_heads(shapes, finite, labels, scale.top)
    static = f'<div class="sl-heads">{"".join(boxes)}</div>'
    return View(title, static, element, props, subtitle, legend)


def _checked(
    tokens: Sequence[str],
    grid: Floats,
    names: Sequence[str] | None,
    responses: Sequence[float] | None,
) -> tuple[list[str], Floats]:
    """Return the heads' names and responses, or say which shapes disagree."""
    if grid.ndim != 3 or grid.shape[1:] != (len(tokens), len(tokens)):
        raise BadInputError(
            f"Patterns of shape {grid.shape} do not fit {len(tokens)} tokens. "
            "Give them as (head, query, key), with a query and a key for each token."
        )
    heads = list(names) if names is not None else [f"head {i}" for i in range(len(grid))]
    strengths = numbers([] if responses is None else responses)
    if len(heads) != len(grid) or (responses is not None and strengths.shape != (len(grid),)):
        raise BadInputError(
            f"{len(heads)} names and {strengths.size} responses for {len(grid)} heads. "
            "Give one of each for every head."
        )
    return heads, strengths


def _each(strengths: Floats, count: int) -> list[float | None]:
    return [float(value) for value in strengths] if strengths.size else [None] * count


def _head(
    tokens: Sequence[str],
    pattern: Floats,
    name: str,
    response: float | None,
    top: float,
    scale: Scale,
    heads: int,
) -> str:
    """Return one head's heat map under its name."""
    told = "" if response is None else f"<span {scale.paint(response)}>{signed(response)}</span>"
    rows = ""
    if heads * len(tokens) <= MOST_HOVERS:
        rows = "".join(
            f'<i title="{_row(tokens, pattern, query)}"></i>' for query in range(len(tokens))
        )
        rows = f"<div>{rows}</div>"
    return (
        f'<div><div class="sl-head"><b>{text(name)}</b>{told}</div><div class="sl-map">'
        f'<img alt="{text(name)}" width="148" height="148" src="{heat_map(pattern, top)}">'
        f"{rows}</div></div>"
    )


def _row(tokens: Sequence[str], pattern: Floats, query: int) -> str:
    """Return the two keys a query looks at most, for its hover."""
    weights = np.abs(np.nan_to_num(pattern[query]))
    best = np.argsort(-weights, kind="stable")[:2]
    looks = ", ".join(
        f"{token_text(tokens[key])} {shown(round(float(pattern[query, key]), 3))}"
        for key in best
        if weights[key]
    )
    return text(f"{query} {token_text(tokens[query])} → {looks}")
