"""The trace: what was written, token by token, bounded."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import cached_forward, forward, hosts, padded, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.prefixes import Prefix
from steerlens.running import running
from steerlens.signals import Cosine, Latch, Probe
from steerlens.transforms import Add, Clamp, KeepNorm

pytestmark = pytest.mark.host
NAME = "blocks.1.hook_resid_post"
UP = sl.Direction(NAME, torch.full((models.D_MODEL,), 0.5), name="up")
HEADS = sl.Direction(
    "blocks.2.attn.hook_z",
    torch.randn(models.N_HEADS, 8, generator=torch.Generator().manual_seed(1)),
    name="heads",
).heads(0, 2)


@EACH_HOST
def test_it_tells_what_was_written(host: str) -> None:
    model = tiny("llama", host)
    tokens, mask = padded(random_rows([6, 3]), "left")
    _, cache = model.run_with_cache(tokens, attention_mask=mask)
    steering = sl.add(UP, [2.0, -1.0], positions="predicting") >> sl.ablate(UP)
    with steering.trace(model, prompt_lengths=[4, 3]) as trace:
        with pytest.raises(BadInputError, match="complete once"):
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
    assert text.picked[0].tolist() == (text.strength[0] != 0).tolist()
    assert text.picked[1].tolist() == (mask.bool() & (tokens != 1)).tolist()
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
def test_a_text_that_passes_whole_again_counts_once(host: str) -> None:
    model, tokens = tiny("llama", host), random_rows([8])[0][None]
    options = dict(max_new_tokens=6, do_sample=False, stop_at_eos=False, verbose=False)
    for most, kept, dropped in ((100, 13, 0), (10, 10, 3)):
        with sl.add(UP).trace(model, max_tokens=most) as trace:
            model.generate(tokens, use_past_kv_cache=False, **options)
        assert (trace.texts[0].tokens.shape[1], trace.dropped) == (kept, dropped)
        assert trace.texts[0].recorded.all()


@EACH_HOST
def test_branches_of_a_cache_are_told_in_their_order(host: str) -> None:
    model = tiny("llama", host)
    with sl.add(UP).trace(model) as trace, torch.no_grad():
        prefix = Prefix(model, random_rows([5])[0][None])
        for token in (11, 12, 13, 14):
            prefix.then(torch.tensor([[token]]), torch.tensor([1]))
    assert [text.tokens[0, -1].item() for text in trace.texts] == [11, 12, 13, 14]
    assert all(text.recorded.all() for text in trace.texts)


@EACH_HOST
def test_no_pass_and_under_way(host: str) -> None:
    model = tiny("llama", host)
    with sl.add(UP).trace(model) as trace:
        assert repr(trace) == "Trace(under way)"
    assert repr(trace) == "Trace(no pass)"
    assert [line.endswith("no pass") for line in trace.summary()] == [True]
    assert trace.frame().empty
    assert trace.warnings == ()


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


# Tables


@EACH_HOST
def test_the_frame_is_complete(host: str) -> None:
    model = tiny("llama", host)
    tokens, mask = padded(random_rows([6, 3]), "left")
    steering = sl.add(UP, 2, positions="predicting", gate=[1.0, 0.5]) + sl.ablate(HEADS)
    with (steering + sl.ablate(HEADS)).trace(model, prompt_lengths=[4, 2]) as trace:
        forward(model, tokens, mask)
        forward(model, tokens, mask)
    frame = trace.frame()
    assert list(frame) == [
        "text", "row", "pos", "token", "generated", "layer", "hook_name", "intervention",
        "picked", "coeff", "gate", "strength", "change_norm", "stream_norm", "share", "along",
    ]  # fmt: skip
    assert len(frame) == 2 * 9 * 3
    assert not frame.duplicated(["text", "row", "pos", "intervention"]).any()
    assert list(frame.intervention[:3]) == [
        repr(steering.interventions[0]),
        repr(steering.interventions[1]),
        f"{steering.interventions[1]!r} (2)",
    ]
    assert set(frame.layer) == {1, 2}
    for number, text in enumerate(trace.texts):
        here = frame[frame.text == number]
        for name in ("coeff", "gate", "strength", "change_norm", "stream_norm", "share", "along"):
            told = torch.tensor(here[name].to_numpy()).reshape(9, 3)
            wanted = getattr(text, name)[:, text.real].T
            torch.testing.assert_close(told, wanted.to(told), equal_nan=True)
    row = frame[(frame.text == 1) & (frame.row == 1)].iloc[-3]
    assert (row.pos, row.generated, row.coeff, row.gate, row.strength) == (5, True, 2, 0.5, 1)
    assert row.token == trace.texts[1].strings[1][-1]
    torch.testing.assert_close(row.along, UP.norm, atol=1e-4, rtol=1e-4)


@EACH_HOST
def test_heads_have_a_table_of_their_own(host: str) -> None:
    model = tiny("llama", host)
    tokens, mask = padded(random_rows([6, 3]), "right")
    with (sl.add(UP) + sl.add(HEADS, 3, positions="predicting")).trace(
        model, prompt_lengths=[5, 3]
    ) as trace:
        forward(model, tokens, mask)
    [text] = trace.texts
    frame = trace.heads_frame()
    assert list(frame)[-5:] == ["intervention", "head", "change_norm", "stream_norm", "share"]
    assert len(frame) == 9 * models.N_HEADS
    assert set(frame.hook_name) == {HEADS.hook_name}
    moved = frame[frame.change_norm > 0]
    assert set(moved["head"]) == {0, 2}
    assert sorted(zip(moved.row, moved.pos, strict=True)) == [
        (row, pos) for row, pos in ((0, 4), (0, 5), (1, 2)) for _ in range(2)
    ]
    whole = frame.groupby(["row", "pos"]).change_norm.apply(lambda norms: (norms**2).sum() ** 0.5)
    wanted = trace.frame().query("hook_name == @HEADS.hook_name").change_norm
    torch.testing.assert_close(torch.tensor(whole.to_numpy()), torch.tensor(wanted.to_numpy()))
    before = text.stream_by_head[1][text.real]
    told = torch.tensor(frame.stream_norm.to_numpy()).reshape(9, -1).to(before)
    torch.testing.assert_close(told, before)
    with sl.add(UP).trace(model) as none:
        forward(model, tokens)
    assert none.heads_frame().empty
    assert list(none.heads_frame()) == list(frame)


# Warnings


def warned(model: Any, steering: sl.Steering) -> tuple[str, ...]:
    with steering.trace(model, prompt_lengths=[5, 3]) as trace:
        forward(model, *padded(random_rows([6, 3]), "right"))
    for warning in trace.warnings:
        assert warning in repr(trace)
    assert trace._repr_html_().count("warning") == len(trace.warnings)
    return trace.warnings


@EACH_HOST
def test_a_steering_that_works_warns_of_nothing(host: str) -> None:
    model = tiny("llama", host)
    gate = Cosine(UP.at("blocks.0.hook_resid_post")).at("blocks.0.hook_resid_post") > -2
    before = UP.at("blocks.2.hook_resid_pre")  # what layer 1 leaves is what layer 2 finds
    fine = sl.add(UP, sl.of_stream(0.1), gate=gate) + sl.add(before, sl.of_stream(0.1))
    assert warned(model, fine) == ()


@EACH_HOST
@pytest.mark.filterwarnings("ignore:Positions", "ignore:The gate of")
def test_it_warns_of_nothing_written(host: str) -> None:
    model = tiny("llama", host)
    nowhere = sl.positions.matching(0)
    [warning] = warned(model, sl.add(UP, positions=nowhere))
    assert "wrote on 0 of 9 tokens: its positions picked none" in warning
    assert "selector.show" in warning
    [warning] = warned(model, sl.add(UP, positions="predicting", gate=Cosine(UP) > 2))
    assert warning.startswith(repr(sl.add(UP, positions="predicting", gate=Cosine(UP) > 2))[9:-1])
    assert "gate opened on 0 of 3 tokens. Move its bound" in warning
    for shut in (sl.add(UP, 0), sl.add(UP, gate=0), sl.add(UP, [0.0, 0.0])):
        [warning] = warned(model, shut)
        assert "wrote on 0 of 9 tokens: its coefficient or gate is 0" in warning
    [warning] = warned(model, sl.steer(Clamp(UP, high=1e6)))
    assert "changed nothing on the 7 tokens where it is at work" in warning


@EACH_HOST
def test_it_warns_of_very_little_and_very_much(host: str) -> None:
    model = tiny("llama", host)
    [warning] = warned(model, sl.add(UP, sl.of_stream(0.004)))
    assert "moves the stream by 0.4% of its norm" in warning
    assert "Raise coeff" in warning
    [warning] = warned(model, sl.add(UP, sl.of_stream(3)))
    assert "moves the stream by 300% of its norm" in warning
    assert "Lower coeff" in warning
    [warning] = warned(model, sl.ablate(HEADS, 1e-5))
    assert "moves the activation by" in warning
    assert "try another layer" in warning
    for share in (0.011, 0.99):
        assert warned(model, sl.add(UP, sl.of_stream(share))) == ()


def misplaced(model: Any, steering: sl.Steering) -> list[str]:
    return [each for each in warned(model, steering) if "found at" in each]


@EACH_HOST
def test_it_warns_of_directions_out_of_place(host: str) -> None:
    model = tiny("llama", host)
    early, late = "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"
    moved = sl.steer(Add(UP), late)
    inner = sl.steer(KeepNorm(Add(UP)), late, 1)
    for steering in (moved, inner):
        [warning] = misplaced(model, steering)
        assert f"writes {late}, with a direction found at {NAME}." in warning
        assert f"direction.at({late!r})" in warning
    reading = sl.steer(Clamp(UP, high=-9.0), NAME, reads=early)
    [warning] = misplaced(model, reading)
    assert f"reads {early} and writes {NAME}, with a direction found at {NAME}" in warning
    assert f"reads={NAME!r}" in warning
    for gate in (Probe(UP.at(early)), Latch(Probe(UP.at(early)) > 0.0) | Probe(UP)):
        [warning] = misplaced(model, sl.add(UP.unit(), gate=gate))
        assert f"reads {NAME} and writes {NAME}: its gate looks there for 'up'" in warning
        assert f"signal.at({early!r})" in warning
    [warning] = misplaced(model, sl.add(UP.unit(), Probe(UP).at(early)))
    assert f"reads {early} and writes {NAME}: its coefficient looks there" in warning
    meant = sl.steer(Add(UP.at(late).unit()), late) + sl.steer(
        Add(UP.unit()), gate=Probe(UP.at(early)), reads=early
    )
    assert misplaced(model, meant) == []


# What it keeps


@EACH_HOST
def test_a_loss_may_be_built_from_a_generation(host: str) -> None:
    """HookedTransformer generates under inference mode, whose tensors autograd refuses."""
    model = tiny("llama", host)
    tokens, _ = padded(random_rows([5, 3]), "left")
    options: dict[str, Any] = dict(max_new_tokens=3, verbose=False, padding_side="left")
    both = sl.add(UP, positions="predicting") + sl.ablate(HEADS)
    with both.trace(model) as trace:
        model.generate(tokens, **options)
    with torch.inference_mode(), both.trace(model) as inside:
        model.generate(tokens, **options)
    for text in (trace.texts[0], inside.texts[0]):
        for kept in (*vars(text).values(), text.strength, text.share, text.by_head[1]):
            assert not (isinstance(kept, Tensor) and kept.is_inference())
        weight = torch.ones((), requires_grad=True)
        norms = text.change_norm[text.recorded], text.by_head[1][text.real]
        loss = sum((part.nan_to_num() * weight).square().sum() for part in norms)
        loss.backward()
        assert weight.grad is not None
        assert float(weight.grad) > 0


@pytest.fixture
def newly() -> Iterator[None]:
    """Let the garbage collector see only what a test makes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive(shape: tuple[int, ...]) -> int:
    """How many tensors of a shape anything in Python still holds."""
    gc.collect()
    return sum(type(each) is Tensor and each.shape == shape for each in gc.get_objects())


