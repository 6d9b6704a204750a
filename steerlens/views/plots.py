"""Line plots with intervals and placebo bands: dose-response curves and layer sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import Any

from steerlens.errors import BadInputError
from steerlens.views import axes
from steerlens.views.axes import Axis
from steerlens.views.page import View
from steerlens.views.scale import Floats, Number, numbers, shown
from steerlens.views.theme import GREY, SERIES, text

PLOT_WIDTH, PLOT_HEIGHT = 470, 190
LEFT, TOP, GAP, BELOW = 52, 34, 74, 44


@dataclass(frozen=True)
class Line:
    """A series: points, with their intervals if both `low` and `high` are given."""

    name: str
    x: Any
    y: Any
    low: Any = None
    high: Any = None


@dataclass(frozen=True)
class Band:
    """A range to compare with, such as the 95% of a placebo."""

    name: str
    x: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Panel:
    """One plot of a figure; panels of a figure share their x axis."""

    y_label: str
    """What is measured, with its unit."""
    lines: Sequence[Line]
    band: Band | None = None
    reference: tuple[str, Number] | None = None
    """A level with a name, such as `("chance", 0.5)`."""
    y_range: tuple[Number, Number] | None = None
    """The least range of the y axis, such as (0, 1) for a share."""


def curve(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    band: Band | None = None,
    reference: tuple[str, Number] | None = None,
    y_range: tuple[Number, Number] | None = None,
    title: str = "Dose and response",
    subtitle: str = "",
) -> View:
    """Plot lines with their intervals over one x axis; static, a few kB.

    >>> line = Line("steered", [0, 2, 4], [0.1, 0.4, 0.7], [0.0, 0.3, 0.6], [0.2, 0.5, 0.8])
    >>> view = curve([line], x_label="coefficient", y_label="share positive", y_range=(0, 1))
    >>> view.static.startswith("<svg")
    True
    """
    panel = Panel(y_label, lines, band, reference, y_range)
    return panels([panel], x_label=x_label, title=title, subtitle=subtitle)


def panels(
    parts: Sequence[Panel], *, x_label: str, title: str = "Layer by layer", subtitle: str = ""
) -> View:
    """Plot panels above each other over one x axis: AUC a layer, and its cost beneath.

    Raises BadInputError where a line's numbers differ in length, or there is nothing to plot.

    >>> above, below = Line("found", [0, 1], [0.6, 0.9]), Line("cost", [0, 1], [0.1, 0.2])
    >>> view = panels([Panel("AUC", [above]), Panel("KL", [below])], x_label="layer")
    >>> view.static.count("<polyline")
    2
    """
    xs = [float(x) for part in parts for line in part.lines for x in _checked(line)[0]]
    if not xs:
        raise BadInputError(
            "There is nothing to plot. Give a panel with a line of a point or more."
        )
    names = [line.name for part in parts for line in part.lines]
    names += [part.band.name for part in parts if part.band]
    names += [part.reference[0] for part in parts if part.reference]
    x = Axis.over(xs, LEFT, LEFT + PLOT_WIDTH, snug=True, most=9)
    body = "".join(
        _panel(part, x, TOP + index * (PLOT_HEIGHT + GAP), x_label if part is parts[-1] else "")
        for index, part in enumerate(parts)
    )
    width = LEFT + PLOT_WIDTH + 22 + axes.CHARACTER * max(len(name) for name in names)
    height = TOP + len(parts) * (PLOT_HEIGHT + GAP) - GAP + BELOW
    drawing = axes.svg(round(width), height, body, f"{title}: {x_label}")
    return View(title, drawing + _table(parts, x_label), subtitle=subtitle)


def _checked(line: Line) -> tuple[Floats, Floats, Floats | None, Floats | None]:
    """Return a line's numbers as arrays of one length."""
    x, y = numbers(line.x), numbers(line.y)
    both = line.low is not None and line.high is not None
    low, high = (numbers(line.low), numbers(line.high)) if both else (None, None)
    sizes = [each.shape for each in (x, y, low, high) if each is not None]
    if any(size != (x.size,) for size in sizes):
        raise BadInputError(
            f"The line {line.name!r} has parts of shapes {sizes}. Give one x, y, low, high a point."
        )
    return x, y, low, high


