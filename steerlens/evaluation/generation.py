"""Completions of prompts, base or steered, in left-padded batches on either host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.errors import BadInputError
from steerlens.evaluation.dice import Dice, thrown
from steerlens.host import Host, device_of, is_bridge, need_tokenizer, token_id, warn_of_dropout
from steerlens.rows import check_coeffs
from steerlens.steering import Steering, check_steering
from steerlens.text import Encoded, Item, encode, listed


@dataclass(frozen=True)
class Completion:
    """A prompt, what the model wrote after it, and the ids of both."""

    prompt: str
    """The prompt as text; of a chat or of token ids, what they decode to."""
    text: str
    encoded: Encoded
    overflowed: bool = False
    """Whether a logit was NaN on the way: the text means nothing."""

    @property
    def new_tokens(self) -> tuple[int, ...]:
        """The ids of the completion, up to EOS and without it."""
        return self.encoded.tokens[self.encoded.prompt_length :]


def completions(
    model: Host,
    prompts: Iterable[Item],
    steering: Steering | None = None,
    *,
    coeffs: Sequence[float] | None = None,
    max_new_tokens: int = 32,
    temperature: float = 0.7,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    batch_rows: int = 64,
    progress: bool = False,
) -> list[Completion]:
    """Return a completion a prompt; with `coeffs`, one a prompt multiplies the steering.

    - `prompts`: texts, token ids or chats, in any mixture.
    - `temperature`: 0 is greedy.
    - `seed`: with a prompt's number in the list and the step it decides the dice, whatever the
      batch; so base and steered completions of the same prompts are drawn with the same ones.
      The caller's generators are left alone.
    - `numbers`: each prompt's number among the dice, where it is not its place in the list.
      Prompts of one number are drawn with the same dice.

    A completion ends before EOS. Raises BadInputError on a prompt that carries a completion, on
    `coeffs` without a steering, where these or `numbers` are not one a prompt, and on completions
    that would run past the model's context. Cost: one `generate` a batch.

    >>> [made] = completions(model, ["a good day"], steering, max_new_tokens=4, temperature=0)
    >>> len(made.new_tokens) <= 4
    True
    """
    need_tokenizer(model, "Generating from text")
    warn_of_dropout(model)
    if steering is not None:
        check_steering(steering)
    prompts = listed(prompts, "Completions are written for")
    if coeffs is not None:
        check_coeffs(coeffs)
        if steering is None or len(coeffs) != len(prompts):
            raise BadInputError(
                f"{len(coeffs)} coeffs need a steering and as many prompts, of which there are "
                f"{len(prompts)}. Give one a prompt."
            )
    if numbers is not None and len(numbers) != len(prompts):
        raise BadInputError(
            f"{len(numbers)} numbers do not tell {len(prompts)} prompts apart. Give one a prompt."
        )
    if max_new_tokens < 1 or not temperature >= 0 or batch_rows < 1:
        raise BadInputError(
            f"Completions need max_new_tokens and batch_rows of 1 or more and a temperature of 0 "
            f"or more; got {max_new_tokens}, {batch_rows} and {temperature}."
        )
    encoded = [_prompt(model, number, item) for number, item in enumerate(prompts)]
    _check_room(model, encoded, max_new_tokens)
    new: list[list[int]] = []
    overflowed: set[int] = set()
    bar = tqdm(total=len(prompts), desc="completions", disable=not progress)
    with bar, _steered(model, steering, coeffs, None):
        for rows in _batches(model, encoded, batch_rows):
            throws = rows if numbers is None else [numbers[row] for row in rows]
            dice = Dice(seed, throws, temperature)
            with _steered(model, steering, coeffs, rows):
                new += _generated(model, [encoded[row] for row in rows], max_new_tokens, dice)
            overflowed |= {rows[place] for place in dice.overflowed}
            bar.update(len(rows))
    made = zip(prompts, encoded, new, strict=True)
    return [
        replace(_completion(model, item, before, ids), overflowed=row in overflowed)
        for row, (item, before, ids) in enumerate(made)
    ]


def _check_room(model: Host, prompts: Sequence[Encoded], max_new_tokens: int) -> None:
    """Raise BadInputError where a completion would run past the model's context."""
    room, longest = (
        getattr(model.cfg, "n_ctx", None),
        max((len(each.tokens) for each in prompts), default=0),
    )
    if room is not None and longest + max_new_tokens > room:
        raise BadInputError(
            f"{max_new_tokens} new tokens after a prompt of {longest} do not fit the model's "
            f"context of {room}. Shorten the prompt, or lower max_new_tokens."
        )


