"""Direction: one vector at one hook point, with where it came from and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card, interval, number, share
from steerlens.directions.sae import decoder_rows
from steerlens.errors import BadInputError
from steerlens.names import hook_name as full_name
from steerlens.names import layer_of
from steerlens.provenance import of_several
from steerlens.statistics import Interval


@dataclass(frozen=True)
class CausalEffect:
    """How far a model's outputs follow the component along a direction: interchange of pairs.

    Each item gets its partner's component, both ways; telling the sides apart needs no cause.
    """

    moved: float
    """Share of the gap between the sides' outputs that is closed; may be below 0."""
    interval: Interval
    """Its bootstrap 95% interval over pairs."""
    whole: float
    """The share that the partner's whole activation closes: the most to expect there."""
    random_band: Interval
    """95% band of the share that random directions close."""
    rank: int
    """1 if the direction closes more than every random one."""
    randoms: int
    """How many random directions."""
    pairs: int
    metric: str
    """What the gap is measured in."""

    def __str__(self) -> str:
        """Return the share and what stands beside it."""
        return (
            f"interchange moves {self.moved:.0%} {interval(*self.interval)} of the gap in "
            f"{self.metric}, the whole activation {self.whole:.0%}, random directions "
            f"{interval(*self.random_band)}; rank {self.rank} of {self.randoms + 1}"
        )


