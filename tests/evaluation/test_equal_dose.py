"""Methods at equal dose: figures on test items, choices on others, placebos, a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import hosts, tiny

import steerlens as sl
from steerlens import views
from steerlens.errors import BadInputError, OutOfReachError, SteerLensError
from steerlens.evaluation import EqualDose, Scores, at_equal_dose, doses, random_twins
from steerlens.evaluation.tasks import check_task

pytestmark = pytest.mark.host
PROMPTS = [[1, 5, 9, 20], [1, 9, 33], [1, 40, 5, 5, 9]]


@dataclass(frozen=True)
class Leaning:
    """How far the logits after each prompt lean to one token: an attribute in one pass."""

    name: str
    prompts: Sequence[list[int]]
    token: int
    unread: int = -1
    """The item that its judge cannot read, if any."""

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, indices: Sequence[int]) -> Leaning:
        return replace(self, prompts=[self.prompts[i] for i in indices])

    def scores(
        self,
        model: Any,
        steering: sl.Steering | None = None,
        coeffs: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
    ) -> Scores:
        tokens = torch.tensor(self.prompts)
        values = []
        with torch.no_grad():
            for coeff in coeffs:
                with nullcontext() if steering is None else (coeff * steering).on(model):
                    values.append(model(tokens)[:, -1, self.token])
        found = torch.stack(values)
        return Scores(found, torch.arange(len(self)).expand(found.shape) != self.unread)


def task(name: str = "leaning", seed: int = 0, items: int = 24) -> Leaning:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(3, 40, (items, 5), generator=generator).tolist()
    return Leaning(name, [[1, *row] for row in rows], 7)


def toward(model: Any, sign: float = 1.0, layer: int = 2) -> sl.Steering:
    """Adds what the unembedding reads as that token."""
    name = f"blocks.{layer}.hook_resid_post"
    column = model.W_U[:, 7].detach() - model.W_U.detach().mean(1)
    return sl.add(sl.Direction(name, sign * column, name="toward"))


def noise() -> sl.Steering:
    generator = torch.Generator().manual_seed(5)
    vector = torch.randn(models.D_MODEL, generator=generator)
    return sl.add(sl.Direction("blocks.2.hook_resid_post", vector, name="noise"))


def run(host: str, **options: Any) -> EqualDose:
    model = tiny("llama", host)
    given = {"toward": toward(model), "noise": noise()}
    return at_equal_dose(
        model, given, task(), PROMPTS, kl=0.05, progress=False, **({"placebos": 12} | options)
    )


@EACH_HOST
def test_each_method_gets_the_dose_and_its_effect_by_hand(host: str) -> None:
    model = tiny("llama", host)
    found = run(host, control=PROMPTS[:1])
    base = task().scores(model).values
    torch.testing.assert_close(found.base, base)
    for each in found.entries:
        steering = each.calibrated.steering
        assert each.calibrated.dose.kl == pytest.approx(0.05, rel=0.01)
        scores = task().scores(model, steering).values
        torch.testing.assert_close(each.changes, scores - base)
        assert each.effect.mean == pytest.approx(float((scores - base).mean()), abs=1e-6)
        assert each.score == pytest.approx(float(scores.mean()), abs=1e-6)
        [on_task] = doses(model, steering, task().prompts, [1.0])
        assert each.held_out.kl == pytest.approx(on_task.kl, rel=1e-4)
        [beside] = each.beside
        twins = random_twins(steering, 12, seed=0)
        gap = task().scores(model, twins[3]).values - base
        assert float(beside.effects[3]) == pytest.approx(float(gap.mean()), abs=1e-5)
        [cost] = doses(model, twins[3], task().prompts, [1.0])
        assert float(beside.kls[3]) == pytest.approx(cost.kl, rel=1e-3)
    [(names, (difference, p))] = found.differences.items()
    assert names == ("toward", "noise")
    gap = found.entries[0].effect.mean - found.entries[1].effect.mean
    assert difference.mean == pytest.approx(gap, abs=1e-6)
    assert 0 <= p <= 1
    assert "collateral not measured" not in found.sentence()


@EACH_HOST
def test_what_is_told_is_what_was_found(host: str) -> None:
    """A direction that writes the token is beyond placebo; a random one is not."""
    found = run(host, placebos=None)
    toward_it, by_chance = found.entries
    assert len(toward_it.beside[0].effects) == 39
    assert [each.verdict for each in found.entries] == ["beyond placebo", "not beyond placebo"]
    assert toward_it.placebo_p == pytest.approx(2 / 40)
    assert by_chance.placebo_p == pytest.approx(by_chance.beside[0].rank(by_chance.effect.mean).p)
    sentence = found.sentence()
    assert "toward moves it by +" in sentence
    assert "rank 1 of 40 with random directions: -" in sentence
    assert "read" not in sentence
    assert "collateral not measured" in sentence
    assert sentence.count("not beyond placebo") == 1
    assert "toward exceeds noise by" in sentence
    frame = found.frame()
    assert frame.method.tolist() == ["toward", "noise"]
    assert frame.verdict.tolist() == [each.verdict for each in found.entries]
    assert (frame.low <= frame.effect).all()
    assert (frame.effect <= frame.high).all()
    assert (frame.test_kl_low < frame.test_kl).all()
    assert (frame.test_kl < frame.test_kl_high).all()
    view = views.effects(found)
    assert "toward: " in view.static
    assert view.static.count("<circle") == 2
    assert "placebos " in view.static


def test_few_placebos_speak_only_against() -> None:
    """Nineteen tell of one method, not of two; three tell nothing of one that exceeds them."""
    for placebos, wanted in ((3, "too few placebos to tell"), (19, "too few placebos to tell")):
        toward_it, by_chance = run(hosts()[0], placebos=placebos).entries
        assert toward_it.verdict == wanted
        assert by_chance.verdict == "not beyond placebo"
    model = tiny("llama", hosts()[0])
    alone = {"toward": toward(model)}
    [entry] = at_equal_dose(model, alone, task(), PROMPTS, kl=0.05, progress=False).entries
    assert len(entry.beside[0].effects) == 19
    assert entry.verdict == "beyond placebo"
    # Of a further kind, one that does as much is enough to speak against it.
    [entry] = at_equal_dose(
        model,
        alone,
        task(),
        PROMPTS,
        kl=0.05,
        others={"itself": lambda chosen: [1.1 * chosen]},
        progress=False,
    ).entries
    assert [each.kind for each in entry.beside] == ["random directions", "itself"]
    assert entry.verdict == "not beyond placebo"


def test_text_that_was_not_read_is_no_success() -> None:
    model = tiny("llama", hosts()[0])
    [whole] = at_equal_dose(
        model, {"toward": toward(model)}, task(), PROMPTS, placebos=0, progress=False
    ).entries
    unread = replace(task(), unread=3)
    found = at_equal_dose(
        model, {"toward": toward(model)}, unread, PROMPTS, placebos=0, progress=False
    )
    [entry] = found.entries
    assert float(entry.changes[0, 3]) == 0
    assert float(whole.changes[0, 3]) > 0
    assert entry.effect.mean == pytest.approx(whole.effect.mean - float(whole.changes[0, 3]) / 24)
    assert entry.verdict == "no placebo asked for"
    assert found.frame().parsed.tolist() == pytest.approx([23 / 24])
    assert "96% of texts read" in found.sentence()
    assert "96% of its texts read" in found.sentence()


def test_seeds_are_runs_of_their_own() -> None:
    model = tiny("llama", hosts()[0])
    found = at_equal_dose(
        model, {"noise": noise()}, task(), PROMPTS, placebos=2, seeds=(3, 4), progress=False
    )
    assert found.base.shape == found.entries[0].changes.shape == (2, 24)
    assert found.entries[0].effect.seeds == 2


@EACH_HOST
def test_a_choice_is_made_on_items_of_its_own(host: str) -> None:
    model = tiny("llama", host)
    candidates = {"toward": [toward(model, -1.0), toward(model, 1.0), 0 * toward(model)]}
    given: dict[str, Any] = dict(kl=0.05, placebos=0, progress=False)
    with pytest.raises(BadInputError, match="toward have several candidates"):
        at_equal_dose(model, candidates, task(), PROMPTS, **given)
    own = task().part(range(5, 9))
    with pytest.raises(BadInputError, match="choose_on has 4 of the task's own items"):
        at_equal_dose(model, candidates, task(), PROMPTS, choose_on=own, **given)
    with pytest.raises(BadInputError, match="no methods"):
        at_equal_dose(model, {}, task(), PROMPTS, **given)
    with pytest.raises(BadInputError, match=r"'none' cannot be compared.*changes nothing"):
        at_equal_dose(model, {"none": 0 * toward(model)}, task(), PROMPTS, **given)
    with pytest.warns(UserWarning, match="on 2 of the task's own prompts"):
        at_equal_dose(model, {"noise": noise()}, task(), task().prompts[:2], **given)
    for lower, sign in ((False, 1), (True, -1)):
        chosen = at_equal_dose(
            model, candidates, task(), PROMPTS, choose_on=task(seed=1), lower=lower, **given
        )
        [entry] = chosen.entries
        assert (entry.candidates, entry.dropped) == (3, 1)
        assert sign * entry.effect.mean > 0
        assert "1 candidate could not give it" in chosen.sentence()
        assert chosen.differences == {}


def test_a_mistake_in_a_candidate_is_told() -> None:
    """Only a dose out of reach drops a candidate: another width is no such thing."""
    model = tiny("llama", hosts()[0])
    wide = sl.Direction("blocks.2.hook_resid_post", torch.ones(models.D_MODEL + 1))
    given: dict[str, Any] = dict(kl=0.05, placebos=0, progress=False)
    with pytest.raises(SteerLensError) as raised:
        at_equal_dose(
            model,
            {"toward": [toward(model), sl.add(wide)]},
            task(),
            PROMPTS,
            choose_on=task(seed=1),
            **given,
        )
    assert not isinstance(raised.value, OutOfReachError)
    with pytest.raises(OutOfReachError, match="cannot be compared"):
        at_equal_dose(model, {"none": 0 * toward(model)}, task(), PROMPTS, **given)


class Overflowing(Leaning):
    """No score is a number under noise."""

    def scores(
        self, model: Any, steering: sl.Steering | None = None, *rest: Any, **more: Any
    ) -> Any:
        found = super().scores(model, steering, *rest, **more)
        return (
            replace(found, values=found.values * torch.nan) if "noise" in repr(steering) else found
        )


@pytest.mark.parametrize("lower", [False, True])
def test_a_candidate_whose_score_is_no_number_is_not_chosen(lower: bool) -> None:
    model = tiny("llama", hosts()[0])
    [entry] = at_equal_dose(
        model,
        {"either": [noise(), toward(model)]},
        task(),
        PROMPTS,
        kl=0.05,
        placebos=0,
        choose_on=Overflowing("overflowing", task(seed=1).prompts, 7),
        lower=lower,
        progress=False,
    ).entries
    assert "toward" in repr(entry.calibrated.steering)


def test_a_list_of_prompts_is_no_task() -> None:
    with pytest.raises(BadInputError, match="choose_on is a list, and a task is wanted"):
        check_task(PROMPTS, "choose_on")
    check_task(task(), "task")


def test_doubles_have_a_table() -> None:
    found = run(hosts()[0], placebos=2)
    entries = [
        replace(each, beside=tuple(replace(b, effects=b.effects.double()) for b in each.beside))
        for each in found.entries
    ]
    table, wanted = replace(found, entries=tuple(entries)).frame(), found.frame()
    assert table.placebo_low.tolist() == pytest.approx(wanted.placebo_low.tolist())
    assert table.placebo_high.tolist() == pytest.approx(wanted.placebo_high.tolist())
