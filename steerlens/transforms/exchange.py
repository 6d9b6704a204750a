"""Transforms that bring in activations of another pass: replace, and interchange along a basis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steerlens.cards import count
from steerlens.errors import BadInputError
from steerlens.host import Host, check_by_token, check_hook_name, device_of
from steerlens.passes import keeping, one_pass
from steerlens.positions import Window
from steerlens.text import Item, batches, encode_all
from steerlens.transforms.linear import Along
from steerlens.transforms.transform import Linear, Scaled


class Stored(Linear):
    """Activations of a reference pass: one a row (batch, *unit), or (batch, index, *unit).

    By index, NaN stands where nothing is stored, as `stored_pass` leaves it past a row's end.
    """

    reference: Tensor
    by_index: bool

    def _keep_reference(self, unit_shape: tuple[int, ...] | None) -> None:
        """Make the reference its own. Raises BadInputError on one of another shape."""
        given: Any = self.reference
        dims = 3 if self.by_index else 2
        if not isinstance(given, Tensor) or not given.is_floating_point() or given.ndim < dims:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise BadInputError(
                "A reference is a tensor (row, *unit), one activation a row, or with "
                f"by_index=True (row, index, *unit), as stored_pass gives it; got {shape}."
            )
        if unit_shape is not None and tuple(given.shape[dims - 1 :]) != unit_shape:
            one = "(row, index, *unit)" if self.by_index else "(row, *unit)"
            hint = "" if self.by_index else ", or by_index=True for one a position"
            raise BadInputError(
                f"The reference has shape {tuple(given.shape)}. It should be {one}, with unit "
                f"{unit_shape}{hint}."
            )
        object.__setattr__(self, "reference", given.detach().clone())

    def _held(self) -> str:
        each = f" of {self.reference.shape[1]} tokens" if self.by_index else ""
        return f"{count(len(self.reference), 'stored row')}{each}"

    def _at(self, x: Tensor, window: Window | None) -> Tensor:
        """The stored activations for these rows and positions, shaped like `x`."""
        if len(self.reference) not in (1, len(x)):
            raise BadInputError(
                f"{self!r} holds {len(self.reference)} rows and meets a batch of {len(x)}. It "
                "serves the prompts whose pass was stored."
            )
        rows = self.reference.expand(len(x), *self.reference.shape[1:])
        if not self.by_index:
            return rows[:, None]
        if window is None:
            raise BadInputError(f"{self!r} needs to know where its tokens stand.")
        index = window.index.clamp(0, rows.shape[1] - 1)
        return rows[torch.arange(len(x), device=index.device)[:, None], index]

    def _toward(
        self, x: Tensor, strength: Tensor, window: Window | None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What leads to the reference, and how to take a share of it where there is one."""
        there = self._at(x, window)
        stored = ~there.flatten(2).isnan().any(-1)
        if self.by_index and window is not None:
            stored = stored & (window.index < self.reference.shape[1])
        stored = stored.reshape(*stored.shape, *[1] * (x.ndim - 2))
        return there - x, lambda gap: torch.where(stored, strength * gap, 0)


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Stored):
    """Δ = r - x: activations become those of a reference pass. A share.

    `reference` holds one activation a row, or with `by_index` one for each absolute position of
    each row (BOS is 0), as `stored_pass` gives it; positions past it are left alone. One row
    serves every row. Columns of a left-padded cache are not absolute positions.

    >>> Replace(torch.tensor([[1.0, 2.0]])).change(torch.zeros(1, 3, 2), torch.tensor(1.0))
    tensor([[[1., 2.],
             [1., 2.],
             [1., 2.]]])
    """

    reference: Float[Tensor, "batch ..."]
    by_index: bool = False
    hook_name: str | None = None
    scales: ClassVar[Scaled] = "share"

    def __post_init__(self) -> None:
        """Raise BadInputError on a reference that is no tensor of activations."""
        self._keep_reference(None)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of one stored activation."""
        return tuple(self.reference.shape[2 if self.by_index else 1 :])

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return the share of the way to the stored activation."""
        gap, share = self._toward(x, strength, window)
        return share(gap)

    def __repr__(self) -> str:
        """Return how many rows are stored."""
        return f"replace({self._held()})"


@dataclass(frozen=True, eq=False, repr=False)
class Interchange(Stored, Along):
    """Δ = Q Qᵀ(r - x): the component along a direction or basis becomes the reference's. A share.

    Source: interchange interventions (Geiger et al., arXiv 2106.02997).
    """

    reference: Float[Tensor, "batch ..."]
    by_index: bool = False

    def __post_init__(self) -> None:
        """Raise BadInputError on a reference of another shape."""
        super().__post_init__()
        self._keep_reference(self.unit_shape)

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return the share of the way to the stored component."""
        gap, share = self._toward(x, strength, window)
        return share(self._vector(self._coordinates(gap)))

    def __repr__(self) -> str:
        """Return `interchange('truth', 4 stored rows)`."""
        return f"interchange({self.along.name!r}, {self._held()})"


def stored_pass(
    model: Host, prompts: Iterable[Item], hook_name: str, *, batch_tokens: int = 4096
) -> Float[Tensor, "row index *unit"]:
    """Return the activations of prompts at a hook point, by absolute index, BOS at 0.

    The reference of `Replace` and `Interchange` with `by_index=True`; NaN past each row's end.
    Runs under whatever steering is on. Raises UnknownNameError or HookError on a hook point that
    cannot be read. Cost: one pass over the prompts.

    >>> stored_pass(model, ["a good day"], "blocks.2.hook_resid_post").shape
    torch.Size([1, 4, ...])
    """
    check_by_token(check_hook_name(model, hook_name))
    encoded = encode_all(model, prompts, "A pass is stored of")
    found: dict[int, Tensor] = {}
    for rows, batch in batches(model, encoded, batch_tokens=batch_tokens, device=device_of(model)):
        seen: dict[str, Tensor] = {}
        with torch.no_grad():
            one_pass(model, batch, keeping(seen, [hook_name]))
        stored = zip(rows, seen[hook_name].float().cpu(), strict=True)
        found |= {row: each[: len(encoded[row].tokens)] for row, each in stored}
    each_row = [found[row] for row in range(len(encoded))]
    return pad_sequence(each_row, batch_first=True, padding_value=torch.nan)
