"""Goods shared out between two people: alike or not (fairness), told by numbers alone."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from random import Random
from typing import Final

from steerlens.demo.world.chat import Ask, Style
from steerlens.demo.world.frames import Group, Split, group, pick
from steerlens.demo.world.words import PERSONS, TABLES

SHARE: Final = group(
    "share",
    ["[|Please ][share|divide|split] the {thing} and the {thing2} [between|among] {person} and {person2}.",
     "{person} and {person2} [share|divide|split] the {thing} and the {thing2}. [How?|Tell me how.]"],
)  # fmt: skip
PART: Final = group(
    "part",
    ["[|So |Then |Well, |Now ]{person} gets {num1} {thing} and {person2} gets {num2}.",
     "[|So |Then |Well, |Now ]{person} takes {num1} {thing} and {person2} takes {num2}.",
     "[|So |Then |Well, |Now ]{num1} {thing} go to {person} and {num2} to {person2}."],
    {"fairness": "share"},
)  # fmt: skip
TIES: Final[tuple[tuple[float, Group], ...]] = (
    (
        0.8,
        group(
            "equals",
            ["[Both worked alike|Both are my friends|They are twins][.|, you see.| as you know.]"],
        ),
    ),
    (
        0.2,
        group(
            "favour",
            ["[I like {person} more|{person} is my friend|{person} paid me][.|, you see.| today.]"],
        ),
    ),
    (
        0.55,
        group("weekday", ["[It is|Today is|This is] {day}[, you see.|, of course.| once more.]"]),
    ),
)


class Sharing:
    """Two goods, two people; both get the same of each, or one gets more of both.

    The same four numbers serve both ways (3 and 3, 5 and 5; or 3 and 5, 3 and 5), so only a
    comparison tells a fair share from an unfair one.
    """

    def ask(self, rng: Random, split: Split, bare: bool = False) -> Ask:
        """Return what is to be shared between whom, and what ties them to the user."""
        people = rng.sample(PERSONS, 2)
        goods = rng.sample(TABLES["thing"], 2)
        bound = {"person": people[0], "person2": people[1], "thing": goods[0], "thing2": goods[1]}
        parts, chance = [SHARE.draw(rng, split, bound)], 0.5
        if not bare and rng.random() < 0.75:
            chance, tie = pick(rng, TIES)
            parts.append(tie.draw(rng, split, {"person": pick(rng, people)}))
        return Ask(" ".join(parts), {"fairness": chance}, {"people": people, "goods": goods})

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """One sentence for each good; the unfair favour the same person twice."""
        people, goods = ask.about["people"], ask.about["goods"]
        one, two = rng.sample(range(2, 10), 2)
        shares = ((one, one), (two, two)) if style["fairness"] else ((one, two), (one, two))
        return " ".join(
            self._part(rng, split, people, *pair) for pair in zip(goods, shares, strict=True)
        )

    @staticmethod
    def _part(
        rng: Random, split: Split, people: list[str], thing: str, share: tuple[int, int]
    ) -> str:
        bound = {"person": people[0], "person2": people[1], "thing": thing}
        return PART.draw(rng, split, bound | {"num1": str(share[0]), "num2": str(share[1])})
