"""Signals with a course: over generated steps, or with a state that a text carries along.

A state is kept a row and a text, where passes over it end, so that a cached pass, a padded
batch and a single long pass give the same values (law 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.cards import number
from steerlens.errors import BadInputError, warn
from steerlens.positions import Window
from steerlens.signals.gates import Probe
from steerlens.signals.moment import Moment
from steerlens.signals.signal import Combining, Signal, Values, signal
from steerlens.signals.walks import parts


def steps(window: Window) -> Int[Tensor, "batch pos"]:
    """Return the number of the new token that each position predicts; below 0 in the prompt.

    The last prompt token is step 0: its output is the first new token.
    """
    return window.from_prompt_end() + 1


@dataclass(frozen=True)
class Decay(Combining):
    """1 in the prompt, and half as much after every `half_life` new tokens."""

    half_life: float

    def __post_init__(self) -> None:
        """Raise BadInputError on a half-life of 0 or less."""
        if not self.half_life > 0:
            raise BadInputError(f"A half-life is above 0 tokens; got {self.half_life}.")

    def __call__(self, moment: Moment) -> Values:
        """Return 0.5 ** (step / half_life)."""
        later = steps(moment.placed).clamp_min(0).to(moment.x.dtype)
        return torch.pow(0.5, later / self.half_life)

    def __repr__(self) -> str:
        """Return `decay(half_life=8)`."""
        return f"decay(half_life={number(self.half_life)})"


@dataclass(frozen=True)
class Steps(Combining):
    """1 from one generated step up to another, 0 elsewhere; step 0 is the last prompt token."""

    start: int
    stop: int | None = None

    def __post_init__(self) -> None:
        """Raise BadInputError where it ends before it starts."""
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise BadInputError(
                f"Steps({self.start}, {self.stop}) holds no step: steps count from 0, the last "
                "prompt token, up to and without the second number."
            )

    def __call__(self, moment: Moment) -> Values:
        """Return zeros and ones."""
        step = steps(moment.placed)
        end = torch.iinfo(step.dtype).max if self.stop is None else self.stop
        inside = (step >= self.start) & (step < end)
        return inside.to(moment.x.dtype)

    def __repr__(self) -> str:
        """Return `steps(0, 8)`."""
        return f"steps({self.start}{'' if self.stop is None else f', {self.stop}'})"


@dataclass(frozen=True)
class Schedule(Combining):
    """One value a generated step, the last one from there on; the prompt has the first.

    >>> sl.add(directions["resid_post", 2]).when(Schedule([1.0, 0.5, 0.0]))
    Steering(1 * schedule(1, 0.5, 0) * add('direction') @ blocks.2.hook_resid_post[everywhere])
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        """Raise BadInputError unless the values are finite numbers, one or more."""
        if not len(self.values) or not all(map(isfinite, self.values)):
            raise BadInputError(f"A schedule holds one finite number or more; got {self.values}.")
        object.__setattr__(self, "values", tuple(self.values))

    def __call__(self, moment: Moment) -> Values:
        """Return each step's value."""
        step = steps(moment.placed).clamp(0, len(self.values) - 1)
        return torch.tensor(self.values, device=step.device, dtype=moment.x.dtype)[step]

    def __repr__(self) -> str:
        """Return the values."""
        return f"schedule({', '.join(map(number, self.values))})"


@dataclass(frozen=True, eq=False)
class Latch(Combining):
    """The largest value of a gate so far in the row: once open, it stays as open."""

    gate: Signal

    def __post_init__(self) -> None:
        """Take numbers and functions as signals. Raises BadInputError on anything else."""
        object.__setattr__(self, "gate", signal(self.gate))

    def __call__(self, moment: Moment) -> Float[Tensor, "batch pos"]:
        """Return the running maximum, pads and BOS left out; 0 before any other token."""
        values = _each(self.gate, moment)
        window = moment.placed
        before = moment.recall(self)
        unseen = -torch.inf
        first = torch.full_like(values[:, :1], unseen) if before is None else before[:, None]
        whole = torch.cat([first, values.masked_fill(~window.words, unseen)], 1).cummax(1).values
        moment.keep(self, whole[:, -1])
        return whole[:, 1:].masked_fill(whole[:, 1:] == unseen, 0)

    def __repr__(self) -> str:
        """Return `latch(gate)`."""
        return f"latch({self.gate!r})"


