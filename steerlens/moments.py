"""Moments: count, mean and spread of vectors, in memory that does not grow with their number."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor


def rounding(dtype: torch.dtype, count: int) -> float:
    """Return the share of a mean's length below which a difference from it is rounding.

    The same texts in other batches read the same to 3e-16 in float32; to half of `eps` an item in
    float16, which averages out over `count` items (measured on Steerling, 1 to 64 texts).

    >>> rounding(torch.float32, 64), rounding(torch.bfloat16, 64)
    (1e-06, 0.0009765625)
    """
    return max(1e-6, torch.finfo(dtype).eps / sqrt(count))


@dataclass(frozen=True)
class Moments:
    """Count, mean and spread of vectors at one hook point; two of them merge into one.

    >>> x = torch.randn(10, 4)
    >>> merged = Moments.of(x[:3]).merged(Moments.of(x[3:]))
    >>> bool(torch.allclose(merged.mean, Moments.of(x).mean))
    True
    """

    count: int
    mean: Float[Tensor, "*unit"]
    """In float64."""
    squares: Float[Tensor, "*unit"]
    """Sum of squared deviations from the mean, in float64."""

    @classmethod
    def of(cls, vectors: Float[Tensor, "n *unit"]) -> Moments:
        """Return the moments of some vectors, on their device (MPS has no float64: the CPU)."""
        x = (vectors.cpu() if vectors.device.type == "mps" else vectors).double()
        mean = x.mean(0)
        return cls(len(x), mean, ((x - mean) ** 2).sum(0))

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub and LeVeque, 1979)."""
        total = self.count + other.count
        gap = other.mean - self.mean
        return Moments(
            total,
            self.mean + gap * (other.count / total),
            self.squares + other.squares + gap**2 * (self.count * other.count / total),
        )

    def same_mean(self, other: Moments, dtype: torch.dtype = torch.float32) -> bool:
        """Return whether both means are one, but for rounding in a model's dtype.

        >>> x = torch.tensor([[0.1], [0.2], [0.7]])
        >>> one, other = Moments.of(x), Moments.of(x[:1]).merged(Moments.of(x[1:]))
        >>> bool(one.mean == other.mean), one.same_mean(other)
        (False, True)
        """
        least = rounding(dtype, min(self.count, other.count)) * float(self.mean.norm())
        return not float((self.mean - other.mean).norm()) > least

    def cpu(self) -> Moments:
        """Return the same on the CPU."""
        return Moments(self.count, self.mean.cpu(), self.squares.cpu())

    @property
    def variance(self) -> Float[Tensor, "*unit"]:
        """The unbiased variance of each entry."""
        return self.squares / max(1, self.count - 1)

    @property
    def standard_error(self) -> Float[Tensor, "*unit"]:
        """The standard error of the mean of each entry; not a number where one alone was seen.

        >>> Moments.of(torch.tensor([[0.0], [2.0]])).standard_error
        tensor([1.], dtype=torch.float64)
        """
        if self.count < 2:
            return torch.full_like(self.mean, torch.nan)
        return (self.variance / self.count).sqrt()


def merge(into: dict[str, Moments], name: str, more: Moments) -> None:
    """Add moments to those that stand under a name."""
    before = into.get(name)
    into[name] = more if before is None else before.merged(more)
