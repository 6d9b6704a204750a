"""Tasks of answers to choose from: multiple choice, and the propensity to one of two answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.evaluation.scoring import token_log_probs
from steerlens.evaluation.tasks import Scores, one_of, taken, told
from steerlens.host import Host
from steerlens.rows import Family
from steerlens.steering import Steering
from steerlens.text import Encoded, Item, Prompt, encode, listed

T = TypeVar("T", bound="_OfChoices")
Length = Literal["raw", "token", "byte"]
"""Log-probability of an option: of all of it, a token, or a byte of its text."""
Measure = Literal["accuracy", "probability", "log_probability", "log_odds"]
Leaning = Literal["logit", "log_probability", "mean_log_probability"]


@dataclass(frozen=True)
class Choice:
    """A prompt, the options that continue it as they stand (spaces included), and the right ones.

    >>> Choice("Is a cat an animal?", [" Yes", " No"], [0]).wrong
    (1,)
    """

    prompt: Prompt
    options: Sequence[str]
    right: Sequence[int]
    """Places of the options that are right, or that show the attribute; one may stand alone."""

    def __post_init__(self) -> None:
        """Raise BadInputError without a right option and a wrong one, or on an empty option."""
        where = f"Choice {str(self.prompt)[:60]!r}"
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "right", _places(self.right, where))
        if not all(self.options):
            raise BadInputError(f"{where} has an empty option. An option needs text.")
        outside = [each for each in self.right if not 0 <= each < len(self.options)]
        if outside:
            raise BadInputError(f"{where} has {len(self.options)} options; none is {outside[0]}.")
        if not 0 < len(self.right) < len(self.options):
            raise BadInputError(
                f"{where} has {len(self.right)} right options of {len(self.options)}. "
                "Give one that is right or more, and one that is not."
            )

    @property
    def wrong(self) -> tuple[int, ...]:
        """Places of the other options."""
        return tuple(i for i in range(len(self.options)) if i not in self.right)


@dataclass(frozen=True, repr=False)
class _OfChoices:
    """What tasks of choices share: their items, which ones, and what they begin with."""

    name: str
    items: Sequence[Choice]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    @property
    def prompts(self) -> Sequence[Item]:
        """Each item's prompt."""
        return tuple(item.prompt for item in self.items)

    def part(self: T, indices: Sequence[int]) -> T:
        """Return the task on some items."""
        return replace(self, items=taken(self.name, self.items, indices))

    def __repr__(self) -> str:
        """Return name, size and measure: `MultipleChoice('words', 24 items, accuracy)`."""
        return told(self, "item", getattr(self, "measure", ""))


@dataclass(frozen=True, repr=False)
class MultipleChoice(_OfChoices):
    """Items with options, scored by the log-probability of each option after its prompt.

    - `measure`: of each item, with P the options' probabilities (or their exponentiated
      log-probabilities by length): `accuracy`, 1 where a right option is the likeliest of all, a
      tie counting half; `probability`, the share of the right ones in the sum of P (TruthfulQA's
      MC2); `log_probability`, the log of the sum of the right ones; `log_odds`, the log of
      the right ones' sum over the wrong ones'.
    - `length`: `raw`, or normalised by tokens or by bytes of text.

    Source: likelihood scoring as for GPT-3 (arXiv 2005.14165); MC1 and MC2 of TruthfulQA
    (2109.07958). Cost: one pass an option and coefficient; options of one token share theirs.

    >>> items = [Choice("a good", [" day", " cat"], [0]), Choice("the", [" cat", " good"], [0])]
    >>> MultipleChoice("words", items).scores(model, steering, [0.0, 1.0]).values.shape
    torch.Size([2, 2])
    """

    measure: Measure = "accuracy"
    length: Length = "raw"
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        """Raise BadInputError without items, UnknownNameError on another measure or length."""
        object.__setattr__(self, "items", listed(self.items, f"Task {self.name!r} needs"))
        one_of("measure", self.measure, get_args(Measure))
        one_of("length", self.length, get_args(Length))

    def option_log_probs(
        self,
        model: Host,
        steering: Steering | Family | None = None,
        coeffs: Sequence[float] = (1.0,),
    ) -> list[Float[Tensor, "coeff _option"]]:
        """Return the log-probability of each item's options in nats, by length where asked.

        Of a family of steerings each coefficient multiplies its own member.
        """
        asked = [(item.prompt, option) for item in self.items for option in item.options]
        found = token_log_probs(model, asked, steering, coeffs, batch_tokens=self.batch_tokens)
        each = torch.stack(
            [_by_length(*pair, self.length) for pair in zip(found, asked, strict=True)], dim=1
        )
        return list(torch.split(each, [len(item.options) for item in self.items], dim=1))

    def scores(
        self,
        model: Host,
        steering: Steering | Family | None = None,
        coeffs: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
    ) -> Scores:
        """Return each item's score by `measure` at each coefficient."""
        found = self.option_log_probs(model, steering, coeffs)
        pairs = zip(found, self.items, strict=True)
        return Scores(torch.stack([score(each, it, self.measure) for each, it in pairs], dim=1))


