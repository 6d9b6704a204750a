"""A fitted router: the weights that it gives each prompt, and the steerings that follow them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from steerlens.activations import collect
from steerlens.basis import Basis
from steerlens.cards import card, number, share
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.methods.composing import by_row, routed
from steerlens.methods.signing import signed
from steerlens.names import layer_of, split_name
from steerlens.positions import Positions
from steerlens.signals import Combining, OfPrompt, Signal
from steerlens.signals.routed import Network, Routed
from steerlens.steering import Steering
from steerlens.text import Item, listed

if TYPE_CHECKING:
    import pandas

ORDER = ("resid_pre", "attn_in", "z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")
"""Sites of a block, in the order of a pass; others count as its beginning."""


@dataclass(frozen=True, eq=False, repr=False)
class Router:
    """A network from a prompt to the weights of a basis.

    `.steering()` routes and steers in one pass; `.for_prompts(model, prompts)` reads unsteered
    prompts first, at any layer; `.weights(model, prompts)` are the numbers.
    """

    basis: Basis
    network: Network
    reads: str
    pool: Literal["last", "mean"]
    positions: Positions
    labels: tuple[str, ...]
    table: Float[Tensor, "label k"]
    """The weights that each label's prompts should get."""
    accuracy: float | None = None
    """How often the weights of held-out prompts lie nearest to their own label's."""
    held_out: int = 0
    """Over how many prompts."""
    provenance: Mapping[str, str] = field(default_factory=dict)

    def signals(self) -> list[Signal]:
        """Return the weight of each vector as a signal of the prompt, read where it was fitted."""
        found: list[Signal] = []
        for i, label in enumerate(self.basis.labels):
            held: Combining = OfPrompt(Routed(self.network, i, label), self.pool)
            found.append(held.at(self.reads))
        return found

    def steering(self) -> Steering:
        """Return the steering that reads the prompt and adds what the router says, in one pass.

        Raises BadInputError where what it reads is written by then: that is no longer what it was
        fitted on.
        """
        first = min(self.basis.vectors, key=depth)
        alone = list(self.basis.vectors) == [self.reads]
        if depth(self.reads) >= depth(first) and not alone:
            raise BadInputError(
                f"The router reads {self.reads!r}, and {first!r} is steered by then. Take "
                "for_prompts(model, prompts), which reads in a pass of its own, or fit with reads= "
                "an earlier hook point."
            )
        return signed(routed(self.basis, self.signals(), self.positions), self.provenance)

    def weights(
        self, model: Host, prompts: Iterable[Item], *, progress: bool = False
    ) -> Float[Tensor, "prompt k"]:
        """Return the weights of each prompt. Cost: a pass a prompt, up to the layer read."""
        found = features(model, prompts, self.reads, self.pool, progress=progress)
        return self.network.weights(found)

    def for_prompts(self, model: Host, prompts: Iterable[Item]) -> Steering:
        """Return the steering of these prompts, a row each, their weights read in a clean pass.

        Cost: a pass a prompt, up to the layer read.
        """
        found = by_row(self.basis, self.weights(model, prompts), self.positions)
        return signed(found, self.provenance)

    def frame(self, model: Host, prompts: Iterable[Item]) -> pandas.DataFrame:
        """Return a line a prompt: its weights, a column a vector."""
        import pandas

        return pandas.DataFrame(self.weights(model, prompts).numpy(), columns=list(self.basis))

    def _headline(self) -> str:
        told = f"{self.network!r} at {self.reads}, {len(self.labels)} labels"
        if self.accuracy is None:
            return told
        return f"{told}, {share(self.accuracy)} right on {self.held_out} prompts held out"

    def __repr__(self) -> str:
        """Return the network, its place, and how often it is right."""
        return f"Router({self._headline()})"

    def _repr_html_(self) -> str:
        rows = {}
        for label, line in zip(self.labels, self.table.tolist(), strict=True):
            terms = [
                f"{number(weight)} * {name}"
                for name, weight in zip(self.basis.labels, line, strict=True)
                if weight
            ]
            rows[label] = " + ".join(terms).replace("+ -", "- ") or "nothing"
        return card(f"Router: {self._headline()}", rows)


def features(
    model: Host,
    prompts: Iterable[Item],
    reads: str,
    pool: Literal["last", "mean"],
    *,
    progress: bool = False,
) -> Float[Tensor, "prompt d"]:
    """Return what a router reads of each prompt: its last token, or the mean (BOS left out)."""
    prompts = listed(prompts, "A router reads")
    where = "last_prompt_token" if pool == "last" else "prompt"
    found = collect(model, prompts, reads, where, max_examples=len(prompts), progress=progress)
    (examples,) = found.examples.values()
    return examples.flatten(1)


def depth(name: str) -> tuple[int, int]:
    """Return where in a pass a hook point stands, to compare with another's."""
    layer = layer_of(name)
    site, _ = split_name(name)
    return (-1 if layer is None else layer, ORDER.index(site) if site in ORDER else 0)
