"""Attribution: the scores of every head and neuron, as tensors, as a table, and in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.cards import card, count
from steerlens.components import Block, label
from steerlens.errors import BadInputError, UnknownNameError, nearest

if TYPE_CHECKING:
    import pandas

_NEUTRAL = {"contribution": 0.0, "mean_contribution": 0.0, "importance": 0.0, "gradient": 0.0}
_NEUTRAL["auc"] = 0.5
"""What a component scores that has nothing to do with the direction; the rest rank by value."""
_BLOCKS = ("attn", "mlp")


@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """The scores of every head, or of every neuron, each (layer, unit)."""

    contribution: Float[Tensor, "layer unit"]
    """What the component's mean output adds along the unit direction, positive minus negative
    side, as it reaches the stream."""
    mean_contribution: Float[Tensor, "layer unit"]
    """The same of the mean of both sides."""
    importance: Float[Tensor, "layer unit"]
    """Steer2Edit's g = cos(v, W mu), mu the mean input of both sides; for a neuron
    sign(mu) cos(v, w). Where a norm follows, v is what the direction reads before it."""
    auc: Float[Tensor, "layer unit"]
    """Chance that a positive example lies above a negative one: in a head's output along the
    direction, or in a neuron's activation."""
    gap: Float[Tensor, "layer unit"]
    """Length of the difference of the component's mean outputs in the stream."""
    effect_size: Float[Tensor, "layer unit"]
    """The gap in units of the spread within a side (root of the summed variance)."""
    accuracy: Float[Tensor, "layer unit"] | None = None
    """Held-out accuracy: of a logistic probe on a head's z, or a threshold on a neuron."""
    gradient: Float[Tensor, "layer unit"] | None = None
    """What the component's difference of means does to the metric on the negative side, to
    first order."""

    def __post_init__(self) -> None:
        """Raise BadInputError where the scores are not of the same components."""
        shapes = {tuple(each.shape) for each in vars(self).values() if each is not None}
        if len(shapes) > 1:
            raise BadInputError(f"Scores are (layer, unit) each; got {sorted(shapes)}.")

    def __repr__(self) -> str:
        """Return the size, and which scores there are."""
        layers, units = self.auc.shape
        names = ", ".join(name for name, each in vars(self).items() if each is not None)
        return f"Scores({count(layers, 'layer')} of {units}: {names})"


SCORES: tuple[str, ...] = tuple(each.name for each in fields(Scores))


