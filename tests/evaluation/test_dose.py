"""Doses against hand computation; calibration of every kind of steering; the held-out law."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any, ClassVar

import pytest
import torch
from models import hosts, tiny

import steerlens as sl
from steerlens.evaluation import calibrate, dose, doses
from steerlens.evaluation.forcing import base_items
from steerlens.signals import Cosine, Latch, Probe
from steerlens.text import encode
from steerlens.transforms import Clamp, Interchange, KeepNorm, Linear, Rotate

pytestmark = pytest.mark.host
HOOK = "blocks.1.hook_resid_post"
ITEMS = [
    ("good w1", " w2 w3"),
    ("bad", " w4"),
    ("the sad w5 w6", " good w7 bad w8"),
    ("not happy", " w9 w1 w2"),
]


@pytest.fixture(params=hosts())
def model(request: pytest.FixtureRequest) -> Any:
    return tiny("llama", request.param)


@pytest.fixture
def one() -> Any:
    """The first host alone: what is tested does not touch the host's own ways."""
    return tiny("llama", hosts()[0])


def direction(seed: int = 0, hook: str = HOOK) -> sl.Direction:
    vector = torch.randn(tiny("llama", "bridge").cfg.d_model, generator=_dice(seed))
    return sl.Direction(hook, vector, name=f"v{seed}")


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def added(coeff: Any = 1.0) -> sl.Steering:
    return sl.add(direction(), coeff, positions="predicting")


def nats_by_hand(model: Any, steering: sl.Steering, item: Any) -> torch.Tensor:
    """KL(base || steered) at the positions that predict the completion, one text at a time."""
    encoded = encode(model, item)
    tokens, start = torch.tensor(encoded.tokens)[None], encoded.prompt_length
    with torch.no_grad():
        base = model(tokens)[0].log_softmax(-1)
        with steering.on(model, prompt_lengths=[start]):
            steered = model(tokens)[0].log_softmax(-1)
    return (base.exp() * (base - steered)).sum(-1)[start - 1 : -1]


def test_the_dose_is_the_mean_over_all_tokens(model: Any) -> None:
    by_hand = [nats_by_hand(model, 2.0 * added(), item) for item in ITEMS]
    found = dose(model, 2.0 * added(), ITEMS[:3], control=ITEMS[3:])
    every = torch.cat(by_hand[:3])
    assert found.kl == pytest.approx(float(every.mean()), rel=1e-4)
    assert found.p95 == pytest.approx(float(every.quantile(0.95)), rel=1e-4)
    torch.testing.assert_close(
        found.per_prompt, torch.stack([each.mean() for each in by_hand[:3]]), rtol=1e-3, atol=1e-6
    )
    assert found.tokens.tolist() == [2, 1, 4]
    assert found.interval[0] < found.kl < found.interval[1]
    assert found.collateral is not None
    assert found.collateral.kl == pytest.approx(float(by_hand[3].mean()), rel=1e-4)
    assert all(value != value for value in found.collateral.interval)
    assert "collateral" in repr(found)


def test_the_share_is_the_length_written_over_the_streams(model: Any) -> None:
    shares = []
    for item in ITEMS:
        encoded = encode(model, item)
        _, cache = model.run_with_cache(torch.tensor(encoded.tokens)[None])
        norms = cache[HOOK][0].norm(dim=-1)[encoded.prompt_length - 1 :]
        shares.append(2 * direction().norm / norms)
    found = dose(model, added(2.0), ITEMS)
    assert found.share == pytest.approx(float(torch.cat(shares).mean()), rel=1e-4)
    assert dose(model, added(sl.of_stream(0.3)), ITEMS).share == pytest.approx(0.3, rel=1e-4)


def test_like_prompts_leave_the_interval_no_width(one: Any) -> None:
    found = dose(one, added(), [ITEMS[0]] * 5)
    assert found.interval == pytest.approx((found.kl, found.kl), rel=1e-4)
    assert "nan" not in repr(dose(one, added(), ITEMS[:1]))  # one prompt has no interval


def test_coefficients_run_as_rows(model: Any) -> None:
    together = doses(model, added(), ITEMS, [0.0, 1.0, -2.5])
    assert together[0].kl == 0
    for coeff, each in zip([1.0, -2.5], together[1:], strict=True):
        alone = dose(model, coeff * added(), ITEMS)
        assert each.coeff == coeff
        assert each.kl == pytest.approx(alone.kl, rel=1e-4)
        assert each.share == pytest.approx(alone.share, rel=1e-4)


def per_row() -> sl.Steering:
    coeffs = [1.0, -2.0, 0.5, 3.0]
    gate = Latch(sl.signals.signal([0.2, 1.0, 0.5, 0.7]))
    return sl.add(direction(), coeffs, positions="predicting", gate=gate)


