"""When and how much: gates, coefficients and weights are one type, a signal.

A signal gives a number a token. It looks at a `Moment`: what is read there, where it stands in
its text, and what the signal kept from earlier passes over the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import number
from steerlens.errors import BadInputError
from steerlens.positions import Window

Values = Float[Tensor, "#batch #pos"]


class Memory:
    """What signals kept at the columns where passes over the current text ended."""

    def __init__(self) -> None:
        """Start empty."""
        self._text = -1
        self._kept: dict[tuple[object, int], Tensor] = {}

    def recall(self, key: object, window: Window) -> Tensor | None:
        """Return what was kept where this pass begins; None at the beginning of a text.

        Raises BadInputError where the text so far passed unseen.
        """
        if window.text != self._text:
            self._text, self._kept = window.text, {}
        if window.start == 0:
            return None
        if (key, window.start) not in self._kept:
            raise BadInputError(
                f"{key!r} needs the text from its beginning, and this pass continues a KV cache "
                "that was filled without it. Fill the cache while the steering is on."
            )
        return self._kept[key, window.start]

    def keep(self, key: object, window: Window, value: Tensor) -> None:
        """Keep a value for the pass that begins where this one ends."""
        self._kept[key, window.start + window.index.shape[1]] = value


@dataclass(frozen=True)
class Moment:
    """What a signal may look at in one pass."""

    x: Float[Tensor, "batch pos *unit"]
    """What is read, in float32 or wider."""
    window: Window | None = None
    """Where its tokens stand; None only outside of a pass."""
    h: Float[Tensor, "batch pos *written"] | None = None
    """The activation that is written, where it is not what is read."""
    memory: Memory = field(default_factory=Memory)
    elsewhere: Callable[[str], Tensor] | None = None
    """Activations of other hook points, earlier in the pass."""

    @property
    def placed(self) -> Window:
        """The window. Raises BadInputError outside of a pass."""
        if self.window is None:
            raise BadInputError("This signal needs to know where its tokens stand in their text.")
        return self.window

    @property
    def written(self) -> Tensor:
        """The activation that is written."""
        return self.x if self.h is None else self.h

    def at(self, hook_name: str) -> Moment:
        """Return the moment as seen at another hook point."""
        if self.elsewhere is None:
            raise BadInputError(f"Nothing reads {hook_name!r} here: it is read in a steered pass.")
        return replace(self, x=self.elsewhere(hook_name), h=self.written)


@runtime_checkable
class Signal(Protocol):
    """Maps a moment to values that broadcast to (batch, pos), in float32 or wider."""

    def __call__(self, moment: Moment) -> Values:
        """Return the signal's values."""


class Combining:
    """The operators of signals: `a & b`, `a | b`, `~a`, `score > 0.3`, `.at(hook_name)`.

    For soft gates too: `&` is the product, `~` is 1 - g, and `|` follows by De Morgan.
    """

    def __and__(self, other: object) -> Signal:
        """Return the product: open where both are."""
        return product(_signal(self), _signal(other))

    def __or__(self, other: object) -> Signal:
        """Return 1 - (1 - a)(1 - b): open where either is."""
        return inverse(product(inverse(_signal(self)), inverse(_signal(other))))

    def __invert__(self) -> Signal:
        """Return 1 - g."""
        return inverse(_signal(self))

    def __gt__(self, bound: float) -> Signal:
        """Return 1 where the score lies above the bound, 0 elsewhere."""
        return Threshold(_signal(self), bound, above=True)

    def __lt__(self, bound: float) -> Signal:
        """Return 1 where the score lies below the bound, 0 elsewhere."""
        return Threshold(_signal(self), bound, above=False)

    def at(self, hook_name: str) -> Signal:
        """Return the signal as read at another hook point, earlier in the pass."""
        return At(_signal(self), hook_name)


@dataclass(frozen=True)
class Constant(Combining):
    """The same number everywhere."""

    value: float

    def __call__(self, moment: Moment) -> Float[Tensor, "1 1"]:
        """Return the number."""
        return torch.full((1, 1), self.value, device=moment.x.device, dtype=moment.x.dtype)

    def __repr__(self) -> str:
        """Return the number."""
        return number(self.value)


@dataclass(frozen=True, eq=False)
class Rows(Combining):
    """One number a row of the batch."""

    values: Float[Tensor, " batch"]

    def __call__(self, moment: Moment) -> Float[Tensor, "batch 1"]:
        """Return each row's number. Raises BadInputError on a batch of another size."""
        x = moment.x
        if len(self.values) != len(x):
            raise BadInputError(
                f"{len(self.values)} values, one a row, meet a batch of {len(x)} rows."
            )
        return self.values.to(x.device, x.dtype)[:, None]

    def __repr__(self) -> str:
        """Return the numbers, or how many they are."""
        if len(self.values) > 4:
            return f"rows({len(self.values)} values)"
        return f"rows({', '.join(number(float(value)) for value in self.values)})"


@dataclass(frozen=True)
class Function(Combining):
    """A user's function of what is read: (batch, pos, *unit) to (batch, pos)."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, moment: Moment) -> Tensor:
        """Return the function's values."""
        return self.function(moment.x)

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
        """Return `~g`."""
        return f"~({self.signal!r})" if isinstance(self.signal, Product) else f"~{self.signal!r}"


@dataclass(frozen=True)
class Threshold(Combining):
    """1 where a score lies beyond a bound, 0 elsewhere."""

    score: Signal
    bound: float
    above: bool

    def __call__(self, moment: Moment) -> Values:
        """Return zeros and ones."""
        score = self.score(moment)
        return (score > self.bound if self.above else score < self.bound).to(moment.x.dtype)

    def __repr__(self) -> str:
        """Return the comparison."""
        return f"({self.score!r} {'>' if self.above else '<'} {number(self.bound)})"


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
    """Return the product of two signals, folded where both are fixed."""
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


def hook_points(signal: object) -> Iterator[str]:
    """Yield the hook points that a signal reads besides the one it stands at."""
    if isinstance(signal, At):
        yield signal.hook_name
    if is_dataclass(signal) and not isinstance(signal, type):
        for each in fields(signal):
            yield from hook_points(getattr(signal, each.name))


def _signal(value: Any) -> Signal:
    if not isinstance(value, Signal):
        raise BadInputError(f"Only signals combine; got {value!r}. Make it one by signal(...).")
    return value
