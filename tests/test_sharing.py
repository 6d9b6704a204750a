"""What texts share is computed once, and every number stays what it is text by text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import models
import pytest
import torch
from cases import EACH, EACH_HOST
from hypothesis import given
from hypothesis import strategies as st
from models import build, random_rows, tiny
from trials import trials

import steerlens as sl
from steerlens import sharing
from steerlens.activations import Activations, collect_sides
from steerlens.reading import Reader
from steerlens.sharing import Planner, Stretch
from steerlens.text import Encoded

pytestmark = pytest.mark.host
SITES = ["resid_post", "z", "blocks.1.mlp.hook_post"]


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "STEP", 3)


def walked(stretches: Sequence[Stretch], texts: Sequence[tuple[int, ...]]) -> Iterator[int]:
    """Every text that runs to its end; on the way, what each pass goes on from is its own."""

    def down(stretch: Stretch, before: Sequence[tuple[int, ...]]) -> Iterator[int]:
        rows = []
        for parent, numbers in zip(stretch.parents, stretch.rows, strict=True):
            for number in numbers:
                assert texts[number][: stretch.start] == before[parent]
            assert len({texts[number][: stretch.stop] for number in numbers}) == 1
            rows.append(texts[numbers[0]][: stretch.stop])
            if not stretch.then:
                assert stretch.stop is None
                assert len(texts[numbers[0]]) > stretch.start
                yield from numbers
        for each in stretch.then:
            assert each.start == stretch.stop
            yield from down(each, rows)

    for stretch in stretches:
        yield from down(stretch, [()])


@trials(150)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14), min_size=1, max_size=12),
    st.integers(0, 13),
    st.integers(5, 40),
    st.sampled_from([-1.0, 0.0, 2.0, 1e9]),
)
def test_a_plan_runs_every_text_once_within_its_room(
    rows: list[list[int]], free: int, room: int, dear: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "STEP", 3)
        texts = [tuple(row) for row in rows]
        planner = Planner(texts, [min(free, len(row) - 1) for row in texts], room, dear)
        stretches = planner.stretches()
    assert sorted(walked(stretches, texts)) == list(range(len(texts)))

    def every(stretches: Sequence[Stretch]) -> Iterator[Stretch]:
        for each in stretches:
            yield each
            yield from every(each.then)

    for each in every(stretches):
        longest = max(len(texts[numbers[0]][: each.stop]) for numbers in each.rows)
        assert len(each.rows) == 1 or len(each.rows) * longest <= room
        assert all((each.stop or 0) <= planner.free[n] for row in each.rows for n in row)
    for each in every(stretches):
        lengths = [len(texts[numbers[0]]) for numbers in each.rows]
        assert each.then or sum(max(lengths) - length for length in lengths) <= max(0, dear)
    if dear == 1e9:
        assert all(each.start == 0 and not each.then for each in stretches)


def test_pairs_after_one_preamble() -> None:
    """The preamble once, each question once, each answer twice: 3 passes, no token run again."""
    preamble, texts = tuple(range(100, 106)), []
    for question in range(4):
        for answer in range(2):
            texts.append((*preamble, *[question] * 3, 50 + answer, 60))
    [first] = Planner(texts, [9] * 8, 1000, 0.1).stretches()
    [then] = first.then
    [last] = then.then
    assert (first.start, first.stop, len(first.rows)) == (0, 6, 1)
    assert (then.start, then.stop, len(then.rows)) == (6, 9, 4)
    assert (last.start, last.stop, len(last.rows)) == (9, None, 8)


def items(seed: int = 0) -> list[Encoded]:
    """Texts with a preamble, with each other's prompts, twice the same, and with nothing shared."""
    words = [row.tolist() for row in random_rows([7, 5, 12, 3, 9, 2], seed)]
    preamble, question, long, short, other, bit = words
    told = [
        (preamble + question[1:], bit[1:]),
        (preamble + question[1:], short[1:]),
        (preamble + question[1:], short[1:]),
        (preamble + other[1:], long[1:]),
        (preamble + other[1:], bit[1:] + question[1:]),
        (long, bit[1:]),
        (long + other[1:], bit[1:]),
        (other, long[1:]),
        (short, bit[1:]),
    ]
    return [Encoded((*prompt, *answer), len(prompt)) for prompt, answer in told]


def same(one: Activations, other: Activations) -> None:
    assert one.rows == other.rows
    assert one.positions == other.positions
    for name, moments in one.items():
        for mine, theirs in ((moments, other[name]), (one.norms[name], other.norms[name])):
            assert mine.count == theirs.count
            torch.testing.assert_close(mine.mean, theirs.mean, atol=2e-5, rtol=2e-5)
            torch.testing.assert_close(mine.squares, theirs.squares, atol=2e-4, rtol=2e-4)
        theirs = other.examples[name]
        torch.testing.assert_close(one.examples[name], theirs, atol=2e-5, rtol=2e-5)


