"""Which unit vector of the stream each block's components are scored along."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from steerlens.components import Components, Place
from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError
from steerlens.names import hook_name, split_name

_INSIDE = ("mlp_pre", "mlp_post", "post")
"""Sites whose vectors may be as wide as the stream, and are not in it."""


def aims(
    parts: Components, direction: Direction | Directions, wanted: Sequence[Place]
) -> dict[Place, Float[Tensor, " d_model"]]:
    """Return the unit direction of every block.

    One direction serves all. Of several, a block takes the one at its own output (`attn_out`,
    `mlp_out`), else the one at its layer's `resid_post`. Raises BadInputError where there is
    neither, or a vector that is none of the stream.

    >>> from steerlens.components import components
    >>> list(aims(components(model), directions, [(2, "attn")])[2, "attn"].shape)
    [128]
    """
    if not isinstance(direction, Direction | Directions):
        raise BadInputError(
            f"Components are scored along a Direction or Directions; got "
            f"{type(direction).__name__}. Direction('resid_post', vector) makes one of a tensor; "
            "of a steering, give the direction that it was made from."
        )
    width = int(parts.model.cfg.d_model)
    return {place: _unit(_at(direction, place), width) for place in wanted}


def _at(direction: Direction | Directions, place: Place) -> Direction:
    if isinstance(direction, Direction):
        return direction
    layer, block = place
    names = [hook_name(f"{block}_out", layer), hook_name("resid_post", layer)]
    found = next((name for name in names if name in direction.found), None)
    if found is None:
        raise BadInputError(
            f"There is no direction for {block!r} of layer {layer}: neither at {names[0]!r} nor "
            f"at {names[1]!r}. Find directions at 'resid_post' of every layer, or give one "
            "direction for all."
        )
    return direction[found]


def _unit(direction: Direction, width: int) -> Float[Tensor, " d_model"]:
    shape, site = tuple(direction.vector.shape), split_name(direction.hook_name)[0]
    if shape != (width,) or site in _INSIDE:
        raise BadInputError(
            f"Direction {direction.name!r} at {direction.hook_name!r} has shape {shape} and is no "
            f"vector of the stream, of shape {(width,)}. Find one at 'resid_post', 'attn_out' or "
            "'mlp_out'."
        )
    return direction.unit().vector
