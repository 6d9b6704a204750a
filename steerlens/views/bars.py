"""Stacked bars: how a judge's verdicts are shared out, condition by condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from steerlens.errors import BadInputError
from steerlens.views import axes
from steerlens.views.axes import Axis
from steerlens.views.page import View
from steerlens.views.scale import Number, shown
from steerlens.views.theme import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, text

WIDTH, HEIGHT, STEP, TOP = 470, 20, 34, 6

_KNOWN = {"positive": BLUE, "negative": VERMILION, "neutral": GREY, "unparsed": ""}
_OTHERS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)


@dataclass(frozen=True)
class Bar:
    """One condition: a share for each verdict, and the first one's interval if known."""

    name: str
    shares: Mapping[str, Number]
    """Shares, or counts, which are divided by their sum."""
    interval: tuple[Number, Number] | None = None
    """The interval of the first verdict's share."""
    n: int | None = None
    """How many items were judged."""


def bars(
    rows: Sequence[Bar],
    *,
    x_label: str = "share of completions",
    title: str = "Verdicts",
    subtitle: str = "",
) -> View:
    """Draw a stacked bar for each condition; static, about 1 kB a bar.

    >>> view = bars([Bar("base", {"positive": 12, "negative": 30, "unparsed": 8}, (0.1, 0.4))])
    >>> "24%" in view.static
    True

    Raises BadInputError where there are no rows, verdicts differ, or shares are no shares.
    """
    if not rows:
        raise BadInputError("There are no bars to draw. Give a Bar for each condition.")
    kinds = list(rows[0].shares)
    shares = [_shares(row, kinds) for row in rows]
    names = [row.name + (f" (n = {row.n:,})" if row.n is not None else "") for row in rows]
    left = 14 + axes.CHARACTER * max(len(name) for name in names)
    x = Axis(0.0, 1.0, left, left + WIDTH, (0.0, 0.25, 0.5, 0.75, 1.0))
    body = "".join(
        _bar(row, share, name, x, TOP + index * STEP)
        for index, (row, share, name) in enumerate(zip(rows, shares, names, strict=True))
    )
    bottom = TOP + len(rows) * STEP - 6
    body += axes.rule(x.start, bottom, x.end, bottom, 0.5)
    for tick in x.ticks:
        body += axes.rule(x(tick), bottom, x(tick), bottom + 4, 0.5)
        body += axes.label(x(tick), bottom + 17, f"{tick:.0%}", anchor="middle", muted=True)
    body += axes.label(left + WIDTH / 2, bottom + 35, x_label, anchor="middle")
    drawing = axes.svg(round(left + WIDTH + 20), bottom + 44, body, title)
    return View(
        title, _legend(rows, kinds) + drawing + _table(rows, shares, kinds), subtitle=subtitle
    )


def _shares(row: Bar, kinds: list[str]) -> list[float]:
    values = [float(value) for value in row.shares.values()]
    if (
        list(row.shares) != kinds
        or any(not isfinite(v) or v < 0 for v in values)
        or not sum(values)
    ):
        raise BadInputError(
            f"The bar {row.name!r} has {dict(row.shares)}; the first bar has {kinds}. "
            "Give the same verdicts in the same order, none below zero, not all zero."
        )
    return [value / sum(values) for value in values]


def _colour(kind: str, index: int) -> str:
    return _KNOWN.get(kind, _OTHERS[index % len(_OTHERS)])


def _bar(row: Bar, shares: list[float], name: str, x: Axis, top: Number) -> str:
    """Return one bar with its name, its shares as numbers, and the first one's interval."""
    parts = [axes.label(x.start - 10, top + HEIGHT / 2 + 4, name, anchor="end")]
    edge = 0.0
    for index, (kind, share) in enumerate(zip(row.shares, shares, strict=True)):
        start, wide = x(edge), x(edge + share) - x(edge)
        edge += share
        if not share:
            continue
        parts.append(_piece(kind, index, start, top, wide, f"{row.name}, {kind}: {share:.1%}"))
        if wide > 30:
            room = start + wide / 2
            if index == 0 and row.interval:  # the interval's line runs through the bar's middle
                room = min(room, start + 18)
            parts.append(axes.label(room, top + HEIGHT / 2 + 4, f"{share:.0%}", anchor="middle"))
    if row.interval:
        low, high = (x(value) for value in row.interval)
        parts.append(
            axes.rule(low, top + HEIGHT + 4, high, top + HEIGHT + 4, 0.9, ' stroke-width="1.4"')
        )
        for end in (low, high):
            parts.append(axes.rule(end, top + HEIGHT + 1, end, top + HEIGHT + 7, 0.9))
    return "".join(parts)


def _piece(kind: str, index: int, start: Number, top: Number, wide: Number, told: str) -> str:
    colour = _colour(kind, index)
    box = f'x="{start:g}" y="{top:g}" width="{max(wide - 1, 0.5):g}" height="{HEIGHT}"'
    fill = f'fill="{colour}" fill-opacity=".5"' if colour else 'fill="url(#sl-hatch)"'
    hatch = "" if colour else (
        '<pattern id="sl-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path d="M0 0V5" stroke="#888" stroke-width="2" '
        'stroke-opacity=".55"/></pattern>'
    )  # fmt: skip
    return f"{hatch}<rect {box} {fill}><title>{text(told)}</title></rect>"


def _legend(rows: Sequence[Bar], kinds: list[str]) -> str:
    items = []
    for index, kind in enumerate(kinds):
        colour = _colour(kind, index)
        swatch = f'style="background-color:{colour}80"' if colour else 'class="sl-nan"'
        items.append(f"<span><i {swatch}></i>{text(kind)}</span>")
    if any(row.interval for row in rows):
        items.append(f'<span><i class="sl-range"></i>95% interval of {text(kinds[0])}</span>')
    return f'<div class="sl-legend" style="margin:0 0 .8em">{"".join(items)}</div>'


def _table(rows: Sequence[Bar], shares: list[list[float]], kinds: list[str]) -> str:
    lines = []
    for row, values in zip(rows, shares, strict=True):
        told = "" if row.interval is None else f"[{row.interval[0]:.1%}, {row.interval[1]:.1%}]"
        size = "" if row.n is None else shown(float(row.n))
        lines.append([row.name, size, *(f"{value:.1%}" for value in values), told])
    return axes.table(["condition", "n", *kinds, f"interval of {kinds[0]}"], lines)
