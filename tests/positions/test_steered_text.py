"""Selectors of text on real hosts: generation with a cache writes where a full pass would."""

from __future__ import annotations

import re
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import forward, tiny

import steerlens as sl

pytestmark = pytest.mark.host
QUIET = dict(do_sample=False, stop_at_eos=False, verbose=False)
ps = sl.positions


def ids(words: str) -> list[int]:
    listed = models.vocabulary()
    return [listed.index(word) for word in words.split()]


def gates(model: Any, where: Any, run: Any, prompts: list[int] | None = None) -> torch.Tensor:
    direction = sl.Direction("blocks.1.hook_resid_post", torch.ones(models.D_MODEL))
    with sl.add(direction, 0.0, positions=where).trace(model, prompt_lengths=prompts) as trace:
        run()
    return trace.texts[-1].gate[0] > 0


@EACH_HOST
@pytest.mark.parametrize(
    "where",
    [
        ps.after("good bad"),
        ps.between("good", re.compile(r"w\d*5")) & ~ps.first(2),
        ps.matching(re.compile(r"w\d*[02468] w")),
        ps.matching("good", "bad w0") | ps.last(2),
        ~ps.after(re.compile("w1")),
    ],
    ids=repr,
)
def test_generated_with_a_cache_or_in_one_pass(host: str, where: Any) -> None:
    model = tiny("llama", host)
    prompts = ["<bos> w0 good bad w0 good", "<bos> bad good w1 bad w0"]
    tokens = torch.tensor([ids(prompt) for prompt in prompts])
    written: list[torch.Tensor] = []

    def generate() -> None:
        written.append(model.generate(tokens, max_new_tokens=12, **QUIET).clone())

    generated = gates(model, where, generate)
    whole = gates(model, where, lambda: forward(model, written[0]), [6, 6])
    assert torch.equal(generated, whole[:, : generated.shape[1]])
    assert generated.any()


@EACH_HOST
def test_words_of_a_tokenizer_without_a_decoder(host: str) -> None:
    model = tiny("llama", host)
    show = ps.matching("good bad").show(model, "bad good bad good")
    assert repr(show).startswith("1 of 5 tokens")
    assert show.picked == ((False, False, False, True, False),)
    unknown = ps.matching("zebra").show(model, "bad good")
    assert not any(unknown.picked[0])
    twice = ps.after("good").show(model, ["bad good bad", "good"])
    assert twice.picked == ((False, False, False, True), (False, False))


@EACH_HOST
def test_a_steering_reads_its_formula(host: str) -> None:
    direction = sl.Direction("blocks.1.hook_resid_post", torch.ones(models.D_MODEL))
    steering = sl.add(direction, positions=ps.selector("prompt") & ~ps.first(3))
    assert "[prompt & ~first(3)]" in repr(steering)
    model = tiny("llama", host)
    with pytest.warns(UserWarning, match=r"first\(3\).* picked no token"), steering.on(model):
        forward(model, torch.tensor([[1, 5, 6]]))
