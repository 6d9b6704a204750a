"""Reading: what is read where, what is kept, what is refused."""

from __future__ import annotations

import models
import pytest
import torch
from cases import EACH_HOST
from hypothesis import given
from hypothesis import strategies as st
from models import build, random_rows, tiny
from trials import trials

import steerlens as sl
from steerlens.errors import BadInputError, HookError, UnknownNameError
from steerlens.moments import Moments
from steerlens.reading import pooled

pytestmark = pytest.mark.host
NAME = "blocks.1.hook_resid_post"


@trials(60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 999), st.floats(-9, 9))
def test_law_8_moments_of_shards_merge(sizes: list[int], seed: int, centre: float) -> None:
    x = torch.randn(sum(sizes), 2, 3, generator=torch.Generator().manual_seed(seed)) + centre
    merged, *rest = (Moments.of(shard) for shard in x.split(sizes))
    for shard in rest:
        merged = merged.merged(shard)
    assert merged.count == len(x)
    torch.testing.assert_close(merged.mean, x.double().mean(0))
    if len(x) > 1:
        torch.testing.assert_close(merged.variance, x.double().var(0))


def test_pooled_leaves_out_what_is_not_picked_even_infinity() -> None:
    x = torch.tensor([[[1.0], [3.0], [torch.inf]], [[torch.nan], [5.0], [7.0]]])
    mask = torch.tensor([[True, True, False], [False, True, False]])
    means, norms = pooled(x, mask)
    assert means.tolist() == [[2], [5]]
    assert norms.tolist() == [2, 5]


def test_a_norm_is_the_tokens_norm_and_not_the_means() -> None:
    opposite = torch.tensor([[[3.0, 0.0], [-3.0, 0.0]]])
    means, norms = pooled(opposite, torch.ones(1, 2, dtype=torch.bool))
    assert means.tolist() == [[0, 0]]
    assert norms.tolist() == [3]


@EACH_HOST
def test_merged_examples_stay_bounded_and_in_proportion(host: str) -> None:
    model = tiny("llama", host)
    items = [row.tolist() for row in random_rows([4] * 12)]
    one = sl.collect(model, items[:3], max_examples=4, progress=False)
    other = sl.collect(model, items[3:], max_examples=4, progress=False)
    merged = one.merged(other)
    whole = sl.collect(model, items, progress=False)
    assert len(merged.rows) == 4
    assert sum(row < 3 for row in merged.rows) == 1
    for name, examples in merged.examples.items():
        torch.testing.assert_close(examples, whole.examples[name][list(merged.rows)])
        torch.testing.assert_close(merged[name].mean, whole[name].mean)


@EACH_HOST
def test_patterns_are_not_vectors_a_token(host: str) -> None:
    with pytest.raises(sl.SteerLensError, match="every query and key"):
        sl.collect(tiny("llama", host), [[1, 5, 6, 7]], "pattern", progress=False)


@EACH_HOST
@pytest.mark.parametrize("length", [models.N_HEADS, 7])
def test_heads_are_not_taken_for_tokens(host: str, length: int) -> None:
    """Norms of queries come with heads in front, as many as there are tokens or not."""
    model, [row] = tiny("qwen3", host), random_rows([length])
    name = "blocks.1.attn.q_norm.hook_normalized"
    with pytest.raises(HookError, match="not a value for each"):
        sl.collect(model, [row], name, progress=False)
    one = sl.Direction(name, torch.ones(length, models.D_HEAD["qwen3"]))
    with sl.add(one).on(model), pytest.raises(HookError, match="value for each"):
        model(row[None])


def test_tokens_in_one_line_are_not_taken_for_rows() -> None:
    """A router sees the tokens of a batch one after the other."""
    model, [row] = tiny("mixtral", "bridge"), random_rows([7])
    with pytest.raises(HookError, match="not a value for each"):
        sl.collect(model, [row], "blocks.1.mlp.gate.hook_in", progress=False)


@EACH_HOST
def test_trap_4_the_last_real_token_is_read(host: str) -> None:
    model = tiny("llama", host)
    rows = random_rows([7, 3, 5])
    read = sl.collect(model, rows, NAME, progress=False)
    assert read.positions == "last_prompt_token"
    assert read.rows == (0, 1, 2)
    assert read["resid_post", 1] is read["blocks.1.hook_resid_post"]
    with pytest.raises(sl.SteerLensError, match="no reading at 'resid_post'"):
        read["resid_post"]
    for i, row in enumerate(rows):
        _, cache = model.run_with_cache(row[None])
        torch.testing.assert_close(read.examples[NAME][i], cache[NAME][0, -1])


