"""Edits to compare with: random components, and the largest |g| without an elastic net."""

from __future__ import annotations

import torch

from steerlens.components import Block
from steerlens.editing.candidates import BLOCKS, Candidates
from steerlens.editing.factors import Factors
from steerlens.editing.value import Edit
from steerlens.errors import BadInputError


def top_components(found: Candidates, n: int, total: float, block: Block | None = None) -> Edit:
    """Return the edit of the `n` components of largest |g|, all equally strong.

    `total` is the sum of |λ|. Each is moved toward +v: the choice that Steer2Edit makes, without
    its elastic net. Raises BadInputError where there are fewer components.

    >>> from steerlens.editing import candidates
    >>> top_components(candidates(model, contrast, progress=False), 3, total=1.5).total
    1.5
    """
    values = torch.cat([torch.zeros(0), *(each.importance for each in found.of(block))])
    if not 1 <= n <= len(values):
        raise BadInputError(f"There are {len(values)} components to choose from; got n={n}.")
    chosen = values.abs().argsort(descending=True, stable=True)[:n]
    flat = torch.zeros_like(values)
    flat[chosen] = values[chosen].sign() * total / n
    return found.edit(f"top {n} by |g|", found.spread(block, flat))


def random_components(found: Candidates, like: Edit, seed: int = 0) -> Edit:
    """Return the edit of random components, as many of each kind and as strong as another's.

    Each has its own k, v and sign of g: a placebo for the choice of components alone, moved
    toward +v as the others are. Raises BadInputError where there are fewer candidates.

    >>> from steerlens.editing import candidates, elastic_net
    >>> found = candidates(model, contrast, progress=False)
    >>> edit = elastic_net(found, rho_mlp=None)
    >>> abs(random_components(found, edit).total - edit.total) < 1e-4
    True
    """
    generator = torch.Generator().manual_seed(seed)
    made: list[Factors | None] = []
    for block in BLOCKS:
        kind = [each.strengths for each in like.factors if each.place[1] == block]
        if not kind:
            continue
        sizes = torch.cat(kind).abs()
        values = torch.cat([torch.zeros(0), *(each.importance for each in found.of(block))])
        if len(values) < len(sizes):
            raise BadInputError(
                f"The edit has {len(sizes)} components of {block!r}, and there are {len(values)} "
                "candidates to draw from. Read candidates of the same model and blocks."
            )
        chosen = torch.randperm(len(values), generator=generator)[: len(sizes)]
        flat = torch.zeros_like(values)
        flat[chosen] = torch.where(values[chosen] < 0, -sizes, sizes)
        made += found.spread(block, flat)
    return found.edit(f"random components {seed}", made)
