"""Effect: what a steering caused, as tidy numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card, count, number, share
from steerlens.errors import UnknownNameError, nearest
from steerlens.moments import Moments
from steerlens.statistics import largest

if TYPE_CHECKING:
    import pandas

HEADS = ("z", "pattern", "to_steered", "to_first")
"""The responses that heads have."""
SUMMED = ("written", "heads", "mlps", "norms_after", "embedded", "final_norm", "cap", "elsewhere")
"""The parts that add up to the whole change."""


@dataclass(frozen=True, repr=False, eq=False)
class Effect:
    """What a steering changes, mean over prompts: of the metric by part, and in each component.

    Every figure is a `Moments` over prompts (each prompt's mean over its scored tokens), so
    `.mean` and `.variance` are there for all of them, and nothing grows with the prompts.
    """

    metric: str
    """What the parts are measured in."""
    prompts: int
    aim: str
    """What the stream's change is compared with."""
    written_at: tuple[str, ...]
    """The hook points of the stream that the steering writes."""
    parts: Mapping[str, Moments]
    """`whole`, and what adds up to it: `written` (hook point), `heads` (layer, head), `mlps`
    (layer), `norms_after` (layer, 2), `embedded`, `final_norm`, `cap`, `elsewhere`; `neurons`
    (layer, neuron) are what the MLPs' consist of."""
    responses: Mapping[str, Moments]
    """`stream`, `cosine`, `share`, `mlp` (layer); `z`, `pattern`, `to_steered`, `to_first`
    (layer, head); `neurons` (layer, neuron): see `steerlens.effects.responses.Responses`."""

    @property
    def change(self) -> float:
        """The change of the metric."""
        return float(self.parts["whole"].mean)

    @property
    def direct(self) -> float:
        """The part that what was written has itself, straight through the stream to the logits."""
        return float(self.parts["written"].mean.sum())

    @property
    def heads(self) -> Float[Tensor, "layer head"]:
        """Each head's part of the change."""
        return self.parts["heads"].mean

    @property
    def mlps(self) -> Float[Tensor, " layer"]:
        """Each MLP's part of the change."""
        return self.parts["mlps"].mean

    @property
    def mediated(self) -> float:
        """The part of heads and MLPs: what they put out otherwise, as their inputs changed."""
        return float(self.heads.sum() + self.mlps.sum())

    @property
    def remainder(self) -> float:
        """What norms, a soft cap and the embeddings add: no head's or MLP's own."""
        names = ("norms_after", "final_norm", "cap", "embedded", "elsewhere")
        return float(sum(self.parts[name].mean.sum() for name in names))

    def top(self, n: int = 5, by: str = "part") -> list[tuple[int, int]]:
        """Return the n heads that respond most, as (layer, head), the largest first.

        - `by`: `part` of the change (its size, whatever the sign), or a response of heads: `z`,
          `pattern`, `to_steered`, `to_first`.

        Raises UnknownNameError on another name.
        """
        known = {"part": self.heads} | {name: self.responses[name].mean for name in HEADS}
        if by not in known:
            raise UnknownNameError(f"Heads have no {by!r}; {nearest(by, known)}.")
        return largest(known[by], n)

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table of layers, heads and MLPs.

        Columns: `layer`, `component` (`stream`, `mlp` or a head's number), `part` with `se` (of the
        mean over prompts), and the responses that the component has.
        """
        import pandas

        return pandas.DataFrame(list(self._lines()))

    def _lines(self) -> Iterator[dict[str, object]]:
        heads, mlps = self.parts["heads"], self.parts["mlps"]
        for layer in range(len(mlps.mean)):
            yield {"layer": layer, "component": "stream"} | self._at("stream", layer)
            for head in range(heads.mean.shape[1]):
                own = _with_error("part", heads, (layer, head))
                yield (
                    {"layer": layer, "component": f"head {head}"}
                    | own
                    | self._at("head", layer, head)
                )
            moved = {"mlp": float(self.responses["mlp"].mean[layer])}
            yield {"layer": layer, "component": "mlp"} | _with_error("part", mlps, (layer,)) | moved

    def _at(self, kind: str, *place: int) -> dict[str, object]:
        names = ("stream", "cosine", "share") if kind == "stream" else HEADS
        return {name: float(self.responses[name].mean[place]) for name in names}

    def neurons_frame(self, n: int = 20) -> pandas.DataFrame:
        """Return the n neurons with the largest parts: `layer`, `neuron`, `part`, `se`, `change`.

        `change` is the mean absolute change of the activation. Empty without neurons.
        """
        import pandas

        if "neurons" not in self.parts:
            return pandas.DataFrame(columns=["layer", "neuron", "part", "se", "change"])
        each, moved = self.parts["neurons"], self.responses["neurons"]
        return pandas.DataFrame(
            [
                {"layer": place[0], "neuron": place[1], "change": float(moved.mean[place])}
                | _with_error("part", each, place)
                for place in largest(each.mean, n)
            ]
        )

    def summary(self) -> list[str]:
        """Return the account in lines: the whole, its parts, and who responds most."""
        (layer, head), *others = self.top(3)
        first = f"L{layer}H{head} {_signed(self.heads[layer, head])}"
        rest = "".join(f", L{at}H{one} {_signed(self.heads[at, one])}" for at, one in others)
        mlp = int(self.mlps.abs().argmax())
        moved, cosine = (float(self.responses[name].mean[-1]) for name in ("stream", "cosine"))
        along = f", cosine {number(cosine)} with {self.aim}" if cosine else ""
        return [
            f"change {_signed(self.change)} {self.metric}, over {count(self.prompts, 'prompt')}",
            f"direct {_signed(self.direct)}, through heads and MLPs {_signed(self.mediated)}, "
            f"norms and the rest {_signed(self.remainder)}",
            f"heads: {first}{rest}; MLPs: L{mlp} {_signed(self.mlps[mlp])}",
            f"after the last layer the stream has moved by {share(moved)} of its norm{along}",
        ]

    def __repr__(self) -> str:
        """Return the account."""
        return "Effect(" + "\n  ".join(self.summary()) + ")"

    def _repr_html_(self) -> str:
        whole, *others = self.summary()
        names = ("paths", "respond most", "the stream")
        return card(f"Effect: {whole}", dict(zip(names, others, strict=True)))


def _with_error(name: str, moments: Moments, place: tuple[int, ...]) -> dict[str, object]:
    """A mean over prompts, and its standard error."""
    return {name: float(moments.mean[place]), "se": float(moments.standard_error[place])}


def _signed(value: Tensor | float) -> str:
    return f"{float(value):+.3g}"
