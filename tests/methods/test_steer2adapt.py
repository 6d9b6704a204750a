"""Steer2Adapt: its objective and searches on plain tensors, its compositions on plain hooks."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import CONTRAST, behaves, by_hand, close, logits
from cases import EACH_HOST
from models import D_MODEL, forward, hosts, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.evaluation import Choice, MultipleChoice, divergence
from steerlens.methods import steer2adapt as s2a
from steerlens.methods.composing import by_row, family
from steerlens.methods.objective import Answers, answers, balanced, objective
from steerlens.methods.prior import default_layers
from steerlens.methods.searching import Search, search

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
QUIET: dict[str, Any] = dict(progress=False)
ONE_HOST = pytest.mark.parametrize("host", hosts()[:1])
METHODS = ("gp", "tpe", "cem", "random", "coordinate")
WORDS = ("good", "bad", "happy", "sad")
DICE = torch.Generator().manual_seed(0)


def basis(k: int = 3, seed: int = 0, length: float = 1.0) -> sl.Basis:
    dice = torch.Generator().manual_seed(seed)
    vectors = {hook: length * torch.randn(k, D_MODEL, generator=dice) for hook in HOOKS}
    return sl.Basis(vectors, [f"c{i}" for i in range(k)], "concepts")


def task(n: int = 8, name: str = "words") -> MultipleChoice:
    """Two to four options, of one token or two, after prompts of other lengths."""
    items = []
    for i in range(n):
        prompt = " ".join(f"w{(7 * i + j) % 30}" for j in range(2 + i % 4))
        options = [f" {word}" + (" the" if i % 3 == 0 else "") for word in WORDS[: 2 + i % 3]]
        items.append(Choice(prompt, options, [i % 2]))
    return MultipleChoice(name, items)


def leaving_nothing(model: Any) -> Callable[[], int]:
    def hooks() -> int:
        gc.collect()
        points = model.hook_dict.values()
        return sum(len(point.fwd_hooks) + len(point._forward_hooks) for point in points)

    return hooks


# The objective


def test_the_defaults_are_the_papers() -> None:
    config = s2a.Config()
    assert config.flip > config.drop > 1
    assert (config.flip, config.drop, config.positions) == (10.0, 2.0, "everywhere")
    assert (config.search.bound, config.search.budget) == (3.0, 50)
    assert (config.search.population, config.search.elite) == (32, 0.2)
    assert default_layers(32) == [8, 10, 12, 14, 16, 18, 20, 22, 24]


def random_answers(candidates: int, items: int) -> Answers:
    p = torch.rand(candidates, items, generator=DICE)
    return Answers(p, torch.rand(candidates, items, generator=DICE) > 0.4)


def test_j_item_by_item() -> None:
    base, under = random_answers(1, 9), random_answers(20, 9)
    found = objective(under, base, flip=7.0, drop=3.0)
    for c in range(20):
        gain = flips = drop = 0.0
        for i in range(9):
            p, p0 = float(under.probability[c, i]), float(base.probability[0, i])
            if not base.right[0, i]:
                gain += p - p0
            else:
                flips += 0.0 if under.right[c, i] else 1.0
                drop += max(0.0, p0 - p)
        assert float(found.value[c]) == pytest.approx(gain - 7 * flips - 3 * drop, abs=1e-4)
        assert float(found.flips[c]) == flips
    assert found.flips.max() > 0


def test_j_of_no_change_is_zero_and_nan_is_the_worst() -> None:
    base = random_answers(1, 8)
    assert objective(base, base).value.tolist() == [0.0]
    broken = Answers(base.probability.clone().fill_(torch.nan), base.right & False)
    worst = Answers(torch.where(base.right, 0.0, -0.0), base.right & False)
    assert float(objective(broken, base).value) <= float(objective(worst, base).value)
    assert objective(broken, base).value.isfinite().all()


def test_balanced() -> None:
    right = [i % 3 == 0 for i in range(30)]
    picked = balanced(right, 6, 6, seed=1)
    assert len(set(picked)) == 12
    assert sum(right[i] for i in picked) == 6
    assert picked == balanced(right, 6, 6, seed=1) != balanced(right, 6, 6, seed=2)
    with pytest.raises(BadInputError, match="there are 10 among 30"):
        balanced(right, 11, 6)
    with pytest.raises(BadInputError, match="gets wrong are asked for"):
        balanced(right, 0, 21)
    with pytest.raises(BadInputError, match="No examples"):
        balanced(right, 0, 0)


# The search


def hill(top: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda weights: -(weights.double() - top).square().sum(1)


@pytest.mark.parametrize("method", METHODS)
def test_every_search_climbs_within_its_budget_and_box(method: Any) -> None:
    top = torch.tensor([1.5, -0.8]).double()
    asked: list[int] = []

    def scored(weights: Tensor) -> Tensor:
        asked.append(len(weights))
        return hill(top)(weights)

    zero = float(hill(top)(torch.zeros(1, 2)))
    budget = 12 if method == "gp" else 25
    config = Search(method, budget=budget, bound=2.0, patience=None, population=8, seed=3)
    found = search(scored, 2, config, zero=zero, **QUIET)
    assert sum(asked) == budget
    assert (len(found.weights), len(found.values)) == (budget + 1, budget + 1)
    assert not found.weights[0].any()
    assert float(found.weights.abs().max()) <= 2.0 + 1e-6
    assert float(found.values[found.best]) > zero / 4
    assert found.values[found.best] == found.values.max()
    torch.testing.assert_close(found.values[1:], hill(top)(found.weights[1:].float()))
    if method == "gp":
        return
    again = search(hill(top), 2, config, zero=zero, **QUIET)
    assert torch.equal(again.weights, found.weights)
    if method != "coordinate":
        other = search(hill(top), 2, replace(config, seed=4), zero=zero, **QUIET)
        assert not torch.equal(other.weights, found.weights)


def test_bayes_learns_more_than_dice() -> None:
    """On a smooth hill of three dimensions, at equal budget."""
    top = torch.tensor([2.0, -1.0, 0.5]).double()

    def best(method: Any) -> float:
        way = Search(method, budget=16, patience=None, batch=2)
        return float(search(hill(top), 3, way, zero=-5.25, **QUIET).values.max())

    assert best("gp") > -0.2
    assert best("random") < -0.5


def test_cem_draws_around_its_elite() -> None:
    """The second generation has the mean and spread of the best fifth of the first."""
    config = Search("cem", budget=4032, population=2016, elite=0.1, patience=None, bound=5.0)
    found = search(lambda w: w[:, 0].double(), 2, config, zero=0.0, **QUIET)
    first, second = found.weights[1:2017], found.weights[2017:]
    elite = first[found.values[1:2017].argsort(descending=True)[:202]]
    free = second[:, 1]
    assert float(free.mean()) == pytest.approx(float(elite[:, 1].mean()), abs=0.2)
    assert float(free.std()) == pytest.approx(float(elite[:, 1].std()), rel=0.1)
    assert float(second[:, 0].min()) > float(first[:, 0].mean())


def test_it_stops_where_nothing_is_gained_and_says_so() -> None:
    flat: Any = lambda weights: torch.full((len(weights),), -1.0)  # noqa: E731
    found = search(flat, 2, Search("random", budget=50, patience=12), **QUIET)
    assert found.best == 0
    assert len(found.values) == 16
    assert found.stopped == "the last 15 of 15 candidates gained nothing"
    slow: Any = lambda weights: 1e-4 * torch.rand(len(weights))  # noqa: E731
    assert "gained nothing" in search(slow, 2, Search("random", patience=10), **QUIET).stopped
    ran = search(flat, 2, Search("random", budget=20, patience=None), **QUIET)
    assert (len(ran.values), ran.stopped) == (21, "the budget of 20 is spent")


def test_optuna_is_left_as_it_was() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    search(hill(torch.ones(1).double()), 1, Search("tpe", budget=6), zero=-1.0, **QUIET)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_searches_that_cannot_be() -> None:
    for wrong in (dict(budget=0), dict(batch=0), dict(bound=0.0), dict(elite=1.0)):
        with pytest.raises(BadInputError, match=next(iter(wrong))):
            Search(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="finite scores"):
        search(lambda w: w[:, 0] * torch.nan, 2, Search("random"), **QUIET)
    with pytest.raises(BadInputError, match="flip is a finite number"):
        s2a.Config(flip=-1.0)


# Compositions


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_a_composition_by_hand_and_one_hot(architecture: str, host: str) -> None:
    """h + V α at each layer; with one weight it is that vector's own steering."""
    model, concepts = tiny(architecture, host), basis()
    weights = [0.7, -1.3, 0.4]
    sums = {hook: torch.tensor(weights) @ v for hook, v in concepts.vectors.items()}

    def added(vector: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda activation: torch.cat([activation[:, :1], activation[:, 1:] + vector], 1)

    hand = by_hand(model, {hook: added(v) for hook, v in sums.items()})
    found = logits(model, s2a.composed(concepts, weights))
    assert close(found, hand)
    assert not close(found, logits(model))
    alone = logits(model, 2 * sl.add(list(concepts["c1"].values())))  # type: ignore[union-attr]
    torch.testing.assert_close(
        logits(model, s2a.composed(concepts, {"c1": 2.0})), alone, atol=1e-5, rtol=1e-5
    )


@pytest.mark.host
@EACH_HOST
def test_linear_in_v_and_blind_to_the_order(host: str) -> None:
    """α for c V is c α for V; the sum of two compositions is the composition of the sum."""
    model, concepts = tiny("llama", host), basis()
    weights, more = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.25, -0.5])
    doubled = replace(concepts, vectors={h: 2 * v for h, v in concepts.vectors.items()})
    assert close(
        logits(model, s2a.composed(doubled, weights)),
        logits(model, s2a.composed(concepts, 2 * weights)),
    )
    both = s2a.composed(concepts, weights) + s2a.composed(concepts, more)
    assert close(logits(model, both), logits(model, s2a.composed(concepts, weights + more)))
    order = [2, 0, 1]
    shuffled = replace(
        concepts,
        vectors={h: v[order] for h, v in concepts.vectors.items()},
        labels=[concepts.labels[i] for i in order],
    )
    given, examples = torch.randn(4, 3, generator=DICE), task(6)
    base = answers(model, examples)
    one = objective(answers(model, examples, family(concepts, given)), base).value
    other = objective(answers(model, examples, family(shuffled, given[:, order])), base).value
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    config = s2a.Config(search=Search("random", budget=5))
    by_label = s2a.adapt(model, concepts, examples, config, **QUIET).weights
    assert set(by_label) == {"c0", "c1", "c2"}


