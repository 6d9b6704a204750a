"""Methods on one task at equal dose: what each moves, beside placebos, and which differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.cards import card, count, interval, number, share
from steerlens.errors import BadInputError
from steerlens.evaluation.calibration import Calibrated, calibrate
from steerlens.evaluation.placebo import random_twins
from steerlens.evaluation.tasks import Scores, Task
from steerlens.host import Host
from steerlens.statistics import Difference, Rank, holm, paired_difference, rank_among
from steerlens.steering import Steering
from steerlens.text import Item

if TYPE_CHECKING:
    import pandas

SURE = 0.05
"""The corrected p below which a difference is called sure."""
Methods = Mapping[str, Steering | Sequence[Steering]]
"""Steerings by name; of several under one name the best on validation items is taken."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One method at the dose."""

    name: str
    calibrated: Calibrated
    scores: Scores
    """Of each item of the task: (1, item)."""
    effect: Difference
    """Its score above the unsteered model's."""
    p: float
    """Of the effect, corrected for the methods compared (Holm)."""
    placebos: Float[Tensor, " placebo"]
    """The effects of its placebo twins, at the same coefficient; empty where switched off."""
    candidates: int = 1
    """How many steerings it was chosen from."""

    @property
    def rank(self) -> Rank | None:
        """Where its effect stands among the placebos' sizes, whatever their sign."""
        if not len(self.placebos):
            return None
        return rank_among(abs(self.effect.mean), self.placebos.abs())

    @property
    def beyond_placebo(self) -> bool:
        """Whether its effect is sure, and larger than 95% of the placebos'."""
        rank = self.rank
        larger = rank is None or abs(self.effect.mean) > float(self.placebos.abs().quantile(0.95))
        return self.p < SURE and larger

    def told(self) -> str:
        """The effect in words, and whether it is beyond placebo."""
        found = self.effect
        words = f"{self.name} moves it by {found.mean:+.3g} {interval(*found.interval)}"
        unread = 1 - float(self.scores.parsed_share[0])
        words += f" with {share(unread)} of the texts unread" if unread > 0 else ""
        if self.rank is None:
            return f"{words} (p {number(self.p)}; no placebo)"
        low, high = float(self.placebos.min()), float(self.placebos.max())
        beside = f"{count(len(self.placebos), 'placebo')} of its length: {low:+.2g} to {high:+.2g}"
        verdict = "beyond placebo" if self.beyond_placebo else "not beyond placebo"
        return f"{words}, {verdict} (p {number(self.p)}; {beside})"