@EACH_HOST
def test_a_completion_is_read_as_a_whole(host: str) -> None:
    model = tiny("llama", host)
    read = sl.collect(model, [("good w1", " w2 w3"), ("bad", " w4")], NAME, progress=False)
    assert read.positions == "generated"
    for i, (text, length) in enumerate([("good w1 w2 w3", 2), ("bad w4", 1)]):
        _, cache = model.run_with_cache(text)
        wanted = cache[NAME][0, -length:].mean(0)
        torch.testing.assert_close(read.examples[NAME][i], wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(BadInputError, match="Some items have a completion and some have none"):
        sl.collect(model, [("a", " b"), "c"], NAME, progress=False)


@EACH_HOST
def test_law_8_examples_are_bounded_and_moments_are_not(host: str) -> None:
    model = tiny("llama", host)
    rows = random_rows([4] * 19)
    whole = sl.collect(model, rows, NAME, progress=False)
    some = sl.collect(model, rows, NAME, max_examples=4, seed=1, progress=False)
    assert some[NAME].count == 19
    assert len(some.rows) == len(some.examples[NAME]) == 4
    torch.testing.assert_close(some[NAME].mean, whole[NAME].mean)
    torch.testing.assert_close(some.examples[NAME], whole.examples[NAME][list(some.rows)])
    other = sl.collect(model, rows, NAME, max_examples=4, seed=2, progress=False)
    assert other.rows != some.rows


@EACH_HOST
def test_the_pass_stops_where_all_is_read(host: str) -> None:
    model = tiny("llama", host)
    reached: list[str] = []
    late = [("blocks.2.hook_resid_post", lambda x, hook: reached.append("late"))]
    with model.hooks(late):
        sl.collect(model, ["good"], NAME, progress=False)
    assert not reached


@EACH_HOST
def test_reading_under_a_steering_reads_what_it_wrote(host: str) -> None:
    """Positions of (prompt, completion) items hold for the steering that is on, too."""
    model = tiny("llama", host)
    direction = sl.Direction(NAME, torch.arange(models.D_MODEL) / 4)
    items = [("good w1", " w2 w3"), ("bad", " w4 w1 w2"), ("w9 w3 w1", " w4")]
    plain = sl.collect(model, items, NAME, progress=False)
    for positions, moved in (("generated", 1.0), ("prompt", 0.0)):
        with sl.add(direction, 2, positions=positions).on(model):
            steered = sl.collect(model, items, NAME, progress=False)
        torch.testing.assert_close(
            steered.examples[NAME], plain.examples[NAME] + moved * 2 * direction.vector
        )


@EACH_HOST
def test_names_sites_and_filters(host: str) -> None:
    model = tiny("llama", host)
    reading = dict(progress=False)
    assert set(sl.collect(model, ["good"], ["resid_post", NAME, "z"], **reading)) == {
        *(f"blocks.{layer}.hook_resid_post" for layer in range(3)),
        *(f"blocks.{layer}.attn.hook_z" for layer in range(3)),
    }
    assert list(sl.collect(model, ["good"], lambda name: name == NAME, **reading)) == [NAME]
    with pytest.raises(UnknownNameError, match="filter matches none"):
        sl.collect(model, ["good"], lambda name: False, **reading)


@EACH_HOST
def test_refusals(host: str) -> None:
    model = tiny("llama", host)
    for items in ([], "a text"):
        with pytest.raises(BadInputError, match="needs a list of one item or more"):
            sl.collect(model, items, progress=False)
    with pytest.raises(
        BadInputError, match=r"index\(9\) pick no token in item 1, which has 2 tokens"
    ):
        sl.collect(model, [[1] + [5] * 12, [1, 5]], NAME, 9, progress=False)


@EACH_HOST
def test_activations_that_are_not_finite(host: str) -> None:
    model = build("llama", host)
    with torch.no_grad():
        model.blocks[1].mlp.W_out.mul_(float("inf"))
    with pytest.raises(BadInputError, match=r"'blocks\.1.*not finite.*bfloat16 or float32"):
        sl.collect(model, ["good"], "resid_post", progress=False)


@EACH_HOST
def test_merging_needs_the_same_reading(host: str) -> None:
    model = tiny("llama", host)
    read = [sl.collect(model, ["good"], NAME, where, progress=False) for where in (None, "prompt")]
    with pytest.raises(BadInputError, match="same hook points and positions"):
        read[0].merged(read[1])
    assert repr(read[0]) == "Activations(1 item at 1 hook point, last_prompt_token)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [2, 64])
def test_means_are_one_within_the_rounding_of_a_dtype(dtype: torch.dtype, count: int) -> None:
    x = 1 + torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    exact, rounded = Moments.of(x), Moments.of(x.to(dtype).float())
    assert exact.same_mean(rounded, dtype)
    assert not exact.same_mean(rounded)
    assert not exact.same_mean(Moments.of(x + 2 * torch.finfo(dtype).eps), dtype)