@pytest.mark.host
@EACH_HOST
def test_law_11_rows_of_one_pass_are_single_runs(host: str) -> None:
    """A family's member scores as its steering alone: answers, and divergence too."""
    model, concepts, examples = tiny("qwen3", host), basis(), task()
    weights = torch.randn(4, 3, generator=DICE)
    weights[1] = 0.0
    together = answers(model, examples, family(concepts, weights))
    base = answers(model, examples)
    items = [("w1 w2", " good bad"), ("w3 w4 w5", " happy")]
    nats = divergence(model, family(concepts, weights), items, [1.0] * 4)
    for row, each in enumerate(weights):
        steering = s2a.composed(concepts, each)
        alone = answers(model, examples, steering)
        torch.testing.assert_close(
            together.probability[row], alone.probability[0], atol=1e-5, rtol=1e-4
        )
        assert torch.equal(together.right[row], alone.right[0])
        torch.testing.assert_close(
            nats[row], divergence(model, steering, items)[0], atol=1e-5, rtol=1e-3
        )
    torch.testing.assert_close(together.probability[1], base.probability[0])
    assert not torch.allclose(together.probability[0], base.probability[0], atol=0.01)
    assert objective(together, base).value[1] == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(BadInputError, match="1 coefficients are given for 4 steerings"):
        examples.scores(model, family(concepts, weights))


