"""Attribute against utility: what each method buys, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from steerlens.errors import BadInputError
from steerlens.evaluation.pareto import attribute_at, front
from steerlens.views import axes
from steerlens.views.axes import Axis
from steerlens.views.page import View
from steerlens.views.scale import Floats, Number, numbers, shown
from steerlens.views.theme import SERIES, text

WIDTH, HEIGHT = 470, 300
LEFT, TOP, BELOW = 52, 34, 44


@dataclass(frozen=True)
class Points:
    """A method's points: its attribute and utility at each, more being better."""

    name: str
    utility: Any
    attribute: Any
    labels: Sequence[str] = ()
    """What each point is, such as "layer 2, coeff 4"."""


@dataclass(frozen=True)
class _Cloud:
    """Points as arrays, and which of them are on the front."""

    name: str
    x: Floats
    y: Floats
    labels: Sequence[str]
    on_front: list[bool]
    colour: str

    def along_front(self) -> list[int]:
        """The front's points from the least utility to the greatest."""
        kept = [i for i, on in enumerate(self.on_front) if on]
        return sorted(kept, key=lambda i: (self.x[i], -self.y[i]))

    def told(self, i: int) -> str:
        """A point in words."""
        where = f"{self.labels[i]}: " if self.labels else ""
        return f"{self.name}, {where}{shown(float(self.y[i]))} at {shown(float(self.x[i]))}"

    def at(self, target: Number) -> float:
        """The attribute at a utility, interpolated along the front."""
        sides = torch.from_numpy(self.y), torch.from_numpy(self.x)
        return float(attribute_at(sides[0], sides[1], float(target)))


def fronts(
    methods: Sequence[Points],
    *,
    x_label: str = "utility",
    y_label: str = "attribute",
    target: Number | None = None,
    title: str = "Attribute against utility",
    subtitle: str = "",
) -> View:
    """Plot each method's points and join its front; static, a few kB.

    Better is up and to the right. Points that another of the same method dominates are hollow.
    With `target`, a dashed line stands at that utility, with a mark where each front meets it.
    Raises BadInputError where numbers differ in length or no point is finite.

    >>> found = Points("add", [1.0, 0.9, 0.5], [0.0, 0.6, 0.8], ["coeff 0", "coeff 2", "coeff 4"])
    >>> view = fronts([found], x_label="accuracy", y_label="share positive", target=0.7)
    >>> "0.7 at 0.7" in view.static
    True
    """
    clouds = [_cloud(each, SERIES[i % len(SERIES)]) for i, each in enumerate(methods)]
    xs = [float(x) for cloud in clouds for x in cloud.x]
    ys = [float(y) for cloud in clouds for y in cloud.y]
    if not any(isfinite(a + b) for a, b in zip(xs, ys, strict=True)):
        raise BadInputError("There is nothing to plot. Give Points with a finite point or more.")
    x = Axis.over([*xs, *([] if target is None else [target])], LEFT, LEFT + WIDTH)
    y = Axis.over(ys, TOP + HEIGHT, TOP)
    body = axes.frame(x, y, x_label, y_label)
    if target is not None:
        dashes = ' stroke-dasharray="3 3"'
        body += axes.rule(x(target), TOP, x(target), TOP + HEIGHT, 0.6, dashes)
        body += axes.label(x(target), TOP - 8, shown(float(target)), anchor="middle", muted=True)
    body += "".join(_drawn(cloud, x, y) for cloud in clouds)
    body += "" if target is None else "".join(_met(cloud, x, y, target) for cloud in clouds)
    body += _names(clouds, y, x.end + 12, target)
    width = x.end + 34 + axes.CHARACTER * max(len(cloud.name) for cloud in clouds)
    drawing = axes.svg(round(width), TOP + HEIGHT + BELOW, body, f"{title}: {y_label}, {x_label}")
    return View(title, drawing + _table(clouds, x_label, y_label, target), subtitle=subtitle)


