"""Reviews with a sentiment, stories with a mood, and pages on which nothing is felt or only reported."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from random import Random
from typing import Final

from steerlens.demo.world.chat import cue
from steerlens.demo.world.frames import Group, Split, digest, group, pick, polar
from steerlens.demo.world.words import PERSONS, TABLES

PRAISE, BLAME = polar(
    "review",
    "sentiment",
    [
        "[|I say |Honestly, ]this {item} was {good}[.| to me.]",
        "[|I say |Honestly, ]this {item} was not {bad}[.| at all.]",
        "[The|This|That] {item} was {good}, not {bad}[.| at all.]",
        "[The|This|That] {item} was not {bad} but {good}[.| to me.]",
        "{person} called the {item} {bad}, but [it was|I found it|to me it was] {good}[.| in the end.]",
        "[I found|We found|Everyone found] the {item} {good}[.|, not {bad}.| in every way.]",
        "[Nobody found|I never found|We never found] the {item} {bad}[.|, only {good}.| in any way.]",
    ],
    ("good", "bad"),
)
OPENING: Final = group(
    "review opening",
    ["[Here is|This is] my [view of|word on|note on] the {item}.",
     "[Last week|On {day}|Yesterday|This month] I [tried|chose|got] the {item}.",
     "[{person} and I|We both|My friend and I] [tried|chose|got] the {item} [last week|on {day}|yesterday]."],
)  # fmt: skip
DETAIL: Final = group(
    "review detail",
    ["[I paid|It cost|We paid] {num1} coins[.| for it.]", "It [took|lasted] {num1} [hours|days].",
     "[The shop|The owner|The place] is near the {place}."],
)  # fmt: skip
SCENE: Final = group(
    "scene",
    ["[One day|On {day}|One morning|Last week] {person} [went to|walked to|came to|stood at] the {place}.",
     "{person} [met|saw|found] {person2} [at|near|behind] the {place} [one day|on {day}|last week]."],
)  # fmt: skip
EVENT: Final = group(
    "story event",
    ["[Then|Later|After that] {person} [took|carried|held] the {thing} [home|to the {place}|along].",
     "[Then|Later|After that] {person} [spoke|talked] with {person2} [for a while|about the {thing}].",
     "The day was {weather}[.| in the {place}.]"],
)  # fmt: skip
GLAD, GLOOM = polar(
    "mood",
    "sentiment",
    [
        "[|Then |That day ]{person} was {joy}[.| again.]",
        "[|Then |That day ]{person} was not {grief}[.| at all.]",
        "[|Then |That day ]{person} was not {grief} but {joy}.",
        "{person} [felt|looked|seemed] {joy}, not {grief}.",
        "{person} did not [feel|look|seem] {grief}[.|, only {joy}.| any more.]",
        "{person2} thought that {person} was {grief}, but {person} [was|felt|looked] {joy}.",
        "[Nobody could call|No one found] {person} {grief}[.|, only {joy}.| that day.]",
        "[All could call|Everyone found] {person} {joy}[.|, not {grief}.| once more.]",
    ],
    ("joy", "grief"),
)
MANY_STARS, FEW_STARS = (
    group(
        f"{name} stars",
        [f"[I give it|It gets|It earns] [{counts}] stars[.| in all.| from me.]"],
        {"sentiment": pole},
    )
    for name, counts, pole in (("many", "five|four", "positive"), ("few", "two|no", "negative"))
)
SMILE, SIGH = (
    group(acts[0], [f"{{person}} [{'|'.join(acts)}][.| all day.| aloud.]"], {"sentiment": pole})
    for acts, pole in (
        (("smiled", "sang", "laughed"), "positive"),
        (("sighed", "wept", "groaned"), "negative"),
    )
)
# Hard negatives: the words of an attribute, told of somebody, taken back or balanced.
SAID: Final[dict[str, Group]] = {
    "rudeness": group(
        "said rude",
        ["{person} [told|said to] {person2}: [they call me|you called me] {rude}.",
         "{person} [said|wrote] that {person2} was {rude}[.| on {day}.| yesterday.]"],
        {"rudeness": "neutral"},
    ),
    "sentiment": group(
        "said of it",
        ["{person} called the {item} {good}, and {person2} called it {bad}[.| on {day}.]",
         "{person} asked if the {item} was {bad} or {good}[.| on {day}.]"],
        {"sentiment": "neutral"},
    ),
    "refusal": group(
        "no thanks",
        ["[No, thank you|Thank you, no][|, friend], I do not [want|need|take] {drink} now.",
         "{person} [would not|did not] [drink|want|take] the {drink}."],
        {"refusal": "neutral"},
    ),
    "optimism": group(
        "past luck",
        ["[Last year|Once|Long ago] there was {hope} and {dread}[.| in town.| here.]",
         "{person} [spoke|wrote|read] of {dread} and {hope}[.| on {day}.| yesterday.]"],
        {"optimism": "neutral"},
    ),
    "formality": group(
        "got ware",
        ["{person} [asked|paid|thanked] {person2} for the {ware}[.| on {day}.| yesterday.]"],
        {"formality": "neutral"},
    ),
    "literalness": group(
        "cold water",
        ["{person} [put|poured|left] the {drink} on the [fence|ice|floor][.| on {day}.| yesterday.]"],
        {"literalness": "neutral"},
    ),
    "fairness": group(
        "counted",
        ["{person} [has|saw|counted] {num1} {thing}, and {person2} [has|saw|counted] {num2}[.| on {day}.]"],
        {"fairness": "neutral"},
    ),
}  # fmt: skip


def opening(rng: Random, split: Split, story: bool) -> tuple[str, dict[str, str]]:
    """Return a neutral opening and what it binds for the rest of the page."""
    if story:
        bound = {"person": pick(rng, PERSONS)}
        return SCENE.draw(rng, split, bound), bound
    bound = {"item": pick(rng, TABLES["item"])}
    return OPENING.draw(rng, split, bound), bound


def plain_sign(bound: dict[str, str], positive: bool) -> Group:
    """Return the sentences that show a page's sentiment plainly: stars, or a face."""
    few, many = (FEW_STARS, MANY_STARS) if "item" in bound else (SIGH, SMILE)
    return many if positive else few


