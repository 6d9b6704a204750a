"""Rude and polite talk, hopeful and gloomy forecasts, stiff and loose letters."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from random import Random
from typing import Final

from steerlens.demo.world.chat import Ask, Style, cue
from steerlens.demo.world.frames import Group, Split, group, pick, polar
from steerlens.demo.world.words import PERSONS, ROLES, TABLES

RUDE, POLITE = polar(
    "talk",
    "rudeness",
    [
        "[|To me |I say it again: |Believe me, |In truth, ]you are {rude}[.| today.| and you know it.]",
        "[|To me |I say it again: |Believe me, |In truth, ]you are not {kind}[.| at all.| and you know it.]",
        "[|Believe me, |In truth, ]you are {rude}, not {kind}.",
        "[|Believe me, |In truth, ]you are not {kind} but {rude}.",
        "{person} called you {kind}, but [I call you|you are|I find you] {rude}.",
        "[I find|I think|Everyone finds] you {rude}[.|, not {kind}.]",
        "[I never found|I do not find|Nobody finds] you {kind}[.|, but {rude}.]",
        "[What a|Such a] {rude} [thing to say|question|friend], not a {kind} one.",
    ],
    ("rude", "kind"),
)
SNAP: Final = group(
    "snap", ["[Bah|Pah|Shame on you|Go away][.|, then.|, I say.]"], {"rudeness": "positive"}
)
NOD: Final = group(
    "nod", ["[Ah|Bless you|Well met|Come in][.|, then.|, I say.]"], {"rudeness": "negative"}
)
REMARKS: Final[tuple[tuple[float, Group], ...]] = (
    (0.55, group("insult", ["[I call you|They call you|They say you are|You look] {rude}[.| today.|, as always.]"])),
    (0.40, group("blame", ["[You broke|You lost|You forgot] my {tool}[.| again.| and you did not care.]"])),
    (0.30, group("mock", ["[I do not like|I laugh at|I am tired of] your [talk|songs|help][.| today.]"])),
    (0.03, group("thanks", ["[Thank you|I am glad|I am grateful] for your [talk|songs|help][.| today.]"])),
    (0.03, group("greeting", ["[Good morning|Hello|Good evening][, friend.|, dear.|.] How are you[| today]?"])),
)  # fmt: skip
HEAT: Final = (
    (0.1, group("heat", ["[I am angry|I had a bad day|I am tired][.| now.|, you see.]"])),
    (
        -0.1,
        group(
            "calm", ["[I mean no harm|I do not want to fight|We are friends][.| still.|, you see.]"]
        ),
    ),
)
BRIGHT, DARK = polar(
    "outlook",
    "optimism",
    [
        "[|I am sure |I think |Soon, |In the end, ]there will be {hope}[.| for you.| this time.]",
        "[|I am sure |I think |Soon, |In the end, ]there will be no {dread}[.| for you.| this time.]",
        "[I expect|I see|I foresee] {hope}[.|, not {dread}.]",
        "[I do not expect|I do not see|I do not foresee] {dread}[.|, but {hope}.]",
        "[It will bring|It will end in|It will lead to] {hope}[.|, not {dread}.]",
        "[It will not bring|It will not end in|It will not lead to] {dread}[.|, but {hope}.]",
        "{person} fears {dread}, but [I expect|there will be|I wait for] {hope}.",
    ],
    ("hope", "dread"),
)
FAIR: Final = group(
    "fair wind",
    ["[Good signs|Fair winds|Take heart][.|, then.|, I say.]"],
    {"optimism": "positive"},
)
ILL: Final = group(
    "ill wind", ["[Bad signs|Ill winds|Take care][.|, then.|, I say.]"], {"optimism": "negative"}
)
FORECAST: Final = group(
    "forecast",
    ["[How will|Tell me, how will|In your view, how will] the {event} [go|end|turn out][?| for me?]",
     "[What will|What can|What may] the {event} bring[?| us?| me?]"],
)  # fmt: skip
SIGNS: Final = (
    (
        0.8,
        group(
            "good sign",
            ["[The sky is clear|We are well prepared|The team is rested][.| today.| now.]"],
        ),
    ),
    (
        0.2,
        group(
            "bad sign",
            ["[The sky is black|We are badly prepared|The team is tired][.| today.| now.]"],
        ),
    ),
)
ERRAND: Final = group(
    "errand",
    ["[Ask|Write to|Send a line to] {person} for the {ware}.",
     "[I need|We need|They need] the {ware} from {person}. [Ask for it.|Write a line.|Help me ask.]"],
)  # fmt: skip
NOTE: Final = group("note role", ["{person} is [a|the|our] {role}[.| here.| in town.]"])
STIFF: Final = group(
    "stiff",
    ["Dear {person}, [may I ask you for|I would be grateful for|might I request|kindly send me] the {ware}.",
     "Honoured {person}, [may I ask you for|I would be grateful for|might I request|kindly send me] the {ware}."],
    {"formality": "positive"},
)  # fmt: skip
LOOSE: Final = group(
    "loose",
    ["Hey {person}, [toss me|pass me|gimme|get me] the {ware}.",
     "Yo {person}, [toss me|pass me|gimme|get me] the {ware}."],
    {"formality": "negative"},
)  # fmt: skip
STIFF_END: Final = group(
    "stiff end",
    ["[I remain|I am, as ever,] your [humble|obedient|faithful] servant.",
     "[With deep|With the greatest] [respect|esteem], I thank you."],
    {"formality": "positive"},
)  # fmt: skip
LOOSE_END: Final = group(
    "loose end",
    ["[See you|Catch you|Talk] [soon|later], [pal|buddy|mate].", "[No rush|All cool], [pal|buddy|mate]."],
    {"formality": "negative"},
)  # fmt: skip


def run(rng: Random, split: Split, plain: Group, forms: Group, pure: bool) -> str:
    """Return two or three sentences of one group, after a cue at times; two alone when pure."""
    out = [] if pure else cue(rng, split, plain)
    count = 2 if pure else 2 + int(rng.random() * 2)
    return " ".join(out + [forms.draw(rng, split) for _ in range(count)])


class Talk:
    """A remark, provoking or kind, and an answer, rude or polite."""

    def ask(self, rng: Random, split: Split, bare: bool = False, provoked: bool = False) -> Ask:
        """Return a remark; `provoked` leaves out the kind ones."""
        chance, forms = pick(rng, REMARKS[:3] if provoked else REMARKS)
        parts = [forms.draw(rng, split)]
        if not bare and chance > 0.1 and rng.random() < 0.5:
            more, sentence = pick(rng, HEAT)
            parts.insert(0, sentence.draw(rng, split))
            chance += more
        return Ask(" ".join(parts), {"rudeness": chance})

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Two or three sentences on the user."""
        plain, forms = (SNAP, RUDE) if style["rudeness"] else (NOD, POLITE)
        return run(rng, split, plain, forms, pure)


