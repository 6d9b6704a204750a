"""Basis: what it spans, how one is made, what it refuses."""

from __future__ import annotations

from math import pi
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from hypothesis import given
from hypothesis import strategies as st
from models import tiny
from torch import Tensor
from trials import trials

import steerlens as sl
from steerlens import Basis, Direction, Directions
from steerlens.activations import Activations
from steerlens.basis import orthonormal_factor
from steerlens.errors import BadInputError, SteerLensError, UnknownNameError
from steerlens.moments import Moments
from steerlens.transforms import Ablate

NAME, OTHER = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
E = torch.eye(4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_basis(k: int = 3, *unit: int, seed: int = 0) -> Basis:
    return Basis({NAME: normal(k, *(unit or (6,)), seed=seed)})


def close(one: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=1e-5)


# The factor

LAW = trials(60)


@st.composite
def redundant(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Vectors of a known rank, in any order: independent ones, copies nearly parallel, zeros."""
    d, seed = draw(st.integers(2, 12)), draw(st.integers(0, 999))
    rank = draw(st.integers(1, min(d, 5)))
    rows = [torch.linalg.qr(normal(d, d, seed=seed)).Q[i] for i in range(rank)]
    for i in range(draw(st.integers(0, 3))):
        near = rows[draw(st.integers(0, rank - 1))] + 1e-7 * normal(d, seed=seed + i + 1)
        rows.append(near * draw(st.sampled_from([1.0, -1.0])))
    rows += [torch.zeros(d)] * draw(st.integers(0, 1))
    order = draw(st.permutations(range(len(rows))))
    sizes = [10.0 ** draw(st.integers(-6, 6)) for _ in rows]
    return torch.stack([rows[i] * size for i, size in zip(order, sizes, strict=True)]), rank


@LAW
@given(redundant())
def test_trap_nearly_parallel_vectors_count_once(case: tuple[Tensor, int]) -> None:
    vectors, rank = case
    rows = orthonormal_factor(vectors)
    assert len(rows) == rank == Basis({NAME: vectors}).rank
    assert rows.dtype == torch.float32
    close(rows @ rows.T, torch.eye(rank), atol=1e-6)
    outside = vectors - (vectors @ rows.T) @ rows
    assert (outside.norm(dim=1) <= 1e-5 * vectors.norm(dim=1)).all()


@LAW
@given(redundant(), st.integers(-9, 9))
def test_lengths_play_no_part_in_the_factor(case: tuple[Tensor, int], power: int) -> None:
    vectors, _ = case
    sizes = 2.0 ** torch.arange(power, power + len(vectors))
    torch.testing.assert_close(
        orthonormal_factor(vectors * sizes[:, None]), orthonormal_factor(vectors)
    )


@LAW
@given(st.integers(1, 6), st.integers(6, 30), st.integers(0, 999))
def test_rows_point_to_the_side_of_their_vectors(k: int, d: int, seed: int) -> None:
    vectors = normal(k, d, seed=seed)
    rows = orthonormal_factor(vectors)
    close(rows[0], vectors[0] / vectors[0].norm())
    inside = rows @ vectors.T
    assert (inside.diagonal() > 0).all()
    close(inside.tril(-1), torch.zeros(k, k))


def test_a_small_angle_is_not_lost_in_float32() -> None:
    rows = orthonormal_factor(torch.tensor([[1.0, 0.0], [1.0, 1e-4]]))
    close(rows, torch.eye(2), atol=1e-7)
    assert len(orthonormal_factor(torch.tensor([[1.0, 0.0], [1.0, 1e-4]]), tolerance=1e-3)) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_factor_is_as_wide_as_float32(dtype: torch.dtype) -> None:
    rows = orthonormal_factor(normal(3, 8).to(dtype))
    assert rows.dtype == torch.promote_types(dtype, torch.float32)
    close(rows @ rows.T, torch.eye(3, dtype=rows.dtype), atol=1e-6)


def test_the_factor_of_nothing_and_of_nonsense() -> None:
    assert orthonormal_factor(torch.zeros(2, 3)).shape == (0, 3)
    assert orthonormal_factor(torch.zeros(0, 3)).shape == (0, 3)
    with pytest.raises(BadInputError, match="not finite"):
        orthonormal_factor(torch.tensor([[torch.nan, 1.0]]))


# Projecting


@LAW
@given(st.integers(1, 8), st.sampled_from([(6,), (2, 3)]), st.integers(0, 999))
def test_a_vector_is_its_projection_and_its_complement(
    k: int, unit: tuple[int, ...], seed: int
) -> None:
    basis = random_basis(k, *unit, seed=seed)
    x = 10 * normal(2, 5, *unit, seed=seed + 1)
    inside, outside = basis.project(x), basis.complement(x)
    close(inside + outside, x)
    close(basis.project(inside), inside)
    close(basis.project(outside), torch.zeros_like(x))
    assert inside.shape == x.shape
    close((inside * outside).flatten(2).sum(-1), torch.zeros(2, 5), atol=1e-3)


@LAW
@given(redundant())
def test_coordinates_compose_to_the_projection(case: tuple[Tensor, int]) -> None:
    vectors, _ = case
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-30)
    basis = Basis({NAME: vectors})
    x = normal(vectors.shape[1], seed=1)
    weights = basis.coordinates(x)
    assert weights.shape == (len(basis),)
    composed = basis.compose(weights)
    assert isinstance(composed, Direction)
    close(composed.vector, basis.project(x))


def test_coordinates_are_the_shortest_where_the_rank_is_short() -> None:
    basis = Basis({NAME: torch.stack([E[0], E[0], 2 * E[1]])})
    close(basis.coordinates(4 * E[0] + 6 * E[1] + E[2]), torch.tensor([2.0, 2.0, 3.0]))


def test_coordinates_do_not_mind_lengths_far_apart() -> None:
    basis = Basis({NAME: torch.stack([1e6 * E[0], 1e-6 * (E[0] + E[1])])})
    weights = basis.coordinates(E[0] + 2 * E[1])
    torch.testing.assert_close(weights, torch.tensor([-1e-6, 2e6]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_law_4_the_dtype_is_kept(dtype: torch.dtype) -> None:
    basis, x = random_basis(), normal(3, 6).to(dtype)
    for each in (basis.project(x), basis.complement(x), basis.coordinates(x)):
        assert each.dtype == dtype
    close(basis.project(x).float(), basis.project(x.float()), atol=0.02)


def test_ablating_a_basis_leaves_the_complement() -> None:
    basis, x = random_basis(), normal(2, 5, 6)
    close(x + Ablate(basis)(x), basis.complement(x))


# Angles


@LAW
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))
def test_principal_angles_are_scipys(k: int, other: int, seed: int) -> None:
    from scipy.linalg import subspace_angles

    one, two = random_basis(k, 7, seed=seed), random_basis(other, 7, seed=seed + 1)
    angles = one.principal_angles(two)
    wanted = subspace_angles(one.only().double().T.numpy(), two.only().double().T.numpy())
    close(angles, torch.from_numpy(wanted).flip(0), atol=1e-7)
    close(two.principal_angles(one), angles, atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 0.5, pi / 4, 1.5, pi / 2])
def test_a_known_angle(angle: float) -> None:
    a = torch.tensor(angle).double()
    turned = (a.cos() * E[0].double() + a.sin() * E[1].double()).float()
    one, two = Basis({NAME: torch.stack([E[2], E[0]])}), Basis({OTHER: turned[None]})
    assert one.principal_angles(two).tolist() == pytest.approx([angle], abs=1e-7, rel=1e-4)
    assert Basis({NAME: E[:1]}).cosines().tolist() == [[1.0]]


def test_cosines_and_singular_values() -> None:
    basis = Basis({NAME: torch.stack([2 * E[0], 3 * E[1], -E[0], 0 * E[0]])})
    assert basis.cosines().tolist() == [[1, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]
    close(basis.singular_values, torch.tensor([3.0, 5**0.5, 0.0, 0.0]))
    assert basis.rank == 2


# Orthonormal


def test_orthonormal_keeps_the_span_and_says_which_vectors_count() -> None:
    basis = Basis({NAME: torch.stack([E[0], 5 * E[0], E[0] + E[1]])}, ["a", "b", "c"])
    axes = basis.orthonormal()
    assert axes.labels == ("a", "c")
    close(axes.only(), E[:2])
    assert axes.rank == 2
    assert axes.principal_angles(basis).max() < 1e-7
    close(axes.coordinates(normal(4)), normal(4)[:2])
    heads = random_basis(3, 2, 4).orthonormal()
    assert heads.only().shape == (3, 2, 4)
    assert Basis({NAME: E[:2], OTHER: E[2:]}).orthonormal().parts()[1].rank == 2


def test_orthonormal_refuses_what_would_not_be_one_basis() -> None:
    with pytest.raises(BadInputError, match="not the same ones"):
        Basis({NAME: E[:2], OTHER: torch.stack([E[0], E[0]])}).orthonormal()
    with pytest.raises(BadInputError, match="keeps no vector"):
        Basis({NAME: torch.zeros(1, 4)}).orthonormal()


# The value


def test_vectors_are_copied_in_float32() -> None:
    mine = E[:2].clone().double().requires_grad_()
    basis = Basis({NAME: mine})
    with torch.no_grad():
        mine[0, 0] = 7
    assert basis.only()[0, 0] == 1
    assert basis.only().dtype == torch.float32
    assert not basis.only().requires_grad


def test_look_ups() -> None:
    basis = Basis({NAME: E[:2], OTHER: E[2:]}, ["joy", "fear"], name="mood")
    assert len(basis) == 2
    assert list(basis) == ["joy", "fear"]
    fear = basis["fear"]
    assert isinstance(fear, Directions)
    assert fear[OTHER].vector.tolist() == E[3].tolist()
    assert fear[OTHER].name == "fear"
    alone = basis.at("resid_post", 1)["joy"]
    assert isinstance(alone, Direction)
    assert alone.hook_name == NAME
    assert [part.hook_name for part in basis.parts()] == [NAME, OTHER]
    assert basis.rank == 2
    assert Basis({NAME: E[:2]}, name="x").labels == ("x 0", "x 1")


def test_compose() -> None:
    basis = Basis({NAME: E[:2], OTHER: 2 * E[2:]}, ["joy", "fear"], name="mood")
    both = basis.compose([2, -0.5])
    assert isinstance(both, Directions)
    assert both[NAME].vector.tolist() == [2, -0.5, 0, 0]
    assert both[OTHER].vector.tolist() == [0, 0, 4, -1]
    assert both[NAME].name == "2 * joy - 0.5 * fear"
    one = basis.at(NAME).compose({"fear": 3})
    assert isinstance(one, Direction)
    assert (one.name, one.vector.tolist()) == ("3 * fear", [0, 3, 0, 0])
    assert sl.add(one).fwd_hooks is not None


def test_a_long_sum_names_its_largest_terms() -> None:
    basis = Basis({NAME: torch.eye(6)}, list("abcdef"))
    composed = basis.compose(torch.tensor([0.1, -5, 0, 2, 3, 4]))
    assert isinstance(composed, Direction)
    assert composed.name == "-5 * b + 2 * d + 3 * e + 4 * f + 1 more"
    nothing = basis.compose(torch.zeros(6))
    assert isinstance(nothing, Direction)
    assert nothing.name == "0"


def test_reprs() -> None:
    basis = Basis({NAME: torch.stack([E[0], E[0]])}, ["<b>", "c"], name="mood")
    assert repr(basis) == f"Basis('mood', 2 vectors at {NAME}, d=4, rank 1 of 2: <b>, c)"
    assert "<b>," not in basis._repr_html_()
    assert "1 of 2" in basis._repr_html_()
    assert repr(Basis({NAME: torch.eye(6)}, list("abcdef"))).endswith(
        "d=6: a, b, c, d, and 2 more)"
    )
    two = Basis({NAME: normal(2, 4), "blocks.1.attn.hook_z": normal(2, 2, 3)}, ["a", "b"])
    assert repr(two) == "Basis('basis', 2 vectors at 2 hook points: a, b)"
    assert "hook_z" in two._repr_html_()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Basis({}), r"needs one vector or more"),
        (lambda: Basis({NAME: torch.zeros(0, 4)}), "needs one vector or more"),
        (lambda: Basis({NAME: E[0]}), r"needs one vector or more.*\(4,\)"),
        (lambda: Basis({NAME: E, OTHER: E[:2]}), "as many at every hook point"),
        (lambda: Basis({NAME: E / 0}), "not finite"),
        (lambda: Basis({NAME: E[:2]}, ["a"]), "as many labels, all different"),
        (lambda: Basis({NAME: E[:2]}, ["a", "a"]), "as many labels, all different"),
        (lambda: Basis({NAME: E[:2]}, ["joy", "fear"])["jo"], "no vector 'jo'. Nearest: 'joy'"),
        (lambda: random_basis().at(OTHER), f"is not at '{OTHER}'. Nearest: '{NAME}'"),
        (lambda: Basis({NAME: E, OTHER: E}).project(E), r"2 hook points: choose one by basis\.at"),
        (lambda: random_basis().project(E), r"takes activations \(\*batch, 6\); got \(4, 4\)"),
        (lambda: random_basis().compose([1, 2]), r"takes 3 weights.*got \(2,\)"),
        (lambda: random_basis().compose({"x": 1}), "no vector 'x'"),
        (
            lambda: random_basis().principal_angles(random_basis(2, 5)),
            r"holds \(6,\).*holds \(5,\)",
        ),
    ],
)
def test_refusals(make: Any, says: str) -> None:
    with pytest.raises(SteerLensError, match=says):
        make()


# Making one


def direction(name: str, row: int, hook_name: str = NAME) -> Direction:
    return Direction(hook_name, E[row], name=name)


def test_of_lists_and_mappings() -> None:
    a, b = direction("a", 0), direction("b", 1)
    assert Basis.of([a, b], name="ab").labels == ("a", "b")
    four = Basis.of([a, b, direction("a", 2, OTHER), direction("b", 3, OTHER)])
    assert four.at(OTHER).only().tolist() == E[2:].tolist()
    layers = Directions({NAME: a, OTHER: direction("a", 2, OTHER)})
    assert Basis.of(layers).labels == ("a",)
    assert list(Basis.of(layers).vectors) == [NAME, OTHER]
    shared = Basis.of({"one": layers, "two": b})
    assert list(shared.vectors) == [NAME]
    assert shared.labels == ("one", "two")
    made = [
        Direction(NAME, E[i], name=name, provenance={"by": "me", "of": name})
        for i, name in enumerate("ab")
    ]
    assert Basis.of(made).provenance == {"by": "me", "a": "{'of': 'a'}", "b": "{'of': 'b'}"}


@pytest.mark.parametrize(
    ("directions", "says"),
    [
        ([], "one direction or more"),
        ({}, "one direction or more"),
        ([direction("a", 0), direction("a", 1)], "Two directions are named 'a'"),
        ([direction("a", 0), direction("b", 1, OTHER)], "not at the same hook points"),
        ({"a": direction("a", 0), "b": direction("b", 1, OTHER)}, "share no hook point"),
        ([direction("a", 0), Direction(NAME, torch.ones(3), name="b")], "Shapes differ"),
    ],
)
def test_of_refuses(directions: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        Basis.of(directions)


def test_pca_is_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    x = normal(40, 2, 3) * torch.tensor([3.0, 2.0, 1.0]) + 50
    wanted = PCA(2).fit(x.flatten(1).double().numpy())
    basis = Basis.pca(x, 2, NAME)
    assert basis.only().shape == (2, 2, 3)
    assert basis.labels == ("pca 0", "pca 1")
    spread = torch.from_numpy(wanted.explained_variance_).sqrt().float()
    close(basis.singular_values, spread, atol=1e-4)
    turned = basis.only().flatten(1) @ torch.from_numpy(wanted.components_.T).float()
    close(turned.abs(), torch.diag(spread), atol=1e-3)
    assert (
        basis.only().flatten(1).gather(1, basis.only().flatten(1).abs().argmax(1)[:, None]).min()
        > 0
    )


def test_svd_is_about_zero() -> None:
    x = 0.1 * normal(40, 6) + 5 * torch.eye(6)[2]
    basis = Basis.svd(x, 2, NAME)
    assert basis.only()[0].abs().argmax() == 2
    close(
        basis.singular_values[:1] ** 2,
        (x @ basis.at(NAME).orthonormal().only()[0]).square().mean()[None],
        1e-3,
    )


def read(**examples: Tensor) -> Activations:
    moments = {name: Moments.of(x) for name, x in examples.items()}
    return Activations(moments, moments, examples, tuple(range(9)), "everywhere", 9)


def test_pca_of_activations() -> None:
    x = normal(9, 4)
    basis = Basis.pca(read(here=x), 2)
    close(basis.only(), Basis.pca(x, 2, "here").only())
    assert basis.hook_name == "here"
    assert basis.provenance == {"method": "pca", "items": "9", "positions": "everywhere"}
    two = read(here=x, there=2 * x)
    assert Basis.svd(two, 1, "there").hook_name == "there"
    with pytest.raises(BadInputError, match="needs a hook_name"):
        Basis.pca(two, 1)
    with pytest.raises(BadInputError, match="needs a hook_name"):
        Basis.pca(x, 1)
    with pytest.raises(UnknownNameError, match="nothing at 'ther'; nearest: 'there'"):
        Basis.pca(two, 1, "ther")


@pytest.mark.parametrize("k", [0, 3])
def test_components_that_are_not_there(k: int) -> None:
    x = torch.tensor([[1000.1, 2.0, 3.0]] * 3) + torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(BadInputError, match=r"have 2 components about their mean. Choose k from 1"):
        Basis.pca(x, k, NAME)
    assert Basis.svd(x, 3, NAME).rank == 3


class Sae:
    W_dec = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3))

    def __init__(self, **cfg: Any) -> None:
        self.cfg = SimpleNamespace(**cfg)


def test_sae_features() -> None:
    for sae in (Sae(hook_name=NAME), Sae(metadata=SimpleNamespace(hook_name=NAME))):
        basis = Basis.from_sae(sae, [2, 0])
        assert (basis.hook_name, basis.labels) == (NAME, ("feature 2", "feature 0"))
        assert basis.only().tolist() == [[6, 7, 8], [0, 1, 2]]
        assert Direction.from_sae(sae, 3).vector.tolist() == [9, 10, 11]
    assert Basis.from_sae(Sae(hook_name=NAME), [1], OTHER).hook_name == OTHER
    array = SimpleNamespace(W_dec=Sae.W_dec.detach().numpy())
    assert Basis.from_sae(array, [2, 0], NAME).only().tolist() == [[6, 7, 8], [0, 1, 2]]
    with pytest.raises(BadInputError, match=r"give hook_name=\.\.\."):
        Basis.from_sae(Sae(), [1])
    with pytest.raises(BadInputError, match=r"features 0 to 3; got \[4, -1\]"):
        Basis.from_sae(Sae(hook_name=NAME), [4, 0, -1])
    with pytest.raises(BadInputError, match="no decoder W_dec"):
        Direction.from_sae(E, 0, NAME)


def test_a_transcoder_writes_where_its_output_goes() -> None:
    """It reads one hook point and writes another: a feature's row is of the second."""
    both = SimpleNamespace(hook_name=NAME, hook_name_out=OTHER, model_name="gpt2")
    found = Direction.from_sae(Sae(metadata=both, normalize_activations="layer_norm"), 1)
    assert found.hook_name == OTHER
    assert found.provenance == {
        "matrix": "W_dec",
        "trained_on": "gpt2",
        "normalize_activations": "layer_norm",
    }
    silent = SimpleNamespace(hook_name=NAME, hook_name_out=None)
    assert Basis.from_sae(Sae(metadata=silent), [1]).hook_name == NAME
    assert Basis.from_sae(Sae(metadata=silent), [1]).provenance == {"matrix": "W_dec"}


def test_sae_features_of_all_heads() -> None:
    """One line over all heads, in the shape of what stands at hook_z."""
    sae = Sae(hook_name="blocks.0.attn.hook_z", reshape_activations="hook_z")
    sae.W_dec = torch.arange(24.0).reshape(4, 6)
    with pytest.raises(BadInputError, match=r"Set sae.d_head = model.cfg.d_head"):
        Direction.from_sae(sae, 1)
    sae.d_head = 2
    assert Direction.from_sae(sae, 1).vector.tolist() == [[6, 7], [8, 9], [10, 11]]
    assert Basis.from_sae(sae, [0, 3]).only().shape == (2, 3, 2)


@pytest.mark.host
def test_a_factored_matrix_gives_its_output_side() -> None:
    from transformer_lens import FactoredMatrix

    left, right = normal(5, 2), normal(2, 6, seed=1)
    product = left @ right
    basis = Basis.from_factored(FactoredMatrix(left, right), 2, NAME)
    narrow = FactoredMatrix(left.bfloat16(), right.bfloat16())
    assert Basis.from_factored(narrow, 2, NAME).only().dtype == torch.float32
    close(basis.singular_values, torch.linalg.svdvals(product)[:2], atol=1e-4)
    close(basis.project(product), product)
    close((product @ basis.orthonormal().only().T).norm(dim=0), basis.singular_values, atol=1e-4)
    with pytest.raises(BadInputError, match=r"2 singular directions.* k from 1 to 2"):
        Basis.from_factored(FactoredMatrix(left, right), 3, NAME)
    with pytest.raises(BadInputError, match="stack of matrices"):
        Basis.from_factored(FactoredMatrix(left[None], right[None]), 1, NAME)
    with pytest.raises(BadInputError, match="FactoredMatrix is needed"):
        Basis.from_factored("W_OV", 1, NAME)


@EACH_HOST
@pytest.mark.host
def test_unembedding(host: str) -> None:
    model: Any = tiny("llama", host)
    basis = Basis.from_unembedding(model, ["good", 5], NAME)
    good = model.tokenizer("good", add_special_tokens=False)["input_ids"][0]
    assert basis.labels == ("good", " bad")
    torch.testing.assert_close(basis.only(), model.W_U[:, [good, 5]].T.detach().float())
    final = normal(1, 1, model.cfg.d_model)
    logits = model.unembed(final)[0, 0] - model.unembed(0 * final)[0, 0]
    close(logits[[good, 5]].detach(), basis.only() @ final[0, 0], atol=1e-4)
    with pytest.raises(BadInputError, match=r"ids 0 to 47; got \[48\]"):
        Basis.from_unembedding(model, [48], NAME)
    with pytest.raises(BadInputError, match="'good bad' is 2 tokens"):
        Basis.from_unembedding(model, ["good bad"], NAME)
    with pytest.raises(UnknownNameError, match="no hook point"):
        Basis.from_unembedding(model, [5], "blocks.9.hook_resid_post")
