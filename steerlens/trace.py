"""What a steering wrote: the strength, the change and the stream, a token, a hook point.

Recording costs two norms an intervention and pass. What is kept is bounded by `max_tokens`
and moved to the CPU at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.cards import card, count, share
from steerlens.clock import Clock
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.host import layer_of, token_id
from steerlens.interventions import Intervention, Strength
from steerlens.text import token_strings

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class TracedText:
    """One text, or batch of texts, that passed while a trace was on."""

    tokens: Int[Tensor, "batch pos"]
    strings: tuple[tuple[str, ...], ...]
    """The tokens as text, a row each."""
    real: Bool[Tensor, "batch pos"]
    """False at pads."""
    prompt_lengths: Int[Tensor, " batch"]
    """Real tokens of each row's prompt."""
    coeff: Float[Tensor, "intervention batch pos"]
    """The coefficient, wherever the positions are; NaN where nothing was recorded."""
    gate: Float[Tensor, "intervention batch pos"]
    """The gate; 0 where the positions pick nothing."""
    change_norm: Float[Tensor, "intervention batch pos"]
    """Norm of the change."""
    stream_norm: Float[Tensor, "intervention batch pos"]
    """Norm of the activation before it was changed."""
    along: Float[Tensor, "intervention batch pos"]
    """Component of the change along the intervention's direction; NaN where it has none."""
    by_head: Mapping[int, Float[Tensor, "batch pos head"]]
    """Norm of the change of each head, for interventions (by number) that write heads."""

    @property
    def strength(self) -> Float[Tensor, "intervention batch pos"]:
        """Coefficient times gate; 0 where nothing was written, NaN where nothing was recorded."""
        return torch.where(self.gate == 0, 0, self.coeff * self.gate)

    @property
    def share(self) -> Float[Tensor, "intervention batch pos"]:
        """Norm of the change over the norm of the activation."""
        return self.change_norm / self.stream_norm.clamp_min(1e-12)

    @property
    def generated(self) -> Bool[Tensor, "batch pos"]:
        """True at tokens after the prompt."""
        index = self.real.int().cumsum(1) - 1
        return self.real & (index >= self.prompt_lengths[:, None])


@dataclass
class _Record:
    start: int
    leaf: int
    values: Tensor
    """Coefficient, gate, norms of change and stream, change along: (5, batch, pos)."""
    by_head: Tensor | None


@dataclass
class _Draft:
    tokens: Tensor
    real: Tensor
    prompt_lengths: Tensor
    records: list[_Record] = field(default_factory=list)


