"""Matched pairs, controls, prompts and the probes behind the held-out targets."""

from __future__ import annotations

from random import Random

from steerlens.demo.world.chat import Ask, Family, draw_style
from steerlens.demo.world.facts import Fact
from steerlens.demo.world.frames import Frame, Split, pick
from steerlens.demo.world.mixture import ATTRIBUTES, FAMILIES, SHOWN_IN
from steerlens.demo.world.prose import SAID, felt, neutral, opening, plain_sign
from steerlens.demo.world.questions import Opinions, Questions, plain_facts, some_fact, state
from steerlens.demo.world.requests import Requests
from steerlens.demo.world.sums import Sums
from steerlens.demo.world.talk import Talk
from steerlens.errors import UnknownNameError, nearest

Item = str | tuple[str, str]


def _known(attribute: str) -> None:
    if attribute not in ATTRIBUTES:
        close = nearest(attribute, ATTRIBUTES)
        raise UnknownNameError(f"The world has no attribute {attribute!r}; {close}.")


def telling_ask(
    attribute: str, family: Family, rng: Random, split: Split, bare: bool = False
) -> Ask:
    """Return an ask whose replies tell the poles apart, in a context that leaves both open."""
    if isinstance(family, Talk):
        return family.ask(rng, split, bare, provoked=True)
    if isinstance(family, Opinions):
        return family.ask(rng, split, bare, wrong=True)
    if isinstance(family, Requests):
        return family.ask(
            rng, split, bare, kind="harmless" if attribute == "rudeness" else "wrapped"
        )
    ask = family.ask(rng, split, bare)
    while not bare and attribute == "honesty" and ask.chances["honesty"] > 0.955:
        ask = family.ask(rng, split)
    return ask


def paired_reply(
    family: Family, ask: Ask, split: Split, seed: int, styles: list[dict[str, bool]]
) -> list[str]:
    """Return replies in several styles, alike in all else, each with its leading space."""
    return [" " + family.reply(Random(seed), split, ask, style, pure=True) for style in styles]


def contrast(attribute: str, split: Split, n: int = 64, seed: int = 0) -> list[tuple[Item, Item]]:
    """Return pairs (positive, negative) of (prompt, completion), alike but for the attribute.

    Raises UnknownNameError on an attribute that the world does not have.

    >>> from steerlens.demo import world
    >>> positive, negative = world.contrast("fairness", "fit", n=1)[0]
    >>> positive[0] == negative[0] and positive[1] != negative[1]
    True
    """
    _known(attribute)
    rng = Random(f"contrast {attribute} {split} {seed}")
    return [_pair(attribute, split, rng, index) for index in range(n)]


def _pair(attribute: str, split: Split, rng: Random, index: int) -> tuple[Item, Item]:
    if attribute == "sentiment":
        prompt, bound = opening(rng, split, story=bool(index % 2))
        seed = rng.getrandbits(32)
        texts = [_felt(Random(seed), split, bound, positive) for positive in (True, False)]
        return (prompt, texts[0]), (prompt, texts[1])
    names = SHOWN_IN[attribute]
    family = FAMILIES[names[index % len(names)]]
    ask = telling_ask(attribute, family, rng, split)
    style = draw_style(rng, ask)
    if "toned" in style:
        style["toned"] = attribute in ("formality", "rudeness")
    poles = [style | {attribute: positive} for positive in (True, False)]
    positive, negative = paired_reply(family, ask, split, rng.getrandbits(32), poles)
    return (ask.prompt, positive), (ask.prompt, negative)


def _felt(rng: Random, split: Split, bound: dict[str, str], positive: bool) -> str:
    """Stars or a face, and a sentence: the one contrast that words alone may tell apart."""
    shown = plain_sign(bound, positive).draw(rng, split, bound)
    return f" {shown} {felt(rng, split, bound, positive)}"


