"""Descent: the settings of a training, its loop, and how it went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, pi
from time import monotonic
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.cards import number
from steerlens.errors import BadInputError, warn
from steerlens.host import HookNames
from steerlens.positions import Positions
from steerlens.steering import Steering

if TYPE_CHECKING:
    import pandas

Parts = Mapping[str, Float[Tensor, ""]]
"""A loss by its parts, whose sum goes down."""


@dataclass(frozen=True)
class Descent:
    """How parameters are trained. The defaults are LinEAS's; early stopping is ours, and off."""

    sites: HookNames | None = None
    """Where: a site, hook names or a filter; by default what the blocks write after their norms
    (Gemma-2, OLMo-2), else `resid_post` of every layer. On Llama and Qwen the papers hook the norm
    before the MLP: `"ln2.hook_normalized"` is its output, but for the gain."""
    read: Positions = "everywhere"
    """Over which tokens responses are pooled."""
    positions: Positions = "everywhere"
    """Which tokens are steered, in training too."""
    coeff: float = 1.0
    """The strength of what comes out; training is at 1."""
    units: Literal["rms", "raw"] = "rms"
    """What activations are measured in while training: each hook point's root mean square, so that
    a learning rate means the same at any site, or as they are. After a norm, where the papers
    steer, the two are near each other; at `resid_post` "raw" diverges at the papers' rate."""
    lr: float = 0.1
    """The first learning rate; it falls along a cosine. Counted as in LinEAS's code, whose loss
    is n / L times the one here, of n texts a step and L hook points."""
    final: float = 0.1
    """The last learning rate, as a share of the first."""
    steps: int = 1000
    """At most so many."""
    batch: int = 32
    """Texts of each set a step, drawn anew."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Which one; for Adam take a lower learning rate, such as 0.01."""
    validation: float = 0.0
    """Share of each set that is held out to stop early; 0 for none."""
    patience: int = 100
    """Stop when the held-out loss has not fallen for so many steps, and keep its best."""
    every: int = 10
    """Steps between two looks at the held-out loss."""
    seed: int = 0
    """Decides what is held out and what is drawn."""

    def __post_init__(self) -> None:
        """Raise BadInputError on numbers that no training can have."""
        counts = (self.steps, self.batch, self.every, self.patience)
        if min(counts) < 1 or self.lr <= 0 or not 0 <= self.final <= 1:
            raise BadInputError(
                "Training needs steps, batch, every and patience of 1 or more, lr above 0 and "
                f"final from 0 to 1; got {counts}, {self.lr} and {self.final}."
            )
        if not 0 <= self.validation < 1:
            raise BadInputError(
                f"validation is a share of each set, from 0 up to 1; got {self.validation}."
            )
        if self.optimizer not in ("sgd", "adam") or self.units not in ("rms", "raw"):
            raise BadInputError(
                "The optimizer is 'sgd' or 'adam' and units are 'rms' or 'raw'; got "
                f"{self.optimizer!r} and {self.units!r}."
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * (self.final + (1 - self.final) * (1 + cos(pi * step / self.steps)) / 2)


@dataclass(frozen=True, eq=False)
class Course:
    """How a training went."""

    losses: Mapping[str, Float[Tensor, " step"]]
    """The parts of the training loss, before each step."""
    held_out: Mapping[int, float] = field(default_factory=dict)
    """The held-out loss at the steps where it was looked at."""
    kept: int = 0
    """After how many steps the parameters are those kept."""
    seconds: float = 0.0
    """How long it took."""


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A trained steering, and how its training went."""

    steering: Steering
    course: Course

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table, a line a step: each part of the loss, and `held_out` (or NaN)."""
        import pandas

        table = pandas.DataFrame({name: x.numpy() for name, x in self.course.losses.items()})
        table.insert(0, "step", range(len(table)))
        held_out = self.course.held_out
        return table.assign(held_out=[held_out.get(step, float("nan")) for step in table["step"]])

    def __repr__(self) -> str:
        """Return the loss before and after, steps and seconds."""
        total = torch.stack(list(self.course.losses.values())).sum(0)
        return (
            f"Trained(loss {number(float(total[0]))} -> {number(float(total[-1]))} in "
            f"{len(total)} steps and {self.course.seconds:.0f} s, those of step "
            f"{self.course.kept} kept)"
        )


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[], Parts],
    config: Descent,
    *,
    scale: float = 1.0,
    held_out: Callable[[], float] | None = None,
    shrink: Callable[[float], None] | None = None,
    name: str = "training",
    progress: bool = True,
) -> Course:
    """Train parameters in place, and return how it went.

    The steps are those of `scale` times the loss. `shrink(rate)` follows each. With `held_out`,
    the parameters of its lowest value are left, with a warning where that is the start. Raises
    BadInputError where the loss is not finite. Cost: `steps` losses and their gradients.
    """
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
    optimizer: torch.optim.Optimizer = make(list(parameters), lr=config.lr)
    watch = _Watch(parameters, held_out, config)
    kept: dict[str, list[float]] = {}
    began = monotonic()
    with tqdm(total=config.steps, desc=name, disable=not progress) as bar:
        for step in range(config.steps):
            if watch.stop(step):
                break
            parts = loss()
            total = torch.stack(list(parts.values())).sum()
            _check(total, step, config)
            for part, value in parts.items():
                kept.setdefault(part, []).append(float(value.detach()))
            optimizer.zero_grad()
            (scale * total).backward()  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
            optimizer.step()
            if shrink is not None:
                with torch.no_grad():
                    shrink(config.rate(step))
            bar.set_postfix_str(f"loss {number(float(total.detach()))}", refresh=False)
            bar.update()
    steps = len(next(iter(kept.values())))
    losses = {part: torch.tensor(values) for part, values in kept.items()}
    best = watch.best(steps)
    if best == 0:
        warn(
            f"{name}: on texts held out the loss never fell below its start, so what comes out is "
            "what training started from. Are the sets told apart where it steers?"
        )
    return Course(losses, watch.values, best, monotonic() - began)


def _check(total: Tensor, step: int, config: Descent) -> None:
    if not bool(total.isfinite()):
        raise BadInputError(
            f"The loss is {float(total.detach())} at step {step}: training diverged at "
            f"lr={config.lr}. Take a lower lr, optimizer='adam' with lr=0.01, or units='rms'."
        )


class _Watch:
    """The held-out loss, looked at now and then, and the parameters where it was lowest."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        held_out: Callable[[], float] | None,
        config: Descent,
    ) -> None:
        self.values: dict[int, float] = {}
        self._parameters, self._held_out, self._config = parameters, held_out, config
        self._best: tuple[int, list[Tensor]] | None = None

    def look(self, step: int) -> None:
        assert self._held_out is not None
        with torch.no_grad():
            self.values[step] = self._held_out()
        if self._best is None or self.values[step] < self.values[self._best[0]]:
            self._best = step, [each.detach().clone() for each in self._parameters]

    def stop(self, step: int) -> bool:
        """Look, where it is time to; return whether the best lies `patience` steps back."""
        if self._held_out is None:
            return False
        if step % self._config.every == 0:
            self.look(step)
        assert self._best is not None
        return step - self._best[0] >= self._config.patience

    def best(self, steps: int) -> int:
        """Leave the best parameters in place; return the number of steps that led to them."""
        if self._held_out is None:
            return steps
        if steps not in self.values:
            self.look(steps)
        assert self._best is not None
        with torch.no_grad():
            for each, found in zip(self._parameters, self._best[1], strict=True):
                each.copy_(found)
        return self._best[0]
