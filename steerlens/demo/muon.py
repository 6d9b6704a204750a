"""Muon, the optimiser of Steerling's hidden matrices, all matrices of one shape at a time.

Momentum is orthogonalised by a quintic Newton-Schulz iteration (Jordan et al., 2024,
kellerjordan.github.io/posts/muon) and scaled to AdamW's step (Liu et al., 2025, arXiv 2502.16982,
eq. 4). `torch.optim.Muon` does the same one matrix after another in bfloat16, which on a CPU is
three times as slow at this size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

# The published coefficients: steep at zero, singular values end between 0.7 and 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalised(
    matrices: Float[Tensor, "n rows cols"], steps: int = 5
) -> Float[Tensor, "n rows cols"]:
    """Return each matrix with its singular values driven to about one.

    >>> values = torch.linalg.svdvals(orthogonalised(torch.randn(1, 8, 16)))
    >>> bool((values > 0.3).all() and (values < 1.5).all())
    True
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


class Muon:
    """Muon with Nesterov momentum and decoupled weight decay; `lr` is on AdamW's scale.

    >>> weight = torch.nn.Parameter(torch.eye(4))
    >>> weight.grad = torch.eye(4)
    >>> Muon([weight], weight_decay=0.0).step(0.1)
    >>> bool((weight.diagonal() < 1).all())
    True
    """

    def __init__(
        self, parameters: Iterable[Tensor], weight_decay: float, momentum: float = 0.95
    ) -> None:
        """Start with zero velocity; matrices of one shape are kept together."""
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.groups: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in parameters:
            self.groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self.velocities = {
            shape: torch.zeros(len(group), *shape, device=group[0].device)
            for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every matrix by its gradient at learning rate `lr`, and forget the gradients."""
        for shape, group in self.groups.items():
            gradients = torch.stack([p.grad for p in group if p.grad is not None])
            velocity = self.velocities[shape].lerp_(gradients, 1 - self.momentum)
            changes = orthogonalised(gradients.lerp(velocity, self.momentum))
            size = 0.2 * max(shape) ** 0.5
            for parameter, change in zip(group, changes, strict=True):
                parameter.mul_(1 - lr * self.weight_decay).sub_(change, alpha=lr * size)
                parameter.grad = None
