"""What may be edited: every head's and neuron's importance, what it reads, where it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.activations import collect
from steerlens.attribution.aims import aims
from steerlens.attribution.scores import head_importance, neuron_importance
from steerlens.attribution.sides import input_name
from steerlens.components import Block, Components, Norm, components
from steerlens.contrast import Contrast, check_contrast
from steerlens.directions import Direction, Directions
from steerlens.directions.collection import listed
from steerlens.editing.factors import Factors, Place
from steerlens.editing.value import Edit
from steerlens.editing.weights import writable
from steerlens.errors import BadInputError
from steerlens.host import Host, check_hook_name, dtype_of
from steerlens.positions import Positions
from steerlens.provenance import provenance
from steerlens.text import Encoded, Item, encode

Through = Literal["exact", "steepest"]
"""How a direction of the stream is written in front of a norm with gain γ: as û ⊘ γ, which
arrives as û alone, or as γ ⊙ û, which moves the stream furthest along û for its length."""
BLOCKS: tuple[Block, ...] = ("attn", "mlp")


@dataclass(frozen=True, eq=False)
class Candidate:
    """The components of one block, as an edit sees them."""

    place: Place
    importance: Float[Tensor, " unit"]
    """g = cos(v, W μ)."""
    reads: Float[Tensor, "unit d_in"]
    """k: a head's W_O v at length 1, a neuron's sign(w·v)."""
    norms: Float[Tensor, " unit"]
    """Largest singular value of each component's weight."""
    outputs: Float[Tensor, " unit"]
    """Length of W μ, the component's mean output."""
    writes: Float[Tensor, " d_model"]
    """v, of length 1, at the output projection."""
    toward: Float[Tensor, " d_model"]
    """The unit direction in the stream that v serves."""
    norm: str | None

    def factors(self, strengths: Float[Tensor, " unit"]) -> Factors | None:
        """Return the edit by these strengths, None where all are 0."""
        chosen = strengths.nonzero().flatten()
        if not len(chosen):
            return None
        return Factors(
            self.place,
            len(strengths),
            chosen,
            strengths[chosen],
            self.reads[chosen],
            self.writes,
            self.toward,
            norm=self.norm,
        )


@dataclass(frozen=True)
class Candidates:
    """Every component that may be edited, read once, edited in many ways."""

    blocks: tuple[Candidate, ...]
    d_model: int
    items: str
    name: str
    provenance: Mapping[str, str]

    def __repr__(self) -> str:
        """Return how many they are."""
        sizes = {block: sum(len(c.importance) for c in self.of(block)) for block in BLOCKS}
        return f"Candidates({sizes['attn']} heads, {sizes['mlp']} neurons, {self.items})"

    def of(self, block: Block | None) -> list[Candidate]:
        """Return those of one kind of block, or of both."""
        return [each for each in self.blocks if block in (None, each.place[1])]

    def edit(
        self,
        maker: str,
        factors: Sequence[Factors | None],
        reasons: Mapping[Place, str] | None = None,
    ) -> Edit:
        """Return the edit of some factors of these components."""
        return Edit(
            tuple(each for each in factors if each is not None),
            name=self.name,
            maker=maker,
            importance={each.place: each.importance for each in self.blocks},
            reasons=reasons or {},
            provenance=self.provenance,
        )

    def spread(
        self, block: Block | None, strengths: Float[Tensor, " component"]
    ) -> list[Factors | None]:
        """Return the factors of strengths for all components of a kind, block after block."""
        found = self.of(block)
        parts = torch.split(strengths, [len(each.importance) for each in found])
        return [each.factors(part) for each, part in zip(found, parts, strict=True)]


