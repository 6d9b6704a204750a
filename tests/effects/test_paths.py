"""Which components carry an effect, what their response rests on, and who reads a direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import ARCHITECTURES, D_VOCAB, build, hosts, tiny
from torch import Tensor

import steerlens as sl
from steerlens.components import Norm, components
from steerlens.effects import effect, look, mediation, readers
from steerlens.effects.readers import head_scores, through_norm
from steerlens.errors import BadInputError

pytestmark = pytest.mark.host
ITEMS = [("good day w1 w2", "w3 w4"), "w5 w6 bad"]
WEIGHTS = torch.randn(D_VOCAB, generator=torch.Generator().manual_seed(4))


def direction(hook_name: str, seed: int = 0) -> sl.Direction:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return sl.Direction(hook_name, vector, name="d")


def add(layer: int = 0, coeff: float = 1.5) -> sl.Steering:
    return sl.add(direction(f"blocks.{layer}.hook_resid_post"), coeff=coeff)


def run(model: Any, item: str, steering: sl.Steering | None, hold: dict[str, Tensor]) -> Any:
    """Last-token logits and every z and mlp_out, with some of these held at given values."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def held(activation: Tensor, hook: Any) -> Tensor:
            value = activation
            for head in range(4):
                if (one := hold.get(f"{name}:{head}")) is not None:
                    value = value.clone()
                    value[:, :, head] = one[:, :, head]
            seen[name] = hold.get(name, value)
            return seen[name]

        return held

    names = [f"blocks.{i}.{site}" for i in range(3) for site in ("attn.hook_z", "hook_mlp_out")]
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, hook(name)) for name in names]):
        tokens = model.to_tokens(item)
        if steering is None:
            return model(tokens)[0, -1], seen
        with steering.on(model):
            return model(tokens)[0, -1], seen


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "pythia", "gemma2"])
def test_holding_components_by_hand(architecture: str, host: str) -> None:
    model, item = tiny(architecture, host), "w5 w6 bad"
    found = mediation(model, add(), [item], WEIGHTS)
    base, kept = run(model, item, None, {})
    steered, _ = run(model, item, add(), {})
    every, _ = run(model, item, add(), kept)
    assert found.whole == pytest.approx(float((steered - base) @ WEIGHTS), abs=1e-4)
    assert found.direct == pytest.approx(float((every - base) @ WEIGHTS), abs=1e-4)
    one, _ = run(model, item, add(), {"blocks.1.attn.hook_z:2": kept["blocks.1.attn.hook_z"]})
    assert float(found.without[1, 2]) == pytest.approx(float((one - base) @ WEIGHTS), abs=1e-4)
    name = "blocks.2.hook_mlp_out"
    one, _ = run(model, item, add(), {name: kept[name]})
    assert float(found.without[2, 4]) == pytest.approx(float((one - base) @ WEIGHTS), abs=1e-4)
    rest, _ = run(model, item, add(), {n: x for n, x in kept.items() if n != name})
    assert found.alone is not None
    through = float((rest - every) @ WEIGHTS)
    assert float(found.alone[2, 4]) == pytest.approx(through, abs=1e-4)
    # What comes before the steering has nothing to carry.
    assert float(found.carried[0].abs().max()) == pytest.approx(0, abs=1e-4)


