"""A vector a layer: dictionaries and arrays, as most libraries keep them in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.interventions import Intervention
from steerlens.names import hook_name, split_name
from steerlens.positions import every_token
from steerlens.signals import Constant
from steerlens.steering import Steering
from steerlens.transforms import Add

_LAYER_TYPES = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}
"""steering-vectors' names of sites, and ours."""
Exported = Direction | Directions | Steering
"""What can be handed to a library that adds a vector a layer."""


def from_layers(vectors: Any, site: str | None = None, name: str = "imported") -> Directions:
    """Return the directions of vectors by layer, at a site of each layer.

    - `vectors`: {layer: vector}, as CAA and many scripts keep them; an array (layer, d);
      steering-vectors' `SteeringVector`; or repeng's `ControlVector`. Vectors are tensors, NumPy
      arrays or lists of numbers; layers count from 0.
    - `site`: where they live; by default the block's output, `resid_post`, or what the object says.
      Vectors by the index of Hugging Face's `hidden_states`, whose first is the embeddings, live
      at `resid_pre`.

    Raises BadInputError on anything else, on vectors that are not finite, and on a site of
    steering-vectors' that has no hook point here.

    >>> from_layers({1: [3.0, 4.0]}, name="joy")["resid_post", 1]
    Direction('joy', blocks.1.hook_resid_post, d=2, |v|=5)
    """
    by_layer, place, source = _by_layer(vectors)
    found = {}
    for layer, vector in by_layer.items():
        if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
            raise BadInputError(f"Layers are whole numbers from 0 on; got {layer!r}.")
        hook = hook_name(site or place, layer)
        found[hook] = Direction(hook, _vector(vector, layer), name=name, provenance=source)
    if not found:
        raise BadInputError("There is no vector at any layer.")
    return Directions(found)


def to_layers(value: Exported, site: str = "resid_post") -> dict[int, Float[Tensor, "*unit"]]:
    """Return what a value adds at each layer, {layer: vector}, for libraries that add and no more.

    - `value`: a direction or directions, as they are; or a steering that adds, times its
      coefficients.
    - `site`: where the other library adds; `resid_post` is a block's output. What is added at
      `resid_pre` is added at `resid_post` of the layer before.

    Raises BadInputError, naming the part, on all else that a steering may do: other transforms,
    gates, coefficients that are no number, other positions than every token, other sites.

    >>> to_layers(2 * sl.add(directions["resid_post", 1], positions="every_token")).keys()
    dict_keys([1])
    """
    found: dict[int, Tensor] = {}
    for place, vector in _added(value):
        layer = _layer_at(place, site)
        found[layer] = found[layer] + vector if layer in found else vector.clone()
    return dict(sorted(found.items()))


def _by_layer(vectors: Any) -> tuple[Mapping[Any, Any], str, dict[str, str]]:
    """Vectors by layer, the site that they are said to live at, and what is known of them."""
    if hasattr(vectors, "layer_activations"):
        kind = str(getattr(vectors, "layer_type", "decoder_block"))
        if kind not in _LAYER_TYPES:
            raise UnknownNameError(
                f"A layer type {kind!r} has no hook point here; {nearest(kind, _LAYER_TYPES)}. "
                "Give its layer_activations, and the site."
            )
        return vectors.layer_activations, _LAYER_TYPES[kind], {"format": "steering-vectors"}
    if hasattr(vectors, "directions") and hasattr(vectors, "model_type"):
        told = {"format": "repeng", "model_hint": str(vectors.model_type)}
        return vectors.directions, "resid_post", told
    if isinstance(vectors, Mapping):
        return vectors, "resid_post", {"format": "vectors by layer"}
    if getattr(vectors, "ndim", 0) >= 2:
        return dict(enumerate(vectors)), "resid_post", {"format": "vectors by layer"}
    raise BadInputError(
        f"{type(vectors).__name__} is no mapping from layers to vectors and no array (layer, d). "
        "One vector is Direction(hook_name, vector)."
    )


def _vector(vector: Any, layer: int) -> Float[Tensor, "*unit"]:
    try:
        own = torch.as_tensor(vector).detach().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInputError(f"What stands at layer {layer} is no vector: {error}.") from None
    own = own.squeeze(0) if own.ndim > 1 and len(own) == 1 else own
    if own.ndim not in (1, 2) or not own.numel():
        raise BadInputError(f"The vector at layer {layer} has shape {tuple(own.shape)}.")
    return own


def _added(value: Exported) -> list[tuple[str, Tensor]]:
    """What is added, and where. Raises BadInputError on a steering that does anything else."""
    if isinstance(value, Steering):
        return [(leaf.hook_name, _constant(leaf)) for leaf in value.interventions]
    if isinstance(value, Direction | Directions):
        held = [value] if isinstance(value, Direction) else value.values()
        return [(each.hook_name, each.vector) for each in held]
    raise BadInputError(
        f"A direction, directions or a steering that adds can be handed on; got "
        f"{type(value).__name__}. Of a basis take basis.compose(weights)."
    )


def _constant(leaf: Intervention) -> Tensor:
    """The vector that a part adds to every token."""
    whole = f"{leaf!r} cannot be handed on as a vector a layer, added to every token"
    if not isinstance(leaf.transform, Add) or leaf.reads is not None:
        raise BadInputError(f"{whole}: {leaf.transform!r} does more than add a vector.")
    factor = 1.0
    for noun, each in (("coefficient", leaf.coeff), ("gate", leaf.gate)):
        if not isinstance(each, Constant):
            raise BadInputError(f"{whole}: its {noun}, {each!r}, is no fixed number.")
        factor *= each.value
    if leaf.positions != every_token:
        raise BadInputError(
            f"{whole}: it writes at {leaf.positions!r}. If every token is meant, BOS too, take "
            'steering.where("every_token").'
        )
    return leaf.transform(torch.zeros(1, 1, *leaf.transform.unit_shape)) * factor


def _layer_at(place: str, site: str) -> int:
    here, layer = split_name(place)
    if site == "resid_post" and here == "resid_pre" and layer:
        return layer - 1
    if here != site or layer is None:
        raise BadInputError(
            f"{place!r} is no {site!r} of a layer, where the vectors are to be added. Move them by "
            f".at({site!r}, layer) if that is meant, or give another site."
        )
    return layer
