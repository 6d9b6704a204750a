"""The certificate of an edit: hooks against weights, what remains, and what was left alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerlens.cards import card, count, number
from steerlens.components import Place, label
from steerlens.editing.remaining import looking, table, watches
from steerlens.editing.weights import writable
from steerlens.errors import BadInputError
from steerlens.host import FwdHooks, Host, device_of
from steerlens.passes import one_pass
from steerlens.text import Batch, Item, batches, encode_all

if TYPE_CHECKING:
    import pandas

    from steerlens.editing.value import Edit

TOLERANCE, ROUNDED = 1e-4, 3e-2
"""Largest difference of logits, as a share of the largest logit, up to which hooks and weights are
the same: in float32, and in half precision, where it is three times what rounding alone changes in
the bundled model."""


@dataclass(frozen=True, repr=False)
class Certificate:
    """What was measured of an edit on some prompts.

    >>> edit = sl.steer2edit(model, contrast, rho_mlp=None, progress=False)
    >>> certificate = edit.certify(model, ["Once upon a time"])
    >>> certificate.difference < 1e-3, list(certificate.remaining.columns)
    (True, ['layer', 'at', 'base', 'edited', 'largest_base', 'largest_edited'])
    """

    difference: float
    """Largest difference of a logit between the edit as hooks and in the weights."""
    change: float
    """Largest change of a logit by the edit: what the difference is to be compared with."""
    largest: float
    """Largest logit, either way, without the edit."""
    remaining: pandas.DataFrame
    """Along the edit's directions, before and after: `layer`, `at` ("attn_out", "mlp_out",
    "resid_post"; "resid_post, of attn" where a layer's blocks serve different ones), mean over
    tokens (`base`, `edited`) and largest in size."""
    left: pandas.DataFrame
    """What is not edited: `component`, `layer`, `block`, `reason`."""
    name: str
    prompts: int
    dtype: str

    @property
    def holds(self) -> bool:
        """Whether hooks and weights give the same logits: to 1e-4 of the largest, in float32.

        In half precision rounding alone makes them differ: then to 3% of the largest.
        """
        share = TOLERANCE if self.dtype in ("float32", "float64") else ROUNDED
        return self.difference <= share * max(self.largest, 1.0)

    def __repr__(self) -> str:
        """Return the verdict in a line."""
        verdict = "the same" if self.holds else "NOT the same"
        return (
            f"Certificate({self.name!r}: hooks and weights {verdict}, logits differ by "
            f"{self.difference:.1e} at most where the edit changes them by {number(self.change)}; "
            f"{count(len(self.left), 'component')} not edited; {count(self.prompts, 'prompt')})"
        )

    def _repr_html_(self) -> str:
        reasons = self.left["reason"].str.replace(r"^\|g\| = [\d.e-]+", "|g|", regex=True)
        rows = {
            "hooks against weights": f"{self.difference:.1e} of a logit at most",
            "the edit itself": f"changes logits by {number(self.change)} at most",
            "measured on": f"{count(self.prompts, 'prompt')}, {self.dtype}",
        }
        for _, line in self.remaining.iterrows():
            rows[f"along it at {line['at']} {line['layer']}"] = (
                f"{line['base']:+.3g} before, {line['edited']:+.3g} after "
                f"(largest {line['largest_base']:.3g}, {line['largest_edited']:.3g})"
            )
        rows |= {f"not edited: {n}": why for why, n in reasons.value_counts().head(6).items()}
        return card(f"Certificate of {self.name!r}", rows)


def certify(
    edit: Edit, model: Host, prompts: Iterable[Item], *, batch_tokens: int = 4096
) -> Certificate:
    """Compare the edit as hooks with the edit in the weights; see `Edit.certify`."""
    import pandas

    encoded = encode_all(model, prompts, "An edit is certified on")
    watched, steering = watches(edit.factors), edit.as_steering(model)
    change = difference = largest = 0.0
    for _, batch in batches(model, encoded, batch_tokens=batch_tokens, device=device_of(model)):
        real = batch.real
        base = _logits(model, batch, looking(watched, real, "base"))
        with steering.on(model):
            hooked = _logits(model, batch, [])
        with edit.applied(model):
            edited = _logits(model, batch, looking(watched, real, "edited"))
        difference = max(difference, float((hooked - edited)[real].abs().max()))
        change = max(change, float((edited - base)[real].abs().max()))
        largest = max(largest, float(base[real].abs().max()))
    return Certificate(
        difference,
        change,
        largest,
        table(watched),
        pandas.DataFrame(_left(edit, model), columns=["component", "layer", "block", "reason"]),
        edit.name,
        len(encoded),
        str(model.cfg.dtype).removeprefix("torch."),
    )


@torch.no_grad()
def _logits(model: Host, batch: Batch, hooks: FwdHooks) -> Tensor:
    return one_pass(model, batch, hooks).float()


def _left(edit: Edit, model: Any) -> list[tuple[str, int, str, str]]:
    """Every writer of the model that the edit leaves alone, and why."""
    found: list[tuple[str, int, str, str]] = []
    if edit.embeddings is None:
        why = f"{edit.maker or 'this edit'} leaves embeddings alone"
        found += [("W_E", -1, "embed", why)]
        if getattr(getattr(model, "pos_embed", None), "W_pos", None) is not None:
            found += [("W_pos", -1, "embed", why)]
    for layer in range(int(model.cfg.n_layers)):
        found += _left_in(edit, model, (layer, "attn"))
        found += _left_in(edit, model, (layer, "mlp"))
    return found


def _left_in(edit: Edit, model: Any, place: Place) -> list[tuple[str, int, str, str]]:
    layer, block = place
    try:
        weight = writable(model, layer, block)
    except BadInputError as error:
        return [(f"L{layer} {block}", layer, block, str(error))]
    mine = [each for each in edit.factors if each.place == place]
    edited = {i for each in mine for i in each.units.tolist()}
    edited |= {i for each in edit.gates if each.place == place for i in each.units.tolist()}
    reason = edit.reasons.get(place, f"not chosen by {edit.maker or 'whoever made the edit'}")
    g = edit.importance.get(place)
    rows: list[tuple[str, int, str, str]] = []
    for i in range(len(weight)):
        if i in edited:
            continue
        why = reason if g is None else reason.replace("|g|", f"|g| = {abs(float(g[i])):.2g}", 1)
        rows.append((label(layer, block, i), layer, block, why))
    name = "b_O" if block == "attn" else "b_out"
    offsets = [each.offset for each in edit.gates if each.place == place]
    changed = any(each.bias for each in mine) or any(bool(each.any()) for each in offsets)
    if not changed and getattr(getattr(model.blocks[layer], block), name, None) is not None:
        rows.append((f"L{layer} {name}", layer, block, "no constant is added to the block's bias"))
    return rows
