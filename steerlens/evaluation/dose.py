"""Dose: what a steering costs in nats on the prompts it is for, and collateral on others.

Two steerings are compared fairly at equal dose: a coefficient means something else for every
direction, layer and transform, a nat means the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.cards import card, count, interval, number, share
from steerlens.evaluation.forcing import Forced, Nats, base_items
from steerlens.evaluation.metrics import kl_summary
from steerlens.host import Host
from steerlens.statistics import Interval, band, expanded_level, ratio_interval, resampled_ratios
from steerlens.steering import Steering
from steerlens.text import Item


@dataclass(frozen=True, repr=False, eq=False)
class Dose:
    """KL(base || steered) on base completions, in nats, every token weighing the same."""

    coeff: float
    """What the steering was multiplied by."""
    kl: float
    """The dose: mean nats a token of the completions."""
    interval: Interval
    """Its bootstrap 95% interval over prompts; NaN where there is only one."""
    p95: float
    """The 95th percentile of the nats of single tokens."""
    share: float
    """Mean length of what is written, as a share of the activation's, over tokens and places."""
    per_prompt: Float[Tensor, " prompt"]
    """Mean nats a token of each prompt's completion."""
    tokens: Int[Tensor, " prompt"]
    """How many tokens each completion has."""
    collateral: Dose | None = None
    """The same on control prompts; None where none were given."""

    def __repr__(self) -> str:
        """Return dose and collateral, each with its interval."""
        beside = "collateral not measured: give control=..."
        if self.collateral is not None:
            beside = f"collateral {self.collateral._headline()}"
        return f"Dose({self._headline()}, at coeff {number(self.coeff)}; {beside})"

    def _headline(self) -> str:
        prompts = len(self.tokens)
        sure = f" {interval(*self.interval, digits=3)}" if prompts > 1 else ""  # one has none
        return (
            f"{number(self.kl)} nats a token{sure}, 95th percentile {number(self.p95)}, "
            f"{share(self.share)} of the activation, {count(prompts, 'prompt')}"
        )

    def _repr_html_(self) -> str:
        beside = self.collateral
        return card(
            f"Dose at coeff {number(self.coeff)}",
            {
                "on its prompts": self._headline(),
                "collateral": "not measured" if beside is None else beside._headline(),
            },
        )


def dose(
    model: Host,
    steering: Steering,
    prompts: Iterable[Item],
    *,
    control: Iterable[Item] | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> Dose:
    """Return what a steering costs on the prompts it is for, beside what it costs on others.

    - `prompts`: texts, token ids or chats to steer. The base model completes them once, at
      temperature 1, and base and steered model read those completions. One that carries a
      completion keeps it.
    - `control`: prompts that should stay as they are; the collateral is the dose on them.

    The mean is over the tokens of all completions (an EOS that the base model chose is one),
    prompts and pads left out. Under another steering that is on, base is that one. Raises
    BadInputError without prompts. Cost: one generation, and two passes over the completions.

    >>> dose(model, steering, ["a good day", "the bad cat"], control=["the cat"], seed=1)
    Dose(... nats a token [...], ... 2 prompts, at coeff 1; collateral ... 1 prompt)
    >>> dose(model, 0 * steering, ["a good day"]).kl
    0.0
    """
    [found] = doses(
        model,
        steering,
        prompts,
        (1.0,),
        control=control,
        max_new_tokens=max_new_tokens,
        seed=seed,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    return found


def doses(
    model: Host,
    steering: Steering,
    prompts: Iterable[Item],
    coeffs: Sequence[float],
    *,
    control: Iterable[Item] | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> tuple[Dose, ...]:
    """Return the dose at each of several coefficients, which multiply the steering.

    As `dose`, on one set of base completions; all coefficients run as rows of one pass.

    >>> low, high = doses(model, steering, ["a good day", "the bad cat"], [1.0, 2.0])
    >>> 0 < low.kl < high.kl
    True
    """
    on = forced(model, prompts, max_new_tokens, seed, batch_tokens, progress)
    beside = None
    if control is not None:
        beside = forced(model, control, max_new_tokens, seed, batch_tokens, progress)
    return measured(steering, coeffs, on, beside, progress)


def forced(
    model: Host,
    prompts: Iterable[Item],
    max_new_tokens: int,
    seed: int,
    batch_tokens: int,
    progress: bool,
) -> Forced:
    """Return prompts with base completions, ready to price steerings on."""
    made = base_items(model, prompts, max_new_tokens=max_new_tokens, seed=seed, progress=progress)
    return Forced(model, made, batch_tokens)


def measured(
    steering: Steering,
    coeffs: Sequence[float],
    on: Forced,
    beside: Forced | None,
    progress: bool = False,
) -> tuple[Dose, ...]:
    """Return the dose at each coefficient, with its collateral."""
    nats = on.nats(steering, coeffs, progress)
    others: Sequence[Dose | None] = [None] * len(coeffs)
    if beside is not None:
        others = measured(steering, coeffs, beside, None, progress)
    return _doses(nats, coeffs, others)


def mean_nats(nats: Nats) -> Float[Tensor, " coeff"]:
    """Return the mean over all tokens, in float64; infinite where a logit overflowed."""
    mean: Tensor = nats.values.double().mean(1)
    return mean.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _doses(nats: Nats, coeffs: Sequence[float], beside: Sequence[Dose | None]) -> tuple[Dose, ...]:
    sums = nats.sums
    means = mean_nats(nats)
    return tuple(
        Dose(
            coeff=float(coeff),
            kl=float(means[i]),
            interval=ratio_interval(sums[i], nats.counts),
            p95=kl_summary(nats.values[i]).p95,
            share=float(nats.share[i]),
            per_prompt=sums[i] / nats.counts,
            tokens=nats.counts,
            collateral=beside[i],
        )
        for i, coeff in enumerate(coeffs)
    )


def held_out_interval(held_out: Dose, calibrated: Dose) -> Interval:
    """Return the 95% interval of a dose on held-out prompts, where its coefficient was chosen.

    `calibrated` is the dose on the prompts that chose it. The interval of `held_out` takes the
    coefficient as given; had other prompts chosen it, the dose would lie elsewhere, in proportion
    to theirs. Both sets of prompts are resampled here.
    """
    if min(len(held_out.tokens), len(calibrated.tokens)) < 2:
        return (torch.nan, torch.nan)
    found = resampled_ratios(held_out.per_prompt * held_out.tokens, held_out.tokens)
    chosen = resampled_ratios(calibrated.per_prompt * calibrated.tokens, calibrated.tokens, seed=1)
    level = expanded_level(min(len(held_out.tokens), len(calibrated.tokens)))
    # A resample whose calibration prompts all cost nothing says nothing of the coefficient.
    return band((found * calibrated.kl / chosen)[chosen > 0], level)
