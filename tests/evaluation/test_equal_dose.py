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
from models import tiny

import steerlens as sl
from steerlens import views
from steerlens.errors import BadInputError
from steerlens.evaluation import EqualDose, Scores, at_equal_dose

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
    found = run(host)
    base = task().scores(model).values[0]
    torch.testing.assert_close(found.base.values[0], base)
    for each in found.entries:
        assert each.calibrated.dose.kl == pytest.approx(0.05, rel=0.01)
        scores = task().scores(model, each.calibrated.steering).values[0]
        torch.testing.assert_close(each.scores.values[0], scores)
        assert each.effect.mean == pytest.approx(float((scores - base).mean()), abs=1e-6)
        assert len(each.placebos) == 12
    [(names, (difference, p))] = found.differences.items()
    assert names == ("toward", "noise")
    gap = found.entries[0].effect.mean - found.entries[1].effect.mean
    assert difference.mean == pytest.approx(gap, abs=1e-6)
    assert 0 <= p <= 1


@EACH_HOST
def test_what_is_told_is_what_was_found(host: str) -> None:
    """A direction that writes the token is beyond placebo; a random one is not."""
    found = run(host)
    toward_it, by_chance = found.entries
    assert toward_it.beyond_placebo
    assert toward_it.rank is not None
    assert toward_it.rank.rank == 1
    assert not by_chance.beyond_placebo
    sentence = found.sentence()
    assert "toward moves it by +" in sentence
    assert "unread" not in sentence
    assert sentence.count("not beyond placebo") == 1
    assert "toward exceeds noise by" in sentence
    frame = found.frame()
    assert frame.method.tolist() == ["toward", "noise"]
    assert frame.beyond_placebo.tolist() == [True, False]
    assert (frame.low <= frame.effect).all()
    assert (frame.effect <= frame.high).all()
    view = views.effects(views.effects_of(frame))
    assert "toward: " in view.static
    assert view.static.count("<circle") == 2
    assert "placebos " in view.static


@EACH_HOST
def test_a_choice_is_made_on_items_of_its_own(host: str) -> None:
    model = tiny("llama", host)
    candidates = {"toward": [toward(model, -1.0), toward(model, 1.0)]}
    given: dict[str, Any] = dict(kl=0.05, placebos=0, progress=False)
    with pytest.raises(BadInputError, match="toward have several candidates"):
        at_equal_dose(model, candidates, task(), PROMPTS, **given)
    with pytest.raises(BadInputError, match="choose_on is the task itself"):
        at_equal_dose(model, candidates, task(), PROMPTS, choose_on=task(), **given)
    with pytest.raises(BadInputError, match="no methods"):
        at_equal_dose(model, {}, task(), PROMPTS, **given)
    chosen = at_equal_dose(
        model,
        candidates,
        replace(task(), unread=3),
        PROMPTS,
        choose_on=task(seed=1),
        control=PROMPTS[:1],
        **given,
    )
    [entry] = chosen.entries
    assert entry.candidates == 2
    assert entry.effect.mean > 0
    assert entry.rank is None
    assert "with 4% of the texts unread" in chosen.sentence()
    assert "no placebo" in chosen.sentence()
    assert chosen.frame().collateral.notna().all()
    assert chosen.differences == {}
