"""The demo: find a direction, choose layer and dose, steer both ways, and tell what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerlens.demo.choosing import Cell, best, completed, propensity, score, steer, sweep
from steerlens.demo.setting import Setting
from steerlens.directions import Direction, Directions, find_directions
from steerlens.evaluation import Completion, completions, divergence
from steerlens.host import Host, provenance
from steerlens.statistics import Interval, mean_interval
from steerlens.steering import Steering
from steerlens.trace import Trace

KL_BUDGET = 1.0
"""The most that a dose may cost on validation items, in nats a token."""
RANDOM_DIRECTIONS = 5
VERDICTS = ("positive", "neutral", "negative", "unparsed")


@dataclass(frozen=True)
class Condition:
    """Test prompts completed under one condition."""

    name: str
    completions: tuple[Completion, ...]
    verdicts: tuple[str, ...]
    """The judge's word on each; empty without a judge."""
    measure: float
    """Mean score (a verdict's 1, 0 or -1) or propensity (nats a token), with its interval."""
    interval: Interval
    kl: float
    """KL from base on base completions, nats a token."""

    def share(self, verdict: str) -> float:
        """Return the share of completions with a verdict."""
        return self.verdicts.count(verdict) / max(1, len(self.verdicts))

    def share_interval(self, verdict: str) -> Interval:
        """Return the bootstrap 95% interval of that share."""
        return mean_interval(torch.tensor([float(v == verdict) for v in self.verdicts]))[1]


@dataclass(frozen=True)
class Outcome:
    """All that the demo found, for the terminal and the report."""

    setting: Setting
    directions: Directions
    cells: tuple[Cell, ...]
    chosen: Cell
    conditions: tuple[Condition, ...]
    """base, steered up, steered down, random directions."""
    trace: Trace
    steering: Steering
    provenance: dict[str, str]
    seed: int

    @property
    def direction(self) -> Direction:
        """The direction at the chosen layer."""
        return self.directions["resid_post", self.chosen.layer]


def run(
    model: Host,
    setting: Setting,
    *,
    seed: int = 0,
    max_new_tokens: int = 28,
    kl_budget: float = KL_BUDGET,
    progress: bool = True,
) -> Outcome:
    """Find on the fit split, choose on validation, report on test.

    Cost: on Steerling about a minute on two cores, most of it generating 3,000 completions.
    """
    directions = find_directions(
        model, setting.fit, name=setting.concept, seed=seed, progress=progress
    )
    prompts = setting.validation_prompts
    cells = sweep(
        model,
        directions,
        prompts,
        setting.validation,
        setting.judge,
        max_new_tokens=max_new_tokens,
        progress=progress,
    )
    chosen = best(cells, kl_budget=kl_budget, parsed=0.0 if setting.judge is None else 0.8)
    direction = directions["resid_post", chosen.layer]
    tests = _Tests(model, setting, seed, max_new_tokens)
    conditions = (
        tests.base(),
        tests.under(f"steered +{chosen.coeff:.3g}", [steer(direction, chosen.coeff)]),
        tests.under(f"steered -{chosen.coeff:.3g}", [steer(direction, -chosen.coeff)]),
        tests.under("random directions", _random_steerings(direction, chosen.coeff, seed)),
    )
    steering = steer(direction, chosen.coeff)
    with steering.trace(model) as trace:
        completions(model, setting.test_prompts[:1], max_new_tokens=max_new_tokens, seed=seed)
    return Outcome(
        setting=setting,
        directions=directions,
        cells=tuple(cells),
        chosen=chosen,
        conditions=conditions,
        trace=trace,
        steering=steering,
        provenance=provenance(model),
        seed=seed,
    )


@dataclass
class _Tests:
    """Completes and judges the test prompts, the same dice for every condition."""

    model: Host
    setting: Setting
    seed: int
    max_new_tokens: int
    reference: tuple[Completion, ...] = ()

    def base(self) -> Condition:
        """Return the unsteered condition, and keep it as the reference for KL."""
        written = self._written(self.setting.test_prompts, None)
        self.reference = tuple(written)
        return self._condition("base", written, self._propensity([None]), 0.0)

    def under(self, name: str, steerings: Sequence[Steering]) -> Condition:
        """Return a steered condition; several steerings share the prompts between them."""
        written: list[Completion | None] = [None] * len(self.setting.test_prompts)
        costs = []
        for k, steering in enumerate(steerings):
            mine = self.setting.test_prompts[k :: len(steerings)]
            written[k :: len(steerings)] = self._written(mine, steering)
            items = completed(self.reference[k :: len(steerings)])
            costs.append(divergence(self.model, steering, items).mean())
        cost = float(torch.stack(costs).mean())
        return self._condition(name, [w for w in written if w], self._propensity(steerings), cost)

    def _written(self, prompts: Sequence[str], steering: Steering | None) -> list[Completion]:
        return completions(
            self.model,
            prompts,
            steering,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            batch_rows=128,
        )

    def _propensity(self, steerings: Sequence[Steering | None]) -> Tensor | None:
        """Without a judge: the test pairs' propensities, shared between the steerings."""
        if self.setting.judge is not None:
            return None
        values = []
        for steering in steerings:
            if steering is None:
                values.append(propensity(self.model, self.setting.test))
            else:
                with steering.on(self.model):
                    values.append(propensity(self.model, self.setting.test))
        return torch.stack(values).mean(0)

    def _condition(
        self, name: str, written: Sequence[Completion], measured: Tensor | None, kl: float
    ) -> Condition:
        judge = self.setting.judge
        verdicts = () if judge is None else tuple(judge(w.prompt, w.text) for w in written)
        if measured is None:
            measured = torch.tensor([score(verdict) for verdict in verdicts])
        mean, interval = mean_interval(measured, seed=self.seed)
        return Condition(name, tuple(written), verdicts, mean, interval, kl)


def _random_steerings(direction: Direction, coeff: float, seed: int) -> list[Steering]:
    """Random directions of the same norm, at the same place and dose."""
    generator = torch.Generator().manual_seed(seed + 1)
    steerings = []
    for _ in range(RANDOM_DIRECTIONS):
        vector = torch.randn(direction.vector.shape, generator=generator)
        vector = vector * (direction.norm / vector.norm())
        steerings.append(steer(replace(direction, vector=vector, name="random"), coeff))
    return steerings
