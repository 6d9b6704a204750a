"""RISER's router: which directions, and how strongly, as a function of the input.

    h' = h + sum over i of w_i(x) v_i,   w = f(x),  x the activation of the prompt at one layer

f is a linear map or has one hidden layer; its value is fixed from the prompt on, so that one text
has one composition. It is fitted on prompts whose weights are known: those of the concept that a
label names, or the weights that a search found for each task (`steer2adapt.adapt`), distilled.

- `softmax` (default): tells the tasks apart, and mixes their weights by probability.
- `linear`: least squares on the weights themselves.
- `gated`: RISER's two heads, w_i = sigmoid(a_i) s_i: which vectors, and what strength.

Source: RISER (arXiv 2601.09269), by third parties' accounts; no code was read. Stated: a library of
about 6 vectors, an MLP on the last prompt token, two heads, a combination fixed while decoding,
supervised warm start, then reinforcement learning by the task's reward. Here: the supervised part
alone. Reconstructed: sizes, losses and rates. Ours: the linear router, `softmax` and distillation;
x is read just before the first vector is added, so that one pass both routes and steers. The paper
reads the last layer, before it steers: that is `Router.for_prompts`, with a pass of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.basis import Basis
from steerlens.basis.vectors import Weights
from steerlens.contrast import digest
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.methods.distilling import Learning, fitted, nearest_label, split
from steerlens.methods.router import Router as Router
from steerlens.methods.router import depth, features
from steerlens.names import hook_name, layer_of
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.signals.routed import Head
from steerlens.steering import Steering
from steerlens.text import Item, listed


@dataclass(frozen=True, eq=False, repr=False)
class Routes:
    """A basis, prompts by label, and the weights that each label's prompts should get.

    Without weights a label is the name of a vector, and its prompts get that vector alone.
    """

    basis: Basis
    prompts: Mapping[str, Sequence[Item]]
    weights: Mapping[str, Weights] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise BadInputError on labels without prompts or weights, or fewer than two."""
        if len(self.prompts) < 2:
            raise BadInputError(
                f"A router chooses between two labels or more; got {list(self.prompts)}. Give "
                "prompts={label: [...], label: [...]}."
            )
        given = {label: listed(each, f"{label!r} needs") for label, each in self.prompts.items()}
        object.__setattr__(self, "prompts", given)
        few = [label for label, items in given.items() if len(items) < 2]
        if few:
            raise BadInputError(f"{few[0]!r} has one prompt. Give two or more.")
        if self.weights and set(self.weights) != set(self.prompts):
            raise BadInputError(
                f"Weights are for {list(self.weights)}, and prompts for {list(self.prompts)}. Give "
                "both for the same labels, or leave weights out where labels name vectors."
            )
        self.table()

    def table(self) -> Float[Tensor, "label k"]:
        """Return the weights of each label. Raises as `Basis.compose`."""
        given = self.weights or {label: {label: 1.0} for label in self.prompts}
        return torch.stack([self.basis.weights(given[label]) for label in self.prompts]).float()

    @property
    def digest(self) -> str:
        """The sha256 of prompts and weights, by label, for provenance."""
        return digest(list(self.prompts), *self.prompts.values(), self.table())

    def __repr__(self) -> str:
        """Return the labels and their sizes."""
        sizes = ", ".join(f"{label} {len(items)}" for label, items in self.prompts.items())
        return f"Routes({self.basis.name!r}: {sizes})"


@dataclass(frozen=True)
class Config:
    """A router's choices."""

    reads: str | None = None
    """The hook point that it looks at; by default the input of the first block that is steered."""
    pool: Literal["last", "mean"] = "last"
    """The prompt's last token, or the mean over its tokens."""
    head: Head = "softmax"
    hidden: int | None = None
    """The width of a hidden layer; None is a linear router."""
    positions: Positions = "predicting"
    """Where directions are added."""
    learning: Learning = field(default_factory=Learning)
    """Steps, rate and decay."""
    held_out: float = 0.25
    """The share of each label's prompts that tells how often it is right."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise BadInputError on numbers that cannot be."""
        if self.pool not in ("last", "mean"):
            raise BadInputError(f"A prompt is pooled by 'last' or 'mean'; got {self.pool!r}.")
        if self.head not in get_args(Head):
            raise BadInputError(
                f"A router's head is {', '.join(get_args(Head))}; got {self.head!r}."
            )
        if self.hidden is not None and self.hidden < 1:
            raise BadInputError(f"A hidden layer is 1 wide or more; got {self.hidden}.")
        if not 0 <= self.held_out < 1:
            raise BadInputError(f"held_out is a share from 0 to below 1; got {self.held_out}.")


def fit(model: Host, data: Routes, config: Config = Config(), *, progress: bool = True) -> Steering:
    """Return the steering that adds a basis's vectors as strongly as its router says.

    Raises and costs as `train`.

    >>> basis = sl.Basis.of({"good": directions["resid_post", 2]})
    >>> routes = Routes(basis, {"nice": contrast.positive, "not": contrast.negative},
    ...                 {"nice": [-1.0], "not": [2.0]})
    >>> len(fit(model, routes, progress=False).interventions)
    1
    """
    return train(model, data, config, progress=progress).steering()


def train(model: Host, data: Routes, config: Config = Config(), *, progress: bool = True) -> Router:
    """Fit a router, and tell how often it is right on prompts that it was not fitted on.

    Returns a router fitted on all prompts; `accuracy` is of another, fitted without those held out
    (None where nothing is). Exact by the seed. Raises UnknownNameError on a hook point that is not
    there. Cost: a pass a prompt up to the layer read, and a second or so.
    """
    if not isinstance(data, Routes):
        raise BadInputError(
            f"A router is fitted on Routes(basis, prompts, weights); got {type(data).__name__}."
        )
    reads = hook_name(config.reads or unsteered(data.basis))
    x, labels = _features(model, data, reads, config, progress)
    table = data.table()
    kept, held = split(labels, config.held_out, config.seed)
    how = config.head, config.hidden, config.learning, config.seed
    accuracy = None
    if len(held):
        trial = fitted(x[kept], labels[kept], table, *how)
        told = nearest_label(trial.weights(x[held]), table)
        right = (table[told] == table[labels[held]]).all(1)  # labels may share their weights
        accuracy = float(right.float().mean())
    network = fitted(x, labels, table, *how)
    return Router(
        data.basis,
        network,
        reads,
        config.pool,
        config.positions,
        tuple(data.prompts),
        table,
        accuracy,
        len(held),
        made_by(model, "riser", config, data.digest),
    )


def unsteered(basis: Basis) -> str:
    """Return the highest point of the stream that a basis leaves unsteered, to read at.

    The only hook point of a basis, whose own signals see it before it is written; else the input
    of the first block that is written, or of the one before it.

    >>> vectors = {f"blocks.{layer}.hook_resid_post": torch.eye(2) for layer in (3, 4)}
    >>> unsteered(Basis(vectors))
    'blocks.3.hook_resid_pre'
    """
    first = min(basis.vectors, key=depth)
    layer = layer_of(first)
    if len(basis.vectors) == 1 or layer is None:
        return first
    before = hook_name("resid_pre", layer)
    if depth(before) == depth(first):
        before = hook_name("resid_pre", max(0, layer - 1))
    return before


def _features(
    model: Host, data: Routes, reads: str, config: Config, progress: bool
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    """What is read of every prompt, and which label it has."""
    sizes = [len(items) for items in data.prompts.values()]
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    items = [item for each in data.prompts.values() for item in each]
    return features(model, items, reads, config.pool, progress=progress), labels
