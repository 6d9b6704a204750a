"""What a steering wrote: the strength, the change and the stream, a token, a hook point.

Recording costs a norm an intervention and pass. What is kept is bounded by `max_tokens` and
moved to the CPU at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.cards import card, count, share
from steerlens.clock import Clock
from steerlens.errors import BadInputError
from steerlens.host import token_id
from steerlens.interventions import Intervention, Strength
from steerlens.text import token_strings
from steerlens.trace import advice, tables
from steerlens.trace.drafts import Draft
from steerlens.trace.texts import TracedText

if TYPE_CHECKING:
    import pandas


class Trace:
    """What a steering wrote, text by text; complete once its `with` block is left.

    `trace.texts[0].share` has shape (intervention, batch, pos), `trace.frame()` is a tidy table,
    and `trace.warnings` says what stands in the steering's way. Views draw it:
    `steerlens.views.tokens(trace)`.
    """

    def __init__(self, interventions: Sequence[Intervention], max_tokens: int = 50_000) -> None:
        """Start empty."""
        self.interventions = tuple(interventions)
        self.max_tokens = max_tokens
        self.dropped = 0
        """Tokens that passed after the trace was full."""
        self._kept = 0
        self._reached: dict[int, int] = {}
        """The column that each text has come to."""
        self._serial = -1
        self._full = False
        self._drafts: dict[int | None, Draft] = {}
        self._draft: Draft | None = None
        self._texts: tuple[TracedText, ...] | None = None

    @property
    def texts(self) -> tuple[TracedText, ...]:
        """The texts traced. Raises BadInputError inside the `with` block."""
        if self._texts is None:
            raise BadInputError("A trace is complete once `with steering.trace(model)` is left.")
        return self._texts

    def record(
        self,
        clock: Clock,
        leaf: int,
        picked: Bool[Tensor, "batch pos"],
        strength: Strength,
        change: Float[Tensor, "batch pos *unit"],
        h: Float[Tensor, "batch pos *unit"],
    ) -> None:
        """Keep what intervention number `leaf` did in the pass under way."""
        if clock.serial != self._serial:  # a pass is kept whole, or not at all
            self._open(clock)
        if self._full:
            return
        assert self._draft is not None
        if self._draft.add(leaf, picked, strength, change, h):
            self._draft.work_out(self.interventions)

    def _open(self, clock: Clock) -> None:
        """Find the text of the pass that begins; a second continuation of one cache is its own."""
        window, number = clock.window, clock.text.number
        self._serial, self._full = clock.serial, self._kept >= self.max_tokens
        rows, end = len(window.index), clock.text.total
        new = rows * max(0, end - self._reached.get(number, clock.start))
        self._reached[number] = end
        self.dropped += self._full * new
        self._kept += (not self._full) * new
        if self._full:
            return
        if window.history is None or window.prompt_lengths is None:
            raise BadInputError("A trace needs tokens and prompt_lengths; give them to trace().")
        draft = self._drafts.get(number)
        parent = self._drafts.get(clock.text.parent) if draft is None else None
        if parent is not None:
            parent.work_out(self.interventions)
            draft = parent.branch(clock.start)
        elif draft is None or clock.start == 0:  # without a cache a text passes whole each time
            draft = Draft(window, window.prompt_lengths)
        draft.window = window
        self._drafts[number] = self._draft = draft

    def finish(self, clock: Clock) -> None:
        """Assemble the records and move them to the CPU, as plain tensors.

        A host may generate under inference mode, whose tensors autograd refuses for good: what
        is kept is copied outside of it.
        """
        with torch.inference_mode(False):
            self._texts = tuple(self._assembled(draft, clock) for draft in self._drafts.values())
        self._drafts, self._draft = {}, None

    def _assembled(self, draft: Draft, clock: Clock) -> TracedText:
        assert draft.window.history is not None
        draft.work_out(self.interventions)
        tokens = draft.window.history.cpu().clone()
        rows, total = tokens.shape
        values = torch.full((6, len(self.interventions), rows, total), torch.nan)
        by_head: dict[int, Tensor] = {}
        for record in draft.records:
            end = record.end
            values[:, record.leaf, :, record.start : end] = record.values.cpu()
            if record.by_head is not None:
                heads = record.by_head.shape[3]
                empty = torch.full((2, rows, total, heads), torch.nan)
                whole = by_head.setdefault(record.leaf, empty)
                whole[:, :, record.start : end] = record.by_head.cpu()
        return TracedText(
            tokens=tokens,
            strings=tuple(tuple(token_strings(clock.model, row)) for row in tokens),
            real=_without_fillers(tokens, draft, token_id(clock.model, "eos")),
            prompt_lengths=draft.prompt_lengths.cpu().clone(),
            picked=values[0] == 1,
            coeff=values[1],
            gate=values[2],
            change_norm=values[3],
            stream_norm=values[4],
            along=values[5],
            by_head={leaf: norms[0] for leaf, norms in by_head.items()},
            stream_by_head={leaf: norms[1] for leaf, norms in by_head.items()},
        )

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table: a line for each text, row, token and intervention.

        Columns: `text`, `row`, `pos`, `token`, `generated`, `layer`, `hook_name`, `intervention`
        (its formula), `picked` (by its positions), `coeff`, `gate` (0 where not picked),
        `strength` (their product), `change_norm`, `stream_norm`, `share` (of the stream that the
        change is) and `along` (the change along the direction). A generated text's last token is
        never read by the model, and has no line.
        Pads are left out. Raises BadInputError inside the `with` block.

        >>> frame = trace.frame()
        >>> frame[frame.strength != 0].groupby("intervention").share.mean().shape
        (1,)
        """
        return tables.frame(self.interventions, self.texts)

    def heads_frame(self) -> pandas.DataFrame:
        """Return a tidy table of heads: a line for each token and head that is written.

        The columns of `frame` up to `intervention`, then `head`, `change_norm`, `stream_norm`
        and `share`, each of that head alone. A table of its own, since a head is a part of what
        a line of `frame` tells: among those lines it would count every token twice in a sum or a
        mean, and leave the columns of coefficient and gate to be repeated. Empty where nothing
        writes heads. Raises BadInputError inside the `with` block.

        >>> trace.heads_frame().empty
        True
        """
        return tables.heads_frame(self.interventions, self.texts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What stands in the steering's way, each with a remedy; empty where nothing does.

        Raises BadInputError inside the `with` block.
        """
        return advice.warnings(self.interventions, self.texts)

    def summary(self) -> list[str]:
        """Return a line an intervention: how many tokens it wrote, and how strongly."""
        if not self.texts:
            return [f"{leaf!r}: no pass" for leaf in self.interventions]
        lines = []
        for i, leaf in enumerate(self.interventions):
            written = torch.cat([text.written[i][text.real] for text in self.texts])
            shares = torch.cat([text.share[i][text.real] for text in self.texts])[written]
            strongly = f", {share(float(shares.mean()))} of the stream" if len(shares) else ""
            lines.append(f"{leaf!r}: wrote {int(written.sum())} of {len(written)} tokens{strongly}")
        return lines

    def __repr__(self) -> str:
        """Return the summary of what was written, and the warnings."""
        if self._texts is None:
            return "Trace(under way)"
        if not self._texts:
            return "Trace(no pass)"
        dropped = (
            f"; full after {self._kept} tokens, {self.dropped} dropped" if self.dropped else ""
        )
        rows = sum(len(text.tokens) for text in self._texts)
        held = f", {rows} rows" if rows > len(self._texts) else ""
        head = f"Trace({count(len(self._texts), 'text')}{held}{dropped})"
        warned = (f"  ! {line}" for line in self.warnings)
        return "\n".join([head, *(f"  {line}" for line in self.summary()), *warned])

    def _repr_html_(self) -> str:
        rows = {str(i): line for i, line in enumerate(self.summary())} if self._texts else {}
        if self._texts:
            rows |= {f"warning {i}": line for i, line in enumerate(self.warnings, 1)}
        return card(repr(self).splitlines()[0], rows)


def _without_fillers(
    tokens: Int[Tensor, "batch pos"], draft: Draft, eos: int | None
) -> Bool[Tensor, "batch pos"]:
    """Real tokens, less the EOS that `generate` fills a finished row with after its first EOS."""
    real = draft.window.real_so_far.cpu().clone()
    if eos is None:
        return real
    closing = (tokens == eos).flip(1).int().cumprod(1).flip(1).bool()
    filler = closing & torch.cat([torch.zeros_like(closing[:, :1]), closing[:, :-1]], 1)
    index = real.int().cumsum(1) - 1
    return real & ~(filler & (index >= draft.prompt_lengths.cpu()[:, None]))