@dataclass(frozen=True, eq=False)
class Hysteresis(Combining):
    """Opens where a score rises above one bound, shuts where it falls below a lower one."""

    score: Signal
    opens: float
    shuts: float

    def __post_init__(self) -> None:
        """Raise BadInputError where the bounds are the wrong way round."""
        object.__setattr__(self, "score", signal(self.score))
        if not self.shuts <= self.opens:
            raise BadInputError(
                f"It opens above {self.opens} and shuts below {self.shuts}: in between it would "
                "do both. Give the lower bound for shutting."
            )

    def __call__(self, moment: Moment) -> Float[Tensor, "batch pos"]:
        """Return 1 while open and 0 while shut; it begins shut."""
        score, window = _each(self.score, moment), moment.placed
        event = (score > self.opens).int() - (score < self.shuts).int()
        event = event.masked_fill(~window.words, 0)
        before = moment.recall(self)
        first = torch.full_like(event[:, :1], -1) if before is None else before[:, None]
        events = torch.cat([first, event], 1)
        column = torch.arange(events.shape[1], device=events.device).expand_as(events)
        latest = torch.where(events != 0, column, 0).cummax(1).values
        state = events.gather(1, latest)
        moment.keep(self, state[:, -1])
        return (state[:, 1:] > 0).to(moment.x.dtype)

    def __repr__(self) -> str:
        """Return score and bounds."""
        return f"hysteresis({self.score!r}, {number(self.opens)}, {number(self.shuts)})"


@dataclass(frozen=True, eq=False)
class OfPrompt(Combining):
    """A signal of the prompt as one vector, held for the rest of the row.

    The vector is the mean over the prompt's tokens (BOS left out) or its last token. Warns of a
    probe that was fitted to last tokens alone and would meet means, which it does not know.
    """

    signal: Signal
    pool: Literal["mean", "last"] = "mean"

    def __post_init__(self) -> None:
        """Raise BadInputError on another way to pool."""
        object.__setattr__(self, "signal", signal(self.signal))
        if self.pool not in ("mean", "last"):
            raise BadInputError(f"A prompt is pooled by 'mean' or 'last'; got {self.pool!r}.")
        if self.pool == "mean" and any(_of_last_tokens(part) for part, _ in parts(self, "")):
            warn(
                f"{self!r} asks a probe about the mean over a prompt, and it was fitted to last "
                "tokens: it may open on every prompt. Give OfPrompt(probe, 'last'), or "
                "Probe.fit(..., positions='everywhere')."
            )

    def __call__(self, moment: Moment) -> Float[Tensor, "batch 1"]:
        """Return one value a row. Raises BadInputError on a prompt that comes in pieces."""
        held = moment.recall(self)
        if held is None:
            held = self.signal(self._prompt(moment))[:, 0]
        moment.keep(self, held)
        return held[:, None]

    def _prompt(self, moment: Moment) -> Moment:
        """The prompt as a text of one token, at every hook point."""
        window = moment.placed

        def elsewhere(name: str) -> Tensor:
            return _pooled(moment.at(name).x, window, self.pool)[:, None]

        return Moment(_pooled(moment.x, window, self.pool)[:, None], elsewhere=elsewhere)

    def __repr__(self) -> str:
        """Return `of_prompt(signal)`."""
        return f"of_prompt({self.signal!r}, {self.pool!r})"


def _of_last_tokens(part: object) -> bool:
    """Whether a part of a signal is a probe that `Probe.fit` read at one token an item."""
    told = part.direction.provenance if isinstance(part, Probe) else {}
    return told.get("method") == "Probe.fit" and told.get("positions") == "last_prompt_token"


def _each(signal: Signal, moment: Moment) -> Float[Tensor, "batch pos"]:
    return signal(moment).expand(moment.x.shape[:2])


def _pooled(
    x: Float[Tensor, "batch pos *unit"], window: Window, pool: str
) -> Float[Tensor, "batch *unit"]:
    """The prompt's vector, a row each."""
    place = window.from_prompt_end()
    if bool((place.max(1).values < -1).any()):
        raise BadInputError(
            "A signal of the whole prompt needs the prompt in one pass, and this pass ends before "
            "the prompt does. Run the prompt at once."
        )
    if pool == "last":
        weight = (place == -1) & window.real
    else:
        words = (place < 0) & window.words
        weight = torch.where(words.any(1, keepdim=True), words, (place < 0) & window.real)
    share = weight.to(x.dtype) / weight.sum(1, keepdim=True)
    share = share.reshape(*share.shape, *[1] * (x.ndim - 2))
    return torch.where(share > 0, share * x, 0).sum(1)
