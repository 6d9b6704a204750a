"""Placebos: directions that mean nothing, or something else, and steerings made of them.

A placebo goes where the real direction goes, at its length, at the same positions, under the same
gate. What it does as well is no finding about the concept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.activations import Activations, collect
from steerlens.basis import Basis, orthonormal_factor
from steerlens.contrast import Contrast
from steerlens.directions import Direction, Directions, mean_difference
from steerlens.directions.finding import finder_named
from steerlens.directions.quality import Finder, Sides, oriented
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.interventions import Intervention, mapped
from steerlens.names import STREAM, split_name
from steerlens.positions import Positions
from steerlens.steering import Steering
from steerlens.transforms import Transform

Placebo = Callable[[Direction], Direction]
"""What turns a direction into its placebo."""


def random_like(direction: Direction, count: int = 50, *, seed: int = 0) -> tuple[Direction, ...]:
    """Return random directions of a direction's length (of each head's, where it has heads).

    >>> [placebo] = random_like(directions["resid_post", 2], 1)
    >>> round(placebo.norm / directions["resid_post", 2].norm, 4)
    1.0
    """
    own = crc32(f"{seed} {direction.hook_name}".encode())
    generator = torch.Generator().manual_seed(own)
    found = torch.randn(count, *direction.vector.shape, generator=generator)
    return tuple(_placebo(direction, each, f"random {i}") for i, each in enumerate(found))


def unrelated(direction: Direction, other: Direction) -> Direction:
    """Return another concept's direction at a direction's length (head by head).

    Raises BadInputError where the other lives elsewhere.

    >>> up = directions["resid_post", 2]
    >>> round(unrelated(up, -3 * up).norm / up.norm, 4)
    1.0
    """
    direction.check_beside(other)
    return _placebo(direction, other.vector, f"unrelated: {other.name}")


def shuffled_directions(
    model: Host,
    contrast: Contrast,
    directions: Direction | Directions,
    count: int = 50,
    *,
    method: str | Finder = "mean_difference",
    positions: Positions | None = None,
    max_examples: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Directions, ...]:
    """Return placebos found as directions were, on the contrast with its labels shuffled.

    - `contrast`, `method`, `positions`: those the directions were found with. One shuffle serves
      all hook points. Labels are swapped within pairs, where the contrast is paired.

    Each has the length of the real direction. Raises what `collect` does. Cost: one pass over the
    contrast, and `count` fits a hook point.

    >>> placebos = shuffled_directions(model, contrast, directions, 3, progress=False)
    >>> len(placebos), len(placebos[0]) == len(directions)
    (3, True)
    """
    real = {directions.hook_name: directions} if isinstance(directions, Direction) else directions

    def read(side: tuple[Any, ...]) -> Activations:
        return collect(
            model, side, list(real), positions, max_examples=max_examples, progress=progress
        )

    finder, _ = finder_named(method)
    positive, negative = read(contrast.positive).examples, read(contrast.negative).examples
    return tuple(
        Directions(
            {
                hook: shuffled_labels(
                    each,
                    positive[hook],
                    negative[hook],
                    method=finder,
                    paired=contrast.paired,
                    seed=seed * 1009 + i,
                )
                for hook, each in real.items()
            }
        )
        for i in range(count)
    )


def shuffled_labels(
    direction: Direction,
    positive: Float[Tensor, "positive *unit"],
    negative: Float[Tensor, "negative *unit"],
    *,
    method: Finder = mean_difference,
    paired: bool,
    seed: int = 0,
) -> Direction:
    """Return the direction that a finder finds in examples whose labels are shuffled.

    At the real one's length. With `paired`, item i of one side is the partner of item i of the
    other, and each pair is swapped with a chance of a half.

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([3.0, 4.0]))
    >>> placebo = shuffled_labels(up, torch.randn(8, 2), torch.randn(8, 2), paired=True)
    >>> round(placebo.norm, 4)
    5.0
    """
    sides = Sides(positive.flatten(1), negative.flatten(1)).shuffled(paired, seed)
    vector = oriented(method, sides.positive, sides.negative)
    return _placebo(direction, vector.reshape(direction.vector.shape), f"shuffled {seed}")


def twin(steering: Steering, placebo: Placebo | Mapping[str, Direction]) -> Steering:
    """Return a steering with every direction that it writes along replaced by a placebo.

    - `placebo`: a function of the direction, or placebos by hook name, as `shuffled_directions`
      gives; those come at the real one's length.

    Hook points, positions, coefficients and gates stay: a gate goes on reading the real
    direction, so that the twin steers the same tokens. Raises BadInputError on a transform
    without a direction (scale, affine, a function), which has no twin.

    >>> twin(steering, lambda direction: random_like(direction, 1)[0])
    Steering(4 * add('random 0 for direction') @ blocks.2.hook_resid_post[predicting])
    """
    made = _by_hook(placebo) if isinstance(placebo, Mapping) else placebo

    def placed(leaf: Intervention) -> Intervention:
        return replace(leaf, transform=_replaced(leaf.transform, made))

    return Steering(mapped(steering.expression, placed))


def random_twins(steering: Steering, count: int = 50, *, seed: int = 0) -> tuple[Steering, ...]:
    """Return twins of a steering along random directions, a fresh rotation of space each.

    All directions of the stream are turned together, at whatever layer they are written, and so are
    those of any other hook point: their lengths and the angles between them stay. A plane stays a
    plane, -2v the opposite of v at twice its length, and what adds up from layer to layer goes on
    to. Raises as `twin` does. Cost: for k directions in a space of width d, k² d.

    >>> [one] = random_twins(steering, 1)
    >>> one
    Steering(4 * add('random 0 for direction') @ blocks.2.hook_resid_post[predicting])
    """
    by_space: dict[str, list[Direction]] = {}
    for leaf in steering.interventions:
        for each in _directions(leaf.transform):
            by_space.setdefault(_space(each), []).append(each)

    def one(number: int) -> Steering:
        turned = {
            space: _Turned(found, crc32(f"{seed} {number} {found[0].hook_name}".encode()))
            for space, found in by_space.items()
        }
        return twin(
            steering,
            lambda each: _named(each, turned[_space(each)](each.vector), f"random {number}"),
        )

    return tuple(one(number) for number in range(count))


def _space(direction: Direction) -> str:
    """What a direction's entries are entries of: the stream, or its own hook point."""
    return "stream" if split_name(direction.hook_name)[0] in STREAM else direction.hook_name