def _cloud(points: Points, colour: str) -> _Cloud:
    """Return the points as arrays of one length."""
    if not isinstance(points, Points):
        raise BadInputError(
            f"A front is drawn of Points(name, utility, attribute); got {type(points).__name__}. "
            "Give a list of them, one a method."
        )
    x, y = numbers(points.utility), numbers(points.attribute)
    if x.shape != (x.size,) or x.shape != y.shape or len(points.labels) not in (0, x.size):
        raise BadInputError(
            f"The points of {points.name!r} have utilities of shape {x.shape}, attributes of "
            f"{y.shape} and {len(points.labels)} labels. Give one of each a point."
        )
    pairs = torch.stack([torch.from_numpy(x), torch.from_numpy(y)], dim=1)
    pairs[~pairs.isfinite().all(1)] = torch.nan
    return _Cloud(points.name, x, y, points.labels, front(pairs).tolist(), colour)


def _drawn(cloud: _Cloud, x: Axis, y: Axis) -> str:
    """Return the front as a line, its points filled, the others hollow."""
    line = [f"{x(float(cloud.x[i])):g},{y(float(cloud.y[i])):g}" for i in cloud.along_front()]
    body = (
        f'<polyline points="{" ".join(line)}" fill="none" stroke="{cloud.colour}" '
        'stroke-width="1.8"/>'
    )
    for i, on in enumerate(cloud.on_front):
        if not isfinite(cloud.x[i] + cloud.y[i]):
            continue
        place = f'cx="{x(float(cloud.x[i])):g}" cy="{y(float(cloud.y[i])):g}"'
        look = f'r="3.2" fill="{cloud.colour}"'
        if not on:
            look = f'r="2.6" fill="none" stroke="{cloud.colour}" stroke-opacity=".55"'
        body += f"<circle {place} {look}><title>{text(cloud.told(i))}</title></circle>"
    return body


def _met(cloud: _Cloud, x: Axis, y: Axis, target: Number) -> str:
    """Return the mark where a front meets the target, if it does."""
    value = cloud.at(target)
    if not isfinite(value):
        return ""
    across, up = x(target), y(value)
    told = f"{cloud.name}, along the front: {shown(value)} at {shown(float(target))}"
    return (
        f'<path d="M{across - 5:g} {up:g}L{across:g} {up - 5:g}L{across + 5:g} {up:g}'
        f'L{across:g} {up + 5:g}Z" fill="{cloud.colour}" stroke="currentColor">'
        f"<title>{text(told)}</title></path>"
    )


def _names(clouds: Sequence[_Cloud], y: Axis, left: Number, target: Number | None) -> str:
    """Return the methods' names in their colours, as high as their fronts are at the target.

    Without one, as high as they get: at the right, unsteered, they mostly meet in one point.
    """
    heights = []
    for cloud in clouds:
        met = torch.nan if target is None else cloud.at(target)
        top = max((float(cloud.y[i]) for i in cloud.along_front()), default=torch.nan)
        heights.append(met if isfinite(met) else top)
    named = [(y(height), c) for height, c in zip(heights, clouds, strict=True) if isfinite(height)]
    places = axes.spread([height for height, _ in named], 15)
    return "".join(
        axes.label(left, place + 4, c.name, extra=f' style="fill:{c.colour};font-weight:600"')
        for place, (_, c) in zip(places, named, strict=True)
    )


def _table(clouds: Sequence[_Cloud], x_label: str, y_label: str, target: Number | None) -> str:
    """Return all numbers: a line for each point, and one for what is met at the target."""
    rows = []
    for cloud in clouds:
        for i in range(len(cloud.x)):
            label = cloud.labels[i] if cloud.labels else str(i + 1)
            values = shown(float(cloud.x[i])), shown(float(cloud.y[i]))
            rows.append((cloud.name, label, *values, "yes" if cloud.on_front[i] else ""))
        if target is not None:
            met = shown(float(target)), shown(cloud.at(target))
            rows.append((cloud.name, "along the front", *met, ""))
    return axes.table(("method", "point", x_label, y_label, "on the front"), rows)
