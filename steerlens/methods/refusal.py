"""The refusal direction: one difference of means, chosen by what it does, ablated or added.

At each of the prompts' last tokens (those that follow the instruction, alike in all prompts) and
each layer's input, r = mean(harmful) - mean(harmless), in float64. A candidate is judged on prompts
held out from it, by the refusal score log p - log(1 - p), p the chance of a token that begins a
refusal, over prompts: chosen is the one with the lowest score on harmful prompts under ablation, of
those below 80% of the depth for which ablation costs at most 0.1 nats of KL(base || ablated) on
harmless prompts' next token and adding r makes the score on these at least 0.

    ablation   x' = x - r̂ (r̂ᵀx)   at every layer's input, attention output and MLP output
    addition   x' = x + c r        at the layer that r is from, c = 1 (-1 takes refusal away)

Both at all tokens, BOS too. Where no norm follows the blocks (not so in Gemma-2 and OLMo-2),
ablation is `editing.orthogonalise` in hooks: the same logits. Source: arXiv 2406.11717.

Confirmed (code): all of this, 32 of 160 prompts a side for choosing, and that harmful prompts which
the model does not refuse and harmless ones which it does are left out. Ours: the tokens that follow
the instruction are found as those that all prompts end with, and a score against other tokens
alone, for models whose refusals and other replies share their first word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tqdm.auto import tqdm

from steerlens.activations import collect
from steerlens.cards import number
from steerlens.contrast import Contrast, check_contrast
from steerlens.directions import Direction
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.evaluation.metrics import kl
from steerlens.host import Host, dtype_of
from steerlens.methods.ends import prompts_of
from steerlens.methods.refusal_scores import (
    next_log_probs,
    refusal_score,
    shared_end,
    token_ids,
)
from steerlens.methods.signing import signed
from steerlens.names import hook_name
from steerlens.positions import Positions, index
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.verbs import ablate, add

WRITERS = ("resid_pre", "attn_out", "mlp_out")
"""Where a direction is ablated, in every layer."""


@dataclass(frozen=True)
class Config:
    """Choices of the refusal direction."""

    mode: Literal["ablation", "addition"] = "ablation"
    """What is done with the direction."""
    coeff: float = 1.0
    """c: the share that is ablated, or the multiple that is added."""
    tokens: Sequence[str | int] = ("I",)
    """How a refusal begins, as words or ids: "I" in the paper, and "As" for Qwen."""
    others: Sequence[str | int] = ()
    """How other replies begin; where given, the score is log p - log q, q their chance (ours)."""
    n_positions: int | None = None
    """How many of the last tokens are tried; by default those that all prompts share."""
    validation: float = 0.2
    """The share of prompts that a candidate is judged on."""
    most_kl: float = 0.1
    """The most that ablation may cost on harmless prompts, in nats."""
    least_induced: float = 0.0
    """The least score that adding the direction must bring about on harmless prompts."""
    depth: float = 0.8
    """The share of layers, from below, that are tried."""
    clear: bool = True
    """Whether harmful prompts below score 0 and harmless ones above it are left out."""
    positions: Positions = "every_token"
    """Where it acts."""
    seed: int = 0
    """Of the split."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A direction, and what it does to held-out prompts."""

    position: int
    """Of the token that it was read at: -1 is the prompt's last."""
    direction: Direction
    ablated: float
    """Mean refusal score on harmful prompts under ablation."""
    induced: float
    """Mean refusal score on harmless prompts when it is added."""
    kl: float
    """Mean KL(base || ablated) of the next token on harmless prompts, in nats."""

    def passes(self, config: Config) -> bool:
        """Return whether it costs and induces what it should."""
        return self.kl <= config.most_kl and self.induced >= config.least_induced


def ablation(
    model: Host, direction: Direction, share: float = 1.0, *, positions: Positions = "every_token"
) -> Steering:
    """Return the steering that removes a direction of the stream wherever it is written.

    Raises BadInputError on a share outside 0 to 1. Cost: three projections a layer and token.

    >>> len(ablation(model, directions["resid_post", 2]).interventions)
    18
    """
    layers = range(model.cfg.n_layers)
    places = [hook_name(site, layer) for layer in layers for site in WRITERS]
    return ablate([direction.at(place) for place in places], share, positions=positions)


def addition(
    direction: Direction, coeff: float = 1.0, *, positions: Positions = "every_token"
) -> Steering:
    """Return the steering that adds a direction where it was found, at every token."""
    return add(direction, coeff, positions=positions)


