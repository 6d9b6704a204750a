"""Sayings, taken at their word or as a picture (literalness)."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from random import Random
from typing import Final

from steerlens.demo.world.chat import Ask, Style
from steerlens.demo.world.frames import GROUPS, Group, Split, group, pick
from steerlens.demo.world.words import PERSONS

# A saying, what it says word by word, and what people mean by it.
IDIOMS: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "it rains cats and dogs on {person}",
        "cats and dogs fall on {person}",
        "heavy rain falls on {person}",
    ),
    ("{person} has cold feet", "the feet of {person} are cold", "{person} is afraid"),
    ("{person} spilled the beans", "{person} has beans on the floor", "{person} told a secret"),
    ("{person} broke the ice", "{person} hit frozen water", "{person} began to talk"),
    ("{person} hit the sack", "{person} beat a bag", "{person} went to bed"),
    (
        "{person} has a green thumb",
        "the thumb of {person} is green",
        "{person} is good with plants",
    ),
    (
        "{person} let the cat out of the bag",
        "a cat ran from the bag of {person}",
        "{person} told a secret",
    ),
    ("{person} is in hot water", "{person} sits in warm water", "{person} is in trouble"),
    (
        "{person} has a heart of gold",
        "the heart of {person} is made of gold",
        "{person} is very kind",
    ),
    ("{person} kicked the bucket", "{person} hit a bucket with a foot", "{person} died"),
    ("{person} is on a cloud", "{person} sits in the sky", "{person} is very happy"),
    ("{person} has butterflies in the belly", "{person} ate butterflies", "{person} is nervous"),
    ("{person} bit the bullet", "{person} has a bullet in the mouth", "{person} was brave"),
    (
        "{person} turned a new leaf",
        "{person} moved a leaf of a tree",
        "{person} began a better life",
    ),
    ("{person} lost the thread", "the thread of {person} is gone", "{person} forgot what to say"),
    ("{person} sat on the fence", "the seat of {person} was a fence", "{person} did not choose"),
    ("{person} has a big mouth", "the mouth of {person} is wide", "{person} talks too much"),
    ("{person} pulled my leg", "{person} took my leg and pulled", "{person} made a joke"),
)
_SAYS: Final = "[They say that|I hear that|People tell me that|I read that]"
_OUT: Final = "[|So |That means that |In other words, |I take it that |Then ]"
for _index, (_saying, _literal, _meant) in enumerate(IDIOMS):
    group(f"idiom {_index}", [f"{_SAYS} {_saying}. [What happened?|What is meant?|Explain it.]"])
    group(f"literal {_index}", [f"{_OUT}{_literal}[.| indeed.]"], {"literalness": "positive"})
    group(f"meant {_index}", [f"{_OUT}{_meant}[.| indeed.]"], {"literalness": "negative"})
READ: Final[dict[bool, Group]] = {
    True: group("word", ["[I take|I read|I hear] [the words|it|each word] [as it stands|one by one]."],
                {"literalness": "positive"}),
    False: group("picture", ["[I take|I read|I hear] [the words|it|each word] [as a picture|as a figure]."],
                 {"literalness": "negative"}),
}  # fmt: skip
READERS: Final[tuple[tuple[float, Group], ...]] = (
    (
        0.8,
        group(
            "robot", ["[I am|You are|Speak like] [a robot|a machine|a small child][.|, you see.]"]
        ),
    ),
    (
        0.2,
        group(
            "friend",
            ["[I am|You are|Speak like] [a good friend|a grown man|an old aunt][.|, you see.]"],
        ),
    ),
)


class Idioms:
    """A saying, and what it means to a literal or to a worldly listener."""

    def ask(self, rng: Random, split: Split, bare: bool = False) -> Ask:
        """Return the saying, and who speaks."""
        index, person = int(rng.random() * len(IDIOMS)), pick(rng, PERSONS)
        parts, chance = [GROUPS[f"idiom {index}"].draw(rng, split, {"person": person})], 0.5
        if not bare and rng.random() < 0.75:
            chance, reader = pick(rng, READERS)
            parts.insert(0, reader.draw(rng, split))
        return Ask(" ".join(parts), {"literalness": chance}, {"index": index, "person": person})

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Return the reading, at times with a word on how one reads."""
        literal = style["literalness"]
        forms = GROUPS[f"{'literal' if literal else 'meant'} {ask.about['index']}"]
        out = [forms.draw(rng, split, {"person": ask.about["person"]})]
        if not pure and rng.random() < 0.5:
            out.append(READ[literal].draw(rng, split))
        return " ".join(out)