@pytest.mark.host
@EACH_HOST
def test_a_row_each_in_an_ordinary_pass(host: str) -> None:
    model, concepts = tiny("gpt2", host), basis()
    tokens = torch.tensor([[1, 8, 9, 10], [1, 11, 12, 13]])
    weights = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    with by_row(concepts, weights).on(model):
        both = forward(model, tokens)
    for row in range(2):
        with s2a.composed(concepts, weights[row]).on(model):
            torch.testing.assert_close(
                both[row], forward(model, tokens[row : row + 1])[0], atol=1e-4, rtol=1e-4
            )
    with pytest.raises(BadInputError, match="2 rows and meets a batch of 1"):
        with by_row(concepts, weights).on(model):
            forward(model, tokens[:1])
    for wrong in (torch.zeros(2, 4), torch.zeros(0, 3), torch.full((1, 3), torch.nan)):
        with pytest.raises(BadInputError, match=r"weights|Weights"):
            by_row(concepts, wrong)


# The whole


@cache
def adapted(host: str, method: Any = "random", seed: int = 0) -> s2a.Adaptation:
    way = Search(method, budget=12, seed=seed, patience=None, initial=8)
    config = s2a.Config(flip=0.2, drop=0.2, search=way)
    examples = s2a.calibration_set(tiny("gpt2", host), task(16), 2, 2)
    return s2a.adapt(tiny("gpt2", host), basis(length=2.0), examples, config, **QUIET)