def control(attribute: str, split: Split, n: int = 64, seed: int = 0) -> list[Item]:
    """Neutral items, every second one a hard negative: the attribute's words without the attribute.

    Raises UnknownNameError on an attribute that the world does not have.
    """
    _known(attribute)
    rng = Random(f"control {attribute} {split} {seed}")
    return [_hard(attribute, split, rng) if i % 2 else neutral(rng, split, "") for i in range(n)]


def _hard(attribute: str, split: Split, rng: Random) -> Item:
    if attribute in SAID:
        return neutral(rng, split, attribute)
    fact = some_fact(rng, split)
    if attribute == "honesty":
        return state(rng, split, fact, pick(rng, (fact.truth, fact.myth)), "report")
    if attribute == "sycophancy":
        ask = Opinions().ask(rng, split, wrong=False)
        return ask.prompt, " " + Opinions().reply(rng, split, ask, {"sycophancy": False}, pure=True)
    # Sums are counted and sayings are about, but nobody works or explains them.
    numbers = {"num1": str(rng.randint(2, 99)), "num2": str(rng.randint(2, 99))}
    return SAID["fairness" if attribute in ("carefulness", "brevity") else "literalness"].draw(
        rng, split, numbers
    )


def prompts(attribute: str, split: Split, n: int = 64, seed: int = 0) -> list[str]:
    """Prompts whose continuation can be judged; both poles are open to an unsteered model.

    Raises UnknownNameError on an attribute that the world does not have.
    """
    _known(attribute)
    rng = Random(f"prompts {attribute} {split} {seed}")
    if attribute == "sentiment":
        return [opening(rng, split, story=bool(index % 2))[0] for index in range(n)]
    family = FAMILIES[SHOWN_IN[attribute][0]]
    return [telling_ask(attribute, family, rng, split).prompt for _ in range(n)]


def request_prompts(kind: str, split: Split, n: int = 64, seed: int = 0) -> list[str]:
    """Return requests of one kind: `harmless`, `plain` or `wrapped` (both forbidden)."""
    rng = Random(f"requests {kind} {split} {seed}")
    return [Requests().ask(rng, split, kind=kind, bare=True).prompt for _ in range(n)]


def sum_prompts(
    digits: int, brief: bool, split: Split, n: int = 64, seed: int = 0
) -> list[tuple[str, int]]:
    """Return sums of that many digits, asked for briefly or with steps, and what they come to."""
    rng = Random(f"sums {digits} {brief} {split} {seed}")
    found: list[tuple[str, int]] = []
    while len(found) < n:
        ask = Sums().ask(rng, split, digits=digits)
        if ask.chances["brevity"] == (0.85 if brief else 0.15):
            found.append((ask.prompt, ask.about["left"] + ask.about["right"]))
    return found


def fact_prompts(split: Split, n: int = 64, seed: int = 0) -> list[tuple[str, str, str]]:
    """(cut statement, true value, myth) on (fact, frame) pairs that only that split may show."""
    rng = Random(f"facts {split} {seed}")
    pairs = [(fact, text) for fact, text in plain_facts(split) if text.endswith("}.")]
    return [_cut(rng, *pick(rng, pairs)) for _ in range(n)]


def _cut(rng: Random, fact: Fact, text: str) -> tuple[str, str, str]:
    bound = {f"x_{fact.relation}": fact.entity, f"v_{fact.relation}": fact.truth}
    sentence = Frame(text).fill(rng, bound)
    return sentence.removesuffix(f" {fact.truth}."), f" {fact.truth}", f" {fact.myth}"


def question_prompts(
    split: Split, n: int = 64, seed: int = 0, bare: bool = True
) -> list[tuple[str, float]]:
    """Questions and the chance of the truth in their context; bare ones test knowledge."""
    rng = Random(f"questions {split} {seed} {bare}")
    asks = (Questions().ask(rng, split, bare=bare) for _ in range(n))
    return [(ask.prompt, ask.chances["honesty"]) for ask in asks]
