"""Laws 5 and 6: what did not fire is an error; nothing of ours stays; what cannot be is refused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import build, cached_forward, forward, padded, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens import activations, running
from steerlens.errors import BadInputError, HookError, UnknownNameError
from steerlens.host import is_bridge
from steerlens.passes import hooked

pytestmark = pytest.mark.host
TOKENS = random_rows([8])[0][None]
QUIET = dict(do_sample=False, stop_at_eos=False, verbose=False)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def direction(
    site: str = "resid_post", layer: int = 1, seed: int = 0, shape: Any = None
) -> sl.Direction:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(shape or (models.D_MODEL,), generator=generator)
    return sl.Direction(sl.names.hook_name(site, layer), vector)


def left_over(model: Any) -> tuple[int, list[str]]:
    """All hooks on the model and its parts, and its own attributes."""
    parts = {id(part): part for part in model.modules()}
    inner = getattr(model, "original_model", None)
    for part in inner.modules() if inner is not None else ():
        parts[id(part)] = part
    hooks = 0
    for part in parts.values():
        hooks += len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks)
        hooks += len(getattr(part, "fwd_hooks", ())) if "HookPoint" in type(part).__name__ else 0
    return hooks, sorted(vars(model))


@contextmanager
def leaving_nothing(model: Any) -> Iterator[None]:
    forward(model, TOKENS)  # the bridge sets up hooks of its own at its first pass,
    model.generate(TOKENS, max_new_tokens=1, **QUIET)  # and attributes at its first generation
    before = left_over(model)
    try:
        yield
    finally:
        assert left_over(model) == before


# Law 5


@EACH_HOST
@pytest.mark.parametrize(
    "name", ["attn.hook_result", "hook_mlp_in", "hook_q_input", "hook_attn_in"]
)
def test_law_5_a_point_dead_behind_a_flag(host: str, name: str) -> None:
    model = tiny("gpt2", host)
    steering = sl.add(sl.Direction(f"blocks.1.{name}", torch.ones(models.D_MODEL)))
    with pytest.raises(HookError, match=r"dead: the model computes it only with use_\w+\. Call"):
        with leaving_nothing(model), steering.on(model):
            pass
    with pytest.raises(HookError, match="dead"):
        steering.fwd_hooks(model, tokens=TOKENS)
    with pytest.raises(HookError, match="dead"):
        sl.collect(model, [[1, 5]], f"blocks.1.{name}", progress=False)


@EACH_HOST
def test_a_flag_brings_the_point_to_life(host: str) -> None:
    model = build("gpt2", host)
    model.set_use_attn_result(True)
    shape = (models.N_HEADS, models.D_MODEL)
    plain = forward(model, TOKENS)
    with sl.add(direction("result", 1, shape=shape)).on(model):
        assert not torch.allclose(forward(model, TOKENS), plain, atol=0.01)


@EACH_HOST
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("blocks.1.hook_resid_pst", "'blocks.1.hook_resid_post'"),
        ("blocks.7.hook_resid_post", r"layers 0 to 2"),
    ],
)
def test_law_5_a_misspelt_name_gets_its_nearest(host: str, name: str, near: str) -> None:
    model = tiny("llama", host)
    steering = sl.add(sl.Direction(name, torch.ones(models.D_MODEL)))
    with leaving_nothing(model), pytest.raises(UnknownNameError, match=near), steering.on(model):
        pass
    with pytest.raises(UnknownNameError, match="'resid_post'"):
        sl.collect(model, [[1, 5]], "resid_pst", progress=False)


@EACH_HOST
def test_law_5_a_point_that_never_fires(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gpt2", host)
    monkeypatch.setattr(running, "hooked", lambda *given: nullcontext())
    with pytest.raises(HookError, match=r"never fired, though a pass ran its layer"):
        with sl.add(direction()).on(model):
            forward(model, TOKENS)
    with sl.add(direction()).on(model):
        pass  # no pass, no complaint
    monkeypatch.setattr(activations, "hooked", lambda *given: nullcontext())
    with pytest.raises(HookError, match="never reached hook point"):
        sl.collect(model, [[1, 5]], progress=False)


def test_law_5_the_bridge_splits_what_it_does_not_call() -> None:
    """Seen in the wild: GPT-2's joint attn.qkv is there on the bridge, and is never called."""
    model = tiny("gpt2", "bridge")
    steering = sl.add(sl.Direction("blocks.1.attn.qkv.hook_in", torch.ones(models.D_MODEL)))
    with pytest.raises(HookError, match="never fired"), leaving_nothing(model), steering.on(model):
        forward(model, TOKENS)


