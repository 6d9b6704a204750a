"""Erasing a concept with the least change: LEACE, for two sides (arXiv 2306.03819)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import number
from steerlens.directions.lda import whitened
from steerlens.directions.mean_difference import mean_difference
from steerlens.errors import BadInputError


def leace(
    positive: Float[Tensor, "positive d"], negative: Float[Tensor, "negative d"]
) -> Float[Tensor, " d"]:
    """Return the direction that LEACE erases: μ+ - μ-, which is Σ_xz up to a factor.

    For two sides this is the mean difference; what LEACE adds is how it is read before it is
    taken out, along Σ⁻¹(μ+ - μ-). A Direction holds only the first of the two: ablating it is
    an orthogonal projection; `Eraser` holds both.

    >>> leace(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([ 2., -1.])
    """
    return mean_difference(positive, negative)


@dataclass(frozen=True, eq=False, repr=False)
class Eraser:
    """x -> x - v (wᵀ(x - μ)) with wᵀv = 1: the sides' means become equal, μ is kept.

    v = μ+ - μ- is what is taken out, and w = Σ⁻¹v / vᵀΣ⁻¹v reads how much of it there is. Any
    such w leaves no linear probe anything to find on the sides it was fitted on; this one
    changes them least in mean square, in every inner product, of all affine maps that do
    (Belrose et al., arXiv 2306.03819), where Σ is not shrunk. An orthogonal projection has
    w = v / vᵀv.

    >>> eraser = Eraser.of(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
    >>> eraser
    Eraser(d=2, |v|=3.61, |w|=...)
    """

    mean: Float[Tensor, "*unit"]
    """μ, over both sides."""
    direction: Float[Tensor, "*unit"]
    """v, what is taken out."""
    covector: Float[Tensor, "*unit"]
    """w, what reads how much."""

    @classmethod
    def of(
        cls,
        positive: Float[Tensor, "positive *unit"],
        negative: Float[Tensor, "negative *unit"],
        shrinkage: float | None = None,
    ) -> Eraser:
        """Return the eraser fitted on two sides of examples, such as `collect` gives.

        Σ is the covariance within the sides, which gives the same w as the whole one; it is
        shrunk by Ledoit and Wolf's share, because with fewer examples than entries the w of
        `shrinkage` 0 (the paper's) is fitted to their noise, and changes others more. Raises
        BadInputError on sides of equal means, empty ones, or of other shapes. Cost: as
        `whitened`.

        >>> eraser = Eraser.of(torch.randn(9, 4) + 1, torch.randn(9, 4))
        >>> eraser(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
        """
        if not len(positive) or not len(negative) or positive.shape[1:] != negative.shape[1:]:
            raise BadInputError(
                f"An eraser needs examples (n, *unit) on both sides; got {tuple(positive.shape)} "
                f"and {tuple(negative.shape)}."
            )
        sides = positive.detach().cpu().double(), negative.detach().cpu().double()
        direction = sides[0].mean(0) - sides[1].mean(0)
        read = whitened(sides[0].flatten(1), sides[1].flatten(1), shrinkage)
        read = read.reshape(direction.shape)
        overlap = (read * direction).sum()
        if not overlap > 0:
            raise BadInputError(
                "The sides have equal means: there is nothing that a linear probe could find, "
                "and nothing to erase."
            )
        mean = torch.cat(sides).mean(0)
        return cls(mean.float(), direction.float(), (read / overlap).float())

    def delta(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return what erasing adds to activations (*batch, *unit): a transform's Δ(x).

        To steer with it: `sl.steer(sl.transforms.Erase(eraser), hook_name)`.
        Raises BadInputError on activations of another shape.
        """
        unit = self.mean.shape
        if x.shape[x.ndim - len(unit) :] != unit:
            raise BadInputError(f"{self!r} was fitted on {tuple(unit)}; got {tuple(x.shape)}.")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, direction, covector = (
            each.to(wide) for each in (self.mean, self.direction, self.covector)
        )
        amount = ((wide - mean) * covector).flatten(x.ndim - len(unit)).sum(-1)
        return -(amount.reshape(*amount.shape, *[1] * len(unit)) * direction).to(x.dtype)

    def __call__(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return activations (*batch, *unit) without what tells the sides apart."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide + self.delta(wide)).to(x.dtype)

    def __repr__(self) -> str:
        """Return its size, and how long its two vectors are."""
        shape = "x".join(map(str, self.mean.shape))
        lengths = (number(float(each.norm())) for each in (self.direction, self.covector))
        return "Eraser(d={}, |v|={}, |w|={})".format(shape, *lengths)