def exchanged() -> sl.Steering:
    stored = torch.randn(4, direction().vector.numel(), generator=_dice(3))
    return sl.steer(Interchange(direction(), stored), positions="predicting")


@pytest.mark.parametrize("made", [per_row, exchanged])
@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
def test_values_a_row_stay_with_their_prompts(
    one: Any, made: Callable[[], sl.Steering], batch_tokens: int
) -> None:
    found = doses(one, made(), ITEMS, [1.0, 0.5], batch_tokens=batch_tokens)
    for row, item in enumerate(ITEMS):
        alone = dose(one, _row(made(), row), [item])
        assert float(found[0].per_prompt[row]) == pytest.approx(alone.kl, rel=1e-3, abs=1e-6)


def _row(steering: sl.Steering, row: int) -> sl.Steering:
    [leaf] = steering.interventions
    if isinstance(leaf.transform, Interchange):
        reference = leaf.transform.reference[row : row + 1]
        return sl.steer(Interchange(direction(), reference), positions="predicting")
    product = [1.0, -2.0, 0.5, 3.0][row] * [0.2, 1.0, 0.5, 0.7][row]
    return sl.add(direction(), product, positions="predicting")


def test_values_a_row_need_as_many_prompts(one: Any) -> None:
    with pytest.raises(sl.SteerLensError, match="values for 4 rows and meets 3 prompts"):
        dose(one, per_row(), ITEMS[:3])
    with pytest.raises(sl.SteerLensError, match="values for 4 rows and meets 3 prompts"):
        dose(one, exchanged(), ITEMS[:3])


def test_base_completions_are_the_base_models_with_its_eos(model: Any) -> None:
    prompts = ["good w1", "bad", ITEMS[0], *["the sad w5"] * 9]
    items = base_items(model, prompts, max_new_tokens=30, seed=1)
    assert items == base_items(model, prompts, max_new_tokens=30, seed=1)
    assert items[2] == encode(model, ITEMS[0])
    eos, ended = model.tokenizer.eos_token_id, 0
    for item in items[:2] + items[3:]:
        new = item.tokens[item.prompt_length :]
        assert eos not in new[:-1]
        assert (new[-1] == eos) == (len(new) < 30) or len(new) == 30
        ended += new[-1] == eos
    assert 0 < ended < 11
    with pytest.raises(sl.SteerLensError, match="a list of one item or more"):
        base_items(model, [])


def soft_gate() -> sl.Steering:
    return added().when(Probe(direction(5)))


def hard_gate() -> sl.Steering:
    return added().when(Cosine(direction(5)) > 0.0)


def turned() -> sl.Steering:
    return sl.steer(Rotate(direction(), direction(1)), coeff=0.1, positions="predicting")


def in_turn() -> sl.Steering:
    early = direction(2, "blocks.0.hook_resid_post")
    return sl.add(early, 0.3) >> sl.add([direction(), direction(1)], 0.5, positions="predicting")


KINDS: list[tuple[Callable[[], sl.Steering], float]] = [
    (added, 0.5),
    (lambda: added(1e-4), 1e-3),
    (lambda: added(sl.of_stream(0.2)), 0.5),
    (lambda: sl.ablate(direction()), 0.002),
    (lambda: sl.steer(Clamp(direction(), low=6.0), positions="predicting"), 0.05),
    (lambda: sl.steer(KeepNorm(sl.transforms.Add(direction()))), 0.2),
    (turned, 0.01),
    (soft_gate, 0.3),
    (hard_gate, 0.1),
    (per_row, 0.2),
    (exchanged, 0.001),
    (in_turn, 0.5),
]


@pytest.mark.parametrize(("made", "kl"), KINDS)
def test_calibration_gives_the_dose_at_the_smallest_coefficient(
    one: Any, made: Callable[[], sl.Steering], kl: float
) -> None:
    found = calibrate(made(), one, ITEMS, kl)
    assert abs(found.dose.kl / kl - 1) <= 0.01
    assert dose(one, found.steering, ITEMS).kl == pytest.approx(kl, rel=0.01)
    below = [found.coeff * part for part in torch.linspace(0.04, 0.98, 16).tolist()]
    assert all(each.kl < kl for each in doses(one, made(), ITEMS, below))
    assert found.reach[0] < kl < found.reach[1]
    assert len(found.frame()) == len(found.coeffs) <= 30


def test_negative_coefficients_by_sign(model: Any) -> None:
    found = calibrate(added(), model, ITEMS, 0.3, sign=-1)
    assert found.coeff < 0
    assert dose(model, found.coeff * added(), ITEMS).kl == pytest.approx(0.3, rel=0.01)
    other = calibrate(-added(), model, ITEMS, 0.3)
    assert other.coeff == pytest.approx(-found.coeff, rel=0.02)
    with pytest.raises(sl.SteerLensError, match="no negative side"):
        calibrate(sl.ablate(direction()), model, ITEMS, 0.001, sign=-1)


