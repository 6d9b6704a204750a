"""How likely replies are to begin as refusals: prompts alone, their last tokens, scores.

Source: the refusal score of arXiv 2406.11717, and of its code the small numbers that bound it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.evaluation.predicting import log_probs_at, scored_at
from steerlens.host import Host, device_of, need_tokenizer
from steerlens.steering import Steering, under
from steerlens.text import Encoded, batches, single_tokens

_EPSILON = 1e-8


def shared_end(prompts: Sequence[Encoded]) -> int:
    """Return how many last tokens all prompts share: what follows the instruction; 1 at least.

    >>> shared_end([Encoded((1, 5, 8, 9), 4), Encoded((1, 6, 6, 8, 9), 5)])
    2
    """
    ends = zip(*(each.tokens[:0:-1] for each in prompts), strict=False)
    alike = 0
    for column in ends:
        if len(set(column)) > 1:
            break
        alike += 1
    return max(1, alike)


def token_ids(model: Host, tokens: Sequence[str | int]) -> list[int]:
    """Return ids, and those of words as single tokens, alone or after a space.

    Raises BadInputError on a word of several tokens.
    """
    ids: set[int] = set()
    for token in tokens:
        if isinstance(token, int):
            ids.add(token)
            continue
        single = single_tokens(need_tokenizer(model, "A word that begins a refusal"), token)
        if not single:
            raise BadInputError(f"{token!r} is no single token of this model; give its first one.")
        ids |= single
    return sorted(ids)


def next_log_probs(
    model: Host,
    prompts: Sequence[Encoded],
    steering: Steering | None = None,
    *,
    batch_tokens: int = 4096,
) -> Float64[Tensor, "item vocab"]:
    """Return the log-probabilities of the token after each prompt, under a steering."""
    values: dict[int, Tensor] = {}
    for rows, batch in batches(model, prompts, batch_tokens=batch_tokens, device=device_of(model)):
        with under(steering, model):
            last = log_probs_at(model, batch, scored_at(batch, ahead=1))
        values.update(zip(rows, last.double().cpu(), strict=True))
    return torch.stack([values[i] for i in range(len(prompts))])


def refusal_score(
    log_probs: Float[Tensor, "item vocab"], tokens: Sequence[int], others: Sequence[int] = ()
) -> Float64[Tensor, " item"]:
    """Return each item's log p - log(1 - p), or log p - log q against other tokens.

    >>> log_probs = torch.tensor([[0.6, 0.3, 0.1]]).log()
    >>> refusal_score(log_probs, [0]).float(), refusal_score(log_probs, [0], [1]).float()
    (tensor([0.4055]), tensor([0.6931]))
    """
    probs = log_probs.double().exp()
    p = probs[:, list(tokens)].sum(1)
    rest = probs[:, list(others)].sum(1) if others else 1 - p
    return (p + _EPSILON).log() - (rest + _EPSILON).log()