def _panel(part: Panel, x: Axis, top: Number, x_label: str) -> str:
    """Return one plot: frame, band, reference, lines, and their names at the right."""
    reach = [
        v for line in part.lines for a in _checked(line)[1:] if a is not None for v in a.tolist()
    ]
    reach += list(part.y_range or ()) + ([part.reference[1]] if part.reference else [])
    if part.band:
        reach += numbers(part.band.low).tolist() + numbers(part.band.high).tolist()
    y = Axis.over(reach, top + PLOT_HEIGHT, top, snug=True)
    body = [axes.frame(x, y, x_label, part.y_label)]
    ends: list[tuple[Number, str, str]] = []
    if part.band:
        xs, low, high = (numbers(v) for v in (part.band.x, part.band.low, part.band.high))
        body.append(_area(x, y, xs, low, high, GREY, 0.22, part.band.name))
        ends.append((y(float(low[-1] + high[-1]) / 2), part.band.name, GREY))
    if part.reference:
        name, level = part.reference
        dashes = ' stroke-dasharray="3 3"'
        body.append(axes.rule(x.start, y(level), x.end, y(level), 0.6, dashes))
        ends.append((y(level), name, GREY))
    for line, colour in zip(part.lines, _colours(len(part.lines)), strict=True):
        body.append(_line(line, x, y, colour))
        finite = [float(v) for v in numbers(line.y) if isfinite(v)]
        ends += [(y(finite[-1]), line.name, colour)] if finite else []
    places = axes.spread([end[0] for end in ends], 15)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        grey = colour == GREY
        extra = "" if grey else f' style="fill:{colour};font-weight:600"'
        body.append(axes.label(x.end + 12, place + 4, name, muted=grey, extra=extra))
    return "".join(body)


def _colours(count: int) -> list[str]:
    return [SERIES[index % len(SERIES)] for index in range(count)]


def _area(
    x: Axis, y: Axis, xs: Floats, low: Floats, high: Floats, colour: str, opacity: float, name: str
) -> str:
    """Return the area between `low` and `high`."""
    points = [(a, lo, hi) for a, lo, hi in zip(xs, low, high, strict=True) if isfinite(lo + hi)]
    edge = [f"{x(a):g},{y(hi):g}" for a, _, hi in points]
    edge += [f"{x(a):g},{y(lo):g}" for a, lo, _ in reversed(points)]
    return (
        f'<polygon points="{" ".join(edge)}" fill="{colour}" fill-opacity="{opacity:g}">'
        f"<title>{text(name)}</title></polygon>"
    )


def _line(line: Line, x: Axis, y: Axis, colour: str) -> str:
    """Return a line with its interval and its points; it breaks where a value is missing."""
    xs, ys, low, high = _checked(line)
    body = (
        "" if low is None or high is None else _area(x, y, xs, low, high, colour, 0.15, line.name)
    )
    for known, run in groupby(range(len(xs)), lambda i: isfinite(ys[i])):
        if known:
            points = " ".join(f"{x(float(xs[i])):g},{y(float(ys[i])):g}" for i in run)
            body += (
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
            )
    for i in range(len(xs)):
        if isfinite(ys[i]):
            told = f"{line.name}, {shown(float(xs[i]))}: {_number(ys, low, high, i)}"
            body += (
                f'<circle cx="{x(float(xs[i])):g}" cy="{y(float(ys[i])):g}" r="2.8" '
                f'fill="{colour}"><title>{text(told)}</title></circle>'
            )
    return body


def _number(y: Floats, low: Floats | None, high: Floats | None, index: int) -> str:
    """Return a value with its interval: 0.62 [0.55, 0.69]."""
    told = shown(float(y[index]))
    if low is None or high is None:
        return told
    return f"{told} [{shown(float(low[index]))}, {shown(float(high[index]))}]"


def _table(parts: Sequence[Panel], x_label: str) -> str:
    """Return all numbers of the figure, a line for each point."""
    rows = []
    for part in parts:
        for line in part.lines:
            x, y, low, high = _checked(line)
            rows += [
                (line.name, part.y_label, shown(float(x[i])), _number(y, low, high, i))
                for i in range(len(x))
            ]
    return axes.table(("line", "measure", x_label, "value"), rows)
