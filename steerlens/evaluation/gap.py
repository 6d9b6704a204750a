"""What two sides' outputs differ in after their texts, and how much of it a steering closes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.effects.readout import Answers
from steerlens.errors import BadInputError
from steerlens.evaluation.metrics import kl
from steerlens.evaluation.predicting import log_probs_at
from steerlens.host import Host, device_of
from steerlens.rows import at_rows
from steerlens.steering import Steering, under
from steerlens.text import Encoded, batches, encode, predicting

Pair = tuple[Sequence[Encoded], Sequence[Encoded]]
"""The positive and the negative side's items."""


class Gap:
    """What the sides' outputs differ in, and how much of it a steering of each side closes."""

    def __init__(
        self,
        model: Host,
        sides: Pair,
        answers: list[Answers] | None,
        batch_tokens: int,
    ) -> None:
        """Run both sides as they are. Raises BadInputError where they do not differ."""
        self.model, self.batch_tokens, self.answers = model, batch_tokens, answers
        self.metric = "KL of the next token" if answers is None else "log-odds of the answers"
        self.sides = sides
        self.base = self._outputs(sides[0], None), self._outputs(sides[1], None)
        self.size = self._left(self.base[1], 0) + self._left(self.base[0], 1)
        if not float(self.size.sum()) > 1e-6:
            raise BadInputError(
                f"The sides' outputs do not differ as they should: their gap in {self.metric} is "
                f"{float(self.size.mean()) / 2:.2g}. Give pairs whose positive side leads to the "
                "positive answer, or outputs after the texts differ."
            )

    def closed(self, positive: Steering, negative: Steering) -> Float[Tensor, " pair"]:
        """Return how much of each pair's gap steerings of both sides close, added up."""
        lowered = self._outputs(self.sides[0], positive)
        raised = self._outputs(self.sides[1], negative)
        return self.size - self._left(raised, 0) - self._left(lowered, 1)

    def _left(self, outputs: Float[Tensor, "pair ..."], side: int) -> Float[Tensor, " pair"]:
        """How far outputs still are from those of the positive side (0) or the negative (1)."""
        goal = self.base[side]
        if self.answers is not None:
            return goal - outputs if side == 0 else outputs - goal
        return kl(goal, outputs)

    def _outputs(
        self, items: Sequence[Encoded], steering: Steering | None
    ) -> Float[Tensor, "pair ..."]:
        """Each item's log-odds of its answers, or its next token's log-probabilities."""
        if self.answers is None:
            ends = [len(item.tokens) for item in items]
            return torch.stack(self._read(items, range(len(items)), steering, ends))
        spelt = [
            Encoded(encode(self.model, (item.tokens, answer)).tokens, item.prompt_length)
            for item, both in zip(items, self.answers, strict=True)
            for answer in both
        ]
        rows = [i // 2 for i in range(len(spelt))]
        starts = [len(items[row].tokens) for row in rows]
        found = torch.stack(self._read(spelt, rows, steering, starts))
        return found[::2] - found[1::2]

    def _read(
        self,
        items: Sequence[Encoded],
        rows: Sequence[int],
        steering: Steering | None,
        starts: Sequence[int],
    ) -> list[Tensor]:
        """What each item's tokens from a start cost together; past its end, the whole choice."""
        found: dict[int, Tensor] = {}
        device = device_of(self.model)
        for numbers, batch in batches(
            self.model, items, batch_tokens=self.batch_tokens, device=device
        ):
            mask = predicting(batch, torch.tensor([starts[i] for i in numbers], device=device))
            own = [rows[i] for i in numbers]
            here = None if steering is None else at_rows(steering, own, 1, max(rows) + 1)
            with under(here, self.model):
                logps = log_probs_at(self.model, batch, mask)
            parts = torch.split(logps, mask.sum(1).tolist())
            for i, part in zip(numbers, parts, strict=True):
                ids = torch.tensor(
                    items[i].tokens[starts[i] :], dtype=torch.long, device=part.device
                )
                found[i] = _chosen(part, ids).cpu()
        return [found[i] for i in range(len(items))]


def _chosen(
    logps: Float[Tensor, "token vocab"], ids: Int[Tensor, " chosen"]
) -> Float[Tensor, "*vocab"]:
    return logps.gather(1, ids[:, None]).sum() if len(ids) else logps[0]
