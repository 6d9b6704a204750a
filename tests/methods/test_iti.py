"""ITI against direct computations: which heads, how far, and along what."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from models import D_HEAD, N_HEADS, N_LAYERS, hosts, padded, random_rows, tiny
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import steerlens as sl
from steerlens.attribution.probing import folds
from steerlens.methods import iti

ROWS = random_rows([5, 7, 4, 6, 5, 8] * 2, seed=3)
CONTRAST = sl.Contrast(ROWS[:6], ROWS[6:])
QUIET: dict[str, Any] = {"progress": False}
on_hosts = pytest.mark.parametrize("host", hosts())
on_one_host = pytest.mark.parametrize("host", hosts()[:1])


def ends(model: Any, rows: list[Tensor]) -> Tensor:
    """z at each text's last token: (row, layer, head, d_head)."""
    seen: list[Tensor] = []
    tokens, real = padded(rows, "right")
    last = real.sum(1) - 1

    def keep(x: Tensor, hook: Any) -> None:
        seen.append(x[torch.arange(len(x)), last].clone())

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(N_LAYERS)]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(name, keep) for name in names])
    return torch.stack(seen, dim=1)


def direct(x: Tensor) -> Tensor:
    """sigma theta of one head by the formulas, from its (row, d_head), positive rows first."""
    up, down = x.double().chunk(2)
    theta = up.mean(0) - down.mean(0)
    theta = theta / theta.norm()
    along = x.double() @ theta
    return ((along.square().mean() - along.mean().square()).sqrt() * theta).float()


@pytest.mark.host
@on_hosts
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_heads_are_moved_by_alpha_sigma_theta_at_the_last_token_of_every_step(
    architecture: str, host: str
) -> None:
    model, row = tiny(architecture, host), random_rows([8], seed=9)[0]
    config = iti.Config(k=4, alpha=2.5)
    heads = iti.probed(model, CONTRAST, config, **QUIET)
    steering = iti.fit(model, CONTRAST, config, **QUIET)
    assert int(heads.chosen.sum()) == 4
    assert len(steering.interventions) == int(heads.chosen.any(1).sum())

    seen = ends(model, ROWS)
    moved = {tuple(at): direct(seen[:, *at]) for at in heads.chosen.nonzero().tolist()}

    def hook(layer: int) -> Any:
        def push(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            for (place, head), vector in moved.items():
                if place == layer:
                    x[0, 4:, head] += 2.5 * vector
            return x

        return f"blocks.{layer}.attn.hook_z", push

    with torch.no_grad():
        wanted = model.run_with_hooks(row[None], fwd_hooks=[hook(n) for n in range(N_LAYERS)])
        base = model(row[None])
        with steering.on(model, prompt_lengths=[5]):
            found = model(row[None])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[:, 4:], base[:, 4:], atol=1e-2)
    assert torch.allclose(found[:, :4], base[:, :4], atol=1e-6)


@pytest.mark.host
@on_one_host
def test_heads_are_ranked_by_held_out_accuracy_of_both_sides(host: str) -> None:
    """Item by item left out with its pair, as scikit-learn would probe the z read here."""
    model = tiny("llama", host)
    seen = iti.probed(model, CONTRAST, iti.Config(k=3), **QUIET)
    assert seen.accuracy.shape == (N_LAYERS, N_HEADS)
    assert seen.vectors.shape == (N_LAYERS, N_HEADS, D_HEAD["llama"])
    assert seen.accuracy[seen.chosen].min() >= seen.accuracy[~seen.chosen].max()
    z, (fold, _) = ends(model, ROWS), folds(6, 6, paired=True, seed=0) or ()
    labels = torch.tensor([1] * 6 + [0] * 6)
    for layer, head in [(0, 0), (2, 3)]:
        right = 0.0
        for each in range(5):
            out = (fold == each).repeat(2)
            x = z[:, layer, head]
            x = (x - x[~out].mean(0)) / (x[~out] - x[~out].mean(0)).std()
            probe = LogisticRegression(C=1.0).fit(x[~out].numpy(), labels[~out].numpy())
            right += probe.score(x[out].numpy(), labels[out].numpy()) * int(out.sum())
        assert float(seen.accuracy[layer, head]) == pytest.approx(right / 12)


