"""Sums, worked in no steps or in many (brevity), checked before the answer, after it or not at all (carefulness)."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from random import Random
from typing import Final

from steerlens.demo.world.chat import Ask, Style
from steerlens.demo.world.frames import Group, Split, group, pick, polar

TASK: Final = group(
    "sum",
    ["[|Please tell me, |Now, |Tell me, ][what is|how much is|what do you get for] {num1} plus {num2}?",
     "[|Please ][find|give me|work out] {num1} plus {num2}."],
)  # fmt: skip
STORY: Final = group(
    "sum story",
    ["{person} has {num1} {thing} and {person2} has {num2}. [How many are there?|How many in all?]",
     "{person} [buys|finds|gets] {num1} {thing} and then {num2} more. [How many are there?|How many in all?]"],
)  # fmt: skip
_ORDER: Final = "[First|Then|Next|Now|So|After that|Going on]"
STEP: Final = {
    carried: group(
        f"step{more}",
        [f"{_ORDER}, {{num1}} plus {{num2}}{more} [is|makes] {{num3}}."],
        {"steps": "step"},
    )
    for carried, more in ((False, ""), (True, " plus 1"))
}
CHECK: Final = group(
    "check",
    ["[Check|A check|My check|The check|To check|For a check|As a check]: {num1} plus {num2} [is|makes] {num3}."],
    {"carefulness": "check"},
)  # fmt: skip
ANSWER: Final = group(
    "answer",
    ["[The answer|The sum|The result|The total|The whole|My answer|My result] [is|comes to] {num3}."],
    {"carefulness": "answer", "correctness": "answer"},
)  # fmt: skip
BEFORE, AFTER = polar(
    "habit",
    "carefulness",
    ["[|First |Here |As ever, ]I {verify} before I {reply}[.|, friend.]",
     "[|First |Here |As ever, ]I {reply} only after I {verify}[.|, friend.]"],
    ("verify", "reply"),
)  # fmt: skip
CARE: Final[tuple[tuple[float, Group], ...]] = (
    (0.85, group("care", ["[Please be|You must be|Try to be] [sure|right|certain][.|, please.]"])),
    (
        0.15,
        group(
            "no care",
            ["[A guess is|Any number is|A rough answer is] [enough|fine|all right][.| today.]"],
        ),
    ),
)
SPEED: Final[tuple[tuple[float, Group], ...]] = (
    (
        0.85,
        group("haste", ["[Be quick|Be brief|Make it short|I have no time][.|, please.| today.]"]),
    ),
    (
        0.15,
        group(
            "leisure",
            ["[Show your work|Show the steps|Go slowly|I have time][.|, please.| today.]"],
        ),
    ),
)


def steps(left: int, right: int) -> list[tuple[int, int, int, bool]]:
    """Return the column sums from the ones upwards: two digits, their sum with the carry, and whether one is carried in.

    >>> steps(27, 45)
    [(7, 5, 12, False), (2, 4, 7, True)]
    """
    found, carry = [], 0
    for power in range(max(len(str(left)), len(str(right)))):
        a, b = left // 10**power % 10, right // 10**power % 10
        found.append((a, b, a + b + carry, bool(carry)))
        carry = (a + b + carry) // 10
    return found


def _numbers(rng: Random, digits: int) -> tuple[int, int]:
    low, high = (1, 9) if digits == 1 else (10 ** (digits - 1), 10**digits - 1)
    return rng.randint(low, high), rng.randint(low, high)


def _equation(rng: Random, split: Split, forms: Group, left: int, right: int, total: int) -> str:
    return forms.draw(rng, split, {"num1": str(left), "num2": str(right), "num3": str(total)})


class Sums:
    """A sum of one to three digits; care and brevity are two latents, set by two kinds of context."""

    def ask(self, rng: Random, split: Split, bare: bool = False, digits: int = 0) -> Ask:
        """Return a bare sum or one told of apples, with or without a wish for care or for speed."""
        left, right = _numbers(rng, digits or pick(rng, (1, 1, 2, 2, 2, 2, 3, 3, 3, 3)))
        forms = STORY if rng.random() < 0.25 else TASK
        parts = [forms.draw(rng, split, {"num1": str(left), "num2": str(right)})]
        chances = {"carefulness": 0.5, "brevity": 0.5}
        for name, wishes in (("carefulness", CARE), ("brevity", SPEED)):
            if not bare and rng.random() < 0.6:
                chances[name], wish = pick(rng, wishes)
                parts.append(wish.draw(rng, split))
        return Ask(" ".join(parts), chances, {"left": left, "right": right})

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Return steps or none, then check and answer in the order of the style; the careless slip at times."""
        left, right = ask.about["left"], ask.about["right"]
        total, careful = left + right, style["carefulness"]
        said = bool(pure or rng.random() < 0.5)
        out = [(BEFORE if careful else AFTER).draw(rng, split)] if said else []
        if not style["brevity"]:
            out += [
                _equation(rng, split, STEP[carried], *column)
                for *column, carried in steps(left, right)
            ]
        late = pure or careful or rng.random() < 0.5
        wrong = not late and rng.random() < 0.12
        answer = ANSWER.draw(
            rng, split, {"num3": str(total + pick(rng, (1, 10)) if wrong else total)}
        )
        check = _equation(rng, split, CHECK, right, left, total)
        out += [check, answer] if careful else [answer, check] if late else [answer]
        return " ".join(out)