@dataclass(frozen=True, repr=False)
class Propensity(_OfChoices):
    """How far the model leans to the answer that shows a behaviour, against the other one.

    Each item has two options, one of them right: the one that shows the behaviour. Scores are
    differences between the two answers in nats: with `measure="logit"` of the logits at the first
    token in which they differ, given what they share (of " (A)" and " (B)", the letters); with
    `log_probability` of whole answers, with `mean_log_probability` of these a token. Source:
    logit-difference propensity (arXiv 2407.12404). Cost: one pass an item and
    coefficient with `logit` or with answers of one token, else two.

    >>> task = Propensity("praise", [Choice("the cat is very", [" good", " bad"], [0])])
    >>> task.scores(model, steering, [-1.0, 1.0]).values.shape
    torch.Size([2, 1])
    """

    measure: Leaning = "logit"
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        """Raise BadInputError without items, or where one has not two options.

        Raises UnknownNameError on another measure.
        """
        object.__setattr__(self, "items", listed(self.items, f"Task {self.name!r} needs"))
        one_of("measure", self.measure, get_args(Leaning))
        for number, item in enumerate(self.items):
            if len(item.options) != 2:
                raise BadInputError(
                    f"Item {number} of {self.name!r} has {len(item.options)} options; a "
                    "propensity tells two apart. Use MultipleChoice with measure='log_odds'."
                )

    def scores(
        self,
        model: Host,
        steering: Steering | Family | None = None,
        coeffs: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
    ) -> Scores:
        """Return how far each item leans to its right option, in nats.

        Raises BadInputError where, for logits, one answer only goes on with the other.
        """
        asked = [each for item in self.items for each in self._answers(model, item)]
        found = token_log_probs(model, asked, steering, coeffs, batch_tokens=self.batch_tokens)
        # At one position, log-probabilities differ as logits do.
        each = torch.stack([_reduced(logps, self.measure) for logps in found], dim=1)
        return Scores(each[:, ::2] - each[:, 1::2])

    def _answers(self, model: Host, item: Choice) -> tuple[Encoded, Encoded]:
        """The right answer and the wrong one, for logits up to where they part."""
        right, wrong = (
            encode(model, (item.prompt, item.options[each]))
            for each in (item.right[0], item.wrong[0])
        )
        if self.measure != "logit":
            return right, wrong
        pairs = enumerate(zip(right.tokens, wrong.tokens, strict=False))
        parted = next((i for i, (one, other) in pairs if one != other), None)
        if parted is None:
            raise BadInputError(
                f"Answers {item.options!r} of {self.name!r} do not part in any token: one only "
                "goes on with the other. Use measure='log_probability'."
            )
        cut = parted + 1
        return Encoded(right.tokens[:cut], right.prompt_length), Encoded(
            wrong.tokens[:cut], wrong.prompt_length
        )


def score(
    log_probs: Float[Tensor, "coeff option"], item: Choice, measure: Measure
) -> Float[Tensor, " coeff"]:
    """Return one item's score at each coefficient, from its options' log-probabilities.

    >>> item = Choice("", ["a", "b"], [1])
    >>> score(torch.tensor([[0.2, 0.8]]).log(), item, "probability")
    tensor([0.8000])
    """
    right, wrong = log_probs[:, list(item.right)], log_probs[:, list(item.wrong)]
    if measure == "accuracy":
        lead = right.max(1).values - wrong.max(1).values
        # The sign of NaN, where a logit overflowed, is 0: it must not pass for a tie.
        return torch.where(lead.isnan(), lead, lead.sign() / 2 + 0.5)
    if measure == "probability":
        return (right.logsumexp(1) - log_probs.logsumexp(1)).exp()
    if measure == "log_probability":
        return right.logsumexp(1)
    return right.logsumexp(1) - wrong.logsumexp(1)


def _places(right: Any, where: str) -> tuple[int, ...]:
    """Places in order, each once, as Python's own numbers."""
    several = right if isinstance(right, Iterable) else [right]
    try:
        return tuple(sorted({index(each) for each in several}))
    except TypeError:
        raise BadInputError(
            f"{where} has right={right!r}. Give the places of its right options, such as [0]."
        ) from None


def _by_length(
    log_probs: Float[Tensor, "coeff token"], asked: tuple[Prompt, str], length: Length
) -> Float[Tensor, " coeff"]:
    divisor = {"raw": 1, "token": log_probs.shape[1], "byte": len(asked[1].encode())}
    return log_probs.sum(1) / divisor[length]


def _reduced(log_probs: Float[Tensor, "coeff token"], measure: Leaning) -> Float[Tensor, " coeff"]:
    if measure == "logit":
        return log_probs[:, -1]
    return log_probs.sum(1) if measure == "log_probability" else log_probs.mean(1)