@dataclass(frozen=True)
class Quality:
    """How well a finder's directions tell held-out items apart, beside placebos.

    The items are halved at random; the direction found in each half scores the other.
    """

    auc: float
    """Mean of the two held-out AUCs."""
    auc_interval: Interval
    """Bootstrap 95% interval over items, the found directions held fixed: it leaves out the
    chance in finding them, which the shuffled band shows."""
    effect_size: float
    """Cohen's d of the held-out scores."""
    split_half_cosine: float
    """Cosine between the directions of the two halves."""
    shuffled_band: Interval
    """95% band of the AUC of directions found with shuffled labels."""
    random_band: Interval
    """95% band of the AUC of random directions."""
    rank: int
    """1 if the AUC is above every shuffled-label and random direction's."""
    placebos: int
    """How many shuffled-label directions, and as many random ones."""
    causal: CausalEffect | None = None
    """What `steerlens.evaluation.causal_check` found; None where it was not asked."""

    @property
    def beyond_placebo(self) -> bool:
        """Whether the AUC lies above the band of shuffled labels and that of random directions."""
        return self.auc > max(self.shuffled_band[1], self.random_band[1])


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a hook point, in float32, with its source.

    `vector` has the activation's shape after (batch, pos): (d_model,) in the stream,
    (n_heads, d_head) at `z`, (d_mlp,) at `mlp.hook_post`. Its length is kept: for found
    directions it is the distance between the sides' means along it, so that a coefficient of
    1 moves one side's mean onto the other's.

    >>> Direction("blocks.3.hook_resid_post", torch.tensor([3.0, 4.0]), name="up")
    Direction('up', blocks.3.hook_resid_post, d=2, |v|=5)
    """

    hook_name: str
    vector: Float[Tensor, "*unit"]
    name: str = "direction"
    quality: Quality | None = None
    stream_norm: float | None = None
    """Mean norm of the activations it was found in."""
    items: str = ""
    """What it was found in: "64 pairs"."""
    provenance: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raise BadInputError on what is no vector, or not finite."""
        if not isinstance(self.vector, Tensor):
            raise BadInputError(
                f"The vector of direction {self.name!r} is a tensor; got "
                f"{type(self.vector).__name__}. torch.tensor(...) makes one."
            )
        if not torch.isfinite(self.vector).all():
            raise BadInputError(
                f"The vector of direction {self.name!r} is not finite (NaN or infinity). Look at "
                "what it was made from."
            )
        own = self.vector.detach().float().cpu().clone()
        object.__setattr__(self, "vector", own)

    @classmethod
    def from_sae(cls, sae: Any, feature: int, hook_name: str | None = None) -> Direction:
        """Return a feature's decoder row, at the hook point that the autoencoder writes to.

        `sae` is any object with `W_dec` (features, d), as SAELens's; of a transcoder the hook
        point is that of its output. The length is the decoder's own. Raises BadInputError on a
        feature or hook name that is not there.

        >>> from types import SimpleNamespace
        >>> sae = SimpleNamespace(W_dec=torch.eye(3))
        >>> Direction.from_sae(sae, 2, "blocks.3.hook_resid_post")
        Direction('feature 2', blocks.3.hook_resid_post, d=3, |v|=1)
        """
        rows, place, about = decoder_rows(sae, [feature], hook_name)
        return cls(place, rows[0], name=f"feature {feature}", provenance=about)

    @property
    def layer(self) -> int | None:
        """The layer of its hook point."""
        return layer_of(self.hook_name)

    @property
    def norm(self) -> float:
        """The length of the vector."""
        return float(self.vector.norm())

    def unit(self) -> Direction:
        """Return the direction at length 1. Raises BadInputError on a zero vector."""
        if self.norm == 0:
            raise BadInputError(
                f"Direction {self.name!r} has length 0 and no unit vector. Find it where its sides "
                "differ."
            )
        return replace(self, vector=self.vector / self.norm)

    def cosine(self, other: Direction) -> float:
        """Return the cosine with another direction of the same shape."""
        self.check_beside(other, same_hook=False)
        a, b = self.unit().vector.flatten(), other.unit().vector.flatten()
        return float(torch.dot(a, b).clamp(-1, 1))

    def heads(self, *heads: int) -> Direction:
        """Return the direction with every head's part but these set to zero (at `z`, `q`, ...)."""
        if self.vector.ndim != 2:
            raise BadInputError(f"{self.hook_name!r} has no heads; {self!r} is one vector.")
        return self._only(heads, "head")

    def neurons(self, *neurons: int) -> Direction:
        """Return the direction with every entry but these set to zero."""
        if self.vector.ndim != 1:
            raise BadInputError(f"{self!r} is a vector a head; use heads(...).")
        return self._only(neurons, "neuron")

    def at(self, hook_name: str, layer: int | None = None) -> Direction:
        """Return the same vector said to live at another hook point, to write it there.

        A full hook name, or a site and a layer: `at("resid_post", 3)`.
        """
        place = full_name(hook_name, layer)
        return replace(self, hook_name=place, quality=None, stream_norm=None)

    def _only(self, kept: Sequence[int], noun: str) -> Direction:
        size = len(self.vector)
        wrong = [i for i in kept if not 0 <= i < size]
        if wrong or not kept:
            raise BadInputError(f"{self!r} has {noun}s 0 to {size - 1}; got {list(kept)}.")
        vector = torch.zeros_like(self.vector)
        vector[list(kept)] = self.vector[list(kept)]
        return replace(
            self,
            vector=vector,
            name=f"{self.name}, {noun} {', '.join(map(str, kept))}",
            quality=None,
        )

    def check_beside(self, other: Direction, *, same_hook: bool = True) -> None:
        """Raise BadInputError unless the other lives at the same hook point, in the same shape."""
        if same_hook and self.hook_name != other.hook_name:
            raise BadInputError(
                f"{self.name!r} lives at {self.hook_name!r} and {other.name!r} at "
                f"{other.hook_name!r}. Use .at(...) to say that one is meant at the other's place."
            )
        if self.vector.shape != other.vector.shape:
            raise BadInputError(
                f"Shapes differ: {self.name!r} is {tuple(self.vector.shape)}, {other.name!r} is "
                f"{tuple(other.vector.shape)}."
            )

    def _scaled(self, factor: float, name: str) -> Direction:
        return replace(self, vector=self.vector * factor, name=name, quality=None)

    def _combined(self, vector: Tensor, other: Direction, name: str) -> Direction:
        both = of_several({self.name: self.provenance, f"and {other.name}": other.provenance})
        return replace(self, vector=vector, name=name, quality=None, items="", provenance=both)

    def __add__(self, other: Direction) -> Direction:
        """Return the sum of two directions at one hook point."""
        self.check_beside(other)
        return self._combined(self.vector + other.vector, other, f"{self.name} + {other.name}")

    def __sub__(self, other: Direction) -> Direction:
        """Return the difference of two directions at one hook point."""
        self.check_beside(other)
        return self._combined(
            self.vector - other.vector, other, f"{self.name} - {_bracketed(other.name)}"
        )

    def __mul__(self, factor: float) -> Direction:
        """Return the direction at `factor` times its length."""
        return self._scaled(factor, f"{number(factor)} * {_bracketed(self.name)}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Direction:
        """Return the direction at a fraction of its length."""
        return self * (1 / divisor)

    def __neg__(self) -> Direction:
        """Return the opposite direction."""
        return self._scaled(-1.0, f"-{_bracketed(self.name)}")

    def __repr__(self) -> str:
        """Return name, place, size and quality in one line."""
        shape = "x".join(map(str, self.vector.shape))
        norm = f"|v|={number(self.norm)}"
        if self.stream_norm:
            whole = "stream" if "resid" in self.hook_name else "activation"
            norm += f" = {share(self.norm / self.stream_norm)} of the {whole}"
        parts = [repr(self.name), self.hook_name, f"d={shape}", norm]
        if self.quality is not None:
            q = self.quality
            placebo = f"placebo {interval(*q.shuffled_band)}" if q.placebos else "no placebo"
            placebo += "" if q.beyond_placebo or not q.placebos else ", not beyond placebos"
            parts.append(f"AUC {q.auc:.2f} {interval(*q.auc_interval)} ({placebo})")
            if q.causal is not None:
                parts.append(f"moves {q.causal.moved:.0%} {interval(*q.causal.interval)}")
        return f"Direction({', '.join([*parts, *filter(None, [self.items])])})"

    def _repr_html_(self) -> str:
        rows = {"at": self.hook_name, "length": number(self.norm), "found in": self.items}
        if self.quality is not None:
            q = self.quality
            rows |= {
                "held-out AUC": f"{q.auc:.2f} {interval(*q.auc_interval)}",
                "effect size": f"{q.effect_size:.1f} standard deviations",
                "halves agree": f"cosine {q.split_half_cosine:.2f}",
                "placebo": f"shuffled labels {interval(*q.shuffled_band)}, random "
                f"{interval(*q.random_band)}; rank {q.rank} of {2 * q.placebos + 1}",
                "cause": str(q.causal or "not checked: steerlens.evaluation.causal_check"),
            }
        return card(f"Direction {self.name!r}", rows)


def check_direction(value: object, what: str) -> None:
    """Raise BadInputError on anything but one Direction."""
    if not isinstance(value, Direction):
        raise BadInputError(
            f"{what} needs one Direction; got {type(value).__name__}. A vector becomes one by "
            "Direction(hook_name, vector), a basis by basis.compose(weights); of several "
            "directions choose one."
        )


def _bracketed(name: str) -> str:
    """A name to stand behind a sign: a sum in brackets."""
    return f"({name})" if " + " in name or " - " in name else name
