"""Tasks against hand computation, and the laws that all of them keep."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import hosts, tiny
from trials import trials

import steerlens as sl
from steerlens.demo import load_model, world
from steerlens.demo.model import load_hf
from steerlens.demo.sampling import Subject, log_probs
from steerlens.demo.tasks import neutral_in_world, of_world, replies_in_world
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.evaluation import choices as choosing
from steerlens.evaluation import completions, divergence, perplexity, predicting, scoring
from steerlens.evaluation.choices import Choice, MultipleChoice, Propensity
from steerlens.evaluation.continuation import Continuation, read
from steerlens.evaluation.loading import from_contrast
from steerlens.evaluation.metrics import steerability
from steerlens.evaluation.scoring import token_divergences, token_entropies, token_log_probs
from steerlens.evaluation.tasks import Neutral, Scores, Task, one_of
from steerlens.text import encode

pytestmark = pytest.mark.host
ITEMS = [
    Choice("good w1 w2", [" w3", " w4 w5 w6", " w7"], [1]),
    Choice("the bad", [" w8 w9", " w8"], [0]),
    Choice("not w10 happy w11", [" sad", " w12", " w13 w14", " good"], [0, 2]),
]
PAIRS = [
    Choice("good w1 w2", [" w3", " w4"], [0]),
    Choice("the bad", [" w5 w6 w7", " w5 w8"], [1]),
]
COEFFS = [0.0, 1.0, -0.5]


def total(prompt: str, text: str) -> float | str:
    """Add up the numbers of a text's words; one without any cannot be read."""
    found = [float(word[1:]) for word in text.split() if word.startswith("w")]
    return sum(found) if found else "unparsed"


TASKS = [
    MultipleChoice("choice", ITEMS, "log_odds"),
    MultipleChoice("normalised", ITEMS, "probability", "byte"),
    Propensity("logit", PAIRS),
    Propensity("mean", PAIRS, "mean_log_probability"),
    Continuation("number", ["good w1", "the bad w2 w3", "sad"], total, 8),
    Neutral("plain", ["good w1 w2 w3", "the bad w4"]),
    Neutral("moved", ["good w1 w2 w3", ("the bad", " w4 w5")], "kl"),
]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@pytest.fixture(params=hosts())
def model(request: pytest.FixtureRequest) -> Any:
    return tiny("llama", request.param)


@pytest.fixture
def steering(model: Any) -> sl.Steering:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(model.cfg.d_model, generator=generator)
    direction = sl.Direction("blocks.1.hook_resid_post", vector)
    return sl.add(direction, 2.0, positions="predicting")


def test_tasks_and_scores_are_told_in_a_line() -> None:
    found = [repr(task) for task in TASKS]
    assert found[0] == "MultipleChoice('choice', 3 items, log_odds)", found
    assert found[4] == "Continuation('number', 3 prompts, judged by total)"
    assert found[5] == "Neutral('plain', 2 texts, log_probability)"
    scores = Scores(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[True, True]] * 2))
    assert repr(scores) == "Scores(2 items at 2 coefficients, means 0.5, 1, 100% parsed)"


def token_logps(model: Any, steering: sl.Steering, coeff: float, item: Any) -> torch.Tensor:
    """Log-probabilities of a completion's tokens, of one text in one pass, token by token."""
    encoded = encode(model, item)
    ids, start = torch.tensor(encoded.tokens), encoded.prompt_length
    with torch.no_grad(), (coeff * steering).on(model, prompt_lengths=[start]):
        logps = model(ids[None])[0].log_softmax(-1)
    return torch.stack([logps[i - 1, ids[i]] for i in range(start, len(ids))])


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


# Against hand computation


