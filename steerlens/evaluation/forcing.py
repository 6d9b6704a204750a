"""Base completions, teacher-forced: what a steering costs on each of their tokens, in nats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.clock import Clock
from steerlens.errors import BadInputError
from steerlens.evaluation.generation import completions
from steerlens.evaluation.metrics import kl
from steerlens.evaluation.predicting import log_probs_at, repeated, scored_at
from steerlens.host import Host, check_model, device_of, token_id
from steerlens.interventions import Strength
from steerlens.rows import at_rows, check_coeffs
from steerlens.running import running
from steerlens.steering import Steering
from steerlens.text import Batch, Encoded, Item, batches, encode, listed
from steerlens.trace import Trace

KEPT = 2**26
"""Numbers of the base model's log-probabilities that are kept from one call to the next."""


def base_items(
    model: Host,
    prompts: Iterable[Item],
    *,
    max_new_tokens: int = 24,
    seed: int = 0,
    batch_rows: int = 64,
    progress: bool = False,
) -> list[Encoded]:
    """Return prompts with a completion of the base model's, sampled once, at temperature 1.

    An item that carries a completion keeps it. A completion that the model ended has its EOS, for
    that is a token that it chose. Raises BadInputError without prompts, and where the model
    overflows on them. Cost: one `generate`.

    >>> [item] = base_items(model, ["a good day"], max_new_tokens=4)
    >>> item.prompt_length < len(item.tokens)
    True
    """
    check_model(model)
    prompts = listed(prompts, "A dose is measured on")
    items = [encode(model, prompt) for prompt in prompts]
    bare = [i for i, item in enumerate(items) if len(item.tokens) == item.prompt_length]
    if bare:
        made = completions(
            model,
            [prompts[i] for i in bare],
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            seed=seed,
            batch_rows=batch_rows,
            progress=progress,
        )
        if any(each.overflowed for each in made):
            raise BadInputError(
                "The unsteered model's logits are NaN on these prompts, so a dose has nothing to "
                "start from: it overflows. Load it in bfloat16 or float32."
            )
        eos = token_id(model, "eos")
        for i, each in zip(bare, made, strict=True):
            ended = eos is not None and len(each.new_tokens) < max_new_tokens
            closing = (eos,) if ended and eos is not None else ()
            items[i] = replace(each.encoded, tokens=(*each.encoded.tokens, *closing))
    return items


@dataclass(frozen=True)
class Nats:
    """What a steering costs on every token of some items, at some coefficients."""

    values: Float[Tensor, "coeff token"]
    """KL(base || steered) in nats; the items' tokens one after another."""
    counts: Int[Tensor, " item"]
    """How many of the tokens are each item's."""
    share: Float[Tensor, " coeff"]
    """Mean length of the change as a share of the activation's, over what is written."""

    @property
    def sums(self) -> Float[Tensor, "coeff item"]:
        """Each item's nats, added up."""
        rows = torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)
        sums = self.values.new_zeros(len(self.values), len(self.counts))
        return sums.index_add_(1, rows, self.values)


class Forced:
    """Items whose completions a steering is priced on, and what the base model says of them."""

    def __init__(self, model: Host, items: Sequence[Encoded], batch_tokens: int = 4096) -> None:
        """Run the base model over the items, where there is room to keep what it says."""
        self.model, self.items, self.batch_tokens = model, list(items), batch_tokens
        self.counts = torch.tensor([len(each.tokens) - each.prompt_length for each in items])
        self._base: dict[int, Tensor] = {}
        if int(self.counts.sum()) * int(model.cfg.d_vocab) <= KEPT:
            for rows, batch in self._batches(1):
                scored = scored_at(batch)
                parts = torch.split(log_probs_at(model, batch, scored), scored.sum(1).tolist())
                self._base.update(zip(rows, parts, strict=True))

    def _batches(self, times: int) -> list[tuple[list[int], Batch]]:
        room = max(1, self.batch_tokens // times)
        device = device_of(self.model)
        return list(batches(self.model, self.items, batch_tokens=room, device=device))

    def _base_log_probs(
        self, rows: Sequence[int], batch: Batch, scored: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "scored vocab"]:
        if self._base:
            return torch.cat([self._base[row] for row in rows])
        return log_probs_at(self.model, batch, scored)

    def nats(self, steering: Steering, coeffs: Sequence[float], progress: bool = False) -> Nats:
        """Price the steering at every coefficient, all as rows of one steered pass.

        A steering with values a row (coefficients, gates, stored activations) has one an item.
        Raises BadInputError where it has another number of them. Cost: a pass a coefficient and
        item, and one more where the base model's word is not kept.
        """
        check_coeffs(coeffs)
        times, values = len(coeffs), torch.zeros(len(coeffs), int(self.counts.sum()))
        starts = (self.counts.cumsum(0) - self.counts).tolist()
        sums, written = torch.zeros(times), torch.zeros(times)
        bar = tqdm(self._batches(times), desc="nats", disable=not progress, leave=False)
        for rows, batch in bar:
            scored = scored_at(batch)
            base = self._base_log_probs(rows, batch, scored)
            scale = torch.as_tensor(coeffs).repeat_interleave(len(rows))
            here = at_rows(steering, rows, times, len(self.items)) * scale
            shares = _Shares(here)
            with running(here.expression, self.model, trace=shares, may_miss=True):
                steered = log_probs_at(self.model, repeated(batch, times), scored.repeat(times, 1))
            place = torch.cat(
                [torch.arange(starts[i], starts[i] + int(self.counts[i])) for i in rows]
            )
            for i, part in enumerate(steered.chunk(times)):
                nats = kl(base, part)
                values[i, place] = nats.clamp_min(0).cpu()  # rounding may fall below
            sums += shares.sums.reshape(times, -1).sum(1).cpu()
            written += shares.written.reshape(times, -1).sum(1).cpu()
        return Nats(values, self.counts, sums / written.clamp_min(1))


class _Shares(Trace):
    """A trace that keeps nothing a token: each row's sum of shares, and how many were written."""

    def __init__(self, steering: Steering) -> None:
        super().__init__(steering.interventions)
        self.sums = torch.zeros(1)
        self.written = torch.zeros(1)

    def record(
        self,
        clock: Clock,
        leaf: int,
        picked: Bool[Tensor, "batch pos"],
        strength: Strength,
        change: Float[Tensor, "batch pos *unit"],
        h: Float[Tensor, "batch pos *unit"],
    ) -> None:
        written = strength.product != 0
        length, whole = (each.detach().flatten(2).norm(dim=-1) for each in (change, h))
        shares = torch.where(written, length / whole.clamp_min(1e-12), 0).float()
        self.sums = self.sums.to(shares.device) + shares.sum(1)
        self.written = self.written.to(shares.device) + written.sum(1)

    def finish(self, clock: Clock) -> None:
        pass
