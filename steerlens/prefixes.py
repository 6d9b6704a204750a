"""Prompts that several texts share, computed once, and passes that go on from their cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.host import Host, device_of, is_bridge
from steerlens.passes import logits_at, telling
from steerlens.text import Batch, Encoded

PASS = {"cpu": 2.5e6, "cuda": 2.5e9}
"""d_model squared, times the tokens that cost as much as what one more pass has to call."""
WEIGHTS = {"cpu": 20, "cuda": 100}
"""The tokens that cost as much as reading the weights once more."""
ROOM = {"cpu": 1024, "cuda": 4096}
"""The tokens of a pass beyond which no device gets faster, and only memory grows."""


class Prefix:
    """One pass over prompts of one length, and passes over what follows them.

    Exact: keys and values are those of the host's own cache, filled under whatever steering is on,
    and what goes on from it leaves it as it was. Memory: the cache, and what a pass adds.
    """

    def __init__(self, model: Host, prompts: Int[Tensor, "batch prompt"]) -> None:
        """Run the prompts."""
        self.model = model
        self.prompts = prompts
        self._past = empty_cache(model, len(prompts))
        last = torch.zeros_like(prompts, dtype=torch.bool)
        last[:, -1] = True
        real = torch.ones_like(last)
        self.last: Float[Tensor, "batch d_vocab"] = self._run(
            prompts, prompts, real, self._past, last
        )
        """The logits of the prompts' last tokens."""

    def then(
        self, tokens: Int[Tensor, "batch pos"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "token d_vocab"]:
        """Return the logits of what follows each prompt, `lengths` tokens a row, row after row."""
        index = torch.arange(tokens.shape[1], device=tokens.device)
        here = index < lengths[:, None]
        real = torch.cat([torch.ones_like(self.prompts) > 0, here], 1)
        whole = torch.cat([self.prompts, tokens], 1)
        return self._run(tokens, whole, real, forked(self._past), here)

    def _run(self, tokens: Tensor, whole: Tensor, real: Tensor, past: Any, asked: Tensor) -> Tensor:
        """Run tokens after what is cached; `whole` is the text so far, and they its last."""
        prompt_lengths = torch.full((len(real),), self.prompts.shape[1], device=real.device)
        with torch.no_grad(), telling(self.model, Batch(whole, real, prompt_lengths)):
            return logits_at(self.model, tokens, asked, **going_on(self.model, tokens, past))


def keeping_nothing(model: Host) -> dict[str, Any]:
    """Return the options by which a pass keeps no keys and values; a bridge's does, unasked."""
    # A bridge's pass over OLMo in 16 bits fails without a cache: it turns queries in float32.
    olmo = "Olmo" in str(getattr(model.cfg, "architecture", None))
    return {"use_cache": False} if is_bridge(model) and can_share(model) and not olmo else {}


def going_on(model: Host, tokens: Int[Tensor, "batch pos"], past: Any) -> dict[str, Any]:
    """Return the options by which a pass over `tokens` goes on from a cache, and adds to it."""
    if is_bridge(model):
        return {"past_key_values": past, "use_cache": True}
    # Without a mask, pad ids at the end are taken for pads.
    return {"past_kv_cache": past, "attention_mask": torch.ones_like(tokens)}


def forked(past: Any, rows: Int[Tensor, " row"] | None = None) -> Any:
    """Return a cache to go on from, of some of the rows or all, that leaves `past` as it was.

    Keys and values are shared where all rows stay: a pass puts new ones in their place.
    """
    here = copy(past)
    if hasattr(past, "entries"):
        index = slice(None) if rows is None else rows
        here.entries = [
            replace(each, past_keys=each.past_keys[index], past_values=each.past_values[index])
            for each in past.entries
        ]
        here.previous_attention_mask = past.previous_attention_mask[index]
        return here
    here.layers = [copy(layer) for layer in past.layers]
    if rows is not None:
        here.batch_select_indices(rows)
    return here


def can_share(model: Host) -> bool:
    """Whether the host keeps keys and values that a later pass can go on from."""
    if not is_bridge(model):
        return str(model.cfg.positional_embedding_type) != "shortformer"
    from transformers import PreTrainedModel

    inner = model.original_model  # type: ignore[attr-defined]
    return isinstance(inner, PreTrainedModel) and not getattr(inner, "_is_stateful", False)


def pass_tokens(model: Host) -> float:
    """How many tokens cost as much as a pass by itself: few in a wide model, many on a GPU."""
    kind = _kind(model)
    return WEIGHTS[kind] + PASS[kind] / float(model.cfg.d_model) ** 2


def pass_room(model: Host) -> int:
    """How many tokens a pass holds where nobody says."""
    return ROOM[_kind(model)]


def _kind(model: Host) -> str:
    return "cpu" if device_of(model).type == "cpu" else "cuda"


def shared_parts(
    model: Host, texts: Sequence[Encoded], room: int, times: int = 1
) -> list[list[Sequence[int]]] | None:
    """Return texts by the prompt that they share, in parts to run together; None if that is dearer.

    A part is groups of texts whose prompts are of one length, as many as `room` tokens hold. What
    is compared is tokens, each `times` over, and passes: every text whole, and every prompt once.
    """
    if not can_share(model):
        return None
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, text in enumerate(texts):
        groups.setdefault(text.tokens[: text.prompt_length], []).append(number)
    parts = list(_of_one_length(texts, list(groups.values()), room))
    alone = sum(len(text.tokens) for text in texts)
    saved = sum(len(prompt) * (len(group) - 1) for prompt, group in groups.items())
    passes = sum(1 + max(map(len, part)) for part in parts)
    dearer = times * saved <= pass_tokens(model) * (passes - alone / room)
    return None if dearer else parts


def _of_one_length(
    texts: Sequence[Encoded], groups: Sequence[Sequence[int]], room: int
) -> Iterator[list[Sequence[int]]]:
    alike: dict[int, list[Sequence[int]]] = {}
    for group in groups:
        alike.setdefault(texts[group[0]].prompt_length, []).append(group)
    for found in alike.values():
        longest = max(len(texts[number].tokens) for group in found for number in group)
        rows = max(1, room // longest)
        yield from (list(found[start : start + rows]) for start in range(0, len(found), rows))


def empty_cache(model: Any, rows: int) -> Any:
    """Return a cache of keys and values with nothing in it."""
    if is_bridge(model):
        from transformers import DynamicCache

        return DynamicCache(config=model.original_model.config)
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, rows)
