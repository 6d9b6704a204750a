"""A trace as tidy tables: a line a token and intervention, and a line a head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerlens.interventions import Intervention
from steerlens.names import layer_of
from steerlens.trace.texts import TracedText

if TYPE_CHECKING:
    import pandas

VALUES = ("picked", "coeff", "gate", "strength", "change_norm", "stream_norm", "share", "along")
"""What a line tells of a token under an intervention, by the name of a TracedText's attribute."""
HEAD_VALUES = ("head", "change_norm", "stream_norm", "share")

Columns = dict[str, list[Any]]


def frame(leaves: Sequence[Intervention], texts: Sequence[TracedText]) -> pandas.DataFrame:
    """Return a line for each text, row, token and intervention, in this order."""
    return _table(VALUES, [_lines(leaves, *numbered) for numbered in enumerate(texts)])


def heads_frame(leaves: Sequence[Intervention], texts: Sequence[TracedText]) -> pandas.DataFrame:
    """Return a line for each text, intervention that writes heads, row, token and head."""
    parts = [
        _head_lines(leaves, number, text, i)
        for number, text in enumerate(texts)
        for i in sorted(text.by_head)
    ]
    return _table(HEAD_VALUES, parts)


def names(leaves: Sequence[Intervention]) -> list[str]:
    """Return each intervention's formula; one that comes again carries a number.

    >>> names([*steering.interventions, *steering.interventions])[1][-4:]
    ' (2)'
    """
    seen: Counter[str] = Counter()
    found = []
    for leaf in leaves:
        seen[repr(leaf)] += 1
        again = f" ({seen[repr(leaf)]})" if seen[repr(leaf)] > 1 else ""
        found.append(f"{leaf!r}{again}")
    return found


def _table(values: Sequence[str], parts: Sequence[Mapping[str, list[Any]]]) -> pandas.DataFrame:
    import pandas

    places = ("text", "row", "pos", "token", "generated", "layer", "hook_name", "intervention")
    table = pandas.DataFrame(
        {
            name: list(chain.from_iterable(part[name] for part in parts))
            for name in (*places, *values)
        }
    )
    return table.astype({"layer": "Int64"})  # missing outside the blocks


def _lines(leaves: Sequence[Intervention], number: int, text: TracedText) -> Columns:
    places = text.real.nonzero()
    leaf = torch.arange(len(leaves)).repeat(len(places))
    row, pos = places.repeat_interleave(len(leaves), 0).unbind(1)
    columns = _places(leaves, number, text, leaf, row, pos)
    columns |= {name: getattr(text, name)[leaf, row, pos].tolist() for name in VALUES}
    return columns


def _head_lines(leaves: Sequence[Intervention], number: int, text: TracedText, i: int) -> Columns:
    change, before = text.by_head[i], text.stream_by_head[i]
    row, pos, head = (text.real[..., None] & ~change.isnan()).nonzero().unbind(1)
    change, before = change[row, pos, head], before[row, pos, head]
    return _places(leaves, number, text, torch.full_like(row, i), row, pos) | {
        "head": head.tolist(),
        "change_norm": change.tolist(),
        "stream_norm": before.tolist(),
        "share": (change / before.clamp_min(1e-12)).tolist(),
    }


def _places(
    leaves: Sequence[Intervention],
    number: int,
    text: TracedText,
    leaf: Tensor,
    row: Tensor,
    pos: Tensor,
) -> Columns:
    """The columns that tell which token of which text, and which intervention."""
    formulas, rows, positions = names(leaves), row.tolist(), pos.tolist()
    which = [leaves[i] for i in leaf.tolist()]
    return {
        "text": [number] * len(rows),
        "row": rows,
        "pos": positions,
        "token": [text.strings[r][p] for r, p in zip(rows, positions, strict=True)],
        "generated": text.generated[row, pos].tolist(),
        "layer": [layer_of(each.hook_name) for each in which],
        "hook_name": [each.hook_name for each in which],
        "intervention": [formulas[i] for i in leaf.tolist()],
    }
