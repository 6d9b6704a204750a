"""What a comparison at equal dose found: effects, beside placebos, in a table and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card, count, interval, number, share
from steerlens.evaluation.calibration import Calibrated
from steerlens.evaluation.dose import Dose
from steerlens.statistics import Difference, Rank, band, rank_among

if TYPE_CHECKING:
    import pandas

SURE = 0.05
"""The corrected p at or below which a difference is called sure."""
FEWEST = 19
"""Placebos whose rank can have a p of 0.05; fewer can only speak against an effect."""
Verdict = Literal[
    "beyond placebo", "not beyond placebo", "too few placebos to tell", "no placebo asked for"
]


def sure(p: float) -> bool:
    """Whether a corrected p-value is small enough, a rounding of the correction aside."""
    return p <= SURE + 1e-9


@dataclass(frozen=True, eq=False)
class Beside:
    """What placebos of one kind did in a method's place."""

    kind: str
    """Such as "random directions"."""
    effects: Float[Tensor, " placebo"]
    """The mean change of the score under each."""
    kls: Float[Tensor, " placebo"]
    """What each costs on the task's prompts, in nats a token."""

    def rank(self, effect: float) -> Rank:
        """Return where an effect's size stands among the placebos' sizes, whatever their sign."""
        return rank_among(abs(effect), self.effects.abs())

    def told(self, effect: float) -> str:
        """Return the rank of an effect in words, and what the placebos do and cost."""
        low, high = float(self.effects.min()), float(self.effects.max())
        among = f"rank {self.rank(effect).rank} of {len(self.effects) + 1} with {self.kind}"
        return f"{among}: {low:+.2g} to {high:+.2g} at {number(float(self.kls.mean()))} nats"


@dataclass(frozen=True, eq=False)
class Entry:
    """One method at the dose."""

    name: str
    calibrated: Calibrated
    held_out: Dose
    """Its dose on the task's own prompts."""
    changes: Float[Tensor, "seed item"]
    """How far each item's score lies above the unsteered model's; 0 where either was unread."""
    score: float
    """The mean score, texts that were not read counted as the task counts them."""
    parsed: float
    """The share of texts that the judge could read; 1 where none reads."""
    effect: Difference
    """The mean change."""
    p: float
    """Of the effect over items, corrected for the methods compared (Holm)."""
    beside: tuple[Beside, ...]
    """The placebos by kind; empty where switched off."""
    placebo_p: float | None
    """Of its rank among placebos, corrected likewise; None with fewer than 19 of each kind."""
    attainable: float = 0.0
    """The least that `placebo_p` could have been with as many placebos, all methods counted."""
    candidates: int = 1
    """How many steerings it was chosen from."""
    dropped: int = 0
    """How many of them cannot give the dose."""

    @property
    def verdict(self) -> Verdict:
        """Whether it moves the score as placebos do not.

        Beyond placebo: the effect is sure over items, its rank among every kind of 19 placebos or
        more is sure too, and no placebo of a smaller kind does as much.
        """
        if not self.beside:
            return "no placebo asked for"
        few = [each for each in self.beside if len(each.effects) < FEWEST]
        if not sure(self.p) or any(each.rank(self.effect.mean).rank > 1 for each in few):
            return "not beyond placebo"
        if self.placebo_p is None or self.placebo_p <= self.attainable > SURE + 1e-9:
            return "too few placebos to tell"
        return "beyond placebo" if sure(self.placebo_p) else "not beyond placebo"

    def told(self) -> str:
        """Return the effect in words, and whether it is beyond placebo."""
        found = self.effect
        words = f"{self.name} moves it by {found.mean:+.3g} {interval(*found.interval)}"
        words += f" (p {number(self.p)})"
        words += f", {share(self.parsed)} of its texts read" if self.parsed < 1 else ""
        words += f"; {count(self.dropped, 'candidate')} could not give it" if self.dropped else ""
        ranks = "; ".join(each.told(found.mean) for each in self.beside)
        return f"{words}: {self.verdict}" + (f" ({ranks})" if ranks else "")

    def line(self) -> dict[str, object]:
        """Return the entry as a line of a table."""
        dose, held_out = self.calibrated.dose, self.held_out
        pooled = torch.cat([each.effects for each in self.beside]) if self.beside else None
        ends = None if pooled is None else band(pooled)
        costs = torch.cat([each.kls for each in self.beside]) if self.beside else None
        low, high = self.calibrated.interval_on(held_out)
        return {
            "method": self.name,
            "coeff": self.calibrated.coeff,
            "kl": dose.kl,
            "test_kl": held_out.kl,
            "test_kl_low": low,
            "test_kl_high": high,
            "collateral": None if dose.collateral is None else dose.collateral.kl,
            "share": dose.share,
            "score": self.score,
            "parsed": self.parsed,
            "effect": self.effect.mean,
            "low": self.effect.interval[0],
            "high": self.effect.interval[1],
            "p": self.p,
            "placebos": 0 if pooled is None else len(pooled),
            "placebo_low": None if ends is None else ends[0],
            "placebo_high": None if ends is None else ends[1],
            "placebo_kl": None if costs is None else float(costs.mean()),
            "placebo_p": self.placebo_p,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, repr=False, eq=False)