def alone(
    model: Any,
    texts: Sequence[Encoded],
    positions: Any = None,
    sites: Sequence[str] = SITES,
    **given: Any,
) -> Activations:
    """Every text in a pass of its own, and whole, for a hook is on."""
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: None)]):
        return sl.collect(model, texts, sites, positions, batch_tokens=1, progress=False, **given)


@EACH
def test_law_2_shared_beginnings_change_no_number(
    architecture: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(architecture, host)
    monkeypatch.setattr(sharing, "pass_tokens", lambda model: -100.0)
    for room in (30, 4096):
        shared = sl.collect(model, items(), SITES, batch_tokens=room, progress=False)
        same(shared, alone(model, items()))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@EACH_HOST
@pytest.mark.parametrize(
    "positions",
    ["last_prompt_token", "predicting", "every_token", sl.positions.first(4), sl.positions.last(3)],
)
def test_law_2_wherever_is_read(host: str, positions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", host)
    monkeypatch.setattr(sharing, "pass_tokens", lambda model: -100.0)
    sites = [*SITES, "rot_k"]  # of which a HookedTransformer's hold the cache's keys too
    shared = sl.collect(model, items(1), sites, positions, progress=False)
    same(shared, alone(model, items(1), positions, sites))


@EACH_HOST
def test_sides_read_together_are_the_sides_read_apart(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2", host)
    monkeypatch.setattr(sharing, "pass_tokens", lambda model: -100.0)
    sides = items()[::2], items()[1::2]
    found = collect_sides(model, sides, SITES, max_examples=3, seed=5, progress=False)
    for one, side in zip(found, sides, strict=True):
        same(one, alone(model, side, max_examples=3, seed=5))


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of every pass that is run to read."""
    found: list[tuple[int, ...]] = []
    run = Reader.run

    def counted(self: Reader, model: Any, batch: Any, *rest: Any) -> Any:
        found.append(tuple(batch.tokens.shape))
        return run(self, model, batch, *rest)

    monkeypatch.setattr(Reader, "run", counted)
    monkeypatch.setattr(sharing, "pass_tokens", lambda model: 1.0)
    return found


@EACH_HOST
def test_a_prompt_on_both_sides_runs_once(host: str, widths: list[tuple[int, ...]]) -> None:
    model = tiny("llama", host)
    prompts = [row.tolist() for row in random_rows([9, 9, 9])]
    sides = [[Encoded((*prompt, 5 + side, 9), 9) for prompt in prompts] for side in (0, 1)]
    contrast = sl.Contrast(positive=sides[0], negative=sides[1])
    sl.find_directions(model, contrast, quality=False, progress=False)
    assert widths == [(3, 9), (6, 2)]


@EACH_HOST
def test_under_a_hook_every_text_runs_whole(host: str, widths: list[tuple[int, ...]]) -> None:
    """A hook of the user's may look at a whole text, and so may a steering's gate."""
    model = build("llama", host)
    prompt = random_rows([9])[0].tolist()
    texts = [Encoded((*prompt, word), 9) for word in (5, 6, 7)]
    steering = sl.add(sl.Direction("blocks.0.hook_resid_post", torch.ones(models.D_MODEL)))
    seen: list[int] = []

    def watch(activation: torch.Tensor, hook: Any) -> None:
        seen.append(activation.shape[1])

    with steering.on(model):
        sl.collect(model, texts, progress=False)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", watch)]):
        sl.collect(model, texts, progress=False)
    assert seen == [10]
    assert widths == [(3, 10), (3, 10)]
    sl.collect(model, texts, progress=False)
    assert widths[2:] == [(1, 9), (3, 1)]


@EACH_HOST
def test_values_a_row_stay_with_their_side(host: str, widths: list[tuple[int, ...]]) -> None:
    model = tiny("llama", host)
    texts = [row.tolist() for row in random_rows([5, 8, 6, 4])]
    direction = sl.Direction("blocks.0.hook_resid_post", torch.ones(models.D_MODEL))
    with sl.add(direction, coeff=[1.0, 2.0]).on(model):
        found = collect_sides(model, [texts[:2], texts[2:]], NAME, progress=False)
    for side, rows in zip(found, (texts[:2], texts[2:]), strict=True):
        for i, (row, coeff) in enumerate(zip(rows, (1.0, 2.0), strict=True)):
            with sl.add(direction, coeff=coeff).on(model):
                [one] = sl.collect(model, [row], NAME, progress=False).examples[NAME]
            torch.testing.assert_close(side.examples[NAME][i], one, atol=2e-5, rtol=2e-5)


NAME = "blocks.2.hook_resid_post"


@EACH_HOST
@pytest.mark.parametrize("architecture", models.EVERY)
def test_models_in_16_bits_are_read(architecture: str, host: str) -> None:
    model = build(architecture, host, torch.bfloat16)
    found = sl.collect(model, ["good w3", "the bad w4"], progress=False)
    assert all(each.mean.isfinite().all() for each in found.values())
