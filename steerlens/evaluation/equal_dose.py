"""Methods on one task at equal dose: what each moves, beside placebos, and which differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.errors import BadInputError, OutOfReachError, warn
from steerlens.evaluation.calibration import Calibrated, calibrate
from steerlens.evaluation.dose import forced, measured
from steerlens.evaluation.findings import FEWEST, Beside, Entry, EqualDose
from steerlens.evaluation.forcing import Forced
from steerlens.evaluation.placebo import random_twins
from steerlens.evaluation.tasks import Scores, Task, check_task, contents
from steerlens.host import Host
from steerlens.statistics import holm, paired_difference
from steerlens.steering import Steering
from steerlens.text import Item, listed

Methods = Mapping[str, Steering | Sequence[Steering]]
"""Steerings by name; of several under one name the best on validation items is taken."""
Placebos = Mapping[str, Callable[[Steering], Sequence[Steering]]]
"""What makes placebos of a steering, by kind."""


def at_equal_dose(
    model: Host,
    methods: Methods,
    task: Task,
    prompts: Iterable[Item],
    *,
    kl: float = 0.2,
    control: Iterable[Item] | None = None,
    choose_on: Task | None = None,
    lower: bool = False,
    placebos: int | None = None,
    others: Placebos | None = None,
    seeds: Sequence[int] = (0,),
    max_new_tokens: int = 24,
    progress: bool = True,
) -> EqualDose:
    """Return what methods do to a task's scores, all at the same dose, beside placebos.

    - `methods`: steerings by name. Several under one name (layers, say) are candidates: the one
      of the largest mean change on `choose_on` is taken (with `lower` the smallest). Candidates
      that cannot give the dose are left out, and counted.
    - `task`: the test items that every figure comes from.
    - `prompts`: what the dose is calibrated on, as in `calibrate`; `control` for the collateral.
      On the task's own prompts it is measured again.
    - `choose_on`: validation items; needed where there is a choice, with no item of `task`.
    - `placebos`: random twins of each method, at its coefficient and length; 0 switches them off.
      By default 20 a method compared, less one: as few as can make a rank sure after Holm's
      correction.
    - `others`: further placebos of the chosen steering, by kind; shuffled labels or an unrelated
      concept: `{"shuffled labels": lambda chosen: [twin(chosen, each) for each in shuffled]}`.
    - `seeds`: of the texts that are written, one run each; the first decides all other dice.

    Effects are paired with the unsteered model's scores, item by item; an item that the judge
    could not read on either side counts as unchanged. P-values are Holm's over the methods, and
    over the pairs of methods. Warns where the dose is calibrated on items of the task. Raises
    BadInputError where a choice has no items of its own or no candidate gives the dose, and what
    `random_twins` raises. Cost: one calibration a candidate, and 1 + `placebos` times the task a
    method and seed.

    >>> from steerlens.evaluation import Choice, Propensity
    >>> items = [Choice("the cat is", [" good", " bad"], [0]), Choice("a", [" good", " bad"], [0])]
    >>> found = at_equal_dose(
    ...     model, {"add": steering}, Propensity("praise", items), ["a day", "the dog"],
    ...     placebos=3, progress=False)
    >>> found.frame().verdict.tolist()
    ['not beyond placebo']
    """
    check_task(task, "task")
    if choose_on is not None:
        check_task(choose_on, "choose_on")
    candidates = _candidates(methods, task, choose_on)
    prompts = listed(prompts, "A dose is calibrated on")
    control = None if control is None else listed(control, "The collateral is measured on")
    _warn_of_shared(task, prompts)
    twins = 20 * len(candidates) - 1 if placebos is None else placebos
    kinds = dict(others or {})
    if twins:
        random = partial(random_twins, count=twins, seed=seeds[0])
        kinds = {"random directions": random, **kinds}
    prices = forced(model, task.prompts, max_new_tokens, seeds[0], 4096, False)
    trial = _Trial(model, task, tuple(seeds), kinds, prices)
    on = partial(calibrate, max_new_tokens=max_new_tokens, seed=seeds[0])
    entries = []
    with tqdm(total=2 * len(candidates), desc="methods", disable=not progress) as bar:
        for name, each in candidates.items():
            doses = _reaching(name, [partial(on, one, model, prompts, kl, control) for one in each])
            bar.update()
            best = doses[0]
            if choose_on is not None:
                best = _best(model, doses, choose_on, lower, seeds[0])
            entry = trial.entry(name, best, bar)
            dropped = len(each) - len(doses)
            entries.append(replace(entry, candidates=len(each), dropped=dropped))
    return _corrected(EqualDose(task.name, kl, trial.base, trial.read, tuple(entries), {}))


class _Trial:
    """The test items under the model as it is, and what any steering changes of them."""

    def __init__(
        self, model: Host, task: Task, seeds: tuple[int, ...], kinds: Placebos, prices: Forced
    ) -> None:
        self.forced = prices
        self.model, self.task, self.seeds, self.kinds = model, task, seeds, kinds
        self.unsteered = [task.scores(model, seed=seed) for seed in seeds]
        self.base = torch.stack([each.values[0] for each in self.unsteered])
        self.read = _parsed(self.unsteered)

    def entry(self, name: str, best: Calibrated, bar: Any) -> Entry:
        """Return what a calibrated steering does, and its placebos beside it; nothing corrected."""
        [held_out] = measured(best.steering, [1.0], self.forced, None)
        scores = self._scores(best.steering)
        changes = self._changes(scores)
        bar.update()
        beside = tuple(self._beside(k, make(best.steering), bar) for k, make in self.kinds.items())
        effect = paired_difference(changes, torch.zeros_like(changes))
        ranks = [each.rank(effect.mean) for each in beside if len(each.effects) >= FEWEST]
        return Entry(
            name=name,
            calibrated=best,
            held_out=held_out,
            changes=changes,
            score=float(torch.stack([each.values[0] for each in scores]).mean()),
            parsed=_parsed(scores),
            effect=effect,
            p=effect.p,
            beside=beside,
            placebo_p=max((each.p for each in ranks), default=None),
            attainable=max((1 / (each.placebos + 1) for each in ranks), default=0.0),
        )

    def _beside(self, kind: str, twins: Sequence[Steering], bar: Any) -> Beside:
        effects, kls = [], []
        bar.total += len(twins)
        for twin in twins:
            effects.append(self._changes(self._scores(twin)).mean())
            kls.append(measured(twin, [1.0], self.forced, None)[0].kl)
            bar.update()
        if not effects:
            raise BadInputError(f"There are no placebos of {kind}. Give some, or leave it out.")
        return Beside(kind, torch.stack(effects), torch.tensor(kls))

    def _scores(self, steering: Steering) -> list[Scores]:
        return [self.task.scores(self.model, steering, seed=seed) for seed in self.seeds]

    def _changes(self, scores: Sequence[Scores]) -> Float[Tensor, "seed item"]:
        pairs = zip(self.unsteered, scores, strict=True)
        return torch.stack([changes(base, steered) for base, steered in pairs])


def changes(base: Scores, steered: Scores) -> Float[Tensor, " item"]:
    """Return how far each item's score rises; 0 where either side's text was not read.

    Text that a steering broke is no success, whichever way it is meant to move the score.

    >>> read = Scores(torch.tensor([[0.0, 0.0]]), torch.tensor([[True, True]]))
    >>> changes(read, Scores(torch.tensor([[1.0, 1.0]]), torch.tensor([[True, False]])))
    tensor([1., 0.])
    """
    gaps = steered.values[0] - base.values[0]
    for each in (base, steered):
        if each.parsed is not None:
            gaps = gaps.where(each.parsed[0], 0.0)
    return gaps


def _parsed(scores: Sequence[Scores]) -> float:
    return float(torch.stack([each.parsed_share[0] for each in scores]).mean())


def _candidates(
    methods: Methods, task: Task, choose_on: Task | None
) -> dict[str, tuple[Steering, ...]]:
    """Each method's candidates. Raises BadInputError where a choice has no items of its own."""
    if not isinstance(methods, Mapping) or not methods:
        raise BadInputError(
            "There are no methods to compare. Give steerings by name: {'mean': sl.add(direction)}."
        )
    found = {k: tuple(v) if isinstance(v, Sequence) else (v,) for k, v in methods.items()}
    for name, each in found.items():
        wrong = next((one for one in each if not isinstance(one, Steering)), None)
        if wrong is not None or not each:
            got = "nothing" if wrong is None else repr(wrong)
            raise BadInputError(
                f"Method {name!r} is given {got}. Give a steering, such as sl.add(direction), or "
                "several to choose from."
            )
    several = [name for name, each in found.items() if len(each) > 1]
    if several and choose_on is None:
        raise BadInputError(
            f"{', '.join(several)} have several candidates. Give choose_on=, a task of validation "
            "items to choose on: what is chosen on the items it is judged on looks too good."
        )
    shared = set() if choose_on is None else contents(choose_on) & contents(task)
    if shared:
        raise BadInputError(
            f"choose_on has {len(shared)} of the task's own items, such as {min(shared)[:60]}. "
            "Choose on validation items, and report on test items."
        )
    return found