@pytest.mark.host
@EACH_HOST
def test_adapt_gives_what_it_says(host: str, tmp_path: Path) -> None:
    """J of the best is that of the steering it makes, by an evaluation of its own."""
    model, found = tiny("gpt2", host), adapted(host)
    assert (found.wrong, found.right, len(found.trials)) == (2, 2, 13)
    first = found.trials[0]
    assert (first.weights, first.value, first.flips) == ((0.0, 0.0, 0.0), 0.0, 0.0)
    assert found.best.value == max(each.value for each in found.trials) >= 0
    assert found.gained
    examples = s2a.calibration_set(model, task(16), 2, 2)
    under, base = answers(model, examples, found.steering), answers(model, examples)
    value = objective(under, base, flip=0.2, drop=0.2)
    assert float(value.value) == pytest.approx(found.best.value, abs=1e-4)
    assert float(value.gain) == pytest.approx(found.best.gain, abs=1e-4)
    behaves(found.steering, model, tmp_path / "found.safetensors")


@pytest.mark.host
@EACH_HOST
def test_j_from_texts_by_plain_hooks(host: str) -> None:
    """Every candidate's J, from logits under h + V α, one option a pass."""
    model, found, concepts = tiny("gpt2", host), adapted(host), basis(length=2.0)
    items = s2a.calibration_set(model, task(16), 2, 2).items

    @torch.no_grad()
    def answered(weights: Any) -> list[tuple[float, bool]]:
        def added(vector: Tensor) -> Any:
            return lambda x, hook: torch.cat([x[:, :1], x[:, 1:] + vector], 1)

        hooks = [(h, added(torch.tensor(weights) @ v)) for h, v in concepts.vectors.items()]
        told = []
        for item in items:
            each = []
            for option in item.options:
                row, n = (
                    model.to_tokens(item.prompt + option),
                    model.to_tokens(item.prompt).shape[1],
                )
                with model.hooks(fwd_hooks=hooks):
                    log_probs = forward(model, row)[0].log_softmax(-1)
                each.append(sum(log_probs[i - 1, row[0, i]] for i in range(n, row.shape[1])))
            p = torch.stack(each).softmax(0)
            told.append((float(p[item.right[0]]), int(p.argmax()) == item.right[0]))
        return told

    base = answered([0.0, 0.0, 0.0])
    for trial in found.trials[:6]:
        pairs = list(zip(base, answered(trial.weights), strict=True))
        gain = sum(p - p0 for (p0, right), (p, _) in pairs if not right)
        flips = sum(not still for (_, right), (_, still) in pairs if right)
        drop = sum(max(0.0, p0 - p) for (p0, right), (p, _) in pairs if right)
        assert trial.value == pytest.approx(gain - 0.2 * flips - 0.2 * drop, abs=1e-4)


@pytest.mark.host
@ONE_HOST
def test_the_same_seed_gives_the_same(host: str) -> None:
    model, found = tiny("gpt2", host), adapted(host, "gp")
    examples = s2a.calibration_set(model, task(16), 2, 2)
    way = Search("gp", budget=12, patience=None, initial=8)
    config = s2a.Config(flip=0.2, drop=0.2, search=way)
    again = s2a.adapt(model, basis(length=2.0), examples, config, **QUIET)
    assert again.trials == found.trials
    assert adapted(host, "random", 1).trials != adapted(host, "random").trials


