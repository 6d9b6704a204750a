"""The trace: what was written, token by token, bounded."""

from __future__ import annotations

import models
import pytest
import torch
from cases import EACH_HOST
from models import cached_forward, forward, padded, random_rows, tiny

import steerlens as sl
from steerlens.errors import BadInputError

pytestmark = pytest.mark.host
NAME = "blocks.1.hook_resid_post"
UP = sl.Direction(NAME, torch.full((models.D_MODEL,), 0.5), name="up")


@EACH_HOST
def test_it_tells_what_was_written(host: str) -> None:
    model = tiny("llama", host)
    tokens, mask = padded(random_rows([6, 3]), "left")
    _, cache = model.run_with_cache(tokens, attention_mask=mask)
    steering = sl.add(UP, [2.0, -1.0], positions="predicting") >> sl.ablate(UP)
    with steering.trace(model, prompt_lengths=[4, 3]) as trace:
        with pytest.raises(BadInputError, match="only after its `with` block"):
            _ = trace.texts
        forward(model, tokens, mask)
    [text] = trace.texts
    assert text.strength[0].tolist() == [[0, 0, 0, 2, 2, 2], [0, 0, 0, 0, 0, -1]]
    torch.testing.assert_close(text.change_norm[0], text.strength[0].abs() * UP.norm)
    before = cache[NAME].norm(dim=-1)
    torch.testing.assert_close(text.stream_norm[0], before, atol=1e-4, rtol=1e-4)
    after = (cache[NAME] + text.strength[0][..., None] * UP.vector).norm(dim=-1)
    torch.testing.assert_close(text.stream_norm[1], after, atol=1e-4, rtol=1e-4)
    assert text.generated.tolist() == [[False] * 4 + [True] * 2, [False] * 6]
    assert text.strings[1][:3] == ("<pad>",) * 3
    assert text.share.shape == (2, 2, 6)
    frame = trace.frame()
    assert len(frame) == 2 * 9
    assert frame[frame.strength < 0].token.tolist() == [text.strings[1][-1]]
    assert "wrote 4 of 9 tokens" in repr(trace)
    assert "up" in trace._repr_html_()


@EACH_HOST
def test_a_cached_trace_is_the_uncached_one(host: str) -> None:
    model = tiny("qwen3", host)
    tokens, mask = padded(random_rows([8, 5]), "right")
    texts = []
    for run in (
        lambda: forward(model, tokens, mask),
        lambda: cached_forward(model, tokens, [3, 1, 4], mask),
    ):
        with sl.add(UP, positions="predicting").trace(model, prompt_lengths=[4, 5]) as trace:
            run()
        texts += trace.texts
    for field in ("strength", "change_norm", "stream_norm"):
        a, b = (getattr(text, field)[:, mask.bool()] for text in texts)
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert torch.equal(texts[0].tokens, texts[1].tokens)


@EACH_HOST
def test_it_is_bounded(host: str) -> None:
    model = tiny("llama", host)
    with sl.add(UP).trace(model, max_tokens=10) as trace:
        for row in random_rows([6, 6, 6]):
            forward(model, row[None])
    assert len(trace.texts) == 2
    assert trace.dropped == 6
    assert "full after 12 tokens, 6 dropped" in repr(trace)


@EACH_HOST
def test_no_pass_and_under_way(host: str) -> None:
    model = tiny("llama", host)
    with sl.add(UP).trace(model) as trace:
        assert repr(trace) == "Trace(under way)"
    assert repr(trace) == "Trace(no pass)"
    assert trace.frame().empty


@EACH_HOST
def test_tracing_changes_nothing(host: str) -> None:
    model = tiny("gemma2", host)
    row = random_rows([9])[0][None]
    steering = sl.add(UP, 3) + sl.ablate(UP)
    with steering.on(model):
        wanted = forward(model, row)
    with steering.trace(model):
        assert torch.equal(forward(model, row), wanted)


@EACH_HOST
def test_a_continued_cache_needs_prompt_lengths(host: str) -> None:
    model = tiny("gpt2", host)
    with pytest.raises(BadInputError, match="give them to trace"), sl.add(UP).trace(model):
        cached_forward(model, random_rows([8])[0][None], [5, 3])
