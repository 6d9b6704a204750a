"""Choosing a layer and a dose on validation items, by effect and by cost in nats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.contrast import Contrast
from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError
from steerlens.evaluation import Completion, completions, divergence, log_probability
from steerlens.host import Host
from steerlens.steering import Steering
from steerlens.text import Item
from steerlens.verbs import add

Judge = Callable[[str, str], str]
"""(prompt, completion) -> "positive", "negative", "neutral" or "unparsed"."""
SHARES = (0.1, 0.2, 0.4, 0.8)
"""Doses tried, as shares of the stream's norm, in both directions."""


@dataclass(frozen=True)
class Cell:
    """One layer and dose, tried on validation items."""

    layer: int
    coeff: float
    share: float
    """Length of what is added, as a share of the stream's norm."""
    effect: float
    """Half the difference between steering up and down (score, or nats a token)."""
    kl: float
    """KL from the base model, nats a token, mean of both directions."""
    parsed: float
    """Share of completions that the judge could parse; 1 without a judge."""


def steer(direction: Direction, coeff: float = 1.0) -> Steering:
    """Return the demo's steering: addition where the completion is predicted."""
    return add(direction, coeff, positions="predicting")


def sweep(
    model: Host,
    directions: Directions,
    prompts: Sequence[str],
    pairs: Contrast,
    judge: Judge | None,
    *,
    max_new_tokens: int,
    seed: int = 0,
    progress: bool = True,
) -> list[Cell]:
    """Try every layer and dose on validation prompts (with a judge) or pairs (without)."""
    base = completions(model, prompts, max_new_tokens=max_new_tokens, seed=seed)
    cells: list[Cell] = []
    for direction in tqdm(directions.values(), desc="layers and doses", disable=not progress):
        unit = (direction.stream_norm or direction.norm) / direction.norm
        coeffs = [sign * share * unit for share in SHARES for sign in (1.0, -1.0)]
        kl = divergence(model, steer(direction), completed(base), coeffs).mean(1)
        if judge is None:
            scores, parsed = _propensities(model, direction, pairs, coeffs), torch.ones(len(coeffs))
        else:
            written = _written(model, direction, prompts, coeffs, max_new_tokens, seed)
            scores, parsed = _judged(written, judge, len(coeffs))
        up, down = slice(0, None, 2), slice(1, None, 2)
        cells += [
            Cell(direction.layer or 0, coeff, share, float(effect), float(cost), float(read))
            for coeff, share, effect, cost, read in zip(
                coeffs[up],
                SHARES,
                (scores[up] - scores[down]) / 2,
                (kl[up] + kl[down]) / 2,
                (parsed[up] + parsed[down]) / 2,
                strict=True,
            )
        ]
    return cells


def best(cells: Sequence[Cell], *, kl_budget: float, parsed: float = 0.0) -> Cell:
    """Return the cell of the largest effect within the budget, of those that still parse."""
    affordable = [cell for cell in cells if cell.kl <= kl_budget and cell.parsed >= parsed]
    if not affordable:
        cheapest = min(cells, key=lambda cell: cell.kl)
        raise BadInputError(
            f"No dose costs {kl_budget} nats a token or less and leaves text that parses; the "
            f"cheapest is {cheapest}. Allow more."
        )
    return max(affordable, key=lambda cell: cell.effect)


def score(verdict: str) -> float:
    """Return 1 for positive, -1 for negative, 0 otherwise (what does not parse never counts)."""
    return {"positive": 1.0, "negative": -1.0}.get(verdict, 0.0)


def completed(base: Sequence[Completion]) -> list[Item]:
    """Return the completions that are not empty, as items to score."""
    return [c.encoded for c in base if len(c.encoded.tokens) > c.encoded.prompt_length]


def _written(
    model: Host,
    direction: Direction,
    prompts: Sequence[str],
    coeffs: Sequence[float],
    max_new_tokens: int,
    seed: int,
) -> list[Completion]:
    """Complete every prompt at every coefficient, all as rows of one batch or a few."""
    return completions(
        model,
        list(prompts) * len(coeffs),
        steer(direction),
        coeffs=[coeff for coeff in coeffs for _ in prompts],
        max_new_tokens=max_new_tokens,
        batch_rows=256,
        seed=seed,
    )


def _judged(written: Sequence[Completion], judge: Judge, coeffs: int) -> tuple[Tensor, Tensor]:
    """Return the mean score and the share parsed at each coefficient."""
    verdicts = [judge(each.prompt, each.text) for each in written]
    scores = torch.tensor([score(verdict) for verdict in verdicts])
    parsed = torch.tensor([float(verdict != "unparsed") for verdict in verdicts])
    return scores.reshape(coeffs, -1).mean(1), parsed.reshape(coeffs, -1).mean(1)


def propensity(model: Host, pairs: Contrast) -> Tensor:
    """Return log p(positive) - log p(negative) of each pair's completions, nats a token."""
    return log_probability(model, pairs.positive) - log_probability(model, pairs.negative)


def _propensities(
    model: Host, direction: Direction, pairs: Contrast, coeffs: Sequence[float]
) -> Tensor:
    means = []
    for coeff in coeffs:
        with steer(direction, coeff).on(model):
            means.append(propensity(model, pairs).mean())
    return torch.stack(means)
