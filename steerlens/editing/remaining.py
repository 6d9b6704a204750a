"""What stands along an edit's directions, before and after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.editing.factors import Factors
from steerlens.host import FwdHooks
from steerlens.names import hook_name

if TYPE_CHECKING:
    import pandas

Side = Literal["base", "edited"]


@dataclass(eq=False)
class Watch:
    """A direction looked for at one hook point: its mean and largest component over tokens."""

    layer: int
    at: str
    """The site, and at the stream whose direction: "resid_post, of attn"."""
    hook_name: str
    unit: Float[Tensor, " d_model"]
    tokens: dict[Side, int] = field(default_factory=lambda: {"base": 0, "edited": 0})
    total: dict[Side, float] = field(default_factory=lambda: {"base": 0.0, "edited": 0.0})
    most: dict[Side, float] = field(default_factory=lambda: {"base": 0.0, "edited": 0.0})

    def look(
        self,
        activation: Float[Tensor, "batch pos d_model"],
        real: Bool[Tensor, "batch pos"],
        side: Side,
    ) -> None:
        """Take in what stands there in one pass."""
        along = (activation.float() @ self.unit.to(activation.device))[real]
        self.tokens[side] += len(along)
        self.total[side] += float(along.sum())
        self.most[side] = max(self.most[side], float(along.abs().max()))


def watches(factors: Sequence[Factors]) -> list[Watch]:
    """Return a watch on every block that is edited, and on the stream after its layer.

    The stream is watched along each direction that a block of its layer serves, once where they
    are the same.
    """
    found: list[Watch] = []
    streams: dict[int, list[tuple[str, Tensor]]] = {}
    for each in sorted(factors, key=lambda each: each.place):
        layer, block = each.place
        found.append(Watch(layer, f"{block}_out", each.name, each.toward))
        known = streams.setdefault(layer, [])
        if not any(torch.equal(each.toward, unit) for _, unit in known):
            known.append((block, each.toward))
    for layer, units in streams.items():
        for served, unit in units:
            of = f", of {served}" if len(units) > 1 else ""
            found.append(Watch(layer, f"resid_post{of}", hook_name("resid_post", layer), unit))
    return sorted(found, key=lambda each: each.layer)


def looking(found: Sequence[Watch], real: Bool[Tensor, "batch pos"], side: Side) -> FwdHooks:
    """Return the hooks of one pass that let every watch look."""

    def looker(each: Watch) -> Callable[..., None]:
        def look(activation: Tensor, hook: Any) -> None:
            each.look(activation, real, side)

        return look

    return [(each.hook_name, looker(each)) for each in found]


def table(found: Sequence[Watch]) -> pandas.DataFrame:
    """Return a line a watch: `layer`, `at`, means and largest sizes, before and after."""
    import pandas

    rows = [
        (
            each.layer,
            each.at,
            each.total["base"] / each.tokens["base"],
            each.total["edited"] / each.tokens["edited"],
            each.most["base"],
            each.most["edited"],
        )
        for each in found
    ]
    columns = ["layer", "at", "base", "edited", "largest_base", "largest_edited"]
    return pandas.DataFrame(rows, columns=columns)
