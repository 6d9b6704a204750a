"""LinEAS against plain autograd on plain hooks, and its loop on problems with a known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import behaves
from by_hand import PROMPT, SETS, SOURCE, TARGET, logits, pooled, rms, same_state, state
from cases import EACH_HOST
from models import D_VOCAB, build, forward, hosts, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.host import is_bridge
from steerlens.methods import lineas
from steerlens.methods.data import Sets
from steerlens.methods.descent import Descent, descend
from steerlens.methods.training import Texts, gradients, matchings, split
from steerlens.methods.transport import wasserstein
from steerlens.verbs import steer

CLOSE = dict(atol=1e-4, rtol=1e-4)
QUIET: dict[str, Any] = dict(progress=False)
NAMES = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
ONE_HOST = pytest.mark.parametrize("host", hosts()[:1])
DICE = torch.Generator().manual_seed(0)


# The loss


def test_w2_by_its_gradient_and_by_differences() -> None:
    """The gradient of the loss is that of central differences, in float64, sizes alike or not."""
    y = torch.randn(4, 3, generator=DICE).double()
    for n in (4, 6):
        x = torch.randn(n, 3, generator=DICE).double().requires_grad_(True)
        (found,) = torch.autograd.grad(wasserstein(x, y), x)
        step = 1e-6
        for i in range(n):
            for j in range(3):
                moved = torch.zeros(n, 3).double()
                moved[i, j] = step
                up, down = (wasserstein(x.detach() + sign * moved, y) for sign in (1, -1))
                assert float(found[i, j]) == pytest.approx(
                    float((up - down) / (2 * step)), abs=1e-6
                )


# The descent


def test_the_defaults_are_the_papers() -> None:
    config = lineas.Config()
    assert (config.lr, config.final, config.steps, config.batch) == (0.1, 0.1, 1000, 32)
    assert (config.optimizer, config.l1, config.group) == ("sgd", 0.0, 0.0)
    assert (config.read, config.positions, config.coeff) == ("everywhere", "everywhere", 1.0)
    assert config.validation == 0


def test_the_rate_falls_along_torchs_cosine() -> None:
    config = Descent(lr=0.3, steps=20, final=0.2)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.06)
    for step in range(20):
        assert config.rate(step) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_the_proximal_step_is_the_minimum_it_stands_for() -> None:
    """Of |u - v|^2 / 2 + l1 |u|_1 + group sqrt(d) |u|_2: no neighbour is better."""
    v, l1, group = torch.randn(5, generator=DICE).double(), 0.2, 0.3

    def aim(u: Tensor) -> float:
        penalty = l1 * u.abs().sum() + group * 5**0.5 * u.norm()
        return float(((u - v) ** 2).sum() / 2 + penalty)

    best = lineas.shrunk(v, l1, group)
    assert bool(best.any())
    for scale in (1e-3, 1e-1, 1.0):
        for _ in range(50):
            assert aim(best + scale * torch.randn(5, generator=DICE).double()) >= aim(best)
    assert not lineas.shrunk(v, 0.0, 2.0).any()
    assert not lineas.shrunk(torch.zeros(3), 0.0, 0.0).any()


def test_early_stopping_keeps_the_best() -> None:
    """The held-out loss is least at 3: the loop goes on for `patience` steps, then returns."""
    at = torch.zeros(1, requires_grad=True)
    config = Descent(lr=1.0, final=1.0, steps=50, every=2, patience=6)
    course = descend(
        [at],
        lambda: {"loss": -at.sum()},
        config,
        held_out=lambda: float((at - 3).abs()),
        progress=False,
    )
    assert (float(at.detach()), course.kept) == (2.0, 2)
    assert list(course.held_out) == [0, 2, 4, 6, 8]
    assert len(course.losses["loss"]) == 8


def test_a_training_that_never_helped_says_so() -> None:
    at = torch.zeros(1, requires_grad=True)
    with pytest.warns(UserWarning, match="aim: on texts held out the loss never fell"):
        course = descend(
            [at],
            lambda: {"loss": -at.sum()},
            Descent(lr=1.0, steps=4, every=1),
            held_out=lambda: float(at.abs()),
            name="aim",
            progress=False,
        )
    assert (float(at.detach()), course.kept) == (0.0, 0)


def test_without_held_out_texts_it_runs_to_the_end() -> None:
    at = torch.zeros(1, requires_grad=True)
    config = Descent(lr=1.0, final=1.0, steps=5)
    course = descend([at], lambda: {"loss": -at.sum()}, config, scale=2.0, progress=False)
    assert (float(at.detach()), course.kept, course.held_out) == (10.0, 5, {})
    assert course.losses["loss"].tolist() == [0.0, -2.0, -4.0, -6.0, -8.0]


def test_split() -> None:
    first, rest = split(range(20), 0.25, seed=1)
    assert sorted(first + rest) == list(range(20))
    assert (len(first), len(rest)) == (15, 5)
    assert split(range(20), 0.25, seed=1) == (first, rest) != split(range(20), 0.25, seed=2)
    with pytest.raises(BadInputError, match="cannot be held out"):
        split(range(2), 0.1, seed=0)


# The method


def by_hand(model: Any, config: lineas.Config) -> dict[str, tuple[Tensor, Tensor]]:
    """Plain gradient descent on plain hooks, one text a pass; b in units of each point's rms."""
    units = rms(model, TARGET, NAMES) if config.units == "rms" else dict.fromkeys(NAMES, 1.0)
    with torch.no_grad():
        target = pooled(model, TARGET, NAMES)
    maps = {
        name: (torch.ones_like(x[0]).requires_grad_(), torch.zeros_like(x[0]).requires_grad_())
        for name, x in target.items()
    }
    for step in range(config.steps):
        changes = {
            name: lambda a, w=w, b=b, s=units[name]: w * a + s * b for name, (w, b) in maps.items()
        }
        source = pooled(model, SOURCE, NAMES, changes)
        loss = sum(
            ((source[name].sort(0).values - target[name].sort(0).values) ** 2).sum(0).mean()
            / units[name] ** 2
            for name in NAMES
        ) / len(NAMES)
        leaves = [each for pair in maps.values() for each in pair]
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):  # type: ignore[arg-type]
            leaf.data -= config.rate(step) * gradient
    return {name: (w.detach(), units[name] * b.detach()) for name, (w, b) in maps.items()}


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize(
    ("architecture", "units", "lr"),
    [("gpt2", "rms", 0.3), ("llama", "raw", 0.02), ("gemma2", "rms", 0.3)],
)
def test_three_steps_by_hand(architecture: str, host: str, units: Any, lr: float) -> None:
    """The loss as the authors' code sums it, its gradient through the network, and the steps."""
    model = tiny(architecture, host)
    config = lineas.Config(sites=NAMES, steps=3, lr=lr, units=units)
    found = by_hand(model, config)
    steering = lineas.fit(model, SETS, config, **QUIET)
    for each in steering.interventions:
        ours: Any = each.transform
        for got, wanted in zip((ours.weight, ours.bias), found[each.hook_name], strict=True):
            torch.testing.assert_close(got, wanted, **CLOSE)
            assert not torch.allclose(wanted, torch.full_like(wanted, wanted.mean()), atol=1e-3)
    changes = {name: lambda a, w=w, b=b: w * a + b for name, (w, b) in found.items()}
    with steering.on(model), torch.no_grad():
        steered = forward(model, PROMPT)
    torch.testing.assert_close(steered, logits(model, changes), **CLOSE)
    assert not torch.allclose(steered, logits(model, {}), atol=1e-2)