def test_options_are_scored_by_their_log_probability(model: Any, steering: sl.Steering) -> None:
    asked = [[(item.prompt, option) for option in item.options] for item in ITEMS]
    by_hand = [[[token_logps(model, steering, -0.5, each) for each in row]] for row in asked]
    divisors = {"raw": lambda logps, text: 1, "token": lambda logps, text: len(logps)}
    divisors["byte"] = lambda logps, text: len(text)
    for length, divisor in divisors.items():
        task = MultipleChoice("choice", ITEMS, length=length)  # type: ignore[arg-type]
        found = task.option_log_probs(model, steering, [-0.5])
        for item, logps, each in zip(ITEMS, by_hand, found, strict=True):
            wanted = [
                [
                    float(part.sum()) / divisor(part, text)
                    for part, text in zip(row, item.options, strict=True)
                ]
                for row in logps
            ]
            close(each, torch.tensor(wanted))


@pytest.mark.parametrize(
    ("measure", "wanted"),
    [
        ("accuracy", [0.0, 1.0, 0.5]),
        ("probability", [0.4, 0.9, 0.5]),
        ("log_probability", [math.log(0.4), math.log(0.9), math.log(0.2)]),
        ("log_odds", [math.log(0.4 / 0.6), math.log(9.0), 0.0]),
    ],
)
def test_measures_by_hand(measure: Any, wanted: list[float]) -> None:
    item = Choice("", ["a", "b", "c"], [0, 2])
    options = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.1, 0.2, 0.1]])
    if measure == "accuracy":
        options[2] = 0.2  # a tie
    close(choosing.score(options.log(), item, measure), torch.tensor(wanted))


def test_a_logit_difference_is_taken_where_answers_part(model: Any, steering: sl.Steering) -> None:
    found = Propensity("logit", PAIRS).scores(model, steering, COEFFS).values
    word = model.tokenizer.convert_tokens_to_ids
    texts = [(("good w1 w2", ""), "w3", "w4", 4), (("the bad", " w5"), "w8", "w6", 3)]
    for row, coeff in enumerate(COEFFS):
        for column, ((prompt, shared), right, wrong, length) in enumerate(texts):
            tokens = model.to_tokens(prompt + shared)
            with torch.no_grad(), (coeff * steering).on(model, prompt_lengths=[length]):
                logits = model(tokens)[0, -1]
            wanted = float(logits[word(right)] - logits[word(wrong)])
            assert float(found[row, column]) == pytest.approx(wanted, abs=5e-5)


def test_propensity_is_the_log_odds_of_two_options(model: Any, steering: sl.Steering) -> None:
    odds = MultipleChoice("odds", PAIRS, "log_odds").scores(model, steering, COEFFS)
    lean = Propensity("lean", PAIRS, "log_probability").scores(model, steering, COEFFS)
    close(lean.values, odds.values)
    per_token = MultipleChoice("odds", PAIRS, "log_odds", "token").scores(model, steering, COEFFS)
    mean = Propensity("lean", PAIRS, "mean_log_probability").scores(model, steering, COEFFS)
    close(mean.values, per_token.values)
    logit = Propensity("lean", PAIRS).scores(model, steering, COEFFS)
    close(logit.values[:, 0], lean.values[:, 0])  # answers of one token


def test_neutral_text_is_scored_from_its_beginning(model: Any, steering: sl.Steering) -> None:
    texts = ["good w1 w2 w3", "the bad w4"]
    items = [encode(model, text).tokens for text in texts]
    found = Neutral("plain", texts).scores(model, steering, COEFFS)
    for row, coeff in enumerate(COEFFS):
        for column, ids in enumerate(items):
            with torch.no_grad(), (coeff * steering).on(model, prompt_lengths=[1]):
                logps = model(torch.tensor([ids]))[0].log_softmax(-1)
            wanted = torch.stack([logps[i - 1, ids[i]] for i in range(1, len(ids))]).mean()
            assert float(found.values[row, column]) == pytest.approx(float(wanted), abs=2e-5)
    base = Neutral("plain", texts).scores(model)
    given_bos = Neutral("plain", texts).encoded(model)
    assert float((-base.mean).exp()) == pytest.approx(perplexity(model, given_bos), rel=1e-5)


