"""Edits that take a direction away: ThinkEdit's projection, and every writer orthogonalised."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.attribution.aims import aims
from steerlens.components import Components, components
from steerlens.contrast import Contrast
from steerlens.directions import Direction, Directions
from steerlens.editing.candidates import candidates
from steerlens.editing.factors import Embeddings, Factors, Place
from steerlens.editing.value import Edit
from steerlens.editing.weights import writable
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.provenance import provenance


def thinkedit(
    model: Host,
    contrast: Contrast,
    direction: Direction | Directions | None = None,
    *,
    share: float = 0.04,
    strength: float = 1.0,
    **reading: Any,
) -> Edit:
    """Take the direction out of the heads that write most against it.

    The `share` of all heads with the largest -v·W μ, what the mean output writes against v, get
    W_O -= strength · (W_O v) vᵀ: what they write along v, either way, is gone. Behind a norm with
    gain γ, v is γ ⊙ û: what arrives along the direction û is what is written along that. Source:
    ThinkEdit (its code). Reconstructed: means are of both sides, each layer has its own direction,
    and the form in front of norms. `reading` is as `candidates` has it, but for `through`.

    Raises BadInputError on a share outside 0 to 1, or as `candidates`. Cost: a pass an item.

    >>> thinkedit(model, contrast, progress=False)
    Edit('mean difference', thinkedit, 2 of 48 heads...)
    """
    if not 0 < share <= 1:
        raise BadInputError(f"ThinkEdit takes a share of the heads, from 0 to 1; got {share}.")
    found = candidates(model, contrast, direction, blocks=("attn",), through="steepest", **reading)
    parts = components(model)
    against = torch.cat([-each.importance * each.outputs for each in found.blocks])
    chosen = torch.zeros_like(against)
    most = against.argsort(descending=True, stable=True)[: max(1, round(share * len(against)))]
    chosen[most] = strength
    shares = torch.split(chosen, [len(each.importance) for each in found.blocks])
    made = [
        removed(parts, each.place, each.writes, each.toward, amount)
        for each, amount in zip(found.blocks, shares, strict=True)
    ]
    return found.edit("thinkedit", made)


def orthogonalise(model: Host, direction: Direction, share: float = 1.0) -> Edit:
    """Take a direction of the stream out of everything that writes to it.

    Embeddings, every head and neuron, and the biases of attention and MLPs lose their component
    along û: W - share (W û) ûᵀ. Where a norm with gain γ follows the block, γ ⊙ û is taken out in
    front of it, and nothing along û arrives (û itself would not do: measured). The bias of such a
    norm cannot be taken out by these weights, and is an error where it has any along û. Source:
    Arditi et al. (arXiv 2406.11717), weight orthogonalisation; the form in front of norms is ours.

    Raises BadInputError on a direction that is none of the stream, a share outside 0 to 1,
    embeddings with a norm of their own, a quantised weight, or a mixture of experts. Cost: no pass;
    all W_out once.

    >>> orthogonalise(model, directions["resid_post", 2])
    Edit('direction', orthogonalise, 48 heads, 2304 neurons, embeddings, |λ| ...)
    """
    if not isinstance(direction, Direction):
        raise BadInputError(
            f"One direction is taken out everywhere; got {type(direction).__name__}. Choose one: "
            "directions['resid_post', layer]."
        )
    layers = range(int(model.cfg.n_layers))
    places: list[Place] = [(n, block) for n in layers for block in ("attn", "mlp")]
    for place in places:
        writable(model, *place)
    parts = components(model)
    for name in ("ln", "LayerNorm", "embed_ln"):
        if hasattr(getattr(model, "embed", None), name) or hasattr(model, name):
            raise BadInputError(
                f"This model's embeddings pass a norm ({name!r}) before the stream, so a direction "
                "cannot be taken out of their weights. Ablate it by hooks: sl.ablate(...)."
            )
    unit = aims(parts, direction, places)[places[0]].cpu()
    made = []
    for place in places:
        after = parts.after(*place)
        norm = None if after is None else after.cpu()
        if norm is not None and float((norm.bias @ unit).abs()) > 1e-6:
            raise BadInputError(
                f"The norm after {place[1]!r} of layer {place[0]} adds a bias along the direction, "
                "which no edit of the block takes out. Ablate it by hooks: sl.ablate(...)."
            )
        seen = unit if norm is None else torch.nn.functional.normalize(norm.pulled(unit), dim=0)
        made.append(removed(parts, place, seen, unit, share, bias=True))
    return Edit(
        tuple(each for each in made if each is not None),
        embeddings=Embeddings(unit, share),
        name=direction.name,
        maker="orthogonalise",
        reasons=dict.fromkeys(places, "it writes nothing along the direction"),
        provenance=provenance(model),
    )


def removed(
    parts: Components,
    place: Place,
    v: Float[Tensor, " d_model"],
    toward: Float[Tensor, " d_model"],
    share: Float[Tensor, " unit"] | float,
    *,
    bias: bool = False,
) -> Factors | None:
    """Return W - share (W v) vᵀ as factors, of the block's components whose share is not 0.

    With `bias` the block's bias loses as much. None where nothing changes.
    """
    layer, block = place
    weights = parts.writers(layer, block).cpu()
    seen = weights @ v
    reads = seen if block == "attn" else seen[:, None]
    length = reads.norm(dim=-1)
    amount = torch.as_tensor(share).expand(len(weights)) * length
    units = amount.nonzero().flatten()
    own = parts.bias(layer, block)
    constant = -float(own.cpu() @ v) * float(share) if bias and isinstance(own, Tensor) else 0.0
    if not len(units) and not constant:
        return None
    return Factors(
        place,
        len(weights),
        units,
        -amount[units],
        reads[units] / length[units, None],
        v,
        toward,
        bias=constant,
        norm=parts.norm_name(layer, block),
    )
