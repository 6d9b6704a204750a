"""Several texts under way at once, each with its KV cache, are steered as each alone is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import hosts, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.continued import Text, Texts
from steerlens.prefixes import empty_cache, going_on
from steerlens.running import running
from steerlens.signals import Hysteresis, Latch, OfPrompt, Projection

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore:Positions")]
NAME = "blocks.1.hook_resid_post"
D = sl.Direction(NAME, torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(0)))
SCORE = Projection(D)
STEERINGS = {
    "of the prompt": sl.add(D, OfPrompt(SCORE, "last")),
    "latch": sl.add(D, Latch(SCORE)),
    "hysteresis": sl.add(D).when(Hysteresis(SCORE, 0.1, -0.1)),
    "text": sl.add(D, positions=sl.positions.after("w3")),
    "prompt": sl.add(D, 2, positions="predicting") >> sl.ablate(D, positions="prompt"),
}
EACH_STEERING = pytest.mark.parametrize("name", STEERINGS)
GREEDY = dict(max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class Chat:
    """A text fed through a cache of its own, some tokens at a time."""

    def __init__(self, model: Any, cache: Any = None) -> None:
        self.model = model
        self.cache = empty_cache(model, 1) if cache is None else cache

    def __call__(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens, **going_on(self.model, tokens, self.cache))[0]
        return logits[0] if logits.ndim == 3 else logits


def texts(model: Any) -> list[Tensor]:
    return [model.to_tokens(text) for text in ("w3 w9 w3 w4 good bad", "w5 w6 w1 w3 w2 w7 w8")]


@EACH_STEERING
@EACH_HOST
def test_two_caches_in_lockstep(host: str, name: str) -> None:
    model = tiny("llama", host)
    pair, steering = texts(model), STEERINGS[name]
    alone, traced = [], []
    for tokens in pair:
        chat = Chat(model)
        with steering.trace(model, prompt_lengths=[4]) as trace:
            alone += [chat(tokens[:, :4]), chat(tokens[:, 4:5]), chat(tokens[:, 5:])]
        traced += trace.texts
    with steering.trace(model, prompt_lengths=[4]) as trace:
        chats = [Chat(model) for _ in pair]
        steps = [
            [chat(tokens[:, piece]) for chat, tokens in zip(chats, pair, strict=True)]
            for piece in (slice(4), slice(4, 5), slice(5, None))
        ]
    for one, other in zip(alone, [each for chat in zip(*steps, strict=True) for each in chat],
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    for told, wanted in zip(trace.texts, traced, strict=True):
        assert told.tokens.equal(wanted.tokens)
        torch.testing.assert_close(told.strength, wanted.strength, equal_nan=True)


@EACH_STEERING
@EACH_HOST
def test_copies_of_a_cache_go_their_own_ways(host: str, name: str) -> None:
    model, steering = tiny("llama", host), STEERINGS[name]
    ways = [torch.tensor([way]) for way in ([11, 12], [13, 14], [15, 16])]
    start = texts(model)[0][:, :4]
    with steering.on(model, prompt_lengths=[4]):
        alone = []
        for way in ways:
            chat = Chat(model)
            alone += [(chat(start), chat(way[:, :1]), chat(way[:, 1:]))[1:]]
        whole = Chat(model)
        whole(start)
        Chat(model)(texts(model)[1])
        chats = [whole, *(Chat(model, deepcopy(whole.cache)) for _ in ways[1:])]
        first = [chat(way[:, :1]) for chat, way in zip(chats, ways, strict=True)]
        second = [chat(way[:, 1:]) for chat, way in zip(chats, ways, strict=True)]
    for wanted, *told in zip(alone, first, second, strict=True):
        torch.testing.assert_close(torch.stack(told), torch.stack(wanted), atol=0, rtol=0)


@EACH_STEERING
@EACH_HOST
def test_passes_between_the_chunks_of_a_stream(host: str, name: str) -> None:
    model, steering = tiny("llama", host), STEERINGS[name]
    one, other = texts(model)
    with steering.on(model):
        wanted = [model.generate(each, **GREEDY)[:, -4:] for each in (one, other)]
    with steering.on(model, prompt_lengths=[3]):
        chat, made = Chat(model), []
        chat(other[:, :3])
        streams = [model.generate_stream(each, max_tokens_per_yield=1, **GREEDY)
                   for each in (one, other)]  # fmt: skip
        for chunks in zip(*streams, strict=True):
            made.append(chunks)
            model(other)
            chat(other[:, 3:4])
    for chunks, tokens in zip(zip(*made, strict=True), wanted, strict=True):
        assert torch.cat(chunks, 1)[:, -4:].equal(tokens)


@pytest.mark.skipif("bridge" not in hosts(), reason="a cache that the host makes")
@EACH_STEERING
def test_caches_that_the_host_makes(name: str) -> None:
    model, steering = tiny("llama", "bridge"), STEERINGS[name]
    pair = [each[:, :5] for each in texts(model)]
    with steering.on(model, prompt_lengths=[4]):
        caches = [model.original_model(tokens[:, :4]).past_key_values for tokens in pair]
        told = [Chat(model, cache)(tokens[:, 4:])[-1]
                for cache, tokens in zip(caches, pair, strict=True)]  # fmt: skip
        wanted = [model(tokens)[0, -1] for tokens in pair]
    torch.testing.assert_close(torch.stack(told), torch.stack(wanted), atol=2e-5, rtol=2e-5)


@EACH_HOST
def test_texts_go_with_their_caches(host: str) -> None:
    model = tiny("llama", host)
    with running(STEERINGS["latch"].expression, model) as session:
        for row in random_rows([5] * 9):
            Chat(model)(row[None])
        gc.collect()
        Chat(model)(row[None])
        assert len(session.clock.texts._by_cache) == 1
        seen = [each for each in gc.get_objects() if type(each) is Text]
        assert len(seen) <= 2


def test_a_cache_that_is_not_known() -> None:
    class Cache:
        pass

    known, texts = [Cache(), Cache()], Texts()
    for cache, total in zip(known, (4, 6), strict=True):
        texts.latest = texts.new()
        texts.latest.total = total
        texts.bind(cache, texts.latest)
    first = texts.going_on(known[0], 4)
    assert first.number == 0
    assert texts.going_on(Cache(), 4) is first
    assert texts.going_on(Cache(), 5).parent == 1
    first.total = 5  # a copy went on
    assert texts.going_on(known[0], 4).parent == 0
