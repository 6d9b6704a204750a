"""E2E-DSAS against plain autograd on plain hooks; its gates, open, shut and beyond 1."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import behaves
from by_hand import (
    CONTROL,
    PROMPT,
    SETS,
    SOURCE,
    TARGET,
    logits,
    pooled,
    rms,
    same_state,
    state,
    written,
)
from cases import EACH_HOST
from models import D_MODEL, forward, hosts, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.methods import e2e_dsas, lineas
from steerlens.methods.data import Sets
from steerlens.methods.e2e_dsas import LiveGate, gated
from steerlens.methods.training import Live, gradients
from steerlens.signals import Moment, Probe, Readout, Relu
from steerlens.transforms import Ablate, Add, Affine, Extrapolate, moved

CLOSE = dict(atol=1e-4, rtol=1e-4)
QUIET: dict[str, Any] = dict(progress=False)
NAMES = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
ONE_HOST = pytest.mark.parametrize("host", hosts()[:1])
BOTH = pytest.mark.parametrize("gate", ["sigmoid", "relu"])
DICE = torch.Generator().manual_seed(0)


def gate_of(kind: str, score: Tensor) -> Tensor:
    return torch.sigmoid(score) if kind == "sigmoid" else torch.relu(score)


def by_hand(model: Any, config: e2e_dsas.Config) -> dict[str, tuple[Tensor, ...]]:
    """Plain gradient descent on plain hooks, one text a pass: w, b, u and v of every point."""
    units = rms(model, TARGET, NAMES)
    with torch.no_grad():
        target = pooled(model, TARGET, NAMES)
        original = [written(model, row, NAMES, {}) for row in CONTROL]
    start = 0.0 if config.gate == "sigmoid" else 0.5
    leaves = {
        name: [
            each.requires_grad_()
            for each in (
                torch.ones(D_MODEL),
                torch.zeros(D_MODEL),
                torch.zeros(D_MODEL),
                torch.tensor(start),
            )
        ]
        for name in NAMES
    }

    def change(name: str) -> Any:
        w, b, u, v = leaves[name]
        s = units[name]

        def moved(a: Tensor) -> Tensor:
            g = gate_of(config.gate, a @ u / s + v)
            return a + g[..., None] * (w * a + s * b - a)

        return moved

    for step in range(config.steps):
        changes = {name: change(name) for name in NAMES}
        source = pooled(model, SOURCE, NAMES, changes)
        control = [written(model, row, NAMES, changes) for row in CONTROL]
        transport = sum(
            ((source[name].sort(0).values - target[name].sort(0).values) ** 2).mean()
            / units[name] ** 2
            for name in NAMES
        )
        retain = sum(
            torch.cat(
                [
                    (now[name] - before[name]).norm(dim=1)
                    for now, before in zip(control, original, strict=True)
                ]
            ).mean()
            / (units[name] * D_MODEL**0.5)
            for name in NAMES
        )
        loss = len(SOURCE) / len(NAMES) * (transport + config.gamma * retain)
        every = [each for name in NAMES for each in leaves[name]]
        found = torch.autograd.grad(loss, every, allow_unused=True)
        for leaf, gradient in zip(every, found, strict=True):
            leaf.data -= config.rate(step) * (0 if gradient is None else gradient)
    return {
        name: (w.detach(), units[name] * b.detach(), u.detach() / units[name], v.detach())
        for name, (w, b, u, v) in leaves.items()
    }


STEPS = [(host, *each) for host in hosts() for each in (("gpt2", "sigmoid"), ("gemma2", "relu"))]


@pytest.mark.host
@pytest.mark.parametrize(("host", "architecture", "gate"), [*STEPS, (hosts()[0], "llama", "relu")])
def test_three_steps_by_hand(architecture: str, host: str, gate: Any) -> None:
    """Both losses, their gradients through the network to maps and gates, and the logits."""
    model = tiny(architecture, host)
    config = e2e_dsas.Config(sites=NAMES, steps=3, lr=0.3, gate=gate, gamma=2.0)
    found = by_hand(model, config)
    steering = e2e_dsas.fit(model, SETS, config, **QUIET)
    changes: dict[str, Any] = {}
    for each in steering.interventions:
        w, b, u, v = found[each.hook_name]
        outer: Any = each.transform
        signal: Any = each.gate
        ours = outer if gate == "sigmoid" else outer.inner
        score = signal if gate == "sigmoid" else signal.score
        assert isinstance(signal, Probe if gate == "sigmoid" else Relu)
        for got, wanted in ((ours.weight - 1, w - 1), (ours.bias, b), (score.direction.vector, u)):
            assert float(wanted.norm()) > 0
            assert float((got - wanted).norm()) < 1e-3 * float(wanted.norm())
        assert score.bias == pytest.approx(float(v), abs=1e-4)

        def change(a: Tensor, w: Any = w, b: Any = b, u: Any = u, v: Any = v) -> Tensor:
            return a + gate_of(gate, a @ u + v)[..., None] * (w * a + b - a)

        changes[each.hook_name] = change
    with steering.on(model), torch.no_grad():
        steered = forward(model, PROMPT)
    torch.testing.assert_close(steered, logits(model, changes), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(steered, logits(model, {}), atol=1e-2)


def some_parts(kind: Any) -> tuple[list[Live], list[LiveGate]]:
    """Live maps and gates, with gates well beyond 1 where they may be."""

    dice = torch.Generator().manual_seed(11)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=dice)

    maps = [Live(1 + random(D_MODEL), random(D_MODEL), name, 1.7) for name in NAMES]
    gates = [LiveGate(random(D_MODEL), random() + 0.5, kind, 1.7) for _ in NAMES]
    for each in (*maps, *gates):
        each.weight.requires_grad_()
        each.bias.requires_grad_()
    return maps, gates


@pytest.mark.host
@EACH_HOST
@BOTH
def test_the_trained_steering_is_the_training_forward(host: str, gate: Any) -> None:
    """Bit for bit, with gates above 1 under the rectifier."""
    model = tiny("llama", host)
    maps, gates = some_parts(gate)
    pairs = [e2e_dsas._settled(*pair, {}) for pair in zip(maps, gates, strict=True)]
    settled = gated([pair[0] for pair in pairs], [pair[1] for pair in pairs], "everywhere")
    with gradients(model), gated(maps, gates, "everywhere").on(model):
        trained = forward(model, PROMPT)
    assert trained.requires_grad
    with torch.no_grad(), settled.trace(model) as trace:
        assert torch.equal(forward(model, PROMPT), trained)
    highest = float(trace.texts[0].gate.max())
    assert highest > 1 if gate == "relu" else 0 < highest <= 1
    assert repr(pickle.loads(pickle.dumps(settled))) == repr(settled)


@pytest.mark.host
@EACH_HOST
def test_a_shut_gate_leaves_the_logits_bit_for_bit(host: str) -> None:
    model = tiny("llama", host)
    maps, gates = some_parts("relu")
    shut = [replace(each, bias=torch.tensor(-1e6)) for each in gates]
    pairs = [e2e_dsas._settled(*pair, {}) for pair in zip(maps, shut, strict=True)]
    steering = gated([pair[0] for pair in pairs], [pair[1] for pair in pairs], "everywhere")
    with torch.no_grad():
        base = forward(model, PROMPT)
        with pytest.warns(UserWarning, match="never opened"), steering.on(model):
            assert torch.equal(forward(model, PROMPT), base)


@pytest.mark.host
@EACH_HOST
@BOTH
def test_it_is_a_steering_like_any_other(host: str, gate: Any, tmp_path: Path) -> None:
    """A rectified gate may be scaled beyond 1, a sigmoid one may not."""
    model = tiny("llama", host)
    config = e2e_dsas.Config(sites=NAMES, steps=2, lr=0.3, gate=gate, coeff=0.5)
    steering = e2e_dsas.fit(model, SETS, config, **QUIET)
    behaves(steering, model, tmp_path / "e2e.safetensors")
    assert {each.coeff for each in steering.interventions} == {sl.signals.Constant(0.5)}
    refused = pytest.raises(BadInputError, match="bound its gate")
    with torch.no_grad(), nullcontext() if gate == "relu" else refused:
        with (10 * steering).on(model):
            forward(model, PROMPT)


@pytest.mark.host
@ONE_HOST
@BOTH
def test_the_control_loss_keeps_control_texts(host: str, gate: Any) -> None:
    """With a large gamma their logits move less than with none, and the losses say the same."""
    model = tiny("llama", host)
    config = e2e_dsas.Config(sites=NAMES, steps=4, lr=0.3, gate=gate)
    off, last = [], []
    for gamma in (0.0, 0.5):
        trained = e2e_dsas.train(model, SETS, replace(config, gamma=gamma), **QUIET)
        moves = []
        for row in CONTROL:
            with torch.no_grad():
                base = forward(model, row[None])
                with trained.steering.on(model):
                    moves.append((forward(model, row[None]) - base).norm())
        off.append(float(torch.stack(moves).mean()))
        last.append(trained.course.losses)
    assert 0 < off[1] < 0.5 * off[0]
    assert not last[0]["control"].any()
    assert float(last[1]["control"][0]) == 0
    assert float(last[0]["transport"][-1]) < float(last[1]["transport"][-1])
    assert float(last[0]["transport"][-1]) < float(last[0]["transport"][0])


@pytest.mark.host
@ONE_HOST
def test_it_trains_as_lineas_does(host: str) -> None:
    """Seeds, texts held out, settings, and the model as it was."""
    model = tiny("llama", host)
    config = e2e_dsas.Config(sites=NAMES[:1], steps=2, batch=2, validation=0.5, every=1, lr=0.05)
    e2e_dsas.fit(model, SETS, replace(config, steps=1), **QUIET)
    before = state(model)
    first, again, other = (
        e2e_dsas.train(model, SETS, each, **QUIET).course
        for each in (config, config, replace(config, seed=3))
    )
    assert same_state(before, state(model))
    for part in ("transport", "control"):
        assert torch.equal(first.losses[part], again.losses[part])
        assert not torch.equal(first.losses[part], other.losses[part])
    assert list(first.held_out) == [0, 1, 2]
    assert first.kept == min(first.held_out, key=lambda step: first.held_out[step])


def test_the_defaults() -> None:
    config, base = e2e_dsas.Config(), lineas.Config()
    assert (config.gate, config.gamma) == ("sigmoid", 0.01)
    assert config.gamma in e2e_dsas.GAMMAS
    assert (config.lr, config.steps, config.batch) == (base.lr, base.steps, base.batch)


@pytest.mark.host
@EACH_HOST
def test_errors(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(BadInputError, match="E2E-DSAS learns from a control set"):
        e2e_dsas.fit(model, Sets(SOURCE, TARGET), **QUIET)
    with pytest.raises(BadInputError, match="gamma is 0 or more"):
        e2e_dsas.Config(gamma=-1.0)
    config = e2e_dsas.Config()
    object.__setattr__(config, "gate", "tanh")  # past the tests' own check of types
    with pytest.raises(BadInputError, match="'sigmoid' or 'relu'"):
        config.__post_init__()


# Extrapolate


def test_extrapolate() -> None:
    """Any number of times the inner change; the inner transform itself takes a share."""
    inner = Affine(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 3.0]), hook_name=NAMES[0])
    beyond = Extrapolate(inner)
    x = torch.randn(1, 4, 2, generator=DICE)
    for strength in (-1.0, 0.5, 4.0):
        torch.testing.assert_close(beyond.change(x, torch.tensor(strength)), strength * inner(x))
    assert (beyond.hook_name, beyond.unit_shape, beyond.scales) == (NAMES[0], (2,), "amplitude")
    assert moved(beyond, torch.device("cpu"), torch.float64).inner.weight.dtype == torch.float64  # type: ignore[attr-defined]
    up = sl.Direction(NAMES[0], torch.tensor([3.0, 4.0]))
    assert torch.equal(Extrapolate(Ablate(up))(x), Ablate(up)(x))
    sl.steer(beyond, coeff=3.0)
    with pytest.raises(BadInputError, match="share from 0 to 1"):
        sl.steer(inner, coeff=3.0)
    with pytest.raises(BadInputError, match="strength is a share"):
        Extrapolate(Add(up))


def test_live_gates_are_the_gates_that_they_become() -> None:
    x = torch.randn(2, 3, D_MODEL, generator=DICE)
    up = torch.randn(D_MODEL, generator=DICE)
    direction = sl.Direction(NAMES[0], up / 2.0)
    bias = torch.tensor(0.25)
    sigmoid, relu = (LiveGate(up, bias, kind, 2.0)(Moment(x)) for kind in ("sigmoid", "relu"))  # type: ignore[arg-type]
    assert torch.equal(sigmoid, Probe(direction, 0.25)(Moment(x)))
    assert torch.equal(relu, Relu(Readout(direction, 0.25))(Moment(x)))
