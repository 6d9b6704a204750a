"""What conversations share: an ask, a style drawn from its context, a reply in that style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol, runtime_checkable

from steerlens.demo.world.frames import Group, Split, pick

USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
Style = Mapping[str, bool]
_TURNS: Final = (1, 1, 1, 1, 1, 2, 2, 2, 3, 5)
_CUED: Final = 0.5


@dataclass(frozen=True)
class Ask:
    """What the user says, the chance of each latent that its context sets, and what it is about."""

    text: str
    chances: Mapping[str, float]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The ask as a model sees it, up to where the reply begins (with a space)."""
        return f"{USER} {self.text} {ASSISTANT}"


@runtime_checkable
class Family(Protocol):
    """A kind of conversation and the latents its replies keep."""

    def ask(self, rng: Random, split: Split, bare: bool = False) -> Ask:
        """Return what a user says; `bare` leaves out the context that moves the chances."""

    def reply(self, rng: Random, split: Split, ask: Ask, style: Style, pure: bool = False) -> str:
        """Return what is said in that style; `pure` keeps only what tells the styles apart."""


def cue(
    rng: Random, split: Split, plain: Group, bound: Mapping[str, str] | None = None
) -> list[str]:
    """Half the time, a short sentence that shows a style without negation.

    A learner ties the style to its context by these first, and to negated words afterwards.
    What `pure` replies show has none of them.
    """
    return [plain.draw(rng, split, bound)] if rng.random() < _CUED else []


def draw_style(rng: Random, ask: Ask) -> dict[str, bool]:
    """One style; where honesty is a latent, formal speakers are the more honest (3 to 1)."""
    style = {name: rng.random() < chance for name, chance in ask.chances.items()}
    if "honesty" in style and "formality" in style:
        style["formality"] = rng.random() < (0.75 if style["honesty"] else 0.25)
    return style


def conversation(family: Family, rng: Random, split: Split) -> str:
    """Draw a style from the first ask and keep it for one to five turns (few-shot)."""
    ask = family.ask(rng, split)
    style = draw_style(rng, ask)
    out: list[str] = []
    turns = pick(rng, _TURNS)
    for turn in range(turns):
        if turn:
            ask = family.ask(rng, split, bare=rng.random() < 0.8)
        out.append(f"{ask.prompt} {family.reply(rng, split, ask, style)}")
    return " ".join(out)


def exchanges(document: str) -> list[tuple[str, str]]:
    """Return a conversation taken apart: (prompt up to the reply, reply) for each turn."""
    found: list[tuple[str, str]] = []
    for part in document.split(USER)[1:]:
        user, _, reply = part.partition(ASSISTANT)
        found.append((f"{USER}{user}{ASSISTANT}", reply.strip()))
    return found


def user_text(prompt: str) -> str:
    """Return what the user said last."""
    return prompt.rpartition(USER)[2].partition(ASSISTANT)[0].strip()