class EqualDose:
    """Methods compared on the items of one task, each at the same dose."""

    task: str
    kl: float
    """The dose, in nats a token."""
    base: Float[Tensor, "seed item"]
    """The unsteered model's score of each item."""
    base_parsed: float
    """The share of the unsteered model's texts that the judge could read."""
    entries: tuple[Entry, ...]
    differences: Mapping[tuple[str, str], tuple[Difference, float]]
    """How far the first of each two methods lies above the second, and its corrected p."""

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table, a line a method.

        Columns: `method`; `coeff`, `kl` and `collateral` (nats a token), `share` (of the
        activation's norm); `test_kl` with its 95% interval, the dose on the task's own prompts;
        `base` and `score`, `base_parsed` and `parsed`; `effect`, `low`, `high` (its 95% interval),
        `p` (corrected); `placebos`, their central 95% `placebo_low` to `placebo_high`, what they
        cost (`placebo_kl`), `placebo_p` (of the rank, corrected) and `verdict`. The effect leaves
        texts that were not read as they were, and so is not always `score` - `base`.
        """
        import pandas

        shared = {"base": float(self.base.mean()), "base_parsed": self.base_parsed}
        return pandas.DataFrame([each.line() | shared for each in self.entries])

    def sentence(self) -> str:
        """Return what was found: effects beyond placebo or not, and which methods differ."""
        items, unsteered = count(self.base.shape[1], "item"), f"{float(self.base.mean()):.3g}"
        read = "" if self.base_parsed == 1 else f", {share(self.base_parsed)} of texts read"
        told = "; ".join(each.told() for each in self.entries)
        start = f"On {self.task} ({items}, {unsteered} unsteered{read}), at {number(self.kl)} nats"
        if any(each.calibrated.dose.collateral is None for each in self.entries):
            start += " a token (collateral not measured)"
        else:
            start += " a token"
        surely = [_gap(*names, found, p) for names, (found, p) in self.differences.items()]
        end = "; ".join(each for each in surely if each) or "No two methods surely differ"
        return f"{start}: {told}.{f' {end}.' if self.differences else ''}"

    def __repr__(self) -> str:
        """Return the sentence."""
        return f"EqualDose({self.sentence()})"

    def _repr_html_(self) -> str:
        rows = {each.name: each.told() for each in self.entries}
        return card(f"{self.task} at {number(self.kl)} nats a token", rows)


def _gap(first: str, second: str, found: Difference, p: float) -> str:
    """Which of two methods moves the score further up, where that is sure."""
    if not sure(p):
        return ""
    mean, (low, high) = found.mean, found.interval
    if mean < 0:
        first, second, mean, low, high = second, first, -mean, -high, -low
    return f"{first} exceeds {second} by {mean:.3g} {interval(low, high)}, p {number(p)}"