@pytest.mark.host
@ONE_HOST
def test_the_card_and_the_tables(host: str) -> None:
    found = adapted(host)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    frame = found.frame()
    assert frame["concept"].tolist() == ["c0", "c1", "c2"]
    assert frame["weight"].tolist() == list(found.best.weights)
    directions: Any = found.direction
    cosines = torch.stack(
        [
            each.unit().vector @ found.basis["c1"][hook].unit().vector
            for hook, each in directions.items()
        ]  # type: ignore[call-overload]
    )
    assert frame["cosine"][1] == pytest.approx(float(cosines.mean()), abs=1e-5)
    course = found.trajectory()
    assert course["best"].is_monotonic_increasing
    assert course["best"].iloc[-1] == found.best.value
    assert list(course.columns)[-3:] == ["c0", "c1", "c2"]
    html = found._repr_html_()
    assert "of what is added" in html
    assert repr(found).startswith("Adaptation(")
    assert pickle.loads(pickle.dumps(found)).trials == found.trials


@pytest.mark.host
@ONE_HOST
def test_where_nothing_can_be_gained(host: str) -> None:
    """All right: no search, bit-identical logits. Harmful vectors: 0 stays the best."""
    model = tiny("gpt2", host)
    right = answers(model, task(24)).right[0].nonzero().flatten().tolist()
    found = s2a.adapt(model, basis(), task(24).part(right), **QUIET)
    assert (len(found.trials), found.gained, found.wrong) == (1, False, 0)
    assert "nothing to gain" in repr(found)
    assert torch.equal(logits(model, found.steering), logits(model))
    assert "no steering is best" in found._repr_html_()
    harmless = s2a.Config(flip=1e6, drop=1e6, search=Search("random", budget=5))
    none = s2a.adapt(model, basis(length=30.0), task(24), harmless, **QUIET)
    assert none.best.value == 0.0
    assert torch.equal(logits(model, none.steering), logits(model))


