"""When and how much: gates, coefficients and weights are one type, a number a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from math import isfinite
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import positions
from steerlens.cards import number
from steerlens.errors import BadInputError
from steerlens.signals.moment import Moment

Values = Float[Tensor, "#batch #pos"]


@runtime_checkable
class Signal(Protocol):
    """Maps a moment to values that broadcast to (batch, pos), in float32 or wider."""

    def __call__(self, moment: Moment) -> Values:
        """Return the signal's values."""


class Combining:
    """The base of signals: `a & b`, `a | b`, `~a`, `score > 0.3`, `2 * a`, `.at(hook_name)`.

    Soft gates too: `&` is the product, `~` is 1 - g, and `|` follows by De Morgan.
    Numbers, values a row and functions combine like signals.

    A signal of your own is a subclass with `__call__(moment)`, or a function of what is read. If it
    reads another hook point, it is a dataclass and holds `signal.at(hook_name)` in a field.

    >>> from steerlens.signals import Projection
    >>> score = Projection(directions["resid_post", 2])
    >>> (score > 0.3) & ~(score > 2.0)
    (projection('direction') > 0.3) * ~(projection('direction') > 2)
    """

    __array_ufunc__ = None  # an array times a signal is ours to tell, not numpy's entry by entry

    def __and__(self, other: object) -> Signal:
        """Return the product: open where both are."""
        return product(signal(self), signal(other))

    __rand__ = __and__

    def __mul__(self, other: object) -> Signal:
        """Return the product."""
        known = isinstance(other, int | float | Sequence | Combining) or hasattr(other, "__array__")
        return self & other if known else NotImplemented

    __rmul__ = __mul__

    def __or__(self, other: object) -> Signal:
        """Return 1 - (1 - a)(1 - b): open where either is."""
        return inverse(product(inverse(signal(self)), inverse(signal(other))))

    __ror__ = __or__

    def __invert__(self) -> Signal:
        """Return 1 - g."""
        return inverse(signal(self))

    def __neg__(self) -> Signal:
        """Return the signal with its sign changed."""
        return product(Constant(-1.0), signal(self))

    def __gt__(self, bound: float) -> Signal:
        """Return 1 where the score lies above the bound, 0 elsewhere."""
        return Threshold(signal(self), _bound(bound), above=True)

    def __lt__(self, bound: float) -> Signal:
        """Return 1 where the score lies below the bound, 0 elsewhere."""
        return Threshold(signal(self), _bound(bound), above=False)

    def __ge__(self, bound: float) -> Signal:
        """Return 1 where the score reaches the bound, 0 elsewhere."""
        return Threshold(signal(self), _bound(bound), above=True, inclusive=True)

    def __le__(self, bound: float) -> Signal:
        """Return 1 where the score is no higher than the bound, 0 elsewhere."""
        return Threshold(signal(self), _bound(bound), above=False, inclusive=True)

    def __bool__(self) -> bool:
        """Raise BadInputError: `and`, `or`, `not` and `0.1 < a < 0.5` would drop a half."""
        raise BadInputError(
            f"{self!r} is neither true nor false before a pass. Combine signals by &, | and ~, "
            "each comparison in brackets: (a > 0.1) & (a < 0.5)."
        )

    def at(self, hook_name: str) -> Signal:
        """Return the signal as read at another hook point, earlier in the pass."""
        return At(signal(self), hook_name)


@dataclass(frozen=True)
class Constant(Combining):
    """The same number everywhere."""

    value: float

    def __call__(self, moment: Moment) -> Float[Tensor, "1 1"]:
        """Return the number."""
        return moment.number(self.value)

    def __repr__(self) -> str:
        """Return the number."""
        return number(self.value)


@dataclass(frozen=True, eq=False)
class Rows(Combining):
    """One number a row of the batch."""

    values: Float[Tensor, " batch"]

    def __call__(self, moment: Moment) -> Float[Tensor, "batch 1"]:
        """Return each row's number. Raises BadInputError on a batch of another size."""
        if len(self.values) != len(moment.x):
            raise BadInputError(
                f"{len(self.values)} values, one a row, meet a batch of {len(moment.x)} rows. Run "
                "all their prompts in one batch, or give one number."
            )
        return moment.beside(self.values)[:, None]

    def __repr__(self) -> str:
        """Return the numbers, or how many they are."""
        if len(self.values) > 8:
            return f"rows({len(self.values)} values)"
        return f"rows({', '.join(number(float(value)) for value in self.values)})"


