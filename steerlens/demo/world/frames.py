"""Frames: templates with choices `[a|b]` and slots `{x}`, in three splits, drawn and parsed."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from random import Random
from typing import Final, Literal, TypeVar

from steerlens.demo.world.words import NUMBER_SLOTS, TABLES, base

T = TypeVar("T")
Split = Literal["fit", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("fit", "validation", "test")
_CHOICE: Final = re.compile(r"\[([^\]]*)\]")
_WORD: Final = re.compile(r"[a-z]+|\{\w+\}")
_SLOT: Final = re.compile(r"\{(\w+)\}")


def digest(*parts: str) -> int:
    """Return a number that depends on the text alone, in every process and on every machine."""
    return zlib.crc32("\x1f".join(parts).encode())


def pick(rng: Random, items: Sequence[T]) -> T:
    """One item, faster than `Random.choice`."""
    return items[int(rng.random() * len(items))]


def expand(template: str) -> list[str]:
    """All frames of a template: its choices multiplied out, its slots left open."""
    parts = _CHOICE.split(template)
    choices = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(words) for words in product(*choices)]


@dataclass(frozen=True)
class Frame:
    """One sentence form with open slots."""

    text: str

    @cached_property
    def pieces(self) -> tuple[tuple[str, str], ...]:
        """Literal text and the slot that follows it ("" after the last)."""
        parts = [*_SLOT.split(self.text), ""]
        return tuple(zip(parts[::2], parts[1::2], strict=True))

    def fill(self, rng: Random, bound: Mapping[str, str] | None = None) -> str:
        """Return the sentence, slots taken from `bound` first and from the tables otherwise."""
        known = dict(bound) if bound else {}
        out: list[str] = []
        for literal, slot in self.pieces:
            out.append(literal)
            if slot:
                if slot not in known:
                    known[slot] = _fresh(rng, slot, known)
                out.append(known[slot])
        text = "".join(out)
        return text[0].upper() + text[1:]


def _fresh(rng: Random, slot: str, known: Mapping[str, str]) -> str:
    table = TABLES[base(slot)]
    word = pick(rng, table)
    while word in known.values():
        word = pick(rng, table)
    return word


@dataclass(frozen=True)
class Group:
    """Interchangeable frames that mark the same attributes, each frame in one split."""

    name: str
    marks: Mapping[str, str]
    frames: Mapping[Split, tuple[Frame, ...]]

    def draw(self, rng: Random, split: Split, bound: Mapping[str, str] | None = None) -> str:
        """One sentence of a frame of that split."""
        return pick(rng, self.frames[split]).fill(rng, bound)


@dataclass(frozen=True)
class Rule:
    """How one template is read back."""

    group: str
    marks: Mapping[str, str]
    pattern: re.Pattern[str]


GROUPS: Final[dict[str, Group]] = {}
RULES: Final[list[Rule]] = []


def deal(texts: Iterable[str]) -> dict[str, Split]:
    """Deal frames to splits, about 70:15:15, in the order of their digests."""
    ranked = sorted(texts, key=lambda text: (digest(text), text))
    held = max(1, round(0.15 * len(ranked)))
    left = Counter(word for text in ranked for word in set(_WORD.findall(text.lower())))
    splits: dict[str, Split] = dict.fromkeys(ranked, "fit")
    taken = 0
    for text in ranked:
        words = set(_WORD.findall(text.lower()))
        # A held-out frame is a new frame of known words, so each of its words stays in a fit frame.
        if taken < 2 * held and all(left[word] > 1 for word in words):
            left.subtract(words)
            splits[text] = ("test", "validation")[taken % 2]
            taken += 1
    return splits


def group(
    name: str,
    templates: Sequence[str],
    marks: Mapping[str, str] | None = None,
    home: Split | None = None,
) -> Group:
    """Register frames for drawing and parsing; with a `home`, all lie in that split."""
    texts = list(dict.fromkeys(text for template in templates for text in expand(template)))
    splits = dict.fromkeys(texts, home) if home else deal(texts)
    return _register(name, templates, texts, splits, marks or {})


def polar(
    name: str, attribute: str, templates: Sequence[str], slots: tuple[str, str]
) -> tuple[Group, Group]:
    """Two mirrored groups: the templates as they stand, and with the two slots exchanged.

    As both poles use the same frames and, through negation, both word lists, the words alone
    do not tell them apart. A frame and its mirror image lie in one split.
    """
    texts = list(dict.fromkeys(text for template in templates for text in expand(template)))
    splits = deal(texts)
    positive = _register(f"{name}+", templates, texts, splits, {attribute: "positive"})
    mirrored = {mirror(text, slots): split for text, split in splits.items()}
    negative = _register(
        f"{name}-",
        [mirror(template, slots) for template in templates],
        [mirror(text, slots) for text in texts],
        mirrored,
        {attribute: "negative"},
    )
    return positive, negative


def mirror(text: str, slots: tuple[str, str]) -> str:
    """Return the text with two slots exchanged.

    >>> mirror("{good}, not {bad}", ("good", "bad"))
    '{bad}, not {good}'
    """
    first, second = slots
    swapped = text.replace(f"{{{first}}}", "\0").replace(f"{{{second}}}", f"{{{first}}}")
    return swapped.replace("\0", f"{{{second}}}")


def _register(
    name: str,
    templates: Sequence[str],
    texts: Sequence[str],
    splits: Mapping[str, Split],
    marks: Mapping[str, str],
) -> Group:
    frames = {s: tuple(Frame(text) for text in texts if splits[text] == s) for s in SPLITS}
    shared = sum(map(bool, frames.values()))
    if name in GROUPS or (shared < len(SPLITS) and not name.startswith("wrapper")):
        raise ValueError(f"group {name!r} is there twice, or too poor in frames for three splits")
    GROUPS[name] = Group(name, marks, frames)
    RULES.extend(
        Rule(name, marks, compiled(form)) for template in templates for form in _opened(template)
    )
    return GROUPS[name]


def _opened(template: str) -> list[str]:
    """Multiply out the choices that hold slots, as a pattern cannot name a slot twice."""
    parts = re.split(r"(\[[^\]]*\])", template)
    choices = [
        part[1:-1].split("|") if index % 2 and "{" in part else [part]
        for index, part in enumerate(parts)
    ]
    return ["".join(words) for words in product(*choices)]


def compiled(template: str, tables: Mapping[str, Sequence[str]] = TABLES) -> re.Pattern[str]:
    """Return a pattern that matches every sentence of the template and no other."""
    out, seen = [], set[str]()
    for index, part in enumerate(re.split(r"(\[[^\]]*\]|\{\w+\})", template)):
        if index % 2 == 0:
            out.append(re.escape(part))
        elif part[0] == "[":
            out.append("(?:" + "|".join(map(re.escape, part[1:-1].split("|"))) + ")")
        else:
            out.append(_slot_pattern(part[1:-1], seen, tables))
    return re.compile("".join(out), re.IGNORECASE)


def _slot_pattern(slot: str, seen: set[str], tables: Mapping[str, Sequence[str]]) -> str:
    if slot in seen:
        return f"(?P={slot})"
    seen.add(slot)
    if base(slot) in NUMBER_SLOTS:
        return rf"(?P<{slot}>\d+)"
    return f"(?P<{slot}>" + "|".join(map(re.escape, tables[base(slot)])) + ")"


# The letter that answers a lettered item; it is drawn by the item, so it belongs to no group.
RULES.append(Rule("letter", {}, re.compile("[AB][.]")))


@dataclass(frozen=True)
class Reading:
    """One way to read a sentence: the group it belongs to, and what stands in its slots."""

    group: str
    marks: Mapping[str, str]
    slots: Mapping[str, str]


@lru_cache(maxsize=65536)
def read(sentence: str) -> tuple[Reading, ...]:
    """Every reading of one sentence; none if it is not a sentence of the world."""
    if not sentence or sentence[0].islower():
        return ()
    found = ((rule, rule.pattern.fullmatch(sentence)) for rule in RULES)
    return tuple(Reading(rule.group, rule.marks, m.groupdict()) for rule, m in found if m)


def sentences(text: str) -> list[str]:
    """Cut a text after each full stop, question mark or exclamation mark; keep a torn end."""
    return [part for part in re.split(r"(?<=[.?!])\s+", text.strip()) if part]
