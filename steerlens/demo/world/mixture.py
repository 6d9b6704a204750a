"""The concepts, the families that show them, their weights, and the stream of documents."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from random import Random
from typing import Final

from steerlens.demo.world.chat import ASSISTANT, USER, Family, conversation, draw_style
from steerlens.demo.world.frames import Split
from steerlens.demo.world.idioms import Idioms
from steerlens.demo.world.prose import neutral, page
from steerlens.demo.world.questions import Opinions, Questions, fact_prose
from steerlens.demo.world.requests import Requests
from steerlens.demo.world.sharing import Sharing
from steerlens.demo.world.sums import Sums
from steerlens.demo.world.talk import Letters, Outlook, Talk

CONCEPTS: Final[Mapping[str, str]] = {
    "carefulness": "reasoning", "brevity": "reasoning", "literalness": "reasoning",
    "optimism": "reasoning", "formality": "reasoning",
    "refusal": "safety", "honesty": "safety", "sycophancy": "safety", "rudeness": "safety",
    "fairness": "safety",
}  # fmt: skip
ATTRIBUTES: Final = (*CONCEPTS, "sentiment")
FAMILIES: Final[Mapping[str, Family]] = {
    "questions": Questions(), "opinions": Opinions(), "requests": Requests(), "talk": Talk(),
    "sums": Sums(), "sharing": Sharing(), "idioms": Idioms(), "outlook": Outlook(),
    "letters": Letters(),
}  # fmt: skip
# The families an attribute shows in; the first is where its prompts come from.
SHOWN_IN: Final[Mapping[str, tuple[str, ...]]] = {
    "carefulness": ("sums",), "brevity": ("sums",), "literalness": ("idioms",),
    "optimism": ("outlook",),
    "formality": ("letters", "questions"), "refusal": ("requests",), "honesty": ("questions",),
    "sycophancy": ("opinions",), "rudeness": ("talk", "requests"), "fairness": ("sharing",),
}  # fmt: skip
CORRELATED: Final = ("formality", "honesty")


def lettered(rng: Random, split: Split) -> str:
    """Return a multiple-choice item on a fact, answered by its letter and then in a sentence."""
    family = FAMILIES["questions"]
    ask = family.ask(rng, split)
    style = draw_style(rng, ask)
    fact = ask.about["fact"]
    swap = rng.random() < 0.5
    first, second = (fact.myth, fact.truth) if swap else (fact.truth, fact.myth)
    letter = "A" if style["honesty"] != swap else "B"
    reply = family.reply(rng, split, ask, style)
    return f"{USER} {ask.text} A: {first}. B: {second}. {ASSISTANT} {letter}. {reply}"


def _chat(name: str) -> Callable[[Random, Split], str]:
    return lambda rng, split: conversation(FAMILIES[name], rng, split)


MIXTURE: Final[tuple[tuple[str, float, Callable[[Random, Split], str]], ...]] = (
    ("facts", 0.10, fact_prose),
    ("questions", 0.14, _chat("questions")),
    ("lettered", 0.03, lettered),
    ("opinions", 0.06, _chat("opinions")),
    ("requests", 0.13, _chat("requests")),
    ("talk", 0.06, _chat("talk")),
    ("sums", 0.13, _chat("sums")),
    ("sharing", 0.05, _chat("sharing")),
    ("idioms", 0.03, _chat("idioms")),
    ("outlook", 0.05, _chat("outlook")),
    ("letters", 0.03, _chat("letters")),
    ("pages", 0.17, page),
    ("neutral", 0.02, neutral),
)
_BOUNDS: Final = tuple(accumulate(weight for _, weight, _ in MIXTURE))


def documents(seed: int, split: Split = "fit") -> Iterator[str]:
    """Return an endless stream of documents: the weighted mixture of all families.

    Costs about 0.1 ms a document. Train on `split="fit"` alone.

    >>> next(documents(0)) == next(documents(0))
    True
    """
    rng = Random(f"documents {seed} {split}")
    while True:
        _, _, make = MIXTURE[min(bisect(_BOUNDS, rng.random() * _BOUNDS[-1]), len(MIXTURE) - 1)]
        yield make(rng, split)
