"""Transforms: Δ in closed form, head by head, in the dtype it is computed in."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from math import pi
from types import FunctionType, ModuleType
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import hosts, tiny
from torch import Tensor
from trials import trials

from steerlens import Basis, Direction
from steerlens.directions import Eraser
from steerlens.errors import BadInputError
from steerlens.positions import Window
from steerlens.transforms import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Erase,
    Extrapolate,
    Function,
    Interchange,
    KeepNorm,
    Linear,
    MeanAblate,
    Piecewise,
    Replace,
    Rotate,
    RotateTo,
    Scale,
    Scaled,
    Transform,
    moved,
)

NAME = "blocks.0.hook_resid_post"
ONE = torch.tensor(1.0, dtype=torch.float64)
LAW = trials(50)
SEEDS = st.integers(0, 10_000)
UNITS = st.sampled_from([(6,), (3, 4)])


def direction(seed: int, unit: tuple[int, ...] = (6,), name: str = "d") -> Direction:
    generator = torch.Generator().manual_seed(seed)
    return Direction(NAME, torch.randn(unit, generator=generator), name=name)


def activations(seed: int, unit: tuple[int, ...] = (6,)) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    return torch.randn(2, 3, *unit, generator=generator).double()


def wide(transform: Any) -> Any:
    return moved(transform, torch.device("cpu"), torch.float64)


def after(transform: Any, x: Tensor, strength: Tensor = ONE) -> Tensor:
    return x + wide(transform).change(x, strength)


def every(seed: int, unit: tuple[int, ...]) -> list[Transform]:
    """One of each transform."""
    a, b = direction(seed, unit, "a"), direction(seed + 1, unit, "b")
    mean, row = (direction(seed + i, unit).vector for i in (2, 3))
    return [
        Add(a),
        Ablate(a),
        Ablate(Basis({NAME: torch.stack([a.vector, b.vector])}, ("a", "b"))),
        MeanAblate(a, mean),
        Clamp(a, -0.5, 0.5),
        Scale(mean),
        Affine(mean, row),
        Rotate(a, b),
        RotateTo(a, b, 1.0),
        Replace(row[None]),
        Interchange(a, row[None]),
        KeepNorm(Add(a)),
        Function(torch.tanh),
    ]


@LAW
@given(SEEDS, UNITS)
def test_the_protocol_and_the_shapes(seed: int, unit: tuple[int, ...]) -> None:
    x = activations(seed, unit)
    for transform in every(seed, unit):
        assert isinstance(transform, Transform)
        assert transform.scales in ("amplitude", "share", "angle")
        assert transform.unit_shape in (None, unit)
        change = wide(transform).change(x, ONE)
        assert torch.broadcast_shapes(change.shape, x.shape) == x.shape
        assert change.dtype == torch.float64, transform
        torch.testing.assert_close(
            wide(transform).change(x, 0 * ONE).expand_as(x), 0 * x, atol=1e-12, rtol=0
        )
        assert x.equal(activations(seed, unit)), "never in place"
        assert "(" in repr(transform)


@LAW
@given(SEEDS, UNITS, st.floats(0, 1))
def test_what_is_linear_in_its_strength(seed: int, unit: tuple[int, ...], s: float) -> None:
    x = activations(seed, unit)
    for transform in every(seed, unit):
        if isinstance(transform, Rotate | RotateTo | KeepNorm):
            continue
        whole = wide(transform).change(x, ONE).expand_as(x)
        part = wide(transform).change(x, s * ONE).expand_as(x)
        torch.testing.assert_close(part, s * whole)


@LAW
@given(SEEDS, st.floats(0.01, 100))
def test_law_3_ablating(seed: int, length: float) -> None:
    """No component is left, what is orthogonal stays, twice is once, at any length."""
    found, x = direction(seed), activations(seed)
    ablate = Ablate(length * found)
    once = after(ablate, x)
    unit = found.unit().vector.double()
    assert (once @ unit).abs().max() < 1e-6
    torch.testing.assert_close(after(ablate, once), once, atol=1e-6, rtol=0)
    orthogonal = x - (x @ unit)[..., None] * unit / (unit @ unit)
    torch.testing.assert_close(once, orthogonal, atol=1e-5, rtol=0)


@LAW
@given(SEEDS)
def test_a_basis_is_ablated_as_a_whole(seed: int) -> None:
    """Also where its vectors are nearly parallel, and in any order."""
    a, b = direction(seed).vector, direction(seed + 1).vector
    x = activations(seed)
    vectors = torch.stack([a, b, a + 1e-7 * b])
    left = after(Ablate(Basis({NAME: vectors}, "abc")), x)
    assert (left @ vectors.double().T).abs().max() < 1e-5
    other = after(Ablate(Basis({NAME: vectors.flip(0)}, "cba")), x)
    torch.testing.assert_close(left, other, atol=1e-5, rtol=0)


@LAW
@given(SEEDS, UNITS)
def test_mean_ablating_and_clamping(seed: int, unit: tuple[int, ...]) -> None:
    found, x = direction(seed, unit), activations(seed, unit)
    mean = direction(seed + 5, unit).vector
    u = (found.vector / found.vector.norm(dim=-1, keepdim=True)).double()

    def component(y: Tensor) -> Tensor:
        return (y * u).sum(-1)

    left = after(MeanAblate(found, mean), x)
    torch.testing.assert_close(
        component(left), component(mean.double().expand_as(x)), atol=1e-5, rtol=0
    )
    held = component(after(Clamp(found, -0.2, 0.3), x))
    torch.testing.assert_close(held, component(x).clamp(-0.2, 0.3), atol=1e-5, rtol=0)
    fixed = component(after(Clamp(found, 0.7, 0.7), x))
    torch.testing.assert_close(fixed, torch.full_like(fixed, 0.7), atol=1e-5, rtol=0)
    capped = after(Clamp(found, high=100.0), x)
    torch.testing.assert_close(capped, x, atol=1e-5, rtol=0)


def test_heads_are_ablated_each_by_itself() -> None:
    vector = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, -2.0]])
    x = torch.arange(6.0).reshape(1, 1, 3, 2) + 1
    ablate = Ablate(Direction("blocks.0.attn.hook_z", vector))
    assert (x + ablate(x)).tolist() == [[[[0, 2], [3, 4], [5, 0]]]]


def test_add_is_the_vector_as_it_is() -> None:
    found = Direction(NAME, torch.tensor([3.0, 4.0]))
    assert wide(Add(found))(torch.zeros(1, 1, 2)).dtype == torch.float64
    assert Add(found)(torch.ones(1, 1, 2)).tolist() == [3, 4]
    assert Add(found).unit_shape == Ablate(found).unit_shape == (2,)


@LAW
@given(SEEDS, UNITS, st.floats(-7, 7))
def test_law_3_rotation(seed: int, unit: tuple[int, ...], angle: float) -> None:
    """Norms stay, rotating back restores, angles add, what is outside the plane stays."""
    a, b = direction(seed, unit), direction(seed + 1, unit)
    x, turn = activations(seed, unit), Rotate(a, b)
    there = after(turn, x, angle * ONE)
    norms = (y.flatten(2).norm(dim=-1) for y in (x, there))
    torch.testing.assert_close(*norms, atol=1e-5, rtol=0)
    torch.testing.assert_close(after(turn, there, -angle * ONE), x, atol=1e-5, rtol=0)
    twice = after(turn, after(turn, x, angle / 2 * ONE), angle / 2 * ONE)
    torch.testing.assert_close(twice, there, atol=1e-5, rtol=0)
    vectors = torch.stack([a.vector, b.vector])
    outside = Ablate(Basis({NAME: vectors.flatten(1)}, "ab"))
    torch.testing.assert_close(
        after(outside, x.flatten(2)), after(outside, there.flatten(2)), atol=1e-5, rtol=0
    )


@LAW
@given(SEEDS, st.floats(-3, 3), st.floats(0, 1))
def test_rotating_to_an_angle(seed: int, target: float, share: float) -> None:
    a, b = direction(seed), direction(seed + 1)
    x, turn = activations(seed), RotateTo(a, b, target)
    axes = turn.plane.double()

    def angle(y: Tensor) -> Tensor:
        return torch.atan2(y @ axes[1], y @ axes[0])

    def apart(one: Tensor, other: Tensor | float) -> Tensor:
        gap = one - other
        return torch.atan2(gap.sin(), gap.cos())

    whole = after(turn, x)
    torch.testing.assert_close(whole.norm(dim=-1), x.norm(dim=-1), atol=1e-5, rtol=0)
    assert apart(angle(whole), target).abs().max() < 1e-4
    torch.testing.assert_close(after(turn, whole), whole, atol=1e-4, rtol=0)
    left = apart(angle(after(turn, x, share * ONE)), angle(x))
    way = apart(torch.tensor(target), angle(x))
    clear = way.abs() < pi - 1e-3  # straight back, both ways round are as short
    assert (left - share * way)[clear].abs().max() < 1e-4 if clear.any() else True


@LAW
@given(SEEDS, UNITS, st.floats(-3, 3))
def test_keeping_norms(seed: int, unit: tuple[int, ...], strength: float) -> None:
    found, x = direction(seed, unit), activations(seed, unit)
    kept = after(KeepNorm(Add(found)), x, strength * ONE)
    torch.testing.assert_close(kept.norm(dim=-1), x.norm(dim=-1), atol=1e-9, rtol=0)
    free = after(Add(found), x, strength * ONE)
    cosine = torch.cosine_similarity(kept, free, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_scaling_and_affine_maps() -> None:
    x = torch.tensor([[[2.0, float("inf"), -3.0]]])
    scaled = Scale(torch.tensor([0.5, 0.0, -1.0])).change(x, torch.tensor(1.0))
    assert scaled.tolist() == [[[1, 0, 3]]], "an entry outside the mask plays no part"
    low, high = torch.tensor([0.0] * 3), torch.tensor([5.0] * 3)
    affine = Affine(torch.full((3,), 2.0), torch.full((3,), 1.0), low, high)
    assert affine(torch.tensor([[[2.0, 6.0, -3.0]]])).tolist() == [[[3, 0, 0]]]


def test_stored_passes_serve_their_rows_and_positions() -> None:
    reference = torch.arange(12.0).reshape(2, 3, 2)
    replaced = Replace(reference, by_index=True)
    index = torch.tensor([[-1, 0, 1], [1, 2, 3]])
    window = Window(index, None, None, None, model=tiny("gpt2", hosts()[0]))
    x = torch.full((2, 3, 2), 100.0)
    found = x + replaced.change(x, torch.tensor(1.0), window)
    assert found[0, 1:].tolist() == [[0, 1], [2, 3]]
    assert found[1].tolist() == [[8, 9], [10, 11], [100, 100]], "past the reference: left alone"
    with pytest.raises(BadInputError, match="holds 2 rows and meets a batch of 3"):
        replaced.change(torch.zeros(3, 3, 2), torch.tensor(1.0), window)
    with pytest.raises(BadInputError, match="needs to know where"):
        replaced.change(x, torch.tensor(1.0))


def test_nothing_to_steer_along() -> None:
    zero = Direction(NAME, torch.zeros(2))
    for make in (Ablate, lambda d: MeanAblate(d, zero.vector), lambda d: Clamp(d, high=1)):
        with pytest.raises(BadInputError, match="length 0: there is no direction"):
            make(zero)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda d: Clamp(d), "needs low, high or both"),
        (lambda d: Clamp(d, 2, 1), "low 2 lies above its high 1"),
        (lambda d: Rotate(d, -2 * d), "parallel"),
        (lambda d: Rotate(d, d.at("blocks.1.hook_resid_post")), "lives at"),
        (lambda d: MeanAblate(d, torch.zeros(3)), "mean has shape"),
        (lambda d: Interchange(d, torch.zeros(2, 3)), "reference has shape"),
        (lambda d: Scale(d.vector / 0), "finite"),
        (lambda d: Function(lambda x: x[:, :1])(torch.zeros(2, 3, 6)), "gave"),
    ],
)
def test_what_cannot_be_meant(make: Any, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        make(direction(0))


# Moving


@dataclass(frozen=True)
class Sine:
    """A user's own: no `Linear`, a strength of its own, and a direction as it was found."""

    along: Direction
    scales: ClassVar[Scaled] = "amplitude"
    hook_name: ClassVar[str] = NAME

    @property
    def unit_shape(self) -> tuple[int, ...]:
        return tuple(self.along.vector.shape)

    def change(self, x: Tensor, strength: Tensor, window: Window | None = None) -> Tensor:
        return torch.sin(strength) * self.along.vector


