"""The verbs that make steerings: add, ablate, and steer by any transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerlens.basis import Basis
from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError
from steerlens.interventions import Intervention
from steerlens.names import layer_of
from steerlens.positions import Positions, selector
from steerlens.signals import Signal, Value, signal
from steerlens.steering import Steering, together
from steerlens.transforms import Ablate, Add, Transform

Coeff = Value | Mapping[int, Value]
"""A signal, or one a layer."""


def add(
    direction: Direction | Directions | Sequence[Direction],
    coeff: Coeff = 1.0,
    *,
    positions: Positions = "everywhere",
    gate: Value = 1.0,
) -> Steering:
    """Return the steering that adds `coeff` times a direction at its hook point.

    Several directions are added each at its own. `coeff` multiplies the vector as it is: a
    number, one a row of the batch, one a layer as {layer: number}, a function of what is read,
    or `of_stream(0.1)` for a tenth of each token's own norm. Raises BadInputError on what is no
    direction, and on layers without a coefficient; when it runs, on a vector that does not fit the
    hook point. Source: ActAdd (arXiv 2308.10248), CAA (arXiv 2312.06681). Cost: one addition a
    token.

    >>> add(directions["resid_post", 2], coeff=4, positions="predicting")
    Steering(4 * add('direction') @ blocks.2.hook_resid_post[predicting])
    """
    return _steering([Add(each) for each in _listed(direction)], coeff, positions, gate)


def ablate(
    direction: Direction | Directions | Sequence[Direction] | Basis,
    coeff: Coeff = 1.0,
    *,
    positions: Positions = "everywhere",
    gate: Value = 1.0,
) -> Steering:
    """Return the steering that removes the component along a direction at its hook point.

    With a basis, the component in its span. `coeff` is the share removed, 0 to 1; the length
    and sign of the vectors play no part. At heads each head's own part is removed. Raises
    BadInputError as `add`, and on a share outside 0 to 1. Source: directional ablation (arXiv
    2406.11717). Cost: one projection a token.

    >>> ablate(directions["resid_post", 2])
    Steering(1 * ablate('direction') @ blocks.2.hook_resid_post[everywhere])
    """
    parts = direction.parts() if isinstance(direction, Basis) else _listed(direction)
    return _steering([Ablate(each) for each in parts], coeff, positions, gate)


def steer(
    transform: Transform | Sequence[Transform],
    hook_name: str | None = None,
    coeff: Coeff = 1.0,
    *,
    positions: Positions = "everywhere",
    gate: Value = 1.0,
    reads: str | None = None,
) -> Steering:
    """Return the steering by any transform of `steerlens.transforms`.

    A transform made from a direction knows its hook point; others need `hook_name`. With
    `reads`, the transform and its signals look at another hook point, earlier in the pass.
    Raises BadInputError where no hook point is known.

    >>> from steerlens.transforms import Clamp
    >>> steer(Clamp(directions["resid_post", 2], high=1.5), positions="generated")
    Steering(1 * clamp('direction', ..1.5) @ blocks.2.hook_resid_post[generated])
    """
    each = list(transform) if isinstance(transform, Sequence) else [transform]
    for given in each:
        if not isinstance(given, Transform):
            raise BadInputError(
                f"{given!r} is no transform. Use one of steerlens.transforms: Add(direction), "
                "Function(f), ..."
            )
    return _steering(each, coeff, positions, gate, hook_name, reads)


def _steering(
    transforms: Sequence[Transform],
    coeff: Coeff,
    positions: Positions,
    gate: Value,
    hook_name: str | None = None,
    reads: str | None = None,
) -> Steering:
    where, when = selector(positions), signal(gate)
    _check_layers(coeff, [hook_name or each.hook_name for each in transforms])

    def one(transform: Transform) -> Intervention:
        place = hook_name or transform.hook_name
        if place is None:
            raise BadInputError(f"{transform!r} knows no hook point: give hook_name=...")
        return Intervention(place, transform, where, _at_layer(coeff, place), when, reads)

    return together([one(transform) for transform in transforms])


def _check_layers(coeff: Coeff, places: Sequence[str | None]) -> None:
    """Raise BadInputError unless coefficients a layer are for the layers that are steered."""
    if not isinstance(coeff, Mapping):
        return
    layers = [layer_of(place) for place in places if place is not None]
    if set(coeff) != set(layers):
        raise BadInputError(
            f"Coefficients are given for layers {', '.join(map(str, coeff))}, and what is steered "
            f"is at {', '.join(map(str, layers))}. Give one for each layer, or fewer directions: "
            "[directions['resid_post', 3], directions['resid_post', 4]]."
        )


def _at_layer(coeff: Coeff, hook_name: str) -> Signal:
    """The coefficient of one layer, where there is one a layer."""
    if not isinstance(coeff, Mapping):
        return signal(coeff)
    layer = layer_of(hook_name)
    assert layer is not None
    return signal(coeff[layer])


def _listed(directions: Direction | Directions | Sequence[Direction]) -> list[Direction]:
    if isinstance(directions, Direction):
        return [directions]
    if isinstance(directions, Basis):
        raise BadInputError(
            f"{directions!r} is several directions: add one sum of them, basis.compose(weights)."
        )
    listed = list(directions.values()) if isinstance(directions, Directions) else directions
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(isinstance(each, Direction) for each in listed)
    ):
        raise BadInputError(
            "Give a Direction, Directions, a list of one or more, or, to ablate, a Basis; got "
            f"{repr(directions)[:60]}. A vector becomes one by Direction(hook_name, vector)."
        )
    return list(listed)
