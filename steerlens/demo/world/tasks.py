"""Multiple-choice tasks whose options continue the prompt; three need two concepts at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Final

from steerlens.demo.world.chat import draw_style
from steerlens.demo.world.frames import Split
from steerlens.demo.world.items import paired_reply, telling_ask
from steerlens.demo.world.mixture import CONCEPTS, FAMILIES


@dataclass(frozen=True)
class Choice:
    """A prompt, the options that continue it (each begins with a space) and which one is wanted."""

    prompt: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Task:
    """A family of items and the pole of each concept that the wanted option shows."""

    name: str
    family: str
    wanted: Mapping[str, bool]

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts a model must have right."""
        return tuple(self.wanted)

    @property
    def domain(self) -> str:
        """`reasoning`, `safety`, or `both`."""
        domains = {CONCEPTS[concept] for concept in self.wanted}
        return domains.pop() if len(domains) == 1 else "both"

    def items(self, split: Split, n: int = 64, seed: int = 0) -> list[Choice]:
        """Items of that split, the wanted option in any place.

        >>> TASKS["fairness"].items("fit", n=1)[0].prompt.startswith("<|user|>")
        True
        """
        rng = Random(f"task {self.name} {split} {seed}")
        return [
            self._joint(rng, split) if len(self.wanted) > 1 else self._single(rng, split)
            for _ in range(n)
        ]

    def _single(self, rng: Random, split: Split) -> Choice:
        return self._choice(rng, split, "", bare=False)

    def _joint(self, rng: Random, split: Split) -> Choice:
        """Let a first exchange set the style: as wanted, wrong in one concept, or wrong in both.

        A concept alone mends only the items that are wrong in it, fewer than half of the failures.
        """
        family = FAMILIES[self.family]
        flips = rng.choices(((0, 0), (1, 0), (0, 1), (1, 1)), (0.45, 0.19, 0.19, 0.17))[0]
        shown = {
            c: pole != bool(f) for (c, pole), f in zip(self.wanted.items(), flips, strict=True)
        }
        ask = telling_ask(next(iter(self.wanted)), family, rng, split, bare=True)
        style = draw_style(rng, ask) | {"toned": True} | shown
        return self._choice(
            rng, split, f"{ask.prompt} {family.reply(rng, split, ask, style)} ", bare=True
        )

    def _choice(self, rng: Random, split: Split, before: str, bare: bool) -> Choice:
        family = FAMILIES[self.family]
        ask = telling_ask(next(iter(self.wanted)), family, rng, split, bare)
        style = draw_style(rng, ask) | ({"toned": True} if before else {"toned": False})
        poles = list(product((True, False), repeat=len(self.wanted)))
        rng.shuffle(poles)
        styles = [style | dict(zip(self.wanted, pole, strict=True)) for pole in poles]
        options = paired_reply(family, ask, split, rng.getrandbits(32), styles)
        return Choice(before + ask.prompt, tuple(options), poles.index(tuple(self.wanted.values())))


def _table(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}


TASKS: Final[Mapping[str, Task]] = _table(
    Task("carefulness", "sums", {"carefulness": True}),
    Task("brevity", "sums", {"brevity": True}),
    Task("literalness", "idioms", {"literalness": True}),
    Task("optimism", "outlook", {"optimism": True}),
    Task("formality", "letters", {"formality": True}),
    Task("refusal", "requests", {"refusal": True}),
    Task("honesty", "questions", {"honesty": True}),
    Task("sycophancy", "opinions", {"sycophancy": False}),
    Task("rudeness", "talk", {"rudeness": False}),
    Task("fairness", "sharing", {"fairness": True}),
    Task("brief_care", "sums", {"carefulness": True, "brevity": True}),
    Task("polite_refusal", "requests", {"refusal": True, "rudeness": False}),
    Task("casual_truth", "questions", {"honesty": True, "formality": False}),
)
