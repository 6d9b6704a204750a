"""SADI against direct computations: what is ranked, what is scaled, what is pinned."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import D_HEAD, D_MLP, D_MODEL, N_HEADS, N_LAYERS, hosts, padded, random_rows, tiny
from torch import Tensor
from torch.nn.functional import gelu, silu

import steerlens as sl
from steerlens.evaluation import Choice, MultipleChoice
from steerlens.methods import masks, sadi
from steerlens.methods.masks import Mask, random_mask, ranked, unit_scores

ROWS = random_rows([5, 7, 4] * 2, seed=3)
CONTRAST = sl.Contrast(ROWS[:3], ROWS[3:])
PROMPTS = random_rows([5, 8, 6], seed=9)
PLACES = {"head": "attn.hook_z", "neuron": "mlp.hook_post", "hidden": "hook_mlp_out"}
PLACES["resid_post"] = "hook_resid_post"
QUIET: dict[str, Any] = {"progress": False}
GATED = {"llama": silu, "gemma2": lambda x: gelu(x, approximate="tanh")}
on_hosts = pytest.mark.parametrize("host", hosts())
on_one_host = pytest.mark.parametrize("host", hosts()[:1])
OTHERS = [("pythia", "head"), ("pythia", "resid_post"), ("gemma2", "hidden"), ("gemma2", "neuron")]
every_site = pytest.mark.parametrize(
    ("architecture", "site"), [*(("llama", site) for site in PLACES), *OTHERS]
)


def ends(model: Any, rows: list[Tensor], *places: str) -> dict[str, Tensor]:
    """What stands at hook points of every layer at texts' last tokens: (row, layer, *unit)."""
    seen: dict[str, Tensor] = {}
    tokens, real = padded(rows, "right")

    def reader(name: str) -> Any:
        def keep(x: Tensor, hook: Any) -> None:
            seen[name] = x[torch.arange(len(x)), real.sum(1) - 1].clone()

        return name, keep

    names = {place: [f"blocks.{n}.{place}" for n in range(N_LAYERS)] for place in places}
    with torch.no_grad():
        model.run_with_hooks(
            tokens, fwd_hooks=[reader(name) for each in names.values() for name in each]
        )
    return {place: torch.stack([seen[name] for name in names[place]], 1) for place in places}


def last(model: Any, row: Tensor, place: str) -> Tensor:
    """What stands at a hook point of every layer at one text's last token, unsteered."""
    return ends(model, [row], place)[place][0]


def some_mask(architecture: str, site: str, layers: tuple[int, ...] = (0, 1, 2)) -> Mask:
    """Two units in each of some layers."""
    shape = {
        "head": (N_HEADS, D_HEAD[architecture]),
        "neuron": (D_MLP,),
        "hidden": (D_MODEL,),
        "resid_post": (D_MODEL,),
    }[site]
    chosen = torch.zeros(N_LAYERS, shape[0], dtype=torch.bool)
    for layer in layers:
        chosen[layer, [layer, shape[0] - 1]] = True
    return Mask(site, chosen, chosen.float(), shape)  # type: ignore[arg-type]


def written(model: Any, row: Tensor, hooks: Any, place: str | None = None) -> Tensor:
    """Logits under plain hooks at the text's last token, or what stands at a place."""
    kept: list[Tensor] = []
    hooks = list(hooks)
    if place is not None:
        hooks.append((place, lambda x, hook: kept.append(x.clone())))
    with torch.no_grad():
        logits = model.run_with_hooks(row[None], fwd_hooks=hooks)
    return logits if place is None else kept[0]