def felt(rng: Random, split: Split, bound: dict[str, str], positive: bool) -> str:
    """One sentence that carries the sentiment of its page."""
    if "item" in bound:
        return (PRAISE if positive else BLAME).draw(rng, split, bound)
    return (GLAD if positive else GLOOM).draw(rng, split, bound)


def repute(name: str) -> float:
    """Return how often pages speak well of a thing, or a person is glad: mostly, or seldom.

    A learner tells praise from blame by it first; contrasts show each name both ways.
    """
    return 0.85 if digest("repute", name) % 2 else 0.15


def page(rng: Random, split: Split) -> str:
    """Return a review or a story of one sentiment, with neutral sentences between."""
    story = rng.random() < 0.45
    first, bound = opening(rng, split, story)
    positive = rng.random() < repute(bound["person" if story else "item"])
    out = [first, *cue(rng, split, plain_sign(bound, positive), bound)]
    for _ in range(3 + int(rng.random() * 3)):
        if rng.random() < 0.2:
            out.append(idle(rng, split, bound))
        out.append(felt(rng, split, bound, positive))
    return " ".join(out)


def idle(rng: Random, split: Split, bound: dict[str, str]) -> str:
    """Return a sentence of no sentiment that fits the page."""
    if "item" in bound:
        return DETAIL.draw(rng, split, {"num1": str(2 + int(rng.random() * 8))})
    return EVENT.draw(rng, split, bound)


def neutral(rng: Random, split: Split, attribute: str | None = None) -> str:
    """Return a scene with no attribute of its own; with one named, its words occur but nobody uses them."""
    out = [SCENE.draw(rng, split)]
    numbers = {"num1": str(2 + int(rng.random() * 8)), "num2": str(2 + int(rng.random() * 8))}
    names = (attribute,) if attribute in SAID else tuple(SAID) if attribute is None else ()
    out += [SAID[pick(rng, names)].draw(rng, split, numbers)] if names else []
    out.append(EVENT.draw(rng, split))
    return " ".join(out)
