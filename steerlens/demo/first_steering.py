"""The demo: find a direction, choose layer and dose, steer both ways, and tell what came out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from steerlens.demo.choosing import Cell, best, completed, propensity, score, steer, sweep
from steerlens.demo.setting import Setting
from steerlens.directions import Direction, Directions, find_directions
from steerlens.evaluation import Completion, completions, divergence, random_like
from steerlens.host import Host
from steerlens.provenance import provenance
from steerlens.statistics import Interval, mean_interval, share_interval
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
        """Return Wilson's 95% interval of that share."""
        return share_interval(self.verdicts.count(verdict), len(self.verdicts))


@dataclass(frozen=True)
class Outcome:
    """All that the demo found, for the terminal and the report."""

    setting: Setting
    directions: Directions
    cells: tuple[Cell, ...]
    chosen: Cell
    conditions: tuple[Condition, Condition, Condition]
    """Base, steered up, steered down."""
    placebos: tuple[Condition, ...]
    """Random directions of the same norm, added at the same place and dose."""
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

    Cost: on Steerling one to three minutes on two cores, most of it generating 2,000 completions.
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
        seed=seed,
        progress=progress,
    )
    chosen = best(cells, kl_budget=kl_budget, parsed=0.0 if setting.judge is None else 0.8)
    direction = directions["resid_post", chosen.layer]
    tests = _Tests(model, setting, seed, max_new_tokens)
    base = tests.under("base", None)
    up = tests.under(f"steered +{chosen.coeff:.3g}", steer(direction, chosen.coeff), base)
    down = tests.under(f"steered -{chosen.coeff:.3g}", steer(direction, -chosen.coeff), base)
    placebos = [
        tests.under("random direction", steer(random, chosen.coeff), base)
        for random in random_like(direction, RANDOM_DIRECTIONS, seed=seed)
    ]
    steering = steer(direction, chosen.coeff)
    with steering.trace(model) as trace:
        completions(model, setting.test_prompts[:1], max_new_tokens=max_new_tokens, seed=seed)
    return Outcome(
        setting=setting,
        directions=directions,
        cells=tuple(cells),
        chosen=chosen,
        conditions=(base, up, down),
        placebos=tuple(placebos),
        trace=trace,
        steering=steering,
        provenance=provenance(model),
        seed=seed,
    )


@dataclass(frozen=True)
class _Tests:
    """Completes and judges the test prompts, the same dice for every condition."""

    model: Host
    setting: Setting
    seed: int
    max_new_tokens: int

    def under(
        self, name: str, steering: Steering | None, base: Condition | None = None
    ) -> Condition:
        """Return a condition: unsteered, or steered and priced on the base completions."""
        written = completions(
            self.model,
            self.setting.test_prompts,
            steering,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            batch_rows=128,
        )
        judge = self.setting.judge
        verdicts = () if judge is None else tuple(judge(w.prompt, w.text) for w in written)
        mean, interval = mean_interval(self._measured(verdicts, steering), seed=self.seed)
        kl = 0.0
        if steering is not None and base is not None:
            kl = float(divergence(self.model, steering, completed(base.completions)).mean())
        return Condition(name, tuple(written), verdicts, mean, interval, kl)

    def _measured(self, verdicts: tuple[str, ...], steering: Steering | None) -> Tensor:
        """Each completion's score, or without a judge each test pair's propensity."""
        if verdicts:
            return torch.tensor([score(verdict) for verdict in verdicts])
        with nullcontext() if steering is None else steering.on(self.model):
            return propensity(self.model, self.setting.test)
