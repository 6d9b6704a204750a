"""Placebo directions against hand computation, and the twins of every kind of steering."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import hosts, tiny

import steerlens as sl
from steerlens.basis import Basis
from steerlens.evaluation import random_like, random_twins, shuffled_directions, twin, unrelated
from steerlens.signals import Probe
from steerlens.transforms import Add, Clamp, KeepNorm, Rotate, Scale

HOOK = "blocks.1.hook_resid_post"
CONTRAST = sl.Contrast(
    positive=["good w1 w2", "happy w3", "w4 w5 good", "w6 happy w7", "good good", "w8 w9 happy"],
    negative=["bad w1 w2", "sad w3", "w4 w5 bad", "w6 sad w7", "bad sad", "w8 w9 sad"],
)


def direction(seed: int = 0, hook: str = HOOK, shape: tuple[int, ...] = (32,)) -> sl.Direction:
    vector = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return sl.Direction(hook, vector * (1 + seed), name=f"v{seed}")


def test_random_directions_keep_length_and_place() -> None:
    real = direction(3)
    found = random_like(real, 400, seed=1)
    assert [each.norm for each in found] == pytest.approx([real.norm] * 400, rel=1e-5)
    assert {each.hook_name for each in found} == {HOOK}
    cosines = torch.tensor([each.cosine(real) for each in found])
    assert float(cosines.mean()) == pytest.approx(0, abs=0.03)
    assert float(cosines.std()) == pytest.approx(32**-0.5, rel=0.15)
    again = random_like(real, 2, seed=1)
    assert torch.equal(again[0].vector, found[0].vector)
    assert random_like(real, 1, seed=2)[0].cosine(found[0]) < 0.9
    elsewhere = random_like(real.at("blocks.0.hook_resid_post"), 1, seed=1)[0]
    assert abs(elsewhere.at(HOOK).cosine(found[0])) < 0.9


def test_heads_keep_their_own_length() -> None:
    real = direction(1, "blocks.1.attn.hook_z", (4, 8)).heads(0, 2)
    [found] = random_like(real, 1)
    torch.testing.assert_close(found.vector.norm(dim=1), real.vector.norm(dim=1))
    [turned] = random_twins(sl.ablate(real), 1)
    vector = turned.interventions[0].transform.along.vector
    torch.testing.assert_close(vector.norm(dim=1), real.vector.norm(dim=1))
    assert abs(torch.cosine_similarity(vector[0], real.vector[0], dim=0)) < 0.99


def test_an_unrelated_concept_comes_at_the_same_length() -> None:
    found = unrelated(direction(0), direction(5))
    assert found.norm == pytest.approx(direction(0).norm)
    assert found.cosine(direction(5)) == pytest.approx(1)
    assert "v5" in found.name
    with pytest.raises(sl.SteerLensError, match="lives at"):
        unrelated(direction(0), direction(5, "blocks.0.hook_resid_post"))


@pytest.mark.host
@pytest.mark.parametrize("host", hosts())
def test_shuffled_labels_swap_whole_pairs_the_same_at_every_layer(host: str) -> None:
    model = tiny("llama", host)
    real = sl.find_directions(model, CONTRAST, quality=False, progress=False)
    placebos = shuffled_directions(model, CONTRAST, real, 8, seed=2, progress=False)
    first, second = (
        sl.collect(model, side, progress=False).examples
        for side in (CONTRAST.positive, CONTRAST.negative)
    )
    seen = set()
    for placebo in placebos:
        signs = []
        for hook, each in placebo.items():
            assert each.norm == pytest.approx(real[hook].norm, rel=1e-4)
            # A mean difference of swapped pairs is their differences' sum, each with a sign.
            parts = torch.linalg.lstsq(
                (first[hook] - second[hook]).T, each.vector[:, None]
            ).solution
            scaled = parts.squeeze() / parts.abs().mean()
            torch.testing.assert_close(scaled.abs(), torch.ones(6), atol=0.02, rtol=0)
            signs.append(tuple(scaled.sign().int().tolist()))
        assert len(set(signs)) == 1
        seen.add(signs[0])
    assert len(seen) > 4


def test_a_twin_keeps_all_but_the_directions() -> None:
    gate = Probe(direction(7))
    steering = sl.add(direction(0), 4, positions="predicting", gate=gate) >> sl.ablate(direction(1))
    placebos = {HOOK: direction(9)}
    first, second = twin(steering, placebos).interventions
    for leaf, real in zip((first, second), steering.interventions, strict=True):
        assert (leaf.hook_name, leaf.positions, leaf.coeff) == (
            real.hook_name,
            real.positions,
            real.coeff,
        )
        assert leaf.gate is real.gate
        assert leaf.transform.along.cosine(direction(9)) == pytest.approx(1)
        assert leaf.transform.along.norm == pytest.approx(real.transform.along.norm)
    with pytest.raises(sl.SteerLensError, match="no placebo for"):
        twin(sl.add(direction(0, "blocks.0.hook_resid_post")), placebos)


def changes(steering: sl.Steering) -> torch.Tensor:
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(8))
    leaves = steering.interventions
    return torch.stack(
        [leaf.transform.change(x, torch.tensor(0.5)).expand(x.shape) for leaf in leaves]
    )


def kinds(one: sl.Direction, other: sl.Direction) -> sl.Steering:
    both = Basis.of([one, other])
    transforms = [Add(one), KeepNorm(Add(one)), Rotate(one, other), Clamp(one, high=0.1)]
    return sl.steer(transforms) + sl.ablate(one) + sl.ablate(both)


def test_a_twin_acts_as_one_made_of_the_placebos() -> None:
    """Vectors, units and planes that a transform derived from the real ones are made anew."""
    real, other = direction(0), direction(1)
    found = twin(kinds(real, other), lambda each: unrelated(each, direction(int(each.name[1]) + 3)))
    wanted = kinds(unrelated(real, direction(3)), unrelated(other, direction(4)))
    torch.testing.assert_close(changes(found), changes(wanted))
    assert (changes(found) - changes(kinds(real, other))).flatten(1).norm(dim=1).min() > 0.01


def test_random_twins_keep_lengths_and_angles() -> None:
    one, other = direction(0), direction(1) + 0.5 * direction(0).unit()
    steering = sl.add(one, 2) + sl.ablate(other) + sl.add(-2 * one)
    twins = random_twins(steering, 20, seed=4)
    cosines = []
    for each in twins:
        a, b, c = (leaf.transform.along for leaf in each.interventions)
        assert a.norm == pytest.approx(one.norm, rel=1e-4)
        assert a.cosine(b) == pytest.approx(one.cosine(other), abs=1e-4)
        torch.testing.assert_close(c.vector, -2 * a.vector)
        cosines.append(a.cosine(one))
    assert len(set(cosines)) == 20
    assert max(map(abs, cosines)) < 0.6
    again = random_twins(steering, 1, seed=4)[0].interventions[0].transform.along
    assert torch.equal(again.vector, twins[0].interventions[0].transform.along.vector)


def test_a_twin_adds_up_from_layer_to_layer_as_the_steering_does() -> None:
    """All that is written to the stream is turned alike; what is written elsewhere by itself."""
    one = direction(0)
    other = sl.Direction("blocks.2.hook_mlp_out", one.vector + 0.3 * direction(1).vector)
    head = sl.Direction("blocks.1.attn.hook_z", torch.randn(4, 8))
    steering = sl.add(one) + sl.add(other) + sl.add(head)
    for each in random_twins(steering, 5):
        a, b, c = (leaf.transform.along.vector for leaf in each.interventions)
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=0)
        assert float(cosine) == pytest.approx(
            float(torch.nn.functional.cosine_similarity(one.vector, other.vector, dim=0)), abs=1e-4
        )
        torch.testing.assert_close(c.norm(dim=1), head.vector.norm(dim=1))


def test_vectors_of_a_basis_never_get_one_placebo() -> None:
    both = sl.Basis.of({"a": direction(0), "b": direction(1)})
    with pytest.raises(sl.SteerLensError, match="random_twins"):
        twin(sl.ablate(both), lambda each: random_like(each, 1)[0])
    twin(sl.add(direction(0)) + sl.ablate(-2 * direction(0)), lambda each: random_like(each, 1)[0])
    assert random_twins(sl.ablate(both), 1)[0].interventions[0].transform.along.rank == 2


@pytest.mark.host
def test_a_random_twin_writes_as_much() -> None:
    model: Any = tiny("llama", hosts()[0])
    steering = sl.add(direction(0).unit(), 3, positions="predicting")
    norms = []
    for each in (steering, *random_twins(steering, 2)):
        with each.trace(model) as trace:
            model("good w1 w2")
        norms.append(trace.texts[0].change_norm)
    assert torch.equal(norms[0].isnan(), norms[1].isnan())
    torch.testing.assert_close(norms[0], norms[1], equal_nan=True)
    torch.testing.assert_close(norms[0], norms[2], equal_nan=True)


def test_what_has_no_direction_has_no_twin() -> None:
    with pytest.raises(sl.SteerLensError, match="made of no direction"):
        random_twins(sl.add(direction(0)) + sl.steer(Scale(torch.ones(32)), HOOK), 1)