def candidates(
    model: Host,
    contrast: Contrast,
    direction: Direction | Directions | None = None,
    *,
    blocks: Sequence[Block] = BLOCKS,
    through: Through = "exact",
    paired_prompt: bool = False,
    positions: Positions | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> Candidates:
    """Read a contrast and return every component's importance and factors.

    Without a `direction` each block takes its own, as the paper does: the mean difference of what
    its output projection writes, before any norm after it. A direction of the stream serves every
    block; in front of a norm it is written as `through` says. μ is half the sum of both sides'
    means of what goes into each component. By default means are over the positions that predict
    completion tokens, from the last prompt token to the second-last token; without completions
    over the last token. `paired_prompt` reads negative completions after the positive prompts, as
    the paper's released code does for safety.

    Raises BadInputError on what is no contrast, sides that read the same and no direction given, a
    direction that is none of the stream, a quantised weight, a mixture of experts unless `blocks`
    leaves "mlp" out. Cost: a forward pass an item.
    """
    check_contrast(contrast, "Components are compared on")
    places: list[Place] = [(n, block) for n in range(int(model.cfg.n_layers)) for block in blocks]
    for place in places:
        writable(model, *place)
    parts = components(model)
    along = None if direction is None else aims(parts, direction, places)
    names = [check_hook_name(model, input_name(place)) for place in places]
    sides = [
        collect(
            model,
            [_predicting(model, item) if positions is None else item for item in side],
            names,
            "predicting" if positions is None else positions,
            max_examples=1,
            batch_tokens=batch_tokens,
            progress=progress,
        )
        for side in _sides(contrast, paired_prompt)
    ]
    dtype = dtype_of(model)
    if along is None and all(sides[0][name].same_mean(sides[1][name], dtype) for name in names):
        raise BadInputError(
            f"Both sides read the same at every block, positions {sides[0].positions}. Where "
            "prompts are alike and answers have one token, what predicts these is the prompt "
            "alone: give positions='generated', which reads answers, or longer ones."
        )
    found = []
    for place, name in zip(places, names, strict=True):
        positive, negative = (side[name].mean.float() for side in sides)
        toward = None if along is None else along[place]
        found.append(_candidate(parts, place, positive, negative, toward, through))
    return Candidates(
        tuple(found),
        int(model.cfg.d_model),
        contrast.counted,
        "mean difference" if direction is None else listed(direction)[0].name,
        {**provenance(model), "data": contrast.digest},
    )


def _candidate(
    parts: Components,
    place: Place,
    positive: Tensor,
    negative: Tensor,
    direction: Tensor | None,
    through: Through,
) -> Candidate:
    layer, block = place
    weights = parts.writers(layer, block).cpu()
    after, mean = parts.after(layer, block), (positive + negative) / 2
    norm = None if after is None else after.cpu()
    if direction is None:
        axes = "hi,hid->d" if block == "attn" else "h,hd->d"
        seen = writes = _unit(torch.einsum(axes, positive - negative, weights))
        toward = writes if norm is None else _unit(norm.gain * norm.centre(writes))
    else:
        toward = direction
        seen = direction if norm is None else _unit(norm.pulled(direction))
        writes = written_through(norm, direction, through)
    if block == "attn":
        reads = torch.nn.functional.normalize(weights @ seen, dim=-1)
        importance = head_importance(weights, mean, seen)
        norms = torch.linalg.matrix_norm(weights, 2)
        outputs = torch.einsum("hi,hid->hd", mean, weights).norm(dim=-1)
    else:
        reads = (weights @ seen).sign()[:, None]
        importance = neuron_importance(weights, mean, seen)
        norms = weights.norm(dim=-1)
        outputs = mean.abs() * norms
    name = parts.norm_name(layer, block)
    return Candidate(place, importance, reads, norms, outputs, writes, toward, name)


def written_through(
    norm: Norm | None, direction: Float[Tensor, " d_model"], through: Through
) -> Float[Tensor, " d_model"]:
    """Return the unit vector in front of a norm that serves a direction behind it.

    Raises BadInputError on a gain of 0 for "exact", or another name.
    """
    if through not in ("exact", "steepest"):
        raise BadInputError(
            f"A direction passes a norm 'exact' or 'steepest'; got {through!r}. The paper's own "
            "form finds its directions in front of the norm: give none."
        )
    if norm is None:
        return direction
    if through == "steepest":
        return _unit(norm.pulled(direction))
    if not bool((norm.gain.abs() > 1e-6).all()):
        raise BadInputError(
            "The norm after a block has gains of 0: nothing in front of it arrives as this "
            "direction alone. Take through='steepest'."
        )
    return _unit(norm.centre(direction / norm.gain))


def _predicting(model: Host, item: Item) -> Encoded:
    """An item without the last token of its completion: what remains predicts completion tokens."""
    encoded = encode(model, item)
    if len(encoded.tokens) == encoded.prompt_length:
        return encoded
    return Encoded(encoded.tokens[:-1], encoded.prompt_length)


def _sides(contrast: Contrast, paired_prompt: bool) -> tuple[Sequence[Item], Sequence[Item]]:
    positive, negative = contrast.positive, contrast.negative
    if not paired_prompt:
        return positive, negative
    fits = all(
        isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], str)
        for each in (*positive, *negative)
    )
    if not contrast.paired or not fits:
        raise BadInputError(
            "paired_prompt reads each negative completion after its partner's prompt: give a "
            "paired contrast of (prompt, completion) items."
        )
    pairs = zip(positive, negative, strict=True)
    return positive, [(first[0], second[1]) for first, second in pairs]  # type: ignore[index,misc]


def _unit(vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    unit: Tensor = vector / (vector.norm() + 1e-12)
    return unit
