"""What a component writes along a direction, as functions of weights and of what goes in.

What goes in is z for a head and the activation for a neuron. Where a norm follows the block, the
component's output reaches the stream as gain * centre(output) * scale, with a scale for each
token: `scaled` inputs are those of each token times its scale, so that all here is linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from steerlens.components import Block, Components
from steerlens.moments import Moments
from steerlens.statistics import auc


@dataclass(frozen=True)
class Inputs:
    """What one side puts into the heads or neurons of a layer."""

    mean: Float[Tensor, " unit *d_head"]
    scaled: Moments
    examples: Float[Tensor, "item unit *d_head"]
    scaled_examples: Float[Tensor, "item unit *d_head"] | None
    """None for neurons where a norm follows: nothing needs them."""


@dataclass(frozen=True)
class Writers:
    """The weights of a layer's heads or neurons, before and after the norm that follows."""

    weights: Float[Tensor, " unit *d_head d_model"]
    """W_O or W_out."""
    stream: Float[Tensor, " unit *d_head d_model"]
    """The same as they reach the stream at a scale of 1."""
    direction: Float[Tensor, " d_model"]
    """The unit direction in the stream."""
    pulled: Float[Tensor, " d_model"]
    """What it reads at the block's own output, at a scale of 1."""

    @classmethod
    def of(
        cls, parts: Components, layer: int, block: Block, direction: Float[Tensor, " d_model"]
    ) -> Writers:
        """Read a layer's weights, on the CPU."""
        weights = parts.writers(layer, block)
        norm, pulled = parts.after(layer, block), direction.to(weights)
        stream = weights if norm is None else norm.gain * norm.centre(weights)
        pulled = pulled if norm is None else norm.pulled(pulled)
        return cls(weights.cpu(), stream.cpu(), direction, pulled.cpu())


def cosine(
    written: Float[Tensor, "*unit d_model"], direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "*unit"]:
    """Return the cosine of what is written with a direction; 0 where nothing is written."""
    lengths = _lengths(written) * direction.norm()
    cosines: Tensor = written @ direction / lengths.clamp_min(1e-30)
    return cosines.clamp(-1, 1)


def _lengths(written: Float[Tensor, "*unit d_model"]) -> Float[Tensor, "*unit"]:
    # W_out may be a transposed view, along whose last axis torch's norm is eight times as slow.
    return written.square().sum(-1).sqrt()


def head_importance(
    weights: Float[Tensor, "head d_head d_model"],
    mean: Float[Tensor, "head d_head"],
    direction: Float[Tensor, " d_model"],
) -> Float[Tensor, " head"]:
    """Return g = cos(v, W mu) of each head (Steer2Edit, arXiv 2602.09870).

    `direction` is one at the output projection, before any norm; `mean` is mu, half the sum of
    both sides' mean z.

    >>> g = head_importance(torch.eye(2)[None], torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0]))
    >>> round(g.item(), 4)
    0.6
    """
    written = einsum(mean, weights, "head d_head, head d_head d_model -> head d_model")
    return cosine(written, direction)


def neuron_importance(
    weights: Float[Tensor, "neuron d_model"],
    mean: Float[Tensor, " neuron"],
    direction: Float[Tensor, " d_model"],
) -> Float[Tensor, " neuron"]:
    """Return g = sign(mu) cos(v, w) of each neuron (Steer2Edit, arXiv 2602.09870).

    >>> weights, mean = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([-2.0, 5.0])
    >>> [round(g, 4) for g in neuron_importance(weights, mean, torch.tensor([1.0, 0])).tolist()]
    [-0.6, 0.0]
    """
    return mean.sign() * cosine(weights, direction)


def head_scores(writers: Writers, positive: Inputs, negative: Inputs) -> dict[str, Tensor]:
    """Return the scores of a layer's heads, by name, each (head)."""
    sides = [side.scaled_examples for side in (positive, negative)]
    x, y = (_there(each) for each in sides)
    readout = writers.stream @ writers.direction
    gap = einsum(
        _difference(positive, negative),
        writers.stream,
        "head d_head, head d_head d_model -> head d_model",
    ).norm(dim=-1)
    return {
        "contribution": (_difference(positive, negative) * readout).sum(-1),
        "mean_contribution": (_middle(positive, negative) * readout).sum(-1),
        "importance": head_importance(writers.weights, _mu(positive, negative), writers.pulled),
        "auc": auc((x * readout).sum(-1), (y * readout).sum(-1)),
        "gap": gap,
        "effect_size": gap / _head_spread(writers.stream, x, y),
    }


def neuron_scores(writers: Writers, positive: Inputs, negative: Inputs) -> dict[str, Tensor]:
    """Return the scores of a layer's neurons, by name, each (neuron)."""
    readout, difference = writers.stream @ writers.direction, _difference(positive, negative)
    variance = (_variance(positive.scaled) + _variance(negative.scaled)) / 2
    return {
        "contribution": difference * readout,
        "mean_contribution": _middle(positive, negative) * readout,
        "importance": neuron_importance(writers.weights, _mu(positive, negative), writers.pulled),
        "auc": auc(positive.examples, negative.examples),
        "gap": difference.abs() * _lengths(writers.stream),
        "effect_size": difference.abs() / variance.sqrt().float(),
    }


def _difference(positive: Inputs, negative: Inputs) -> Float[Tensor, " unit *d_head"]:
    return (positive.scaled.mean - negative.scaled.mean).float()


def _middle(positive: Inputs, negative: Inputs) -> Float[Tensor, " unit *d_head"]:
    return ((positive.scaled.mean + negative.scaled.mean) / 2).float()


def _mu(positive: Inputs, negative: Inputs) -> Float[Tensor, " unit *d_head"]:
    return ((positive.mean + negative.mean) / 2).float()


def _variance(moments: Moments) -> Float[Tensor, " neuron"]:
    """The unbiased variance; not a number for one item."""
    return moments.squares / (moments.count - 1) if moments.count > 1 else moments.mean * torch.nan


def _head_spread(
    stream: Float[Tensor, "head d_head d_model"],
    positive: Float[Tensor, "positive head d_head"],
    negative: Float[Tensor, "negative head d_head"],
) -> Float[Tensor, " head"]:
    """Root of the variance of each head's output, all entries summed, mean of both sides."""
    gram = einsum(stream, stream, "head a d_model, head b d_model -> head a b")

    def variance(z: Tensor) -> Tensor:
        gap = z - z.mean(0)
        squares = einsum(gap, gram, gap, "item head a, head a b, item head b -> head")
        return squares.clamp_min(0) / (len(z) - 1)

    return ((variance(positive) + variance(negative)) / 2).sqrt()


def _there(examples: Tensor | None) -> Tensor:
    assert examples is not None
    return examples