@EACH_HOST
@pytest.mark.parametrize("architecture", ["qwen3", "olmo2"])
def test_after_the_last_layer_there_is_only_the_direct_path(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    found = mediation(model, add(2), ITEMS[1:], alone=False)
    account = effect(model, add(2), ITEMS[1:])
    assert found.whole == pytest.approx(account.change, abs=1e-4)
    assert found.direct == pytest.approx(found.whole, abs=1e-4)
    assert float(found.carried.abs().max()) == pytest.approx(0, abs=1e-4)
    assert account.mediated == pytest.approx(0, abs=1e-5)


@EACH_HOST
def test_in_the_last_layer_parts_and_paths_agree(host: str) -> None:
    """In a small step, where no MLP reads the head and the readout does not see the norm's scale.

    Otherwise they rightly differ: a part is the straight path alone.
    """
    model = build("gpt2", host)
    with torch.no_grad():
        model.blocks[2].mlp.W_out[:] = 0.0
    steering, item = add(1, coeff=0.01), "w5 w6 bad"
    weights = WEIGHTS - scale_seen(model, item, WEIGHTS) / scale_seen(model, item, ONE) * ONE
    carried = mediation(model, steering, [item], weights, alone=False).carried[2, :4]
    parts = effect(model, steering, [item], weights).heads[2].float()
    torch.testing.assert_close(carried, parts, atol=0.02 * float(parts.abs().max()), rtol=0.02)


ONE = torch.eye(D_VOCAB)[7]


def scale_seen(model: Any, item: str, weights: Tensor) -> float:
    """What a readout sees of the final norm's scale: its product with the stream."""
    kept: list[Tensor] = []
    hook = ("blocks.2.hook_resid_post", lambda x, hook: kept.append(x[0, -1]))
    with torch.no_grad(), model.hooks(fwd_hooks=[hook]):
        model(model.to_tokens(item))
    parts = components(model)
    return float(kept[0] @ parts.final.pulled(parts.unembedding @ weights))


def test_mediation_tells_who_carries_most() -> None:
    model = tiny("gpt2", hosts()[0])
    found = mediation(model, add(), ITEMS)
    frame = found.frame()
    assert len(frame) == 3 * 5
    layer, head = found.top(1)[0]
    name = "mlp" if head is None else f"head {head}"
    line = frame[(frame.layer == layer) & (frame.component == name)].iloc[0]
    assert abs(line.carried) == pytest.approx(float(found.carried.abs().max()))
    assert f"L{layer}" in repr(found)
    assert "carried by" in found._repr_html_()
    alike = mediation(model, add(), ITEMS, batch_tokens=8, alone=False)
    torch.testing.assert_close(alike.carried, found.carried, atol=1e-4, rtol=1e-4)
    assert alike.alone is None


@EACH_HOST
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_response_rests_on_tokens_that_add_up(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    heads = [(1, 0), (2, 3), (1, 2)]
    for item in ITEMS:
        found = look(model, add(), item, heads)
        account = effect(model, add(), [item])
        wanted = torch.stack([account.heads[place] for place in heads]).float()
        torch.testing.assert_close(found.parts, wanted, atol=1e-4, rtol=1e-4)
        assert found.rests_on.shape == (3, len(found.tokens))
        for patterns in (found.base, found.steered):
            torch.testing.assert_close(patterns.sum(-1), torch.ones(3, len(found.tokens)))
        assert not torch.allclose(found.base, found.steered)
    assert found.names == ["L1H0", "L2H3", "L1H2"]
    assert repr(found).count("\n") == 0
    assert "L2H3 " in repr(found)
    for wrong, message in (([(3, 0)], "no head 0 in layer 3"), ([], "no heads")):
        with pytest.raises(BadInputError, match=message):
            look(model, add(), ITEMS[0], wrong)


@EACH_HOST
def test_what_is_written_at_a_component_is_its_own(host: str) -> None:
    """To effect and mediation alike; and its response rests on no token."""
    model = tiny("gpt2", host)
    for name, shape, at in (("attn.hook_z", (4, 8), slice(0, 4)), ("mlp.hook_post", (48,), 4)):
        vector = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        steering = sl.add(sl.Direction(f"blocks.2.{name}", vector))
        found = mediation(model, steering, ["w5 w6 bad"], WEIGHTS, alone=False)
        assert found.direct == pytest.approx(0, abs=1e-4)
        assert float(found.carried[2, at].abs().max()) > 0.01
    with pytest.raises(BadInputError, match=r"writes 'blocks.2.attn.hook_z' itself"):
        look(model, sl.add(sl.Direction("blocks.2.attn.hook_z", torch.ones(4, 8))), "w5", [(2, 0)])


def test_chance_is_of_what_the_norm_lets_through() -> None:
    """A constant in a map is taken out by a LayerNorm's centring: nobody reads it."""
    norm = Norm(torch.ones(32), torch.zeros(32), centred=True)
    given = torch.randn(4, 32, 8, generator=torch.Generator().manual_seed(0)) + 2.0
    maps = [given, given, torch.ones(4, 32, 32)]
    whole = [through_norm(norm)(each) for each in maps]
    vectors = [direction("blocks.0.hook_resid_post", i).unit().vector for i in range(300)]
    scores = [head_scores(whole, maps, each, norm.centre(each))[0] for each in vectors]
    squares = torch.stack(scores).square().mean(0)
    torch.testing.assert_close(squares, torch.ones(4), atol=0.15, rtol=0)


@EACH_HOST
def test_who_reads_a_direction_by_hand(host: str) -> None:
    model = tiny("llama", host)
    vector = direction("blocks.0.hook_resid_post")
    found = readers(model, vector)
    assert found.first == 1
    assert found.q.shape == (2, 4)
    attention, norm = model.blocks[2].attn, model.blocks[2].ln1
    weight = torch.stack([attention.W_K[head // (4 // len(attention.W_K))] for head in range(4)])
    gains = norm(torch.ones(1, 1, 32) * 1e4)[0, 0].detach()
    mapped = gains[:, None] * weight[3].detach()
    wanted = (vector.unit().vector @ mapped).norm() / (mapped.square().sum() / 32).sqrt()
    assert float(found.k[1, 3]) == pytest.approx(float(wanted), rel=1e-4)
    assert found.top(1, by="k") == [(1 + int(found.k.argmax()) // 4, int(found.k.argmax()) % 4)]
    assert len(found.frame()) == 8
    assert "d by q" in repr(found)


@EACH_HOST
def test_random_directions_are_read_as_chance(host: str) -> None:
    model = tiny("gemma2", host)
    found = [readers(model, direction("blocks.1.hook_resid_post", seed)) for seed in range(200)]
    for name in ("q", "k", "v"):
        squares = torch.stack([getattr(each, name) for each in found]).square().mean(0)
        torch.testing.assert_close(squares, torch.ones_like(squares), atol=0.25, rtol=0)
    copies = torch.stack([each.copies for each in found]).mean()
    assert abs(float(copies)) < 0.1


@EACH_HOST
def test_a_head_that_copies_is_seen_to(host: str) -> None:
    """Planted: one head's values hand the direction on, eight times as strongly as chance."""
    model = build("gpt2", host)
    vector = direction("blocks.0.hook_resid_post").unit().vector
    vector = vector - vector.mean()
    into = vector / model.blocks[1].ln1(1e4 * torch.eye(32)[None])[0].diag().abs().mean()
    with torch.no_grad():
        model.blocks[1].attn.W_V[2] = 0.0
        model.blocks[1].attn.W_V[2, :, 0] = into
        model.blocks[1].attn.W_O[2, 0] = vector
    found = readers(model, sl.Direction("blocks.0.hook_resid_post", vector))
    assert found.top(1) == [(1, 2)]
    assert float(found.copies[0, 2]) > 0.99
    with pytest.raises(BadInputError, match="not a direction of this model's stream"):
        readers(model, sl.Direction("blocks.0.attn.hook_z", torch.ones(4, 8)))
    with pytest.raises(BadInputError, match="after the last"):
        readers(model, direction("blocks.2.hook_resid_post"))
