"""Whitened mean difference: linear discriminant analysis with a shrunk covariance."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerlens.errors import BadInputError


def whitened(
    positive: Float[Tensor, "positive d"],
    negative: Float[Tensor, "negative d"],
    shrinkage: float | None = None,
) -> Float[Tensor, " d"]:
    """Return Σ⁻¹(μ+ - μ-), Σ the covariance within the sides, shrunk towards m I.

    m is the mean variance; by default the share is Ledoit and Wolf's (2004), which serves also
    with fewer examples than entries. With `shrinkage` 0 a gap outside the span of the
    residuals gives that part of it, as the limit does. It is a covector, to read the contrast
    with: how the sides differ is the mean difference (Haufe et al., 2014, on filters and
    patterns). Raises BadInputError on a shrinkage outside 0 to 1. Cost: eigenvectors of the
    smaller of (n, n) and (d, d), in float64.

    >>> noise = torch.tensor([[0.0, 0.0], [3.0, 3.0], [-3.0, -3.0]])
    >>> vector = whitened(noise + torch.tensor([1.0, 0.0]), noise, shrinkage=0.01)
    >>> vector / vector.norm()
    tensor([ 0.7107, -0.7035])
    """
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise BadInputError(f"shrinkage is {shrinkage}; it is a share, from 0 to 1.")
    sides = positive.cpu().double(), negative.cpu().double()
    means = [side.mean(0) for side in sides]
    residuals = torch.cat([side - mean for side, mean in zip(sides, means, strict=True)])
    solved = _solved(residuals, means[0] - means[1], shrinkage)
    return solved.to(positive.device, positive.dtype)


def _solved(
    residuals: Float64[Tensor, "n d"], gap: Float64[Tensor, " d"], shrinkage: float | None
) -> Float64[Tensor, " d"]:
    """Solve Σ y = gap, inside the span of the residuals and outside it."""
    variances, axes = _spectrum(residuals)
    if len(axes) == 0:
        return gap
    share = _ledoit_wolf(residuals, variances) if shrinkage is None else shrinkage
    floor = share * float(variances.sum()) / len(gap)
    along = axes @ gap
    inside = (along / ((1 - share) * variances + floor)) @ axes
    outside = gap - along @ axes
    if len(axes) == len(gap) or outside.norm() <= 1e-6 * gap.norm():
        return inside
    return inside + outside / floor if floor > 0 else outside


def _spectrum(
    rows: Float64[Tensor, "n d"],
) -> tuple[Float64[Tensor, " rank"], Float64[Tensor, "rank d"]]:
    """Variances above rounding and orthonormal axes of rowsᵀ rows / n, by the smaller Gram."""
    n, d = rows.shape
    wide = n < d
    values, vectors = torch.linalg.eigh((rows @ rows.T if wide else rows.T @ rows) / n)
    kept = values > 1e-12 * values[-1]
    values, vectors = values[kept], vectors[:, kept].T
    return values, (vectors @ rows) / (values * n).sqrt()[:, None] if wide else vectors


def _ledoit_wolf(rows: Float64[Tensor, "n d"], variances: Float64[Tensor, " rank"]) -> float:
    """Ledoit and Wolf's share: how far the covariance is off, by how far it is from m I.

    scikit-learn's `ledoit_wolf`, from the spectrum at hand: no second (d, d) product.
    """
    n, d = rows.shape
    square = float(variances.square().sum())
    far = square - float(variances.sum()) ** 2 / d
    off = (float(rows.square().sum(1).square().mean()) - square) / n
    return min(max(off, 0.0), far) / far if far > 0 else 0.0
