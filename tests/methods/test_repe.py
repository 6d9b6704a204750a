"""RepE: reading vectors against a direct PCA, and each operator against its equation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import CONTRAST, PROMPTS, ROWS, behaves, by_hand, close, logits, stands
from models import N_LAYERS, hosts, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.methods import repe
from steerlens.transforms import Ablate, Add, KeepNorm, Piecewise

pytestmark = pytest.mark.host
ON = [*(("gemma2", host) for host in hosts()), ("gpt2", hosts()[0]), ("qwen3", hosts()[-1])]
MODELS = pytest.mark.parametrize(("architecture", "host"), ON)
QUIET: dict[str, Any] = dict(progress=False)
NAMES = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]


def reading_vector(model: Any, name: str) -> Tensor:
    """The first principal axis of the pairs' differences about zero, by their covariance."""
    positive, negative = (stands(model, rows, [name])[name] for rows in (ROWS[:6], ROWS[6:]))
    gaps = positive - negative
    vector = torch.linalg.eigh(gaps.T @ gaps).eigenvectors[:, -1]
    return vector if float((gaps @ vector).sum()) > 0 else -vector


OPERATORS: dict[str, Any] = {
    "linear": lambda h, v, c: h + c * v,
    "piecewise": lambda h, v, c: h + c * torch.sign(h @ v)[..., None] * v,
    "projection": lambda h, v, c: h - c * (h @ v)[..., None] * v,
}
"""The three equations."""


@MODELS
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("keep_norm", [False, True])
def test_the_equation(
    architecture: str, host: str, operator: Any, keep_norm: bool, tmp_path: Path
) -> None:
    model = tiny(architecture, host)
    c = 0.6 if operator == "projection" else 1.5
    config = repe.Config(operator, c, layers=(0, 2), keep_norm=keep_norm)
    steering = repe.fit(model, CONTRAST, config, **QUIET)

    def change(name: str) -> Any:
        v = reading_vector(model, name).float()

        def changed(h: Tensor) -> Tensor:
            made = OPERATORS[operator](h, v, c)
            if keep_norm:
                made = made * h.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True)
            return made

        return changed

    wanted = by_hand(model, {name: change(name) for name in (NAMES[0], NAMES[2])})
    assert close(logits(model, steering), wanted)
    assert not close(wanted, logits(model))
    if architecture == "gpt2" and keep_norm is (operator == "linear"):
        behaves(steering, model, tmp_path / "kept")


def test_a_piecewise_coefficient_below_0_pulls_towards_the_middle() -> None:
    up = sl.Direction("hook", torch.tensor([0.0, 2.0]))
    x = torch.tensor([[[1.0, 3.0], [1.0, -3.0], [1.0, 0.0]]])
    change = Piecewise(up).change(x, torch.tensor(-0.5))
    assert torch.equal(change, torch.tensor([[[0.0, -1.0], [0.0, 1.0], [0.0, 0.0]]]))
    heads = Piecewise(sl.Direction("z", torch.tensor([[1.0], [2.0]])))
    assert heads(torch.tensor([[[[5.0], [-1.0]]]])).flatten().tolist() == [1.0, 2.0]
    assert heads(torch.tensor([[[[1.0], [-1.0]]]])).flatten().tolist() == [-1.0, -2.0]


def test_the_papers_choices() -> None:
    config = repe.Config()
    assert (config.operator, config.keep_norm, config.positions) == ("linear", False, "every_token")
    assert repe.blocks(40) == tuple(range(11, 30))  # layers -11 to -29 of a model of 40
    assert repe.blocks(N_LAYERS) == (1, 2)
    assert all(repe.blocks(n) and repe.blocks(n)[-1] < n for n in range(1, 90))
    model = tiny("llama", hosts()[0])
    steering = repe.fit(model, CONTRAST, **QUIET)
    assert [leaf.hook_name for leaf in steering.interventions] == NAMES[1:]
    for leaf in steering.interventions:
        assert isinstance(leaf.transform, Add)
        assert leaf.transform.along.norm == pytest.approx(1)
    kept = repe.fit(model, CONTRAST, repe.Config("projection", keep_norm=True), **QUIET)
    [first, _] = kept.interventions
    assert isinstance(first.transform, KeepNorm)
    assert isinstance(first.transform.inner, Ablate)


def test_completions_are_read_at_their_last_token() -> None:
    model = tiny("gpt2", hosts()[-1])
    words = [("good bad", " happy sad"), ("not the", " sad good")]
    pairs = sl.Contrast(words, [(prompt, " the not") for prompt, _ in words])
    read: Any = [model.to_tokens(prompt + completion)[0] for prompt, completion in words]
    other: Any = [model.to_tokens(prompt + completion)[0] for prompt, completion in pairs.negative]
    steering = repe.fit(model, pairs, repe.Config(layers=[1]), **QUIET)
    first, second = (stands(model, rows, [NAMES[1]])[NAMES[1]] for rows in (read, other))
    gaps = first - second
    vector = torch.linalg.svd(gaps, full_matrices=False).Vh[0]
    found: Any = steering.interventions[0].transform
    assert float((found.along.vector.double() @ vector).abs()) == pytest.approx(1, abs=1e-5)
    at_prompts = repe.fit(
        model, sl.Contrast(PROMPTS, ROWS[:3]), repe.Config(layers=[1], read=-2), **QUIET
    )
    again: Any = at_prompts.interventions[0].transform
    gaps = torch.cat(
        [
            stands(model, [a], [NAMES[1]], -2)[NAMES[1]]
            - stands(model, [b], [NAMES[1]], -2)[NAMES[1]]
            for a, b in zip(PROMPTS, ROWS[:3], strict=True)
        ]
    )
    vector = torch.linalg.svd(gaps, full_matrices=False).Vh[0]
    assert float((again.along.vector.double() @ vector).abs()) == pytest.approx(1, abs=1e-5)


def test_errors() -> None:
    model = tiny("gpt2", hosts()[0])
    with pytest.raises(BadInputError, match="reads differences of pairs"):
        repe.fit(model, sl.Contrast(ROWS[:2], ROWS[2:5]), **QUIET)
    with pytest.raises(BadInputError, match="one block or more"):
        repe.fit(model, CONTRAST, repe.Config(layers=()), **QUIET)
    with pytest.raises(UnknownNameError, match=r"no hook point .* It has layers 0 to 2"):
        repe.fit(model, CONTRAST, repe.Config(layers=[3]), **QUIET)
    with pytest.raises(BadInputError, match="share from 0 to 1"):
        repe.fit(model, CONTRAST, repe.Config("projection", 1.5), **QUIET)
    wrong = repe.Config()
    object.__setattr__(wrong, "operator", "projektion")
    with pytest.raises(UnknownNameError, match="Nearest: 'projection'"):
        repe.fit(model, CONTRAST, wrong, **QUIET)