def test_what_a_share_cannot_reach_is_told(one: Any) -> None:
    most = dose(one, sl.ablate(direction()), ITEMS).kl
    with pytest.raises(sl.SteerLensError, match=r"ends at coefficient 1\).* reach .* to ") as told:
        calibrate(sl.ablate(direction()), one, ITEMS, 3.0)
    assert f"to {most:.3g}." in str(told.value)
    half = calibrate(sl.ablate(direction(), coeff=0.5), one, ITEMS, 0.9 * most)
    assert 1 < half.coeff <= 2
    assert float(half.coeffs.max()) == pytest.approx(2, rel=1e-5)
    with pytest.raises(sl.SteerLensError, match="1 at most here"):
        calibrate(sl.ablate(direction()), one, ITEMS, 0.001, coeffs=[0.5, 1.5])


def test_an_angle_ends_at_half_a_turn(one: Any) -> None:
    found = calibrate(turned(), one, ITEMS, 0.01)
    assert float(found.coeffs.max()) == pytest.approx(10 * pi, rel=1e-5)


@dataclass(frozen=True, eq=False)
class Wave(Linear):
    """Adds sin(strength) times a vector: the dose rises, falls to nothing and rises again."""

    vector: torch.Tensor
    hook_name: str = HOOK
    scales: ClassVar[str] = "amplitude"
    unit_shape: ClassVar[None] = None

    def change(self, x: Any, strength: Any, window: Any = None) -> Any:
        return torch.sin(strength) * self.vector


@dataclass(frozen=True, eq=False)
class Step(Wave):
    """Adds the vector whole, from strength 0.7 on."""

    def change(self, x: Any, strength: Any, window: Any = None) -> Any:
        return (strength > 0.7) * self.vector


def test_of_a_dose_that_rises_and_falls_the_first_coefficient(one: Any) -> None:
    wave = sl.steer(Wave(direction().vector), positions="predicting")
    most = dose(one, pi / 2 * wave, ITEMS).kl
    found = calibrate(wave, one, ITEMS, most / 2)
    assert 0 < found.coeff < pi / 2
    with pytest.raises(sl.SteerLensError, match=r"reach .* Ask for a dose in that range"):
        calibrate(wave, one, ITEMS, 10 * most)


def test_a_dose_that_jumps_is_told(one: Any) -> None:
    step = sl.steer(Step(direction().vector), positions="predicting")
    most = dose(one, step, ITEMS).kl
    with pytest.raises(sl.SteerLensError, match=r"jumps from 0 to .* at coefficient 0\.7"):
        calibrate(step, one, ITEMS, most / 2)
    assert calibrate(step, one, ITEMS, most).coeff > 0.7


def test_the_users_scan_reaches_down_and_is_kept(one: Any) -> None:
    found = calibrate(added(), one, ITEMS, 0.01, coeffs=[50.0, 20.0])
    assert abs(found.dose.kl / 0.01 - 1) <= 0.01
    assert {20.0, 50.0} <= set(found.coeffs.tolist())


@pytest.mark.parametrize("wrong", [{"kl": 0.0}, {"kl": -1.0}, {"sign": 2}, {"coeffs": [0.0]}])
def test_impossible_wishes_are_refused(one: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(sl.SteerLensError, match="got"):
        calibrate(added(), one, ITEMS, **wrong)


def test_held_out_intervals_contain_the_target() -> None:
    """The law of `tests/benchmarks/held_out_dose.py`, on fewer splits and a tiny model."""
    model, target = tiny("llama", hosts()[0]), 0.5
    words = [f"w{i}" for i in range(1, 20)]
    dice = random.Random(0)
    prompts = [" ".join(dice.choices(words, k=dice.randint(1, 6))) for _ in range(60)]
    pool = base_items(model, prompts, max_new_tokens=5)
    near = calibrate(added(), model, pool, target).coeff
    inside = 0
    for seed in range(10):
        shuffled = random.Random(seed).sample(pool, len(pool))
        found = calibrate(added(), model, shuffled[:48], target, coeffs=[0.8 * near, 1.2 * near])
        low, high = found.interval_on(dose(model, found.steering, shuffled[48:]))
        inside += low <= target <= high
    assert inside >= 8


def test_an_interval_that_counts_both_chances_is_the_wider(one: Any) -> None:
    found = calibrate(added(), one, ITEMS * 2, 0.3)
    others = dose(one, found.steering, [*ITEMS, ITEMS[2]])
    low, high = found.interval_on(others)
    assert low < others.interval[0] < others.interval[1] < high
