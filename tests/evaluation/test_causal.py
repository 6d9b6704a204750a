"""The causal check against interchange done by hand, and where the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import hosts, tiny

import steerlens as sl
from steerlens.evaluation import causal_check, causal_effect

pytestmark = pytest.mark.host
HOOK = "blocks.1.hook_resid_post"
LAST = "blocks.2.hook_resid_post"
PAIRS = sl.Contrast(
    positive=["good w1 w2", "w3 happy", "w4 w5 w6 good w7", "good"],
    negative=["bad w1 w2", "w3 w8 sad", "w4 w5 w6 bad w7", "w9 bad"],
)
ONE = sl.Contrast(PAIRS.positive[:1], PAIRS.negative[:1])


@pytest.fixture(params=hosts())
def model(request: pytest.FixtureRequest) -> Any:
    return tiny("llama", request.param)


@pytest.fixture
def one() -> Any:
    """The first host alone: what is tested does not touch the host's own ways."""
    return tiny("llama", hosts()[0])


def direction(seed: int = 0, hook: str = HOOK) -> sl.Direction:
    return sl.Direction(hook, torch.randn(32, generator=torch.Generator().manual_seed(seed)))


Hook = Callable[[torch.Tensor, Any], torch.Tensor]


def logps(model: Any, text: str, hook: Hook | None = None, name: str = HOOK) -> torch.Tensor:
    with torch.no_grad():
        hooks = [] if hook is None else [(name, hook)]
        return model.run_with_hooks(model.to_tokens(text), fwd_hooks=hooks)[0].log_softmax(-1)


def stream(model: Any, text: str, name: str = HOOK) -> torch.Tensor:
    return model.run_with_cache(model.to_tokens(text))[1][name][0]


def kl(goal: torch.Tensor, found: torch.Tensor) -> float:
    return float((goal.exp() * (goal - found)).sum())


def test_interchange_at_the_last_token_by_hand(model: Any) -> None:
    unit = direction().unit().vector
    moved = gap = 0.0
    for pair in zip(PAIRS.positive, PAIRS.negative, strict=True):
        for text, partner in (pair, pair[::-1]):
            theirs = stream(model, partner)[-1]

            def put(h: torch.Tensor, hook: Any, theirs: torch.Tensor = theirs) -> torch.Tensor:
                h = h.clone()
                h[0, -1] += unit * ((theirs - h[0, -1]) @ unit)
                return h

            goal = logps(model, partner)[-1]
            before = kl(goal, logps(model, text)[-1])
            moved += before - kl(goal, logps(model, text, put)[-1])
            gap += before
    found = causal_effect(model, direction(), PAIRS, randoms=2)
    assert found.moved == pytest.approx(moved / gap, abs=1e-4)
    assert (found.pairs, found.randoms) == (4, 2)


def test_log_odds_of_answers_by_hand(one: Any) -> None:
    """An answer of two tokens; positions over the whole text, but not over the answer."""
    unit = direction().unit().vector
    texts, odds = (ONE.positive[0], ONE.negative[0]), []
    means = [stream(one, text)[1:].mean(0) for text in texts]  # BOS is left out
    shift = unit * ((means[0] - means[1]) @ unit)
    for text, sign in ((texts[0], 0), (texts[1], 0), (texts[1], 1), (texts[0], -1)):
        length = one.to_tokens(text).shape[1]

        def put(h: torch.Tensor, hook: Any, sign: int = sign, end: int = length) -> torch.Tensor:
            h = h.clone()
            h[0, 1:end] += sign * shift
            return h

        each = []
        for answer in (" w10 good", " bad"):
            ids = one.to_tokens(text + answer)[0]
            found = logps(one, text + answer, put)
            places = range(length, len(ids))
            each.append(sum(float(found[i - 1, ids[i]]) for i in places))
        odds.append(each[0] - each[1])
    gap = odds[0] - odds[1]
    answers = (" w10 good", " bad") if gap > 0 else (" bad", " w10 good")
    found = causal_effect(one, direction(), ONE, answers=answers, positions="everywhere", randoms=1)
    wanted = ((odds[2] - odds[1]) + (odds[0] - odds[3])) / (2 * gap)
    assert found.moved == pytest.approx(wanted, abs=1e-3)
    assert found.metric == "log-odds of the answers"
    with pytest.raises(sl.SteerLensError, match="do not differ as they should"):
        causal_effect(one, direction(), ONE, answers=answers[::-1], randoms=1)