def _warn_of_shared(task: Task, prompts: Sequence[Item]) -> None:
    shared = {repr(each) for each in prompts} & {repr(each) for each in task.prompts}
    if shared:
        warn(
            f"The dose is calibrated on {len(shared)} of the task's own prompts: on others it may "
            "be another. Calibrate on validation prompts."
        )


def _reaching(name: str, calibrations: Sequence[Callable[[], Calibrated]]) -> list[Calibrated]:
    """The candidates that can give the dose. Raises what the first said where none can."""
    found, failed = [], []
    for each in calibrations:
        try:
            found.append(each())
        except OutOfReachError as error:
            failed.append(error)
    if not found:
        raise OutOfReachError(f"Method {name!r} cannot be compared. {failed[0]}") from failed[0]
    return found


def _best(
    model: Host, doses: Sequence[Calibrated], choose_on: Task, lower: bool, seed: int
) -> Calibrated:
    base = choose_on.scores(model, seed=seed)
    sign = -1 if lower else 1

    def change(each: Calibrated) -> float:
        mean = changes(base, choose_on.scores(model, each.steering, seed=seed)).mean()
        return float((sign * mean).nan_to_num(nan=-torch.inf))

    return max(doses, key=change) if len(doses) > 1 else doses[0]


def _corrected(found: EqualDose) -> EqualDose:
    """The comparison with p-values corrected for its methods, and their differences."""
    entries = found.entries
    over_items = holm([each.p for each in entries])
    over_ranks = holm([1.0 if each.placebo_p is None else each.placebo_p for each in entries])
    settled = tuple(
        replace(
            each,
            p=p,
            placebo_p=None if each.placebo_p is None else rank_p,
            attainable=min(1.0, each.attainable * len(entries)),
        )
        for each, p, rank_p in zip(entries, over_items, over_ranks, strict=True)
    )
    gaps = {
        (a.name, b.name): paired_difference(a.changes, b.changes)
        for a, b in combinations(entries, 2)
    }
    p_values = holm([each.p for each in gaps.values()])
    pairs = zip(gaps.items(), p_values, strict=True)
    return replace(
        found, entries=settled, differences={names: (gap, p) for (names, gap), p in pairs}
    )
