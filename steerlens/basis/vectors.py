"""Vectors: what a basis holds, k labelled vectors at each of its hook points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerlens.cards import count, number
from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.names import hook_name as full_name

Held = TypeVar("Held", bound="Vectors")
Weights = Sequence[float] | Mapping[str, float] | Float[Tensor, " k"]


@dataclass(frozen=True, eq=False, repr=False)
class Vectors:
    """k vectors (k, *unit) a hook name, with labels: copied, checked, looked up and summed."""

    vectors: Mapping[str, Float[Tensor, "k ..."]]
    labels: Sequence[str] = ()
    name: str = "basis"
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Copy the vectors, and check them and the labels. Raises BadInputError."""
        own = {hook: v.detach().float().cpu().clone() for hook, v in self.vectors.items()}
        k = _size(self.name, own)
        labels = tuple(self.labels) or tuple(f"{self.name} {i}" for i in range(k))
        if len(labels) != k or len(set(labels)) != k:
            raise BadInputError(
                f"{self.name!r} has {count(k, 'vector')} and needs as many labels, all "
                f"different; got {list(labels)}."
            )
        object.__setattr__(self, "vectors", own)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        """Return k, the number of vectors at each hook point."""
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the labels."""
        return iter(self.labels)

    def __getitem__(self, label: str) -> Direction | Directions:
        """Return the vector of a label: Directions where there are several hook points."""
        i = self._index(label)
        return self._direction({hook: v[i] for hook, v in self.vectors.items()}, label)

    def _index(self, label: str) -> int:
        if label not in self.labels:
            near = nearest(str(label), self.labels).capitalize()
            raise UnknownNameError(f"{self.name!r} has no vector {label!r}. {near}.")
        return self.labels.index(label)

    def _direction(self, vectors: Mapping[str, Tensor], name: str) -> Direction | Directions:
        source = {**self.provenance, "basis": self.name}
        found = {
            hook: Direction(hook, vector, name=name, provenance=source)
            for hook, vector in vectors.items()
        }
        return Directions(found) if len(found) > 1 else next(iter(found.values()))

    @property
    def hook_name(self) -> str:
        """Its only hook point. Raises BadInputError where it has several."""
        if len(self.vectors) != 1:
            raise BadInputError(
                f"{self.name!r} lives at {len(self.vectors)} hook points: choose one by "
                "basis.at(hook_name)."
            )
        return next(iter(self.vectors))

    def at(self: Held, hook_name: str, layer: int | None = None) -> Held:
        """Return the basis at one of its hook points: a hook name, or a site and a layer."""
        name = full_name(hook_name, layer)
        if name not in self.vectors:
            near = nearest(name, self.vectors).capitalize()
            raise UnknownNameError(f"{self.name!r} is not at {name!r}. {near}.")
        return replace(self, vectors={name: self.vectors[name]})

    def parts(self: Held) -> list[Held]:
        """Return a basis for each hook point."""
        return [self.at(hook_name) for hook_name in self.vectors]

    def only(self) -> Float[Tensor, "k ..."]:
        """Return the vectors (k, *unit) at its only hook point."""
        return self.vectors[self.hook_name]

    def compose(self, weights: Weights) -> Direction | Directions:
        """Return the sum of weights times vectors, named after them.

        `weights` are one a vector, or by label, the others 0; every hook point gets its own
        sum, and several give Directions. Raises BadInputError on another number of weights,
        UnknownNameError on another label. Source: Steer2Adapt (arXiv 2602.07276).

        >>> basis = Vectors({"blocks.0.hook_resid_post": torch.eye(2)}, labels=["joy", "fear"])
        >>> basis.compose({"joy": 2, "fear": -0.5})
        Direction('2 * joy - 0.5 * fear', blocks.0.hook_resid_post, d=2, |v|=2.06)
        """
        each = self.weights(weights)
        sums = {hook: torch.tensordot(each, v.double(), 1) for hook, v in self.vectors.items()}
        return self._direction(sums, _sum_name(self.labels, each.tolist()))

    def weights(self, weights: Weights) -> Float64[Tensor, " k"]:
        """Return one weight a vector, from numbers or by label. Raises as `compose` does."""
        if isinstance(weights, Mapping):
            by_index = {self._index(label): weight for label, weight in weights.items()}
            weights = [by_index.get(i, 0.0) for i in range(len(self))]
        each = torch.as_tensor(weights).detach().cpu().double()
        if each.shape != (len(self),):
            raise BadInputError(
                f"{self.name!r} takes {count(len(self), 'weight')}, one a vector "
                f"({', '.join(self.labels)}); got {tuple(each.shape)}. Or give them by label."
            )
        return each


def _size(name: str, vectors: Mapping[str, Tensor]) -> int:
    """The k of every hook point. Raises BadInputError unless it is one number, above 0."""
    sizes = {len(v) if v.ndim > 1 else 0 for v in vectors.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise BadInputError(
            f"{name!r} needs one vector or more (k, *unit), as many at every hook point; got "
            f"{ {hook: tuple(v.shape) for hook, v in vectors.items()} }."
        )
    wrong = [hook for hook, v in vectors.items() if not torch.isfinite(v).all()]
    if wrong:
        raise BadInputError(
            f"The vectors of {name!r} at {wrong[0]!r} are not finite (NaN or infinity). Look at "
            "what they were made from."
        )
    return sizes.pop()


def _sum_name(labels: Sequence[str], weights: Sequence[float], most: int = 4) -> str:
    """The terms of a sum: `2 * joy - 0.5 * fear`; the largest ones where there are many."""
    terms = [(weight, label) for weight, label in zip(weights, labels, strict=True) if weight]
    largest = sorted(terms, key=lambda term: -abs(term[0]))[:most]
    shown = [term for term in terms if term in largest]
    text = " ".join(f"{'-' if w < 0 else '+'} {number(abs(w))} * {label}" for w, label in shown)
    rest = f" + {len(terms) - len(shown)} more" if len(terms) > len(shown) else ""
    text = f"-{text[2:]}" if text.startswith("- ") else text.removeprefix("+ ")
    return (text or "0") + rest
