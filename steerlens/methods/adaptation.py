"""What a search over a basis found: the weights, the way there, and the card that explains them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.basis import Basis
from steerlens.cards import card, count, number, share
from steerlens.directions import Direction, Directions
from steerlens.directions.collection import listed
from steerlens.errors import BadInputError
from steerlens.methods.composing import composed
from steerlens.methods.signing import signed
from steerlens.positions import Positions
from steerlens.steering import Steering

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Trial:
    """One candidate: its weights, J, and the terms of it."""

    weights: tuple[float, ...]
    value: float
    """J."""
    gain: float
    flips: float
    drop: float


@dataclass(frozen=True, eq=False, repr=False)
class Adaptation:
    """The best weights of a basis for some examples, and every candidate in order.

    `.steering` adds the composed vector; `.frame()` tells each concept's sign and share,
    `.trajectory()` every candidate. Save `.steering` and the basis with `sl.save`.
    """

    basis: Basis
    trials: tuple[Trial, ...]
    """In order; the first has weights 0."""
    chosen: int
    """The place of the best."""
    method: str
    stopped: str
    """Why the search ended."""
    wrong: int
    """How many examples were wrong without steering."""
    right: int
    positions: Positions = "everywhere"
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise BadInputError where the trials are not of this basis, or the best is none."""
        if any(len(trial.weights) != len(self.basis) for trial in self.trials):
            raise BadInputError(
                f"Trials have {len(self.basis)} weights, one a vector of the basis."
            )
        if not 0 <= self.chosen < len(self.trials):
            raise BadInputError(f"The best is one of {len(self.trials)} trials; got {self.chosen}.")

    @property
    def best(self) -> Trial:
        """The candidate of the highest J; no steering where none is higher."""
        return self.trials[self.chosen]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each concept."""
        return dict(zip(self.basis.labels, self.best.weights, strict=True))

    @property
    def gained(self) -> bool:
        """Whether anything is better than no steering."""
        return self.chosen > 0

    @property
    def direction(self) -> Direction | Directions:
        """The composed vector, at each hook point."""
        return self.basis.compose(self.best.weights)

    @property
    def steering(self) -> Steering:
        """The steering that adds the composed vector."""
        return signed(composed(self.basis, self.best.weights, self.positions), self.provenance)

    @property
    def shares(self) -> dict[str, float]:
        """Each concept's share in the lengths of what is added, over all hook points; sum 1."""
        return shares(self.basis, self.best.weights)

    def frame(self) -> pandas.DataFrame:
        """Return a line a concept.

        Columns: `concept`, `weight`, `share` of the lengths added, `cosine` of the concept with the
        composed vector (mean over hook points), NaN where nothing is added.
        """
        import pandas

        cosines = alignments(self.basis, self.best.weights)
        return pandas.DataFrame(
            {
                "concept": list(self.basis.labels),
                "weight": list(self.best.weights),
                "share": list(self.shares.values()),
                "cosine": cosines.tolist(),
            }
        )

    def trajectory(self) -> pandas.DataFrame:
        """Return a line a candidate, in order.

        Columns: `value` (J), `best` (so far), `gain`, `flips`, `drop`, then a weight a concept.
        """
        import pandas

        terms = {
            name: [getattr(each, name) for each in self.trials]
            for name in ("value", "gain", "flips", "drop")
        }
        table = pandas.DataFrame(terms)
        table.insert(1, "best", table["value"].cummax())
        for i, label in enumerate(self.basis.labels):
            table[label] = [each.weights[i] for each in self.trials]
        return table

    def _headline(self) -> str:
        examples = f"{count(self.wrong, 'wrong example')} and {self.right} right"
        if not self.gained:
            return f"no steering is best of {len(self.trials)}, on {examples}"
        best = self.best
        lost = f", {count(round(best.flips), 'flip')}" if best.flips else ", no flips"
        return (
            f"J {number(best.value)}: gain {number(best.gain)}{lost}, drop {number(best.drop)}, on "
            f"{examples}; candidate {self.chosen} of {len(self.trials) - 1} by {self.method}"
        )

    def __repr__(self) -> str:
        """Return J, the sum, and why the search ended."""
        name = listed(self.direction)[0].name
        return f"Adaptation({name}; {self._headline()}; {self.stopped})"

    def _repr_html_(self) -> str:
        rows = {
            label: f"{weight:+.2f}, {share(self.shares[label])} of what is added"
            for label, weight in sorted(self.weights.items(), key=lambda it: -abs(it[1]))
        }
        rows = rows if self.gained else {}
        return card(f"Adaptation: {self._headline()}", {**rows, "search": self.stopped})


def shares(basis: Basis, weights: tuple[float, ...]) -> dict[str, float]:
    """Return each vector's share in the summed lengths of what weights add; 0 for weights 0.

    >>> basis = Basis({"hook_embed": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}, labels=["a", "b"])
    >>> shares(basis, (-1.0, 1.0))
    {'a': 0.75, 'b': 0.25}
    """
    lengths = [
        abs(weight) * sum(float(v[i].norm()) for v in basis.vectors.values())
        for i, weight in enumerate(weights)
    ]
    total = sum(lengths)
    return {
        label: length / total if total else 0.0
        for label, length in zip(basis.labels, lengths, strict=True)
    }


def alignments(basis: Basis, weights: tuple[float, ...]) -> Float[Tensor, " k"]:
    """Return the cosine of each vector with the weighted sum, a mean over the hook points."""
    found = []
    for vectors in basis.vectors.values():
        flat = vectors.flatten(1).double()
        total = torch.tensor(weights).double() @ flat
        found.append((flat @ total) / (flat.norm(dim=1) * total.norm()))
    return torch.stack(found).mean(0).float()
