"""Tokens coloured by a number: where a steering wrote, and how strongly, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from steerlens.cards import drawable
from steerlens.errors import BadInputError
from steerlens.views import live
from steerlens.views.page import View
from steerlens.views.scale import Floats, Scale, numbers, shown
from steerlens.views.theme import live_token, text, token_text

LINE_WIDTH = 96
"""Characters on a line of the layer-by-layer view, the rows' names among them."""
MOST_LIVE = 4_000
"""Coloured values beyond which a browser draws too slowly; the view stays static."""
MOST_HOVERS = 1_000
"""Cells beyond which a cell's numbers are told by its token alone."""


def colored_tokens(
    tokens: Sequence[str],
    values: Any,
    *,
    labels: Sequence[str] | None = None,
    unit: str = "share of the stream's norm",
    title: str = "Where it writes",
    details: Sequence[Sequence[str]] | None = None,
    marks: Mapping[int, str] | None = None,
) -> View:
    """Colour each token by its value; several rows (layers) stand under their tokens.

    - `tokens`: the text's tokens, as strings.
    - `values`: shape `pos`, or `layer pos`; a tensor, an array or lists.
    - `labels`: the names of the rows.
    - `unit`: what the numbers are, for the legend.
    - `title`: what stands above the view.
    - `details`: further hover text, a string for each row and token (static view).
    - `marks`: positions where a part of the text begins, with its name.

    About 60 bytes a value; above 4,000 values the view is static.

    >>> view = colored_tokens(["I", " like", " it"], [0.0, 0.1, 0.3], marks={2: "generated"})
    >>> view.element
    'ColoredTokens'

    Raises BadInputError where the shapes do not agree.
    """
    grid = np.atleast_2d(numbers(values))
    names = _checked(tokens, grid, labels, details)
    if not len(tokens):
        return View(title, '<div class="sl-muted">No tokens.</div>')
    scale = Scale.of(grid)
    starts = {0: "", **dict(marks or {})}
    sheet = _Sheet(tokens, grid, names, scale, details)
    draw = sheet.flow if len(grid) == 1 else sheet.gloss
    parts = [
        draw(range(start, end), starts[start]) for start, end in _spans(sorted(starts), len(tokens))
    ]
    subtitle = f"{len(tokens):,} tokens" + (f", {len(grid)} rows" if len(grid) > 1 else "")
    if scale.missing:
        subtitle += f", {scale.missing:,} not finite (zero in the live drawing)"
    element, props = _live(tokens, grid, names, scale, sorted(starts)[1:])
    if grid.size > MOST_LIVE:
        subtitle += ", static (too many for a live drawing)"
    static, legend = "".join(parts), scale.legend(unit)
    if len(grid) > 1:  # the drawing of several rows has colours of its own
        static, legend = static + legend, ""
    return View(title, static, element, props, subtitle, legend)


def _checked(
    tokens: Sequence[str],
    grid: Floats,
    labels: Sequence[str] | None,
    details: Sequence[Sequence[str]] | None,
) -> list[str]:
    """Return the rows' names, or say which shapes disagree."""
    if grid.ndim != 2 or grid.shape[1] != len(tokens):
        raise BadInputError(
            f"Values of shape {grid.shape} do not fit {len(tokens)} tokens. "
            "Give one value a token (pos), or a row for each layer (layer pos)."
        )
    names = list(labels) if labels is not None else [f"row {i}" for i in range(len(grid))]
    if len(names) != len(grid):
        raise BadInputError(f"{len(names)} labels for {len(grid)} rows. Give a label a row.")
    if details is not None and [len(row) for row in details] != [len(tokens)] * len(grid):
        raise BadInputError(
            "The details do not fit the values. Give a text for each row and token."
        )
    return names if len(grid) > 1 or labels is not None else [""]


def _spans(starts: list[int], end: int) -> list[tuple[int, int]]:
    """Return the parts of the text that begin at `starts`."""
    edges = [start for start in starts if 0 <= start < end] + [end]
    return [pair for pair in pairwise(edges) if pair[0] < pair[1]]