@pytest.mark.host
@on_one_host
def test_answers_are_read_to_their_end(host: str) -> None:
    model = tiny("llama", host)
    asked = [(f"w1 w{i}", " good w3") for i in range(4)], [(f"w1 w{i}", " bad") for i in range(4)]
    texts = [[p + a for p, a in side] for side in asked]
    first = iti.probed(model, sl.Contrast(*asked), **QUIET)
    second = iti.probed(model, sl.Contrast(*texts), **QUIET)
    torch.testing.assert_close(first.vectors, second.vectors, atol=1e-6, rtol=1e-5)


def test_sigma_is_the_deviation_of_both_sides_along_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(30, 2, 5, generator=generator)
    down = torch.randn(20, 2, 5, generator=generator) * 2
    up[:, 0, 1] += 7
    up[:, 1] = 3 + torch.randn(30, 5, generator=generator)
    down[:, 1] = up[:, 1].mean(0)  # a head that reads the same on both sides, but for rounding
    assert (up.mean(0) - down.mean(0))[1].any()
    found, apart = iti.moves(up, down)
    gap = up[:, 0].mean(0) - down[:, 0].mean(0)
    along = torch.cat([up[:, 0], down[:, 0]]) @ gap / gap.norm()
    torch.testing.assert_close(found[0].norm(), along.std(correction=0))
    torch.testing.assert_close(found[0] / found[0].norm(), gap / gap.norm())
    torch.testing.assert_close(apart[0], gap.norm() / along.std(correction=0))
    assert not found[1].any()
    assert apart[1] == 0


def test_the_best_by_accuracy_then_distance_then_place() -> None:
    accuracy = torch.tensor([[0.5, 0.9, 0.7, 0.7], [0.7, 0.9, 0.2, 0.7]])
    apart = torch.tensor([[9.0, 1.0, 2.0, 3.0], [2.0, 1.0, 9.0, 2.0]])

    def picked(k: int) -> list[list[int]]:
        return iti.best(accuracy, apart, k).nonzero().tolist()

    assert picked(1) == [[0, 1]]
    assert picked(2) == [[0, 1], [1, 1]]
    assert picked(3) == [[0, 1], [0, 3], [1, 1]]
    assert picked(4) == [[0, 1], [0, 2], [0, 3], [1, 1]]
    with pytest.raises(sl.SteerLensError, match="has 8 heads"):
        picked(9)


def test_the_papers_k_or_a_quarter_of_the_heads() -> None:
    def k(layers: int, heads: int) -> int:
        scores = torch.rand(layers, heads)
        return int(iti.best(scores, scores).sum())

    assert (k(32, 32), k(6, 8), k(12, 12), k(1, 2)) == (48, 12, 36, 1)


def test_defaults_are_the_papers() -> None:
    config = iti.Config()
    assert (iti.HEADS, config.alpha, config.positions) == (48, 15, "predicting")
    assert config.k is None


@pytest.mark.host
@on_hosts
def test_it_combines_takes_gates_and_positions_traces_and_pickles(host: str) -> None:
    model, tokens = tiny("llama", host), torch.stack(random_rows([6, 6], seed=5))
    steering = iti.fit(model, CONTRAST, iti.Config(alpha=3), **QUIET)

    def logits(each: sl.Steering) -> Tensor:
        with torch.no_grad(), each.on(model):
            return model(tokens)

    with torch.no_grad():
        base = model(tokens)
    assert torch.equal(logits(steering.when(0)), base)
    half = logits(pickle.loads(pickle.dumps(steering)).when(0.5))
    assert not torch.allclose(half, base, atol=1e-3)
    torch.testing.assert_close(logits(0.25 * steering + 0.25 * steering), half, atol=1e-4, rtol=0)
    assert not torch.allclose(logits(steering.where("everywhere"))[:, 1], base[:, 1], atol=1e-3)
    with torch.no_grad(), steering.trace(model) as trace:
        model(tokens)
    picked = trace.texts[0].share.max(1).values > 0
    assert picked.nonzero()[:, -1].unique().tolist() == [5]


@pytest.mark.host
@on_one_host
def test_errors_say_what_to_do(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(sl.SteerLensError, match="4 items a side"):
        iti.fit(model, sl.Contrast(ROWS[:3], ROWS[3:6]), **QUIET)
    with pytest.raises(sl.SteerLensError, match="1 head or more"):
        iti.Config(k=0)
    with pytest.raises(sl.SteerLensError, match="has 12 heads"):
        iti.fit(model, sl.Contrast(ROWS[:4], ROWS[4:8]), iti.Config(k=13), **QUIET)
    with pytest.raises(sl.SteerLensError, match="read the same at every head"):
        iti.fit(model, sl.Contrast(ROWS[:4], ROWS[:4]), **QUIET)
