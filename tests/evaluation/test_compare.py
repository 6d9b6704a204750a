"""Common random numbers, and comparisons drawn with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import models
import pytest
import torch
from cases import EACH, EACH_HOST
from models import build, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, HookError
from steerlens.evaluation import Comparison, Completion, completions
from steerlens.evaluation.dice import Dice, noise, thrown
from steerlens.text import Encoded, encode

PROMPTS = ["good w1 w2", "bad", "not the happy w3 w4", "w5 w6", "the sad"]
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
NEW = 6


def steering(coeff: Any = 2.0, positions: Any = "predicting") -> sl.Steering:
    vector = torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(0)) / 2
    return sl.add(sl.Direction("blocks.1.hook_resid_post", vector), coeff, positions=positions)


# The dice


def splitmix64(state: int) -> int:
    whole = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & whole
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & whole
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
    return z ^ (z >> 31)


def test_the_hash_is_splitmix64(monkeypatch: pytest.MonkeyPatch) -> None:
    key = 1234567
    monkeypatch.setattr("steerlens.evaluation.dice._key", lambda *_: key)
    golden = 0x9E3779B97F4A7C15
    bits = [splitmix64((key + i * golden) & ((1 << 64) - 1)) for i in range(5)]
    assert bits[:2] == [6457827717110365317, 3203168211198807973]  # of the published generator
    wanted = torch.tensor([(b >> 11) + 0.5 for b in bits], dtype=torch.float64) * 2.0**-53
    torch.testing.assert_close(noise(0, [0], 0, 5)[0].double(), -torch.log1p(-wanted))


def test_noise_is_a_function_of_seed_row_and_step() -> None:
    whole = noise(1, range(6), 3, 100)
    assert torch.equal(noise(1, [4, 2], 3, 100), whole[[4, 2]])
    assert torch.equal(noise(1, [4], 3, 60), whole[[4], :60])
    others = [noise(*which, 100) for which in ((2, [4], 3), (1, [5], 3), (1, [4], 2), (-1, [4], 3))]
    assert all(not torch.isclose(each[0], whole[4]).any() for each in others)


def test_noise_is_exponential() -> None:
    drawn = noise(0, range(200), 0, 1000).flatten().sort().values.double()
    assert drawn[0] > 0
    assert drawn.isfinite().all()
    empirical = torch.arange(1, len(drawn) + 1) / len(drawn)
    assert (1 - (-drawn).exp() - empirical).abs().max() < 1.95 / len(drawn) ** 0.5  # p < 0.001


def winners(logits: Tensor, throws: int) -> Tensor:
    rows = range(throws)
    race = Dice(3, rows).race(logits.expand(throws, 1, -1))
    assert race.shape == (throws, 1, logits.shape[-1])
    return race[:, 0].argmax(-1)


def test_a_race_draws_from_the_distribution_and_couples() -> None:
    """Two races agree at least as often as Gumbel-max promises, and far above chance."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 1, 30, generator=generator)
    other = one + torch.randn(1, 1, 30, generator=generator) / 2
    throws = 20_000
    drawn = [winners(each, throws) for each in (one, other)]
    p, q = (each.softmax(-1).flatten() for each in (one, other))
    for each, chances in zip(drawn, (p, q), strict=True):
        counts = torch.bincount(each, minlength=30)
        assert float(((counts - throws * chances) ** 2 / (throws * chances)).sum()) < 60
    apart = float((p - q).abs().sum() / 2)
    agree = float((drawn[0] == drawn[1]).float().mean())
    assert agree > (1 - apart) / (1 + apart) - 0.02
    assert agree > 3 * float((p * q).sum())


# Completions


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("steered", [False, True])
def test_tokens_are_drawn_from_each_models_own_distribution(host: str, steered: bool) -> None:
    """Against a loop over single rows and whole passes, without a cache."""
    model = tiny("llama", host)
    chosen = steering() if steered else 0 * steering()
    made = completions(model, PROMPTS, chosen, max_new_tokens=NEW, temperature=0.9, seed=4)
    eos = model.tokenizer.eos_token_id
    compared = 0
    for row, completion in enumerate(made):
        ids = list(encode(model, PROMPTS[row]).tokens)
        start = len(ids)
        for step, token in enumerate((*completion.new_tokens, eos)[:NEW]):
            with chosen.on(model, prompt_lengths=[start]), torch.no_grad():
                logits = model(torch.tensor([ids]))[0, -1]
            scores = (logits / 0.9) - noise(4, [row], step, len(logits))[0].log()
            best, second = scores.topk(2).values
            if best - second < 1e-3:
                break
            assert int(scores.argmax()) == token, (row, step)
            ids.append(token)
            compared += 1
    assert compared > 0.8 * len(PROMPTS) * 3


