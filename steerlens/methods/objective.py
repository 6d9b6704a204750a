"""The stability-aware objective of Steer2Adapt, and the examples it is taken on: pure tensors.

With p the probability of the right answer under some weights and p0 without steering, W the
examples that the model gets wrong without steering and C those that it gets right,

    J = G - flip F - drop D
    G = sum over W of p - p0                    what is gained
    F = number in C that are no longer right    flips
    D = sum over C of max(0, p0 - p)            confidence lost

Source: Steer2Adapt (arXiv 2602.07276), its section 3.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.evaluation.choices import MultipleChoice, score
from steerlens.host import Host
from steerlens.rows import Family
from steerlens.steering import Steering


@dataclass(frozen=True, eq=False)
class Answers:
    """How each example is answered under each candidate."""

    probability: Float[Tensor, "candidate item"]
    """p: the share of the right options in all options' probability."""
    right: Bool[Tensor, "candidate item"]
    """Whether a right option is the likeliest; a tie is wrong."""


@dataclass(frozen=True, eq=False)
class Objective:
    """J and its three terms, a number each candidate."""

    value: Float[Tensor, " candidate"]
    """J; the least possible where an answer is not a number."""
    gain: Float[Tensor, " candidate"]
    flips: Float[Tensor, " candidate"]
    drop: Float[Tensor, " candidate"]


def objective(
    answers: Answers, base: Answers, *, flip: float = 10.0, drop: float = 2.0
) -> Objective:
    """Return J of every candidate, from its answers and those without steering (one candidate).

    `flip` and `drop` weigh a flip and a unit of lost confidence against a unit of gain.

    >>> base = Answers(torch.tensor([[0.4, 0.8]]), torch.tensor([[False, True]]))
    >>> right = torch.tensor([[True, True], [True, False]])
    >>> found = Answers(torch.tensor([[0.9, 0.7], [0.9, 0.4]]), right)
    >>> objective(found, base).value
    tensor([  0.3000, -10.3000])
    """
    moved = answers.probability.double() - base.probability.double()
    was_right = base.right[0]
    gain = torch.where(was_right, 0.0, moved).sum(1)
    lost = torch.where(was_right, (-moved).clamp_min(0), 0.0).sum(1)
    flips = (was_right & ~answers.right).double().sum(1)
    value = gain - flip * flips - drop * lost
    least = -float((~was_right).sum()) - (flip + drop) * float(was_right.sum())
    broken = ~value.isfinite()
    value = torch.where(broken, least, value)
    terms = (torch.where(broken, torch.nan, each) for each in (gain, flips, lost))
    return Objective(value.float(), *(each.float() for each in terms))


def answers(
    model: Host,
    task: MultipleChoice,
    steering: Steering | Family | None = None,
) -> Answers:
    """Return how a task is answered: without steering, under one, or under each of a family.

    Cost: one pass an option and member, options of one token sharing theirs.
    """
    size = steering.size if isinstance(steering, Family) else 1
    found = task.option_log_probs(model, steering, [1.0] * size)
    pairs = list(zip(found, task.items, strict=True))
    probability = torch.stack([score(each, it, "probability") for each, it in pairs], dim=1)
    accuracy = torch.stack([score(each, it, "accuracy") for each, it in pairs], dim=1)
    return Answers(probability, accuracy > 0.5)


def balanced(
    right: Bool[Tensor, " item"] | Sequence[bool], n_right: int = 6, n_wrong: int = 6, seed: int = 0
) -> list[int]:
    """Return the places of some items that are right and some that are wrong, in their order.

    Drawn by the seed. Raises BadInputError where there are not as many.

    >>> balanced([True, True, False, True, False], n_right=1, n_wrong=2, seed=0)
    [2, 3, 4]
    """
    told = torch.as_tensor(right).bool()
    dice = torch.Generator().manual_seed(seed)
    picked: list[int] = []
    for wanted, mask, name in ((n_right, told, "right"), (n_wrong, ~told, "wrong")):
        places = mask.nonzero().flatten()
        if wanted < 0 or len(places) < wanted:
            raise BadInputError(
                f"{wanted} examples that the model gets {name} are asked for, and there are "
                f"{len(places)} among {len(told)}. Give more items, or ask for fewer."
            )
        picked += places[torch.randperm(len(places), generator=dice)[:wanted]].tolist()
    if not picked:
        raise BadInputError("No examples are asked for. Take one or more.")
    return sorted(picked)


def calibration_set(
    model: Host, task: MultipleChoice, n_right: int = 6, n_wrong: int = 6, seed: int = 0
) -> MultipleChoice:
    """Return a few items of a task, some that the model gets right and some that it gets wrong.

    The paper's 12 are 6 and 6. Raises BadInputError where there are not as many. Cost: one pass
    an option of the whole task.

    >>> from steerlens.demo.tasks import of_world
    >>> len(calibration_set(model, of_world("rudeness", "fit", 16), 2, 2))
    4
    """
    return task.part(balanced(answers(model, task).right[0], n_right, n_wrong, seed))
