"""Gates that look at an activation: a probe, a cosine with a condition, a rectifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from steerlens.activations import collect
from steerlens.basis import Basis, orthonormal_factor
from steerlens.cards import number
from steerlens.contrast import Contrast, check_contrast
from steerlens.directions import Direction
from steerlens.directions.direction import check_direction
from steerlens.directions.finding import check_read_alike
from steerlens.directions.probe import fitted
from steerlens.errors import BadInputError
from steerlens.host import Host, hook_names
from steerlens.names import hook_name as full_name
from steerlens.positions import Positions
from steerlens.provenance import provenance
from steerlens.signals.moment import Moment
from steerlens.signals.signal import Combining, Signal, Values, signal


@dataclass(frozen=True, eq=False)
class Probe(Combining):
    """A logistic probe: g = sigmoid(w . x + b), between 0 and 1.

    >>> w = Direction("blocks.0.hook_resid_post", torch.tensor([1.0, 0.0]), name="harm")
    >>> Probe(w, bias=-1.0)(Moment(torch.tensor([[[1.0, 5.0]]])))
    tensor([[0.5000]])
    """

    direction: Direction
    bias: float = 0.0

    @classmethod
    def fit(
        cls,
        model: Host,
        contrast: Contrast,
        hook_name: str | tuple[str, int],
        *,
        positions: Positions | None = None,
        name: str = "probe",
    ) -> Probe:
        """Return the L2 logistic regression of a contrast's sides, with its intercept.

        Read where `find_directions` reads unless `positions` are given: at an item's completion, or
        at its last token. The place is a hook name, or a (site, layer). A direction alone, also of
        the finder "probe", has no intercept, so that a gate made of it opens at 0. Raises
        BadInputError on several hook points, and on sides read at different positions. Cost: one
        streamed pass a side, one L-BFGS fit.

        >>> gate = Probe.fit(model, contrast, "blocks.1.hook_resid_post", name="joy")
        >>> gate > 0.5
        (probe('joy', ...) > 0.5)
        """
        check_contrast(contrast, "A probe is fitted to")
        place, sides = _one_place(model, hook_name), (contrast.positive, contrast.negative)
        read = [collect(model, each, place, positions, progress=False) for each in sides]
        check_read_alike(*(each.positions for each in read))
        high, low = (each.examples[place] for each in read)
        weights, bias = fitted(high.flatten(1), low.flatten(1))
        direction = Direction(
            place,
            weights.reshape(high.shape[1:]),
            name=name,
            items=contrast.counted,
            provenance={
                **provenance(model),
                "method": "Probe.fit",
                "positions": read[0].positions,
                "data": contrast.digest,
            },
        )
        return cls(direction, bias)

    def __post_init__(self) -> None:
        """Raise BadInputError on anything but a direction."""
        check_direction(self.direction, "A probe")

    def __call__(self, moment: Moment) -> Values:
        """Return the probability."""
        score = dots(moment.x, moment.beside(self.direction.vector))
        return torch.sigmoid(score + moment.number(self.bias) if self.bias else score)

    def __repr__(self) -> str:
        """Return `probe('harm')`, with the bias where there is one."""
        bias = f", {number(self.bias)}" if self.bias else ""
        return f"probe({self.direction.name!r}{bias})"


@dataclass(frozen=True, eq=False)
class Cosine(Combining):
    """Cosine with a direction, signed; with a subspace, the share of length inside it.

    Compare it to make a gate, as CAST does (arXiv 2409.05907): `Cosine(harm) > 0.2`.

    >>> w = Direction("blocks.0.hook_resid_post", torch.tensor([1.0, 0.0]), name="harm")
    >>> Cosine(w)(Moment(torch.tensor([[[3.0, 4.0]]])))
    tensor([[0.6000]])
    """

    condition: Direction | Basis

    def __post_init__(self) -> None:
        """Raise BadInputError on anything but a direction or a basis."""
        if not isinstance(self.condition, Direction | Basis):
            raise BadInputError(
                f"A cosine is with one Direction or Basis; got {type(self.condition).__name__}. A "
                "vector becomes a Direction(hook_name, vector)."
            )

    def __call__(self, moment: Moment) -> Values:
        """Return the cosine, 0 where the activation is; rounding takes none beyond 1."""
        x = moment.x
        length: Tensor = vector_norm(x.flatten(2), dim=-1).clamp_min(1e-12)
        inside: Tensor = x.flatten(2) @ moment.beside(self._rows).T
        one = isinstance(self.condition, Direction)
        whole: Tensor = inside[..., 0] if one else vector_norm(inside, dim=-1)
        return (whole / length).clamp(-1, 1)

    @cached_property
    def _rows(self) -> Float[Tensor, "k d"]:
        """Orthonormal rows of what is compared with; plain tensors, whatever pass asks first."""
        with torch.inference_mode(False):
            if isinstance(self.condition, Direction):
                return self.condition.unit().vector.flatten()[None]
            return orthonormal_factor(self.condition.only().flatten(1))

    def __repr__(self) -> str:
        """Return `cosine('harm')`."""
        return f"cosine({self.condition.name!r})"


@dataclass(frozen=True, eq=False)
class Projection(Combining):
    """The component along a direction, in units of the activation."""

    direction: Direction

    def __post_init__(self) -> None:
        """Raise BadInputError on anything but a direction."""
        check_direction(self.direction, "A projection")

    def __call__(self, moment: Moment) -> Values:
        """Return the dot product with the unit vector."""
        return dots(moment.x, moment.beside(self._unit))

    @cached_property
    def _unit(self) -> Float[Tensor, "*unit"]:
        with torch.inference_mode(False):
            return self.direction.unit().vector

    def __repr__(self) -> str:
        """Return `projection('harm')`."""
        return f"projection({self.direction.name!r})"


@dataclass(frozen=True)
class Relu(Combining):
    """max(0, slope * (score - start)): shut up to a score, and open the wider beyond it."""

    score: Signal
    start: float = 0.0
    slope: float = 1.0

    def __post_init__(self) -> None:
        """Take numbers and functions as signals. Raises BadInputError on anything else."""
        object.__setattr__(self, "score", signal(self.score))

    def __call__(self, moment: Moment) -> Values:
        """Return the rectified score."""
        return (self.slope * (self.score(moment) - self.start)).clamp_min(0)

    def __repr__(self) -> str:
        """Return `relu(score)`."""
        past = f" - {number(self.start)}" if self.start else ""
        slope = f", slope={number(self.slope)}" if self.slope != 1 else ""
        return f"relu({self.score!r}{past}{slope})"


def _one_place(model: Host, place: object) -> str:
    """The full name of one hook point. Raises BadInputError on what names none, or several."""
    name = full_name(*place) if isinstance(place, tuple) and len(place) == 2 else place
    found = hook_names(model, name) if isinstance(name, str) else []
    if len(found) != 1:
        raise BadInputError(
            f"A probe reads one hook point; got {place!r}. Give a hook name, or a site and its "
            "layer: ('resid_post', 3)."
        )
    return found[0]


def dots(
    x: Float[Tensor, "batch pos *unit"], vector: Float[Tensor, "*unit"]
) -> Float[Tensor, "batch pos"]:
    """Return each token's dot product with a vector (over heads too, where there are any)."""
    return x @ vector if x.ndim == 3 else x.flatten(2) @ vector.flatten()