def test_neutral_kl_is_the_divergence(model: Any, steering: sl.Steering) -> None:
    items = [("good w1", " w2 w3"), ("the bad", " w4")]
    found = Neutral("kl", items, "kl").scores(model, steering, COEFFS).values
    assert torch.equal(found, -divergence(model, steering, items, COEFFS))
    assert found[1].max() < -0.01
    assert not Neutral("kl", items, "kl").scores(model, None, COEFFS).values.any()


def test_tokens_one_by_one(model: Any, steering: sl.Steering) -> None:
    items = [("good w1", " w2 w3"), ("bad", " w4"), ("good w1", " w2 w5")]
    logps = token_log_probs(model, items, steering, COEFFS, batch_tokens=9)
    nats = token_divergences(model, steering, items, COEFFS, batch_tokens=9)
    entropies = token_entropies(model, items, steering, COEFFS)
    for number, item in enumerate(items):
        close(logps[number][2], token_logps(model, steering, COEFFS[2], item))
        encoded = encode(model, item)
        start, every = encoded.prompt_length, []
        for coeff in (COEFFS[0], COEFFS[2]):
            with torch.no_grad(), (coeff * steering).on(model, prompt_lengths=[start]):
                logits = model(torch.tensor([encoded.tokens]))
            every.append(logits[0, start - 1 : -1].log_softmax(-1))
        base, steered = every
        close(nats[number][2], (base.exp() * (base - steered)).sum(-1))
        close(entropies[number][2], -(steered.exp() * steered).sum(-1))
        close(entropies[number][0], -(base.exp() * base).sum(-1))


# Laws


@each_task
def test_a_row_is_the_coefficient_alone(model: Any, steering: sl.Steering, task: Task) -> None:
    assert isinstance(task, Task)
    together = task.scores(model, steering, COEFFS).values
    assert together.shape == (len(COEFFS), len(task))
    close(together[0], task.scores(model).values[0])
    close(together[2], task.scores(model, -0.5 * steering).values[0])
    assert (together[0] - together[1]).abs().max() > 0.01  # it is a steering that shows
    unsteered = task.scores(model, None, COEFFS).values
    close(unsteered, together[:1].expand(len(COEFFS), -1))


@each_task
def test_a_part_scores_as_the_whole(model: Any, steering: sl.Steering, task: Any) -> None:
    order = [len(task) - 1, 0]
    part = task.part(order)
    assert (part.name, len(part)) == (task.name, 2)
    close(
        part.scores(model, steering, COEFFS).values,
        task.scores(model, steering, COEFFS).values[:, order],
    )
    assert part.part([1]) == task.part([0])
    with pytest.raises(BadInputError, match=f"there is no item {len(task)}"):
        task.part([len(task)])


@each_task
def test_a_task_travels_to_other_processes(task: Any) -> None:
    assert pickle.loads(pickle.dumps(task)) == task


@given(
    logps=st.lists(st.floats(-50, 0), min_size=2, max_size=6),
    shift=st.floats(-20, 20),
    data=st.data(),
)
@trials(100)
def test_measures_agree_with_each_other(logps: list[float], shift: float, data: Any) -> None:
    count = len(logps)
    places = st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1)
    item = Choice("", ["a"] * count, list(data.draw(places)))
    options = torch.tensor([logps], dtype=torch.float64)
    scored = {m: choosing.score(options, item, m) for m in choosing.get_args(choosing.Measure)}
    assert 0 <= scored["probability"] <= 1 + 1e-9
    close(scored["log_odds"].sigmoid(), scored["probability"])
    assert (scored["accuracy"] > 0) or (scored["log_odds"] < math.log(count))
    order = data.draw(st.permutations(range(count)))
    moved = Choice("", ["a"] * count, [order.index(place) for place in item.right])
    for measure, wanted in scored.items():
        close(choosing.score(options[:, order], moved, measure), wanted)
    # What all options share tells none of them apart.
    for measure in ("probability", "log_odds"):
        close(choosing.score(options + shift, item, measure), scored[measure])