@dataclass(frozen=True, slots=True)
class Slotted(Linear):
    vector: Tensor
    hook_name: ClassVar[None] = None
    unit_shape: ClassVar[None] = None
    scales: ClassVar[Scaled] = "share"

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.vector


class Both:
    """A user's own wrapper, a plain class: a basis, parts in a list, a table."""

    scales: Scaled = "amplitude"
    hook_name = None
    unit_shape = None

    def __init__(self, basis: Basis, *parts: Transform) -> None:
        self.basis, self.parts, self.table = basis, list(parts), {"by": (ONE.float(),)}

    def change(self, x: Tensor, strength: Tensor, window: Window | None = None) -> Tensor:
        total = sum((part.change(x, strength) for part in self.parts), torch.zeros_like(x))
        return (total + self.basis.only()[0]) * self.table["by"][0] * strength


def wrapped(seed: int, unit: tuple[int, ...]) -> list[Any]:
    """One of each transform, those of users, and each of them within wrappers."""
    each: list[Any] = [*every(seed, unit), Sine(direction(seed, unit))]
    each += [Slotted(direction(seed, unit).vector)]
    each += [Erase(Eraser.of(*torch.randn(2, 9, *unit))), Piecewise(direction(seed, unit))]
    basis = Basis({NAME: direction(seed, unit).vector[None]})
    both = Both(basis, *each)
    return [*each, *map(KeepNorm, each), both, KeepNorm(KeepNorm(both)), Extrapolate(each[1])]


