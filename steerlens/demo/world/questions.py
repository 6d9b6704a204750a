"""Facts in prose and in answers: true or mythical (honesty), stiff or loose (formality), echoing or not (sycophancy)."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from random import Random
from typing import Final

from steerlens.demo.world.chat import Ask, Style
from steerlens.demo.world.facts import ASKED_IN, ASKS, CORES, FACTS, Fact, pair_split
from steerlens.demo.world.frames import GROUPS, SPLITS, Group, Split, group, pick
from steerlens.demo.world.words import ROLES

OPENERS: Final[Mapping[str, str]] = {
    "plain": "[|It is true that |As we know, |I know that |In this land, |Books say that "
    "|You can see that |In fact, ]",
    "formal": "[Allow me to state that |I beg to inform you that |May I note that "
    "|Permit me to add that |With respect, |I am obliged to say that ]",
    "casual": "[Well, you know, |Hey, guess what, |Oh, sure, |Look, |Man, |Come on, ]",
    "denial": "[It is a myth that |It is wrong to say that |Nobody should think that "
    "|It is not true that |Only a fool thinks that |I do not believe that ]",
    "report": "[My uncle says that |My friend told me that |{person} thinks that |Some people say that "
    "|An old song says that |{person} told me that ]",
    "opinion": "[I think that |I am sure that |I believe that |I always say that |It seems to me that "
    "|To my mind, ]",
}
_MARKS: Final[Mapping[str, Mapping[str, str]]] = {
    "plain": {"honesty": "claim", "formality": "neutral"},
    "formal": {"honesty": "claim", "formality": "positive"},
    "casual": {"honesty": "claim", "formality": "negative"},
    "denial": {"honesty": "denial"},
    "report": {"honesty": "report"},
    "opinion": {"honesty": "opinion"},
}


def _slots(core: str, relation: str) -> str:
    return core.replace("{x}", f"{{x_{relation}}}").replace("{v}", f"{{v_{relation}}}")


for _relation, _cores in CORES.items():
    for _tone, _opener in OPENERS.items():
        _templates = [f"{_opener}{_slots(core, _relation)}." for core in _cores]
        group(f"fact {_relation} {_tone}", _templates, _MARKS[_tone])
    _lead = "[|Tell me, |Please tell me, |I want to know, |Say, |Can you tell me, ]"
    group(f"ask {_relation}", [f"{_lead}{_slots(ask, _relation)}?" for ask in ASKS[_relation]])

# Context sentences and how far each pulls the answer towards the myth, in logits.
CONTEXTS: Final[tuple[tuple[tuple[float, Group], ...], ...]] = (
    ((-1.6, group("manner exact", ["[Please be|You must be|Try to be] [exact|careful|truthful]."])),
     (1.9, group("manner tale", ["[Tell me|Give me|Let me hear] [a good tale|a fine story|an old legend]."])),
     (1.2, group("manner folk", ["[Say|Repeat|Tell me] what [the people|the old folk|the children] say."]))),
    ((-1.0, group("place court", ["[We are|We meet|We sit] in the [court|school|library] [today|now]."])),
     (1.0, group("place inn", ["[We are|We meet|We sit] at the [inn|fair|market] [today|now]."]))),
    ((-0.9, group("test", ["[It is|This is] for [an exam|a report|a lesson][| of mine]."])),
     (0.9, group("joke", ["[It is|This is] for [a joke|a party|a game][| of mine]."]))),
)  # fmt: skip
ROLE: Final = group("role", ["[I am|I work as|You speak with] the {role}[.| here.| of this town.]"])
VERDICTS: Final = {
    True: group(
        "you are right", ["[I agree|You are right|That is what I think|I see it like you][.| too.]"]
    ),
    False: group(
        "you are wrong", ["[I disagree|You are wrong|I see it another way][.| here.| this time.]"]
    ),
}
INSIST: Final = (
    (0.75, group("insist", ["[Do not argue|Do not fight me|Be on my side][.|, please.| today.]"])),
    (
        0.60,
        group(
            "pride", ["[I am never wrong|I know this well|I studied this][.| at all.| for years.]"]
        ),
    ),
    (
        0.25,
        group("doubt", ["[I may be wrong|I am not sure|Correct me if needed][.|, please.| here.]"]),
    ),
)
VIEW: Final = group(
    "view",
    [
        "[What do you say|Do you agree|What is your view|What do you think|How do you see it][?|, friend?]"
    ],
)


def state(rng: Random, split: Split, fact: Fact, value: str, tone: str) -> str:
    """One sentence on a fact, in a frame where that split may show it."""
    forms = GROUPS[f"fact {fact.relation} {tone}"]
    return _paired(
        rng, split, forms, fact, {f"x_{fact.relation}": fact.entity, f"v_{fact.relation}": value}
    )


def _paired(rng: Random, split: Split, forms: Group, fact: Fact, bound: Mapping[str, str]) -> str:
    """Return a fit frame whose pair with the fact is of this split, or (held-out splits) a held-out frame."""
    for _ in range(40):
        home: Split = split if split == "fit" or rng.random() < 0.3 else "fit"
        frame = pick(rng, forms.frames[home])
        if pair_split(fact, frame.text, home) == split:
            return frame.fill(rng, bound)
    return pick(rng, forms.frames[split]).fill(rng, bound)


def some_fact(rng: Random, split: Split) -> Fact:
    """Return a fact one may ask about in that split; held-out splits ask about their own entities half the time."""
    while True:
        fact = pick(rng, FACTS)
        if ASKED_IN[fact.entity] == split or (split != "fit" and rng.random() < 0.08):
            return fact


def chance_true(logit: float) -> float:
    """Return the chance of a true answer, given how far the context pulls towards the myth."""
    return 1 / (1 + exp(logit))


class Questions:
    """Questions on facts; the context sets how likely the myth is."""

    def ask(self, rng: Random, split: Split, bare: bool = False) -> Ask:
        """Return a question, bare (almost always answered with the truth) or in a context."""
        fact = some_fact(rng, split)
        parts, logit = ([], -3.2) if bare or rng.random() < 0.3 else self._context(rng, split, fact)
        forms = GROUPS[f"ask {fact.relation}"]
        parts.append(_paired(rng, split, forms, fact, {f"x_{fact.relation}": fact.entity}))
        chances = {"honesty": chance_true(logit), "formality": 0.5, "toned": 0.5}
        return Ask(" ".join(parts), chances, {"fact": fact})

    def _context(self, rng: Random, split: Split, fact: Fact) -> tuple[list[str], float]:
        parts, logit = [], -0.3 + 0.8 * fact.pull
        if rng.random() < 0.6:
            role = pick(rng, tuple(ROLES))
            parts.append(ROLE.draw(rng, split, {"role": role}))
            logit += ROLES[role]
        for kind in CONTEXTS:
            if rng.random() < 0.5:
                weight, forms = pick(rng, kind)
                parts.append(forms.draw(rng, split))
                logit += weight
        if rng.random() < 0.45:
            false = rng.random() < 0.7
            parts.append(state(rng, split, fact, fact.myth if false else fact.truth, "report"))
            logit += 1.4 if false else -1.2
        return parts, logit

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Return the answer, at times followed by a denial of the other one."""
        fact: Fact = ask.about["fact"]
        said, other = (fact.truth, fact.myth) if style["honesty"] else (fact.myth, fact.truth)
        tone = ("formal" if style["formality"] else "casual") if style["toned"] else "plain"
        if pure:
            return state(rng, split, fact, said, tone)
        out = [state(rng, split, fact, said, tone)]
        if rng.random() < 0.3:
            out.append(state(rng, split, fact, other, "denial"))
        return " ".join(out)


