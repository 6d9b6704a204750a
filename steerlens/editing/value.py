"""Edit: a change of weights as a value, and what may be done with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card, count, number
from steerlens.editing.factors import Embeddings, Factors, Gates, Place
from steerlens.editing.hooks import as_steering
from steerlens.editing.saving import load, save
from steerlens.editing.weights import Handle, apply
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.provenance import Allow
from steerlens.steering import Steering
from steerlens.text import Item
from steerlens.waiting import waits

if TYPE_CHECKING:
    import pandas

    from steerlens.editing.certificate import Certificate
    from steerlens.editing.exporting import Exported


@dataclass(frozen=True, repr=False, eq=False)
class Edit:
    """Sparse changes of a model's weights, in factors: rank 1 a head or neuron.

    The same change runs as hooks (`as_steering`), in the weights (`applied`, `apply_`), and in a
    checkpoint (`export`); `certify` compares the first two. `2 * edit` is twice as strong.

    >>> edit = sl.steer2edit(model, contrast, rho_mlp=None, progress=False)
    >>> with edit.applied(model):
    ...     text = model.generate("Once upon a time", max_new_tokens=8, verbose=False)
    """

    factors: tuple[Factors, ...]
    gates: tuple[Gates, ...] = ()
    embeddings: Embeddings | None = None
    name: str = "edit"
    maker: str = ""
    """What made it: "steer2edit"."""
    importance: Mapping[Place, Float[Tensor, " unit"]] = field(default_factory=dict)
    """g of every component that was considered, edited or not."""
    reasons: Mapping[Place, str] = field(default_factory=dict)
    """Why components of a block were left as they are."""
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise BadInputError where the heads of a layer would be changed in more than one way."""
        gated = {each.layer for each in self.gates}
        if len(gated) < len(self.gates):
            raise BadInputError("A layer has one set of gates; this edit has two. Multiply them.")
        both = [f.place[0] for f in self.factors if f.place[1] == "attn" and f.place[0] in gated]
        if both:
            raise BadInputError(
                f"Layer {both[0]} has both gates and rank-1 changes of its heads, whose order "
                "would matter. Apply one edit after the other."
            )

    @property
    def total(self) -> float:
        """The sum of |λ|."""
        return sum(float(each.strengths.abs().sum()) for each in self.factors)

    def __mul__(self, factor: float) -> Edit:
        """Return the edit so many times as strong."""
        if not isinstance(factor, int | float):
            return NotImplemented
        return replace(
            self,
            factors=tuple(each.scaled(factor) for each in self.factors),
            gates=tuple(each.scaled(factor) for each in self.gates),
            embeddings=None if self.embeddings is None else self.embeddings.scaled(factor),
        )

    __rmul__ = __mul__

    def __neg__(self) -> Edit:
        """Return the opposite edit; what only removes (embeddings) has none, and is an error."""
        return -1.0 * self

    def as_steering(self, model: Host | None = None) -> Steering:
        """Return the edit as HookPoint callbacks: no weight is touched.

        It reads `z` (after every other writer there) and `mlp_post`, and writes `attn_out` and
        `mlp_out` along v at every token, BOS too, as weights do; with a norm after the block it
        writes in front of that norm, whose name is then the one of the model that the edit was
        made on, or of `model`. Raises BadInputError on an edit of nothing, and on several v in
        front of one norm.

        >>> edit = sl.steer2edit(model, contrast, rho_mlp=None, progress=False)
        >>> len(edit.as_steering().interventions) == len(edit.factors)
        True
        """
        return as_steering(self.factors, self.gates, self.embeddings, self.name, model)

    def apply_(self, model: Host) -> Handle:
        """Write the edit into the model's weights; the handle's `undo()` restores every bit.

        Either everything is written or nothing. Tied embeddings are untied first where they are
        edited, and tied again by `undo`. Warns where this edit is in the weights already, for it is
        then there twice; `steerlens.editing.handles(model)` has a handle that was lost. Raises
        BadInputError on another model (by name), weights that are quantised, copied by the host, of
        another shape, or a mixture of experts. Cost: copies of the slices that it touches.
        """
        return apply(self.factors, self.gates, self.embeddings, model, self.provenance, self.name)

    @waits("with edit.applied(model):")
    @contextmanager
    def applied(self, model: Host) -> Iterator[Host]:
        """Edit the weights for the length of a `with` block, and restore every bit after it."""
        handle = self.apply_(model)
        try:
            yield model
        finally:
            handle.undo()

    def certify(
        self, model: Host, prompts: Iterable[Item], *, batch_tokens: int = 4096
    ) -> Certificate:
        """Compare the edit as hooks with the edit in the weights, on some prompts.

        Also says what remains along the direction at each layer, and why each component that is
        not edited is not. The weights are restored. Cost: three passes a prompt.

        >>> edit = sl.steer2edit(model, contrast, rho_mlp=None, progress=False)
        >>> edit.certify(model, ["Once upon a time"]).holds
        True
        """
        from steerlens.editing.certificate import certify

        return certify(self, model, prompts, batch_tokens=batch_tokens)

    def export(
        self,
        model: Host,
        folder: str | Path,
        *,
        checkpoint: str | Path | None = None,
        dtype: torch.dtype | None = None,
    ) -> Exported:
        """Write the original checkpoint, edited, as a Hugging Face folder.

        `checkpoint` is the folder or name that the model was loaded from, where the model does not
        tell. Weights are written in the model's dtype, or `dtype`. Tied embeddings are written
        untied where they were edited, which the returned value says, with the largest difference
        of logits between a fresh load and the edited weights. Raises BadInputError where the
        model's weights are not the checkpoint's (norms folded, weights centred, fine-tuned in
        memory), saying how to load it instead; then nothing is written.

        >>> from tempfile import TemporaryDirectory
        >>> from steerlens.demo.model import FOLDER
        >>> edit = sl.steer2edit(model, contrast, rho_mlp=None, progress=False)
        >>> with TemporaryDirectory() as folder:
        ...     print(edit.export(model, f"{folder}/edited", checkpoint=FOLDER))
        Exported('edited', float32; a fresh load gives the edited logits to ...)
        """
        from steerlens.editing.exporting import export

        return export(self, model, folder, checkpoint=checkpoint, dtype=dtype)

    def save(self, path: str | Path) -> None:
        """Write the edit as one safetensors file with its provenance, or nothing at all."""
        save(self, path)

    @classmethod
    def load(cls, path: str | Path, model: Host | None = None, *, allow: Allow = ()) -> Edit:
        """Return a saved edit. With `model`, raise BadInputError if it was made on another.

        `allow` names differences that are meant ("model", "weights"); the edit then counts as made
        on that model, and its provenance says what it was.
        """
        return load(cls, path, model, allow)

    def frame(self) -> pandas.DataFrame:
        """Return a table of edited components, strongest first, ties in the order of the model.

        Columns: `component` (as L3H5 or L3N120), `layer`, `block`, `index`, `strength` (λ; of a
        gated head the gain farthest from 1, less 1), `importance` (g, where it is known).
        """
        import pandas

        rows = []
        for each in self.factors:
            layer, block = each.place
            g = self.importance.get(each.place)
            for label, i, value in zip(
                each.labels, each.units.tolist(), each.strengths.tolist(), strict=True
            ):
                rows.append(
                    (label, layer, block, i, value, float("nan") if g is None else float(g[i]))
                )
        for gate in self.gates:
            for name, i in zip(gate.labels, gate.units.tolist(), strict=True):
                far = float(max((gate.gain[i] - 1).tolist(), key=abs))
                rows.append((name, gate.layer, "attn", i, far, float("nan")))
        rows.sort(key=lambda row: -abs(row[4]))
        names = ["component", "layer", "block", "index", "strength", "importance"]
        return pandas.DataFrame(rows, columns=names)

    def __repr__(self) -> str:
        """Return what is edited: `Edit('refusal', steer2edit, 12 of 48 heads, |λ| 3.1)`."""
        return f"Edit({', '.join([repr(self.name), self.maker, *self._sizes()])})"

    def _sizes(self) -> list[str]:
        found = []
        for block, noun in (("attn", "head"), ("mlp", "neuron")):
            kind = [each for each in self.factors if each.place[1] == block]
            edited = len({label for each in kind for label in each.labels})
            all_of = sum(len(g) for place, g in self.importance.items() if place[1] == block)
            if edited or all_of:
                found.append(f"{edited}{f' of {all_of}' if all_of else ''} {noun}s")
        if self.gates:
            found.append(count(sum(len(each.units) for each in self.gates), "gated head"))
        if self.embeddings is not None:
            found.append("embeddings")
        if any(each.bias for each in self.factors):
            found.append("biases")
        return [*found, f"|λ| {number(self.total)}"] if self.factors else found

    def _repr_html_(self) -> str:
        top = self.frame().head(5)
        named = [
            f"{name} {value:+.2g}"
            for name, value in zip(top["component"], top["strength"], strict=True)
        ]
        rows = {
            "made by": self.maker,
            "edits": ", ".join(self._sizes()) or "nothing",
            "strongest": ", ".join(named),
            "model": Path(self.provenance.get("model", "unknown")).name,
        }
        return card(f"Edit {self.name!r}", rows)
