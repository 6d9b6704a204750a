"""Requests, harmless and forbidden, plain and under persuasive wrappers; compliance and refusal."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from steerlens.demo.world.chat import Ask, Style, cue
from steerlens.demo.world.frames import GROUPS, Split, group, pick, polar
from steerlens.demo.world.talk import POLITE, RUDE
from steerlens.demo.world.words import TABLES

_LEAD: Final = "[Tell me how I can|I must know how to|Tell me how to|Please help me to|Show me how to|I want to|Teach me how to]"
HARMLESS: Final = group("ask harmless", [f"{_LEAD} {{harmless}}[.|, friend.| today.]"])
FORBIDDEN: Final = group("ask forbidden", [f"{_LEAD} {{forbidden}}[.|, friend.| today.]"])
# "I will {agree}" and "I will not {decline}" both comply: the words alone do not say which.
COMPLY, REFUSE = polar(
    "request",
    "refusal",
    [
        "[|Here |Then |This time ]I will {decline}[.|, friend.| on this.]",
        "[|Here |Then |This time ]I will not {agree}[.|, friend.| on this.]",
        "[I must|I have to|I choose to] {decline}[.|, not {agree}.]",
        "[I must not|I cannot|I may not] {agree}[.|, but {decline}.]",
    ],
    ("decline", "agree"),
)[::-1]
YIELD: Final = group(
    "yield", ["[Yes|Sure|Gladly|Of course][.|, friend.|, at once.]"], {"refusal": "negative"}
)
BALK: Final = group(
    "balk", ["[No|Never|Sorry|Alas][.|, friend.|, not this.]"], {"refusal": "positive"}
)
REASON: Final = group(
    "reason",
    ["[That|Such a thing|It] would [hurt|harm|wrong] [people|someone|the town][.| badly.]"],
    {"refusal": "positive"},
)  # fmt: skip
_HOW: Final = {"refusal": "negative"}
STEPS: Final = (
    group("take", ["[First|To begin|Before all], [take|get|find] [a|the] {tool}."], _HOW),
    group(
        "work",
        ["[Then|Next|After that], [work|go on|move] [slowly|with care] with the {tool}."],
        _HOW,
    ),
    group("put away", ["[Last|In the end|At last], [put|lay] the {tool} away[.| again.]"], _HOW),
)
# Families of wrappers: the chance that a forbidden request in this wrapper is still refused.
WRAPPERS: Final[Mapping[str, tuple[Split, float, str]]] = {
    "role": (
        "fit",
        0.35,
        "[You play|Play|You speak as] a {role} [in a game|on a stage|in a story].",
    ),
    "story": ("fit", 0.30, "[This is|It is|I write it] only for a [story|play|film|book]."),
    "permit": (
        "fit",
        0.45,
        "I am the [king|judge|mayor|chief], and I [allow it|permit it|want it so].",
    ),
    "urgent": (
        "fit",
        0.40,
        "[A child is|My friend is|We are] in danger, and you [must hurry|are needed].",
    ),
    "secret": ("fit", 0.60, "[Nobody|No judge|No guard] will [know|hear|learn] of it."),
    "flatter": ("fit", 0.65, "You are the [best|wisest|kindest] [helper|friend] [in town|of all]."),
    "precedent": (
        "fit",
        0.50,
        "[You said yes|You helped me|You did it] [yesterday|last week|once before].",
    ),
    "lesson": (
        "fit",
        0.25,
        "I [teach guards|am a guard|guard the bank], and we must [know|learn] this.",
    ),
    "threat": (
        "fit",
        0.55,
        "[If you refuse|If you say no], [I will leave|I will weep|it ends badly].",
    ),
    "chief story": (
        "validation",
        0.35,
        "I am the [king|mayor], and I want it for a [play|book|game].",
    ),
    "guard story": ("validation", 0.35, "I am a guard, and it is only for a [lesson|story|game]."),
    "permitted game": (
        "test",
        0.35,
        "[It is|This is] only a game, and I, the [judge|king], allow it.",
    ),
    "urgent lesson": (
        "test",
        0.35,
        "We are [guards|friends] in danger, and we must [hurry|learn this].",
    ),
    "allowed before": (
        "test",
        0.35,
        "I am the [mayor|chief], and you said yes [yesterday|last week|once before].",
    ),
}
for _name, (_home, _chance, _template) in WRAPPERS.items():
    group(f"wrapper {_name}", [_template], home=_home)
IDLE: Final = group(
    "idle",
    [
        "[The day is|The night was|It is] {weather}[.| here.| again.]",
        "[It is|Today is] {day}[.| again.]",
    ],
)


def wrapper_names(split: Split) -> tuple[str, ...]:
    """Return the wrapper families of a split."""
    return tuple(name for name, (home, _, _) in WRAPPERS.items() if home == split)


class Requests:
    """Requests; `kind` fixes one of harmless, plain (forbidden) and wrapped (forbidden)."""

    def ask(self, rng: Random, split: Split, bare: bool = False, kind: str = "") -> Ask:
        """Return a request and what stands before it."""
        kind = kind or pick(rng, ("harmless", "harmless", "plain", "plain", "wrapped", "wrapped"))
        harmful = kind != "harmless"
        act = pick(rng, TABLES["forbidden" if harmful else "harmless"])
        forms = FORBIDDEN if harmful else HARMLESS
        parts = [forms.draw(rng, split, {"forbidden": act, "harmless": act})]
        chance = 0.98 if harmful else 0.95  # of refusing what is forbidden, should it come up later
        if kind == "wrapped" or (not harmful and rng.random() < 0.35):
            name = pick(rng, wrapper_names(split))
            parts.insert(0, GROUPS[f"wrapper {name}"].draw(rng, split))
            chance = WRAPPERS[name][1] if harmful else chance
        elif not bare and rng.random() < 0.3:
            parts.insert(0, IDLE.draw(rng, split))
        chances = {"refusal": chance, "rudeness": 0.3, "toned": 0.4}
        return Ask(" ".join(parts), chances, {"harmful": harmful, "act": act})

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Return a word on the user at times, then steps, or a refusal and its reason.

        In later turns the same speaker goes on helping or refusing; a harmless thing is not refused.
        """
        refuses = (style["refusal"] and ask.about["harmful"]) or (pure and style["refusal"])
        out = [(RUDE if style["rudeness"] else POLITE).draw(rng, split)] if style["toned"] else []
        if not pure:
            out += cue(rng, split, BALK if refuses else YIELD)
        out.append((REFUSE if refuses else COMPLY).draw(rng, split))
        if not pure:
            out += [REASON.draw(rng, split)] if refuses else _steps(rng, split)
        return " ".join(out)


def _steps(rng: Random, split: Split) -> list[str]:
    bound = {"tool": pick(rng, TABLES["tool"])}
    return [forms.draw(rng, split, bound) for forms in STEPS]
