"""The prior subspace of a domain: named concept directions over layers, fitted once and reused.

For each concept i and layer l, v_i = mean(h | positive) - mean(h | negative), read as `read` says;
stacked they are V (d, k), one basis with labels, saved and loaded like any other
(`sl.save(basis, path)`). Source: Steer2Adapt (arXiv 2602.07276), its section 3.2.1.

Lengths decide what a weight means. `norm="stream"` makes every vector a share of the stream's mean
norm at its layer (the tokens read, BOS left out), `raw` keeps the distance between the means, and
`unit` makes lengths 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.basis import Basis
from steerlens.cards import number
from steerlens.contrast import Contrast
from steerlens.directions import Direction, Directions, find_directions
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.host import Host
from steerlens.names import hook_name
from steerlens.positions import Positions

Norm = Literal["stream", "raw", "unit"]
PAPER = range(8, 25, 2)
"""The layers of the paper, of 32."""


def prior(
    model: Host,
    contrasts: Mapping[str, Contrast],
    layers: Sequence[int] | None = None,
    *,
    norm: Norm = "stream",
    share: float = 0.05,
    from_layer: int | None = None,
    site: str = "resid_post",
    read: Positions | None = None,
    name: str = "prior",
    progress: bool = True,
) -> Basis:
    """Return the basis of a domain's concepts, a vector each at every layer.

    - `contrasts`: the two sides of each concept, by its name.
    - `layers`: where; by default as deep as the paper's 8, 10, ..., 24 of 32.
    - `norm`, `share`: lengths, as told above; `share` is of the stream's norm.
    - `from_layer`: take each concept's vector from one layer, and use it at all of them.
    - `read`: where sides are read; by default the completion, or an item's last token.

    Raises UnknownNameError on another norm, BadInputError on no concepts, and as `find_directions`.
    Cost: one forward pass an item.

    >>> basis = prior(model, {"good": contrast}, layers=[1, 2], progress=False)
    >>> basis
    Basis('prior', 1 vector at 2 hook points, d=128: good)
    """
    if norm not in get_args(Norm):
        raise UnknownNameError(f"There is no norm {norm!r}; {nearest(norm, get_args(Norm))}.")
    if not isinstance(contrasts, Mapping) or not contrasts or not 0 < share < float("inf"):
        raise BadInputError(
            "A prior needs a concept or more by name, {name: Contrast(...)}, and a share above 0; "
            f"got {str(contrasts)[:60]!r} and {share}."
        )
    chosen = default_layers(model.cfg.n_layers) if layers is None else list(layers)
    hooks = [hook_name(site, layer) for layer in chosen]
    source = hook_name(site, from_layer) if from_layer is not None else None
    wanted = list(dict.fromkeys([*hooks, source] if source else hooks))
    found: dict[str, Directions] = {}
    for concept, contrast in tqdm(contrasts.items(), desc="concepts", disable=not progress):
        found[concept] = _read(model, contrast, wanted, read, concept)
    norms = {hook: _mean_norm([each[hook] for each in found.values()]) for hook in hooks}

    def at(directions: Directions, hook: str) -> Direction:
        taken = replace(directions[source or hook], hook_name=hook)
        length = {"stream": share * norms[hook], "unit": 1.0}.get(norm, taken.norm)
        return replace(taken, vector=taken.vector * (length / taken.norm))

    scaled = {c: Directions({h: at(each, h) for h in hooks}) for c, each in found.items()}
    basis = Basis.of(scaled, name)
    told = f"{number(share)} of the stream" if norm == "stream" else norm
    about = dict(next(iter(next(iter(found.values())).values())).provenance)
    about = {key: about[key] for key in about if key != "data"} | {"norm": told}
    return replace(basis, provenance={**about, "concepts": ", ".join(contrasts)})


def _read(
    model: Host, contrast: Contrast, hooks: Sequence[str], read: Positions | None, concept: str
) -> Directions:
    """A concept's directions. Raises BadInputError where its sides read the same."""
    found = find_directions(
        model,
        contrast,
        hook_names=hooks,
        positions=read,
        name=concept,
        quality=False,
        progress=False,
    )
    missing = [hook for hook in hooks if hook not in found]
    if missing:
        raise BadInputError(
            f"The sides of {concept!r} read the same at {', '.join(missing)}. Read where they "
            "differ: read=..."
        )
    return found


def default_layers(n_layers: int) -> list[int]:
    """Return the layers as deep in a model as the paper's are in 32.

    >>> default_layers(32), default_layers(6)
    ([8, 10, 12, 14, 16, 18, 20, 22, 24], [2, 3, 4])
    """
    return sorted({min(n_layers - 1, round(layer * n_layers / 32)) for layer in PAPER})


def correlation(basis: Basis) -> Float[Tensor, "k k"]:
    """Return the cosine of each concept with each other, a mean over the hook points.

    >>> basis = Basis({"hook_embed": torch.tensor([[1.0, 0.0], [3.0, 3.0]])})
    >>> correlation(basis)
    tensor([[1.0000, 0.7071],
            [0.7071, 1.0000]])
    """
    return torch.stack([part.cosines() for part in basis.parts()]).mean(0)


def principal_angles(basis: Basis, other: Basis) -> dict[str, Float64[Tensor, " least"]]:
    """Return the angles between two priors' spans at each hook point that both have, in radians.

    Smallest first: 0 is a direction in common. Raises BadInputError where they share no hook point.

    >>> e = torch.eye(3)
    >>> principal_angles(Basis({"hook_embed": e[:2]}), Basis({"hook_embed": e[2:]}))
    {'hook_embed': tensor([1.5708], dtype=torch.float64)}
    """
    shared = [hook for hook in basis.vectors if hook in other.vectors]
    if not shared:
        raise BadInputError(
            f"{basis.name!r} and {other.name!r} share no hook point: {', '.join(basis.vectors)}; "
            f"{', '.join(other.vectors)}."
        )
    return {hook: basis.at(hook).principal_angles(other.at(hook)) for hook in shared}


def _mean_norm(directions: Sequence[Direction]) -> float:
    """The mean norm of the stream in which some directions were found."""
    norms = [each.stream_norm for each in directions if each.stream_norm is not None]
    return sum(norms) / len(norms)
