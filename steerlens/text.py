"""Text into tokens: plain strings, token ids, chat messages, and (prompt, completion) items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.host import Host, need_tokenizer, token_id

T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """One item as token ids, BOS included."""

    tokens: tuple[int, ...]
    """The ids of the whole text."""
    prompt_length: int
    """How many of them are the prompt; the rest is the completion."""


Prompt = str | Tensor | Sequence[int] | Sequence[Mapping[str, str]]
Item = Prompt | tuple[Prompt, str] | Encoded


@dataclass(frozen=True)
class Batch:
    """Items padded on the right to one length."""

    tokens: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    """False at pads."""
    prompt_lengths: Int[Tensor, " batch"]


def encode(model: Host, item: Item) -> Encoded:
    """Return the token ids of an item, with BOS where the model's tokenizer prepends it.

    An item is a text, token ids, chat messages (`[{"role": ..., "content": ...}, ...]`), or
    a (prompt, completion) tuple; one already encoded is kept. A chat that ends with the
    assistant counts that last message as the completion. Raises BadInputError on an empty
    text, a double BOS, text without a tokenizer, or an item longer than the model's context.
    """
    if isinstance(item, Encoded):
        return item
    prompt: Any = item
    completion: str | None = None
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str):
        prompt, completion = item
    if _is_chat(prompt):
        encoded = _encode_chat(model, prompt)
    else:
        ids = _ids(model, prompt)
        encoded = Encoded(ids, len(ids))
    if completion is not None:
        encoded = _extend(model, prompt, encoded, completion)
    return _checked(model, encoded, item)


def _is_chat(prompt: Any) -> bool:
    listed = isinstance(prompt, Sequence) and not isinstance(prompt, str)
    return listed and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _ids(model: Host, prompt: Any) -> tuple[int, ...]:
    if isinstance(prompt, str):
        need_tokenizer(model, "Text")
        return tuple(model.to_tokens(prompt, truncate=False)[0].tolist())
    try:
        ids = torch.as_tensor(prompt, dtype=None if len(prompt) else torch.long)
    except (TypeError, ValueError, RuntimeError):
        raise BadInputError(
            f"{str(prompt)[:60]!r} is no item. An item is a text, token ids, a list of chat "
            "messages, or a tuple (prompt, completion)."
        ) from None
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1 or ids.is_floating_point():
        raise BadInputError(
            f"The token ids of one item are whole numbers in one row; got {ids.dtype} of shape "
            f"{tuple(ids.shape)}. Give a batch as a list of items."
        )
    size = int(model.cfg.d_vocab)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise BadInputError(
            f"Token ids go from 0 to {size - 1}; an item has {int(ids.min())} to {int(ids.max())}. "
            "Are they another tokenizer's, or labels with -100?"
        )
    return tuple(ids.tolist())


def _encode_chat(model: Host, messages: Any) -> Encoded:
    tokenizer = need_tokenizer(model, "A chat")
    if not tokenizer.chat_template:
        raise BadInputError(
            "The model's tokenizer has no chat template. Give plain text, or set "
            "model.tokenizer.chat_template."
        )

    def template(part: Any, ask: bool) -> tuple[int, ...]:
        text = tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=ask)
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    answered = messages[-1]["role"] == "assistant"
    asked = messages[:-1] if answered else messages
    if not asked:
        raise BadInputError(
            "A chat of one assistant message has no prompt before it. Put what was asked first."
        )
    prompt = template(asked, True)
    whole = template(messages, False) if answered else prompt
    if whole[: len(prompt)] != prompt:
        raise BadInputError(
            "The chat template writes an answered chat otherwise than the question followed by "
            "the answer, so where the completion begins is not clear. Give (messages, answer)."
        )
    return Encoded(whole, len(prompt))


def _extend(model: Host, prompt: Any, encoded: Encoded, completion: str) -> Encoded:
    """Append the completion's ids; the prompt's stay as they are, as when generating."""
    tokenizer = need_tokenizer(model, "A completion")
    if isinstance(prompt, str):
        whole = _ids(model, prompt + completion)
        if whole[: len(encoded.tokens)] == encoded.tokens:
            return Encoded(whole, encoded.prompt_length)
    more = tuple(tokenizer(completion, add_special_tokens=False)["input_ids"])
    return Encoded(encoded.tokens + more, encoded.prompt_length)


def _checked(model: Host, encoded: Encoded, item: Any) -> Encoded:
    if not encoded.tokens or (isinstance(item, str) and not item):
        raise BadInputError(f"There is nothing to read in {item!r}: it has no tokens.")
    bos = token_id(model, "bos")
    if bos is not None and encoded.tokens[:2] == (bos, bos):
        raise BadInputError(
            f"{item!r} starts with BOS twice: the text carries one and the tokenizer prepends "
            "another. Take it out of the text."
        )
    longest = getattr(model.cfg, "n_ctx", None)
    if longest and len(encoded.tokens) > longest:
        raise BadInputError(
            f"A text of {len(encoded.tokens)} tokens does not fit the model's context of "
            f"{longest}. Shorten it: {str(item)[:60]!r}..."
        )
    return encoded


def listed(items: Iterable[T], use: str) -> tuple[T, ...]:
    """Return items that come as a list, a generator or a column of a table.

    Raises BadInputError on one item alone, and on none; `use` says what takes them.

    >>> listed((f"a {each}" for each in ["day", "cat"]), "Reading needs")
    ('a day', 'a cat')
    """
    several = isinstance(items, Iterable) and not isinstance(items, str | Mapping)
    found = tuple(items) if several else ()
    if not found or _is_part(found[0]):
        given = str(list(found) if several else items)
        raise BadInputError(f"{use} a list of one item or more; got {given[:60]!r}.")
    return found


def _is_part(value: Any) -> bool:
    """Whether this is a piece of one item: a token's id, or a message of a chat."""
    number = isinstance(value, int) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Mapping) or (number and not isinstance(value, str))


