"""Routed weights: what a small network says of what is read, a number for each direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import count
from steerlens.errors import BadInputError
from steerlens.signals.moment import Moment
from steerlens.signals.signal import Combining, Values

Head = Literal["linear", "softmax", "gated"]


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A linear map, or one hidden layer, from an activation (d) to k weights.

    With z = W tanh(U x + c) + b, or z = W x + b without U, the weights are by `head`

    - `linear`: z;
    - `softmax`: softmax(z) @ table, a mean of the table's rows: one row of weights a task;
    - `gated`: sigmoid(z[:k]) * z[k:], which directions and how strongly, as RISER's two heads
      (arXiv 2601.09269).

    Raises BadInputError on shapes that do not fit together.

    >>> network = Network(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2))
    >>> network, network.weights(torch.tensor([3.0, 4.0]))
    (Network(linear, 2 to 2 weights), tensor([3., 8.]))
    """

    out: Float[Tensor, "z width"]
    """W."""
    bias: Float[Tensor, " z"]
    hidden: Float[Tensor, "width d"] | None = None
    """U."""
    hidden_bias: Float[Tensor, " width"] | None = None
    table: Float[Tensor, "z k"] | None = None
    head: Head = "linear"

    def __post_init__(self) -> None:
        """Make its tensors its own, and check how they fit together."""
        for name in ("out", "bias", "hidden", "hidden_bias", "table"):
            given = getattr(self, name)
            if given is not None:
                own = given.detach().float().cpu().clone()
                if not torch.isfinite(own).all():
                    raise BadInputError(f"The router's {name} is not finite everywhere.")
                object.__setattr__(self, name, own)
        if self.head not in get_args(Head):
            raise BadInputError(
                f"A router's head is 'linear', 'softmax' or 'gated', not {self.head!r}."
            )
        self._check_shapes()

    def _check_shapes(self) -> None:
        shapes = {
            name: tuple(each.shape)
            for name in ("out", "bias", "hidden", "hidden_bias", "table")
            if (each := getattr(self, name)) is not None
        }
        z, width = self.out.shape if self.out.ndim == 2 else (-1, -1)
        fits = self.bias.shape == (z,)
        fits &= (self.hidden is None) == (self.hidden_bias is None)
        if self.hidden is not None and self.hidden_bias is not None:
            fits &= self.hidden.ndim == 2 and self.hidden_bias.shape == (width,)
            fits &= len(self.hidden) == width
        fits &= (self.table is not None) == (self.head == "softmax")
        fits &= self.table is None or (self.table.ndim == 2 and len(self.table) == z)
        fits &= self.head != "gated" or z % 2 == 0
        if not fits:
            raise BadInputError(
                f"A {self.head} router's parts do not fit together: {shapes}. It takes out (z, "
                "width), bias (z), hidden (width, d) with hidden_bias (width), and for softmax a "
                "table (z, k)."
            )

    @property
    def inputs(self) -> int:
        """d, the entries of what is read."""
        return self.out.shape[1] if self.hidden is None else self.hidden.shape[1]

    def __len__(self) -> int:
        """Return k, the number of weights."""
        if self.table is not None:
            return self.table.shape[1]
        return len(self.out) // (2 if self.head == "gated" else 1)

    def logits(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch z"]:
        """Return z."""
        if self.hidden is not None and self.hidden_bias is not None:
            x = torch.tanh(x @ self.hidden.to(x).T + self.hidden_bias.to(x))
        return x @ self.out.to(x).T + self.bias.to(x)

    def weights(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch k"]:
        """Return the weights of activations, in their dtype."""
        return headed(self.logits(x), self.head, self.table)

    def __repr__(self) -> str:
        """Return the head and the sizes."""
        through = f" through {len(self.out[0])}" if self.hidden is not None else ""
        return f"Network({self.head}, {self.inputs}{through} to {count(len(self), 'weight')})"


def headed(
    z: Float[Tensor, "*batch z"], head: Head, table: Float[Tensor, "z k"] | None
) -> Float[Tensor, "*batch k"]:
    """Return the weights that a head makes of z.

    >>> headed(torch.tensor([0.0, 0.0]), "softmax", torch.tensor([[1.0], [3.0]]))
    tensor([2.])
    """
    if head == "softmax":
        assert table is not None
        return torch.softmax(z, -1) @ table.to(z)
    if head == "gated":
        which, strength = z.chunk(2, -1)
        return torch.sigmoid(which) * strength
    return z


@dataclass(frozen=True, eq=False)
class Routed(Combining):
    """One of a network's weights, of what is read at each token.

    Held over a text by `OfPrompt(Routed(network, 0), "last").at(hook_name)`.

    >>> network = Network(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2))
    >>> Routed(network, 1, "joy")(Moment(torch.tensor([[[3.0, 4.0]]])))
    tensor([[8.]])
    """

    network: Network
    index: int
    name: str = "weight"

    def __post_init__(self) -> None:
        """Raise BadInputError on a weight that the network does not have."""
        if not 0 <= self.index < len(self.network):
            raise BadInputError(f"{self.network!r} has no weight {self.index}; they count from 0.")

    def __call__(self, moment: Moment) -> Values:
        """Return the weight of each token. Raises BadInputError on activations of another width."""
        x = moment.x.flatten(2)
        if x.shape[-1] != self.network.inputs:
            raise BadInputError(
                f"{self.network!r} meets activations of {x.shape[-1]} entries. Read it where it "
                "was fitted: .at(hook_name)."
            )
        return self.network.weights(x)[..., self.index]

    def __repr__(self) -> str:
        """Return `routed('joy')`."""
        return f"routed({self.name!r})"