@pytest.mark.parametrize("answers", [None, (" good", " w1")])
def test_the_whole_last_stream_carries_everything(one: Any, answers: Any) -> None:
    if answers is not None:
        answers = [_fitting(one, pair, answers) for pair in zip(*_texts(), strict=True)]
    found = causal_effect(one, direction(0, LAST), PAIRS, answers=answers, randoms=2)
    assert found.whole == pytest.approx(1, abs=1e-3)


def _texts() -> tuple[Any, Any]:
    return PAIRS.positive, PAIRS.negative


def _fitting(model: Any, pair: tuple[str, str], answers: tuple[str, str]) -> tuple[str, str]:
    """The answers in the order that the pair's positive text favours."""
    ids = [int(model.to_tokens("w2" + answer)[0, -1]) for answer in answers]
    odds = [float(logps(model, text)[-1, ids] @ torch.tensor([1.0, -1.0])) for text in pair]
    return answers if odds[0] > odds[1] else answers[::-1]


def test_the_difference_of_the_only_pair_carries_all_of_it(one: Any) -> None:
    vector = stream(one, ONE.positive[0])[-1] - stream(one, ONE.negative[0])[-1]
    found = causal_effect(one, sl.Direction(HOOK, vector), ONE, randoms=5)
    assert found.moved == pytest.approx(found.whole, abs=1e-3)
    assert abs(found.moved) > 0.01
    assert found.interval[0] != found.interval[0]


def test_a_direction_in_which_pairs_agree_moves_nothing(one: Any) -> None:
    gaps = [
        stream(one, first)[-1] - stream(one, second)[-1]
        for first, second in zip(*_texts(), strict=True)
    ]
    axes = torch.linalg.qr(torch.stack(gaps).T).Q
    vector = direction().vector - axes @ (axes.T @ direction().vector)
    found = causal_effect(one, sl.Direction(HOOK, vector), PAIRS, randoms=9)
    assert found.moved == pytest.approx(0, abs=1e-4)
    assert found.interval == pytest.approx((0, 0), abs=1e-3)


def test_completions_count_as_text(model: Any) -> None:
    items = sl.Contrast.from_pairs([(("good", " w1 w2"), ("bad", " w1 w2"))])
    plain = sl.Contrast.from_pairs([("good w1 w2", "bad w1 w2")])
    first, second = (causal_effect(model, direction(), each, randoms=1) for each in (items, plain))
    assert first.moved == pytest.approx(second.moved, abs=1e-6)


def test_the_check_stands_in_the_quality_card(one: Any) -> None:
    found = sl.find_directions(one, PAIRS, placebos=2, progress=False)["resid_post", 1]
    assert "not checked" in found._repr_html_()
    assert "moves" not in repr(found)
    checked = causal_check(one, found, PAIRS, randoms=4)
    assert checked.quality is not None
    assert checked.quality.causal == causal_effect(one, found, PAIRS, randoms=4)
    assert "rank" in checked._repr_html_()
    assert "of the gap in KL of the next token" in checked._repr_html_()
    assert "moves" in repr(checked)
    assert torch.equal(checked.vector, found.vector)
    assert (2 * checked).quality is None
    with pytest.raises(sl.SteerLensError, match="no quality to show this beside"):
        causal_check(one, direction(), PAIRS)


def test_pairs_are_needed_and_as_many_answers(one: Any) -> None:
    unpaired = sl.Contrast(PAIRS.positive, PAIRS.negative, paired=False)
    with pytest.raises(sl.SteerLensError, match="needs pairs"):
        causal_effect(one, direction(), unpaired)
    with pytest.raises(sl.SteerLensError, match="2 pairs of answers do not fit 4"):
        causal_effect(one, direction(), PAIRS, answers=[(" good", " bad")] * 2)
    same = sl.Contrast(["good w1"] * 2, ["good w1"] * 2)
    with pytest.raises(sl.SteerLensError, match="do not differ"):
        causal_effect(one, direction(), same, randoms=1)
