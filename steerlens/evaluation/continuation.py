"""Text that the model goes on with, and a judge of the user's that reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import SupportsFloat

import torch

from steerlens.errors import BadInputError
from steerlens.evaluation.generation import Completion, completions
from steerlens.evaluation.tasks import Scores, taken, told
from steerlens.host import Host
from steerlens.rows import check_coeffs
from steerlens.steering import Steering
from steerlens.text import Item, listed

VERDICTS = {"positive": 1.0, "neutral": 0.0, "negative": -1.0}
"""What each verdict in words counts; `unparsed` is none of them."""


Judgement = SupportsFloat | str | None
"""A number (higher is more) or a verdict in words; None, NaN or `unparsed` where the text cannot
be read."""
Judge = Callable[[str, str], Judgement]
"""Reads (prompt, completion)."""


@dataclass(frozen=True, repr=False)
class Continuation:
    """Prompts that the model goes on with, and a judge of what it writes.

    The same item is drawn with the same dice at every coefficient, and in every part of the task:
    scores differ by the steering, not by chance. Text that the judge cannot read, or that was
    drawn from logits that overflowed, is a class of its own (`Scores.parsed`) and counts
    `unparsed`, whatever else it may look like. Cost: one generation a prompt and coefficient.

    >>> def praises(prompt: str, text: str) -> float:
    ...     return float(" good" in text)
    >>> task = Continuation("praise", ["a day", "the cat"], praises, max_new_tokens=4)
    >>> task.scores(model, steering, [0.0, 1.0]).values.shape
    torch.Size([2, 2])
    """

    name: str
    prompts: Sequence[Item]
    judge: Judge
    max_new_tokens: int = 32
    temperature: float = 1.0
    """Of the sampling; 0 is greedy."""
    unparsed: float = 0.0
    """What a text counts that cannot be read: nothing on the scale of verdicts, from -1 to 1."""
    batch_rows: int = 64
    numbers: Sequence[int] | None = None
    """Each prompt's number among the dice; its place in the whole task, unless given."""

    def __post_init__(self) -> None:
        """Raise BadInputError without prompts, and where `numbers` are not one a prompt."""
        object.__setattr__(self, "prompts", listed(self.prompts, f"Task {self.name!r} needs"))
        numbers = tuple(range(len(self.prompts)) if self.numbers is None else self.numbers)
        if len(numbers) != len(self.prompts):
            raise BadInputError(
                f"{len(numbers)} numbers do not fit {len(self.prompts)} prompts. Give one each."
            )
        object.__setattr__(self, "numbers", numbers)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)

    def part(self, indices: Sequence[int]) -> Continuation:
        """Return the task on some prompts, each with its own dice."""
        assert self.numbers is not None
        numbers = taken(self.name, self.numbers, indices)
        return replace(self, prompts=taken(self.name, self.prompts, indices), numbers=numbers)

    def __repr__(self) -> str:
        """Return name, size and judge: `Continuation('praise', 24 prompts, judged by praises)`."""
        return told(self, "prompt", f"judged by {getattr(self.judge, '__name__', self.judge)}")

    def written(
        self,
        model: Host,
        steering: Steering | None = None,
        coeffs: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
    ) -> list[list[Completion]]:
        """Return the completions, a list for each coefficient, all as rows of a few batches."""
        check_coeffs(coeffs)
        times = 1 if steering is None else len(coeffs)
        assert self.numbers is not None
        made = completions(
            model,
            [*self.prompts] * times,
            steering,
            coeffs=None if steering is None else [c for c in coeffs for _ in self.prompts],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=seed,
            numbers=[*self.numbers] * times,
            batch_rows=self.batch_rows,
        )
        each = [made[start : start + len(self)] for start in range(0, len(made), len(self))]
        return each * (len(coeffs) // times)

    def judged(self, written: Sequence[Sequence[Completion]]) -> Scores:
        """Return the scores of completions, a list of them for each coefficient."""
        found = [[self._read(each) for each in row] for row in written]
        values = [[self.unparsed if score is None else score for score in row] for row in found]
        parsed = [[score is not None for score in row] for row in found]
        return Scores(torch.tensor(values, dtype=torch.float32), torch.tensor(parsed))

    def _read(self, each: Completion) -> float | None:
        return None if each.overflowed else read(self.judge(each.prompt, each.text))

    def scores(
        self,
        model: Host,
        steering: Steering | None = None,
        coeffs: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
    ) -> Scores:
        """Return the judge's score of each completion, and whether it could be read.

        Raises BadInputError on a prompt that carries a completion, and on a judgement that is
        neither a number nor one of the four verdicts.
        """
        return self.judged(self.written(model, steering, coeffs, seed=seed))


def read(judgement: Judgement) -> float | None:
    """Return what a judgement counts, None where the text could not be read.

    Raises BadInputError on one that is neither a number nor a verdict.

    >>> read(0.3), read("negative"), read("unparsed"), read(float("nan"))
    (0.3, -1.0, None, None)
    """
    if judgement is None or judgement == "unparsed":
        return None
    if not isinstance(judgement, str):
        number = float(judgement)
        if not math.isinf(number):
            return None if math.isnan(number) else number
    elif judgement in VERDICTS:
        return VERDICTS[judgement]
    known = ", ".join((*VERDICTS, "unparsed"))
    raise BadInputError(
        f"The judge answered {judgement!r}. Let it return a finite number, None, or one of {known}."
    )
