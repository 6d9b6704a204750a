"""Law 2 in `generate`: cached or not, padded or alone, as in scoring the text it made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import models
import pytest
import torch
from cases import EACH, EACH_HOST, Case, cases, examples
from models import forward, padded, random_rows, tiny
from torch import Tensor

import steerlens as sl

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore:Positions")]
NEW = 4
GREEDY = dict(max_new_tokens=NEW, do_sample=False, stop_at_eos=False, verbose=False)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def all_prompt(case: Case) -> Case:
    """The case with whole rows as prompts."""
    return replace(case, prompt_lengths=tuple(map(len, case.rows)))


def scored(model: Any, steering: sl.Steering, row: Tensor, prompt: int) -> Tensor:
    """Logits of a whole text, at the tokens that predict its completion."""
    with steering.on(model, prompt_lengths=[prompt]):
        return forward(model, row[None])[0, prompt - 1 : -1]


def sure(logits: Tensor) -> Tensor:
    top = logits.topk(2).values
    return top[:, 0] - top[:, 1] > 1e-3


@EACH
def test_law_2_generating_equals_scoring(architecture: str, host: str) -> None:
    """The greedy tokens of a padded batch are those that scoring its text, row by row, predicts."""
    model = tiny(architecture, host)
    compared = torch.zeros(2)

    def law(case: Case) -> None:
        case = all_prompt(case)
        tokens, _ = padded(case.tensors, "left")
        made = {}
        for cached in (True, False):
            options = dict(use_past_kv_cache=cached, padding_side="left")
            with case.steering.on(model):
                made[cached] = model.generate(tokens, **options, **GREEDY)[:, -NEW:]
            for i, row in enumerate(case.tensors):
                text = torch.cat([row, made[cached][i]])
                logits = scored(model, case.row(i).steering, text, len(row))
                here = sure(logits)
                compared.add_(torch.tensor([here.sum(), len(here)]))
                assert logits.argmax(-1)[here].tolist() == made[cached][i][here].tolist(), cached

    examples(law, cases(architecture, host), salt=f"generate {architecture} {host}")
    assert compared[0] > 0.9 * compared[1]


@EACH
def test_law_2_texts_generate_as_each_alone(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    texts = ["good w1 the", "bad", "the sad w5 w9 w20"]
    vector = torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(0))
    direction = sl.Direction("blocks.1.hook_resid_post", vector)
    for positions in ("prompt", "last_prompt_token", "generated", "predicting", -2):
        steering = sl.add(direction, 2, positions=positions)
        with steering.on(model):
            made = model.generate(texts, return_type="tokens", **GREEDY)[:, -NEW:]
        for text, completion in zip(texts, made, strict=True):
            prompt = model.to_tokens(text)[0]
            logits = scored(model, steering, torch.cat([prompt, completion]), len(prompt))
            here = sure(logits)
            assert logits.argmax(-1)[here].tolist() == completion[here].tolist(), positions


@EACH_HOST
@pytest.mark.parametrize("cached", [True, False])
def test_what_the_names_mean_in_generate(host: str, cached: bool) -> None:
    model = tiny("llama", host)
    tokens, _ = padded(random_rows([5, 3]), "left")
    direction = sl.Direction("blocks.1.hook_resid_post", torch.ones(models.D_MODEL))
    # Two prompts of 5 and 3 tokens; the last new token is never computed.
    wanted = {
        "everywhere": ["011111110", "..0111110"],
        "prompt": ["011110000", "..0110000"],
        "last_prompt_token": ["000010000", "..0010000"],
        "predicting": ["000011110", "..0011110"],
        "generated": ["000001110", "..0001110"],
        -2: ["000100000", "..0100000"],
        6: ["000000100", "..0000001"],
    }
    wanted["everywhere"] = ["011111110", "..0111110"]
    wanted[6] = ["000000100", "..0000000"]
    for positions, rows in wanted.items():
        with sl.add(direction, positions=positions).trace(model) as trace:
            model.generate(tokens, use_past_kv_cache=cached, padding_side="left", **GREEDY)
        [text] = trace.texts
        strength = text.strength[0]
        shown = [
            "".join("." if not real else str(int(value)) for value, real in zip(*row, strict=True))
            for row in zip(strength.tolist(), text.real.tolist(), strict=True)
        ]
        width = strength.shape[1]
        assert shown == [row[:width] for row in rows], positions
        assert text.prompt_lengths.tolist() == [5, 3]


@EACH_HOST
def test_generate_stream(host: str) -> None:
    model = tiny("llama", host)
    direction = sl.Direction("blocks.1.hook_resid_post", torch.arange(models.D_MODEL) / 9)
    tokens = random_rows([5])[0][None]
    steering = sl.add(direction, positions="generated")
    with steering.on(model):
        whole = model.generate(tokens, **GREEDY)
        chunks = list(model.generate_stream(tokens, max_tokens_per_yield=1, **GREEDY))
    assert torch.cat(chunks, 1)[0, -NEW:].tolist() == whole[0, -NEW:].tolist()
    assert "generate_stream" not in vars(model)


def test_hf_generate() -> None:
    model = tiny("llama", "bridge")
    direction = sl.Direction("blocks.1.hook_resid_post", torch.arange(models.D_MODEL) / 9)
    tokens = random_rows([5])[0][None]
    steering = sl.add(direction, positions="generated")
    with steering.on(model):
        whole = model.generate(tokens, **GREEDY)
        other = model.hf_generate(tokens, max_new_tokens=NEW, do_sample=False)
    same = min(other.shape[1], whole.shape[1])
    assert other[0, :same].tolist() == whole[0, :same].tolist()


@EACH_HOST
def test_one_block_many_texts(host: str) -> None:
    """Passes of other texts, lengths and kinds under one `on` do not disturb one another."""
    model = tiny("qwen3", host)
    direction = sl.Direction("blocks.1.hook_resid_post", torch.arange(models.D_MODEL) / 9)
    steering = sl.add(direction, 2, positions="predicting")
    short, long = random_rows([4, 9])
    with steering.on(model):
        wanted = model.generate(short[None], **GREEDY), forward(model, long[None])
    with steering.on(model):
        for _ in range(2):
            assert torch.equal(forward(model, long[None]), wanted[1])
            assert torch.equal(model.generate(short[None], **GREEDY), wanted[0])
            model.run_with_cache(long[None])