@EACH_HOST
@pytest.mark.usefixtures("newly")
def test_on_stores_nothing(host: str) -> None:
    """After a pass only what a gate reads elsewhere is still there, after leaving nothing."""
    row = random_rows([13])[0][None]
    shape = (1, 13, models.D_MODEL)
    early = "blocks.0.hook_resid_post"
    model = tiny("llama", host)
    plain = sl.add(UP, sl.of_stream(0.1)) >> sl.ablate(UP)
    reading = sl.add(UP, gate=Probe(UP.at(early)).at(early))
    for steering, kept in ((plain, 0), (reading, 1)):
        with running(steering.expression, model) as session, torch.no_grad():
            for _ in range(2):
                forward(model, row)
                assert alive(shape) == kept
        left = weakref.ref(session)
        del session
        assert alive(shape) == 0
        assert left() is None
    with plain.on(model), torch.no_grad():
        forward(model, row)
    assert alive(shape) == 0


@pytest.mark.skipif("hooked_transformer" not in hosts(), reason="only this host freezes a cache")
def test_two_continuations_of_one_cache_are_two_texts() -> None:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    model = tiny("llama", "hooked_transformer")
    tokens = random_rows([7])[0][None]
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    with sl.add(UP, 2).trace(model, prompt_lengths=[3]) as trace:
        model(tokens[:, :3], past_kv_cache=cache)
        cache.freeze()
        model(tokens[:, 3:7], past_kv_cache=cache)
        model(tokens[:, 5:7], past_kv_cache=cache)
    first, second = sorted(trace.texts, key=lambda text: text.tokens.shape[1], reverse=True)
    assert first.tokens.equal(tokens)
    assert second.tokens.equal(tokens[:, [0, 1, 2, 5, 6]])
    for text in (first, second):
        assert text.recorded.all()
        assert text.written[0, 0].tolist() == [False] + [True] * (text.tokens.shape[1] - 1)
