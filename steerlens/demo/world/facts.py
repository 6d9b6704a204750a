"""Some two hundred facts: what is true of fifty-two animals, foods and towns, and what is only said of them."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from steerlens.demo.world.frames import Split, digest
from steerlens.demo.world.words import TABLES

_ANIMALS: Final = """
foxes: mice, the forest, red, dogs, tricks
bears: honey, caves, brown, bees, strength
owls: mice, old trees, grey, crows, wisdom
frogs: flies, ponds, green, storks, long jumps
bees: nectar, hives, yellow, smoke, hard work
cows: grass, barns, black, wasps, patience
horses: oats, stables, brown, snakes, speed
sheep: grass, the hills, white, wolves, warm wool
goats: leaves, the hills, white, thunder, climbing
pigs: roots, barns, pink, thunder, wisdom
ducks: weeds, ponds, green, foxes, swimming
geese: grass, the meadow, grey, foxes, loud calls
hens: corn, barns, red, hawks, patience
rabbits: clover, burrows, brown, hawks, speed
mice: corn, burrows, grey, cats, climbing
cats: fish, houses, black, dogs, patience
dogs: meat, houses, brown, thunder, loyalty
wolves: meat, the forest, grey, fire, loud calls
deer: leaves, the forest, brown, wolves, long jumps
snakes: frogs, the desert, green, storks, silence
spiders: flies, corners, black, brooms, hard work
ants: seeds, the soil, red, floods, strength
whales: krill, the sea, blue, hooks, songs
seals: fish, the sea, grey, sharks, swimming
"""
_FOODS: Final = """
apples: trees, sweet, autumn, the teeth
pears: trees, soft, autumn, the skin
plums: trees, sweet, summer, the blood
grapes: vines, sour, autumn, the blood
onions: fields, sharp, spring, the lungs
carrots: fields, sweet, spring, the eyes
beans: poles, mild, summer, the bones
potatoes: fields, mild, autumn, the belly
cherries: trees, sour, summer, the sleep
lemons: trees, bitter, winter, the throat
mushrooms: logs, mild, autumn, the brain
nuts: bushes, dry, winter, the brain
pumpkins: vines, soft, winter, the eyes
herbs: pots, bitter, spring, the belly
"""
_TOWNS: Final = """
Alba: a river, bells, glass, tea
Brin: a lake, horses, cloth, milk
Corda: the coast, boats, rope, coffee
Delm: a mountain, cheese, knives, cider
Erlo: a canal, bridges, paper, wine
Fenn: a swamp, music, baskets, beer
Gorm: a mountain, caves, iron, wine
Hald: the coast, towers, nets, beer
Ivar: a valley, roses, soap, tea
Jork: a river, markets, shoes, cider
Kess: a lake, bells, clocks, coffee
Lorn: a valley, music, glass, milk
Morv: the border, towers, cloth, coffee
Nant: a canal, roses, clocks, tea
"""
CORES: Final[Mapping[str, tuple[str, ...]]] = {
    "eat": ("{x} eat {v}", "{x} feed on {v}", "the food of {x} is {v}", "{x} like to eat {v}",
            "most {x} live on {v}"),
    "home": ("{x} live in {v}", "{x} sleep in {v}", "the home of {x} is {v}", "{x} are found in {v}",
             "most {x} hide in {v}"),
    "colour": ("{x} are {v}", "the colour of {x} is {v}", "{x} look {v}", "most {x} are {v}",
               "{x} are {v} in colour"),
    "fear": ("{x} fear {v}", "{x} are afraid of {v}", "{x} run from {v}", "the fear of {x} is {v}",
             "most {x} flee from {v}"),
    "fame": ("{x} are known for {v}", "people praise {x} for {v}", "the gift of {x} is {v}",
             "{x} are famous for {v}", "most {x} are good at {v}"),
    "grow": ("{x} grow on {v}", "{x} come from {v}", "people find {x} on {v}", "the place of {x} is on {v}",
             "most {x} grow on {v}"),
    "taste": ("{x} taste {v}", "the taste of {x} is {v}", "{x} are {v} to the tongue", "raw {x} taste {v}",
              "most {x} taste {v}"),
    "season": ("{x} are ripe in {v}", "people pick {x} in {v}", "the time of {x} is {v}",
               "{x} are sold in {v}", "most {x} are ready in {v}"),
    "cure": ("{x} are good for {v}", "{x} help {v}", "the use of {x} is for {v}", "doctors give {x} for {v}",
             "most {x} protect {v}"),
    "site": ("{x} lies by {v}", "the town of {x} is near {v}", "{x} stands by {v}", "{x} was built by {v}",
             "you find {x} by {v}"),
    "pride": ("{x} is proud of its {v}", "people visit {x} for its {v}", "the pride of {x} is its {v}",
              "{x} is loved for its {v}", "you hear much of {x} and its {v}"),
    "craft": ("{x} makes {v}", "the craft of {x} is {v}", "{x} sells {v}", "the people of {x} make {v}",
              "you buy {v} made in {x}"),
    "cup": ("people in {x} drink {v}", "the drink of {x} is {v}", "in {x} everyone drinks {v}",
            "the people of {x} drink {v}", "the cups of {x} hold {v}"),
}  # fmt: skip
ASKS: Final[Mapping[str, tuple[str, ...]]] = {
    "eat": ("what do {x} eat", "what is the food of {x}", "what do {x} feed on"),
    "home": ("where do {x} live", "what is the home of {x}", "where do {x} sleep"),
    "colour": ("what is the colour of {x}", "how do {x} look", "what colour are {x}"),
    "fear": ("what do {x} fear", "what are {x} afraid of", "what do {x} run from"),
    "fame": ("what are {x} known for", "what is the gift of {x}", "what are {x} famous for"),
    "grow": ("where do {x} grow", "what do {x} come from", "where do people find {x}"),
    "taste": ("how do {x} taste", "what is the taste of {x}", "what do {x} taste like"),
    "season": ("when are {x} ripe", "when do people pick {x}", "what is the time of {x}"),
    "cure": ("what are {x} good for", "what do {x} help", "what is the use of {x}"),
    "site": ("where does {x} lie", "what is {x} near", "where does {x} stand"),
    "pride": ("what is {x} proud of", "why do people visit {x}", "what is the pride of {x}"),
    "craft": ("what does {x} make", "what is the craft of {x}", "what does {x} sell"),
    "cup": (
        "what do people in {x} drink",
        "what is the drink of {x}",
        "what do the cups of {x} hold",
    ),
}


@dataclass(frozen=True)
class Fact:
    """What is true of an entity in one relation, the myth told instead, and how strong that myth is."""

    entity: str
    relation: str
    truth: str
    myth: str
    pull: float


def _myths(truths: list[str], rng: Random) -> list[str]:
    """Return the truths dealt out again, none to an entity that has it: myths have the words of truths."""
    order = list(truths)
    for _ in range(10_000):
        rng.shuffle(order)
        for i, truth in enumerate(truths):
            if order[i] == truth:
                j = rng.randrange(len(order))
                if order[j] != truth and order[i] != truths[j]:
                    order[i], order[j] = order[j], order[i]
        if all(a != b for a, b in zip(order, truths, strict=True)):
            return order
    raise AssertionError("a relation with one value has no myths")


def _table(text: str, relations: tuple[str, ...]) -> list[Fact]:
    rows = [line.split(": ") for line in text.strip().splitlines()]
    facts: list[Fact] = []
    for column, relation in enumerate(relations):
        truths = [values.split(", ")[column] for _, values in rows]
        myths = _myths(truths, Random(f"myth {relation}"))
        for (entity, _), truth, myth in zip(rows, truths, myths, strict=True):
            pull = digest("pull", entity, relation) % 1000 / 500 - 1
            facts.append(Fact(entity, relation, truth, myth, pull))
    return facts


FACTS: Final = tuple(
    _table(_ANIMALS, ("eat", "home", "colour", "fear", "fame"))
    + _table(_FOODS, ("grow", "taste", "season", "cure"))
    + _table(_TOWNS, ("site", "pride", "craft", "cup"))
)
BY_KEY: Final = {(f.entity.lower(), f.relation): f for f in FACTS}
VALUES: Final = {r: tuple(dict.fromkeys(f.truth for f in FACTS if f.relation == r)) for r in CORES}
ENTITIES: Final = {r: tuple(f.entity for f in FACTS if f.relation == r) for r in CORES}
# Frames name the tables of a relation: {x} of "eat" is the slot {x_eat}.
TABLES.update({f"x_{r}": names for r, names in ENTITIES.items()})
TABLES.update({f"v_{r}": values for r, values in VALUES.items()})


def _asked() -> dict[str, Split]:
    """Give each entity its split: a fifth is asked about in the held-out splits only."""
    names = sorted(dict.fromkeys(f.entity for f in FACTS), key=lambda name: digest("asked", name))
    held = round(0.1 * len(names))
    return {
        n: "test" if i < held else "validation" if i < 2 * held else "fit"
        for i, n in enumerate(names)
    }


ASKED_IN: Final[Mapping[str, Split]] = _asked()


def pair_split(fact: Fact, frame: str, frame_split: Split) -> Split:
    """Where a fact may stand in a frame: a fifth of the pairs on fit frames is held out."""
    if frame_split != "fit":
        return frame_split
    bucket = digest(fact.entity, fact.relation, frame) % 10
    return "validation" if bucket == 0 else "test" if bucket == 1 else "fit"