def encode_all(model: Host, items: Iterable[Item], use: str) -> tuple[Encoded, ...]:
    """Return the token ids of items. Raises as `listed` and `encode` do."""
    return tuple(encode(model, item) for item in listed(items, use))


def whole(model: Host, items: Iterable[Item]) -> tuple[Encoded, ...]:
    """Return items as texts without a completion: their last token is the prompt's last.

    >>> [text] = whole(model, [("a good day", " and a cat")])
    >>> text.prompt_length == len(text.tokens)
    True
    """
    encoded = (encode(model, item) for item in items)
    return tuple(Encoded(each.tokens, len(each.tokens)) for each in encoded)


def single_tokens(tokenizer: Any, word: str) -> set[int]:
    """Return the ids whose text is a word, alone or after a space; none where it takes several."""
    spelt = (tokenizer(form, add_special_tokens=False)["input_ids"] for form in (word, f" {word}"))
    return {form[0] for form in spelt if len(form) == 1} - {tokenizer.unk_token_id}


def pad(model: Host, items: Sequence[Encoded], device: torch.device | None = None) -> Batch:
    """Return the items as one batch, padded on the right, where causal attention never looks."""
    filler = token_id(model, "pad")
    longest = max(len(item.tokens) for item in items)
    tokens = torch.full((len(items), longest), 0 if filler is None else filler)
    real = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, item in enumerate(items):
        tokens[row, : len(item.tokens)] = torch.tensor(item.tokens)
        real[row, : len(item.tokens)] = True
    lengths = torch.tensor([item.prompt_length for item in items])
    return Batch(tokens.to(device), real.to(device), lengths.to(device))


def predicting(batch: Batch, starts: Int[Tensor, " batch"]) -> Bool[Tensor, "batch pos"]:
    """Return the positions that predict each text's tokens from a start on, or what comes after it.

    >>> batch = Batch(torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), torch.tensor([2]))
    >>> predicting(batch, batch.prompt_lengths)
    tensor([[False,  True,  True, False]])
    """
    index = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    first, last = starts[:, None] - 1, batch.real.sum(1, keepdim=True) - 1
    return (index >= first) & (index < last.maximum(first + 1))


def batches(
    model: Host, items: Sequence[Encoded], *, batch_tokens: int, device: torch.device | None = None
) -> Iterator[tuple[list[int], Batch]]:
    """Yield (indices, batch) with items of like length together, at most `batch_tokens` each.

    Within a batch items keep their order, so that values a row stay with their items.
    """
    order = sorted(range(len(items)), key=lambda i: -len(items[i].tokens))
    while order:
        rows = max(1, batch_tokens // len(items[order[0]].tokens))
        taken, order = sorted(order[:rows]), order[rows:]
        yield taken, pad(model, [items[i] for i in taken], device)


class Spelling:
    """A tokenizer's tokens as pieces of text that join to the whole.

    A token is decoded after an ordinary one, because some decoders drop a text's first space.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Start with nothing looked up."""
        self._tokenizer = tokenizer
        self._anchor: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self._before = self._decoded(self._anchor)
        self._known: dict[int, str] = {}

    def opening(self, token: int) -> str:
        """Return the text of a row's first token."""
        return self._decoded([token])

    def following(self, tokens: list[int]) -> str:
        """Return the text of tokens that follow others."""
        if len(tokens) > 1:
            return self._after_anchor(tokens)
        if tokens[0] not in self._known:
            self._known[tokens[0]] = self._after_anchor(tokens)
        return self._known[tokens[0]]

    def _after_anchor(self, tokens: list[int]) -> str:
        whole = self._decoded([*self._anchor, *tokens])
        cut = whole.startswith(self._before)
        return whole[len(self._before) :] if cut else self._decoded(tokens)

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def token_strings(model: Host, tokens: Int[Tensor, " pos"]) -> list[str]:
    """Return each token as text, for views: `['<s>', 'The', ' cat']`; ids without a tokenizer."""
    ids = tokens.tolist()
    if model.tokenizer is None:
        return [str(each) for each in ids]
    spelling, special = Spelling(model.tokenizer), set(model.tokenizer.all_special_ids)

    def shown(each: int) -> str:
        if each < 0:
            return "?"
        return spelling.opening(each) if each in special else spelling.following([each])

    return [shown(each) for each in ids]
