"""find_directions: one pass over a contrast, a direction at every hook point, its quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.activations import Activations, collect_sides
from steerlens.contrast import Contrast, check_contrast, warn_of_repeats
from steerlens.directions.clipped import clipped_mean_difference
from steerlens.directions.collection import Directions
from steerlens.directions.direction import Direction, Quality
from steerlens.directions.erasure import leace
from steerlens.directions.lda import whitened
from steerlens.directions.mean_difference import mean_difference
from steerlens.directions.pca import pca
from steerlens.directions.probe import probe
from steerlens.directions.quality import Finder, measure, oriented
from steerlens.errors import BadInputError, UnknownNameError, nearest, warn
from steerlens.host import HookNames, Host, dtype_of
from steerlens.positions import Positions
from steerlens.provenance import provenance

FINDERS: dict[str, Finder] = {
    "mean_difference": mean_difference,
    "clipped_mean_difference": clipped_mean_difference,
    "pca": pca,
    "probe": probe,
    "whitened": whitened,
    "lda": whitened,
    "leace": leace,
}


@dataclass(frozen=True)
class _Options:
    """What a search for directions was asked for."""

    method: str
    finder: Finder
    name: str
    paired: bool
    items: str
    quality: bool
    placebos: int
    seed: int
    source: Mapping[str, str]


def find_directions(
    model: Host,
    contrast: Contrast,
    method: str | Finder = "mean_difference",
    *,
    hook_names: HookNames = "resid_post",
    positions: Positions | None = None,
    name: str = "direction",
    quality: bool = True,
    placebos: int = 50,
    max_examples: int = 1024,
    batch_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Directions:
    """Find the direction of a contrast at every hook point named, in one streamed pass.

    `method` is "mean_difference" (CAA, arXiv 2312.06681), "clipped_mean_difference" (each
    item's massive entries clipped first), "pca" (of the pairs' differences, RepE, arXiv
    2310.01405), "probe" (logistic), "whitened" or "lda" (shrinkage LDA, to read with), "leace" (the
    direction that LEACE erases, arXiv 2306.03819: the mean difference again), or a function
    of (positive d), (negative d) examples to a vector (d). The built-in ones return a
    vector as long as the distance of the sides' means along it; the positive side always
    scores higher. `positions` are read as in `collect`. With `quality` each direction carries
    its held-out AUC beside `placebos` shuffled-label and random directions, with a warning
    where items stand twice. A mean difference uses every item; the rest, and quality, at most
    `max_examples` a side.

    Raises UnknownNameError on an unknown method or hook point, BadInputError where the sides
    read the same. Cost: one forward pass an item up to the highest layer read, and
    2 * (1 + placebos) fits a hook point.

    >>> directions = find_directions(model, contrast)
    >>> directions["resid_post", 2].layer
    2
    """
    check_contrast(contrast, "Directions are found in")
    finder, label = finder_named(method)
    if quality:
        warn_of_repeats(contrast.positive, contrast.negative)
    examples = quality or finder is not mean_difference
    positive, negative = collect_sides(
        model,
        (contrast.positive, contrast.negative),
        hook_names,
        positions,
        max_examples=max_examples if examples else 0,
        batch_tokens=batch_tokens,
        seed=seed,
        progress=progress,
    )
    check_read_alike(positive.positions, negative.positions)
    options = _Options(
        method=label,
        finder=finder,
        name=name,
        paired=contrast.paired,
        items=contrast.counted,
        quality=quality,
        placebos=placebos,
        seed=seed,
        source={
            **provenance(model),
            "method": label,
            "positions": positive.positions,
            "data": contrast.digest,
            "config": f"at most {max_examples} examples a side, {placebos} placebos, seed {seed}",
        },
    )
    dtype = dtype_of(model)
    alike = [hook for hook in positive if positive[hook].same_mean(negative[hook], dtype)]
    if alike:
        _tell_alike(alike, positive)
    hooks = [hook for hook in positive if hook not in alike]
    bar = tqdm(hooks, desc="directions and placebos", disable=not progress)
    return Directions({hook: _direction(hook, positive, negative, options) for hook in bar})


def check_read_alike(positive: str, negative: str, give: str = "positions") -> None:
    """Raise BadInputError where the sides are read at different positions."""
    if positive != negative:
        raise BadInputError(
            f"The positive side would be read at {positive} and the negative side at {negative}, "
            f"because only one has completions. Give {give}."
        )


def finder_named(method: str | Finder) -> tuple[Finder, str]:
    """Return a finder and its name. Raises UnknownNameError on a name that is none."""
    if not isinstance(method, str):
        if not callable(method):
            raise BadInputError(
                f"A method to find directions is a name or a function; got {method!r}. Hook points "
                "are hook_names=[...]."
            )
        return method, getattr(method, "__name__", "a function")
    if method not in FINDERS:
        raise UnknownNameError(
            f"There is no method {method!r} to find directions. "
            f"{nearest(method, FINDERS).capitalize()}; or give a function."
        )
    return FINDERS[method], method


def _gap(hook: str, positive: Activations, negative: Activations) -> Float[Tensor, "*unit"]:
    return positive[hook].mean - negative[hook].mean


def _tell_alike(hooks: list[str], activations: Activations) -> None:
    """Warn of hook points where both sides read the same; raise where they all do."""
    message = (
        f"Both sides read the same at {', '.join(map(repr, hooks))}, positions "
        f"{activations.positions}. Read where the texts differ: give positions, or (prompt, "
        "completion) items."
    )
    if len(hooks) == len(activations):
        raise BadInputError(message)
    warn(f"{message} No direction there.")


def _direction(
    hook: str, positive: Activations, negative: Activations, options: _Options
) -> Direction:
    sides = [side.examples[hook].flatten(1) for side in (positive, negative)]
    gap = _gap(hook, positive, negative)
    vector = gap.flatten().float()
    if options.finder is not mean_difference:
        vector = _scaled(oriented(options.finder, *sides), vector, options)
    return Direction(
        hook,
        vector.reshape(gap.shape),
        name=options.name,
        quality=_quality(sides, options),
        stream_norm=float(positive.norms[hook].mean + negative.norms[hook].mean) / 2,
        items=options.items,
        provenance=options.source,
    )


def _scaled(
    vector: Float[Tensor, " d"], gap: Float[Tensor, " d"], options: _Options
) -> Float[Tensor, " d"]:
    """Stretch a built-in finder's vector to the distance of the means along it."""
    if options.finder not in FINDERS.values():
        return vector.float()
    unit = vector / vector.norm().clamp_min(1e-12)
    stretched: Tensor = unit * torch.dot(gap, unit).abs()
    return stretched


def _quality(sides: list[Tensor], options: _Options) -> Quality | None:
    if not options.quality:
        return None
    return measure(
        options.finder,
        sides[0],
        sides[1],
        paired=options.paired,
        placebos=options.placebos,
        seed=options.seed,
    )