def _prompt(model: Host, number: int, item: Item) -> Encoded:
    encoded = encode(model, item)
    if encoded.prompt_length < len(encoded.tokens):
        raise BadInputError(
            f"Prompt {number} carries a completion already, {str(item)[:60]!r}. Give the prompt "
            "alone; a chat ends with the user."
        )
    return encoded


def _steered(
    model: Host, steering: Steering | None, coeffs: Sequence[float] | None, rows: range | None
) -> AbstractContextManager[Any]:
    """The steering, on around all batches (`rows` None) or, with coefficients a row, around one."""
    if steering is None or (coeffs is None) != (rows is None):
        return nullcontext()
    if coeffs is None or rows is None:
        return steering.on(model)
    return (steering * torch.tensor([coeffs[row] for row in rows])).on(model)


def _batches(model: Host, encoded: Sequence[Encoded], batch_rows: int) -> Iterator[range]:
    """Yield the rows of each batch, in order; one a batch where a host would misread pads."""
    for start in range(0, len(encoded), batch_rows):
        rows = range(start, min(start + batch_rows, len(encoded)))
        if _readable(model, [encoded[row] for row in rows]):
            yield rows
        else:
            yield from (range(row, row + 1) for row in rows)


def _readable(model: Host, prompts: Sequence[Encoded]) -> bool:
    """Whether the host can tell the pads left of these prompts from tokens.

    HookedTransformer takes no mask: it reads pads off the opening ids, of which the last is BOS
    where it is told that there is one and BOS is the pad id.
    """
    if is_bridge(model) or len({len(each.tokens) for each in prompts}) == 1:
        return True
    bos, filler = token_id(model, "bos"), token_id(model, "pad")
    first = {each.tokens[0] for each in prompts}
    if bos is not None and bos == filler:
        return first == {bos} or bos not in first
    return filler is not None and filler not in first


def _generated(
    model: Any, prompts: Sequence[Encoded], max_new_tokens: int, dice: Dice
) -> list[list[int]]:
    """The ids that each prompt goes on with, up to EOS."""
    tokens, real = _left_padded(model, prompts)
    if is_bridge(model):
        padding: dict[str, Any] = {"attention_mask": real.to(tokens.dtype)}
    else:
        opens = prompts[0].tokens[0] == token_id(model, "bos")
        padding = {"padding_side": "left", "prepend_bos": opens}
    with thrown(model, dice):
        out = model.generate(
            tokens,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_type="tokens",
            verbose=False,
            **padding,
        )
    new: list[list[int]] = torch.as_tensor(out)[:, tokens.shape[1] :].tolist()
    eos = token_id(model, "eos")
    return [ids[: ids.index(eos)] if eos in ids else ids for ids in new]


def _left_padded(
    model: Host, prompts: Sequence[Encoded]
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """The prompts as one batch, and where they are; generating needs their ends in line."""
    width, filler = max(len(each.tokens) for each in prompts), token_id(model, "pad") or 0
    short = [width - len(each.tokens) for each in prompts]
    rows = [[filler] * n + list(each.tokens) for n, each in zip(short, prompts, strict=True)]
    real = torch.arange(width) >= torch.tensor(short)[:, None]
    device = device_of(model)
    return torch.tensor(rows, device=device), real.to(device)


def _completion(model: Any, item: Item, before: Encoded, ids: list[int]) -> Completion:
    whole = Encoded((*before.tokens, *ids), before.prompt_length)
    prompt = item if isinstance(item, str) else _decoded(model, before.tokens)
    return Completion(prompt, _text_after(model, before, whole), whole)


def _text_after(model: Any, before: Encoded, whole: Encoded) -> str:
    """The completion's text, its leading space kept (decoding the ids alone may drop it)."""
    prompt, text = _decoded(model, before.tokens), _decoded(model, whole.tokens)
    if text.startswith(prompt):
        return text[len(prompt) :]
    return _decoded(model, whole.tokens[before.prompt_length :])


def _decoded(model: Any, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True))
