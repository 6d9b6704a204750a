"""Steer2Edit's closed form: how strongly to edit a component, given its importance.

Source: Steer2Edit (arXiv 2602.09870). Pure functions over tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError


@dataclass(frozen=True)
class Null:
    """A threshold as a quantile of |cos| between a component's output and random directions.

    Among random directions a share of 1 - `quantile` would pass it.

    >>> round(Null(0.99).threshold(2048), 3), round(Null(0.99).threshold(64), 3)
    (0.057, 0.317)
    """

    quantile: float

    def __post_init__(self) -> None:
        """Raise BadInputError on a quantile outside 0 to 1."""
        if not 0 < self.quantile < 1:
            raise BadInputError(f"A quantile lies between 0 and 1; got {self.quantile}.")

    def threshold(self, d_model: int) -> float:
        """Return the quantile in closed form: cos² follows Beta(1/2, (d_model - 1)/2)."""
        from scipy.stats import beta

        return float(beta.ppf(self.quantile, 0.5, (d_model - 1) / 2) ** 0.5)


Rho = float | Null | None
"""The elastic net's weight; as a `Null`, what makes ρα that threshold; None (or, as in the
paper's code, a number of 0 or below) switches a component type off."""


def weight(rho: Rho, alpha: float, d_model: int) -> float | None:
    """Return ρ as a number, None where the component type is switched off.

    Raises BadInputError on an alpha outside 0 to 1.
    """
    if not 0 < alpha < 1:
        raise BadInputError(f"alpha lies between 0 and 1 (neither included); got {alpha}.")
    if isinstance(rho, Null):
        return rho.threshold(d_model) / alpha
    return None if rho is None or rho <= 0 else float(rho)


def strengths(
    importance: Float[Tensor, " unit"], rho: float, alpha: float
) -> Float[Tensor, " unit"]:
    """Return λ = sign(g) max(|g| - ρα, 0) / (ρ(1 - α)) of each component.

    It maximises g λ - ρ(α|λ| + (1 - α)/2 λ²): what the edit gains, less an elastic net.

    >>> strengths(torch.tensor([0.5, -0.3, 0.1]), rho=0.4, alpha=0.5)
    tensor([ 1.5000, -0.5000,  0.0000])
    """
    beyond = (importance.abs() - rho * alpha).clamp_min(0)
    return importance.sign() * beyond / (rho * (1 - alpha))


def objective(
    strength: Float[Tensor, "..."], importance: Float[Tensor, "..."], rho: float, alpha: float
) -> Float[Tensor, "..."]:
    """Return g λ - ρ(α|λ| + (1 - α)/2 λ²), which `strengths` maximises.

    >>> objective(torch.tensor(1.5), torch.tensor(0.5), rho=0.4, alpha=0.5)
    tensor(0.2250)
    """
    penalty = alpha * strength.abs() + (1 - alpha) / 2 * strength.square()
    return importance * strength - rho * penalty