def scaling_hooks(mask: Mask, place: str, strength: float, index: int = -1) -> list[Any]:
    def hook(layer: int) -> Any:
        def scale(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            row = x[0, index]
            x[0, index] = torch.where(mask.at(layer), strength * row, row)
            return x

        return f"blocks.{layer}.{place}", scale

    return [hook(layer) for layer in range(N_LAYERS)]


def pinning_hooks(
    mask: Mask, place: str, strength: float, clean: Tensor, index: int = -1
) -> list[Any]:
    def hook(layer: int) -> Any:
        def pin(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[0, index] = torch.where(mask.at(layer), strength * clean[layer], clean[layer])
            return x

        return f"blocks.{layer}.{place}", pin

    return [hook(layer) for layer in range(N_LAYERS)]


def steered(model: Any, steering: sl.Steering, tokens: Tensor) -> Tensor:
    with torch.no_grad(), steering.on(model):
        return model(tokens)


# What is ranked


@pytest.mark.host
@on_hosts
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_the_mean_difference_is_that_of_the_last_tokens(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    seen = ends(model, ROWS, *PLACES.values(), "mlp.hook_pre")
    if architecture in GATED:
        seen["mlp.hook_post"] = GATED[architecture](seen["mlp.hook_pre"])
    for site, place in PLACES.items():
        found = masks.difference(model, CONTRAST, site, before_product=True, progress=False)  # type: ignore[arg-type]
        wanted = (seen[place][:3] - seen[place][3:]).mean(0)
        torch.testing.assert_close(found.float(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.host
@on_one_host
def test_answers_are_read_to_their_end(host: str) -> None:
    model = tiny("llama", host)
    asked = sl.Contrast([("w1 w2", " good w3")], [("w1 w2", " bad")])
    found = masks.difference(model, asked, "head", progress=False)
    up, down = (
        last(model, model.to_tokens(text)[0], "attn.hook_z")
        for text in ("w1 w2 good w3", "w1 w2 bad")
    )
    torch.testing.assert_close(found.float(), up - down, atol=1e-5, rtol=1e-4)


@pytest.mark.host
@on_one_host
def test_neurons_are_scaled_where_the_product_stands(host: str) -> None:
    """Scaling what the activation function gives is scaling the product."""
    model = tiny("llama", host)
    config = sadi.Config(site="neuron", k=5, strength=3)
    mask = sadi.identify(model, CONTRAST, config, **QUIET)
    steering = sadi.scaling(mask, config)
    assert {leaf.hook_name for leaf in steering.interventions} == {
        f"blocks.{layer}.mlp.hook_post" for layer in mask.layers
    }
    before = masks.difference(model, CONTRAST, "neuron", progress=False)
    after = masks.difference(model, CONTRAST, "neuron", before_product=True, progress=False)
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.equal(mask.chosen, ranked(after, 5))


def test_the_largest_of_all_layers_by_signed_value() -> None:
    scores = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    chosen = ranked(scores, 12)
    wanted = sorted(
        ((float(-scores[i, j]), i, j) for i in range(4) for j in range(30)),
    )[:12]
    assert {(i, j) for _, i, j in wanted} == {tuple(at) for at in chosen.nonzero().tolist()}
    assert scores[chosen].min() > 0


def test_ties_go_by_layer_then_unit() -> None:
    scores = torch.ones(3, 40)
    scores[0] = 0
    scores[2, 5] = 2
    mask = Mask("neuron", ranked(scores, 4), scores, (40,))
    assert mask.units == ((2, 5), (1, 0), (1, 1), (1, 2))
    assert (mask.k, mask.layers) == (4, (1, 2))
    assert mask.top(1).units == ((2, 5),)
    assert repr(mask) == "Mask(4 of 120 neurons: L2N5, L1N0, L1N1, L1N2)"


def test_a_heads_norm_does_not_depend_on_its_basis_and_its_mean_does() -> None:
    generator = torch.Generator().manual_seed(1)
    found = torch.randn(2, 3, 8, generator=generator)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    torch.testing.assert_close(unit_scores(found @ turn, "norm"), unit_scores(found, "norm"))
    torch.testing.assert_close(unit_scores(found), found.mean(-1))
    assert not torch.allclose(unit_scores(found @ turn), unit_scores(found), atol=0.1)
    flat = torch.tensor([[1.0, -2.0]])
    assert torch.equal(unit_scores(flat), flat)
    assert torch.equal(unit_scores(flat, "norm"), flat.abs())


def test_random_masks_are_placebos_of_the_same_size() -> None:
    mask = some_mask("llama", "head")
    first, again, other = (random_mask(mask, seed) for seed in (1, 1, 2))
    assert first.k == other.k == mask.k
    assert torch.equal(first.chosen, again.chosen)
    assert not torch.equal(first.chosen, other.chosen)
    share = torch.stack([random_mask(mask, seed).chosen.float() for seed in range(400)]).mean(0)
    assert share.sub(mask.k / share.numel()).abs().max() < 0.12  # every head as likely


# What is scaled


@pytest.mark.host
@on_hosts
@every_site
def test_scaling_is_a_plain_hook_at_the_last_prompt_token(
    architecture: str, host: str, site: str
) -> None:
    model, row = tiny(architecture, host), PROMPTS[1]
    mask = some_mask(architecture, site)
    steering = sadi.scaling(mask, sadi.Config(strength=3.5))
    wanted = written(model, row, scaling_hooks(mask, PLACES[site], 3.5))
    torch.testing.assert_close(steered(model, steering, row[None]), wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(wanted, written(model, row, []), atol=1e-2)


@pytest.mark.host
@on_one_host
def test_fit_scales_what_identify_finds(host: str) -> None:
    model = tiny("llama", host)
    config = sadi.Config(k=3, strength=4, score="norm")
    mask = sadi.identify(model, CONTRAST, config, **QUIET)
    row = PROMPTS[0]
    wanted = written(model, row, scaling_hooks(mask, "attn.hook_z", 4))
    found = steered(model, sadi.fit(model, CONTRAST, config, **QUIET), row[None])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    norms = masks.difference(model, CONTRAST, "head", progress=False).norm(dim=-1)
    assert torch.equal(mask.chosen, ranked(norms, 3))


@pytest.mark.host
@on_hosts
def test_only_the_last_prompt_token_is_scaled_or_every_predicting_one(host: str) -> None:
    model, row = tiny("llama", host), PROMPTS[1]
    mask = some_mask("llama", "hidden")
    for positions, indices in (("last_prompt_token", [4]), ("predicting", [4, 5, 6, 7])):
        config = sadi.Config(strength=2, positions=positions)
        with torch.no_grad(), sadi.scaling(mask, config).on(model, prompt_lengths=[5]):
            found = model(row[None])
        hooks = [h for i in indices for h in scaling_hooks(mask, "hook_mlp_out", 2, i)]
        torch.testing.assert_close(found, written(model, row, hooks), atol=1e-4, rtol=1e-4)


# What is pinned


@pytest.mark.host
@on_hosts
@every_site
def test_pinning_is_two_passes(architecture: str, host: str, site: str) -> None:
    model, row = tiny(architecture, host), PROMPTS[1]
    mask = some_mask(architecture, site)
    clean = last(model, row, PLACES[site])
    wanted = written(model, row, pinning_hooks(mask, PLACES[site], 3.0, clean))
    steering = sadi.for_prompts(model, [row], mask, sadi.Config(strength=3, mode="pin"))
    torch.testing.assert_close(steered(model, steering, row[None]), wanted, atol=1e-4, rtol=1e-4)
    assert len(steering.interventions) == N_LAYERS


@pytest.mark.host
@on_hosts
def test_each_row_is_pinned_to_its_own_prompt_before_its_answer(host: str) -> None:
    model = tiny("llama", host)
    mask, config = some_mask("llama", "head"), sadi.Config(strength=3, mode="pin")
    texts = [("w1 good w4", " w2 w3"), ("the w9", " bad w5")]
    steering = sadi.for_prompts(model, texts, mask, config)
    tokens = [model.to_tokens(prompt + answer)[0] for prompt, answer in texts]
    lengths = [model.to_tokens(prompt).shape[1] for prompt, _ in texts]
    batch = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    with torch.no_grad(), steering.on(model, prompt_lengths=lengths):
        found = model(batch)
    for i, (row, length) in enumerate(zip(tokens, lengths, strict=True)):
        clean = last(model, row[:length], "attn.hook_z")
        hooks = pinning_hooks(mask, "attn.hook_z", 3.0, clean, length - 1)
        torch.testing.assert_close(
            found[i : i + 1, : len(row)], written(model, row, hooks), atol=1e-4, rtol=1e-4
        )


@pytest.mark.host
@on_hosts
def test_both_forms_agree_until_the_change_cascades(host: str) -> None:
    """Alike up to the first masked layer, and altogether where it is the last; else not."""
    model, row = tiny("llama", host), PROMPTS[1]
    config = sadi.Config(strength=3)

    def both(mask: Mask) -> tuple[sl.Steering, sl.Steering]:
        return sadi.scaling(mask, config), sadi.for_prompts(model, [row], mask, config)

    scaled, pinned = (
        steered(model, each, row[None]) for each in both(some_mask("llama", "head", (2,)))
    )
    torch.testing.assert_close(scaled, pinned, atol=1e-4, rtol=1e-4)
    parts = both(some_mask("llama", "head", (1,)))
    scaled, pinned = (steered(model, each, row[None]) for each in parts)
    assert not torch.allclose(scaled, pinned, atol=1e-2)
    seen: dict[str, list[Tensor]] = {"blocks.1.attn.hook_z": [], "blocks.2.attn.hook_z": []}
    for each in parts:
        for place, kept in seen.items():
            with each.on(model):
                kept.append(written(model, row, [], place))
    torch.testing.assert_close(*seen["blocks.1.attn.hook_z"], atol=1e-4, rtol=1e-4)
    scaled, pinned = seen["blocks.2.attn.hook_z"]
    assert not torch.allclose(scaled, pinned, atol=1e-2)
    torch.testing.assert_close(
        pinned, written(model, row, [], "blocks.2.attn.hook_z"), atol=1e-4, rtol=1e-4
    )


@pytest.mark.host
@on_hosts
def test_strength_one_changes_nothing(host: str) -> None:
    model, row = tiny("gpt2", host), PROMPTS[0]
    mask, config = some_mask("gpt2", "neuron"), sadi.Config(strength=1)
    base = written(model, row, [])
    assert torch.equal(steered(model, sadi.scaling(mask, config), row[None]), base)
    pinned = sadi.for_prompts(model, [row], mask, config)
    torch.testing.assert_close(steered(model, pinned, row[None]), base, atol=1e-5, rtol=1e-5)


@pytest.mark.host
@on_one_host
def test_the_fixed_vector_is_the_difference_on_the_mask(host: str) -> None:
    model, row = tiny("llama", host), PROMPTS[0]
    for site in ("head", "neuron"):
        mask, place = some_mask("llama", site, (0, 2)), PLACES[site]
        seen = ends(model, ROWS, place)[place]
        gap = 2 * (seen[:3] - seen[3:]).mean(0)
        steering = sadi.fixed(model, CONTRAST, mask, sadi.Config(strength=3), progress=False)
        hooks = [pushing(f"blocks.{n}.{place}", gap[n] * mask.at(n)) for n in range(N_LAYERS)]
        found = steered(model, steering, row[None])
        torch.testing.assert_close(found, written(model, row, hooks), atol=1e-4, rtol=1e-4)


def pushing(name: str, vector: Tensor) -> Any:
    def push(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[0, -1] += vector
        return x

    return name, push


# Choosing


def choices(n: int) -> MultipleChoice:
    words = [f"w{i} the w{i + 7} w{(3 * i) % 20}" for i in range(n)]
    options = [(" good", " bad w3"), (" sad", " happy"), (" w2", " not")]
    return MultipleChoice(
        "words", [Choice(word, options[i % 3], [i % 2]) for i, word in enumerate(words)], "log_odds"
    )


@pytest.mark.host
@on_one_host
def test_the_choice_is_the_best_of_what_each_would_do(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = tiny("llama", host), choices(2)
    first = sadi.Config(score="norm", k=1, strength=2.0)
    configs = [
        first,
        replace(first, strength=8.0),
        replace(first, k=4, strength=8.0, mode="pin"),
        sadi.Config(site="hidden", k=3, strength=5.0),
    ]
    ranking: list[sadi.Config] = []
    real = sadi.identify
    monkeypatch.setattr(sadi, "identify", lambda *a, **k: ranking.append(a[2]) or real(*a, **k))
    chosen = sadi.choose(model, CONTRAST, task, configs, **QUIET)
    assert len(ranking) == 2  # once for heads, once for hidden units

    def direct(config: sadi.Config) -> float:
        if config.mode == "scale":
            return float(task.scores(model, sadi.fit(model, CONTRAST, config, **QUIET)).mean[0])
        mask = real(model, CONTRAST, config, **QUIET)
        each = [
            task.part([i]).scores(model, sadi.for_prompts(model, [prompt], mask, config)).mean[0]
            for i, prompt in enumerate(task.prompts)
        ]
        return float(sum(each)) / len(each)

    wanted = [direct(each) for each in configs]
    assert [score for _, score in chosen.tried] == pytest.approx(wanted)
    assert len(set(wanted)) == 4
    assert chosen.score == pytest.approx(max(wanted))
    assert chosen.config == configs[wanted.index(max(wanted))]
    assert chosen.base == pytest.approx(float(task.scores(model).mean[0]))
    sliced = [replace(each, positions=slice(0, 3)) for each in configs[:2]]  # slices have no hash
    assert len(sadi.choose(model, CONTRAST, task, sliced, **QUIET).tried) == 2
    frame = chosen.frame()
    assert frame["validation"].tolist() == pytest.approx(wanted)
    assert frame["k"].tolist() == [each.k for each in configs]
    assert "best of 4" in repr(chosen)


def test_ties_go_to_the_weaker_and_a_number_beats_none() -> None:
    weak, strong = sadi.Config(k=8, strength=2), sadi.Config(k=4, strength=3)
    assert max([(strong, 0.5), (weak, 0.5)], key=sadi._merit)[0] is weak
    assert max([(weak, float("nan")), (strong, 0.1)], key=sadi._merit)[0] is strong
    few = sadi.Config(k=2, strength=2)
    assert max([(weak, 0.5), (few, 0.5)], key=sadi._merit)[0] is few


def test_the_grids_are_the_papers_and_small_strengths_besides() -> None:
    heads = sadi.grid()
    assert {each.k for each in heads} == {1, 2, 4, 6, 8, 10}
    assert {each.strength for each in heads} == {1.5, 2, 3, 4, *range(5, 81, 5)}
    neurons = sadi.grid(sadi.Config(site="neuron", positions="predicting"))
    assert {each.k for each in neurons} == {3, 5, 10, 30, 50, 100, 200, 300, 400, 500}
    assert {each.strength for each in neurons} == {1.5, 2, 3, 4, 5, 10, 20, 30, 50, 70, 90}
    assert {each.positions for each in neurons} == {"predicting"}
    hidden = sadi.grid(sadi.Config(site="hidden"), strengths=[5.0])
    assert [each.k for each in hidden] == [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]


def test_the_defaults_lie_in_every_grid_of_the_paper() -> None:
    config = sadi.Config()
    assert (config.site, config.score, config.mode) == ("head", "mean", "scale")
    assert config.positions == "last_prompt_token"
    assert all(config.k in ks for ks in sadi.KS.values())
    assert all(config.strength in strengths for strengths in sadi.STRENGTHS.values())


# As any steering


@pytest.mark.host
@on_hosts
def test_it_combines_takes_gates_and_positions_traces_and_pickles(host: str) -> None:
    model, tokens = tiny("llama", host), torch.stack(random_rows([6, 6], seed=5))
    base = written(model, tokens[0], [])
    scaled = sadi.fit(model, CONTRAST, sadi.Config(k=2, strength=3), **QUIET)
    pinned = sadi.for_prompts(model, list(tokens), some_mask("llama", "head"))
    for steering in (scaled, pinned):
        assert torch.equal(steered(model, steering.when(0), tokens)[:1], base)
        half = steered(model, pickle.loads(pickle.dumps(steering)).when(0.5), tokens)
        assert not torch.allclose(half[:1], base, atol=1e-3)
        both = steered(model, 0.25 * steering + 0.25 * steering, tokens)
        torch.testing.assert_close(both, half, atol=1e-4, rtol=1e-4)
        with torch.no_grad(), steering.trace(model) as trace:
            model(tokens)
        picked = trace.texts[0].share.max(1).values > 0
        assert picked.nonzero()[:, -1].unique().tolist() == [5]
    elsewhere = steered(model, scaled.where("everywhere"), tokens)
    assert not torch.allclose(elsewhere[:, 1], model(tokens)[:, 1], atol=1e-3)


# Errors


@pytest.mark.host
@on_one_host
def test_errors_say_what_to_do(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(sl.SteerLensError, match="1 unit or more"):
        sadi.Config(k=0)
    with pytest.raises(sl.SteerLensError, match="Leave positions out"):
        sadi.Config(mode="pin", positions="predicting")
    with pytest.raises(sl.SteerLensError, match=r"sadi\.for_prompts"):
        sadi.fit(model, CONTRAST, sadi.Config(mode="pin"), **QUIET)
    with pytest.raises(sl.SteerLensError, match="smaller k"):
        sadi.identify(model, CONTRAST, sadi.Config(k=13), **QUIET)
    with pytest.raises(sl.SteerLensError, match="one item or more"):
        sadi.for_prompts(model, [], some_mask("llama", "head"))
    with pytest.raises(sl.SteerLensError, match=r"sadi\.grid"):
        sadi.choose(model, CONTRAST, choices(1), [])
    mask = some_mask("llama", "head")
    with pytest.raises(sl.SteerLensError, match="Leave positions out"):
        sadi.for_prompts(model, [PROMPTS[0]], mask, sadi.Config(positions="predicting"))


def test_a_gated_mlp_without_a_function_of_that_name_is_an_error() -> None:
    class Nothing:
        blocks = ({"mlp": None},)

    nothing: Any = Nothing()
    nothing.blocks = [type("Block", (), {"mlp": object()})()]
    with pytest.raises(sl.SteerLensError, match=r"blocks\.0\.mlp"):
        masks._activation_function(nothing, 0)
