"""Parts that add up: each bar begins where the one above it ends."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from math import isfinite

from steerlens.errors import BadInputError
from steerlens.views import axes
from steerlens.views.axes import Axis
from steerlens.views.page import View
from steerlens.views.scale import Number
from steerlens.views.theme import BLUE, GREY, VERMILION

WIDTH, LINE, HEIGHT = 420, 24, 15
TOP, BELOW, SIDE = 6, 46, 66


def waterfall(
    parts: Mapping[str, Number],
    *,
    total: str = "all together",
    x_label: str = "",
    title: str = "What it adds up to",
    subtitle: str = "",
) -> View:
    """Draw signed parts one below another, and what they add up to; static, a few kB.

    >>> view = waterfall({"direct": 0.5, "heads": -0.125}, total="change")
    >>> "direct: +0.5" in view.static, "change: +0.375" in view.static
    (True, True)

    Raises BadInputError without any parts, and on numbers that are not finite.
    """
    if not parts or not all(map(isfinite, parts.values())):
        raise BadInputError(
            f"These parts cannot be added up: {dict(parts)}. Give a finite number or more."
        )
    ends = list(accumulate(parts.values()))
    starts = [0.0, *ends[:-1]]
    names = [*parts, total]
    left = 14 + axes.CHARACTER * max(map(len, names))
    x = Axis.over([0.0, *ends], left, left + WIDTH)
    bottom = TOP + LINE * len(names)
    body = axes.frame(x, Axis(0.0, 1.0, bottom, TOP, ()), x_label, "")
    body += axes.rule(x(0.0), TOP, x(0.0), bottom, 0.6)
    for i, (name, start, end) in enumerate(zip(parts, starts, ends, strict=True)):
        y = TOP + LINE * (i + 0.5)
        colour = BLUE if parts[name] > 0 else VERMILION
        body += axes.bar_line(x, y, HEIGHT, name, (start, end), colour, parts[name])
        body += axes.rule(x(end), y + HEIGHT / 2, x(end), y + LINE - HEIGHT / 2, 0.5)
    last = bottom - LINE / 2
    body += axes.bar_line(x, last, HEIGHT, total, (0.0, ends[-1]), GREY, ends[-1])
    drawing = axes.svg(round(left + WIDTH + SIDE), bottom + BELOW, body, f"{title}: {x_label}")
    return View(title, drawing, subtitle=subtitle)