@pytest.mark.host
@EACH_HOST
def test_an_exception_leaves_no_hook(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", host)
    hooks = leaving_nothing(model)
    before, calls = hooks(), []
    real = MultipleChoice.option_log_probs

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            with args[2].over(1).on(model):
                raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(MultipleChoice, "option_log_probs", killed)
    with pytest.raises(KeyboardInterrupt):
        s2a.adapt(model, basis(), task(6), s2a.Config(search=Search("random")), **QUIET)
    assert len(calls) == 3
    assert hooks() == before
    wrong = sl.Basis({"blocks.1.hook_resid_post": torch.randn(2, D_MODEL + 1)})
    monkeypatch.undo()
    with pytest.raises(BadInputError, match="does not fit"):
        s2a.adapt(model, wrong, task(6), **QUIET)
    assert hooks() == before


@pytest.mark.host
@ONE_HOST
def test_examples_that_are_none(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(BadInputError, match="Examples are a list of one item or more"):
        s2a.adapt(model, basis(), [], **QUIET)
    config = s2a.Config(search=Search("random", budget=2))
    assert len(s2a.adapt(model, basis(), list(task(4).items), config, **QUIET).trials) == 3


# Effects


@pytest.mark.host
@EACH_HOST
def test_effects_and_leaving_one_out_by_single_runs(host: str) -> None:
    model, concepts = tiny("llama", host), basis(length=2.0)
    tasks = [
        replace(task(3, "a"), measure="probability"),
        replace(task(4, "b"), measure="log_odds"),
    ]
    found = s2a.effects_on(model, concepts, tasks, **QUIET)
    assert (found.compositions, found.tasks) == (("c0", "c1", "c2"), ("a", "b"))
    for r, label in enumerate(found.compositions):
        for t, each in enumerate(tasks):
            alone = (
                each.scores(model, s2a.composed(concepts, {label: 1.0})).mean
                - each.scores(model).mean
            )
            assert float(found.change[r, t]) == pytest.approx(float(alone), abs=1e-4)
    assert bool((found.change.abs() > 1e-3).all())
    assert found.frame().loc["c1", "b"] == pytest.approx(float(found.change[1, 1]))
    out = s2a.leave_one_out(model, concepts, {"c0": 1.0, "c2": -2.0}, tasks, **QUIET)
    assert out.compositions == ("all", "without c0", "without c2")
    rest = tasks[0].scores(model, s2a.composed(concepts, {"c2": -2.0})).mean
    assert float(out.scores[1, 0]) == pytest.approx(float(rest), abs=1e-4)
    assert "without c2" in out._repr_html_()
    assert repr(out).startswith("Effects(3 compositions on 2 tasks; most: ")
    with pytest.raises(BadInputError, match="different names"):
        s2a.effects_on(model, concepts, [tasks[0], tasks[0]], **QUIET)
    with pytest.raises(UnknownNameError, match="c0"):
        s2a.effects_on(model, concepts, tasks, {"x": {"c9": 1.0}}, **QUIET)


# The prior


@pytest.mark.host
@EACH_HOST
def test_the_prior_is_mean_differences_of_known_lengths(host: str, tmp_path: Path) -> None:
    model = tiny("llama", host)
    other = sl.Contrast(CONTRAST.negative[:3], CONTRAST.positive[3:])
    contrasts = {"one": CONTRAST, "two": other}
    found = {
        norm: s2a.prior(model, contrasts, [1, 2], norm=norm, **QUIET)
        for norm in ("stream", "raw", "unit")
    }
    plain = [sl.find_directions(model, each, quality=False, **QUIET) for each in contrasts.values()]
    for layer in (1, 2):
        hook = f"blocks.{layer}.hook_resid_post"
        at = [each[hook] for each in plain]
        norm = sum(each.stream_norm or 0.0 for each in at) / 2
        for i, each in enumerate(at):
            torch.testing.assert_close(found["raw"].vectors[hook][i], each.vector)
            for basis_, length in ((found["stream"], 0.05 * norm), (found["unit"], 1.0)):
                vector = basis_.vectors[hook][i]
                assert float(vector.norm()) == pytest.approx(length, rel=1e-4)
                torch.testing.assert_close(
                    vector / length, each.unit().vector, atol=1e-5, rtol=1e-4
                )
    assert found["stream"].provenance["norm"] == "0.05 of the stream"
    path = tmp_path / "prior.safetensors"
    sl.save(found["stream"], path)
    again: Any = sl.load(path, model)
    assert (again.labels, list(again.vectors)) == (("one", "two"), list(found["raw"].vectors))
    assert all(torch.equal(again.vectors[h], v) for h, v in found["stream"].vectors.items())
    broad = s2a.prior(model, contrasts, [0, 2], from_layer=1, norm="raw", **QUIET)
    for vectors in broad.vectors.values():
        torch.testing.assert_close(vectors, found["raw"].vectors["blocks.1.hook_resid_post"])
    assert list(broad.vectors) == ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]


@pytest.mark.host
@ONE_HOST
def test_priors_that_cannot_be(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(BadInputError, match="a concept or more"):
        s2a.prior(model, {}, **QUIET)
    with pytest.raises(BadInputError, match="share above 0"):
        s2a.prior(model, {"one": CONTRAST}, share=0.0, **QUIET)


def test_correlation_and_angles_over_layers() -> None:
    one, other = basis(2, 1), basis(3, 2)
    cosines = s2a.correlation(one)
    by_hand_ = [
        torch.nn.functional.cosine_similarity(v[0], v[1], dim=0) for v in one.vectors.values()
    ]
    assert float(cosines[0, 1]) == pytest.approx(float(torch.stack(by_hand_).mean()), abs=1e-5)
    angles = s2a.principal_angles(one, other)
    assert list(angles) == HOOKS
    assert all(len(each) == 2 for each in angles.values())
    same = s2a.principal_angles(one, one)
    assert all(float(each.abs().max()) < 1e-6 for each in same.values())
    with pytest.raises(BadInputError, match="share no hook point"):
        s2a.principal_angles(one, sl.Basis({"hook_embed": torch.eye(2)}))


@pytest.mark.parametrize("n_layers", [1, 2, 3, 6, 32])
def test_default_layers_are_the_models_own(n_layers: int) -> None:
    assert set(default_layers(n_layers)) <= set(range(n_layers))
