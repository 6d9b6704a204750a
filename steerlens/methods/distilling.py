"""Fitting a router's network: from activations and their labels to the labels' weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.signals.routed import Head, Network, headed

Layer = tuple[Tensor, Tensor]
"""A matrix (after, before) and a bias (after)."""


@dataclass(frozen=True)
class Learning:
    """How a network is fitted: Adam over all activations at once."""

    steps: int = 300
    lr: float = 0.02
    decay: float = 1e-2
    """Penalty on the mean square of each layer's matrix, for inputs of unit spread."""

    def __post_init__(self) -> None:
        """Raise BadInputError on numbers that cannot be."""
        if self.steps < 1 or not self.lr > 0 or not self.decay >= 0:
            raise BadInputError("Learning takes a step or more, lr above 0, decay 0 or more.")


def fitted(
    x: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    table: Float[Tensor, "label k"],
    head: Head = "softmax",
    hidden: int | None = None,
    learning: Learning = Learning(),
    seed: int = 0,
) -> Network:
    """Return the network that sends activations to their labels' weights.

    Activations are brought to mean 0 and spread 1, and weights to at most 1; both are folded into
    the network. Exact by the seed.

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [-2.0, 0.0]])
    >>> network = fitted(x, torch.tensor([0, 1, 0, 1]), torch.tensor([[3.0], [-1.0]]))
    >>> network.weights(x).round().flatten()
    tensor([ 3., -1.,  3., -1.])
    """
    k = table.shape[1]
    outputs = {"softmax": len(table), "linear": k, "gated": 2 * k}[head]
    mean, spread = x.mean(0), x.std(0)
    spread = torch.where(spread > 1e-6 * spread.max(), spread, 1.0)
    inputs = (x - mean) / spread
    wanted = table[labels]
    scale = float(wanted.abs().max().clamp_min(1e-6))
    # A caller's no_grad must not stop the fit, and inference_mode must not spoil it.
    with torch.inference_mode(False), torch.enable_grad():
        layers = _start([x.shape[1], *([hidden] if hidden else []), outputs], seed)
        inputs, wanted = inputs.clone(), wanted.clone() / scale
        parameters = [each.requires_grad_() for layer in layers for each in layer]
        optimizer = torch.optim.Adam(parameters, lr=learning.lr)
        for _ in range(learning.steps):
            loss = _loss(_forward(inputs, layers), wanted, labels, head)
            decay = sum(weight.square().sum(1).mean() for weight, _ in layers)
            optimizer.zero_grad()
            torch.autograd.backward(loss + learning.decay * decay)
            optimizer.step()
    layers = [(weight.detach(), bias.detach()) for weight, bias in layers]
    return _folded(layers, mean, spread, scale, table, head)


def nearest_label(
    weights: Float[Tensor, "n k"], table: Float[Tensor, "label k"]
) -> Int[Tensor, " n"]:
    """Return the label whose weights lie nearest to each row's.

    >>> nearest_label(torch.tensor([[0.9], [-5.0]]), torch.tensor([[1.0], [-1.0]]))
    tensor([0, 1])
    """
    return torch.cdist(weights.double(), table.double()).argmin(1)


def split(
    labels: Int[Tensor, " n"], held_out: float, seed: int
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " held"]]:
    """Return the places that are kept, and those held out: a share of each label's, one left.

    >>> [len(part) for part in split(torch.tensor([0] * 8 + [1] * 4), 0.25, seed=0)]
    [9, 3]
    """
    dice = torch.Generator().manual_seed(seed)
    kept, held = [], []
    for label in sorted(set(labels.tolist())):
        places = (labels == label).nonzero().flatten()
        places = places[torch.randperm(len(places), generator=dice)]
        out = min(round(held_out * len(places)), len(places) - 1)
        held.append(places[:out])
        kept.append(places[out:])
    return torch.cat(kept), torch.cat(held)


def _start(sizes: list[int], seed: int) -> list[Layer]:
    """Random layers, the last one zero: at first every input has the same weights."""
    dice = torch.Generator().manual_seed(seed)
    layers = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        matrix = torch.randn(after, before, generator=dice) * before**-0.5
        layers.append((torch.zeros_like(matrix) if last else matrix, torch.zeros(after)))
    return layers


def _forward(x: Float[Tensor, "n d"], layers: list[Layer]) -> Float[Tensor, "n z"]:
    for weight, bias in layers[:-1]:
        x = torch.tanh(x @ weight.T + bias)
    weight, bias = layers[-1]
    return x @ weight.T + bias


def _loss(
    z: Float[Tensor, "n z"], wanted: Float[Tensor, "n k"], labels: Int[Tensor, " n"], head: Head
) -> Float[Tensor, ""]:
    """Cross-entropy of the labels, or squares of the weights; of gates, whether any is wanted."""
    if head == "softmax":
        return torch.nn.functional.cross_entropy(z, labels)
    loss = (headed(z, head, None) - wanted).square().mean()
    if head == "gated":
        on = (wanted != 0).float()
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(z.chunk(2, -1)[0], on)
    return loss


def _folded(
    layers: list[Layer],
    mean: Float[Tensor, " d"],
    spread: Float[Tensor, " d"],
    scale: float,
    table: Float[Tensor, "label k"],
    head: Head,
) -> Network:
    """The network on activations and weights as they are."""
    weight, bias = layers[0]
    first = weight / spread
    layers = [(first, bias - first @ mean), *layers[1:]]
    out, shift = layers[-1]
    if head != "softmax":
        factor = torch.full((len(out),), scale)
        if head == "gated":
            factor[: len(out) // 2] = 1.0
        out, shift = factor[:, None] * out, factor * shift
    inner, inner_bias = layers[0] if len(layers) == 2 else (None, None)
    return Network(out, shift, inner, inner_bias, table if head == "softmax" else None, head)
