"""What a model predicts, under a steering at every coefficient, as rows of one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.host import Host, device_of
from steerlens.passes import logits_at, telling
from steerlens.prefixes import Prefix, shared_parts
from steerlens.rows import Family
from steerlens.steering import Steering, check_steering, under
from steerlens.text import Batch, Encoded, batches, pad

Prediction = tuple[int, Float[Tensor, "coeff _token vocab"]]
"""Which context, and the log-probabilities of its completion's tokens and of the one after."""


def predictions(
    model: Host,
    steering: Steering | Family | None,
    contexts: Sequence[Encoded],
    coeffs: Sequence[float],
    room: int,
) -> Iterator[Prediction]:
    """What is predicted in each context, prompts that several share computed once."""
    parts = shared_parts(model, contexts, room, len(coeffs))
    if parts is not None:
        for part in parts:
            for place, found in _branches(model, steering, contexts, part, coeffs):
                yield place, found.expand(len(coeffs), -1, -1)
        return
    for rows, batch in batches(model, contexts, batch_tokens=room, device=device_of(model)):
        predicting = scored_at(batch, ahead=1)
        found = steered_log_probs(model, steering, coeffs, batch, predicting)
        yield from zip(rows, torch.split(found, predicting.sum(1).tolist(), dim=1), strict=True)


def _branches(
    model: Host,
    steering: Steering | Family | None,
    contexts: Sequence[Encoded],
    groups: Sequence[Sequence[int]],
    coeffs: Sequence[float],
) -> list[Prediction]:
    """What is predicted in contexts that go on from prompts of one length, a group each."""
    device, times = device_of(model), 1 if steering is None else len(coeffs)
    prompts = [contexts[group[0]] for group in groups]
    length = prompts[0].prompt_length
    rows = torch.tensor([each.tokens[:length] for each in prompts], device=device)
    found: list[Prediction] = []
    with _rows_on(model, steering, coeffs, len(rows)):
        prefix = Prefix(model, rows.repeat(times, 1))
        first = _by_coeff(prefix.last, times)
        for branch in zip_longest(*groups):
            tails = [() if at is None else contexts[at].tokens[length:] for at in branch]
            after = first[:, :0]
            if any(tails):
                more = pad(model, [Encoded(tail, 0) for tail in tails], device)
                ends = more.real.sum(1).repeat(times)
                after = _by_coeff(prefix.then(more.tokens.repeat(times, 1), ends), times)
            parts = torch.split(after, [len(tail) for tail in tails], dim=1)
            for row, (at, part) in enumerate(zip(branch, parts, strict=True)):
                if at is not None:
                    found.append((at, torch.cat([first[:, row : row + 1], part], 1)))
    return found


def steered_log_probs(
    model: Host,
    steering: Steering | Family | None,
    coeffs: Sequence[float],
    batch: Batch,
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "coeff scored vocab"]:
    """Log-probabilities at the positions of a mask, all coefficients as rows of one pass."""
    if steering is None:
        return log_probs_at(model, batch, mask).expand(len(coeffs), -1, -1)
    with _rows_on(model, steering, coeffs, len(batch.tokens)):
        found = log_probs_at(model, repeated(batch, len(coeffs)), mask.repeat(len(coeffs), 1))
    return found.reshape(len(coeffs), -1, found.shape[1])


@contextmanager
def _rows_on(
    model: Host, steering: Steering | Family | None, coeffs: Sequence[float], rows: int
) -> Iterator[None]:
    """Have the steering on in a batch whose rows are repeated for every coefficient in turn."""
    if steering is None:
        yield
        return
    scale = torch.as_tensor(coeffs).repeat_interleave(rows)
    if isinstance(steering, Family):
        _check_members(steering, coeffs)
        steering = steering.over(rows)
    check_steering(steering)
    with under(steering * scale, model):
        yield


def _check_members(family: Family, coeffs: Sequence[float]) -> None:
    """Raise BadInputError unless there is a coefficient for each member."""
    if len(coeffs) != family.size:
        raise BadInputError(
            f"{len(coeffs)} coefficients are given for {family.size} steerings. Give one each."
        )


def log_probs_at(
    model: Host, batch: Batch, mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocab"]:
    """Log-probabilities at the positions of a mask, row after row."""
    with torch.no_grad(), telling(model, batch):
        return _log_softmax(logits_at(model, batch.tokens, mask))


def _by_coeff(
    logits: Float[Tensor, "coeff_token vocab"], times: int
) -> Float[Tensor, "coeff token vocab"]:
    return _log_softmax(logits).reshape(times, -1, logits.shape[-1])


def _log_softmax(logits: Float[Tensor, "token vocab"]) -> Float[Tensor, "token vocab"]:
    return torch.log_softmax(logits.float(), dim=-1)


def scored_at(batch: Batch, ahead: int = 0) -> Bool[Tensor, "batch pos"]:
    """The positions that predict a completion's tokens, and `ahead` more past its end."""
    index = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    last = batch.real.sum(1, keepdim=True) - 1 + ahead
    return (index >= batch.prompt_lengths[:, None] - 1) & (index < last)


def repeated(batch: Batch, times: int) -> Batch:
    """Return the rows of a batch several times over."""
    return Batch(
        batch.tokens.repeat(times, 1),
        batch.real.repeat(times, 1),
        batch.prompt_lengths.repeat(times),
    )
