"""Angular and selective steering: the plane, its criterion and both changes, computed directly."""

from __future__ import annotations

from functools import cache
from math import pi
from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import CONTRAST, PROMPTS, ROWS, behaves, by_hand, close, logits, stands
from models import N_LAYERS, hosts, tiny
from sklearn.decomposition import PCA
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.methods import angular
from steerlens.methods.angular import Plane, axes, candidates

pytestmark = [
    pytest.mark.host,
    pytest.mark.filterwarnings("ignore:In `", "ignore:The gate of"),
]
ON = [*(("llama", host) for host in hosts()), ("gpt2", hosts()[0]), ("gemma2", hosts()[-1])]
MODELS = pytest.mark.parametrize(("architecture", "host"), ON)
QUIET: dict[str, Any] = dict(progress=False)
SITES = {
    "bridge": ("ln1.hook_normalized", "ln2.hook_normalized"),
    "hooked_transformer": ("ln2.hook_normalized",),  # the other fires three times a pass
}
NAMES = {
    host: [f"blocks.{layer}.{site}" for layer in range(N_LAYERS) for site in sites]
    for host, sites in SITES.items()
}


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@cache
def sides(architecture: str, host: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = tiny(architecture, host)
    return stands(model, ROWS[:6], NAMES[host]), stands(model, ROWS[6:], NAMES[host])


def direct(architecture: str, host: str) -> tuple[Tensor, Tensor, list[int]]:
    """b1, b2 (up to its sign) and the discriminative layers, by scikit-learn's PCA and loops."""
    positive, negative = sides(architecture, host)
    names = NAMES[host]
    found = torch.stack([unit(positive[n].mean(0) - negative[n].mean(0)) for n in names])
    others = [sum(float(a @ b) for j, b in enumerate(found) if j != i) for i, a in enumerate(found)]
    first = found[max(range(len(others)), key=others.__getitem__)]
    main = torch.from_numpy(PCA(1).fit(found.numpy()).components_[0])
    second = unit(main - (main @ first) * first)
    if float(found.sum(0) @ second) < 0:
        second = -second
    layers = []
    for layer in range(N_LAYERS):
        signs = [
            (unit(positive[n]) @ first).mean() * (unit(negative[n]) @ first).mean()
            for n in names
            if n.startswith(f"blocks.{layer}.")
        ]
        layers += [layer] if all(each < 0 for each in signs) else []
    return first, second, layers


@MODELS
def test_the_plane(architecture: str, host: str) -> None:
    found = angular.plane(tiny(architecture, host), CONTRAST, **QUIET)
    first, second, layers = direct(architecture, host)
    assert torch.allclose(found.axes.double(), torch.stack([first, second]), atol=1e-5)
    assert found.layers == tuple(layers)
    assert list(found.projections) == NAMES[host]
    gram = found.axes @ found.axes.T
    assert torch.allclose(gram, torch.eye(2), atol=1e-6)
    [one] = [name for name in NAMES[host] if name in repr(found)]
    positive, negative = sides(architecture, host)
    assert torch.allclose(unit(positive[one].mean(0) - negative[one].mean(0)), first, atol=1e-9)


@MODELS
@pytest.mark.parametrize("adaptive", [True, False])
def test_the_angle_is_set(architecture: str, host: str, adaptive: bool, tmp_path: Path) -> None:
    model, angle = tiny(architecture, host), 2.0
    config = angular.Config(angle=angle, adaptive=adaptive)
    steering = angular.fit(model, CONTRAST, config, **QUIET)
    first, second, _ = (each.float() for each in map(torch.as_tensor, direct(architecture, host)))
    target = torch.cos(torch.tensor(angle)) * first + torch.sin(torch.tensor(angle)) * second
    projection = torch.outer(first, first) + torch.outer(second, second)

    def change(h: Tensor) -> Tensor:
        inside = h @ projection
        made = h - inside + inside.norm(dim=-1, keepdim=True) * target
        aligned = (h @ first > 0)[..., None] if adaptive else torch.ones(1, dtype=torch.bool)
        return torch.where(aligned, made, h)

    wanted = by_hand(model, dict.fromkeys(NAMES[host], change))
    assert close(logits(model, steering), wanted)
    assert not close(wanted, logits(model))
    if architecture == "gpt2" and adaptive:
        behaves(steering, model, tmp_path / "kept")


@MODELS
def test_selective_turns_by_the_angle(architecture: str, host: str, tmp_path: Path) -> None:
    """At the layers that the criterion picks."""
    model, angle = tiny(architecture, host), 2.0
    found = angular.plane(model, CONTRAST, **QUIET)
    first, second, layers = direct(architecture, host)
    assert layers
    first, second = first.float(), second.float()
    steering = found.selective(angle)
    names = [name for name in NAMES[host] if int(name.split(".")[1]) in layers]
    assert [leaf.hook_name for leaf in steering.interventions] == names
    cosine, sine = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    inside = torch.outer(first, first) + torch.outer(second, second)
    turn = cosine * inside + sine * (torch.outer(second, first) - torch.outer(first, second))

    def change(h: Tensor) -> Tensor:
        made = h - h @ inside.T + h @ turn.T
        assert torch.allclose(made.norm(dim=-1), h.norm(dim=-1), rtol=1e-5)
        return made

    wanted = by_hand(model, dict.fromkeys(names, change))
    assert close(logits(model, steering), wanted)
    assert not close(wanted, logits(model))
    assert close(logits(model, steering >> found.selective(-angle)), logits(model))
    assert close(logits(model, 0.5 * steering), logits(model, found.selective(angle / 2)))
    if architecture == "gpt2":
        behaves(steering, model, tmp_path / "kept")


def picked(found: Plane, *layers: int) -> Plane:
    """The plane, discriminative at some layers."""
    made = {
        name: (1.0, -1.0 if int(name.split(".")[1]) in layers else 1.0)
        for name in found.projections
    }
    return Plane(found.axes, found.source, made, found.made_on, found.items)


def test_a_layer_needs_both_of_its_norms() -> None:
    made = {"blocks.0.a": (1.0, -2.0), "blocks.0.b": (1.0, 2.0), "blocks.1.a": (-0.1, 0.2)}
    assert Plane(torch.eye(2), "blocks.0.a", made, {}, "").layers == (1,)
    none = Plane(torch.eye(2), "blocks.0.a", {"blocks.0.a": (1.0, 0.0)}, {}, "")
    assert repr(none) == "Plane(b1 of blocks.0.a, discriminative layers: none)"
    with pytest.raises(BadInputError, match="At no layer do the sides lie on opposite sides"):
        none.selective()


def test_the_papers_choices() -> None:
    config = angular.Config()
    assert (config.mode, config.angle, config.adaptive) == ("angular", pi, True)
    assert (config.sites, config.positions) == (None, "every_token")
    for host in hosts():
        leaves = angular.fit(tiny("llama", host), CONTRAST, **QUIET).interventions
        assert [leaf.hook_name for leaf in leaves] == NAMES[host]
        assert repr(leaves[0]) == (
            "1 * (projection('b1') > 0) * rotate_to(3.14, 'b1' to 'b2') "
            f"@ {NAMES[host][0]}[every_token]"
        )
    model = tiny("llama", hosts()[0])
    stream = angular.Config(sites=["resid_post"], read=-2, positions="prompt", angle=1)
    leaves = angular.fit(model, CONTRAST, stream, **QUIET).interventions
    assert [leaf.hook_name for leaf in leaves] == [f"blocks.{n}.hook_resid_post" for n in range(3)]
    assert {repr(leaf.positions) for leaf in leaves} == {"prompt"}
    found = angular.plane(model, CONTRAST, stream, **QUIET)
    chosen = picked(found, 0, 2).selective(positions="prompt")
    assert repr(chosen.interventions[0]).startswith("3.14 * rotate('b1' to 'b2') @ blocks.0.hook_r")


def test_setting_the_angle_again_changes_nothing_and_angles_are_where_they_should_be() -> None:
    model = tiny("llama", hosts()[-1])
    found = angular.plane(model, CONTRAST, angular.Config(sites=["resid_post"]), **QUIET)
    place = "blocks.1.hook_resid_post"
    for angle in (0.0, -2.5, pi):
        steering = found.angular(angle, adaptive=False).layers(1)
        with steering.on(model):
            h = stands(model, PROMPTS, [place])[place]
        a, b = (h @ found.axes.double().T).unbind(-1)
        turned = torch.remainder(torch.atan2(b, a) - angle + pi, 2 * pi) - pi
        assert torch.allclose(turned, torch.zeros_like(turned), atol=1e-4)
        assert close(logits(model, steering >> steering), logits(model, steering))


def test_pure_functions() -> None:
    found = candidates(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0], [0, 1]]))
    assert torch.equal(found, torch.eye(2).double())
    with pytest.raises(BadInputError, match="span no plane"):
        axes(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(BadInputError, match="span no plane"):
        axes(torch.tensor([[0.6, 0.8]]))
    which, (first, second) = axes(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]]))
    assert (which, first.tolist(), second.tolist()) == (0, [1.0, 0.0], [0.0, -1.0])


def test_errors() -> None:
    model = tiny("gpt2", hosts()[0])
    with pytest.raises(BadInputError, match=r"read the same at 'blocks\.0\.ln"):
        angular.fit(model, sl.Contrast(ROWS[:3], ROWS[:3]), **QUIET)
    with pytest.raises(BadInputError, match="would be read at"):
        completed: Any = [("good", " bad")]
        angular.fit(model, sl.Contrast(completed, ["good bad"]), **QUIET)
    wrong = angular.Config()
    object.__setattr__(wrong, "mode", "turning")
    with pytest.raises(UnknownNameError, match="modes are 'angular' and 'selective'"):
        angular.fit(model, CONTRAST, wrong, **QUIET)
