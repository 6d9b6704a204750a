"""Effect, mediation and attribution drawn: which heads and MLPs, and how it flows down."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.attribution import Attribution
from steerlens.effects import Effect, Mediation
from steerlens.effects.account import HEADS
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.moments import Moments
from steerlens.views.maps import head_map, table
from steerlens.views.page import View
from steerlens.views.plots import Line, Panel, panels
from steerlens.views.scale import numbers, signed
from steerlens.views.theme import text
from steerlens.views.waterfall import waterfall

TOP_NEURONS = 8
"""How many neurons stand below a map of attribution."""
_RESPONSES = {
    "z": "change of a head's z, as a share of its norm",
    "pattern": "share of a head's attention that went to other tokens",
    "to_steered": "change of a head's attention on steered tokens",
    "to_first": "change of a head's attention on the first token",
}
_FROM_HALF = ("auc", "accuracy")
"""Scores drawn by their distance from 0.5, which guessing has."""


def effect_map(found: Effect, by: str = "part", *, title: str | None = None) -> View:
    """Draw an effect by heads and MLPs, under the parts that add up to it; static.

    - `by`: `part` of the change, or a response of heads (without MLPs, and no sum):
      `z`, `pattern`, `to_steered`, `to_first`.

    Hovers tell the standard error over prompts. Raises UnknownNameError on another `by`.

    >>> found = sl.effect(model, steering, ["a good day"], (" good", " bad"))
    >>> "and an MLP each" in effect_map(found).subtitle
    True
    """
    prompts = _over(found.prompts)
    if by in HEADS:
        each = found.responses[by]
        return head_map(
            each.mean, errors=_errors(each), unit=_RESPONSES[by], subtitle=prompts,
            title=title or f"How heads respond: {by}",
        )  # fmt: skip
    if by != "part":
        raise UnknownNameError(f"Heads have no {by!r}; {nearest(by, ('part', *HEADS))}.")
    heads, mlps = found.parts["heads"], found.parts["mlps"]
    grid = head_map(
        torch.cat([heads.mean, mlps.mean[:, None]], dim=1),
        mlp_last=True,
        errors=None if found.prompts < 2 else _beside(heads, mlps),
        unit=found.metric,
        title=title or "What the steering changes, part by part",
        subtitle=f"change {_change(found)}, {prompts}",
    )
    whole = {
        "direct, through the stream": found.direct,
        "heads": float(found.heads.sum()),
        "MLPs": float(found.mlps.sum()),
        "norms and the rest": found.remainder,
    }
    above = waterfall(whole, total="change", x_label=found.metric).static
    return replace(grid, static=above + grid.static)


def flow(found: Effect, *, title: str = "How the steering flows down the layers") -> View:
    """Plot what becomes of a steering from layer to layer; static, a few kB.

    Three panels: how far the stream has moved, as a share of its norm; the cosine of that with
    what was written (or the direction that `effect` was given); and the parts of the change,
    added up over heads and MLPs so far. Bands are 95% intervals of the mean over prompts. The
    cosine is left out where nothing was written to the stream.

    >>> found = sl.effect(model, steering, ["a good day", "the bad cat"])
    >>> flow(found).static.count("<polyline")
    4
    """
    stream, cosine = found.responses["stream"], found.responses["cosine"]
    layers = list(range(len(stream.mean)))
    reached = cosine.mean != 0  # before the first writing there is nothing to compare with
    added = [
        Line(name, layers, found.parts[part].mean.reshape(len(layers), -1).sum(1).cumsum(0))
        for name, part in (("heads", "heads"), ("MLPs", "mlps"))
    ]
    moved = [_line("stream", stream)]
    parts = [Panel("change of the stream, as a share of its norm", moved, y_range=(0, 0))]
    if bool(reached.any()):
        along = [_line("cosine", cosine, reached)]
        low = min(0.0, float(cosine.mean.min()))
        parts += [Panel(f"cosine of the change with {found.aim}", along, y_range=(low, 1))]
    label = f"parts of the change so far: {found.metric}"
    parts += [Panel(label, added, reference=("none", 0.0))]
    return panels(parts, x_label="layer", title=title, subtitle=_over(found.prompts))


def mediation_map(found: Mediation, by: str = "carried", *, title: str | None = None) -> View:
    """Draw what of an effect goes through each head and MLP; static.

    - `by`: `carried`, what is lost when it is held at base; or `alone`, what goes through it and
      no other. Unlike parts, neither need add up.

    Raises UnknownNameError on another `by`, BadInputError on `alone` where it was not asked for.

    >>> without = torch.tensor([[0.5, 0.25, 0.5]])
    >>> found = Mediation("logits", 4, 0.5, 0.125, without, torch.zeros(1, 3), None)
    >>> "L0H1: 0.25" in mediation_map(found).static
    True
    """
    if by not in ("carried", "alone"):
        raise UnknownNameError(f"Mediation has no {by!r}: draw 'carried' or 'alone'.")
    values = found.carried if by == "carried" else found.alone
    if values is None:
        raise BadInputError("'alone' was not computed: call mediation with alone=True.")
    whole = f"change {signed(found.whole)}, with all held at base {signed(found.direct)}"
    return head_map(
        values,
        mlp_last=True,
        errors=found.error if by == "carried" and found.prompts > 1 else None,
        unit=found.metric,
        title=title or ("Lost when held at base" if by == "carried" else "Through it alone"),
        subtitle=f"{whole}, {_over(found.prompts)}",
    )


def attribution_map(
    found: Attribution, by: str = "importance", *, title: str | None = None
) -> View:
    """Draw a score of every head, and list the neurons that have most of it; static.

    `by` is a score, as in `Attribution.top`. AUC and accuracy are drawn less 0.5, as guessing has.
    Raises UnknownNameError on a score that there is not, BadInputError on one not computed.

    >>> found = sl.attribute(model, contrast, directions["resid_post", 2], progress=False)
    >>> "neuron" in attribution_map(found, by="auc").static
    True
    """
    found.top(1, by=by)
    less = 0.5 if by in _FROM_HALF else 0.0
    unit = ("AUC" if by == "auc" else by.replace("_", " ")) + (" − 0.5" if less else "")
    drawn = head_map(
        numbers(getattr(found.heads, by)) - less,
        unit=unit,
        title=title or f"Heads along “{found.name}”: {unit}",
        subtitle=f"read in {found.items}, {found.positions}",
    )
    if found.neurons is None:
        return drawn
    best = found.top(TOP_NEURONS, by=by, block="mlp")
    names = "".join(f"<th>{text(name)}" for name in best["component"])
    cells = "".join(f"<td>{signed(value - less)}" for value in best[by].tolist())
    below = table(f"<tr><th>neurons with most{names}", [(unit, cells)])
    return replace(drawn, static=drawn.static + drawn.legend + below, legend="")


def _errors(moments: Moments) -> Float[Tensor, "*unit"] | None:
    """Standard errors of the mean over prompts; None for one prompt."""
    return None if moments.count < 2 else moments.standard_error


def _beside(heads: Moments, mlps: Moments) -> Float[Tensor, "layer component"]:
    return torch.cat([heads.standard_error, mlps.standard_error[:, None]], dim=1)


def _line(name: str, moments: Moments, kept: Tensor | None = None) -> Line:
    """A line over layers with its 95% interval, broken where it is not kept."""
    mean = moments.mean if kept is None else moments.mean.where(kept, nan)
    layers, error = list(range(len(mean))), _errors(moments)
    if error is None:
        return Line(name, layers, mean)
    return Line(name, layers, mean, mean - 1.96 * error, mean + 1.96 * error)


def _change(found: Effect) -> str:
    error = _errors(found.parts["whole"])
    return signed(found.change) + ("" if error is None else f" ± {float(error):.2g}")


def _over(prompts: int) -> str:
    return "one prompt" if prompts == 1 else f"mean over {prompts:,} prompts"
