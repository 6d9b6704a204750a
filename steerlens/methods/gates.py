"""Fitted gates: what was found at each hook point, what is kept of it, and the gated steering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from steerlens.cards import card, count, number, share
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.interventions import Intervention, mapped, only
from steerlens.methods.gating import Folded
from steerlens.methods.signing import signed
from steerlens.names import Key, at_hook, layer_of
from steerlens.signals import Constant, OfPrompt, Probe, Signal, Threshold, Value, product, signal
from steerlens.steering import Steering

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Gate:
    """A gate sigmoid(w·x + b) at one hook point, and how well it tells source from control."""

    direction: Direction
    """w, at the hook point that the gate looks at."""
    bias: float
    accuracy: float
    """The mean of both sides' shares told right: chance is 0.5."""
    kept: bool
    """Whether what stands there is steered at all."""
    components: int
    """r: the dimensions that it was fitted in."""
    explained: float
    """The share of the features' variance in them."""

    @classmethod
    def of(
        cls,
        hook_name: str,
        unit: tuple[int, ...],
        folded: Folded,
        accuracy: float,
        min_accuracy: float,
        about: Mapping[str, str],
    ) -> Gate:
        """Return the gate of a fit, its weights in the shape of an activation, in float32."""
        weights = folded.weight.reshape(unit)
        return cls(
            Direction(hook_name, weights, name="source", provenance=about),
            folded.bias,
            accuracy,
            accuracy >= min_accuracy,
            folded.components,
            folded.explained,
        )

    @property
    def hook_name(self) -> str:
        """The hook point that it looks at."""
        return self.direction.hook_name

    @property
    def probe(self) -> Probe:
        """The probability of the source side, token by token."""
        return Probe(self.direction, self.bias)

    def __repr__(self) -> str:
        """Return place and quality."""
        left = "" if self.kept else ", left alone"
        return (
            f"{self.hook_name}: accuracy {self.accuracy:.2f}, r = {self.components} "
            f"({share(self.explained)} of the variance){left}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Gates:
    """The gates of a base steering, one for each hook point that it looks at.

    `gates["blocks.2.hook_resid_post"]` is one; `.steering()` is the base under those kept.
    """

    base: Steering
    found: tuple[Gate, ...]
    sizes: tuple[int, int]
    """How many source and control texts."""
    min_accuracy: float
    held_out: bool
    """Whether accuracies are on texts left out."""
    of_prompt: bool = False
    """Whether a row has one value, of its prompt's mean."""
    hard: bool = False
    """Whether gates are 1 above 0.5 and 0 below."""
    weigh: bool = False
    """Whether gates are multiplied by max(0, 2 accuracy - 1)."""
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, key: Key) -> Gate:
        """Return the gate at a hook name, or at a (site, layer); UnknownNameError without one."""
        return at_hook({gate.hook_name: gate for gate in self.found}, key, "gate")

    @property
    def kept(self) -> tuple[str, ...]:
        """The hook points whose gate is right often enough."""
        return tuple(gate.hook_name for gate in self.found if gate.kept)

    def signal(self, hook_name: str) -> Signal:
        """Return the gate at a hook point as a signal, in the form asked for."""
        gate = self[hook_name]
        found: Signal = gate.probe
        if self.hard:
            found = Threshold(found, 0.5, above=True)
        if self.of_prompt:
            found = OfPrompt(found)
        return product(Constant(max(0.0, 2 * gate.accuracy - 1) if self.weigh else 1.0), found)

    def steering(self) -> Steering:
        """Return the base under its gates. Raises BadInputError where none is kept."""
        return self._gated(lambda leaf: self.signal(looked_at(leaf)))

    def oracle(self, labels: Value) -> Steering:
        """Return the base at the same hook points, open where a label says so: 1 or 0 a row.

        What a gate that errs nowhere would do, to compare with. Raises BadInputError where no
        hook point is kept.
        """
        told = signal(labels)
        return self._gated(lambda leaf: told, {"gate": "oracle"})

    def frame(self) -> pandas.DataFrame:
        """Return a line a hook point.

        Columns: `hook_name`, `layer`, `accuracy`, `kept`, `components`, `explained`, `bias` and
        `norm`, the length of w.
        """
        import pandas

        return pandas.DataFrame(
            {
                "hook_name": [gate.hook_name for gate in self.found],
                "layer": pandas.array([layer_of(gate.hook_name) for gate in self.found], "Int64"),
                "accuracy": [gate.accuracy for gate in self.found],
                "kept": [gate.kept for gate in self.found],
                "components": [gate.components for gate in self.found],
                "explained": [gate.explained for gate in self.found],
                "bias": [gate.bias for gate in self.found],
                "norm": [gate.direction.norm for gate in self.found],
            }
        )

    def _gated(
        self, gate: Callable[[Intervention], Signal], about: Mapping[str, str] = {}
    ) -> Steering:
        kept = only(self.base.expression, lambda leaf: self[looked_at(leaf)].kept)
        if kept is None:
            best = max(self.found, key=lambda each: each.accuracy)
            raise BadInputError(
                f"No gate tells source from control {share(self.min_accuracy)} of the time, so "
                f"nothing would be steered; the best, at {best.hook_name}, is right "
                f"{share(best.accuracy)} of it. Give clearer or more texts, or a lower "
                "min_accuracy."
            )
        under = mapped(kept, lambda leaf: replace(leaf, gate=product(leaf.gate, gate(leaf))))
        return signed(Steering(under), {**self.provenance, **about})

    def _headline(self) -> str:
        on = "texts left out" if self.held_out else "the texts fitted on"
        source, control = self.sizes
        return (
            f"{len(self.kept)} of {count(len(self.found), 'hook point')} kept, accuracy "
            f"{number(self.min_accuracy)} or more on {on}; {source} source and {control} control "
            "texts"
        )

    def __repr__(self) -> str:
        """Return what is kept, and a line a gate."""
        return "\n".join([f"Gates({self._headline()})", *(f"  {gate!r}" for gate in self.found)])

    def _repr_html_(self) -> str:
        rows = (repr(gate).partition(": ") for gate in self.found)
        return card(f"Gates: {self._headline()}", {name: text for name, _, text in rows})


def looked_at(leaf: Intervention) -> str:
    """Return the hook point whose activation an intervention and its gate see."""
    return leaf.hook_name if leaf.reads is None else leaf.reads
