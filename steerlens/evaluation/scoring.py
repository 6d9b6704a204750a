"""Scores of (prompt, completion) items: log-probability, and divergence from the base model.

Items tell where the prompt ends, so every position selector means here what it means in
`generate`. A completion's token is scored by the position before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import kl_div

from steerlens.errors import BadInputError
from steerlens.host import Host, device_of
from steerlens.passes import telling
from steerlens.running import running
from steerlens.steering import Steering
from steerlens.text import Batch, Item, batches, encode


def log_probability(
    model: Host, items: Sequence[Item], *, batch_tokens: int = 2048
) -> Float[Tensor, " item"]:
    """Return the mean log-probability, in nats a token, of each item's completion.

    Runs under whatever steering is on. Cost: one forward pass an item.
    """
    values = torch.zeros(len(items))
    for rows, batch in _batches(model, items, batch_tokens):
        scored = _scored(batch)
        logps = _log_probs(model, batch, scored)
        chosen = batch.tokens[:, 1:][scored[:, :-1]]
        values[rows] = _row_means(logps.gather(1, chosen[:, None]).squeeze(1), scored).cpu()
    return values


def perplexity(model: Host, items: Sequence[Item], *, batch_tokens: int = 2048) -> float:
    """Return the perplexity of the completions, each item weighing the same."""
    return float((-log_probability(model, items, batch_tokens=batch_tokens)).mean().exp())


def divergence(
    model: Host,
    steering: Steering,
    items: Sequence[Item],
    coeffs: Sequence[float] = (1.0,),
    *,
    batch_tokens: int = 2048,
) -> Float[Tensor, "coeff item"]:
    """Return KL(base || steered) in nats, mean over each item's completion tokens.

    Every coefficient multiplies the steering; all run as rows of one steered pass. Give base
    completions as items to price a steering where the base model would have gone. Cost: one
    forward pass an item, and one more for each coefficient.
    """
    values = torch.zeros(len(coeffs), len(items))
    for rows, batch in _batches(model, items, max(1, batch_tokens // len(coeffs))):
        scored = _scored(batch)
        base = _log_probs(model, batch, scored)
        repeated = _repeated(batch, len(coeffs))
        scale = torch.tensor(coeffs).repeat_interleave(len(rows))
        with running((steering * scale).expression, model, may_miss=True):
            steered = _log_probs(model, repeated, scored.repeat(len(coeffs), 1))
        for i, part in enumerate(steered.chunk(len(coeffs))):
            nats = kl_div(part, base, reduction="none", log_target=True).sum(-1)
            values[i, rows] = _row_means(nats, scored).cpu()
    return values


def _batches(
    model: Host, items: Sequence[Item], batch_tokens: int
) -> Iterator[tuple[list[int], Batch]]:
    if not items:
        raise BadInputError("There are no items to score.")
    encoded = [encode(model, item) for item in items]
    for number, item in enumerate(encoded):
        if len(item.tokens) == item.prompt_length:
            raise BadInputError(
                f"Item {number} has no completion to score. Give (prompt, completion) items."
            )
    return batches(model, encoded, batch_tokens=batch_tokens, device=device_of(model))


def _log_probs(
    model: Host, batch: Batch, mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocab"]:
    """Log-probabilities at the positions of a mask, row after row."""
    with torch.no_grad(), telling(model, batch):
        return torch.log_softmax(model(batch.tokens)[mask].float(), dim=-1)


def _scored(batch: Batch) -> Bool[Tensor, "batch pos"]:
    """The positions that predict a completion's tokens."""
    index = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    last = batch.real.sum(1, keepdim=True) - 1
    return (index >= batch.prompt_lengths[:, None] - 1) & (index < last)


def _row_means(
    values: Float[Tensor, " scored"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """The mean of each row's values, given row after row."""
    counts = mask.sum(1)
    rows = torch.repeat_interleave(torch.arange(len(mask), device=mask.device), counts)
    sums = torch.zeros(len(mask), device=mask.device).index_add_(0, rows, values)
    return sums / counts


def _repeated(batch: Batch, times: int) -> Batch:
    return Batch(
        batch.tokens.repeat(times, 1),
        batch.real.repeat(times, 1),
        batch.prompt_lengths.repeat(times),
    )
