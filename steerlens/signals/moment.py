"""What a signal may look at: what is read, where it stands, and what was kept from before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.positions import Window


class Memory:
    """What tells an intervention's state from others' in a text; and constants, made once."""

    def __init__(self) -> None:
        """Start empty."""
        self._numbers: dict[float, Tensor] = {}
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}

    def number(self, value: float, like: Tensor) -> Tensor:
        """Return a number as a tensor (1, 1) on the device and in the dtype of another."""
        made = self._numbers.get(value)
        if made is None or made.dtype != like.dtype or made.device != like.device:
            with torch.inference_mode(False):  # autograd refuses inference tensors for good
                made = torch.full((1, 1), value, device=like.device, dtype=like.dtype)
            self._numbers[value] = made
        return made

    def beside(self, constant: Tensor, x: Tensor) -> Tensor:
        """Return a constant tensor on the device and in the dtype of x, moved there once."""
        if constant.dtype == x.dtype and constant.device == x.device:
            return constant
        if constant.requires_grad:
            return constant.to(x.device, x.dtype)
        _, made = self._moved.get(id(constant), (None, None))
        if made is None or made.dtype != x.dtype or made.device != x.device:
            with torch.inference_mode(False):
                made = constant.to(x.device, x.dtype)
            self._moved[id(constant)] = constant, made  # alive, so that its id stays its own
        return made

    def recall(self, key: tuple[object, str | None], window: Window) -> Tensor | None:
        """Return what was kept where this pass begins; None at the beginning of a text.

        Raises BadInputError where the text so far passed unseen.
        """
        if window.start == 0:
            return None
        found: Tensor | None = window.kept.get(((self, *key), window.start))
        if found is None:
            raise BadInputError(
                f"{key[0]!r} needs the text from its beginning, and this pass continues a KV cache "
                "that was filled without it. Fill the cache while the steering is on."
            )
        return found

    def keep(self, key: tuple[object, str | None], window: Window, value: Tensor) -> None:
        """Keep a value for the pass that begins where this one ends."""
        window.kept[(self, *key), window.start + window.index.shape[1]] = value


@dataclass(eq=False, slots=True)
class Moment:
    """What a signal may look at in one pass; to be read, and good for that pass alone."""

    x: Float[Tensor, "batch pos *unit"]
    """What is read, in float32 or wider."""
    window: Window | None = None
    """Where its tokens stand; None only outside of a pass."""
    h: Float[Tensor, "batch pos *written"] | None = None
    """The activation that is written, where it is not what is read."""
    memory: Memory = field(default_factory=Memory)
    elsewhere: Callable[[str], Tensor] | None = None
    """Activations of other hook points, earlier in the pass."""
    point: str | None = None
    """The other hook point that is looked at; None at the leaf's own."""

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

    def beside(self, constant: Tensor) -> Tensor:
        """Return a constant tensor on the device and in the dtype of x, moved there once."""
        return self.memory.beside(constant, self.x)

    def number(self, value: float) -> Tensor:
        """Return a number as a tensor (1, 1): beside another tensor it costs less than a float."""
        return self.memory.number(value, self.x)

    def at(self, hook_name: str) -> Moment:
        """Return the moment as seen at another hook point."""
        if self.elsewhere is None:
            raise BadInputError(f"Nothing reads {hook_name!r} here: it is read in a steered pass.")
        x = self.elsewhere(hook_name)
        return Moment(x, self.window, self.written, self.memory, self.elsewhere, hook_name)

    def recall(self, signal: object) -> Tensor | None:
        """Return what a signal kept where this pass begins, of the point that it looks at."""
        return self.memory.recall((signal, self.point), self.placed)

    def keep(self, signal: object, value: Tensor) -> None:
        """Keep a signal's value for the pass that begins where this one ends."""
        self.memory.keep((signal, self.point), self.placed, value)
