"""Base and steered completions drawn with the same dice, and where and how far they part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.cards import card, number
from steerlens.evaluation.generation import Completion, completions
from steerlens.evaluation.metrics import kl
from steerlens.evaluation.predicting import log_probs_at, scored_at
from steerlens.host import Host, device_of
from steerlens.signals import Rows
from steerlens.steering import Steering, under
from steerlens.text import Encoded, Item, listed, pad

if TYPE_CHECKING:
    import pandas

SHOWN = 3
"""Rows whose texts a repr shows."""
WIDTH = 88
"""Characters of a line in a repr."""


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """What a model says without a steering and with it, a row a prompt, drawn with the same dice.

    `print(comparison)` for a few lines, `comparison.frame()` for all of it.
    """

    steering: Steering
    base: tuple[Completion, ...]
    """Text and token ids of what each prompt goes on with, unsteered."""
    steered: tuple[Completion, ...]
    kl: Float[Tensor, " row"]
    """KL(base || steered) in nats of the next-token distributions at the first differing token,
    given the text before it, at temperature 1; NaN where the row does not differ."""
    mean_kl: Float[Tensor, " row"]
    """Its mean over the tokens whose prefix is shared: those that agree, and the first that does
    not."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, as text."""
        return tuple(each.prompt for each in self.base)

    @property
    def first_difference(self) -> tuple[int | None, ...]:
        """The first new token, counted from 0, in which each row differs; None where none does.

        A completion that ends where the other goes on differs there: its token is EOS.
        """
        return tuple(map(_parting, self.base, self.steered))

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table, a line a prompt.

        Columns: `row`, `prompt`, `base`, `steered`, `differs`, `first_difference` (missing where
        the row does not differ), `kl` and `mean_kl` in nats.
        """
        import pandas

        parted = self.first_difference
        return pandas.DataFrame(
            {
                "row": range(len(self.base)),
                "prompt": self.prompts,
                "base": [each.text for each in self.base],
                "steered": [each.text for each in self.steered],
                "differs": [each is not None for each in parted],
                "first_difference": pandas.array(list(parted), dtype="Int64"),
                "kl": self.kl.numpy(),
                "mean_kl": self.mean_kl.numpy(),
            }
        )

    @property
    def headline(self) -> str:
        """How many rows differ, where they part, and how far."""
        parted = [each for each in self.first_difference if each is not None]
        head = f"{len(parted)} of {len(self.base)} rows differ"
        if parted:
            there = number(float(self.kl.nanmean()))
            head += (
                f", first at new token {median(parted):g} (median), KL {there} nats there (mean)"
            )
        return f"{head}, {number(float(self.mean_kl.mean()))} nats a token up to there"

    def _dose(self, row: int) -> str:
        """A row's coefficients, where they are a row's own."""
        coeffs = [leaf.coeff for leaf in self.steering.interventions]
        own = [number(float(each.values[row])) for each in coeffs if isinstance(each, Rows)]
        return f" at {', '.join(dict.fromkeys(own))}" if own else ""

    def _shown(self) -> list[int]:
        """The rows to show: the first that differ, or the first."""
        parted = self.first_difference
        return sorted(range(len(parted)), key=lambda row: parted[row] is None)[:SHOWN]

    def __repr__(self) -> str:
        """Return how many rows differ and where, and a few texts side by side, cut to width."""
        lines = [f"Comparison({self.headline})", _cut(f"  {self.steering!r}")]
        for row in self._shown():
            texts = [self.base[row].text, self.steered[row].text]
            lines.append(_cut(f"  {row}{self._dose(row)}: {_one_line(self.prompts[row])}"))
            for name, text in zip(("base", "steered"), _from_difference(texts), strict=True):
                lines.append(_cut(f"     {name:<8}{text}"))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = {"steering": repr(self.steering)}
        for row in self._shown():
            rows[f"{row}{self._dose(row)} prompt"] = self.prompts[row]
            rows[f"{row} base"] = self.base[row].text
            rows[f"{row} steered"] = self.steered[row].text
        return card(f"Comparison: {self.headline}", rows)


def compare(
    model: Host,
    steering: Steering,
    prompts: Iterable[Item],
    *,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
    batch_rows: int = 32,
    progress: bool = False,
) -> Comparison:
    """Return base and steered completions under common random numbers, and where they part.

    - `prompts`: texts, token ids or chats (as everywhere), `row` of them.
    - `max_new_tokens`: new tokens a completion at most; it ends before EOS.
    - `temperature`: of the sampling; 0 is greedy.
    - `seed`: decides the noise of each prompt and step, the same for base and steered, whatever
      the batch, so that a difference comes from the steering and not from the dice. A steering
      of coefficient 0 gives the same texts. Each row has dice of its own, the same prompt again
      too: to set doses side by side, give `completions` the same `numbers`.
    - `batch_rows`: prompts a pass. A steering with values a row needs all its rows in one batch.

    Returns a `Comparison` of `row` pairs. Under another steering that is on, base is that one.
    Raises BadInputError without prompts, or on a prompt that carries a completion, and what
    `steering.on` raises. Source of the coupling: Gumbel-max counterfactuals (arXiv 1905.05824,
    2411.07180). Cost: two generations, and two passes over each prompt and what is shared.

    >>> comparison = compare(model, steering, ["a good day", "the bad cat"], max_new_tokens=8)
    >>> comparison.kl.shape, len(comparison.frame())
    (torch.Size([2]), 2)
    >>> compare(model, 0 * steering, ["a good day"], max_new_tokens=8).first_difference
    (None,)
    """
    prompts = listed(prompts, "Completions are compared on")
    base, steered = (
        completions(
            model,
            prompts,
            each,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_rows=batch_rows,
            progress=progress,
        )
        for each in (None, steering)
    )
    shared = [_shared(*pair, max_new_tokens) for pair in zip(base, steered, strict=True)]
    nats = _divergences(model, steering, shared, batch_rows, progress)
    parted = torch.tensor([_parting(*pair) is not None for pair in zip(base, steered, strict=True)])
    last = torch.stack([each[-1] for each in nats])
    return Comparison(
        steering=steering,
        base=tuple(base),
        steered=tuple(steered),
        kl=torch.where(parted, last, torch.nan),
        mean_kl=torch.stack([each.mean() for each in nats]),
    )


def _parting(base: Completion, steered: Completion) -> int | None:
    """The first new token in which two completions differ."""
    one, other = base.new_tokens, steered.new_tokens
    return None if one == other else _agreeing(one, other)


def _shared(base: Completion, steered: Completion, max_new_tokens: int) -> Encoded:
    """The prompt, and the new tokens before the last one drawn from a shared prefix."""
    parted = _parting(base, steered)
    before = min(len(base.new_tokens), max_new_tokens - 1) if parted is None else parted
    length = base.encoded.prompt_length
    return Encoded(base.encoded.tokens[: length + before], length)


def _divergences(
    model: Host, steering: Steering, texts: Sequence[Encoded], batch_rows: int, progress: bool
) -> list[Float[Tensor, " step"]]:
    """KL(base || steered) in nats at the last prompt token and every later one, text by text."""
    nats: list[Tensor] = []
    with tqdm(total=len(texts), desc="divergence", disable=not progress) as bar:
        for start in range(0, len(texts), batch_rows):
            batch = pad(model, texts[start : start + batch_rows], device_of(model))
            where = scored_at(batch, ahead=1)
            base = log_probs_at(model, batch, where)
            with under(steering, model):
                steered = log_probs_at(model, batch, where)
            each = kl(base, steered)
            nats += torch.split(each.clamp_min(0).cpu(), where.sum(1).tolist())
            bar.update(len(where))
    return nats


def _agreeing(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _from_difference(texts: Sequence[str], before: int = 24) -> list[str]:
    """Two texts on one line each, from shortly before they part."""
    lines = [_one_line(text) for text in texts]
    start = max(0, _agreeing(*lines) - before)
    return [("…" if start else "") + line[start:] for line in lines]


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "⏎")


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
