"""What a steering changes in each component, whatever that does to the logits: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.effects.reading import Reading


@dataclass(frozen=True, eq=False)
class Responses:
    """What changed at each scored token, whatever it does to the logits."""

    stream: Float[Tensor, "n layer"]
    """Norm of the change of the stream, as a share of its norm."""
    cosine: Float[Tensor, "n layer"]
    """Cosine of that change with the direction; NaN where nothing was written, which no mean
    over tokens counts."""
    share: Float[Tensor, "n layer"]
    """Share of its square that still lies along the direction."""
    z: Float[Tensor, "n layer head"]
    """Norm of the change of each head's z, as a share of z's."""
    pattern: Float[Tensor, "n layer head"]
    """Attention that went to other tokens: half the sum of |change|, from 0 to 1."""
    to_steered: Float[Tensor, "n layer head"]
    """Change of the attention on tokens that the steering wrote at."""
    to_first: Float[Tensor, "n layer head"]
    """Change of the attention on the first token."""
    mlp: Float[Tensor, "n layer"]
    """Norm of the change of what each MLP puts out, as a share of its norm."""
    neurons: Float[Tensor, "n layer neuron"] | None
    """Absolute change of each neuron's activation."""


def responses(
    base: Reading,
    steered: Reading,
    rows: Int[Tensor, " n"],
    direction: Mapping[int, Tensor] | None = None,
) -> Responses:
    """Return what changed; `rows` is the row of the batch that each scored token belongs to.

    `direction` gives a vector of the stream by layer; by default it is, at each token, all that
    the steering wrote there up to that layer.
    """
    gaps = torch.stack([b - a for a, b in zip(base.stream, steered.stream, strict=True)], dim=1)
    whole = torch.stack(base.stream, dim=1)
    aims = _aims(steered, gaps, direction)
    length = gaps.norm(dim=-1)
    inner = (gaps * aims).sum(-1) / aims.norm(dim=-1)  # NaN where there is nothing to compare
    attention = [
        _attention(a, b, _touched(steered, rows))
        for a, b in zip(base.patterns, steered.patterns, strict=True)
    ]
    pattern, to_steered, to_first = (torch.stack(each, 1) for each in zip(*attention, strict=True))
    neurons = None
    if base.post:
        pairs = zip(base.post, steered.post, strict=True)
        neurons = torch.stack([(b - a).abs() for a, b in pairs], dim=1)
    return Responses(
        stream=length / whole.norm(dim=-1).clamp_min(1e-12),
        cosine=inner / length.clamp_min(1e-12),
        share=(inner / length.clamp_min(1e-12)) ** 2,
        z=_share_moved(base.z, steered.z),
        pattern=pattern,
        to_steered=to_steered,
        to_first=to_first,
        mlp=_share_moved(base.mlp, steered.mlp),
        neurons=neurons,
    )


def _attention(
    base: Float[Tensor, "n head key"],
    steered: Float[Tensor, "n head key"],
    touched: Float[Tensor, "n key"],
) -> tuple[Float[Tensor, "n head"], ...]:
    """What moved in a layer's patterns; a layer at a time, as patterns are the largest readings."""
    gap = steered - base
    return gap.abs().sum(-1) / 2, einsum(gap, touched, "n head key, n key -> n head"), gap[..., 0]


def _touched(steered: Reading, rows: Int[Tensor, " n"]) -> Float[Tensor, "n key"]:
    """1 at tokens that the steering wrote at, in the row of each scored token."""
    if steered.touched is None:
        return steered.patterns[0].new_zeros(len(rows), steered.patterns[0].shape[-1])
    return steered.touched.to(rows.device)[rows].to(steered.patterns[0])


def _share_moved(
    base: Sequence[Float[Tensor, "n *unit"]], steered: Sequence[Float[Tensor, "n *unit"]]
) -> Float[Tensor, "n layer *head"]:
    """The norm of the change in each layer, as a share of the norm."""
    pairs = zip(base, steered, strict=True)
    shares = [(b - a).norm(dim=-1) / a.norm(dim=-1).clamp_min(1e-12) for a, b in pairs]
    return torch.stack(shares, dim=1)


def _aims(
    steered: Reading, gaps: Float[Tensor, "n layer d_model"], direction: Mapping[int, Tensor] | None
) -> Float[Tensor, "n layer d_model"]:
    if direction is not None:
        given = [direction[layer].to(gaps) for layer in range(gaps.shape[1])]
        return torch.stack(given).expand_as(gaps)
    aims = torch.zeros_like(gaps)
    for name, each in steered.written.items():
        layer = int(name.split(".")[1])
        aims[:, layer:] += each[:, None]
    return aims
