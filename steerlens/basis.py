"""Basis: several directions as one value, at one hook point or at many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError


def orthonormal_factor(
    vectors: Float[Tensor, "k d"], tolerance: float = 1e-5
) -> Float[Tensor, "rank d"]:
    """Return orthonormal rows that span the given ones; nearly parallel ones count once.

    The first row points along the first vector. A direction is kept where its singular value
    is above `tolerance` times the largest.
    """
    _, values, span = torch.linalg.svd(vectors, full_matrices=False)
    kept: Tensor = span[values > tolerance * values[:1].clamp_min(1e-30)]
    if len(kept) == 0:
        return kept
    # Gram-Schmidt in the order given, inside the span, so that axes keep their meaning.
    rows: list[Tensor] = []
    for vector in torch.cat([vectors, kept]):
        rest = vector.clone()
        for _ in range(2):
            for row in rows:
                rest = rest - (rest @ row) * row
        norm, whole = rest.norm(), vector.norm()
        if norm > 100 * tolerance * whole and len(rows) < len(kept):
            rows.append(rest / norm)
    return torch.stack(rows)


@dataclass(frozen=True, eq=False)
class Basis:
    """k vectors at each of its hook points, with labels."""

    vectors: Mapping[str, Float[Tensor, "k *unit"]]
    labels: Sequence[str] = ()
    name: str = "basis"
    provenance: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def hook_name(self) -> str:
        """Its only hook point. Raises BadInputError where it has several."""
        if len(self.vectors) != 1:
            raise BadInputError(
                f"{self.name!r} lives at {len(self.vectors)} hook points: choose one by "
                "basis.at(hook_name)."
            )
        return next(iter(self.vectors))

    def at(self, hook_name: str) -> Basis:
        """Return the basis at one of its hook points."""
        return replace(self, vectors={hook_name: self.vectors[hook_name]})

    def parts(self) -> list[Basis]:
        """Return a basis for each hook point."""
        return [self.at(hook_name) for hook_name in self.vectors]

    def only(self) -> Float[Tensor, "k *unit"]:
        """Return the vectors at its only hook point."""
        return self.vectors[self.hook_name]