@dataclass(frozen=True, repr=False, eq=False)
class Attribution:
    """Which heads and neurons carry a direction, and which move a metric.

    >>> attribution = sl.attribute(model, contrast, directions["resid_post", 2], progress=False)
    >>> attribution.heads.importance.shape
    torch.Size([6, 8])
    >>> attribution.top(3, by="auc").columns[:4].tolist()
    ['component', 'layer', 'block', 'index']
    """

    heads: Scores
    neurons: Scores | None
    """None where the MLPs are mixtures of experts, whose neurons have no one output each."""
    name: str
    """Of the direction."""
    items: str
    """What it was read in: "64 pairs"."""
    positions: str
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise BadInputError where heads and neurons have other layers, or other scores."""
        told = [
            (len(each.auc), [name for name in SCORES if getattr(each, name) is None])
            for each in (self.heads, self.neurons)
            if each is not None
        ]
        if told[0] != told[-1]:
            raise BadInputError("Heads and neurons have the same layers and the same scores.")

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table, a line a component: by layer, heads before neurons, then index.

        Columns: `component` (such as "L3H5" or "L3N120"), `layer`, `block` ("attn" or "mlp"),
        `index`, and the scores that were computed.
        """
        return self._table(torch.arange(self._values("auc").numel()))

    def top(
        self, n: int = 10, by: str = "importance", *, block: str | None = None
    ) -> pandas.DataFrame:
        """Return the `n` highest components as lines of the table, of one block or of both.

        Signed scores rank by their distance from what says nothing: 0, or 0.5 for "auc". The rest
        ("gap", "effect_size", "accuracy") rank by value. Ties go to the lower layer, then to
        heads, then to the lower index; what is not a number is left out. Raises UnknownNameError
        on an unknown score or block, BadInputError on one that was not computed or n below 1.
        """
        if n < 1:
            raise BadInputError(f"top() returns one component or more; got n={n}.")
        return self._table(self._ranked(by, block)[:n])

    def __repr__(self) -> str:
        """Return the size, and the components of the greatest importance."""
        size = count(self.heads.auc.numel(), "head")
        if self.neurons is None:
            size += ", no neurons (a mixture of experts)"
        else:
            size += f", {count(self.neurons.auc.numel(), 'neuron')}"
        best = self._named("importance", None, 3)
        return f"Attribution({self.name!r}, {size}, {self.items}; importance {best})"

    def _repr_html_(self) -> str:
        rows = {"read in": f"{self.items}, {self.positions}"}
        blocks = _BLOCKS if self.neurons is not None else _BLOCKS[:1]
        for by in ("importance", "contribution", "auc", "accuracy", "gradient"):
            if getattr(self.heads, by) is not None:
                named = [self._named(by, block, 5) for block in blocks]
                rows |= {by: "; ".join(each for each in named if each) or "not a number anywhere"}
        if self.neurons is None:
            rows["neurons"] = "none: the MLPs are mixtures of experts"
        return card(f"Attribution of {self.name!r}", rows)

    def _named(self, by: str, block: str | None, n: int) -> str:
        """The highest components with their scores: `L3H5 +0.52, L2N7 -0.4`."""
        best = self._ranked(by, block)[:n]
        values = self._values(by).flatten()[best].tolist()
        sign = "+" if _NEUTRAL.get(by) == 0 else ""
        labels = self._places(best)["component"]
        return ", ".join(f"{a} {v:{sign}.2g}" for a, v in zip(labels, values, strict=True))

    def _ranked(self, by: str, block: str | None) -> Int[Tensor, " component"]:
        """Components from the highest down, by place in the table."""
        if block is not None and block not in _BLOCKS:
            raise UnknownNameError(f"There is no block {block!r}: heads are 'attn', neurons 'mlp'.")
        if block == "mlp" and self.neurons is None:
            raise BadInputError(
                "There are no neurons here: the MLPs are mixtures of experts. Take heads."
            )
        values = self._values(by)
        neutral = _NEUTRAL.get(by)
        strength = values if neutral is None else (values - neutral).abs()
        kept = ~strength.isnan()
        if block is not None:
            is_head = torch.arange(values.shape[1]) < self.heads.auc.shape[1]
            kept = kept & (is_head if block == "attn" else ~is_head)
        order = strength.flatten().nan_to_num(-1.0).argsort(descending=True, stable=True)
        return order[kept.flatten()[order]]

    def _values(self, by: str) -> Float[Tensor, "layer component"]:
        """A score of heads, then neurons, of each layer."""
        if by not in SCORES:
            raise UnknownNameError(
                f"There is no score {by!r}. {nearest(by, SCORES, len(SCORES)).capitalize()}."
            )
        parts = [getattr(each, by) for each in (self.heads, self.neurons) if each is not None]
        if parts[0] is None:
            remedy = "probes=True" if by == "accuracy" else "a metric"
            raise BadInputError(f"{by!r} was not computed: call attribute with {remedy}.")
        return torch.cat(parts, dim=1)

    def _places(self, picked: Int[Tensor, " component"]) -> dict[str, list[Any]]:
        heads = self.heads.auc.shape[1]
        width = heads + (0 if self.neurons is None else self.neurons.auc.shape[1])
        layer, unit = (picked // width).tolist(), picked % width
        blocks: list[Block] = ["attn" if each else "mlp" for each in (unit < heads).tolist()]
        index = torch.where(unit < heads, unit, unit - heads).tolist()
        return {
            "component": [label(*each) for each in zip(layer, blocks, index, strict=True)],
            "layer": layer,
            "block": blocks,
            "index": index,
        }

    def _table(self, picked: Int[Tensor, " component"]) -> pandas.DataFrame:
        import pandas

        computed = [name for name in SCORES if getattr(self.heads, name) is not None]
        columns = {name: self._values(name).flatten()[picked].tolist() for name in computed}
        return pandas.DataFrame(self._places(picked) | columns)