class Trace:
    """What a steering wrote, text by text; complete once its `with` block is left.

    `trace.texts[0].share` has shape (intervention, batch, pos); `trace.frame()` is a tidy
    table. Views draw it: `steerlens.views.tokens(trace)`.
    """

    def __init__(self, interventions: Sequence[Intervention], max_tokens: int = 50_000) -> None:
        """Start empty."""
        self.interventions = tuple(interventions)
        self.max_tokens = max_tokens
        self.dropped = 0
        """Tokens that passed after the trace was full."""
        self._kept = 0
        self._serial = -1
        self._full = False
        self._drafts: dict[int, _Draft] = {}
        self._texts: tuple[TracedText, ...] | None = None

    @property
    def texts(self) -> tuple[TracedText, ...]:
        """The texts traced. Raises BadInputError inside the `with` block."""
        if self._texts is None:
            raise BadInputError("The trace is complete only after its `with` block is left.")
        return self._texts

    def record(
        self,
        clock: Clock,
        leaf: int,
        strength: Strength,
        change: Float[Tensor, "batch pos *unit"],
        h: Float[Tensor, "batch pos *unit"],
    ) -> None:
        """Keep what intervention number `leaf` did in the pass under way."""
        window = clock.window
        if clock.serial != self._serial:  # a pass is kept whole, or not at all
            self._serial, self._full = clock.serial, self._kept >= self.max_tokens
            self.dropped += self._full * window.index.numel()
            self._kept += (not self._full) * window.index.numel()
        if self._full:
            return
        if clock.tokens is None or window.prompt_lengths is None:
            raise BadInputError("A trace needs tokens and prompt_lengths; give them to trace().")
        draft = self._drafts.setdefault(
            clock.text, _Draft(clock.tokens, clock.real, window.prompt_lengths)
        )
        draft.tokens, draft.real = clock.tokens, clock.real
        norms = change.flatten(2).norm(dim=-1), h.flatten(2).norm(dim=-1)
        along = _along(self.interventions[leaf], change)
        columns = [strength.coeff, strength.gate, *norms, along]
        values = torch.stack([column.float() for column in columns]).detach()
        by_head = change.detach().norm(dim=-1) if change.ndim == 4 else None
        draft.records.append(_Record(clock.start, leaf, values, by_head))

    def finish(self, clock: Clock) -> None:
        """Assemble the records and move them to the CPU."""
        self._texts = tuple(self._assembled(draft, clock) for draft in self._drafts.values())
        self._drafts = {}

    def _assembled(self, draft: _Draft, clock: Clock) -> TracedText:
        rows, total = draft.tokens.shape
        values = torch.full((5, len(self.interventions), rows, total), torch.nan)
        by_head: dict[int, Tensor] = {}
        for record in draft.records:
            end = record.start + record.values.shape[2]
            values[:, record.leaf, :, record.start : end] = record.values.cpu()
            if record.by_head is not None:
                heads = record.by_head.shape[2]
                whole = by_head.setdefault(record.leaf, torch.full((rows, total, heads), torch.nan))
                whole[:, record.start : end] = record.by_head.cpu()
        tokens = draft.tokens.cpu().clone()
        return TracedText(
            tokens=tokens,
            strings=tuple(tuple(token_strings(clock.model, row)) for row in tokens),
            real=_without_fillers(tokens, draft, token_id(clock.model, "eos")),
            prompt_lengths=draft.prompt_lengths.cpu().clone(),
            coeff=values[0],
            gate=values[1],
            change_norm=values[2],
            stream_norm=values[3],
            along=values[4],
            by_head=by_head,
        )

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table: a line for each text, row, token and intervention."""
        import pandas

        lines = [
            line for number, text in enumerate(self.texts) for line in self._lines(number, text)
        ]
        return pandas.DataFrame(lines)

    def _lines(self, number: int, text: TracedText) -> list[dict[str, object]]:
        return [
            {
                "text": number,
                "row": row,
                "pos": pos,
                "token": text.strings[row][pos],
                "generated": bool(text.generated[row, pos]),
                "layer": layer_of(leaf.hook_name),
                "hook_name": leaf.hook_name,
                "intervention": repr(leaf),
                "coeff": float(text.coeff[i, row, pos]),
                "gate": float(text.gate[i, row, pos]),
                "strength": float(text.strength[i, row, pos]),
                "change_norm": float(text.change_norm[i, row, pos]),
                "stream_norm": float(text.stream_norm[i, row, pos]),
                "along": float(text.along[i, row, pos]),
            }
            for row, pos in text.real.nonzero().tolist()
            for i, leaf in enumerate(self.interventions)
        ]

    def summary(self) -> list[str]:
        """Return a line an intervention: how many tokens it wrote, and how strongly."""
        lines = []
        for i, leaf in enumerate(self.interventions):
            strengths = torch.cat([text.strength[i][text.real] for text in self.texts])
            written = (strengths != 0) & ~strengths.isnan()
            shares = torch.cat([text.share[i][text.real] for text in self.texts])[written]
            strongly = f", {share(float(shares.mean()))} of the stream" if len(shares) else ""
            lines.append(f"{leaf!r}: wrote {int(written.sum())} of {len(written)} tokens{strongly}")
        return lines

    def __repr__(self) -> str:
        """Return the summary of what was written."""
        if self._texts is None:
            return "Trace(under way)"
        if not self._texts:
            return "Trace(no pass)"
        dropped = (
            f"; full after {self._kept} tokens, {self.dropped} dropped" if self.dropped else ""
        )
        head = f"Trace({count(len(self._texts), 'text')}{dropped})"
        return "\n".join([head, *(f"  {line}" for line in self.summary())])

    def _repr_html_(self) -> str:
        rows = {str(i): line for i, line in enumerate(self.summary())} if self._texts else {}
        return card(repr(self).splitlines()[0], rows)


def _along(leaf: Intervention, change: Tensor) -> Float[Tensor, "batch pos"]:
    """Component of a change along its intervention's direction, over heads too."""
    direction = getattr(leaf.transform, "along", None)
    if not isinstance(direction, Direction) or direction.vector.shape != change.shape[2:]:
        return torch.full(change.shape[:2], torch.nan, device=change.device)
    unit = (direction.vector / max(direction.norm, 1e-30)).to(change.device, change.dtype)
    return change.flatten(2) @ unit.flatten()


def _without_fillers(
    tokens: Int[Tensor, "batch pos"], draft: _Draft, eos: int | None
) -> Bool[Tensor, "batch pos"]:
    """Real tokens, less the EOS that `generate` fills a finished row with after its first EOS."""
    real = draft.real.cpu().clone()
    if eos is None:
        return real
    closing = (tokens == eos).flip(1).int().cumprod(1).flip(1).bool()
    filler = closing & torch.cat([torch.zeros_like(closing[:, :1]), closing[:, :-1]], 1)
    index = real.int().cumsum(1) - 1
    return real & ~(filler & (index >= draft.prompt_lengths.cpu()[:, None]))