def test_options_of_one_token_share_a_pass(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = predicting.log_probs_at

    def counted(model: Any, batch: Any, mask: Any) -> torch.Tensor:
        rows.append(len(batch.tokens))
        return original(model, batch, mask)

    monkeypatch.setattr(predicting, "log_probs_at", counted)
    MultipleChoice("one", [Choice("good w1", [" w2", " w3", " w4"], [0])]).scores(model)
    assert sum(rows) == 1


# Judges


def test_what_a_judge_cannot_read_is_a_class_of_its_own(model: Any, steering: sl.Steering) -> None:
    def judge(prompt: str, text: str) -> float | None:
        return None if prompt == "sad" else 2.0

    task = Continuation("number", ["good w1", "sad"], judge, 3, unparsed=-7.0)
    scores = task.scores(model, steering, COEFFS)
    assert scores.values.tolist() == [[2.0, -7.0]] * 3
    assert scores.parsed is not None
    assert scores.parsed.tolist() == [[True, False]] * 3
    assert scores.parsed_share.tolist() == [0.5] * 3
    assert scores.mean.tolist() == [-2.5] * 3
    assert Scores(torch.ones(2, 3)).parsed_share.tolist() == [1.0, 1.0]


def test_what_no_text_counts_is_a_whole_number_too(model: Any) -> None:
    scores = Continuation("none", ["good w1", "sad"], lambda *_: None, 1, unparsed=-1).scores(model)
    assert scores.mean.tolist() == [-1.0]


def test_judges_read_what_was_written(model: Any, steering: sl.Steering) -> None:
    seen: list[tuple[str, str]] = []

    def judge(prompt: str, text: str) -> float:
        seen.append((prompt, text))
        return float(len(text))

    prompts = ["good w1", "the bad w2 w3", "sad"]
    task = Continuation("length", prompts, judge, 4, temperature=0)
    scores = task.scores(model, steering, [1.0, 0.0])
    wanted = [
        *completions(model, prompts, steering, max_new_tokens=4, temperature=0),
        *completions(model, prompts, max_new_tokens=4, temperature=0),
    ]
    assert seen == [(each.prompt, each.text) for each in wanted]
    assert scores.values.flatten().tolist() == [len(each.text) for each in wanted]


def test_the_dice_of_an_item_are_its_own(model: Any, steering: sl.Steering) -> None:
    task = Continuation("dice", ["good w1"] * 6, total, 6)
    written = task.written(model, steering, [0.0, 0.0], seed=3)
    assert written[0] == written[1]
    assert len({each.text for each in written[0]}) > 3
    assert task.written(model, steering, [0.0], seed=4) != written[:1]
    assert task.part([4, 2]).written(model, None, seed=3)[0] == [written[0][4], written[0][2]]


@pytest.mark.parametrize(
    ("judgement", "wanted"),
    [
        (True, 1.0),
        (-3, -3.0),
        (torch.tensor(0.5), 0.5),
        ("positive", 1.0),
        ("neutral", 0.0),
        ("negative", -1.0),
        ("unparsed", None),
        (None, None),
        (math.nan, None),
    ],
)
def test_judgements(judgement: Any, wanted: float | None) -> None:
    assert read(judgement) == wanted


@pytest.mark.parametrize("judgement", ["good", "1.0", math.inf])
def test_other_judgements_are_refused(judgement: Any) -> None:
    with pytest.raises(BadInputError, match="positive, neutral, negative, unparsed"):
        read(judgement)


# What cannot be


def test_what_is_no_task_is_refused(model: Any) -> None:
    with pytest.raises(BadInputError, match="needs a list of one item or more; got '\\[\\]'"):
        MultipleChoice("none", [])
    with pytest.raises(BadInputError, match="needs a list of one item or more"):
        Neutral("one", "a text")
    with pytest.raises(BadInputError, match="Item 0 of 'three' has 3 options"):
        Propensity("three", ITEMS)
    with pytest.raises(UnknownNameError, match="no measure 'acuracy'; nearest: 'accuracy'"):
        one_of("measure", "acuracy", ["accuracy", "probability"])
    with pytest.raises(BadInputError, match="one only goes on with the other"):
        Propensity("same", [Choice("good", [" w1", " w1 w2"], [0])]).scores(model)
    with pytest.raises(BadInputError, match=r"a list of one or more; got \[\]"):
        MultipleChoice("choice", ITEMS).scores(model, None, [])
    with pytest.raises(BadInputError, match="Item 0 has no prompt"):
        scoring.log_probability(model, [sl.text.Encoded((5, 6), 0)])


def unchecked(right: Any) -> Choice:
    """A choice as a notebook makes it, where no type checker looks on."""
    made = object.__new__(Choice)
    for name, value in {"prompt": "a", "options": [" b", " c"], "right": right}.items():
        object.__setattr__(made, name, value)
    made.__post_init__()
    return made


@pytest.mark.parametrize("right", [1, [True, 1], {1}, torch.tensor([1]), np.arange(1, 2)])
def test_places_of_right_options_are_plain_numbers(right: Any) -> None:
    assert repr(unchecked(right)) == repr(Choice("a", [" b", " c"], [1]))
    for wrong in (" c", 0.5, [1.0], None):
        with pytest.raises(BadInputError, match="Give the places of its right options"):
            unchecked(wrong)


@pytest.mark.parametrize(
    ("options", "right", "fact"),
    [
        (["a", ""], [0], "empty option"),
        (["a", "b"], [2], "2 options; none is 2"),
        (["a", "b"], [], "0 right options of 2"),
        (["a", "b"], [0, 1], "2 right options of 2"),
    ],
)
def test_what_is_no_choice_is_refused(options: list[str], right: list[int], fact: str) -> None:
    with pytest.raises(BadInputError, match=fact):
        Choice("prompt", options, right)


# The bundled world


@pytest.mark.parametrize("name", ["honesty", "brief_care"])
def test_the_worlds_tasks_score_as_its_own_evaluation(name: str) -> None:
    items = world.TASKS[name].items("validation", 4, 1)
    ends = [(item.prompt, option) for item in items for option in item.options]
    wanted = log_probs(Subject(*load_hf(), split="validation", n=4, seed=1), ends)
    task = of_world(name, "validation", 4, 1)
    found = task.option_log_probs(load_model())
    torch.testing.assert_close(
        torch.cat(found, dim=1)[0], torch.tensor(wanted), atol=2e-3, rtol=1e-4
    )
    assert [item.right for item in task.items] == [(item.answer,) for item in items]
    assert of_world(name, "test", 4, 1) != task


def test_the_worlds_replies_and_neutral_texts() -> None:
    task = replies_in_world("rudeness", "validation", 6, max_new_tokens=20)
    scores = task.scores(load_model())
    assert scores.parsed is not None
    assert scores.parsed.any()
    assert set(scores.values.unique().tolist()) <= {-1.0, 0.0, 1.0}
    texts = neutral_in_world("rudeness", "validation", 6)
    assert 1 < float((-texts.scores(load_model()).mean).exp()) < 100
    for unknown in (of_world, replies_in_world, neutral_in_world):
        with pytest.raises(UnknownNameError, match="nearest: 'rudeness'"):
            unknown("rudness", "test")


def test_a_direction_found_on_one_split_steers_another() -> None:
    model = load_model()
    fit, rest = (
        sl.Contrast.from_pairs(world.contrast("formality", split, n))
        for split, n in (("fit", 24), ("validation", 12))
    )
    found = sl.find_directions(model, fit, quality=False, placebos=0, progress=False)
    direction = found["resid_post", 3]
    steering = sl.add(direction, direction.stream_norm / direction.norm, positions="predicting")
    coeffs = [-0.3, 0.0, 0.3]
    task = from_contrast(rest, "formality", measure="log_probability")
    answer = steerability(task.scores(model, steering, coeffs).values, coeffs)
    assert answer.slope > 2
    assert answer.anti_steerable < 0.3
    against = steerability(task.scores(model, -steering, coeffs).values, coeffs)
    close(against.slopes, -answer.slopes)