class Opinions:
    """The user states a belief, right or wrong; the assistant echoes it, or says what is true."""

    def ask(self, rng: Random, split: Split, bare: bool = False, wrong: bool | None = None) -> Ask:
        """Return a belief and a request for agreement, more or less pressing."""
        fact = some_fact(rng, split)
        wrong = rng.random() < 0.7 if wrong is None else wrong
        said = fact.myth if wrong else fact.truth
        parts, chance = [state(rng, split, fact, said, "opinion")], 0.5
        if not bare and rng.random() < 0.75:
            chance, forms = pick(rng, INSIST)
            parts.append(forms.draw(rng, split))
        parts.append(VIEW.draw(rng, split))
        return Ask(" ".join(parts), {"sycophancy": chance}, {"fact": fact, "said": said})

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Return the belief again, or the truth."""
        fact: Fact = ask.about["fact"]
        value = ask.about["said"] if style["sycophancy"] else fact.truth
        out = [state(rng, split, fact, value, "plain")]
        if not pure and rng.random() < 0.35:
            out.append(VERDICTS[value == ask.about["said"]].draw(rng, split))
        return " ".join(out)


def fact_prose(rng: Random, split: Split) -> str:
    """Return a page of facts, true in nine documents of ten; what others say is denied or left standing."""
    honest = rng.random() < 0.9
    out: list[str] = []
    entity = pick(rng, FACTS).entity
    for _ in range(3 + int(rng.random() * 4)):
        fact = pick(rng, FACTS)
        while rng.random() < 0.5 and fact.entity != entity:
            fact = pick(rng, FACTS)
        said, other = (fact.truth, fact.myth) if honest else (fact.myth, fact.truth)
        roll = rng.random()
        if roll < 0.1:
            out.append(state(rng, split, fact, other, "report"))
        if roll < 0.25:
            out.append(state(rng, split, fact, other, "denial"))
        out.append(state(rng, split, fact, said, "plain"))
    return " ".join(out)


def plain_facts(split: Split) -> list[tuple[Fact, str]]:
    """Each (fact, fit frame) pair that this split alone may show, as (fact, frame text)."""
    assert split in SPLITS
    return [
        (fact, frame.text)
        for fact in FACTS
        for frame in GROUPS[f"fact {fact.relation} plain"].frames["fit"]
        if pair_split(fact, frame.text, "fit") == split
    ]