def planted(model: Any, shift: Tensor) -> Sets:
    """Texts, and the same in other words, each of which stands for one word moved by a shift."""
    half = (D_VOCAB - 4) // 2
    table = (
        model.original_model.get_input_embeddings().weight if is_bridge(model) else model.embed.W_E
    )
    table.data[4 + half : 4 + 2 * half] = table.data[4 : 4 + half] + shift
    rows = [1 + 0 * row for row in random_rows([6] * 8)]
    generator = torch.Generator().manual_seed(4)
    for row in rows:
        row[1:] = torch.randint(4, 4 + half, (5,), generator=generator)
    moved = [torch.where(row >= 4, row + half, row) for row in rows]
    return Sets(rows, moved[::-1])


@pytest.mark.host
@EACH_HOST
def test_a_planted_shift_is_recovered(host: str) -> None:
    """Target texts are source texts moved by v at the first layer's input: w stays 1, b is v."""
    model = build("llama", host)
    shift = torch.randn(model.cfg.d_model, generator=DICE)
    sets = planted(model, shift)
    config = lineas.Config(sites="blocks.0.hook_resid_pre", steps=20, lr=2.0, final=1.0)
    trained = lineas.train(model, sets, config, **QUIET)
    losses = trained.course.losses["transport"]
    assert float(losses[-1]) < 1e-3 * float(losses[0])
    found: Any = trained.steering.interventions[0].transform
    assert float((found.bias - shift).norm()) < 0.02 * float(shift.norm())
    assert float((found.weight - 1).abs().max()) < 0.2
    assert len(trained.frame()) == 20
    assert repr(trained).startswith("Trained(loss ")


@pytest.mark.host
@EACH_HOST
def test_the_trained_steering_is_the_training_forward(host: str) -> None:
    model = tiny("llama", host)
    config = lineas.Config(steps=1)
    with gradients(model):
        (matching,) = matchings(model, SETS, NAMES, config, False)
        maps = matching.maps()
        with torch.no_grad():
            for each in maps:
                each.weight.add_(0.3 * torch.randn(each.weight.shape, generator=DICE))
                each.bias.add_(0.3 * torch.randn(each.bias.shape, generator=DICE))
        live, settled = steer(maps), steer([each.settled() for each in maps])
        texts = Texts(model, list(PROMPT), "everywhere")
        one, other = (texts.written([0], NAMES, each)[0] for each in (live, settled))
        for name in NAMES:
            assert one[name].requires_grad
            assert torch.equal(one[name], other[name])
        with live.on(model):
            trained = forward(model, PROMPT)
    assert trained.requires_grad
    with settled.on(model), torch.no_grad():
        assert torch.equal(forward(model, PROMPT), trained)


