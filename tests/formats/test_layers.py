"""A vector a layer, in and out: what comes back is what went, and what cannot go is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import models
import numpy as np
import pytest
import torch
from models import forward, hf, tiny

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.formats import from_layers, to_layers

HOOK = "blocks.1.hook_resid_post"
UP = sl.Direction(HOOK, torch.tensor([3.0, 4.0]), name="up")
EVERY = "every_token"


@pytest.mark.parametrize(
    "vectors",
    [
        {0: torch.tensor([1.0, 2.0]), 2: torch.tensor([3.0, 4.0])},
        {0: np.array([1.0, 2.0]), 2: np.array([3.0, 4.0], dtype=np.float16)},
        {0: [1, 2], 2: torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16, requires_grad=True)},
        SimpleNamespace(layer_activations={0: torch.tensor([1.0, 2.0]), 2: torch.tensor([3, 4])}),
        SimpleNamespace(
            directions={0: np.ones(2) * [1, 2], 2: np.ones(2) * [3, 4]}, model_type="x"
        ),
    ],
)
def test_what_comes_in_goes_out(vectors: Any) -> None:
    found = from_layers(vectors, name="joy")
    assert list(found) == ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    assert {each.name for each in found.values()} == {"joy"}
    out = to_layers(found)
    assert {layer: each.tolist() for layer, each in out.items()} == {0: [1, 2], 2: [3, 4]}


def test_arrays_and_sites() -> None:
    found = from_layers(np.eye(3), site="resid_pre")
    assert [each.hook_name for each in found.values()] == [
        f"blocks.{layer}.hook_resid_pre" for layer in range(3)
    ]
    assert list(to_layers(found["resid_pre", 2])) == [1]  # the output of the block before
    assert list(to_layers(found["resid_pre", 2], site="resid_pre")) == [2]
    attention = SimpleNamespace(layer_activations={1: torch.ones(2)}, layer_type="self_attn")
    assert list(from_layers(attention)) == ["blocks.1.hook_attn_out"]
    heads = from_layers({1: torch.ones(4, 8)}, site="z")
    assert heads["z", 1].vector.shape == (4, 8)


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        ({-1: [1.0]}, "Layers are whole numbers from 0 on; got -1"),
        ({"1": [1.0]}, "got '1'"),
        ({True: [1.0]}, "got True"),
        ({1: "ab"}, "What stands at layer 1 is no vector"),
        ({1: []}, r"layer 1 has shape \(0,\)"),
        ({1: torch.ones(2, 3, 4)}, "has shape"),
        ({1: 5.0}, "has shape"),
        ({1: [float("nan")]}, "not finite"),
        ({}, "no vector at any layer"),
        (torch.ones(3), r"no mapping from layers to vectors and no array \(layer, d\)"),
        ("vectors.pt", "str is no mapping"),
        (SimpleNamespace(layer_activations={}, layer_type="input_layernorm"), "nearest|known"),
    ],
)
def test_what_cannot_come_in(vectors: Any, told: str) -> None:
    with pytest.raises(sl.SteerLensError, match=told):
        from_layers(vectors)


def test_steerings_that_add_are_summed() -> None:
    right = sl.Direction(HOOK, torch.tensor([1.0, 0.0]))
    before = sl.Direction("blocks.2.hook_resid_pre", torch.tensor([0.0, 1.0]))
    steering = 2 * sl.add(UP, positions=EVERY) + sl.add(right, -1, positions=EVERY, gate=0.5)
    assert to_layers(steering)[1].tolist() == [5.5, 8.0]
    assert to_layers(steering >> sl.add(before, positions=EVERY))[1].tolist() == [5.5, 9.0]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (sl.ablate(UP, positions=EVERY), "does more than add a vector"),
        (sl.add(UP), r"writes at everywhere. If every token is meant, BOS too"),
        (sl.add(UP, positions="predicting"), "writes at predicting"),
        (sl.add(UP, [1.0, 2.0], positions=EVERY), r"coefficient, rows\(1, 2\), is no fixed number"),
        (sl.add(UP, sl.of_stream(0.1), positions=EVERY), "is no fixed number"),
        (sl.add(UP, positions=EVERY, gate=sl.signals.Probe(UP)), "its gate, .* is no fixed number"),
        (sl.add(UP.at("attn_out", 1), positions=EVERY), "is no 'resid_post' of a layer"),
        (UP.at("hook_embed"), "'hook_embed' is no 'resid_post' of a layer"),
        (UP.at("resid_pre", 0), "'blocks.0.hook_resid_pre' is no 'resid_post'"),
        (sl.add(UP, positions=EVERY) + sl.ablate(UP), r"ablate\('up'\).* cannot be handed on"),
    ],
)
def test_what_adds_no_vector_a_layer_is_told(value: Any, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        to_layers(value)


@pytest.mark.host
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "pythia"])
def test_a_block_s_output_is_where_hugging_face_adds(architecture: str) -> None:
    """{layer: vector} added to the outputs of Hugging Face's blocks gives the steered logits."""
    model, plain = tiny(architecture, models.hosts()[-1]), hf(architecture)
    generator = torch.Generator().manual_seed(0)
    found = from_layers({i: torch.randn(models.D_MODEL, generator=generator) for i in (0, 2)})
    tokens = torch.randint(5, 40, (2, 6), generator=generator)
    handles = []
    for layer, vector in to_layers(found).items():
        block = blocks(plain)[layer]

        def add(module: Any, inputs: Any, output: Any, vector: Any = vector) -> Any:
            if isinstance(output, tuple):
                return (output[0] + vector, *output[1:])
            return output + vector

        handles.append(block.register_forward_hook(add))
    with torch.no_grad():
        wanted = plain(tokens).logits
        for handle in handles:
            handle.remove()
        with sl.add(found, positions=EVERY).on(model):
            steered = forward(model, tokens, torch.ones_like(tokens))
    torch.testing.assert_close(steered, wanted, atol=1e-4, rtol=0)


def blocks(model: Any) -> Any:
    for path in ("transformer.h", "model.layers", "gpt_neox.layers"):
        found = model
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise AssertionError("no blocks")
