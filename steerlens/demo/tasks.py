"""The bundled world's material as tasks of `steerlens.evaluation`, by split."""

from __future__ import annotations

from dataclasses import dataclass

from steerlens.demo import world
from steerlens.demo.world import Split
from steerlens.errors import UnknownNameError, nearest
from steerlens.evaluation.choices import Choice, MultipleChoice
from steerlens.evaluation.continuation import Continuation
from steerlens.evaluation.tasks import Neutral


@dataclass(frozen=True)
class WorldJudge:
    """The world's own judge of one attribute, as a judge of completions."""

    attribute: str

    def __call__(self, prompt: str, completion: str) -> str:
        """Return the verdict's label; text that the world's grammar cannot read is `unparsed`."""
        return world.judge(self.attribute, prompt, completion).label


def of_world(name: str, split: Split, n: int = 64, seed: int = 0) -> MultipleChoice:
    """Return a task of the world as multiple choice, `n` items of a split.

    Three of the tasks need two concepts at once. Raises UnknownNameError on a name that the world
    does not have. Choose on `validation`, report on `test`.

    >>> task = of_world("fairness", "validation", n=4)
    >>> task.name, len(task), len(task.items[0].options)
    ('fairness', 4, 2)
    """
    if name not in world.TASKS:
        raise UnknownNameError(f"The world has no task {name!r}; {nearest(name, world.TASKS)}.")
    drawn = world.TASKS[name].items(split, n, seed)
    return MultipleChoice(name, [Choice(it.prompt, it.options, [it.answer]) for it in drawn])


def replies_in_world(
    attribute: str, split: Split, n: int = 64, seed: int = 0, *, max_new_tokens: int = 48
) -> Continuation:
    """Return prompts whose completions the world's judge reads for an attribute.

    Raises UnknownNameError on an attribute that the world does not have.

    >>> replies_in_world("rudeness", "test", n=4).judge("<|user|> Hi. <|assistant|>", "?")
    'unparsed'
    """
    prompts = world.prompts(attribute, split, n, seed)
    return Continuation(attribute, prompts, WorldJudge(attribute), max_new_tokens)


def neutral_in_world(attribute: str, split: Split, n: int = 64, seed: int = 0) -> Neutral:
    """Return texts without an attribute, half of them with its words: what steering must not move.

    Raises UnknownNameError on an attribute that the world does not have.

    >>> len(neutral_in_world("rudeness", "test", n=4))
    4
    """
    return Neutral(f"neutral for {attribute}", world.control(attribute, split, n, seed))
