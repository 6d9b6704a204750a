"""Text into tokens: BOS once, prompts and completions, chats, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import numpy as np
import pandas
import pytest
import torch
from cases import EACH_HOST
from models import build, tiny

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.evaluation import dose
from steerlens.text import batches, encode, listed, pad, token_strings
from steerlens.transforms import stored_pass

pytestmark = pytest.mark.host
TEMPLATE = (
    "{% for m in messages %}<bos> {{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<bos> assistant{% endif %}"
)


def ids(words: str) -> tuple[int, ...]:
    known = models.vocabulary()
    return tuple(known.index(word) for word in words.split())


@EACH_HOST
def test_trap_19_bos_comes_once(host: str) -> None:
    model = tiny("llama", host)
    encoded = encode(model, "good w1")
    assert encoded.tokens == ids("<bos> good w1")
    assert encoded.prompt_length == 3
    with pytest.raises(BadInputError, match=r"starts with BOS twice.*Take it out of the text"):
        encode(model, "<bos> good w1")
    with pytest.raises(BadInputError, match="BOS twice"):
        encode(model, [1, 1, 5])


@EACH_HOST
@pytest.mark.parametrize("item", [[1, 5, 6], (1, 5, 6), torch.tensor([1, 5, 6])])
def test_token_ids_are_taken_as_they_are(host: str, item: Any) -> None:
    assert encode(tiny("llama", host), item).tokens == (1, 5, 6)


@EACH_HOST
def test_prompt_and_completion(host: str) -> None:
    model = tiny("llama", host)
    for prompt in ("good w1", [*ids("<bos> good w1")]):
        encoded = encode(model, (prompt, " w2 w3"))
        assert encoded.tokens == ids("<bos> good w1 w2 w3")
        assert encoded.prompt_length == 3


@EACH_HOST
def test_a_completion_that_would_merge_leaves_the_prompts_tokens(host: str) -> None:
    """'w1' + '2' is one word, w12: as in generation, the prompt's own tokens stay."""
    encoded = encode(tiny("llama", host), ("good w1", "2 w3"))
    assert encoded.tokens[:3] == ids("<bos> good w1")
    assert encoded.prompt_length == 3


@EACH_HOST
def test_chats(host: str) -> None:
    model = build("llama", host)
    asked = [{"role": "user", "content": "good"}]
    with pytest.raises(BadInputError, match=r"no chat template.*model\.tokenizer\.chat_template"):
        encode(model, asked)
    model.tokenizer.chat_template = TEMPLATE
    assert encode(model, asked).prompt_length == len(encode(model, asked).tokens) == 5
    answered = encode(model, [*asked, {"role": "assistant", "content": "w1 w2"}])
    assert answered.prompt_length == 5
    assert answered.tokens[5:] == ids("w1 w2")
    assert encode(model, (asked, " w1")).tokens == (*encode(model, asked).tokens, *ids("w1"))


@EACH_HOST
def test_trap_21_nothing_to_read_and_too_much(host: str) -> None:
    model = tiny("llama", host)
    for nothing in ("", [], torch.tensor([], dtype=torch.long)):
        with pytest.raises(BadInputError, match="nothing to read"):
            encode(model, nothing)
    for long in ("good " * 80, [5] * 81):
        with pytest.raises(BadInputError, match=r"81 tokens does not fit.*context of 64\. Shorten"):
            encode(model, long)
    with pytest.raises(BadInputError, match="whole numbers"):
        encode(model, torch.tensor([1.5, 2.0]))


@EACH_HOST
def test_a_model_without_a_tokenizer(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama", host)
    model.tokenizer = None
    for item in ("good", ([1, 5], " bad"), [{"role": "user", "content": "x"}]):
        with pytest.raises(
            BadInputError, match=r"needs a tokenizer and the model has none. Give token"
        ):
            encode(model, item)
    assert encode(model, [1, 5]).tokens == (1, 5)
    assert token_strings(model, torch.tensor([1, 5])) == ["1", "5"]
    direction = sl.Direction("blocks.1.hook_resid_post", torch.ones(models.D_MODEL))
    with sl.add(direction, positions=1).trace(model) as trace:
        model(torch.tensor([[1, 5]]))
    assert trace.texts[0].strings == (("1", "5"),)


@EACH_HOST
def test_padding_on_the_right(host: str) -> None:
    model = tiny("llama", host)
    items = [encode(model, item) for item in ([1, 5], ([1, 5, 6], " good"))]
    batch = pad(model, items)
    assert batch.tokens.tolist() == [[1, 5, 0, 0], [1, 5, 6, 4]]
    assert batch.real.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.prompt_lengths.tolist() == [2, 3]


@EACH_HOST
def test_batches_hold_what_they_may(host: str) -> None:
    model = tiny("llama", host)
    items = [encode(model, [1] + [5] * n) for n in (3, 9, 1, 6, 6, 2)]
    seen: list[int] = []
    for rows, batch in batches(model, items, batch_tokens=14):
        assert batch.tokens.numel() <= 14
        assert [int(n) for n in batch.real.sum(1)] == [len(items[i].tokens) for i in rows]
        seen += rows
    assert sorted(seen) == list(range(6))
    assert len(list(batches(model, items, batch_tokens=1))) == 6


PUSH = sl.add(sl.Direction("blocks.1.hook_resid_post", torch.ones(models.D_MODEL)))
TAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "collect": lambda m, items: sl.collect(m, items, progress=False)["resid_post", 1].mean,
    "compare": lambda m, items: sl.compare(m, PUSH, items, max_new_tokens=3).mean_kl,
    "dose": lambda m, items: torch.tensor(dose(m, PUSH, items, max_new_tokens=3).kl),
    "effect": lambda m, items: torch.tensor(sl.effect(m, PUSH, items).change),
    "stored_pass": lambda m, items: stored_pass(m, items, "blocks.1.hook_resid_post")[:, -1],
    "contrast": lambda m, items: torch.tensor(len(sl.Contrast(items, ["good"]))),
}


@EACH_HOST
@pytest.mark.parametrize("taker", TAKERS)
def test_items_may_come_one_by_one_but_not_alone(host: str, taker: str) -> None:
    model, take = tiny("llama", host), TAKERS[taker]
    items = ["good w1 w2", "w2 good w3"]
    assert torch.equal(take(model, (each for each in items)), take(model, items))
    for alone in ("good w1 w2", [], iter(())):
        with pytest.raises(BadInputError, match="a list of one item or more; got '"):
            take(model, alone)


def test_a_table_of_texts_is_a_list_of_them() -> None:
    texts = ["good w1", "bad"]
    assert listed(np.array(texts), "Reading needs") == tuple(texts)
    assert listed(pandas.Series(texts), "Reading needs") == tuple(texts)
