"""Common random numbers: noise that is a function of the seed, the row and the step alone.

A token is drawn as the winner of a race (the Gumbel-max trick): of all tokens, the one with the
largest p / E, where E is exponential noise, has the distribution p. Two models that race against
the same noise differ only where their distributions do; tokens whose chances rise alike keep
their order (Gumbel-max counterfactuals, arXiv 1905.05824; for language models 2411.07180). The
noise is hashed by integer arithmetic: the same for every batch, and on every device to the last
bits of a logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.errors import HookError

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIXING = ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64)))
"""Constants of splitmix64 (Steele, Lea and Flood, 2014), as signed numbers."""


def noise(
    seed: int, rows: Sequence[int], step: int, size: int, device: torch.device | None = None
) -> Float[Tensor, "row size"]:
    """Return exponential noise of mean 1 for each row at a step, above 0.

    A row's noise does not depend on the other rows. Cost: about 2 ms a row on one CPU thread for
    50,000 numbers, less than the multinomial draw of TransformerLens.

    >>> together, alone = noise(0, [3, 8], step=5, size=4), noise(0, [8], step=5, size=4)
    >>> torch.equal(together[1:], alone)
    True
    """
    keys = [_key(seed, row, step) for row in rows]
    states = torch.tensor(keys, device=device)[:, None]
    bits = _mixed(states + _GOLDEN * torch.arange(1, size + 1, device=device))
    uniform = (_shifted(bits, 11).float() + 0.5) * 2.0**-53
    return -torch.log1p(-uniform)


def _key(seed: int, row: int, step: int) -> int:
    """A signed 64-bit number that spreads seed, row and step."""
    sequence = np.random.SeedSequence((seed % (1 << 64), row, step))
    return int(sequence.generate_state(1, np.uint64).view(np.int64)[0])


def _mixed(z: Int[Tensor, "row size"]) -> Int[Tensor, "row size"]:
    """Splitmix64's finalizer, in place; products wrap round."""
    for shift, factor in _MIXING:
        z.bitwise_xor_(_shifted(z, shift)).mul_(factor)
    return z.bitwise_xor_(_shifted(z, 31))


def _shifted(z: Int[Tensor, "row size"], bits: int) -> Int[Tensor, "row size"]:
    """Shift right and fill with zeros, where `>>` would fill with the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


@dataclass
class Dice:
    """The noise that a batch of rows races against, one throw a step."""

    seed: int
    rows: Sequence[int]
    """The number of each row of the batch among all prompts."""
    temperature: float = 1.0
    """0 is greedy: nothing is thrown."""
    step: int = 0
    overflowed: set[int] = field(default_factory=set)
    """Places in the batch of rows whose logits were NaN or infinite at a step: what they draw means
    nothing."""

    def race(self, logits: Float[Tensor, "row pos vocab"]) -> Float[Tensor, "row 1 vocab"]:
        """Return scores whose largest is the next token, drawn from the last position's logits."""
        last = logits[:, -1].float()
        # An infinite logit makes every chance NaN, and so does a row without a finite one.
        self.overflowed |= set((~last.amax(1).isfinite()).nonzero().flatten().tolist())
        if self.temperature == 0:
            self.step += 1
            return last[:, None]
        waits = noise(self.seed, self.rows, self.step, last.shape[1], last.device)
        self.step += 1
        return ((last / self.temperature).softmax(-1) / waits)[:, None]


@contextmanager
def thrown(model: Any, dice: Dice) -> Iterator[None]:
    """Make a host's greedy `generate` draw its tokens with the dice, for the length of a block.

    Greedy ones too are watched for overflow. The model's `forward` is shadowed by an instance
    attribute, put back on leaving. Raises HookError where no pass went through it and tokens should
    have been drawn: they are greedy ones.
    """
    shadowed = vars(model).get("forward")
    object.__setattr__(model, "forward", _racing(model.forward, dice))
    try:
        yield
    finally:
        if shadowed is None:
            object.__delattr__(model, "forward")
        else:
            object.__setattr__(model, "forward", shadowed)
    if dice.step == 0 and dice.temperature > 0:
        raise HookError(
            "The model generated without calling its own forward(), so its tokens were not drawn "
            "with the seed. Use temperature=0 (greedy)."
        )


def _racing(original: Callable[..., Tensor], dice: Dice) -> Callable[..., Tensor]:
    @wraps(original)
    def forward(*args: Any, **options: Any) -> Tensor:
        return dice.race(original(*args, **options))

    return forward
