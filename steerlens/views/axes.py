"""The few pieces of SVG that the plots are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from steerlens.views.scale import Number, shown, signed
from steerlens.views.theme import text

CHARACTER = 6.1
"""Mean width of a character of a label, in pixels."""


@dataclass(frozen=True)
class Axis:
    """A linear map from numbers to pixels, with round ticks.

    >>> Axis.over([0.0, 0.97], 100.0, 0.0).ticks
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """

    low: Number
    high: Number
    start: Number
    end: Number
    ticks: tuple[Number, ...]

    @classmethod
    def over(
        cls,
        values: Sequence[Number],
        start: Number,
        end: Number,
        *,
        snug: bool = False,
        most: int = 6,
    ) -> Axis:
        """Return an axis over the finite values; `snug` ends at them, not at round numbers."""
        finite = [value for value in values if isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if low == high:
            low, high = low - 0.5, high + 0.5
        step = round_step((high - low) / (most - 1))
        if all(float(value).is_integer() for value in finite):
            step = max(1.0, step)
        first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
        ticks = tuple(_rounded(step * k, step) for k in range(first, last + 1))
        if snug:
            return cls(low, high, start, end, tuple(t for t in ticks if low <= t <= high))
        return cls(ticks[0], ticks[-1], start, end, ticks)

    def __call__(self, value: Number) -> float:
        """Return the pixel of a value."""
        part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)


def round_step(rough: Number) -> float:
    """Return about the next 1, 2 or 5 times a power of ten.

    >>> round_step(0.19), round_step(3.0)
    (0.2, 5.0)
    """
    power = 10.0 ** floor(log10(rough))
    return next(_rounded(k * power, power) for k in (1, 2, 5, 10) if k * power >= 0.8 * rough)


def _rounded(value: Number, step: Number) -> float:
    """A multiple of a step without what its product left in the last bits, however small."""
    return round(float(value), 2 - floor(log10(step)))


def label(
    x: Number, y: Number, words: str, *, anchor: str = "start", muted: bool = False, extra: str = ""
) -> str:
    """Return a text, escaped."""
    opacity = ' opacity=".66"' if muted else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{opacity}{extra}>{text(words)}</text>'


def rule(x1: Number, y1: Number, x2: Number, y2: Number, opacity: Number, extra: str = "") -> str:
    """Return a thin line in the text's colour."""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="currentColor" '
        f'stroke-opacity="{opacity:g}"{extra}/>'
    )


def bar(start: Number, end: Number, y: Number, height: Number, colour: str, told: str) -> str:
    """Return a horizontal bar between two pixels, centred on a height, with its hover text."""
    low, high = sorted((start, end))
    return (
        f'<rect x="{low:g}" y="{y - height / 2:g}" width="{max(high - low, 1):g}" '
        f'height="{height:g}" fill="{colour}" fill-opacity=".72"><title>{text(told)}</title></rect>'
    )


def bar_line(
    x: Axis,
    y: Number,
    height: Number,
    name: str,
    ends: tuple[Number, Number],
    colour: str,
    value: Number,
    told: str = "",
) -> str:
    """Return a horizontal bar with its name to the left and its value to the right."""
    start, end = (x(each) for each in ends)
    return (
        label(x.start - 10, y + 4, name, anchor="end")
        + bar(start, end, y, height, colour, told or f"{name}: {signed(value)}")
        + label(x.end + 12, y + 4, signed(value))
    )


def frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    """Return both axes: faint horizontal lines, ticks, and the labels with their units."""
    left, right, bottom = min(x.start, x.end), max(x.start, x.end), max(y.start, y.end)
    parts = [label(0, y.end - 14, y_label)]
    for tick in y.ticks:
        parts.append(rule(left, y(tick), right, y(tick), 0.1))
        parts.append(label(left - 8, y(tick) + 4, shown(tick), anchor="end", muted=True))
    parts.append(rule(left, bottom, right, bottom, 0.5))
    for tick in x.ticks:
        parts.append(rule(x(tick), bottom, x(tick), bottom + 4, 0.5))
        parts.append(label(x(tick), bottom + 17, shown(tick), anchor="middle", muted=True))
    if x_label:
        parts.append(label((left + right) / 2, bottom + 35, x_label, anchor="middle"))
    return "".join(parts)


def spread(wanted: Sequence[Number], gap: Number) -> list[float]:
    """Move labels apart, as little as needed, keeping their order.

    >>> spread([10.0, 12.0, 40.0], 14.0)
    [4.0, 18.0, 40.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[Number, list[int]]] = []  # a group's centre, and its labels from the top
    for index in order:
        groups.append((wanted[index], [index]))
        while len(groups) > 1 and _overlap(groups[-2], groups[-1], gap):
            (_, upper), (_, lower) = groups[-2:]
            both = upper + lower
            groups[-2:] = [(sum(wanted[i] for i in both) / len(both), both)]
    placed = [0.0] * len(wanted)
    for centre, members in groups:
        for rank, index in enumerate(members):
            placed[index] = centre + gap * (rank - (len(members) - 1) / 2)
    return placed


def _overlap(upper: tuple[Number, list[int]], lower: tuple[Number, list[int]], gap: Number) -> bool:
    return lower[0] - upper[0] < gap * (len(upper[1]) + len(lower[1])) / 2


def svg(width: Number, height: Number, body: str, title: str) -> str:
    """Return an SVG for the middle of an HTML page, where it needs no namespace."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" aria-label="{text(title)}">{body}</svg>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the numbers behind a plot, folded away."""
    heads = "".join(f"<th>{text(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<details><summary>numbers</summary><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{lines}</tbody></table></details>"
    )
