"""Signals: numbers, rows, functions, gates, courses; products fold where both are fixed."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import hosts, tiny
from torch import Tensor
from trials import trials

from steerlens import Basis, Contrast, Direction, collect, of_stream
from steerlens.errors import BadInputError
from steerlens.positions import Window
from steerlens.signals import (
    Combining,
    Constant,
    Cosine,
    Decay,
    Function,
    Hysteresis,
    Latch,
    Memory,
    Moment,
    OfPrompt,
    Probe,
    Product,
    ProjectedCosine,
    Projection,
    Relu,
    Rows,
    Schedule,
    Signal,
    Steps,
    fixed,
    hook_points,
    product,
    signal,
    within,
)

X = Moment(torch.zeros(2, 3, 4))
NAME = "blocks.0.hook_resid_post"
D = Direction(NAME, torch.tensor([3.0, 0.0, 4.0, 0.0]), name="d")
LAW = trials(60)


def read(x: Tensor) -> Tensor:
    return x.sum(-1) + 2


def moment(
    x: Tensor, prompt: int, after: Moment | None = None, start: int = 0, pads: int = 0
) -> Moment:
    """A pass over some columns of a batch of one row, BOS at its first real token."""
    index = torch.arange(start, start + x.shape[1])[None] - pads
    window = Window(
        index=index.clamp_min(-1),
        tokens=None,
        opens_with_bos=torch.tensor([True]),
        prompt_lengths=torch.tensor([prompt]),
        model=tiny("gpt2", hosts()[0]),
        start=start,
        kept={} if after is None else after.placed.kept,
    )
    return Moment(x, window, memory=Memory() if after is None else after.memory)


def test_values() -> None:
    assert signal(3)(X).tolist() == [[3]]
    assert signal([1.0, -1.0])(X).tolist() == [[1], [-1]]
    assert signal(torch.tensor(2))(X).tolist() == [[2]]
    assert signal(torch.tensor([1, 2]))(X).tolist() == [[1], [2]]
    assert signal(read)(X).shape == (2, 3)
    assert signal(0.5)(Moment(X.x.double())).dtype == torch.float64
    assert isinstance(signal(read), Signal)
    assert signal(signal(read)) == Function(read)


def test_products_fold() -> None:
    three, rows = signal(3), signal([1.0, 2.0])
    assert product(signal(1), rows) is rows
    assert product(rows, signal(1)) is rows
    assert product(three, three) == Constant(9.0)
    assert isinstance(product(rows, three), Rows)
    assert product(rows, three)(X).tolist() == [[3], [6]]
    assert product(rows, rows)(X).tolist() == [[1], [4]]
    assert isinstance(product(signal(read), three), Product)
    assert product(signal(read), rows)(X).tolist() == [[2] * 3, [4] * 3]
    assert [fixed(each) for each in (three, rows, signal(read))] == [True, True, False]


def test_ranges() -> None:
    assert within(signal(1), 0, 1)
    assert not within(signal(1.1), 0, 1)
    assert not within(signal([0.5, -0.1]), 0, 1)
    assert within(signal(read), 0, 1), "only a run can tell"


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan], torch.ones(2, 2)])
def test_not_finite_or_not_one_a_row(value: object) -> None:
    with pytest.raises(BadInputError, match="finite number"):
        signal(value)  # type: ignore[arg-type]


def test_rows_of_another_batch() -> None:
    with pytest.raises(BadInputError, match="3 values, one a row, meet a batch of 2 rows"):
        signal([1.0, 2.0, 3.0])(X)


def test_reprs_read_like_the_formula() -> None:
    assert repr(signal(0.12345)) == "0.123"
    assert repr(signal([1.0] * 9)) == "rows(9 values)"
    assert repr(signal([0, 1, 2, 4, 8])) == "rows(0, 1, 2, 4, 8)"
    assert repr(product(signal([1.0, 2.0]), signal([1.0, 2.0]))) == "rows(1, 2) * rows(1, 2)"
    gate = (Cosine(D) > 0.2) & ~Probe(D)
    assert repr(gate) == "(cosine('d') > 0.2) * ~probe('d')"
    assert repr(Latch(Relu(Projection(D), 1.0))) == "latch(relu(projection('d') - 1))"
    assert repr(Probe(D).at("blocks.1.hook_resid_pre")).endswith(".at('blocks.1.hook_resid_pre')")
    assert repr(of_stream(0.1)) == "of_stream(0.1)"
    assert repr(Decay(8)) == "decay(half_life=8)"
    assert repr(Relu(Projection(D), slope=3.0)) == "relu(projection('d'), slope=3)"


@LAW
@given(st.integers(0, 9999), st.floats(-2, 2))
def test_gates_by_hand(seed: int, bias: float) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)).double()
    here, v = Moment(x), D.vector.double()
    dot = x @ v
    torch.testing.assert_close(Probe(D, bias)(here), torch.sigmoid(dot + bias))
    torch.testing.assert_close(Projection(D)(here), dot / 5, atol=1e-6, rtol=0)
    cosine = dot / 5 / x.norm(dim=-1)
    torch.testing.assert_close(Cosine(D)(here), cosine, atol=1e-6, rtol=0)
    torch.testing.assert_close(Relu(Cosine(D), 0.1, 2.0)(here), (2 * (cosine - 0.1)).clamp_min(0))
    assert (Cosine(D) > 0.2)(here).tolist() == (Cosine(D)(here) > 0.2).double().tolist()
    assert (Cosine(D) < 0.2)(here).tolist() == (Cosine(D)(here) < 0.2).double().tolist()
    whole = Basis({NAME: torch.eye(4)}, "abcd")
    torch.testing.assert_close(Cosine(whole)(here), torch.ones(2, 3).double())
    line = Basis({NAME: torch.stack([D.vector, 2 * D.vector])}, "ab")
    torch.testing.assert_close(Cosine(line)(here), cosine.abs(), atol=1e-6, rtol=0)
    torch.testing.assert_close(of_stream(0.3)(here), 0.3 * x.norm(dim=-1))


def test_no_cosine_rounds_beyond_1() -> None:
    """Beyond it a share would be refused, by the luck of the data."""
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 2000, 1, generator=torch.Generator().manual_seed(1)) * vector
    line = Direction(NAME, vector)
    plane = Basis({NAME: torch.stack([vector, vector.flip(0)])}, "ab")
    for score in (Cosine(line), Cosine(plane), ProjectedCosine(Direction(NAME, 1e-4 * vector))):
        for part in (x, x * 1e-3):
            assert score(Moment(part)).abs().max() <= 1


@LAW
@given(st.integers(0, 9999))
def test_soft_gates_obey_de_morgan(seed: int) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)).double()
    a, b, here = Probe(D), Probe(-1 * D, 0.4), Moment(x)
    either, both = (a | b)(here), (a & b)(here)
    torch.testing.assert_close(both, a(here) * b(here))
    torch.testing.assert_close(either, (~(~a & ~b))(here))
    torch.testing.assert_close(either + both, a(here) + b(here))
    assert ~~a is a
    assert ((either >= 0) & (either <= 1)).all()
    assert (~signal(0.25))(here).item() == 0.75
    assert (~signal([0.25, 1.0]))(here).tolist() == [[0.75], [0.0]]


def test_numbers_rows_and_functions_combine() -> None:
    x = torch.randn(2, 3, 4)
    here, probe = Moment(x), Probe(D)
    for made in (probe & 0.5, 0.5 & probe, 0.5 * probe, probe * 0.5, probe & signal(0.5)):
        assert isinstance(made, Combining)
        torch.testing.assert_close(made(here), 0.5 * probe(here))
    torch.testing.assert_close((probe * [1.0, -1.0])(here)[1], -probe(here)[1])
    torch.testing.assert_close((probe & read)(here), probe(here) * read(x))
    for rows in (probe * np.array([1.0, -1.0]), np.array([1.0, -1.0]) * probe):
        torch.testing.assert_close(rows(here)[1], -probe(here)[1])
    torch.testing.assert_close((np.float32(2) * probe)(here), 2 * probe(here))
    torch.testing.assert_close((-probe)(here), -probe(here))
    torch.testing.assert_close(
        Latch(signal(0.3))(moment(x[:1], 1)), torch.tensor([[0.0, 0.3, 0.3]])
    )
    high = (probe >= 0.5)(here) + (probe < 0.5)(here)
    low = (probe <= 0.5)(here) + (probe > 0.5)(here)
    assert (high == 1).all()
    assert (low == 1).all()
    assert (~signal(lambda x: x[..., 0] > 0))(here).dtype == torch.float32


@pytest.mark.host
@pytest.mark.parametrize("host", hosts())
@pytest.mark.parametrize("site", ["hook_resid_post", "attn.hook_z"])
def test_a_fitted_probe_is_the_logistic_regression_of_the_sides(host: str, site: str) -> None:
    from sklearn.linear_model import LogisticRegression

    model, place = tiny("llama", host), f"blocks.1.{site}"
    words = [f"w{i} w{j}" for i in range(6) for j in range(4)]
    contrast = Contrast([f"{each} good" for each in words], [f"{each} bad day" for each in words])
    gate = Probe.fit(model, contrast, place, name="nice")
    read = [collect(model, side, place, progress=False).examples[place].flatten(1)
            for side in (contrast.positive, contrast.negative)]  # fmt: skip
    x, labels = torch.cat(read), [1] * len(words) + [0] * len(words)
    centre = x.mean(0)
    scaled = ((x - centre) / (x - centre).std()).numpy()
    wanted = LogisticRegression(C=1.0, max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    shaped = x.reshape(1, -1, *gate.direction.vector.shape)
    found = gate(Moment(shaped))[0]
    wanted = torch.from_numpy(wanted[:, 1]).double()
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-3)
    assert gate.direction.hook_name == place
    assert repr(gate).startswith("probe('nice', ")


@pytest.mark.host
def test_what_a_probe_is_fitted_to() -> None:
    model, pairs = tiny("llama", hosts()[0]), Contrast(["w1 good", "w2 good"], ["w1 bad", "w2 bad"])
    gate = Probe.fit(model, pairs, ("resid_post", 0))
    assert gate.direction.hook_name == NAME
    assert gate.direction.items == "2 pairs"
    told = gate.direction.provenance
    assert (told["positions"], told["data"]) == ("last_prompt_token", pairs.digest)
    with pytest.raises(BadInputError, match="one hook point"):
        Probe.fit(model, pairs, "resid_post")
    mixed = Contrast([("w1", "good"), ("w2", "good")], ["w1 bad", "w2 bad"])
    with pytest.raises(BadInputError, match="only one has completions"):
        Probe.fit(model, mixed, NAME)
    with pytest.warns(UserWarning, match="it may open on every prompt"):
        OfPrompt(gate > 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OfPrompt(gate, "last")
        OfPrompt(Probe.fit(model, pairs, NAME, positions="everywhere"))


def test_no_comparison_opens_on_what_is_not_a_number() -> None:
    here = Moment(torch.full((1, 1, 1), torch.nan))
    score = signal(lambda x: x[..., 0])
    for gate in (score > 0.3, score >= 0.3, score < 0.3, score <= 0.3):  # type: ignore[operator]
        assert gate(here).tolist() == [[0.0]]
    exact = Moment(torch.full((1, 1, 1), 0.5))
    opened = [each(exact).item() for each in (score >= 0.5, score <= 0.5, score > 0.5)]  # type: ignore[operator]
    assert opened == [1.0, 1.0, 0.0]
    assert repr(score >= 0.5).endswith(">= 0.5)")  # type: ignore[operator]


def test_signals_are_neither_true_nor_false() -> None:
    """`and`, `or`, `not` and chained comparisons would drop a half of what is written."""
    for slip in (
        lambda: 0.1 < Probe(D) < 0.5,
        lambda: (Probe(D) > 0.1) and (Probe(D) > 0.2),
        lambda: not Probe(D),
    ):
        with pytest.raises(BadInputError, match="neither true nor false"):
            slip()


def test_schedules() -> None:
    x = torch.zeros(1, 6, 1)
    assert Schedule([2, 1, 0])(moment(x, 3)).tolist() == [[2, 2, 2, 1, 0, 0]]
    for wrong in ([], [math.nan]):
        with pytest.raises(BadInputError, match="schedule holds"):
            Schedule(wrong)
    for start, stop in ((5, 2), (0, 0), (-1, 3)):
        with pytest.raises(BadInputError, match="holds no step"):
            Steps(start, stop)


@pytest.mark.parametrize("value", ["latch", None, True, {3: 1.0}, ["a"], [], D, Probe])
def test_what_is_no_signal(value: object) -> None:
    with pytest.raises(BadInputError, match=r"no coefficient and no gate|Values a row"):
        signal(value)


def test_values_are_copied() -> None:
    values = torch.tensor([1.0, 2.0])
    made = signal(values)
    values.zero_()
    assert made(X).tolist() == [[1], [2]]


@pytest.mark.parametrize("gate", ["latch", "hysteresis", "of_prompt", "of_last", "decay", "steps"])
@LAW
@given(
    seed=st.integers(0, 9999),
    prompt=st.integers(1, 4),
    cut=st.integers(4, 8),
    pads=st.integers(0, 3),
)
def test_law_2_courses_in_pieces_and_padded(
    gate: str, seed: int, prompt: int, cut: int, pads: int
) -> None:
    """Cut anywhere after the prompt, or padded on the left: the same values."""
    x = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(seed)).double()
    made = {
        "latch": Latch(Probe(D)),
        "hysteresis": Hysteresis(Projection(D), 0.5, -0.5),
        "of_prompt": OfPrompt(Probe(D)),
        "of_last": OfPrompt(Probe(D), "last"),
        "decay": Decay(2.0),
        "steps": Steps(1, 3),
    }[gate]
    whole = made(moment(x, prompt)).expand(1, 9)
    first = moment(x[:, :cut], prompt)
    later = moment(x[:, cut:], prompt, first, cut)
    pieces = [made(each).expand(each.x.shape[:2]) for each in (first, later)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    again = made(moment(x[:, cut:], prompt, first, cut)).expand(1, 9 - cut)
    torch.testing.assert_close(again, whole[:, cut:], msg="a second continuation of one cache")
    junk = torch.full((1, pads, 4), 1e9).double()
    padded = made(moment(torch.cat([junk, x], 1), prompt, pads=pads)).expand(1, 9 + pads)
    torch.testing.assert_close(padded[:, pads:], whole)


def test_a_latch_stays_open_and_leaves_bos_out() -> None:
    x = torch.tensor([9.0, 0, 1, 0, 0]).reshape(1, 5, 1)
    gate = signal(lambda x: x[..., 0])
    assert Latch(gate)(moment(x, 2)).tolist() == [[0, 0, 1, 1, 1]]
    low = torch.tensor([9.0, -3, -1, -3, -2]).reshape(1, 5, 1)
    assert Latch(gate)(moment(low, 2)).tolist() == [[0, -3, -1, -1, -1]]
    latch, first = Latch(gate), moment(low[:, :2], 2)
    later = moment(low[:, 2:], 2, first, 2)
    assert [latch(each).tolist() for each in (first, later)] == [[[0, -3]], [[-1, -1, -1]]]
    high = torch.tensor([9.0, 2, 0.5, -2, 0.5]).reshape(1, 5, 1)
    assert Hysteresis(gate, 1, -1)(moment(high, 2)).tolist() == [[0, 1, 1, 0, 0]]


def test_steps_count_new_tokens() -> None:
    x = torch.zeros(1, 6, 1)
    assert Steps(0, 2)(moment(x, 3)).tolist() == [[0, 0, 1, 1, 0, 0]]
    assert Steps(1)(moment(x, 3)).tolist() == [[0, 0, 0, 1, 1, 1]]
    assert Decay(1)(moment(x, 3)).tolist() == [[1, 1, 1, 0.5, 0.25, 0.125]]


def test_what_a_course_cannot_know() -> None:
    x = torch.zeros(1, 3, 4)
    with pytest.raises(BadInputError, match="filled without it"):
        Latch(Probe(D))(moment(x, 2, start=4))
    with pytest.raises(BadInputError, match="needs the prompt in one pass"):
        OfPrompt(Probe(D))(moment(x, 5))
    with pytest.raises(BadInputError, match="where its tokens stand"):
        Decay(2)(Moment(x))
    with pytest.raises(BadInputError, match="above 0 tokens"):
        Decay(0)
    with pytest.raises(BadInputError, match="lower bound for shutting"):
        Hysteresis(Probe(D), 0.1, 0.9)
    with pytest.raises(BadInputError, match="Nothing reads"):
        Probe(D).at(NAME)(Moment(x))


def test_hook_points_are_found_wherever_they_stand() -> None:
    a, b = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"
    gate = Latch(Probe(D).at(a)) & ~(Relu(Cosine(D).at(b)) | Probe(D))
    assert sorted(hook_points(gate)) == [a, b]
    assert list(hook_points(Probe(D))) == []
