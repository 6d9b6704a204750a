"""Gates that look at an activation: a probe, a cosine with a condition, a rectifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.basis import Basis, orthonormal_factor
from steerlens.cards import number
from steerlens.directions import Direction
from steerlens.signals.signal import Combining, Moment, Signal, Values


@dataclass(frozen=True, eq=False)
class Probe(Combining):
    """A logistic probe: g = sigmoid(w . x + b), between 0 and 1.

    >>> w = Direction("blocks.0.hook_resid_post", torch.tensor([1.0, 0.0]), name="harm")
    >>> Probe(w, bias=-1.0)(Moment(torch.tensor([[[1.0, 5.0]]])))
    tensor([[0.5000]])
    """

    direction: Direction
    bias: float = 0.0

    def __call__(self, moment: Moment) -> Values:
        """Return the probability."""
        return torch.sigmoid(dots(moment.x, self.direction.vector) + self.bias)

    def __repr__(self) -> str:
        """Return `probe('harm')`."""
        return f"probe({self.direction.name!r})"


@dataclass(frozen=True, eq=False)
class Cosine(Combining):
    """Cosine with a direction, signed; with a subspace, the share of length inside it.

    Compare it to make a gate, as CAST does (arXiv 2409.05907): `Cosine(harm) > 0.2`.

    >>> w = Direction("blocks.0.hook_resid_post", torch.tensor([1.0, 0.0]), name="harm")
    >>> Cosine(w)(Moment(torch.tensor([[[3.0, 4.0]]])))
    tensor([[0.6000]])
    """

    condition: Direction | Basis

    def __call__(self, moment: Moment) -> Values:
        """Return the cosine, 0 where the activation is."""
        x = moment.x
        length: Tensor = x.flatten(2).norm(dim=-1).clamp_min(1e-12)
        if isinstance(self.condition, Direction):
            vector = self.condition.vector
            cosine: Tensor = dots(x, vector) / (length * float(vector.norm().clamp_min(1e-12)))
            return cosine
        factor = orthonormal_factor(self.condition.only().flatten(1)).to(x.device, x.dtype)
        inside: Tensor = (x.flatten(2) @ factor.T).norm(dim=-1) / length
        return inside

    def __repr__(self) -> str:
        """Return `cosine('harm')`."""
        return f"cosine({self.condition.name!r})"


@dataclass(frozen=True, eq=False)
class Projection(Combining):
    """The component along a direction, in units of the activation."""

    direction: Direction

    def __call__(self, moment: Moment) -> Values:
        """Return the dot product with the unit vector."""
        return dots(moment.x, self.direction.unit().vector)

    def __repr__(self) -> str:
        """Return `projection('harm')`."""
        return f"projection({self.direction.name!r})"


@dataclass(frozen=True)
class Relu(Combining):
    """max(0, slope * (score - start)): shut up to a score, and open the wider beyond it."""

    score: Signal
    start: float = 0.0
    slope: float = 1.0

    def __call__(self, moment: Moment) -> Values:
        """Return the rectified score."""
        return (self.slope * (self.score(moment) - self.start)).clamp_min(0)

    def __repr__(self) -> str:
        """Return `relu(score)`."""
        past = f" - {number(self.start)}" if self.start else ""
        return f"relu({self.score!r}{past})"


def dots(
    x: Float[Tensor, "batch pos *unit"], vector: Float[Tensor, "*unit"]
) -> Float[Tensor, "batch pos"]:
    """Return each token's dot product with a vector (over heads too, where there are any)."""
    return x.flatten(2) @ vector.to(x.device, x.dtype).flatten()