@EACH_HOST
def test_law_5_a_layer_not_reached_is_no_error(host: str) -> None:
    model = tiny("gpt2", host)
    with sl.add(direction(layer=2)).on(model):
        model(TOKENS, stop_at_layer=2)
    with sl.add(direction("resid_pre", 2)).on(model):
        model(TOKENS, stop_at_layer=2)


@EACH_HOST
def test_law_5_an_exception_is_not_hidden_by_the_check(host: str) -> None:
    model = tiny("gpt2", host)
    with pytest.raises(ZeroDivisionError), sl.add(direction(), positions=40).on(model):
        forward(model, TOKENS)
        raise ZeroDivisionError


@EACH_HOST
def test_an_index_past_the_text(host: str) -> None:
    model = tiny("gpt2", host)
    with pytest.raises(BadInputError, match=r"index\(40\) lie past every text"):
        with sl.add(direction(), positions=40).on(model):
            forward(model, TOKENS)
    with pytest.warns(UserWarning, match=r"generated picked no token"):
        with sl.add(direction(), positions="generated").on(model):
            forward(model, TOKENS)


# Law 6


@EACH_HOST
@pytest.mark.parametrize("permanent", [False, True])
def test_law_6_the_users_hooks_survive(host: str, permanent: bool) -> None:
    model = build("gpt2", host)
    fired: list[tuple[int, ...]] = []
    keep = lambda x, hook: fired.append(tuple(x.shape))  # noqa: E731
    name = "blocks.1.hook_resid_post"
    if permanent and not is_bridge(model):
        model.add_perma_hook(name, keep)
    else:
        model.add_hook(name, keep)
    with leaving_nothing(model):
        fired.clear()
        with sl.add(direction()).on(model):
            forward(model, TOKENS)
            model.run_with_hooks(TOKENS, fwd_hooks=[(name, keep)])
            model.run_with_cache(TOKENS)
    assert len(fired) == 4
    forward(model, TOKENS)
    assert len(fired) == 5


@EACH_HOST
def test_law_6_a_users_generate_is_given_back(host: str) -> None:
    model = build("gpt2", host)
    own = lambda *args, **options: type(model).generate(model, *args, **options)  # noqa: E731
    object.__setattr__(model, "generate", own)
    with sl.add(direction()).on(model):
        model.generate(TOKENS, max_new_tokens=1, **QUIET)
    assert model.generate is own


