"""What a trace warns of: a fact about what was written, and a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from steerlens.basis import Basis
from steerlens.cards import share
from steerlens.interventions import Intervention
from steerlens.names import hook_name, split_name
from steerlens.positions import missed
from steerlens.signals import fixed, looked_for
from steerlens.trace.texts import TracedText
from steerlens.transforms import Add

FAINT = 0.01
"""Share of the stream below which a median change is called faint: the published steerings that
move behaviour add several hundredths of it or more."""
VIOLENT = 1.0
"""Share of the stream above which the change outweighs what was there."""

_FAINT = {
    "amplitude": "Raise coeff: of_stream(0.1) adds a tenth of each token's own norm.",
    "share": "There is little there for it to change: try another layer, or other positions.",
    "angle": "Widen the angle, or try a layer where more of the stream lies in its plane.",
}
_VIOLENT = {
    "amplitude": "Lower coeff: of_stream(0.1) adds a tenth of each token's own norm.",
    "share": "Take a smaller share, or check that what it brings in belongs at this hook point.",
    "angle": "Take a smaller angle.",
}


def warnings(leaves: Sequence[Intervention], texts: Sequence[TracedText]) -> tuple[str, ...]:
    """Return what stands in an intervention's way, a sentence and a remedy each.

    - It wrote nowhere: its positions picked nothing, its gate stayed shut, its strength was 0, or
      there was nothing to change.
    - The median change, where anything changed, is below `FAINT` or above `VIOLENT` of the
      activation's norm.
    - It reads or writes at another hook point than its direction was found at.
    """
    found: list[str] = []
    for i, leaf in enumerate(leaves) if texts else ():
        found += (f"{leaf!r}: {each}" for each in (*_written(leaf, i, texts), *_placed(leaf)))
    return tuple(found)


def _written(leaf: Intervention, i: int, texts: Sequence[TracedText]) -> Iterator[str]:
    """Warn of nothing written, or of very little or very much."""
    seen = _pooled(texts, [text.recorded[i] for text in texts])
    written = _pooled(texts, [text.written[i] for text in texts])[seen]
    moved = written & (_pooled(texts, [text.change_norm[i] for text in texts])[seen] > 0)
    if not len(moved):
        return
    if not bool(written.any()):
        picked = _pooled(texts, [text.picked[i] for text in texts])[seen]
        gate = _pooled(texts, [text.gate[i] for text in texts])[seen]
        yield _silence(leaf, picked, picked & (gate != 0))
    elif not bool(moved.any()):
        yield (
            f"changed nothing on the {int(written.sum())} tokens where it is at work. "
            "What it brings about holds there already: check its bounds, or try another layer."
        )
    else:
        yield from _size(leaf, _pooled(texts, [text.share[i] for text in texts])[seen][moved])


def _silence(leaf: Intervention, picked: Bool[Tensor, " token"], open_: Tensor) -> str:
    """Why an intervention wrote nowhere."""
    if not bool(picked.any()):
        return (
            f"wrote on 0 of {len(picked)} tokens: its positions picked none of them. "
            f"{missed(leaf.positions)}"
        )
    if not bool(open_.any()) and not fixed(leaf.gate):
        return (
            f"gate opened on 0 of {int(picked.sum())} tokens. "
            "Move its bound, or read its score at a layer that tells these texts apart."
        )
    return f"wrote on 0 of {len(picked)} tokens: its coefficient or gate is 0. Raise it."


def _size(leaf: Intervention, shares: Tensor) -> Iterator[str]:
    median = float(shares.median())
    whole = "stream" if "resid" in leaf.hook_name else "activation"
    if not FAINT <= median <= VIOLENT:
        remedy = (_FAINT if median < FAINT else _VIOLENT)[leaf.transform.scales]
        yield f"moves the {whole} by {share(median)} of its norm (median where it writes). {remedy}"


def _placed(leaf: Intervention) -> Iterator[str]:
    """Warn of directions that are read or written elsewhere than they were found."""
    place, found = leaf.reads or leaf.hook_name, leaf.transform.hook_name
    blind = isinstance(getattr(leaf.transform, "inner", leaf.transform), Add)
    at = leaf.hook_name if blind else place
    if found is not None and not _same(found, at):
        reads = "" if at == leaf.hook_name else f"reads {at} and "
        there = f"reads={found!r}" if reads else f"hook_name={found!r}"
        yield (
            f"{reads}writes {leaf.hook_name}, with a direction found at {found}. "
            f"Give {there}; or, if it is meant here, direction.at({at!r})."
        )
    for noun, signal in (("coefficient", leaf.coeff), ("gate", leaf.gate)):
        for held, read in looked_for(signal, place):
            own = tuple(held.vectors) if isinstance(held, Basis) else (held.hook_name,)
            if not any(_same(each, read) for each in own):
                yield (
                    f"reads {read} and writes {leaf.hook_name}: its {noun} looks there for "
                    f"{held.name!r}, found at {', '.join(own)}. Read it where it was found, by "
                    f"signal.at({own[0]!r}); or, if it is meant here, direction.at({read!r})."
                )


def _same(one: str, other: str) -> bool:
    """Whether two names are of one activation: a layer's stream is the next one's before."""
    return _after(one) == _after(other)


def _after(name: str) -> str:
    site, layer = split_name(name)
    return hook_name("resid_post", layer - 1) if site == "resid_pre" and layer else name


def _pooled(texts: Sequence[TracedText], values: Sequence[Tensor]) -> Tensor:
    """The values at the real tokens of every text, one after another."""
    return torch.cat([each[text.real] for text, each in zip(texts, values, strict=True)])