@pytest.mark.host
@ONE_HOST
def test_seeds(host: str) -> None:
    """The same seed gives the same bits; another one draws other texts."""
    model = tiny("llama", host)
    config = lineas.Config(sites=NAMES[:1], steps=3, batch=2, seed=5)
    first, again, other = (
        lineas.train(model, SETS, each, **QUIET).course.losses["transport"]
        for each in (config, config, replace(config, seed=6))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.host
@ONE_HOST
def test_sparse_maps(host: str) -> None:
    """A weight leaves entries, or whole hook points, exactly as they are."""
    model = tiny("llama", host)
    config = lineas.Config(sites=NAMES, steps=3, lr=0.05)
    moved = [
        [(each.transform.weight != 1) | (each.transform.bias != 0) for each in found.interventions]  # type: ignore[attr-defined]
        for found in (
            lineas.fit(model, SETS, each, **QUIET)
            for each in (config, replace(config, l1=0.02), replace(config, group=10.0))
        )
    ]
    assert all(bool(each.all()) for each in moved[0])
    assert 0 < sum(int(each.sum()) for each in moved[1]) < 2 * model.cfg.d_model
    assert not any(bool(each.any()) for each in moved[2])


@pytest.mark.host
@ONE_HOST
def test_texts_held_out(host: str) -> None:
    model = tiny("llama", host)
    config = lineas.Config(sites=NAMES[:1], steps=4, validation=0.5, every=2, lr=0.05)
    course = lineas.train(model, SETS, config, **QUIET).course
    assert list(course.held_out) == [0, 2, 4]
    assert course.kept == min(course.held_out, key=lambda step: course.held_out[step])


@pytest.mark.host
@EACH_HOST
def test_the_model_is_left_as_it_was(host: str) -> None:
    """Weights, gradients, what requires them and hooks, after training and after an exception."""
    model = build("gpt2", host)
    weights = list((model.original_model if is_bridge(model) else model).parameters())
    weights[0].requires_grad_(False)
    config = lineas.Config(sites=NAMES, steps=2)
    lineas.fit(model, SETS, config, **QUIET)  # a bridge sets up hooks of its own at first
    before = state(model)
    lineas.fit(model, SETS, config, **QUIET)
    assert same_state(before, state(model))

    def broken(activation: Tensor, hook: Any) -> None:
        if activation.requires_grad:
            raise KeyError("a user's hook")

    with pytest.raises(KeyError, match="a user's hook"):
        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", broken)]):
            lineas.fit(model, SETS, config, **QUIET)
    assert same_state(before, state(model))
    with pytest.raises(BadInputError, match="diverged at lr"):
        lineas.fit(model, SETS, replace(config, lr=1e30, steps=9, units="raw"), **QUIET)
    assert same_state(before, state(model))


@pytest.mark.host
@EACH_HOST
def test_it_is_a_steering_like_any_other(host: str, tmp_path: Path) -> None:
    """Also when it is fitted in inference mode, under another steering, with Adam."""
    model = tiny("llama", host)
    config = lineas.Config(sites=NAMES, steps=2, coeff=0.5, optimizer="adam", lr=0.05)
    with torch.inference_mode():
        steering = lineas.fit(model, SETS, config, **QUIET)
    behaves(steering, model, tmp_path / "lineas.safetensors")
    assert {each.coeff for each in steering.interventions} == {sl.signals.Constant(0.5)}
    other = sl.steer(sl.transforms.Scale(torch.ones(model.cfg.d_model)), NAMES[0])
    with other.on(model):
        under = lineas.fit(model, SETS, config, **QUIET)
    one, two = (each.interventions[0].transform.bias for each in (steering, under))  # type: ignore[attr-defined]
    assert not torch.equal(one, two)


def test_errors() -> None:
    for wrong, said in (
        (dict(steps=0), "steps, batch, every and patience"),
        (dict(lr=0.0), "lr above 0"),
        (dict(validation=1.0), "from 0 up to 1"),
        (dict(l1=-1.0), "0 or more"),
        (dict(coeff=1.5), "share from 0 to 1"),
    ):
        with pytest.raises(BadInputError, match=said):
            lineas.Config(**wrong)
    for field in ("optimizer", "units"):
        config = lineas.Config()
        object.__setattr__(config, field, "other")  # past the tests' own check of types
        with pytest.raises(BadInputError, match="'rms' or 'raw'"):
            config.__post_init__()