class _Turned:
    """A random rotation of what some directions span, head by head where there are heads."""

    def __init__(self, directions: Sequence[Direction], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        vectors = _by_head(torch.stack([each.vector for each in directions]))
        self.rows = [orthonormal_factor(part) for part in vectors.unbind(1)]
        self.turned = [
            _uniform(torch.linalg.qr(torch.randn(*part.T.shape, generator=generator)))
            for part in self.rows
        ]

    def __call__(self, vector: Float[Tensor, "*unit"]) -> Float[Tensor, "*unit"]:
        parts = zip(_by_head(vector[None])[0], self.rows, self.turned, strict=True)
        moved = [(part @ rows.T) @ turned for part, rows, turned in parts]
        return torch.stack(moved).reshape(vector.shape)


def _uniform(factors: tuple[Tensor, Tensor]) -> Float[Tensor, "rank d"]:
    """Orthonormal rows without the signs that a QR factorisation prefers (Mezzadri, 2007)."""
    q, r = factors
    return (q * r.diagonal().sign()).T


def _by_head(vectors: Float[Tensor, "k *unit"]) -> Float[Tensor, "k head d"]:
    return vectors if vectors.ndim == 3 else vectors[:, None]


def _directions(value: Any) -> Iterator[Direction]:
    """The directions that a transform writes along, of a basis each vector, of a wrapper inside."""
    if isinstance(value, Direction):
        yield value
    elif isinstance(value, Basis):
        yield from _vectors(value)
    elif isinstance(value, Transform) and is_dataclass(value):
        for each in fields(value):
            yield from _directions(getattr(value, each.name))


def _replaced(transform: Transform, placebo: Placebo) -> Transform:
    """The transform with its directions replaced. Raises BadInputError where it has none."""
    if not any(True for _ in _directions(transform)):
        raise BadInputError(
            f"{transform!r} is made of no direction, so it has no placebo twin. Compare it with "
            "the same transform fitted on shuffled labels."
        )
    changed: dict[str, Any] = {}
    for each in fields(cast(Any, transform)):
        part = getattr(transform, each.name)
        if isinstance(part, Direction):
            changed[each.name] = placebo(part)
        elif isinstance(part, Basis):
            vectors = torch.stack([placebo(vector).vector for vector in _vectors(part)])
            spans = (torch.linalg.matrix_rank(x.flatten(1)) for x in (vectors, part.only()))
            if int(next(spans)) < int(next(spans)):
                raise BadInputError(
                    f"Vectors of {part.name!r} get the same placebo, so that the twin would write "
                    "along fewer. Take random_twins, which turns them together."
                )
            changed[each.name] = replace(
                part, vectors={part.hook_name: vectors}, name=f"placebo for {part.name}"
            )
        elif isinstance(part, Transform):
            changed[each.name] = _replaced(part, placebo)
    return cast(Transform, replace(cast(Any, transform), **changed))


def _vectors(basis: Basis) -> Iterator[Direction]:
    for label, vector in zip(basis.labels, basis.only(), strict=True):
        yield Direction(basis.hook_name, vector, name=label)


def _by_hook(placebos: Mapping[str, Direction]) -> Placebo:
    def placebo(direction: Direction) -> Direction:
        if direction.hook_name not in placebos:
            raise BadInputError(
                f"There is no placebo for {direction!r}: there are some at {', '.join(placebos)}."
            )
        found = placebos[direction.hook_name]
        direction.check_beside(found)
        return _placebo(direction, found.vector, found.name)

    return placebo


def _placebo(direction: Direction, vector: Float[Tensor, "*unit"], label: str) -> Direction:
    """A vector at a direction's place and length, head by head."""
    lengths = (each.norm(dim=-1, keepdim=True) for each in (direction.vector, vector))
    wanted, found = lengths
    return _named(direction, vector * (wanted / found.clamp_min(1e-30)), label)


def _named(direction: Direction, vector: Float[Tensor, "*unit"], label: str) -> Direction:
    source = {**direction.provenance, "placebo": label}
    name = label if " for " in label else f"{label} for {direction.name}"
    return replace(direction, vector=vector, name=name, quality=None, items="", provenance=source)
