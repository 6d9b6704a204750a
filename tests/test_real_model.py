"""A real pretrained model, trained by nobody here: stories260K."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EACH_HOST

import steerlens as sl
from steerlens.demo import load_model

pytestmark = pytest.mark.host
SHARED = Path(__file__).parents[2] / "shared"
FOLDER = SHARED / "models" / "stories260K"
PAIRS = SHARED / "data" / "steerkit" / "sentiment.jsonl"
SAD = ("sad", "cry", "cried", "scared", "hurt", "angry", "afraid", "upset", "mad")


@pytest.fixture(autouse=True)
def _there() -> None:
    for path in (FOLDER, PAIRS):
        if not path.exists():
            pytest.skip(f"{path} is not there: the test of reality needs it")


@cache
def load(host: str) -> Any:
    return load_model(host, FOLDER)  # type: ignore[arg-type]


@cache
def found(host: str) -> sl.Directions:
    contrast = sl.Contrast.from_jsonl(PAIRS)
    return sl.find_directions(load(host), contrast, name="sentiment", placebos=20, progress=False)


@EACH_HOST
def test_directions_are_found_and_beat_placebo(host: str) -> None:
    best = found(host).best()
    assert best.quality is not None
    assert best.quality.auc > 0.9
    assert best.quality.beyond_placebo
    assert best.quality.rank == 1


@EACH_HOST
def test_steering_moves_the_share_of_sad_stories(host: str) -> None:
    model = load(host)
    shares = {}
    for coeff in (-4.0, 4.0):
        torch.manual_seed(0)
        prompts = model.to_tokens(["Once upon a time"] * 32)
        with sl.add(found(host)["resid_post", 3], coeff, positions="predicting").on(model):
            made = model.generate(prompts, max_new_tokens=80, temperature=0.8, verbose=False)
        texts = [model.tokenizer.decode(row) for row in made]
        shares[coeff] = sum(any(word in text for word in SAD) for text in texts) / len(texts)
    print(host, shares)
    assert shares[-4.0] > shares[4.0] + 0.15


@EACH_HOST
def test_both_hosts_find_the_same(host: str) -> None:
    for name, direction in found(host).items():
        torch.testing.assert_close(
            direction.vector, found("bridge")[name].vector, atol=1e-3, rtol=1e-3
        )