def directions(
    model: Host, data: Contrast, config: Config = Config(), *, progress: bool = True
) -> list[tuple[int, Direction]]:
    """Return the difference of means at each position and layer, as (position, direction).

    Where the sides read the same (at the first layer's input, as a rule) there is none. Cost: a
    pass an item and position.
    """
    sides = [prompts_of(model, side) for side in (data.positive, data.negative)]
    n = config.n_positions or shared_end([*sides[0], *sides[1]])
    tried = range(int(model.cfg.n_layers * config.depth))
    names = [hook_name("resid_pre", layer) for layer in tried]
    if not names:
        raise BadInputError(
            f"A depth of {config.depth} leaves no layer to try. Give a share nearer to 1."
        )
    source = made_by(model, "refusal", config, data.digest)
    found = []
    for place in range(-n, 0):
        positive, negative = (
            collect(model, side, names, index(place), max_examples=1, progress=progress)
            for side in sides
        )
        for name in names:
            if not positive[name].same_mean(negative[name], dtype_of(model)):
                gap = positive[name].mean - negative[name].mean
                norm = float(positive.norms[name].mean + negative.norms[name].mean) / 2
                read = {**source, "positions": positive.positions}
                made = Direction(name, gap, "refusal", None, norm, data.counted, read)
                found.append((place, made))
    return found


def judged(
    model: Host,
    found: Sequence[tuple[int, Direction]],
    held_out: Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> list[Candidate]:
    """Return candidates with what they do to prompts held out: (harmful, harmless).

    Cost: two passes over the harmless prompts and one over the harmful ones, a candidate.
    """
    harmful, harmless = (prompts_of(model, side) for side in (held_out.positive, held_out.negative))
    tokens, others = (token_ids(model, each) for each in (config.tokens, config.others))
    base = next_log_probs(model, harmless)
    judged = []
    for place, each in tqdm(found, desc="judging directions", disable=not progress):
        removed = next_log_probs(model, [*harmful, *harmless], ablation(model, each))
        added = next_log_probs(model, harmless, addition(each))
        cost = kl(base, removed[len(harmful) :])
        scores = refusal_score(removed[: len(harmful)], tokens, others)
        induced = refusal_score(added, tokens, others)
        figures = (float(values.mean()) for values in (scores, induced, cost))
        judged.append(Candidate(place, each, *figures))
    return judged


def chosen(judged: Sequence[Candidate], config: Config = Config()) -> Candidate:
    """Return the candidate of the lowest refusal score under ablation, of those that pass.

    Raises BadInputError where none passes.
    """
    passing = [each for each in judged if each.passes(config)]
    if passing:
        return min(passing, key=lambda each: each.ablated)
    if not judged:
        raise BadInputError(
            "The sides read the same everywhere, so there is nothing to choose. Give "
            "prompts that differ, or a larger n_positions."
        )
    cheapest, strongest = min(each.kl for each in judged), max(each.induced for each in judged)
    raise BadInputError(
        f"None of {len(judged)} directions passes: the least KL is {number(cheapest)} nats (at "
        f"most {number(config.most_kl)} wanted), the highest score that one induces "
        f"{number(strongest)} (at least {number(config.least_induced)} wanted). Do refusals of "
        "this model begin with `tokens`? Else give most_kl or least_induced."
    )


def fit(
    model: Host,
    data: Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the ablation or addition of the refusal direction of harmful and harmless prompts.

    The contrast's positive side is refused, its negative side is not; of items with a completion,
    the prompt is read. Raises BadInputError where the model refuses too few of them, or no
    candidate passes; UnknownNameError on another mode. Cost: as `directions` and `judged`.

    >>> loose = Config(tokens=["the"], clear=False, validation=0.5, most_kl=9, least_induced=-99)
    >>> fit(model, contrast, loose, progress=False).interventions[0]
    1 * ablate('refusal') @ blocks.0.hook_resid_pre[every_token]
    """
    if config.mode not in ("ablation", "addition"):
        raise UnknownNameError(f"The modes are 'ablation' and 'addition', not {config.mode!r}.")
    check_contrast(data, "The refusal direction is fitted on")
    fitting, held_out = clear(model, data, config).split(1 - config.validation, seed=config.seed)
    found = directions(model, fitting, config, progress=progress)
    best = chosen(judged(model, found, held_out, config, progress=progress), config).direction
    steering = (
        addition(best, config.coeff, positions=config.positions)
        if config.mode == "addition"
        else ablation(model, best, config.coeff, positions=config.positions)
    )
    return signed(steering, made_by(model, "refusal", config, data.digest))


def clear(model: Host, data: Contrast, config: Config = Config()) -> Contrast:
    """Return the harmful prompts that the model refuses, and the harmless ones that it does not.

    All of them with `clear=False`. Raises BadInputError where fewer than 2 are left on a side.
    """
    sides = [prompts_of(model, side) for side in (data.positive, data.negative)]
    if config.clear:
        tokens, others = (token_ids(model, each) for each in (config.tokens, config.others))
        scores = [refusal_score(next_log_probs(model, side), tokens, others) for side in sides]
        pairs = zip(sides, (scores[0] > 0, scores[1] < 0), strict=True)
        sides = [
            tuple(each for each, is_kept in zip(*pair, strict=True) if is_kept) for pair in pairs
        ]
    if min(map(len, sides)) < 2:
        raise BadInputError(
            f"The model begins {len(sides[0])} of {len(data.positive)} harmful prompts' replies "
            f"with {', '.join(map(repr, config.tokens))}, and {len(sides[1])} of "
            f"{len(data.negative)} harmless ones' otherwise; it takes 2 a side. Give tokens=... as "
            "its refusals begin, others=... as its other replies do, or clear=False."
        )
    return Contrast(*sides, paired=False)
