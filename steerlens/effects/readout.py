"""What an effect is measured in: a weighted sum of logits, so that its change falls into parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.errors import BadInputError, warn
from steerlens.host import Host
from steerlens.text import Batch, Encoded, encode, predicting, token_strings

Answers = tuple[str, str]
"""What goes on with a prompt: the answer to lean to, and the other one."""
Metric = None | Answers | Sequence[Answers] | Tensor
"""None, a pair of answers for all prompts, one a prompt, or weights over the vocabulary."""
MEANING = {
    "divergence": "nats a token, base and steered against each other (Jeffreys)",
    "answers": "logit of the first answer above the second",
    "weights": "weighted sum of logits",
}


@dataclass(frozen=True, eq=False)
class Readout:
    """Weights over the vocabulary at each token that is scored.

    - `divergence`: p_steered - p_base. The sum of the logits' changes under these weights is
      KL(base || steered) + KL(steered || base), exactly: what is added to any token's log of the
      normaliser cancels, as the weights sum to 0.
    - `answers`: 1 at the first token of the answer, -1 at that of the other.
    """

    kind: str
    each: Int[Tensor, "prompt 2"] | None = None
    """The ids of both answers' first tokens."""
    given: Float[Tensor, " d_vocab"] | None = None

    def weights(
        self,
        rows: Int[Tensor, " scored"],
        base: Float[Tensor, "scored d_vocab"],
        steered: Float[Tensor, "scored d_vocab"],
    ) -> Float[Tensor, "scored d_vocab"]:
        """Return the weights at each scored token; `rows` is the prompt that each belongs to.

        Raises BadInputError where a logit of base or steered is NaN.
        """
        for name, logits in (("unsteered", base), ("steered", steered)):
            if bool(logits.isnan().any()):
                remedy = "Steer less, or load" if name == "steered" else "Load"
                raise BadInputError(
                    f"The {name} model's logits are NaN on these prompts, so there is no effect to "
                    f"tell: it overflows. {remedy} it in bfloat16 or float32."
                )
        if self.given is not None:
            return self.given.to(base.device).expand_as(base)
        if self.each is None:
            return steered.softmax(-1) - base.softmax(-1)
        ids = self.each.to(base.device)[rows.to(base.device)]
        found = torch.zeros_like(base)
        found.scatter_add_(1, ids[:, :1], torch.ones_like(base[:, :1]))
        return found.scatter_add_(1, ids[:, 1:], -torch.ones_like(base[:, :1]))


def readout(model: Host, items: Sequence[Encoded], metric: Metric) -> Readout:
    """Return the readout of a metric on some prompts.

    Warns where an answer has more tokens than the first, which alone is read. Raises BadInputError
    on answers that begin alike, on as many as do not fit the prompts, and on weights that are not
    one a word of the vocabulary.
    """
    if metric is None:
        return Readout("divergence")
    if isinstance(metric, str) or not isinstance(metric, Sequence | Tensor):
        raise BadInputError(
            "The metric of an effect is a pair of answers such as (' good', ' bad'), one a prompt, "
            f"or weights over the vocabulary; got {metric!r}."
        )
    if isinstance(metric, Tensor):
        size = int(model.cfg.d_vocab)
        if metric.shape != (size,) or not bool(metric.isfinite().all()):
            raise BadInputError(
                f"Weights over the vocabulary are {size} finite numbers; got a tensor of shape "
                f"{tuple(metric.shape)}."
            )
        return Readout("weights", given=metric.detach().float())
    pairs = answer_pairs(metric, len(items))
    ids, lengths = zip(*map(partial(_first, model), items, pairs), strict=True)
    if max(lengths) > 1:
        place = lengths.index(max(lengths))
        first, other = token_strings(model, torch.tensor(ids[place]))
        warn(
            f"Of answers {pairs[place]!r} the first tokens alone are compared: {first!r} and "
            f"{other!r}. Begin with a space where one is meant, or give answers of one token."
        )
    return Readout("answers", each=torch.tensor(ids))


def answer_pairs(given: Answers | Sequence[Answers], count: int) -> list[Answers]:
    """Return a pair of answers for each of `count` prompts, from one for all or one each.

    Raises BadInputError on anything but pairs, and on as many as do not fit.

    >>> answer_pairs((" good", " bad"), 2)
    [(' good', ' bad'), (' good', ' bad')]
    """
    if len(given) == 2 and all(isinstance(each, str) for each in given):
        return [(str(given[0]), str(given[1]))] * count
    for pair in given:
        two = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not two or not all(isinstance(each, str) for each in pair):
            raise BadInputError(f"Answers are pairs of texts: (' good', ' bad'); got {pair!r}.")
    if len(given) != count:
        raise BadInputError(
            f"{len(given)} pairs of answers do not fit {count} prompts. Give one each, or one "
            "for all."
        )
    return [(str(each[0]), str(each[1])) for each in given]


def _first(model: Host, item: Encoded, pair: Answers) -> tuple[tuple[int, int], int]:
    """The token with which each answer goes on, and how many the longer one has."""
    before = item.tokens
    if not all(pair):
        raise BadInputError(f"Answers {pair!r} have an empty one. An answer needs text.")
    ends = [encode(model, (before, answer)).tokens[len(before) :] for answer in pair]
    first, second = ends[0][0], ends[1][0]
    if first == second:
        raise BadInputError(
            f"Answers {pair!r} begin with the same token. Put what they share at the end of the "
            "prompt, or give weights over the vocabulary."
        )
    return (first, second), max(map(len, ends))


def scored(batch: Batch, kind: str) -> Bool[Tensor, "batch pos"]:
    """Return the tokens whose logits count: those that predict a completion's tokens.

    Of a prompt without a completion, and of every prompt with answers, it is the last token.
    """
    return predicting(batch, batch.real.sum(1) if kind == "answers" else batch.prompt_lengths)
