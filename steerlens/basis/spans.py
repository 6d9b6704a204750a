"""Spans of vectors: orthonormal rows, least-squares coordinates, principal angles; in float64.

Lengths play no part in a span: vectors are told apart by their angles alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerlens.errors import BadInputError

TOLERANCE = 1e-5
"""The angle, in radians, that a vector must make with the span of those before it to count."""


@dataclass(frozen=True, eq=False)
class Span:
    """Orthonormal rows of a span, and the indices of the vectors that gave them."""

    rows: Float64[Tensor, "rank d"]
    sources: tuple[int, ...]


def orthonormal_factor(
    vectors: Float[Tensor, "k d"], tolerance: float = TOLERANCE
) -> Float[Tensor, "rank d"]:
    """Return orthonormal rows that span the given ones; nearly parallel ones count once.

    A vector counts where its angle with the span of those before it is above `tolerance`
    radians, whatever its length; a zero vector never does. The first row points along the
    first vector that is not zero, and each row to the side of the vector that it comes from.
    Rows keep the device, in float32 or wider. Raises BadInputError on vectors that are not
    finite. Cost: k passes over (rank, d), in float64 on the CPU.

    >>> orthonormal_factor(torch.tensor([[0.0, 2.0], [0.0, 2.0 + 1e-7], [3.0, 3.0]]))
    tensor([[0., 1.],
            [1., 0.]])
    """
    wide = torch.promote_types(vectors.dtype, torch.float32)
    return span(vectors, tolerance).rows.to(vectors.device, wide)


def span(vectors: Float[Tensor, "k d"], tolerance: float = TOLERANCE) -> Span:
    """Return the span of vectors, by Gram-Schmidt in their order, so that axes keep meaning.

    Raises BadInputError on vectors that are not finite.
    """
    if not torch.isfinite(vectors).all():
        raise BadInputError(
            "Vectors that are not finite (NaN or infinity) span nothing. Look at what they were "
            "made from."
        )
    x = vectors.cpu().double()
    rows, sources = x[:0], []
    for i, vector in enumerate(x):
        rest = _beside(rows, vector / vector.norm().clamp_min(1e-300))
        if rest.norm() > tolerance:
            rows = torch.cat([rows, rest[None] / rest.norm()])
            sources.append(i)
    return Span(rows, tuple(sources))


def _beside(rows: Float[Tensor, "rank d"], vector: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """What of a vector lies outside orthonormal rows; twice, for the rounding of the first."""
    once = vector - (rows @ vector) @ rows
    return once - (rows @ once) @ rows


def coordinates(
    x: Float[Tensor, "*batch d"], vectors: Float[Tensor, "k d"], rows: Float[Tensor, "rank d"]
) -> Float[Tensor, "*batch k"]:
    """Return the shortest weights whose sum of vectors comes nearest to `x`, in x's dtype."""
    inverse = torch.linalg.pinv(vectors.double() @ rows.T, rtol=1e-15)
    weights: Tensor = (x @ rows.T.to(x)) @ inverse.to(x)
    return weights


def principal_angles(
    rows: Float64[Tensor, "one d"], others: Float64[Tensor, "other d"]
) -> Float64[Tensor, " least"]:
    """Return the angles between two spans of orthonormal rows, in radians, smallest first.

    Small ones are taken from their sines, whose rounding they do not drown in. Source: Björck
    and Golub (1973), doi 10.2307/2005662.

    >>> axes = torch.eye(3).double()
    >>> principal_angles(axes[:2], axes[1:])
    tensor([0.0000, 1.5708], dtype=torch.float64)
    """
    few, many = sorted((rows, others), key=len)
    inside = few @ many.T
    cosines = torch.linalg.svdvals(inside).clamp(max=1)
    sines = torch.linalg.svdvals(few - inside @ many).flip(0).clamp(max=1)
    return torch.where(cosines**2 > 0.5, sines.asin(), cosines.acos())
