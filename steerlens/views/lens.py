"""The logit lens of a direction drawn: the tokens that it promotes, and those it suppresses."""

from __future__ import annotations

from steerlens.effects import LogitLens
from steerlens.views import axes
from steerlens.views.axes import Axis
from steerlens.views.page import View
from steerlens.views.scale import signed
from steerlens.views.theme import BLUE, VERMILION, token_text

WIDTH, LINE, HEIGHT = 360, 19, 13
TOP, GAP, BELOW, SIDE = 26, 12, 46, 60
UNIT = "multiples of what a random direction does to that token"


def logit_lens(found: LogitLens, *, title: str | None = None) -> View:
    """Draw a bar for each token that a direction promotes or suppresses most; static, a few kB.

    Dashed lines stand where the greatest score of a random direction ends, 97.5% of the time.

    >>> from steerlens.effects import logit_lens as lens
    >>> view = logit_lens(lens(model, directions["resid_post", 3], k=5))
    >>> view.title
    'What direction promotes and suppresses'
    """
    rows = [*found.promoted, *reversed(found.suppressed)]
    names = [f"“{token_text(token)}”" for token, _, _ in rows]
    far = found.chance[1]
    left = 14 + axes.CHARACTER * max(len(name) for name in names)
    x = Axis.over([-far, far, *(score for _, _, score in rows)], left, left + WIDTH)
    tops = [TOP + LINE * i + GAP * (i >= len(found.promoted)) for i in range(len(rows))]
    bottom = tops[-1] + LINE
    body = axes.frame(x, Axis(0.0, 1.0, bottom, TOP, ()), UNIT, "")
    body += axes.rule(x(0.0), TOP, x(0.0), bottom, 0.6)
    for end in (-far, far):
        body += axes.rule(x(end), TOP, x(end), bottom, 0.6, ' stroke-dasharray="3 3"')
    body += axes.label(x(far), TOP - 8, "chance", anchor="middle", muted=True)
    body += axes.label(x(-far), TOP - 8, "chance", anchor="middle", muted=True)
    for (_, token_id, score), name, top in zip(rows, names, tops, strict=True):
        colour, told = BLUE if score > 0 else VERMILION, f"{name} ({token_id}): {signed(score)}"
        y = top + LINE / 2
        body += axes.bar_line(x, y, HEIGHT, name, (0.0, score), colour, score, told)
    drawing = axes.svg(round(left + WIDTH + SIDE), bottom + BELOW, body, f"Logit lens: {UNIT}")
    beyond = f"{found.beyond_chance} of {len(rows)} tokens beyond chance"
    return View(
        title or f"What {found.direction} promotes and suppresses",
        drawing,
        subtitle=f"by the straight path to the logits; {beyond}",
    )