@pytest.mark.host
@EACH
def test_coefficient_0_says_the_same(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    both = 0 * (steering() + sl.ablate(steering().interventions[0].transform.along))
    for temperature in (0.0, 1.0, 1.5):
        found = sl.compare(model, both, PROMPTS, max_new_tokens=NEW, temperature=temperature)
        assert [each.text for each in found.base] == [each.text for each in found.steered]
        assert found.first_difference == (None,) * len(PROMPTS)
        assert found.kl.isnan().all()
        assert found.mean_kl.abs().max() == 0


@pytest.mark.host
@EACH_HOST
def test_the_batch_does_not_matter(host: str) -> None:
    model = tiny("qwen3", host)
    whole, *others = (
        sl.compare(model, steering(), PROMPTS, max_new_tokens=NEW, batch_rows=rows)
        for rows in (5, 1, 2, 3)
    )
    for other in others:
        assert other.base == whole.base
        assert other.steered == whole.steered
        torch.testing.assert_close(other.kl, whole.kl, equal_nan=True, atol=1e-4, rtol=1e-4)
    shorter = sl.compare(model, steering(), PROMPTS[:2], max_new_tokens=NEW)
    assert shorter.steered == whole.steered[:2]


@pytest.mark.host
@EACH_HOST
def test_divergences_are_those_of_the_shared_text(host: str) -> None:
    model = tiny("llama", host)
    found = sl.compare(model, steering(0.7), PROMPTS, max_new_tokens=NEW, seed=2)
    kinds = set()
    for row, parted in enumerate(found.first_difference):
        base, steered = found.base[row], found.steered[row]
        kinds.add(parted is None)
        steps = NEW if parted is None else parted + 1
        if parted is None:
            steps = min(len(base.new_tokens) + 1, NEW)
            assert base == steered
        else:
            assert base.new_tokens[:parted] == steered.new_tokens[:parted]
            assert base.new_tokens[parted:][:1] != steered.new_tokens[parted:][:1]
        start = base.encoded.prompt_length
        ids = torch.tensor([base.encoded.tokens[: start + steps - 1]])
        with torch.no_grad():
            p = model(ids)[0].log_softmax(-1)
            with steering(0.7).on(model, prompt_lengths=[start]):
                q = model(ids)[0].log_softmax(-1)
        nats = (p.exp() * (p - q)).sum(-1)[start - 1 :]
        assert len(nats) == steps
        assert float(found.mean_kl[row]) == pytest.approx(float(nats.mean()), abs=1e-5)
        if parted is not None:
            assert float(found.kl[row]) == pytest.approx(float(nats[-1]), abs=1e-5)
    assert False in kinds


@pytest.mark.host
@EACH_HOST
def test_prompts_are_items(host: str) -> None:
    model = build("llama", host)
    model.tokenizer.chat_template = TEMPLATE
    chat = [{"role": "good", "content": "w1 w2"}]
    ids = encode(model, chat).tokens
    items = [chat, list(ids), torch.tensor(ids), Encoded(ids, len(ids))]
    options: dict[str, Any] = dict(max_new_tokens=NEW, temperature=0)
    made = completions(model, [*items, "bad"], **options)
    assert len({each.encoded for each in made[:4]}) == 1
    assert made[0].prompt == "good w1 w2"
    assert made[4] == completions(model, ["bad"], **options)[0]
    for answered in (("good", " bad"), [*chat, {"role": "assistant", "content": "w3"}]):
        with pytest.raises(BadInputError, match="Prompt 1 carries a completion already"):
            sl.compare(model, steering(), ["good", answered])


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("special", [False, True])
def test_pads_are_told_from_tokens(host: str, special: bool) -> None:
    """Prompts with BOS and without, as GPT-2 has it too: PAD, BOS and EOS one token."""
    model = build("gpt2", host, pad_is_eos_is_bos=special)
    bos = model.tokenizer.bos_token_id
    prompts = [row.tolist() for row in random_rows([7, 3, 5, 4], bos=bos)]
    for mixture in (prompts, [row[1:] for row in prompts], [prompts[0], prompts[1][1:]]):
        options: dict[str, Any] = dict(max_new_tokens=NEW, seed=1)
        together = completions(model, mixture, steering(), **options)
        alone = completions(model, mixture, steering(), batch_rows=1, **options)
        assert together == alone


@pytest.mark.host
@EACH_HOST
def test_a_value_a_row(host: str) -> None:
    model = tiny("llama", host)
    values = [0.0, 3.0, -3.0, 0.0, 1.0]
    found = sl.compare(model, steering(values), PROMPTS, max_new_tokens=NEW)
    assert found.first_difference[0] is found.first_difference[3] is None
    assert found.steered == tuple(
        completions(
            model, PROMPTS, steering(1.0), coeffs=values, max_new_tokens=NEW, temperature=1.0
        )
    )
    with pytest.raises(BadInputError, match="one a row, meet a batch of 2"):
        sl.compare(model, steering(values), PROMPTS, max_new_tokens=NEW, batch_rows=2)


@pytest.mark.host
@EACH_HOST
def test_positions_may_miss_a_batch(host: str, recwarn: pytest.WarningsRecorder) -> None:
    """A selector that picks nothing in one batch of several is nobody's concern."""
    model = tiny("llama", host)
    happy = sl.positions.matching(*model.to_tokens("happy", prepend_bos=False)[0].tolist())
    sl.compare(model, steering(positions=happy), PROMPTS, max_new_tokens=2, batch_rows=1, seed=5)
    assert not [each for each in recwarn if "picked no token" in str(each.message)]


@pytest.mark.host
@EACH_HOST
def test_nothing_stays_behind(host: str) -> None:
    model = tiny("llama", host)
    sl.compare(model, steering(), PROMPTS, max_new_tokens=2)
    with pytest.raises(ZeroDivisionError), thrown(model, Dice(0, range(1))):
        raise ZeroDivisionError
    with pytest.raises(HookError, match=r"without calling its own forward.*temperature=0"):
        with thrown(model, Dice(0, range(1))):
            pass
    assert "forward" not in vars(model)
    assert "generate" not in vars(model)


@pytest.mark.host
def test_bad_input_is_refused() -> None:
    model = tiny("llama", "bridge")
    with pytest.raises(BadInputError, match="one item or more"):
        sl.compare(model, steering(), [])
    for wrong in (dict(max_new_tokens=0), dict(temperature=-1.0), dict(batch_rows=0)):
        with pytest.raises(BadInputError, match="1 or more"):
            sl.compare(model, steering(), ["good"], **wrong)  # type: ignore[arg-type]


# The value


def written(prompt: str, text: str, new: Sequence[int]) -> Completion:
    return Completion(prompt, text, Encoded((1, 5, *new), 2))


@pytest.fixture
def comparison() -> Comparison:
    same = "the same " * 20
    return Comparison(
        steering=steering(),
        base=(
            written("a <b>", same + "bad\nend", [6, 7, 8]),
            written("b", " x", [9]),
            written("c", "", []),
        ),
        steered=(
            written("a <b>", same + "good\nend", [6, 7, 9]),
            written("b", " x", [9]),
            written("c", " y", [8]),
        ),
        kl=torch.tensor([0.5, torch.nan, 1.5]),
        mean_kl=torch.tensor([0.1, 0.2, 0.3]),
    )


def test_where_rows_part(comparison: Comparison) -> None:
    assert comparison.first_difference == (2, None, 0)
    assert comparison.prompts == ("a <b>", "b", "c")


def test_the_frame_is_tidy(comparison: Comparison) -> None:
    frame = comparison.frame()
    assert frame.row.tolist() == [0, 1, 2]
    assert frame.differs.tolist() == [True, False, True]
    assert frame.first_difference.dropna().tolist() == [2, 0]
    assert frame.steered.tolist()[1:] == [" x", " y"]
    assert frame.kl.isna().tolist() == [False, True, False]
    assert frame.mean_kl.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_the_repr_is_short_and_shows_the_difference(comparison: Comparison) -> None:
    head, formula, *texts = repr(comparison).splitlines()
    assert head == (
        "Comparison(2 of 3 rows differ, first at new token 1 (median), KL 1 nats there (mean), "
        "0.2 nats a token up to there)"
    )
    assert "add('direction')" in formula
    assert max(map(len, [formula, *texts])) <= 88
    assert len(texts) == 9
    base, steered = texts[1].split(), texts[2].split()
    assert (base[-1], steered[-1]) == ("bad⏎end", "good⏎end")
    assert base[1].startswith("…")
    assert texts[3].split() == ["2:", "c"]  # rows that differ come first


def test_rows_of_several_doses_tell_theirs(comparison: Comparison) -> None:
    several = replace(comparison, steering=steering([0.0, 1.5, 4.0]))
    told = [line.strip() for line in repr(several).splitlines()[2::3]]
    assert told == ["0 at 0: a <b>", "2 at 4: c", "1 at 1.5: b"]
    assert "2 at 4 prompt" in several._repr_html_()


def test_the_card_is_escaped(comparison: Comparison) -> None:
    html = comparison._repr_html_()
    assert "a &lt;b&gt;" in html
    assert "<b>a" not in html
    assert "2 of 3 rows differ" in html
