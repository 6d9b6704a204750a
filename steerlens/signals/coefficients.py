"""Coefficients: shares of the stream, and what is known of a signal before any pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from steerlens.cards import number
from steerlens.directions import Direction
from steerlens.directions.direction import check_direction
from steerlens.errors import BadInputError
from steerlens.signals.gates import dots
from steerlens.signals.moment import Moment
from steerlens.signals.signal import Combining, Constant, Rows, Signal

Value = int | float | Sequence[float] | Tensor | Signal | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class OfStream(Combining):
    """A share of the norm of the activation that is written, token by token."""

    share: float

    def __call__(self, moment: Moment) -> Float[Tensor, "batch pos"]:
        """Return the share times each token's norm (over all heads, where there are any)."""
        norm: Tensor = vector_norm(moment.written.to(moment.x.dtype).flatten(2), dim=-1)
        return self.share * norm

    def __repr__(self) -> str:
        """Return `of_stream(0.1)`."""
        return f"of_stream({number(self.share)})"


@dataclass(frozen=True, eq=False)
class Readout(Combining):
    """A linear readout of what is read: x . w + b, w the direction's vector as it is.

    >>> import torch
    >>> w = Direction("blocks.0.attn.hook_z", torch.tensor([[2.0, 0.0]]), name="mover")
    >>> Readout(w, bias=1.0)(Moment(torch.tensor([[[[3.0, 4.0]]]])))
    tensor([[7.]])
    """

    direction: Direction
    bias: float = 0.0

    def __post_init__(self) -> None:
        """Raise BadInputError on anything but a direction."""
        check_direction(self.direction, "A readout")

    def __call__(self, moment: Moment) -> Float[Tensor, "batch pos"]:
        """Return the readout of each token."""
        return dots(moment.x, moment.beside(self.direction.vector)) + self.bias

    def __repr__(self) -> str:
        """Return `readout('mover')`, with the bias where there is one."""
        bias = f", {number(self.bias)}" if self.bias else ""
        return f"readout({self.direction.name!r}{bias})"


@dataclass(frozen=True)
class Reciprocal(Combining):
    """1 / x, where one number a token is read: a norm's `hook_scale`."""

    def __call__(self, moment: Moment) -> Float[Tensor, "batch pos"]:
        """Return one over what is read."""
        return 1 / moment.x.flatten(2)[..., 0]

    def __repr__(self) -> str:
        """Return `1/x`."""
        return "1/x"


def of_stream(share: float) -> Signal:
    """Return the coefficient that makes an added direction a share of each token's own norm.

    >>> import torch
    >>> of_stream(0.1)(Moment(torch.tensor([[[3.0, 4.0]]])))
    tensor([[0.5000]])
    """
    if not isfinite(share):
        raise BadInputError(f"A share of the stream is a finite number; got {share}.")
    return OfStream(float(share))


def fixed(signal: Signal) -> bool:
    """Return whether a signal is known before any pass: a constant, or values a row."""
    return isinstance(signal, Constant | Rows)


def within(signal: Signal, low: float, high: float) -> bool:
    """Return whether a fixed signal stays in a range; True where only a run can tell."""
    if isinstance(signal, Constant):
        return low <= signal.value <= high
    if isinstance(signal, Rows):
        return bool(((signal.values >= low) & (signal.values <= high)).all())
    return True
