"""The window: the tokens of one pass, with their place in their texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.host import Host

Mask = Bool[Tensor, "batch pos"]


@dataclass(frozen=True)
class Window:
    """The tokens of one pass, placed in their texts."""

    index: Int[Tensor, "batch pos"]
    """Absolute index among the row's real tokens, BOS included; -1 at pads."""
    tokens: Int[Tensor, "batch pos"] | None
    """Token ids; None only in `fwd_hooks` made without them."""
    opens_with_bos: Bool[Tensor, " batch"] | None
    """Whether the row's first real token is BOS; None where tokens are unknown."""
    prompt_lengths: Int[Tensor, " batch"] | None
    """Real tokens of each row's prompt; None where nobody knows."""
    model: Host
    kept: dict[tuple[object, int], Any] = field(default_factory=dict, repr=False)
    """What signals kept of this text, each with the column at which a pass may go on."""
    start: int = 0
    """Column of the text at which this pass begins; above 0 under a KV cache."""
    history: Int[Tensor, "batch total"] | None = None
    """Token ids of the text up to the end of this pass; -1 where a cache was filled unseen."""
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What selectors look up once and keep for later passes of the same session."""
    history_real: Bool[Tensor, "batch known"] | None = None
    """False at the pads of `history`, as far as it goes: columns past its end are real. None where
    all columns before this pass are real."""
    decoded: bool = False
    """Whether the host's `generate` appended all of its tokens: none is a pad, BOS or prompt."""

    @cached_property
    def bos(self) -> Mask:
        """True at a row's BOS. Raises BadInputError where tokens are unknown."""
        return (self.index == 0) & self.opening()

    def opening(self) -> Bool[Tensor, "batch 1"]:
        """Return whether each row opens with BOS."""
        if self.opens_with_bos is None:
            raise BadInputError(
                "This selector leaves out BOS and pads, and the text's tokens are not known. Give "
                "fwd_hooks(model, tokens=...), or fill the KV cache while the steering is on."
            )
        return self.opens_with_bos[:, None]

    @cached_property
    def real(self) -> Mask:
        """True at tokens, False at pads."""
        if self.decoded:
            return torch.ones_like(self.index, dtype=torch.bool)
        return self.index >= 0

    @cached_property
    def words(self) -> Mask:
        """True at tokens, False at pads and BOS. Raises BadInputError where tokens are unknown."""
        return self.real if self.decoded else self.real & ~self.bos

    def picks_all(self, mask: Mask) -> bool:
        """Return whether it is known, without a look at the mask, that all tokens are picked."""
        return self.decoded and mask is self.real

    @property
    def real_so_far(self) -> Bool[Tensor, "batch total"]:
        """True at the tokens of the text so far, False at its pads."""
        if self.history_real is None:
            earlier = torch.ones_like(self.real[:, :1]).expand(-1, self.start)
            return torch.cat([earlier, self.real], 1)
        rows, known = self.history_real.shape
        later = self.history_real.new_ones(rows, self.start + self.index.shape[1] - known)
        return torch.cat([self.history_real, later], 1)

    def from_prompt_end(self) -> Int[Tensor, "batch pos"]:
        """Return the index counted from the prompt's end: -1 is its last token, 0 the first after.

        Raises BadInputError where the prompt's length is unknown.
        """
        if self.prompt_lengths is None:
            raise BadInputError(
                "This selector needs to know where the prompt ends, and nothing tells: the pass "
                "continues a KV cache outside of generate, or its tokens are unknown. Give "
                "prompt_lengths to on(), trace() or fwd_hooks()."
            )
        return self.index - self.prompt_lengths[:, None]


def padding(
    tokens: Int[Tensor, "batch pos"], pad: int | None, bos: int | None
) -> Bool[Tensor, "batch pos"]:
    """Return True at the runs of pad ids that open or close each row.

    Where BOS is the pad id, the last of the opening run is BOS. A real final token that is
    the pad id (an EOS used as padding) reads as padding: pass an attention mask to tell them
    apart.
    """
    if pad is None:
        return torch.zeros_like(tokens, dtype=torch.bool)
    is_pad = tokens == pad
    opening = is_pad.int().cumprod(1).bool()
    if pad == bos:
        opening = opening & torch.cat([opening[:, 1:], torch.zeros_like(opening[:, :1])], 1)
    pads = opening | closing(tokens, pad)
    if pad == bos:
        pads[:, -1] &= ~is_pad.all(1)
    return pads


def closing(tokens: Int[Tensor, "batch pos"], pad: int | None) -> Bool[Tensor, "batch pos"]:
    """Return True at the run of pad ids that closes each row."""
    if pad is None:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return (tokens == pad).flip(1).int().cumprod(1).flip(1).bool()
