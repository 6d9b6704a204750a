"""Where the vectors of a basis come from: directions, activations, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.activations import Activations
from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.host import Host, need_tokenizer
from steerlens.text import token_strings

Given = (
    Direction | Directions | Sequence[Direction | Directions] | Mapping[str, Direction | Directions]
)
"""What a basis is made of."""
Labelled = dict[str, dict[str, Direction]]
"""Directions by label, then by hook name."""


def by_label(directions: Given) -> Labelled:
    """Return directions by label and hook name, each label at the same hook points.

    Listed directions go by their names, and must all be at the same hook points; of a mapping,
    the hook points that its directions share are taken. Raises BadInputError where that fails.
    """
    if isinstance(directions, Mapping) and not isinstance(directions, Directions):
        found = {label: _by_hook(each) for label, each in directions.items()}
        return _sharing(found)
    listed = [directions] if isinstance(directions, Direction | Directions) else list(directions)
    found = {}
    for each in (direction for given in listed for direction in _each(given)):
        at = found.setdefault(each.name, {})
        if each.hook_name in at:
            raise BadInputError(
                f"Two directions are named {each.name!r} at {each.hook_name!r}, and labels must "
                "differ. Give a mapping from labels to directions."
            )
        at[each.hook_name] = each
    if any(at.keys() != next(iter(found.values())).keys() for at in found.values()):
        places = "; ".join(f"{label!r}: {', '.join(at)}" for label, at in found.items())
        raise BadInputError(
            f"The directions are not at the same hook points ({places}). Move some with "
            "direction.at(hook_name), or give a mapping, which takes the hook points shared."
        )
    return found


def _each(given: Direction | Directions) -> list[Direction]:
    if not isinstance(given, Direction | Directions):
        raise BadInputError(f"A basis is made of directions; got {type(given).__name__}.")
    return list(given.values()) if isinstance(given, Directions) else [given]


def _by_hook(each: Direction | Directions) -> dict[str, Direction]:
    return {direction.hook_name: direction for direction in _each(each)}


def _sharing(found: Labelled) -> Labelled:
    first = next(iter(found.values()), {})
    shared = [hook for hook in first if all(hook in at for at in found.values())]
    if found and not shared:
        places = "; ".join(f"{label!r}: {', '.join(at)}" for label, at in found.items())
        raise BadInputError(
            f"The directions share no hook point ({places}). Move some with "
            "direction.at(hook_name)."
        )
    return {label: {hook: at[hook] for hook in shared} for label, at in found.items()}


def stacked(found: Labelled) -> dict[str, Float[Tensor, "k ..."]]:
    """Return the vectors of each hook point, a row a label. Raises BadInputError on shapes."""
    first, *rest = found.values()
    for hook, direction in first.items():
        for other in rest:
            direction.check_beside(other[hook])
    return {hook: torch.stack([at[hook].vector for at in found.values()]) for hook in first}


def examples(
    x: Activations | Float[Tensor, "n ..."], hook_name: str | None
) -> tuple[Float[Tensor, "n ..."], str]:
    """Return the vectors to decompose and their hook name. Raises on one missing or unknown."""
    if isinstance(x, Activations):
        name = hook_name or (next(iter(x)) if len(x) == 1 else None)
        if name is not None and name not in x:
            raise UnknownNameError(f"{x!r} holds nothing at {name!r}; {nearest(name, x)}.")
        if name is not None:
            return x.examples[name], name
    elif hook_name is not None:
        return x, hook_name
    raise BadInputError(f"Say where the vectors live: {type(x).__name__} needs a hook_name.")


def components(x: Float[Tensor, "n *unit"], k: int, *, centred: bool) -> Float[Tensor, "k *unit"]:
    """Return the k components along which vectors are largest, as long as their spread there.

    Spread is the standard deviation where `centred`, the root mean square where not. The entry
    of largest magnitude is positive. Raises BadInputError where there are fewer than k.
    """
    if x.ndim < 2 or not torch.isfinite(x).all():
        raise BadInputError(f"Give finite vectors (n, *unit), not a tensor {tuple(x.shape)}.")
    flat = x.detach().cpu().flatten(1).double()
    flat = flat - flat.mean(0) if centred else flat
    _, values, axes = torch.linalg.svd(flat, full_matrices=False)
    # The rounding of float32 is no component.
    found = int((values > 1e-6 * x.detach().cpu().double().norm()).sum())
    if not 1 <= k <= found:
        about = "about their mean" if centred else "about zero"
        raise BadInputError(
            f"k is {k}, and {len(x)} vectors of {flat.shape[1]} entries have {found} components "
            f"{about}. Choose k from 1 to {found}, or give more vectors."
        )
    axes, spread = axes[:k], values[:k, None] / (len(x) - centred) ** 0.5
    sign = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    vectors: Tensor = sign * spread * axes
    return vectors.reshape(k, *x.shape[1:])


def output_side(matrix: Any, k: int) -> Float[Tensor, "k d"]:
    """Return the top k right singular vectors of a matrix, as long as their singular values.

    TransformerLens multiplies from the left (x @ M), so the right-hand side is the output.
    `matrix.svd()` gives (U, S, V) with M = U diag(S) Vᵀ, as FactoredMatrix and Tensor do.
    Raises BadInputError on anything else, on a stack of matrices, and where there are not k.
    """
    if not callable(getattr(matrix, "svd", None)):
        raise BadInputError(f"A FactoredMatrix is needed, with svd(); got {type(matrix).__name__}.")
    _, values, right = _wide(matrix).svd()
    if right.ndim != 2:
        raise BadInputError(
            f"This is a stack of matrices, with V of shape {tuple(right.shape)}. Choose one by "
            "its index: model.OV[layer, head]."
        )
    found = int((values > 1e-6 * values.max()).sum())
    if not 1 <= k <= found:
        raise BadInputError(
            f"k is {k}, and the matrix has {found} singular directions. Choose k from 1 to {found}."
        )
    vectors: Tensor = (right[:, :k] * values[:k]).T
    return vectors


def _wide(matrix: Any) -> Any:
    """A matrix, or its factors A and B, in float32 where narrower: CPUs have no SVD then."""
    if isinstance(matrix, Tensor):
        return matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    factors = [getattr(matrix, each, None) for each in "AB"]
    if not all(isinstance(each, Tensor) and each.element_size() < 4 for each in factors):
        return matrix
    return type(matrix)(*map(_wide, factors))


def unembedding(
    model: Host, tokens: Sequence[str | int]
) -> tuple[Float[Tensor, "k d_model"], list[str]]:
    """Return the columns of W_U for tokens, and a label each. Raises BadInputError on others."""
    if isinstance(tokens, str):
        raise BadInputError(f"{tokens!r} is one text; give a list of tokens.")
    weights: Tensor = cast(Any, model).W_U.detach()
    ids = [_single(model, each) for each in tokens]
    wrong = [each for each in ids if not 0 <= each < weights.shape[1]]
    if wrong:
        raise BadInputError(f"The vocabulary has ids 0 to {weights.shape[1] - 1}; got {wrong}.")
    written = token_strings(model, torch.tensor(ids, dtype=torch.long))
    labels = [
        each if isinstance(each, str) else text for each, text in zip(tokens, written, strict=True)
    ]
    return weights[:, ids].T, labels


def _single(model: Host, token: str | int) -> int:
    """The id of one token, given as it is or as text."""
    if not isinstance(token, str):
        return int(token)
    tokenizer = need_tokenizer(model, "A token given as text")
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise BadInputError(
            f"{token!r} is {len(ids)} tokens, and a column of W_U stands for one. Give one "
            "token (often with its leading space), or its id."
        )
    return int(ids[0])