@dataclass(frozen=True)
class Function(Combining):
    """A user's function of what is read: (batch, pos, *unit) to (batch, pos)."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, moment: Moment) -> Tensor:
        """Return the function's values. It sees a copy, so that nothing it does is written.

        Raises BadInputError on anything but a tensor.
        """
        values = self.function(moment.x.clone())
        if not isinstance(values, Tensor):
            raise BadInputError(
                f"The function {self!r} gave {type(values).__name__}. As a signal it maps (batch, "
                "pos, ...) to a tensor (batch, pos)."
            )
        return values.to(moment.x.dtype)

    def __repr__(self) -> str:
        """Return the function's name."""
        return str(getattr(self.function, "__name__", self.function))


@dataclass(frozen=True)
class Product(Combining):
    """Two signals multiplied."""

    first: Signal
    second: Signal

    def __call__(self, moment: Moment) -> Values:
        """Return the product."""
        return self.first(moment) * self.second(moment)

    def __repr__(self) -> str:
        """Return both factors."""
        return f"{self.first!r} * {self.second!r}"


@dataclass(frozen=True)
class Inverse(Combining):
    """1 - g."""

    signal: Signal

    def __call__(self, moment: Moment) -> Values:
        """Return one minus the signal."""
        return 1 - self.signal(moment)

    def __repr__(self) -> str:
        """Return `~g`; of a product, what De Morgan makes of it."""
        if isinstance(self.signal, Product):
            return f"({inverse(self.signal.first)!r} | {inverse(self.signal.second)!r})"
        return f"~{self.signal!r}"


@dataclass(frozen=True)
class Threshold(Combining):
    """1 where a score lies beyond a bound, 0 elsewhere, also where it is not a number."""

    score: Signal
    bound: float
    above: bool
    inclusive: bool = False

    def __call__(self, moment: Moment) -> Values:
        """Return zeros and ones."""
        score = self.score(moment)
        beyond = score > self.bound if self.above else score < self.bound
        return (beyond | (score == self.bound) & self.inclusive).to(moment.x.dtype)

    def __repr__(self) -> str:
        """Return the comparison."""
        sign = (">" if self.above else "<") + "=" * self.inclusive
        return f"({self.score!r} {sign} {number(self.bound)})"


@dataclass(frozen=True)
class At(Combining):
    """A signal read at a hook point of its own."""

    signal: Signal
    hook_name: str

    def __call__(self, moment: Moment) -> Values:
        """Return the signal of what stands there."""
        return self.signal(moment.at(self.hook_name))

    def __repr__(self) -> str:
        """Return the signal and its hook point."""
        return f"{self.signal!r}.at({self.hook_name!r})"


def product(first: Signal, second: Signal) -> Signal:
    """Return the product of two signals, folded where one is a number and the other is fixed."""
    if isinstance(second, Constant) and not isinstance(first, Constant):
        first, second = second, first
    if isinstance(first, Constant):
        if first.value == 1:
            return second
        if isinstance(second, Constant):
            return Constant(first.value * second.value)
        if isinstance(second, Rows):
            return Rows(first.value * second.values)
    return Product(first, second)


def inverse(signal: Signal) -> Signal:
    """Return 1 - g, folded where g is fixed or an inverse itself."""
    if isinstance(signal, Inverse):
        return signal.signal
    if isinstance(signal, Constant):
        return Constant(1 - signal.value)
    return Rows(1 - signal.values) if isinstance(signal, Rows) else Inverse(signal)


def signal(value: object) -> Signal:
    """Return the signal that a number, values a row, or a function stands for.

    Raises BadInputError on anything else, and on numbers that are not finite.

    >>> signal(4), signal([1.0, -1.0])
    (4, rows(1, -1))
    """
    if isinstance(value, Combining):
        return cast(Signal, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _constant(float(value))
    if isinstance(value, positions.Combining):
        raise BadInputError(f"{value!r} are positions: give them to positions= or .where(...).")
    if callable(value) and not isinstance(value, Tensor | type):
        return Function(cast(Callable[[Tensor], Tensor], value))
    if isinstance(value, str | bool | type | None) or is_dataclass(value):
        raise BadInputError(
            f"{value!r} is no coefficient and no gate. Give a number, one a row, a function of "
            "what is read, or a signal of steerlens.signals, such as Probe(direction) or "
            "Cosine(direction) > 0.2."
        )
    try:
        values = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise BadInputError(f"Values a row are a list of finite numbers; got {value!r}.") from None
    if values.ndim == 0:
        return _constant(float(values))
    if values.ndim != 1 or not len(values) or not torch.isfinite(values).all():
        shape = tuple(values.shape)
        raise BadInputError(f"Values a row are a list of finite numbers; got shape {shape}.")
    return Rows(values.detach().clone())


def _bound(value: object) -> float:
    if not isinstance(value, int | float) or value != value:
        raise BadInputError(f"A score is compared with a number; got {value!r}.")
    return float(value)


def _constant(value: float) -> Constant:
    if not isfinite(value):
        raise BadInputError(f"A coefficient or gate is a finite number; got {value}.")
    return Constant(value)