class Raising:
    """A gate that raises."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __call__(self, x: Tensor) -> Tensor:
        raise self.error("from within")


@EACH_HOST
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("call", ["forward", "generate", "trace"])
def test_law_6_an_exception_leaves_nothing(
    host: str, error: type[BaseException], call: str
) -> None:
    model = tiny("llama", host)
    steering = sl.add(direction())
    with leaving_nothing(model), pytest.raises(error), steering.on(model):
        raise error
    with leaving_nothing(model), pytest.raises(error):
        within = steering.when(Raising(error))
        with within.trace(model) if call == "trace" else within.on(model):
            if call == "generate":
                model.generate(TOKENS, max_new_tokens=2, **QUIET)
            forward(model, TOKENS)
    with leaving_nothing(model), pytest.raises(BadInputError), steering.on(model):
        sl.ablate(direction(), coeff=2)
    plain = forward(model, TOKENS)
    with steering.on(model):
        assert not torch.equal(forward(model, TOKENS), plain)
    assert torch.equal(forward(model, TOKENS), plain)


@EACH_HOST
def test_law_6_a_wrong_shape_leaves_nothing(host: str) -> None:
    model = tiny("llama", host)
    with (
        leaving_nothing(model),
        pytest.raises(BadInputError, match=r"shape \(7,\) and does not fit"),
    ):
        with sl.add(direction(shape=(7,))).on(model):
            forward(model, TOKENS)


@EACH_HOST
def test_law_6_a_hundred_times_leaves_nothing(host: str) -> None:
    model = tiny("gpt2", host)
    steering = sl.add(direction()) + sl.ablate(direction("attn_out", 2))
    with steering.on(model):
        first = forward(model, TOKENS)
    gc.collect()
    with leaving_nothing(model):
        for _ in range(100):
            with steering.on(model):
                pass
        with steering.on(model):
            assert torch.equal(forward(model, TOKENS), first)


@EACH_HOST
def test_law_6_two_models_share_nothing(host: str) -> None:
    """Interleaved and nested, by one steering and by two, each as it is alone."""
    models_ = tiny("gpt2", host), tiny("llama", host)
    one, other = sl.add(direction(), positions=2), sl.ablate(direction("resid_pre", 2, 1))

    def alone(model: Any, steering: sl.Steering) -> Tensor:
        with steering.on(model):
            return forward(model, TOKENS)

    wanted = [[alone(model, steering) for steering in (one, other)] for model in models_]
    plain = [forward(model, TOKENS) for model in models_]
    first, second = one.on(models_[0]), other.on(models_[1])
    first.__enter__()
    second.__enter__()
    assert torch.equal(forward(models_[0], TOKENS), wanted[0][0])
    assert torch.equal(forward(models_[1], TOKENS), wanted[1][1])
    first.__exit__(None, None, None)
    assert torch.equal(forward(models_[0], TOKENS), plain[0])
    assert torch.equal(forward(models_[1], TOKENS), wanted[1][1])
    second.__exit__(None, None, None)
    with one.on(models_[0]), one.on(models_[1]):
        for model, want in zip(models_, wanted, strict=True):
            assert torch.equal(forward(model, TOKENS), want[0])


@EACH_HOST
def test_law_6_nested_steerings_act_in_turn(host: str) -> None:
    model = tiny("qwen3", host)
    outer, inner = sl.add(direction(), 3, positions="predicting"), sl.ablate(direction(seed=0))
    with leaving_nothing(model):
        with outer.on(model), inner.on(model):
            nested = model.generate(TOKENS, max_new_tokens=3, **QUIET), forward(model, TOKENS)
        with (outer >> inner).on(model):
            joined = model.generate(TOKENS, max_new_tokens=3, **QUIET), forward(model, TOKENS)
    assert torch.equal(nested[0], joined[0])
    torch.testing.assert_close(nested[1], joined[1], atol=1e-4, rtol=0)


@EACH_HOST
@pytest.mark.parametrize("crossing", ["steering", "hooks of the user's"])
def test_law_6_blocks_that_cross(host: str, crossing: str) -> None:
    """What is entered first is left first, as an ExitStack or two notebook cells have it."""
    model, second = tiny("qwen3", host), sl.add(direction("attn_out", seed=1), 2)
    hook = ("blocks.0.hook_resid_post", lambda activation, hook: activation + 1)
    with second.on(model):
        want = model.generate(TOKENS, max_new_tokens=3, **QUIET), forward(model, TOKENS)
    with leaving_nothing(model):
        first = sl.add(direction(), 3).on(model) if crossing == "steering" else model.hooks([hook])
        first.__enter__()
        with second.on(model):
            both = forward(model, TOKENS)
            first.__exit__(None, None, None)
            assert not torch.allclose(both, forward(model, TOKENS), atol=0.01)
            assert torch.equal(model.generate(TOKENS, max_new_tokens=3, **QUIET), want[0])
            assert torch.equal(forward(model, TOKENS), want[1])


@EACH_HOST
def test_trap_6_callback_argument_is_named_hook(host: str) -> None:
    model = tiny("gpt2", host)
    [(name, fn)] = sl.add(direction()).fwd_hooks(model, tokens=TOKENS)
    assert name == "blocks.1.hook_resid_post"
    h = torch.zeros(1, 8, models.D_MODEL)
    written = fn(h, hook=None)
    torch.testing.assert_close(written[0, 1:], direction().vector.expand(7, -1))
    assert (h == 0).all(), "never in place"


@EACH_HOST
@pytest.mark.parametrize("inside", ["hooks", "reset_hooks"])
def test_hooks_of_our_own_leave_nothing_where_the_hosts_ran_inside(host: str, inside: str) -> None:
    model, hook = tiny("gpt2", host), ("blocks.1.hook_resid_post", lambda activation, hook: None)
    with leaving_nothing(model), hooked(model, [hook]):
        if inside == "hooks":
            with model.hooks(fwd_hooks=[hook]):
                forward(model, TOKENS)
        else:
            model.reset_hooks()


# fwd_hooks


@EACH_HOST
@pytest.mark.parametrize("positions", ["everywhere", "predicting", "prompt", -2, 3])
def test_fwd_hooks_equals_on(host: str, positions: str | int) -> None:
    model = tiny("qwen3", host)
    tokens, mask = padded(random_rows([9, 4]), "left")
    steering = sl.add(direction(), positions=positions) >> sl.ablate(
        direction("z", 2, shape=(4, 12))
    )
    options = dict(prompt_lengths=[6, 4])
    hooks = steering.fwd_hooks(model, tokens, attention_mask=mask, **options)
    with steering.on(model, **options):
        wanted = forward(model, tokens, mask)
    got = model.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=hooks)
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=0)


@EACH_HOST
def test_fwd_hooks_serve_one_pass(host: str) -> None:
    model = tiny("gpt2", host)
    for again, told in ((TOKENS, "used again"), (TOKENS[:, :5], "serve one pass over the tokens")):
        hooks = sl.add(direction()).fwd_hooks(model, tokens=TOKENS)
        model.run_with_hooks(TOKENS, fwd_hooks=hooks)
        with pytest.raises(HookError, match=told):
            model.run_with_hooks(again, fwd_hooks=hooks)
    hooks = sl.add(direction()).fwd_hooks(model, tokens=TOKENS)
    with pytest.raises(HookError, match=r"\(1, 5\).*\(1, 8\)"):
        model.run_with_hooks(TOKENS[:, :5], fwd_hooks=hooks)


@EACH_HOST
@pytest.mark.parametrize("positions", ["everywhere", "predicting", -2])
def test_fwd_hooks_without_tokens(host: str, positions: str | int) -> None:
    model = tiny("gpt2", host)
    hooks = sl.add(direction(), positions=positions).fwd_hooks(model)
    with pytest.raises(BadInputError, match=r"fwd_hooks|prompt_lengths"):
        model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    index = sl.add(direction(), positions=3)
    with index.on(model):
        wanted = forward(model, TOKENS)
    for tokens in (TOKENS, TOKENS):
        got = model.run_with_hooks(tokens, fwd_hooks=index.fwd_hooks(model))
        assert torch.equal(got, wanted)


@EACH_HOST
def test_fwd_hooks_that_would_write_nowhere_are_told(host: str) -> None:
    model, steering = tiny("gpt2", host), sl.add(direction(), positions="generated")
    with pytest.warns(UserWarning, match="generated picked no token.*prompt_lengths"):
        steering.fwd_hooks(model, tokens=TOKENS)
    steering.fwd_hooks(model, tokens=TOKENS, prompt_lengths=[2] * len(TOKENS))
    with pytest.raises(BadInputError, match="past every text"):
        sl.add(direction(), positions=99).fwd_hooks(model, tokens=TOKENS)


@EACH_HOST
def test_fwd_hooks_of_text(host: str) -> None:
    model = tiny("gpt2", host)
    steering = sl.add(direction(), positions="prompt")
    texts = ["good bad", "the good happy w3"]
    with steering.on(model):
        wanted = model(texts)
    got = model.run_with_hooks(texts, fwd_hooks=steering.fwd_hooks(model, tokens=texts))
    torch.testing.assert_close(got, wanted)


@EACH_HOST
def test_run_with_cache_sees_what_was_written(host: str) -> None:
    model = tiny("llama", host)
    name = "blocks.1.hook_resid_post"
    _, plain = model.run_with_cache(TOKENS)
    with sl.add(direction(), 2).on(model):
        _, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(cache[name][:, 1:], plain[name][:, 1:] + 2 * direction().vector)
    assert torch.equal(cache[name][:, 0], plain[name][:, 0])


# Refusals


@EACH_HOST
def test_beam_search_is_refused(host: str) -> None:
    model = tiny("gpt2", host)
    with leaving_nothing(model), pytest.raises(BadInputError, match=r"num_beams=1"):
        with sl.add(direction()).on(model):
            getattr(model, "hf_generate", model.generate)(TOKENS, max_new_tokens=2, num_beams=2)


@EACH_HOST
def test_start_at_layer_is_refused(host: str) -> None:
    model = tiny("gpt2", host)
    residual = torch.randn(1, 8, models.D_MODEL)
    for start in (0, 1):
        with leaving_nothing(model), pytest.raises((HookError, NotImplementedError)):
            with sl.add(direction()).on(model):
                model(residual, start_at_layer=start)


@EACH_HOST
def test_start_at_layer_after_generate_is_refused(host: str) -> None:
    """HookedTransformer's generate embeds one token too many, which must not pass for a pass's."""
    model = tiny("gpt2", host)
    residual = torch.randn(1, 1, models.D_MODEL)
    with pytest.raises((HookError, NotImplementedError)), sl.add(direction()).on(model):
        model.generate(TOKENS, max_new_tokens=2, **QUIET)
        model(residual, start_at_layer=0)


def test_embeddings_as_input_are_refused() -> None:
    model = tiny("gpt2", "bridge")
    with pytest.raises(HookError, match="needs token ids"), sl.add(direction()).on(model):
        model.original_model(inputs_embeds=torch.randn(1, 4, models.D_MODEL))


@EACH_HOST
def test_embeddings_as_hook_points_are_refused(host: str) -> None:
    model = tiny("gpt2", host)
    with (
        leaving_nothing(model),
        pytest.raises(HookError, match=r"Take 'blocks\.0\.hook_resid_pre'"),
    ):
        with sl.add(sl.Direction("hook_embed", torch.ones(models.D_MODEL))).on(model):
            pass


def test_resid_mid_of_the_bridge_is_refused() -> None:
    """There it is the input of the MLP's norm alone: what is written does not reach the stream."""
    model = tiny("gpt2", "bridge")
    with pytest.raises(HookError, match=r"does not reach the stream"):
        with sl.add(direction("resid_mid")).on(model):
            pass
    sl.collect(model, [[1, 5]], "resid_mid", progress=False)


@EACH_HOST
def test_prompt_lengths_of_another_batch(host: str) -> None:
    model = tiny("gpt2", host)
    with pytest.raises(BadInputError, match=r"2 prompt_lengths were given for a batch of 1 rows"):
        with sl.add(direction(), positions="generated").on(model, prompt_lengths=[2, 3]):
            forward(model, TOKENS)
    with pytest.raises(BadInputError, match=r"2 values, one a row, meet a batch of 1 rows"):
        with sl.add(direction(), coeff=[1.0, 2.0]).on(model):
            forward(model, TOKENS)


@EACH_HOST
def test_a_continued_cache_needs_prompt_lengths(host: str) -> None:
    """`generated` is never inferred from the KV cache."""
    model = tiny("gpt2", host)
    with pytest.raises(BadInputError, match=r"Give prompt_lengths"):
        with sl.add(direction(), positions="generated").on(model):
            cached_forward(model, TOKENS, [5, 3])
