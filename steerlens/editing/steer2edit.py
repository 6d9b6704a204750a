"""Steer2Edit: from a contrast to sparse rank-1 edits of heads and neurons, in closed form."""

from __future__ import annotations

from inspect import signature
from typing import Any

from steerlens.components import Block
from steerlens.contrast import Contrast
from steerlens.directions import Direction, Directions
from steerlens.editing.candidates import BLOCKS, Candidates, candidates
from steerlens.editing.closed_form import Null, Rho, strengths, weight
from steerlens.editing.factors import Factors, Place
from steerlens.editing.value import Edit
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.host import Host, check_model

HEADS, NEURONS = Null(0.99), Null(0.999)
"""Thresholds where none are given: one of a hundred random directions would pass a head's, one of
a thousand a neuron's."""


def steer2edit(
    model: Host,
    contrast: Contrast,
    direction: Direction | Directions | None = None,
    *,
    rho_attn: Rho = HEADS,
    rho_mlp: Rho = NEURONS,
    alpha: float = 0.5,
    relative: bool = False,
    **reading: Any,
) -> Edit:
    """Turn a contrast into sparse rank-1 edits of heads and neurons, in closed form.

    A head gets W_O += λ outer(k, v), a neuron W_out += λ sign(w·v) v, with v the unit direction at
    the output projection, k ∝ W_O v, importance g = cos(v, W μ) and λ = sign(g) max(|g| - ρα, 0) /
    (ρ(1 - α)). Every edit moves the component's mean output toward +v, also where g < 0.

    - `direction`: one of the stream, or several; without it each block takes the mean difference of
      its own output, as the paper does.
    - `rho_attn`, `rho_mlp`, `alpha`: the elastic net. Only |g| above ρα is edited. The paper's
      values (0.1 to 0.9) suit widths of 2,048 and more; `Null(q)` puts the threshold at a
      quantile of what random directions reach at the model's own width; `alpha` then only scales
      the edit, by alpha / (1 - alpha). None, or the paper's -1, switches a component type off.
    - `relative`: λ times the largest singular value of the component's weight, so that 1 means as
      strong as the component ever was.
    - `reading`: what else `candidates` takes (`through`, `paired_prompt`, `positions`, ...). For a
      grid read candidates once, and edit often by `elastic_net`.

    Source: Steer2Edit (arXiv 2602.09870), equations and released code; `Null`, `relative` and
    `through` are ours. λ says little of how far outputs move: for a dose, calibrate
    `edit.as_steering()`. Raises BadInputError where both types are switched off, or as
    `candidates`. Cost: a forward pass an item, no training.

    >>> steer2edit(model, contrast, rho_attn=Null(0.8), rho_mlp=None, progress=False)
    Edit('mean difference', steer2edit, ... of 48 heads...)
    """
    check_model(model)
    unknown = [name for name in reading if name not in signature(candidates).parameters]
    if unknown:
        known = [*signature(steer2edit).parameters, *signature(candidates).parameters]
        raise UnknownNameError(
            f"steer2edit takes no {unknown[0]!r}. {nearest(unknown[0], known, 2).capitalize()}."
        )
    rhos = zip(BLOCKS, (rho_attn, rho_mlp), strict=True)
    width = int(model.cfg.d_model)
    blocks: list[Block] = [name for name, rho in rhos if weight(rho, alpha, width) is not None]
    if not blocks:
        raise BadInputError("rho_attn and rho_mlp are both switched off: nothing can be edited.")
    found = candidates(model, contrast, direction, blocks=blocks, **reading)
    return elastic_net(found, rho_attn=rho_attn, rho_mlp=rho_mlp, alpha=alpha, relative=relative)


def elastic_net(
    found: Candidates,
    *,
    rho_attn: Rho = HEADS,
    rho_mlp: Rho = NEURONS,
    alpha: float = 0.5,
    relative: bool = False,
) -> Edit:
    """Return Steer2Edit's edit of candidates that are read already: the rule alone.

    An edit of no component, where none passes the threshold, is a value like any other.

    >>> found = candidates(model, contrast, progress=False)
    >>> len(elastic_net(found, rho_mlp=None).frame()) <= 48
    True
    """
    made: list[Factors | None] = []
    reasons: dict[Place, str] = {}
    for block, rho in zip(BLOCKS, (rho_attn, rho_mlp), strict=True):
        number = weight(rho, alpha, found.d_model)
        if number is None:
            off = ((each.place[0], block) for each in found.blocks)
            reasons |= dict.fromkeys(off, "this type of component is switched off")
            continue
        for each in found.of(block):
            reasons[each.place] = f"|g| is not above the threshold {number * alpha:.3g}"
            scale = each.norms if relative else 1.0
            made.append(each.factors(scale * strengths(each.importance, number, alpha)))
    return found.edit("steer2edit", made, reasons)
