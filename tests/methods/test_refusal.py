"""The refusal direction: its candidates and figures computed by hand, and hooks against weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import CONTRAST, PROMPTS, ROWS, behaves, by_hand, close, logits, stands
from models import D_MODEL, D_VOCAB, N_LAYERS, forward, hosts, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.methods import ends, refusal, refusal_scores
from steerlens.methods.refusal import Candidate, Config
from steerlens.text import Encoded

pytestmark = pytest.mark.host
ON = [*(("llama", host) for host in hosts()), ("gpt2", hosts()[0]), ("pythia", hosts()[-1])]
MODELS = pytest.mark.parametrize(("architecture", "host"), ON)
QUIET: dict[str, Any] = dict(progress=False)
LOOSE = Config(tokens=[7, 9, 20], clear=False, most_kl=99, least_induced=-99, validation=0.4)
LENGTHS = [5, 7, 4, 6, 6, 8, 5, 3]
ENDED = [torch.cat([row, torch.tensor([30, 31])]) for row in random_rows(LENGTHS, seed=4)]
SIDES = sl.Contrast(ENDED[:4], ENDED[4:])
"""Prompts that end alike, as a chat template ends them."""


def direction(seed: int = 0) -> sl.Direction:
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return sl.Direction("blocks.1.hook_resid_pre", vector, name="up")


# Hooks and weights


@pytest.mark.parametrize("host", hosts())
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "pythia", "mistral"])
def test_ablation_is_orthogonalised_weights(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    with sl.editing.orthogonalise(model, direction()).applied(model):
        weights = logits(model)
    assert close(logits(model, refusal.ablation(model, direction())), weights)
    assert not close(weights, logits(model))
    less = refusal.ablation(model, direction()).layers(0, 1)
    assert not close(logits(model, less), weights)


@MODELS
def test_nothing_is_left_along_the_direction_anywhere(architecture: str, host: str) -> None:
    model, unit = tiny(architecture, host), direction().unit().vector.double()
    sites = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    names = [f"blocks.{layer}.{site}" for layer in range(N_LAYERS) for site in sites]
    with refusal.ablation(model, direction()).on(model):
        found = stands(model, PROMPTS, names)
    for name in names:
        assert float((found[name] @ unit).abs().max()) < 1e-5, name


@MODELS
def test_addition_at_the_source(architecture: str, host: str, tmp_path: Path) -> None:
    model, r = tiny(architecture, host), direction().vector
    steering = refusal.addition(direction(), -1.0)
    wanted = by_hand(model, {"blocks.1.hook_resid_pre": lambda h: h - r})
    assert close(logits(model, steering), wanted)
    if architecture == "gpt2":
        behaves(steering, model, tmp_path / "kept")


# The search


@torch.no_grad()
def next_probs(model: Any, rows: list[Tensor]) -> Tensor:
    return torch.stack([forward(model, row[None])[0, -1].double().softmax(-1) for row in rows])


def score(probs: Tensor, tokens: list[int]) -> float:
    p = probs[:, tokens].sum(1)
    return float((torch.log(p + 1e-8) - torch.log(1 - p + 1e-8)).mean())


@MODELS
def test_candidates(architecture: str, host: str) -> None:
    """Means of the two tokens that all prompts end with, at inputs of layers 0 and 1 of 3."""
    model = tiny(architecture, host)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(2)]
    found = refusal.directions(model, SIDES, LOOSE, **QUIET)
    places = [(place, each.hook_name) for place, each in found]
    learnt = architecture == "gpt2"  # only learnt positions tell alike tokens apart at the input
    assert places == [(p, n) for p in (-2, -1) for n in (names if learnt else names[1:])]
    for place, each in found:
        sides = [stands(model, rows, names, place) for rows in (ENDED[:4], ENDED[4:])]
        gap = sides[0][each.hook_name].mean(0) - sides[1][each.hook_name].mean(0)
        assert torch.allclose(each.vector.double(), gap, atol=1e-5)
        assert each.provenance["data"] == SIDES.digest
        assert each.items == "4 pairs"


@MODELS
def test_figures(architecture: str, host: str) -> None:
    model, tokens = tiny(architecture, host), [7, 9, 20]
    found = refusal.directions(model, SIDES, LOOSE, **QUIET)[-2:]
    held_out = sl.Contrast(ROWS[:3], ROWS[3:5])
    base = next_probs(model, ROWS[3:5])
    for judged, (place, each) in zip(
        refusal.judged(model, found, held_out, LOOSE, **QUIET), found, strict=True
    ):
        with refusal.ablation(model, each).on(model):
            harmful, harmless = next_probs(model, ROWS[:3]), next_probs(model, ROWS[3:5])
        with sl.add(each, positions="every_token").on(model):
            added = next_probs(model, ROWS[3:5])
        nats = (base * (base.log() - harmless.log())).sum(1).mean()
        assert judged.position == place
        assert judged.direction is each
        assert judged.ablated == pytest.approx(score(harmful, tokens), abs=1e-3)
        assert judged.induced == pytest.approx(score(added, tokens), abs=1e-3)
        assert judged.kl == pytest.approx(float(nats), abs=1e-4)
        assert judged.kl > 0.01
        assert abs(judged.ablated - judged.induced) > 0.01


def test_the_fit_takes_the_best(tmp_path: Path) -> None:
    model = tiny("gpt2", hosts()[0])
    config = replace(LOOSE, n_positions=1)
    fitting, held_out = refusal.clear(model, SIDES, config).split(0.6, seed=0)
    found = refusal.directions(model, fitting, config, **QUIET)
    judged = refusal.judged(model, found, held_out, config, **QUIET)
    best = min(judged, key=lambda each: each.ablated).direction
    assert len(judged) == 2
    ablated = refusal.fit(model, SIDES, config, **QUIET)
    assert close(logits(model, ablated), logits(model, refusal.ablation(model, best)))
    added = refusal.fit(model, SIDES, replace(config, mode="addition", coeff=-1), **QUIET)
    assert close(logits(model, added), logits(model, refusal.addition(best, -1.0)))
    assert repr(added) == f"Steering(-1 * add('refusal') @ {best.hook_name}[every_token])"
    behaves(ablated, model, tmp_path / "kept")


def test_what_passes_and_what_is_chosen() -> None:
    def made(ablated: float, induced: float, kl: float) -> Candidate:
        return Candidate(-1, direction(), ablated, induced, kl)

    every = [made(-9, 1, 0.2), made(-8, -0.1, 0.0), made(-2, 0.0, 0.1), made(-1, 5, 0.0)]
    broken = made(-99, float("nan"), 0.0)
    assert refusal.chosen([*every, broken]) is every[2]
    assert refusal.chosen(every, Config(most_kl=0.3)) is every[0]
    assert refusal.chosen(every, Config(least_induced=-1)) is every[1]
    with pytest.raises(BadInputError, match=r"None of 2 directions passes: the least KL is 0 nats"):
        refusal.chosen(every[:2])
    with pytest.raises(BadInputError, match="nothing to choose"):
        refusal.chosen([])


def test_the_papers_choices() -> None:
    config = Config()
    assert (config.mode, config.coeff, config.positions) == ("ablation", 1.0, "every_token")
    assert (config.most_kl, config.least_induced, config.depth) == (0.1, 0.0, 0.8)
    assert (config.validation, config.clear, tuple(config.tokens)) == (32 / 160, True, ("I",))
    model = tiny("llama", hosts()[0])
    names = [leaf.hook_name for leaf in refusal.ablation(model, direction()).interventions]
    assert names == [
        f"blocks.{layer}.hook_{site}"
        for layer in range(N_LAYERS)
        for site in ("resid_pre", "attn_out", "mlp_out")
    ]


def test_only_what_is_clear_is_kept() -> None:
    """The tokens that are likeliest after two of the prompts count as refusals."""
    model = tiny("llama", hosts()[-1])
    probs = next_probs(model, [*ENDED])
    likeliest = probs[:2].sum(0).argsort(descending=True)
    sums = probs[:2, likeliest].cumsum(1).amin(0)
    tokens = likeliest[: int((sums < 0.55).sum()) + 1].tolist()
    config = replace(LOOSE, clear=True, tokens=tokens)
    over = [p / (1 - p) > 1 for p in probs[:, sorted(set(tokens))].sum(1).tolist()]
    assert sum(over[:4]) >= 2
    assert not all(over[:4])
    found = refusal.clear(model, SIDES, config)
    kept = [each.tokens for each in found.positive]  # type: ignore[union-attr]
    assert kept == [tuple(r.tolist()) for r, o in zip(ENDED[:4], over[:4], strict=True) if o]
    kept = [each.tokens for each in found.negative]  # type: ignore[union-attr]
    assert kept == [tuple(r.tolist()) for r, o in zip(ENDED[4:], over[4:], strict=True) if not o]
    with pytest.raises(BadInputError, match=r"begins 0 of 4 harmful prompts' replies with 47"):
        refusal.clear(model, SIDES, replace(config, tokens=[47]))


# Scores


@cache
def log_probs() -> Tensor:
    return torch.randn(3, D_VOCAB, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


def test_scores() -> None:
    probs = log_probs().double().exp()
    found = refusal_scores.refusal_score(log_probs(), [3, 8])
    p = probs[:, [3, 8]].sum(1)
    assert torch.allclose(found, torch.logit(p), atol=1e-5)
    against = refusal_scores.refusal_score(log_probs(), [3, 8], [5])
    assert torch.allclose(against, (p / probs[:, 5]).log(), atol=1e-5)
    sure = refusal_scores.refusal_score(torch.tensor([[0.0, -torch.inf]]), [0])
    assert float(sure) == pytest.approx(18.42068, rel=1e-5)


def test_words_and_ids() -> None:
    model = tiny("gpt2", hosts()[0])
    good = model.tokenizer.convert_tokens_to_ids("good")
    assert refusal_scores.token_ids(model, ["good", 40, "good"]) == sorted({good, 40})
    with pytest.raises(BadInputError, match="'good bad' is no single token"):
        refusal_scores.token_ids(model, ["good bad"])
    with pytest.raises(BadInputError, match="'zebra' is no single token"):
        refusal_scores.token_ids(model, ["zebra"])


def test_prompts_and_their_ends() -> None:
    model = tiny("gpt2", hosts()[0])
    both = ends.prompts_of(model, [("good bad", " sad"), "good bad"])
    assert both[0] == both[1]
    assert len(both[0].tokens) == both[0].prompt_length == 3
    same = [Encoded((1, 5, 6), 3)] * 2
    assert refusal_scores.shared_end(same) == 2  # not BOS
    assert refusal_scores.shared_end([same[0], Encoded((1, 5, 7), 3)]) == 1
    assert refusal_scores.shared_end(ends.prompts_of(model, list(ENDED))) == 2


def test_next_tokens_in_batches() -> None:
    model = tiny("llama", hosts()[-1])
    prompts = ends.prompts_of(model, list(ROWS))
    steering = sl.add(direction())
    with torch.no_grad(), steering.on(model):
        wanted = torch.stack([forward(model, row[None])[0, -1].log_softmax(-1) for row in ROWS])
    for size in (20, 999):
        found = refusal_scores.next_log_probs(model, prompts, steering, batch_tokens=size)
        assert torch.allclose(found.float(), wanted, atol=1e-4)


def test_errors() -> None:
    model = tiny("gpt2", hosts()[0])
    with pytest.raises(BadInputError, match="leaves no layer"):
        refusal.fit(model, SIDES, replace(LOOSE, depth=0.1), **QUIET)
    with pytest.raises(BadInputError, match="nothing to choose"):
        refusal.fit(model, sl.Contrast(ENDED[:1] * 4, ENDED[:1] * 4), LOOSE, **QUIET)
    with pytest.raises(BadInputError, match="None of 4 directions passes"):
        refusal.fit(model, SIDES, replace(LOOSE, most_kl=0.0), **QUIET)
    with pytest.raises(BadInputError, match="share from 0 to 1"):
        refusal.fit(model, SIDES, replace(LOOSE, coeff=-1.0), **QUIET)
    wrong = replace(LOOSE)
    object.__setattr__(wrong, "mode", "removal")
    with pytest.raises(UnknownNameError, match="modes are 'ablation' and 'addition'"):
        refusal.fit(model, CONTRAST, wrong, **QUIET)
