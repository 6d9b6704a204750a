"""Fixed gates and offsets of heads, folded into the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.editing.factors import Gates
from steerlens.editing.value import Edit
from steerlens.editing.weights import writable
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.provenance import provenance


def fold_gates(
    model: Host,
    gains: Mapping[int, Float[Tensor, "head #d_head"]] | None = None,
    offsets: Mapping[int, Float[Tensor, "head d_head"]] | None = None,
    *,
    name: str = "gates",
) -> Edit:
    """Return the edit that does in the weights what z' = gain * z + offset does at `z`.

    `gains` and `offsets` are by layer, a row a head; a gain may be one number a head, shape
    (head, 1). W_O becomes diag(gain) W_O, and b_O gets offset @ W_O. Source: the fixed gates of
    JoLA (arXiv 2502.01179): gain = 1 + g2 A, offset = g1 v; how to learn them is not here.

    Raises BadInputError on a layer that the model lacks or another shape; an offset on a model
    whose attention has no b_O is an error when the weights are edited. Cost: none.

    >>> fold_gates(model, gains={2: torch.tensor([[0.0]] + [[1.0]] * 7)})
    Edit('gates', fold_gates, 1 gated head)
    """
    gains, offsets = dict(gains or {}), dict(offsets or {})
    if not gains and not offsets:
        raise BadInputError("Give gains, offsets or both, by layer: gains={3: tensor}.")
    made = []
    for layer in sorted({*gains, *offsets}):
        heads, d_head = writable(model, layer, "attn").shape[:2]
        gain = gains.get(layer, torch.ones(heads, 1))
        offset = offsets.get(layer, torch.zeros(heads, 1))
        for each in (gain, offset):
            fits = isinstance(each, Tensor) and each.shape in ((heads, d_head), (heads, 1))
            if not fits:
                raise BadInputError(
                    f"Gains and offsets of layer {layer} are tensors (head, d_head), here "
                    f"{(heads, d_head)}, or one number a head, (head, 1)."
                )
        whole = [each.detach().float().cpu().expand(heads, d_head) for each in (gain, offset)]
        made.append(Gates(layer, *(each.clone() for each in whole)))
    return Edit((), gates=tuple(made), name=name, maker="fold_gates", provenance=provenance(model))