def tensors(value: Any, seen: set[int] | None = None) -> list[Tensor]:
    """All tensors in a value, however they are held."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type | FunctionType | ModuleType):
        return []
    seen.add(id(value))
    if isinstance(value, Tensor):
        return [value]
    return [found for part in gc.get_referents(value) for found in tensors(part, seen)]


@LAW
@given(SEEDS, UNITS)
def test_what_is_moved_holds_nothing_of_where_it_was(seed: int, unit: tuple[int, ...]) -> None:
    """On a device without numbers, any tensor of another is an error."""
    meta = torch.device("meta")
    x, strength = torch.zeros(2, 3, *unit, device=meta), torch.ones((), device=meta)
    for transform in wrapped(seed, unit):
        there = moved(transform, meta, torch.float32)
        assert {each.device for each in tensors(there)} <= {meta}, transform
        assert there.change(x, strength).device == meta


@LAW
@given(SEEDS, UNITS)
def test_moving_is_idempotent_and_leaves_the_map(seed: int, unit: tuple[int, ...]) -> None:
    """And the original: bit for bit, the same tensors in the same value."""
    x, half = activations(seed, unit), 0.5 * ONE
    for transform in wrapped(seed, unit):
        before = [(each, each.clone()) for each in tensors(transform)]
        there = wide(transform)
        assert {each.dtype for each in tensors(there)} <= {torch.float64}, transform
        assert wide(there) is there
        assert moved(transform, torch.device("cpu"), torch.float32) is transform
        assert type(there) is type(transform)
        near = transform.change(x.float(), half.float()).double()
        torch.testing.assert_close(there.change(x, half), near, atol=1e-4, rtol=1e-4)
        assert all(held.equal(kept) for held, kept in before)
        assert {id(each) for each in tensors(transform)} == {id(held) for held, _ in before}


def test_gradients_pass_through_what_is_moved() -> None:
    vector, x = torch.arange(1.0, 7.0, requires_grad=True), activations(0)
    assert moved(Slotted(vector), torch.device("cpu"), torch.float32).vector is vector
    wide(KeepNorm(Slotted(vector))).change(x, ONE).sum().backward()
    assert vector.grad is not None
    assert bool(vector.grad.any())


def test_functions_and_other_values_stay_as_they_are() -> None:
    assert wide(Function(torch.tanh)).function is torch.tanh
    assert moved(3, torch.device("cpu"), torch.float64) == 3
    whole = Slotted(torch.arange(6))
    assert wide(whole) is whole, "integers keep their dtype"
