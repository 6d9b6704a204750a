"""The causal check of a direction: whether the model's outputs follow the component along it.

That a direction tells two sides apart says that the model keeps the concept there, not that it
uses it. So each item is run with its partner's component along the direction, and all else its
own, and what counts is how far its outputs go over to the partner's, as a share of the whole gap.
Source: interchange interventions (Geiger et al., arXiv 2106.02997).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.activations import collect
from steerlens.contrast import Contrast
from steerlens.directions import Direction
from steerlens.directions.direction import CausalEffect, check_direction
from steerlens.effects.readout import Answers, answer_pairs
from steerlens.errors import BadInputError
from steerlens.evaluation.gap import Gap, Pair
from steerlens.evaluation.placebo import random_like
from steerlens.host import Host
from steerlens.positions import Positions
from steerlens.statistics import rank_among, ratio_interval
from steerlens.text import whole
from steerlens.transforms import Interchange, Replace, Transform, stored_pass
from steerlens.verbs import steer


def causal_check(
    model: Host,
    direction: Direction,
    contrast: Contrast,
    *,
    answers: Answers | Sequence[Answers] | None = None,
    positions: Positions | None = None,
    randoms: int = 20,
    seed: int = 0,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> Direction:
    """Return the direction with its causal effect in its quality card, beside its AUC.

    As `causal_effect`, which tells the arguments. Raises BadInputError on a direction without
    quality, which has no card.

    >>> checked = causal_check(model, directions["resid_post", 2], contrast, randoms=3)
    >>> checked.quality.causal.pairs
    4
    """
    check_direction(direction, "A causal check")
    if direction.quality is None:
        raise BadInputError(
            f"{direction!r} has no quality to show this beside. Find it with quality=True and 4 "
            "items a side or more, or take causal_effect(...) alone."
        )
    effect = causal_effect(
        model,
        direction,
        contrast,
        answers=answers,
        positions=positions,
        randoms=randoms,
        seed=seed,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    return replace(direction, quality=replace(direction.quality, causal=effect))


def causal_effect(
    model: Host,
    direction: Direction,
    contrast: Contrast,
    *,
    answers: Answers | Sequence[Answers] | None = None,
    positions: Positions | None = None,
    randoms: int = 20,
    seed: int = 0,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> CausalEffect:
    """Return how far outputs follow the component along a direction, beside random directions.

    - `contrast`: pairs of texts that the direction was not found in; what the model says next
      is measured, so a completion counts as prompt here.
    - `positions`: by default the last token, which gets its partner's component. Where several
      are picked, texts differ in tokens and length: each token's component is moved by as much
      as the partner's mean differs.
    - `answers`: a positive and a negative continuation, for all pairs or each. The gap is in
      their log-odds after each item. Without them it is KL(partner || item) of the next token
      after each item, which falls faster than the way that is left.

    The share closed is a ratio of sums over pairs, both ways. Raises BadInputError on sides
    without pairs, on as many answers as do not fit, and where the sides' outputs do not differ.
    Cost: for each pair 2 * (5 + randoms) passes, with answers 2 * (8 + 2 * randoms).

    >>> effect = causal_effect(model, directions["resid_post", 2], contrast, randoms=3)
    >>> effect.randoms, effect.metric
    (3, 'KL of the next token')
    """
    if not contrast.paired:
        raise BadInputError(
            f"Interchange needs pairs, and {contrast!r} is unpaired. Give sides of one length "
            "whose items belong together."
        )
    sides = whole(model, contrast.positive), whole(model, contrast.negative)
    where = positions or "last_prompt_token"
    moved = _partners(model, sides, direction.hook_name, where, batch_tokens)
    listed = None if answers is None else answer_pairs(answers, len(contrast))
    gap = Gap(model, sides, listed, batch_tokens)
    others = random_like(direction, randoms, seed=seed)
    bar = tqdm([direction, *others], desc="interchange", disable=not progress)

    def closed(made: Callable[[Tensor], Transform]) -> Float[Tensor, " pair"]:
        """What is closed by what is made of the partners' activations, both ways."""
        positive, negative = (
            steer(made(each), direction.hook_name, positions=where) for each in moved
        )
        return gap.closed(positive, negative)

    own, *random = [closed(partial(Interchange, each, by_index=True)) for each in bar]
    entire = closed(partial(Replace, by_index=True))
    return _effect(own, entire, random, gap)


def _partners(
    model: Host, sides: Pair, hook_name: str, positions: Positions, batch_tokens: int
) -> list[Float[Tensor, "pair pos *unit"]]:
    """Each item's activations, moved by as much as its partner's mean lies from its own.

    Past an item's end they are NaN, so that an answer after it is left as it is.
    """
    means, own = [], []
    for side in sides:
        read = collect(model, side, [hook_name], positions, max_examples=len(side), progress=False)
        means.append(read.examples[hook_name])
        own.append(stored_pass(model, side, hook_name, batch_tokens=batch_tokens))
    gap = (means[0] - means[1])[:, None]
    return [own[0] - gap, own[1] + gap]


def _effect(own: Tensor, whole: Tensor, random: Sequence[Tensor], gap: Gap) -> CausalEffect:
    total = gap.size.sum()
    others = torch.tensor([float(each.sum() / total) for each in random])
    moved = float(own.sum() / total)
    placed = rank_among(moved, others) if len(random) else None
    return CausalEffect(
        moved=moved,
        interval=ratio_interval(own, gap.size),
        whole=float(whole.sum() / total),
        random_band=(torch.nan, torch.nan) if placed is None else placed.band,
        rank=1 if placed is None else placed.rank,
        randoms=len(random),
        pairs=len(own),
        metric=gap.metric,
    )
