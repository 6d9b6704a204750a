"""Ways to be silently wrong that a review found, each now a law or a clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import D_MODEL, padded, random_rows, tiny

import steerlens as sl
from steerlens.evaluation import divergence, log_probability
from steerlens.text import Encoded, encode

pytestmark = pytest.mark.host
ITEMS = [("good w1", " w2"), ("the sad w5 w6 w7", " good w7 bad w8 w9")]


def direction(site: str = "resid_post", layer: int = 1, seed: int = 0) -> sl.Direction:
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return sl.Direction(sl.names.hook_name(site, layer), vector)


@EACH_HOST
def test_values_a_row_stay_with_their_items(host: str) -> None:
    model = tiny("llama", host)
    rows = sl.add(direction(), [0.0, 8.0])
    kl = divergence(model, rows, ITEMS)[0]
    assert kl[0] == 0
    assert kl[1] > 0
    plain = log_probability(model, ITEMS)
    with rows.on(model):
        steered = log_probability(model, ITEMS)
    torch.testing.assert_close(steered[0], plain[0], atol=1e-5, rtol=0)
    assert abs(steered[1] - plain[1]) > 1e-3


def test_the_share_is_coefficient_times_gate() -> None:
    with pytest.raises(sl.SteerLensError, match="share from 0 to 1"):
        sl.ablate(direction()).when(3.0)
    sl.ablate(direction(), 0.5).when(2.0)


@EACH_HOST
@pytest.mark.parametrize("shape", [(3,), (3, 3, 1), (2, 1), (3, 2)])
def test_a_signal_of_another_shape_is_refused(host: str, shape: tuple[int, ...]) -> None:
    model = tiny("llama", host)

    def gate(x: torch.Tensor) -> torch.Tensor:
        return torch.ones(shape)

    with (
        pytest.raises(sl.SteerLensError, match=r"gave values of shape|gate"),
        sl.add(direction()).when(gate).on(model),
    ):
        model(torch.stack(random_rows([3, 3, 3])))


@EACH_HOST
def test_a_mask_of_another_shape_is_refused(host: str) -> None:
    model = tiny("llama", host)
    tokens = torch.stack(random_rows([4, 4]))
    with pytest.raises(sl.SteerLensError, match="attention mask has shape"):
        sl.add(direction()).fwd_hooks(model, tokens, attention_mask=torch.ones(2, 3))


@EACH_HOST
def test_a_full_trace_drops_whole_passes_and_says_so(host: str) -> None:
    model = tiny("llama", host)
    both = sl.add(direction(layer=0)) + sl.add(direction(layer=1))
    tokens = random_rows([4])[0][None]
    with both.trace(model, max_tokens=4) as trace:
        model(tokens)
        model(tokens)
    assert len(trace.texts) == 1
    assert trace.dropped == 4
    assert (trace.texts[0].strength[:, 0, 1:] == 1).all()


@EACH_HOST
def test_names_of_one_hook_point_are_one_place(host: str) -> None:
    model = tiny("llama", host)
    aliases = [n for n in ("blocks.1.hook_out", "blocks.1.hook_resid_post") if n in model.hook_dict]
    if len(aliases) < 2:
        pytest.skip("this host has one name for the end of a block")
    first, second = (direction().at(name) for name in aliases)
    tokens = random_rows([5])[0][None]
    logits = []
    for steering in (
        sl.ablate(first) + sl.add(second, 3.0),
        sl.add(second, 3.0) + sl.ablate(first),
    ):
        with steering.on(model), torch.no_grad():
            logits.append(model(tokens))
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


@EACH_HOST
def test_a_batch_of_ids_is_not_one_item(host: str) -> None:
    with pytest.raises(sl.SteerLensError, match="in one row"):
        encode(tiny("llama", host), torch.ones(3, 10, dtype=torch.long))


@EACH_HOST
def test_a_head_has_no_quality_of_its_own(host: str) -> None:
    contrast = sl.Contrast(["good w1"] * 4, ["bad w2"] * 4)
    found = sl.find_directions(
        tiny("llama", host), contrast, hook_names="z", placebos=4, progress=False
    )
    assert found["z", 0].quality is not None
    assert found["z", 0].heads(0).quality is None
    mixed = found["z", 0] - found["z", 0]
    assert mixed.items == ""


@EACH_HOST
def test_a_direction_is_a_copy(host: str) -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    made = sl.Direction("blocks.0.hook_resid_post", weight)
    with torch.no_grad():
        weight.mul_(2)
    assert made.vector.tolist() == [1, 1, 1, 1]
    assert not made.vector.requires_grad


@EACH_HOST
def test_fillers_after_eos_are_not_reported_as_steered(host: str) -> None:
    model: Any = tiny("llama", host)
    eos = model.tokenizer.eos_token_id
    steering = sl.add(direction(), 0.1, positions="generated")
    with steering.trace(model) as trace:
        ids = model.generate(
            ["good w1", "bad w2", "w5 w6"] * 8,
            max_new_tokens=30,
            temperature=3.0,
            verbose=False,
            return_type="tokens",
        )
    text = trace.texts[0]
    ended = 0
    for row, real in zip(ids, text.real, strict=True):
        ends = (row[3:] == eos).nonzero().flatten().tolist()
        if ends and 3 + ends[0] + 2 < len(real):
            ended += 1
            assert not real[3 + ends[0] + 1 :].any() or (row[3 + ends[0] :] != eos).any()
    assert ended


@EACH_HOST
def test_a_steering_that_was_reset_says_so(host: str) -> None:
    model: Any = tiny("llama", host)
    tokens = random_rows([4])[0][None]
    with pytest.raises(sl.SteerLensError, match="fell silent"), sl.add(direction()).on(model):
        model(tokens)
        model.reset_hooks()
        model(tokens)


@EACH_HOST
def test_a_trace_outlives_an_exception(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(KeyError), sl.add(direction()).trace(model) as trace:
        model(random_rows([4])[0][None])
        raise KeyError
    assert trace.texts[0].strength.shape == (1, 1, 4)


@EACH_HOST
def test_equal_sides_at_one_hook_point_leave_the_others(host: str) -> None:
    contrast = sl.Contrast(["good w3", "happy w4"], ["bad w3", "sad w4"])
    names = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"]
    with pytest.warns(UserWarning, match="No direction there"):
        found = sl.find_directions(
            tiny("llama", host), contrast, hook_names=names, quality=False, progress=False
        )
    assert list(found) == names[1:]


def test_jsonl_is_split_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('\ufeff{"positive": "a\u2028b", "negative": "c"}\n', encoding="utf-8")
    assert sl.Contrast.from_jsonl(path).positive == ("a\u2028b",)


def test_contrasts_of_encoded_items_have_a_digest() -> None:
    one = sl.Contrast([Encoded((1, 2), 1)], [Encoded((1, 3), 1)])
    other = sl.Contrast([Encoded((1, 2), 2)], [Encoded((1, 3), 1)])
    assert one.digest != other.digest


@EACH_HOST
def test_a_cache_filled_unsteered_is_not_guessed_about(host: str) -> None:
    """What opens a text that the clock did not see is unknown, and said to be."""
    model: Any = tiny("llama", host)
    tokens, _ = padded(random_rows([6]), "right")
    from models import cached_forward

    with torch.no_grad():
        plain = cached_forward(model, tokens, [3, 3])
    assert plain.shape[1] == 6
    clock = sl.clock.Clock(model, torch.tensor([4]))
    clock.begin(tokens[:, 3:], past=3)
    with pytest.raises(sl.SteerLensError, match="tokens are not known"):
        clock.where(sl.positions.first(2))
    assert clock.where(sl.positions.generated).tolist() == [[False, True, True]]