@dataclass(frozen=True)
class _Sheet:
    """What is drawn of a text: its tokens, a row of numbers or several, and how they are told."""

    tokens: Sequence[str]
    grid: Floats
    names: Sequence[str]
    scale: Scale
    details: Sequence[Sequence[str]] | None

    def flow(self, span: range, mark: str) -> str:
        """Return a part of the text as running text."""
        words = []
        for pos in span:
            paint, shape = self.scale.paint(float(self.grid[0, pos])), self._shape(pos)
            words.append(f'<span {paint} title="{self._hover(0, pos)}">{shape}</span>')
            if self.tokens[pos].endswith("\n"):
                words.append("<br>")
        label = f'<div class="sl-mark">{text(mark)}</div>' if mark else ""
        return f'{label}<div class="sl-flow">{"".join(words)}</div>'

    def gloss(self, span: range, mark: str) -> str:
        """Return a part of the text as lines of tokens, their rows beneath, as a gloss is set."""
        tables = []
        room = max(LINE_WIDTH - max(map(len, self.names)), LINE_WIDTH // 2)
        for number, line in enumerate(_lines(self.tokens, span, room)):
            heads = "".join(f'<th title="{self._column(pos)}">{self._shape(pos)}' for pos in line)
            label = mark if number == 0 else ""
            rows = [f'<thead><tr><th class="sl-mark">{text(label)}{heads}<tbody>']
            for row, name in enumerate(self.names):
                cells = (self._cell(row, pos) for pos in line)
                rows.append(f"<tr><th>{text(name)}" + "".join(cells))
            tables.append(f'<table class="sl-gloss">{"".join(rows)}</table>')
        return "".join(tables)

    def _shape(self, pos: int) -> str:
        return text(token_text(self.tokens[pos]))

    def _cell(self, row: int, pos: int) -> str:
        paint = self.scale.paint(float(self.grid[row, pos]))
        if self.grid.size > MOST_HOVERS and self.details is None:
            return f"<td {paint}>"
        return f'<td {paint} title="{self._hover(row, pos)}">'

    def _hover(self, row: int, pos: int) -> str:
        value = shown(float(self.grid[row, pos]))
        parts = [self.names[row], f"{pos}:{token_text(self.tokens[pos])}", value]
        if self.details is not None:
            parts.append(self.details[row][pos])
        return text(" · ".join(part for part in parts if part))

    def _column(self, pos: int) -> str:
        """A token's numbers in every row, for its hover."""
        place = f"{pos}:{token_text(self.tokens[pos])}"
        if self.grid.size <= MOST_HOVERS:
            return text(place)
        pairs = zip(self.names, self.grid[:, pos], strict=True)
        told = ", ".join(f"{name} {shown(float(value))}" for name, value in pairs)
        return text(f"{place} · {told}")


def _lines(tokens: Sequence[str], span: range, room: int) -> list[list[int]]:
    """Break positions into lines of about `room` characters."""
    lines: list[list[int]] = [[]]
    width = 0
    for pos in span:
        wide = len(token_text(tokens[pos])) + 1
        if lines[-1] and width + wide > room:
            lines.append([])
            width = 0
        lines[-1].append(pos)
        width += wide
    return lines


def _live(
    tokens: Sequence[str], grid: Floats, names: list[str], scale: Scale, breaks: list[int]
) -> tuple[str | None, dict[str, Any] | None]:
    """Return circuitsvis's element and props: values that are not finite count as zero."""
    if grid.size > MOST_LIVE:
        return None, None
    finite = np.where(np.isfinite(grid), grid, 0.0)
    shapes = [
        live_token(token) + ("\n" if token.endswith("\n") or pos + 1 in breaks else "")
        for pos, token in enumerate(tokens)
    ]
    if len(grid) == 1:
        return live.colored_tokens(shapes, finite[0], scale.top)
    return live.colored_tokens_multi(shapes, finite.T, [drawable(n) for n in names], scale.top)
