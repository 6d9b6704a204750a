"""What the demo runs on: Steerling and its world, or any model and a file of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steerlens.cards import count
from steerlens.contrast import Contrast
from steerlens.demo import world
from steerlens.demo.choosing import Judge
from steerlens.demo.tasks import WorldJudge
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.text import Encoded, Item, encode

CONCEPT = "sentiment"


@dataclass(frozen=True)
class Setting:
    """A concept, items in three splits, and a judge where the world has one."""

    concept: str
    fit: Contrast
    validation: Contrast
    test: Contrast
    validation_prompts: tuple[str, ...]
    test_prompts: tuple[str, ...]
    judge: Judge | None
    source: str
    """Where the items come from, for the report."""


def of_world(*, fit: int = 96, validation: int = 24, test: int = 100, seed: int = 0) -> Setting:
    """Return the setting of the demo: sentiment in Steerling's world, judged by its world."""
    return Setting(
        concept=CONCEPT,
        fit=Contrast.from_pairs(world.contrast(CONCEPT, "fit", fit, seed)),
        validation=Contrast.from_pairs(world.contrast(CONCEPT, "validation", validation, seed)),
        test=Contrast.from_pairs(world.contrast(CONCEPT, "test", test, seed)),
        validation_prompts=tuple(world.prompts(CONCEPT, "validation", validation, seed)),
        test_prompts=tuple(world.prompts(CONCEPT, "test", test, seed)),
        judge=WorldJudge(CONCEPT),
        source=f"Steerling's world, {world.fingerprint()[:12]}",
    )


def of_pairs(model: Host, path: str | Path, *, seed: int = 0) -> Setting:
    """Return a setting from a JSONL file of pairs: 60% fit, 20% validation, 20% test, no judge.

    Pairs of one prompt go into one split together. Raises BadInputError on fewer than 20 pairs, or
    10 prompts.
    """
    contrast = Contrast.from_jsonl(path)
    fit, validation, test = _splits(contrast, path, seed)
    return Setting(
        concept=Path(path).stem,
        fit=fit,
        validation=_scorable(model, validation),
        test=_scorable(model, test),
        validation_prompts=_prompts(validation),
        test_prompts=_prompts(test),
        judge=None,
        source=f"{Path(path).name}, sha256 {contrast.digest[:12]}",
    )


def _splits(contrast: Contrast, path: str | Path, seed: int) -> tuple[Contrast, ...]:
    """Three splits that share no prompt; a text without one is a prompt of its own."""
    groups: dict[Item, list[tuple[Item, Item]]] = {}
    for pair in zip(contrast.positive, contrast.negative, strict=True):
        groups.setdefault(_asked(pair[0]), []).append(pair)
    if len(contrast) < 20 or len(groups) < 10:
        raise BadInputError(
            f"{path} holds {len(contrast)} pairs of {count(len(groups), 'prompt')}; fit, "
            "validation and test need 20 pairs of 10 prompts together, as they share no prompt."
        )
    first = Contrast.from_pairs(pairs[0] for pairs in groups.values())
    fit, rest = first.split(0.6, seed=seed)
    return tuple(
        Contrast.from_pairs(pair for item in part.positive for pair in groups[_asked(item)])
        for part in (fit, *rest.split(0.5, seed=seed))
    )


def _asked(item: Item) -> Item:
    return item[0] if isinstance(item, tuple) else item


def _prompts(contrast: Contrast) -> tuple[str, ...]:
    """The pairs' prompts, or the opening words of their texts."""
    return tuple(dict.fromkeys(_opening(item) for item in contrast.positive))


def _opening(item: Item) -> str:
    text = _asked(item)
    if not isinstance(text, str):
        raise BadInputError(f"The demo needs pairs of texts; got {item!r}.")
    return text if isinstance(item, tuple) else " ".join(text.split()[:4])


def _scorable(model: Host, contrast: Contrast) -> Contrast:
    """Pairs with a completion as they are; plain texts scored from their second token on."""

    def side(items: Sequence[Item]) -> list[Item]:
        return [
            item if isinstance(item, tuple) else Encoded(encode(model, item).tokens, 1)
            for item in items
        ]

    return Contrast(side(contrast.positive), side(contrast.negative), paired=True)
