"""Steer2Adapt: a new task's steering as a weighted sum of a domain's concepts, from 12 examples.

    V = [v_1 ... v_k]                     the domain's prior subspace, a matrix a layer, frozen
    h' = h + V α                          at every layer of the basis, the same α
    α* = argmax J(α),  J = G - flip F - drop D

G is the probability gained on the examples that the model gets wrong, F how many right ones are
lost, D the confidence lost on right ones (`objective`); J(0) = 0, and α = 0 is always a candidate,
so that on the examples nothing is ever worse than no steering. The search (`searching`) runs
several candidates as rows of one pass. No gradients; the weights of the model stay.

Source: Steer2Adapt (arXiv 2602.07276), abstract and third parties' accounts; the authors' code
could not be read. Stated: the idea, a basis of five concepts, 12 examples (6 right, 6 wrong),
layers 8, 10, ..., 24 of 32, Bayesian optimisation, J's terms and the order flip > drop > 1.
Reconstructed here: the residual stream after each block, all positions, a vector a layer, lengths
of 5% of the stream's norm with α in [-3, 3], flip = 10 and drop = 2, a Gaussian process after 2k
Sobol points, 50 candidates. The other searches, and stopping early, are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.basis import Basis
from steerlens.contrast import digest
from steerlens.errors import BadInputError
from steerlens.evaluation.choices import Choice, MultipleChoice
from steerlens.host import Host
from steerlens.methods.adaptation import Adaptation as Adaptation
from steerlens.methods.adaptation import Trial as Trial
from steerlens.methods.composing import composed as composed
from steerlens.methods.composing import family
from steerlens.methods.explaining import Effects as Effects
from steerlens.methods.explaining import effects_on as effects_on
from steerlens.methods.explaining import leave_one_out as leave_one_out
from steerlens.methods.objective import Objective, answers, objective
from steerlens.methods.objective import balanced as balanced
from steerlens.methods.objective import calibration_set as calibration_set
from steerlens.methods.prior import correlation as correlation
from steerlens.methods.prior import principal_angles as principal_angles
from steerlens.methods.prior import prior as prior
from steerlens.methods.searching import Search as Search
from steerlens.methods.searching import search
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.text import listed


@dataclass(frozen=True)
class Config:
    """Steer2Adapt's choices."""

    flip: float = 10.0
    """What a right example that becomes wrong costs, in units of probability gained."""
    drop: float = 2.0
    """What a unit of confidence lost on right examples costs."""
    search: Search = field(default_factory=Search)
    """How weights are searched: the way, the budget, the box, the seed."""
    positions: Positions = "everywhere"
    """Where the composed vector is added."""

    def __post_init__(self) -> None:
        """Raise BadInputError on a cost below 0."""
        for name in ("flip", "drop"):
            given = getattr(self, name)
            if not (isfinite(given) and given >= 0):
                raise BadInputError(f"{name} is a finite number, 0 or more; got {given}.")


def adapt(
    model: Host,
    basis: Basis,
    examples: MultipleChoice | Iterable[Choice],
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Adaptation:
    """Search the weights of a basis that serve a task best, on a few examples of it.

    - `basis`: the domain's concepts, by `prior` or any other `Basis`.
    - `examples`: with options; `calibration_set` chooses some that are right and some wrong.

    Returns the best weights with every candidate; `.steering` is an ordinary steering. Where the
    model gets every example right there is nothing to gain: no search, and weights 0. Exact by
    `config.search.seed`. Raises BadInputError on no examples. Cost: a pass an option and
    candidate, and the search's own time.

    >>> from steerlens.demo.tasks import of_world
    >>> basis = prior(model, {"good": contrast}, layers=[2], progress=False)
    >>> examples = calibration_set(model, of_world("rudeness", "fit", 16), 2, 2)
    >>> config = Config(search=Search("random", budget=4))
    >>> found = adapt(model, basis, examples, config, progress=False)
    >>> len(found.trials), found.best.value >= 0
    (5, True)
    """
    if not isinstance(basis, Basis):
        raise BadInputError(
            f"The weights that are searched are those of a Basis; got {type(basis).__name__}. "
            "prior(model, contrasts) or Basis.of(...) makes one."
        )
    task = examples if isinstance(examples, MultipleChoice) else _task(examples)
    base = answers(model, task)
    if not bool(base.probability.isfinite().all()):
        raise BadInputError(
            f"Without steering, answers of {task.name!r} are not finite numbers. Does the model "
            "overflow? Load it in bfloat16 or float32."
        )
    terms: list[Objective] = []

    def scored(weights: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        under = answers(model, task, family(basis, weights, config.positions))
        terms.append(objective(under, base, flip=config.flip, drop=config.drop))
        return terms[-1].value

    wrong = int((~base.right).sum())
    source = made_by(model, "steer2adapt", config, _digest(task))
    told: dict[str, Any] = {"wrong": wrong, "right": len(task) - wrong, "provenance": source}
    nothing = Trial((0.0,) * len(basis), 0.0, 0.0, 0.0, 0.0)
    method = config.search.method
    if not wrong:
        why = "the model gets every example right, and there is nothing to gain"
        return Adaptation(basis, (nothing,), 0, method, why, **told, positions=config.positions)
    found = search(scored, len(basis), config.search, progress=progress)
    trials = [nothing, *_trials(found.weights[1:], terms)]
    return Adaptation(
        basis,
        tuple(trials),
        found.best,
        method,
        found.stopped,
        **told,
        positions=config.positions,
    )


def _trials(weights: Float[Tensor, "n k"], terms: Sequence[Objective]) -> list[Trial]:
    columns = (
        torch.cat([getattr(each, name) for each in terms]).tolist()
        for name in ("value", "gain", "flips", "drop")
    )
    rows = zip(weights.float().tolist(), *columns, strict=True)
    return [Trial(tuple(each), *numbers) for each, *numbers in rows]


def _digest(task: MultipleChoice) -> str:
    """The sha256 of a task's items."""
    return digest(*([each.prompt, each.options, each.right] for each in task.items))


def _task(examples: Iterable[Choice]) -> MultipleChoice:
    """Examples as a task. Raises BadInputError on anything but choices."""
    items = listed(examples, "Examples are")
    if not all(isinstance(each, Choice) for each in items):
        raise BadInputError(
            "Examples are a MultipleChoice, or a list of Choice(prompt, options, right)."
        )
    return MultipleChoice("examples", items)