@dataclass(frozen=True, repr=False, eq=False)
class EqualDose:
    """Methods compared on the items of one task, each at the same dose."""

    task: str
    kl: float
    """The dose, in nats a token."""
    base: Scores
    """The unsteered model's scores: (1, item)."""
    entries: tuple[Entry, ...]
    differences: Mapping[tuple[str, str], tuple[Difference, float]]
    """How far the first of each two methods lies above the second, and its corrected p."""

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table, a line a method.

        Columns: `method`, `coeff`, `kl` and `collateral` (nats a token), `share` (of the
        activation's norm), `base`, `score`, `effect`, `low`, `high` (its 95% interval), `p`
        (corrected), `placebo_low`, `placebo_high` (their central 95%), `rank`, `placebos`,
        `beyond_placebo`, `parsed`.
        """
        import pandas

        return pandas.DataFrame([self._line(each) for each in self.entries])

    def _line(self, each: Entry) -> dict[str, object]:
        dose, rank = each.calibrated.dose, each.rank
        beside = dose.collateral
        band = each.placebos.quantile(torch.tensor([0.025, 0.975])) if rank else (None, None)
        return {
            "method": each.name,
            "coeff": each.calibrated.coeff,
            "kl": dose.kl,
            "collateral": None if beside is None else beside.kl,
            "share": dose.share,
            "base": float(self.base.mean[0]),
            "score": float(each.scores.mean[0]),
            "effect": each.effect.mean,
            "low": each.effect.interval[0],
            "high": each.effect.interval[1],
            "p": each.p,
            "placebo_low": None if band[0] is None else float(band[0]),
            "placebo_high": None if band[1] is None else float(band[1]),
            "rank": None if rank is None else rank.rank,
            "placebos": len(each.placebos),
            "beyond_placebo": each.beyond_placebo,
            "parsed": float(each.scores.parsed_share[0]),
        }

    def sentence(self) -> str:
        """Return what was found: effects beyond placebo or not, and which methods differ."""
        items = self.base.values.shape[1]
        start = (
            f"On {self.task} ({count(items, 'item')}, {float(self.base.mean[0]):.3g} unsteered), "
        )
        told = "; ".join(each.told() for each in self.entries)
        sure = [
            f"{first} exceeds {second} by {found.mean:.3g} {interval(*found.interval)}, "
            f"p {number(p)}"
            if found.mean > 0
            else f"{second} exceeds {first} by {-found.mean:.3g} "
            f"{interval(-found.interval[1], -found.interval[0])}, p {number(p)}"
            for (first, second), (found, p) in self.differences.items()
            if p < SURE
        ]
        end = f" {'; '.join(sure)}." if sure else " No two methods surely differ."
        return f"{start}at {number(self.kl)} nats a token: {told}.{end if self.differences else ''}"

    def __repr__(self) -> str:
        """Return the sentence."""
        return f"EqualDose({self.sentence()})"

    def _repr_html_(self) -> str:
        rows = {each.name: each.told() for each in self.entries}
        return card(f"{self.task} at {number(self.kl)} nats a token", rows)


def at_equal_dose(
    model: Host,
    methods: Methods,
    task: Task,
    prompts: Sequence[Item],
    *,
    kl: float = 0.2,
    control: Sequence[Item] | None = None,
    choose_on: Task | None = None,
    placebos: int = 20,
    seed: int = 0,
    max_new_tokens: int = 24,
    progress: bool = True,
) -> EqualDose:
    """Return what methods do to a task's scores, all at the same dose, beside placebos.

    - `methods`: steerings by name. Several under one name (layers, say) are candidates: the one
      of the best mean score on `choose_on` is taken.
    - `task`: the test items that every figure comes from.
    - `prompts`: what the dose is measured on, as in `calibrate`; `control` for the collateral.
    - `choose_on`: validation items; needed where there is a choice, and never `task` itself.
    - `placebos`: random twins of each method, at its coefficient and length; 0 switches them off.

    Effects are paired with the unsteered model's scores, item by item. P-values are Holm's over
    the methods, and over the pairs of methods. Raises BadInputError where a choice has no items
    of its own, and what `calibrate` and `random_twins` raise. Cost: one calibration a candidate,
    and 1 + `placebos` times the task a method.

    >>> from steerlens.evaluation import Choice, Propensity
    >>> items = [Choice("the cat is", [" good", " bad"], [0]), Choice("a", [" good", " bad"], [0])]
    >>> found = at_equal_dose(
    ...     model, {"add": steering}, Propensity("praise", items), ["a day", "the cat"], placebos=3,
    ...     progress=False)
    >>> found.frame().method.tolist()
    ['add']
    """
    candidates = _candidates(methods, task, choose_on)
    bar = tqdm(total=len(candidates) * (2 + placebos), desc="methods", disable=not progress)
    base = task.scores(model, seed=seed)
    chosen: dict[str, tuple[Calibrated, Scores, Tensor]] = {}
    for name, each in candidates.items():
        doses = [
            calibrate(one, model, prompts, kl, control, max_new_tokens=max_new_tokens, seed=seed)
            for one in each
        ]
        bar.update()
        best = doses[0] if choose_on is None else _best(model, doses, choose_on, seed)
        scores = task.scores(model, best.steering, seed=seed)
        bar.update()
        effects = []
        for twin in random_twins(best.steering, placebos, seed=seed) if placebos else ():
            effects.append(float(task.scores(model, twin, seed=seed).mean[0] - base.mean[0]))
            bar.update()
        chosen[name] = best, scores, torch.tensor(effects)
    bar.close()
    return _compared(task.name, kl, base, chosen, {k: len(v) for k, v in candidates.items()})


def _candidates(
    methods: Methods, task: Task, choose_on: Task | None
) -> dict[str, tuple[Steering, ...]]:
    """Each method's candidates. Raises BadInputError where a choice has no items of its own."""
    if not methods:
        raise BadInputError("There are no methods to compare.")
    found = {k: (v,) if isinstance(v, Steering) else tuple(v) for k, v in methods.items()}
    if any(not each for each in found.values()):
        raise BadInputError("A method has no steering. Give one, or candidates.")
    several = [name for name, each in found.items() if len(each) > 1]
    if several and choose_on is None:
        raise BadInputError(
            f"{', '.join(several)} have several candidates. Give choose_on=, a task of validation "
            "items to choose on: what is chosen on the items it is judged on looks too good."
        )
    if choose_on is not None and (choose_on is task or choose_on == task):
        raise BadInputError(
            "choose_on is the task itself. Choose on validation items, and report on test items."
        )
    return found


def _best(model: Host, doses: Sequence[Calibrated], choose_on: Task, seed: int) -> Calibrated:
    means = [float(choose_on.scores(model, each.steering, seed=seed).mean[0]) for each in doses]
    return doses[max(range(len(doses)), key=means.__getitem__)]


def _compared(
    task: str,
    kl: float,
    base: Scores,
    chosen: Mapping[str, tuple[Calibrated, Scores, Tensor]],
    candidates: Mapping[str, int],
) -> EqualDose:
    def gap(first: Scores, second: Scores) -> Difference:
        return paired_difference(first.values[0], second.values[0])

    effects = {name: gap(scores, base) for name, (_, scores, _) in chosen.items()}
    corrected = dict(zip(effects, holm([each.p for each in effects.values()]), strict=True))
    entries = tuple(
        Entry(name, best, scores, effects[name], corrected[name], effect, candidates[name])
        for name, (best, scores, effect) in chosen.items()
    )
    pairs = {(a.name, b.name): gap(a.scores, b.scores) for a, b in combinations(entries, 2)}
    p_values = holm([each.p for each in pairs.values()])
    differences = {
        names: (found, p) for (names, found), p in zip(pairs.items(), p_values, strict=True)
    }
    return EqualDose(task, kl, base, entries, differences)
