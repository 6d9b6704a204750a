"""Scores of (prompt, completion) items: log-probability, and divergence from the base model.

Items tell where the prompt ends, so every position selector means here what it means in
`generate`. A completion's token is scored by the position before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.evaluation.metrics import entropy, kl
from steerlens.evaluation.predicting import (
    log_probs_at,
    predictions,
    scored_at,
    steered_log_probs,
)
from steerlens.host import Host, check_model, device_of
from steerlens.rows import Family, check_coeffs
from steerlens.steering import Steering
from steerlens.text import Batch, Encoded, Item, batches, encode_all


def log_probability(
    model: Host, items: Iterable[Item], *, batch_tokens: int = 2048
) -> Float[Tensor, " item"]:
    """Return the mean log-probability, in nats a token, of each item's completion.

    Runs under whatever steering is on. Cost: one forward pass an item.

    >>> values = log_probability(model, [("a good day", " and a cat"), ("the cat", " is good")])
    >>> values.shape, bool((values < 0).all())
    (torch.Size([2]), True)
    """

    def logps(batch: Batch, scored: Bool[Tensor, "batch pos"]) -> Float[Tensor, "1 scored"]:
        chosen = batch.tokens[:, 1:][scored[:, :-1]]
        return log_probs_at(model, batch, scored).gather(1, chosen[:, None]).T

    each = _by_token(model, items, (1.0,), batch_tokens, logps)
    return torch.cat([values.mean(1) for values in each])


def perplexity(model: Host, items: Iterable[Item], *, batch_tokens: int = 2048) -> float:
    """Return the perplexity of the completions, each item weighing the same.

    >>> perplexity(model, [("a good day", " and a cat")]) > 1
    True
    """
    return float((-log_probability(model, items, batch_tokens=batch_tokens)).mean().exp())


def divergence(
    model: Host,
    steering: Steering | Family,
    items: Iterable[Item],
    coeffs: Sequence[float] = (1.0,),
    *,
    batch_tokens: int = 2048,
) -> Float[Tensor, "coeff item"]:
    """Return KL(base || steered) in nats, mean over each item's completion tokens.

    Every coefficient multiplies the steering, or its own member of a family; all run as rows of
    one steered pass. Give base completions as items to price a steering where the base model would
    have gone. Cost: one forward pass an item, and one more for each coefficient.

    >>> divergence(model, steering, [("a good day", " and a cat")], [0.0, 1.0]).shape
    torch.Size([2, 1])
    """
    nats = token_divergences(model, steering, items, coeffs, batch_tokens=batch_tokens)
    return torch.stack([each.mean(1) for each in nats], dim=1)


def token_divergences(
    model: Host,
    steering: Steering | Family,
    items: Iterable[Item],
    coeffs: Sequence[float] = (1.0,),
    *,
    batch_tokens: int = 2048,
) -> list[Float[Tensor, "coeff _token"]]:
    """Return KL(base || steered) in nats at every token of each item's completion.

    As `divergence`, before the mean is taken; an item's tokens are its completion's. Raises
    BadInputError on an item without a completion, and without coefficients.

    >>> [nats] = token_divergences(model, steering, [("a good day", " and a cat")], [0.0, 1.0])
    >>> bool((nats[0].abs() < 1e-5).all()), len(nats)
    (True, 2)
    """

    def nats(batch: Batch, scored: Bool[Tensor, "batch pos"]) -> Float[Tensor, "coeff scored"]:
        base = log_probs_at(model, batch, scored)
        steered = steered_log_probs(model, steering, coeffs, batch, scored)
        return torch.stack([kl(base, part) for part in steered])

    return _by_token(model, items, coeffs, batch_tokens, nats)


def token_entropies(
    model: Host,
    items: Iterable[Item],
    steering: Steering | None = None,
    coeffs: Sequence[float] = (1.0,),
    *,
    batch_tokens: int = 2048,
) -> list[Float[Tensor, "coeff _token"]]:
    """Return the entropy in nats of the distribution of every token of each item's completion.

    Every coefficient multiplies the steering; without one, all rows are the base model's. Raises
    as `token_divergences` does. Cost: one forward pass an item for each coefficient.

    >>> [nats] = token_entropies(model, [("a good day", " and a cat")])
    >>> bool((nats > 0).all())
    True
    """

    def nats(batch: Batch, scored: Bool[Tensor, "batch pos"]) -> Float[Tensor, "coeff scored"]:
        found = steered_log_probs(model, steering, coeffs, batch, scored)
        return torch.stack([entropy(part) for part in found])

    return _by_token(model, items, coeffs, batch_tokens, nats)


def token_log_probs(
    model: Host,
    items: Iterable[Item],
    steering: Steering | Family | None = None,
    coeffs: Sequence[float] = (1.0,),
    *,
    batch_tokens: int = 2048,
) -> list[Float[Tensor, "coeff _token"]]:
    """Return the log-probability in nats of every token of each item's completion.

    Their sum is the log-probability of the completion, their mean the length-normalised one.
    Every coefficient multiplies the steering; without one, all rows are the base model's. Of a
    family each coefficient multiplies its own member. Raises as `token_divergences` does. Cost: one
    forward pass for each coefficient and text before a last token; prompts that several completions
    share are computed once, where that is cheaper.

    >>> items = [("a good day", " and"), ("a good day", " but")]
    >>> [first, second] = token_log_probs(model, items, steering, [0.0, 1.0])
    >>> first.shape[0]
    2
    """
    encoded = _completed(model, items)
    same: dict[Encoded, list[int]] = {}
    for number, each in enumerate(encoded):
        same.setdefault(Encoded(each.tokens[:-1], each.prompt_length), []).append(number)
    contexts, values = list(same), dict[int, Tensor]()
    found = predictions(model, steering, contexts, coeffs, _room(coeffs, batch_tokens))
    for place, part in found:
        for number in same[contexts[place]]:
            ids = torch.tensor(encoded[number].tokens[contexts[place].prompt_length :])
            chosen = ids.to(part.device).expand(len(part), -1)[..., None]
            values[number] = part.gather(2, chosen).squeeze(2).cpu()
    return [values[number] for number in range(len(encoded))]


def _by_token(
    model: Host,
    items: Iterable[Item],
    coeffs: Sequence[float],
    batch_tokens: int,
    measure: Callable[[Batch, Bool[Tensor, "batch pos"]], Float[Tensor, "coeff scored"]],
) -> list[Float[Tensor, "coeff _token"]]:
    """Measure every batch, and hand each item its own tokens."""
    values: dict[int, Tensor] = {}
    encoded, room = _completed(model, items), _room(coeffs, batch_tokens)
    for rows, batch in batches(model, encoded, batch_tokens=room, device=device_of(model)):
        scored = scored_at(batch)
        parts = torch.split(measure(batch, scored).cpu(), scored.sum(1).tolist(), dim=1)
        values.update(zip(rows, parts, strict=True))
    return [values[number] for number in range(len(encoded))]


def _room(coeffs: Sequence[float], batch_tokens: int) -> int:
    """How many tokens of items a batch holds that repeats them for every coefficient."""
    check_coeffs(coeffs)
    return max(1, batch_tokens // len(coeffs))


def _completed(model: Host, items: Iterable[Item]) -> tuple[Encoded, ...]:
    """The items' tokens. Raises BadInputError on one that has no completion, or no prompt."""
    check_model(model)
    encoded = encode_all(model, items, "Scores are given to")
    for number, item in enumerate(encoded):
        if len(item.tokens) == item.prompt_length:
            raise BadInputError(
                f"Item {number} has no completion to score. Give (prompt, completion) items."
            )
        if item.prompt_length == 0:
            raise BadInputError(
                f"Item {number} has no prompt, so nothing predicts its first token. Give one of a "
                "token or more."
            )
    return encoded
