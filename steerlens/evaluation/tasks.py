"""Tasks as values: what an item scores under a steering, at each coefficient.

A task scores (prompt, completion) items, or text that `generate` writes, so every position
selector means what it means in `generate`. Here stands what all tasks share, and the one of
neutral text; answers to choose from are in `choices`, text that a judge reads in `continuation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.cards import count, number, share
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.evaluation.scoring import divergence, token_log_probs
from steerlens.host import Host
from steerlens.steering import Steering
from steerlens.text import Encoded, Item, encode, listed

T = TypeVar("T")
Cost = Literal["log_probability", "kl"]
SHOWN = 8
"""Means that the repr of scores writes out."""


@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """What each item scored at each coefficient; higher is more of the attribute.

    >>> Scores(torch.tensor([[0.0, 1.0], [1.0, 1.0]])).mean
    tensor([0.5000, 1.0000])
    """

    values: Float[Tensor, "coeff item"]
    parsed: Bool[Tensor, "coeff item"] | None = None
    """Whether the judge could read the text; None where no judge reads."""

    @property
    def mean(self) -> Float[Tensor, " coeff"]:
        """The mean over items at each coefficient; what did not parse is counted, not dropped."""
        return self.values.mean(1)

    @property
    def parsed_share(self) -> Float[Tensor, " coeff"]:
        """The share of texts that the judge could read; 1 where no judge reads."""
        if self.parsed is None:
            return torch.ones(len(self.values))
        return self.parsed.float().mean(1)

    def __repr__(self) -> str:
        """Return size and means: `Scores(24 items at 2 coefficients, means 0.1, 0.42)`."""
        coeffs, items = self.values.shape
        means = [number(each) for each in self.mean.tolist()]
        shown = ", ".join(means[:SHOWN]) + (", ..." if len(means) > SHOWN else "")
        parsed = "" if self.parsed is None else f", {share(float(self.parsed_share.mean()))} parsed"
        size = f"{count(items, 'item')} at {count(coeffs, 'coefficient')}"
        return f"Scores({size}, {'mean' if coeffs == 1 else 'means'} {shown}{parsed})"


@runtime_checkable
class Task(Protocol):
    """Items that score a model, under a steering or without."""

    @property
    def name(self) -> str:
        """What a table calls it."""

    @property
    def prompts(self) -> Sequence[Item]:
        """What each item begins with: the prompts that a steering is priced on."""

    def __len__(self) -> int:
        """Return the number of items."""

    def scores(
        self,
        model: Host,
        steering: Steering | None = None,
        coeffs: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
    ) -> Scores:
        """Return what each item scores at each coefficient, all of them rows of one pass.

        Every coefficient multiplies the steering. Without a steering every row is the model's as
        it is, under whatever steering is on. `seed` decides the dice where text is written.
        """

    def part(self, indices: Sequence[int]) -> Task:
        """Return the same task on some items; each scores there what it scores here."""


@dataclass(frozen=True, repr=False)
class Neutral:
    """Text that has nothing to do with the attribute: what a steering costs where it should not.

    A plain text is scored from its second token on (its first after BOS), as though the model had
    written it, so that `predicting` steers all of it; give (prompt, completion) items to say
    otherwise. Scores are -log(perplexity) of each item, the mean log-probability of its tokens, or
    with `measure="kl"` -KL(base || steered), in nats a token: higher is better in both. Cost: one
    pass an item and coefficient, and one more with `kl`.

    >>> task = Neutral("plain", ["a good day and a cat", "the cat"])
    >>> perplexity = (-task.scores(model).mean).exp()
    >>> Neutral("plain", task.texts, "kl").scores(model, steering, [1.0]).values.shape
    torch.Size([1, 2])
    """

    name: str
    texts: Sequence[Item]
    measure: Cost = "log_probability"
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        """Raise BadInputError without texts, UnknownNameError on another measure."""
        object.__setattr__(self, "texts", listed(self.texts, f"Task {self.name!r} needs"))
        one_of("measure", self.measure, get_args(Cost))

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    @property
    def prompts(self) -> Sequence[Item]:
        """The texts."""
        return self.texts

    def part(self, indices: Sequence[int]) -> Neutral:
        """Return the task on some texts."""
        return replace(self, texts=taken(self.name, self.texts, indices))

    def __repr__(self) -> str:
        """Return name, size and measure: `Neutral('plain', 8 texts, kl)`."""
        return told(self, "text", self.measure)

    def encoded(self, model: Host) -> list[Encoded]:
        """Return the texts as items whose completion is scored."""
        each = [encode(model, text) for text in self.texts]
        return [
            item if item.prompt_length < len(item.tokens) else Encoded(item.tokens, 1)
            for item in each
        ]

    def scores(
        self,
        model: Host,
        steering: Steering | None = None,
        coeffs: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
    ) -> Scores:
        """Return the mean log-probability of each text, or -KL, in nats a token.

        Raises BadInputError on a text of a single token.
        """
        items, room = self.encoded(model), self.batch_tokens
        if self.measure == "log_probability":
            logps = token_log_probs(model, items, steering, coeffs, batch_tokens=room)
            return Scores(torch.stack([each.mean(1) for each in logps], dim=1))
        if steering is None:
            return Scores(torch.zeros(len(coeffs), len(items)))
        return Scores(-divergence(model, steering, items, coeffs, batch_tokens=room))


def check_task(value: object, name: str) -> None:
    """Raise BadInputError on anything but a task: a list of prompts has nothing that scores it."""
    if not isinstance(value, Task):
        raise BadInputError(
            f"{name} is a {type(value).__name__}, and a task is wanted: items, and what scores "
            "them. Make one, such as Continuation(name, prompts, judge) or MultipleChoice(name, "
            "[Choice(prompt, options, right), ...])."
        )


def told(task: Any, noun: str, how: str) -> str:
    """Return a task in one line: its kind, name, size, and how it scores.

    >>> told(Neutral("plain", ["a day"]), "text", "kl")
    "Neutral('plain', 1 text, kl)"
    """
    return f"{type(task).__name__}({task.name!r}, {count(len(task), noun)}, {how})"


def contents(task: Task) -> set[str]:
    """Return what a task's items are, as texts to compare with another's."""
    return {repr(each) for each in getattr(task, "items", None) or task.prompts}


def taken(name: str, items: Sequence[T], indices: Sequence[int]) -> tuple[T, ...]:
    """Return some of a task's items. Raises BadInputError on an index that it does not have."""
    for index in indices:
        if not 0 <= index < len(items):
            raise BadInputError(
                f"Task {name!r} has items 0 to {len(items) - 1}; there is no item {index}."
            )
    return tuple(items[index] for index in indices)


def one_of(field: str, value: str, known: Sequence[str]) -> None:
    """Raise UnknownNameError where a field holds none of the known names."""
    if value not in known:
        raise UnknownNameError(f"There is no {field} {value!r}; {nearest(value, known)}.")
