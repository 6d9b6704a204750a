"""Effects with their intervals, one method a line, beside the band of their placebos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from steerlens.errors import BadInputError
from steerlens.evaluation.findings import EqualDose
from steerlens.views import axes
from steerlens.views.axes import Axis
from steerlens.views.page import View
from steerlens.views.scale import Number, shown
from steerlens.views.theme import SERIES, text

WIDTH, LINE = 420, 34
TOP, BELOW = 30, 46


@dataclass(frozen=True)
class MethodEffect:
    """A method's effect, its 95% interval, and its placebos' (none where low is above high)."""

    name: str
    value: Number
    low: Number
    high: Number
    placebo_low: Number = 1.0
    placebo_high: Number = 0.0


def effects(
    methods: Sequence[MethodEffect] | EqualDose,
    *,
    x_label: str = "",
    title: str = "Effect of each method at equal dose",
    subtitle: str = "bars: 95% intervals; grey: the central 95% of placebos",
) -> View:
    """Plot effects as dots on their intervals; static, a few kB.

    `methods` are `MethodEffect`s, or what `at_equal_dose` found. Raises BadInputError without any,
    and on numbers that are not finite.

    >>> view = effects([MethodEffect("add", 0.4, 0.2, 0.6, -0.1, 0.1)])
    >>> "add: 0.4 [0.2, 0.6]" in view.static
    True
    """
    if isinstance(methods, EqualDose):
        x_label, methods = x_label or f"change of {methods.task}", _of(methods)
    x_label = x_label or "effect"
    if not methods:
        raise BadInputError("There is nothing to plot. Give a MethodEffect or more.")
    for each in methods:
        if not all(map(isfinite, (each.value, each.low, each.high))):
            raise BadInputError(
                f"{each} has numbers that are not finite: there is no place for it."
            )
    ends = [end for each in methods for end in (each.low, each.high, 0.0)]
    ends += [
        end for each in methods if _beside(each) for end in (each.placebo_low, each.placebo_high)
    ]
    left = 16 + axes.CHARACTER * max(len(each.name) for each in methods)
    x = Axis.over(ends, left, left + WIDTH)
    bottom = TOP + LINE * len(methods)
    y = Axis(0.0, 1.0, bottom, TOP, ())
    body = axes.frame(x, y, x_label, "") + axes.rule(x(0.0), TOP, x(0.0), bottom, 0.6)
    for i, each in enumerate(methods):
        body += _drawn(each, x, TOP + LINE * (i + 0.5), SERIES[i % len(SERIES)], left)
    drawing = axes.svg(left + WIDTH + 20, bottom + BELOW, body, f"{title}: {x_label}")
    rows = [
        (each.name, *map(shown, (each.value, each.low, each.high)), *_placebo(each))
        for each in methods
    ]
    head = ("method", x_label, "low", "high", "placebo low", "placebo high")
    return View(title, drawing + axes.table(head, rows), subtitle=subtitle)


def _of(found: EqualDose) -> list[MethodEffect]:
    return [
        MethodEffect(
            str(line["method"]),
            line["effect"],
            line["low"],
            line["high"],
            *((line["placebo_low"], line["placebo_high"]) if line["placebos"] else ()),
        )
        for line in found.frame().to_dict("records")
    ]


def _beside(each: MethodEffect) -> bool:
    return each.placebo_low <= each.placebo_high


def _placebo(each: MethodEffect) -> tuple[str, str]:
    return (shown(each.placebo_low), shown(each.placebo_high)) if _beside(each) else ("", "")


def _drawn(each: MethodEffect, x: Axis, y: Number, colour: str, left: Number) -> str:
    """Return the name, the placebo's band, the interval and the dot."""
    told = f"{each.name}: {shown(each.value)} [{shown(each.low)}, {shown(each.high)}]"
    body = axes.label(left - 10, y + 4, each.name, anchor="end")
    if _beside(each):
        start, end = x(each.placebo_low), x(each.placebo_high)
        beside = f"placebos {shown(each.placebo_low)} to {shown(each.placebo_high)}"
        body += (
            f'<rect x="{start:g}" y="{y - 9:g}" width="{max(end - start, 1):g}" height="18" '
            f'fill="currentColor" fill-opacity=".14"><title>{text(beside)}</title></rect>'
        )
    return body + (
        f'<line x1="{x(each.low):g}" x2="{x(each.high):g}" y1="{y:g}" y2="{y:g}" '
        f'stroke="{colour}" stroke-width="2.4"/>'
        f'<circle cx="{x(each.value):g}" cy="{y:g}" r="4.4" fill="{colour}">'
        f"<title>{text(told)}</title></circle>"
    )