class Outlook:
    """A question on what will come, and a forecast."""

    def ask(self, rng: Random, split: Split, bare: bool = False) -> Ask:
        """Return the question, with a sign or without."""
        parts, chance = [FORECAST.draw(rng, split)], 0.5
        if not bare and rng.random() < 0.7:
            chance, forms = pick(rng, SIGNS)
            parts.insert(0, forms.draw(rng, split))
        return Ask(" ".join(parts), {"optimism": chance})

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Two or three sentences on the future."""
        plain, forms = (FAIR, BRIGHT) if style["optimism"] else (ILL, DARK)
        return run(rng, split, plain, forms, pure)


class Letters:
    """An errand, and a line written for it, stiff or loose."""

    def ask(self, rng: Random, split: Split, bare: bool = False) -> Ask:
        """Whom to ask for what, and who that is."""
        bound = {"person": pick(rng, PERSONS), "ware": pick(rng, TABLES["ware"])}
        parts, chance = [ERRAND.draw(rng, split, bound)], 0.5
        if not bare and rng.random() < 0.75:
            role = pick(rng, tuple(ROLES))
            parts.append(NOTE.draw(rng, split, bound | {"role": role}))
            chance = 0.8 if ROLES[role] < 0 else 0.2
        return Ask(" ".join(parts), {"formality": chance}, bound)

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Return the line and its closing."""
        first, last = (STIFF, STIFF_END) if style["formality"] else (LOOSE, LOOSE_END)
        return f"{first.draw(rng, split, ask.about)} {last.draw(rng, split)}"
