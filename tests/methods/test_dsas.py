"""DSAS: the gate against scikit-learn's own pipeline, the equation against plain hooks."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import D_MODEL, hosts, padded, random_rows, tiny
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor

import steerlens as sl
from steerlens.attribution.probing import folds
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.methods import Sets, dsas
from steerlens.methods.gates import Gates
from steerlens.methods.gating import Folded, Rows, accuracy, fitted, fold, held_out_accuracy
from steerlens.signals import Moment

ON = [(name, host) for host in hosts() for name in ("gpt2", "gemma2")]
MODELS = pytest.mark.parametrize(("architecture", "host"), ON)
QUIET: dict[str, Any] = dict(progress=False)
POINTS = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
Z = "blocks.1.attn.hook_z"


def rows(n: int, low: int, high: int, seed: int) -> list[list[int]]:
    """Texts of 3 to 9 words from a part of the vocabulary, after BOS."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(3, 10, (n,), generator=generator).tolist()
    return [[1, *torch.randint(low, high, (k,), generator=generator).tolist()] for k in sizes]


SETS = Sets(rows(9, 4, 26, 0), rows(8, 4, 40, 1), rows(12, 18, 44, 2))


def direction(name: str, seed: int = 0, unit: tuple[int, ...] = (D_MODEL,)) -> sl.Direction:
    vector = torch.randn(unit, generator=torch.Generator().manual_seed(seed))
    return sl.Direction(name, vector, name=f"v{seed}")


BASE = sl.add([direction(name, seed) for seed, name in enumerate(POINTS)], coeff=2)


LOOSE = dsas.Config(min_accuracy=0, accuracy_on="train")
"""Keeps every hook point, and asks for no fits besides."""


@cache
def found(architecture: str, host: str, config: dsas.Config = LOOSE) -> Gates:
    return dsas.gates(tiny(architecture, host), BASE, SETS, config, **QUIET)


@cache
def cached(model: Any, tokens: tuple[int, ...]) -> Any:
    """Everything that an unsteered pass computes."""
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([tokens]), names_filter=[*POINTS, Z])[1]


def read(model: Any, items: Any, name: str) -> list[Tensor]:
    """Every text's activations at its words, without BOS: (pos, *unit)."""
    return [cached(model, tuple(item))[name][0, 1:].float() for item in items]


def means(model: Any, items: Any, name: str) -> Tensor:
    return torch.stack([each.mean(0).flatten() for each in read(model, items, name)])


def pipeline(source: Tensor, control: Tensor, r: int = 5, c: float = 1.0) -> Any:
    """What scikit-learn makes of it, by its usual solver."""
    labels = [1] * len(source) + [0] * len(control)
    logistic = LogisticRegression(C=c, class_weight="balanced", tol=1e-10, max_iter=10_000)
    return make_pipeline(PCA(r), logistic).fit(torch.cat([source, control]).double(), labels)


def sides(seed: int, n: int = 20, m: int = 31, d: int = 12) -> tuple[Rows, Rows]:
    generator = torch.Generator().manual_seed(seed)
    spread = 3 * torch.rand(d, generator=generator, dtype=torch.float64)
    made = []
    for size, shift in ((n, 0.7), (m, 0.0)):
        x = spread * torch.randn(size, d, generator=generator, dtype=torch.float64) + 5 + shift
        made.append(Rows(x, torch.arange(size)))
    return made[0], made[1]


# The mathematics


def test_defaults_are_the_papers() -> None:
    config = dsas.Config()
    assert (config.components, config.c, config.min_accuracy) == (5, 1.0, 0.75)
    assert (config.trained_on, config.applied_to, config.hard) == ("texts", "tokens", False)
    assert (config.accuracy_on, config.weigh, config.read) == ("cv", False, "everywhere")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("r", "c"), [(5, 1.0), (1, 0.1), (12, 10.0)])
def test_the_folded_gate_is_the_pipeline(seed: int, r: int, c: float) -> None:
    source, control = sides(seed)
    gate = fitted(source, control, components=r, c=c)
    wanted = pipeline(source.x, control.x, r, c)
    new = torch.cat([source.x, control.x]) * 1.5 - 2
    torch.testing.assert_close(
        gate(new), torch.tensor(wanted.predict_proba(new)[:, 1]), atol=1e-5, rtol=1e-4
    )
    assert gate.components == r
    explained = wanted[0].explained_variance_ratio_.sum()
    assert gate.explained == pytest.approx(explained)


def test_folding_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, basis = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((9,), (4, 9))
    )
    beta, x = torch.randn(4, dtype=torch.float64), torch.randn(7, 9, dtype=torch.float64)
    weight, bias = fold(mean, basis, beta, 0.3)
    torch.testing.assert_close(x @ weight + bias, (x - mean) @ basis.T @ beta + 0.3)


def test_components_are_no_more_than_there_are() -> None:
    source, control = sides(0, 3, 4)
    assert fitted(source, control).components == 5
    assert fitted(source, control, components=99).components == 6
    source, control = sides(0, 20, 20, d=2)
    assert fitted(source, control).components == 2


@pytest.mark.parametrize("seed", range(2))
def test_held_out_accuracy_is_that_of_pipelines_fitted_without(seed: int) -> None:
    source, control = sides(seed)
    parts = folds(20, 31, paired=False, seed=7)
    assert parts is not None
    right: list[list[bool]] = [[], []]
    for number in range(5):
        kept = [side.x[part != number] for side, part in zip((source, control), parts, strict=True)]
        wanted = pipeline(*kept)
        for i, (side, part) in enumerate(zip((source, control), parts, strict=True)):
            right[i] += (wanted.predict(side.x[part == number]) == 1 - i).tolist()
    by_hand = (sum(right[0]) / 20 + sum(right[1]) / 31) / 2
    assert held_out_accuracy(source, control, seed=7) == pytest.approx(by_hand)


def test_rows_of_a_text_stay_together() -> None:
    # Twins in a text, no signal: a fit that saw one of them would know the other.
    generator = torch.Generator().manual_seed(0)
    text = torch.arange(16).repeat_interleave(2)
    noise = [
        torch.randn(16, 40, generator=generator, dtype=torch.float64).repeat_interleave(2, 0)
        for _ in "sc"
    ]
    together = held_out_accuracy(*(Rows(x, text) for x in noise), components=30, c=100)
    apart = held_out_accuracy(*(Rows(x, torch.arange(32)) for x in noise), components=30, c=100)
    assert together < 0.75 < 0.85 < apart


def test_accuracy_is_the_mean_of_both_sides() -> None:
    always = Folded(torch.zeros(2, dtype=torch.float64), 1.0, 1, 1.0)
    many, few = (Rows(torch.zeros(n, 2), torch.arange(n)) for n in (90, 10))
    assert accuracy(always, many, few) == accuracy(always, few, many) == 0.5
    with pytest.raises(BadInputError, match=r"needs 4 a side.*3 source texts and 90 control"):
        held_out_accuracy(many.taken(many.text < 3), many)


# On models


@MODELS
@pytest.mark.host
def test_gates_are_fitted_on_mean_activations(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    gates = found(architecture, host)
    for name in POINTS:
        source, control = (means(model, items, name) for items in (SETS.source, SETS.control))
        x = torch.cat([source, control])
        wanted = torch.tensor(pipeline(source, control).predict_proba(x.double())[:, 1]).float()
        values = gates[name].probe(Moment(x[None]))[0]
        torch.testing.assert_close(values, wanted, atol=2e-5, rtol=1e-4)


@EACH_HOST
@pytest.mark.host
def test_heads_are_flattened_and_reads_are_read(host: str) -> None:
    model = tiny("llama", host)
    z, where = Z, POINTS[0]
    base = sl.add(direction(z, unit=(4, 8))) + sl.steer(
        sl.transforms.Add(direction(POINTS[1])), reads=where
    )
    gates = dsas.gates(model, base, SETS, LOOSE, **QUIET)
    assert [gate.hook_name for gate in gates.found] == [z, where]
    assert gates[z].direction.vector.shape == (4, 8)
    for name in (z, where):
        source, control = (means(model, items, name) for items in (SETS.source, SETS.control))
        wanted = pipeline(source, control).predict_proba(source.double())[:, 1]
        weight, bias = gates[name].direction.vector.flatten(), gates[name].bias
        torch.testing.assert_close(
            torch.sigmoid(source @ weight + bias),
            torch.tensor(wanted).float(),
            atol=2e-5,
            rtol=1e-4,
        )
    tokens = torch.tensor([SETS.source[0]])
    with gates.steering().trace(model) as trace:
        model(tokens)
    x = model.run_with_cache(tokens)[1][where][0, 1:]
    probability = torch.sigmoid(x @ gates[where].direction.vector + gates[where].bias)
    torch.testing.assert_close(trace.texts[0].gate[1, 0, 1:], probability, atol=1e-4, rtol=1e-4)


@MODELS
@pytest.mark.host
def test_the_equation_token_by_token_through_the_layers(architecture: str, host: str) -> None:
    """Each gate sees what stands there, the steering of earlier layers in it."""
    model, gates = tiny(architecture, host), found(architecture, host)
    tokens = torch.tensor([SETS.source[2]])

    def by_hand(name: str, seed: int) -> Any:
        gate, vector = gates[name], direction(name, seed).vector

        def write(a: Tensor, hook: Any) -> Tensor:
            h = torch.sigmoid(a @ gate.direction.vector + gate.bias)
            h[:, 0] = 0  # BOS
            return a + 0.7 * h[..., None] * 2 * vector

        return name, write

    hooks = [by_hand(name, seed) for seed, name in enumerate(POINTS)]
    with torch.no_grad():
        wanted = model.run_with_hooks(tokens, fwd_hooks=hooks)
        with (0.7 * gates.steering()).on(model):
            steered = model(tokens)
    torch.testing.assert_close(steered, wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - model(tokens)).abs().max() > 0.01


@EACH_HOST
@pytest.mark.host
def test_open_gates_are_the_base_and_shut_ones_nothing(host: str) -> None:
    model, gates = tiny("gpt2", host), found("gpt2", host)
    tokens = torch.tensor([SETS.control[0]])

    def biased(bias: float) -> sl.Steering:
        return replace(
            gates, found=tuple(replace(gate, bias=bias) for gate in gates.found)
        ).steering()

    with torch.no_grad():
        plain = model(tokens)
        with BASE.on(model):
            whole = model(tokens)
        with biased(1e5).on(model):
            assert torch.equal(model(tokens), whole)
        with pytest.warns(UserWarning, match="never opened"), biased(-1e5).on(model):
            assert torch.equal(model(tokens), plain)
        with (0 * gates.steering()).on(model):
            assert torch.equal(model(tokens), plain)
        with pytest.warns(UserWarning, match="never opened"):
            with gates.steering().when(0).on(model):
                assert torch.equal(model(tokens), plain)
        with gates.oracle([1.0]).on(model):
            assert torch.equal(model(tokens), whole)


@EACH_HOST
@pytest.mark.host
def test_layers_whose_gate_errs_too_often_are_left_alone(host: str) -> None:
    model, gates = tiny("gpt2", host), found("gpt2", host, dsas.Config(min_accuracy=0))
    right = sorted(gate.accuracy for gate in gates.found)
    assert right[0] < right[-1]
    strict = dsas.gates(model, BASE, SETS, dsas.Config(min_accuracy=right[-1]), **QUIET)
    assert strict.kept == tuple(g.hook_name for g in gates.found if g.accuracy == right[-1])
    written = {leaf.hook_name for leaf in strict.steering().interventions}
    assert written == set(strict.kept) < set(POINTS)
    assert "left alone" in repr(strict)
    assert strict.frame().kept.tolist() == [name in strict.kept for name in POINTS]
    assert strict.frame().accuracy.tolist() == [gate.accuracy for gate in gates.found]
    with pytest.raises(BadInputError, match=r"No gate tells source from control 100% of"):
        dsas.gated(model, BASE, Sets(*(SETS.source,) * 3), dsas.Config(min_accuracy=1), **QUIET)
    train = dsas.gates(model, BASE, SETS, dsas.Config(min_accuracy=0, accuracy_on="train"), **QUIET)
    for name in POINTS:
        source, control = (means(model, items, name) for items in (SETS.source, SETS.control))
        wanted = pipeline(source, control)
        share = (wanted.predict(source).mean() + 1 - wanted.predict(control).mean()) / 2
        assert train[name].accuracy == pytest.approx(share)


@EACH_HOST
@pytest.mark.host
@pytest.mark.parametrize("form", [{}, {"hard": True}, {"of_prompt": True}, {"weigh": True}])
def test_forms_of_a_gate(host: str, form: dict[str, bool]) -> None:
    model, gates = tiny("llama", host), found("llama", host)
    only = replace(gates, **form).steering().layers(0)
    short, long = SETS.source[0][:4], SETS.control[1]
    tokens, _ = padded([torch.tensor(each) for each in (short, long)], "right")
    lengths = [3, len(long)]
    with only.trace(model, prompt_lengths=lengths) as trace, torch.no_grad():
        model(tokens)
    gate = gates[POINTS[0]]
    for i, text in enumerate((short, long)):
        x = read(model, [text], POINTS[0])[0]
        if form.get("of_prompt"):
            x = x[: lengths[i] - 1].mean(0, keepdim=True)
        wanted = torch.sigmoid(x @ gate.direction.vector + gate.bias)
        if form.get("hard"):
            wanted = (wanted > 0.5).float()
        if form.get("weigh"):
            wanted = max(0.0, 2 * gate.accuracy - 1) * wanted
        values = trace.texts[0].gate[0, i, 1 : len(text)]
        torch.testing.assert_close(values, wanted.expand_as(values), atol=1e-5, rtol=1e-4)
        assert trace.texts[0].gate[0, i, 0] == 0  # BOS


@pytest.mark.host
def test_a_hard_gate_opens_at_a_half() -> None:
    gates = replace(found("gpt2", hosts()[0]), hard=True)
    gate = gates[POINTS[0]]
    w = gate.direction.vector.double()
    logits = torch.tensor([-0.05, 0.05, 9.0], dtype=torch.float64)
    x = (logits - gate.bias)[:, None] * w / (w @ w)
    assert gates.signal(POINTS[0])(Moment(x[None])).tolist() == [[0, 1, 1]]


@EACH_HOST
@pytest.mark.host
def test_gates_trained_on_tokens(host: str) -> None:
    model = tiny("gpt2", host)
    config = replace(LOOSE, trained_on="tokens")
    gates = dsas.gates(model, BASE, SETS, config, **QUIET)
    for name in POINTS:
        source, control = (
            torch.cat(read(model, items, name)) for items in (SETS.source, SETS.control)
        )
        wanted = pipeline(source, control).predict_proba(source.double())[:, 1]
        values = gates[name].probe(Moment(source[None]))[0]
        torch.testing.assert_close(values, torch.tensor(wanted).float(), atol=1e-4, rtol=1e-3)
    few = replace(config, tokens_per_text=2)
    drawn, texts = dsas._prefixes(model, SETS.source, few)
    assert texts == [i for i in range(9) for _ in "ab"]
    for prefix, text in zip(drawn, texts, strict=True):
        assert prefix.tokens == tuple(SETS.source[text][: prefix.prompt_length])
        assert prefix.prompt_length > 1


@EACH_HOST
@pytest.mark.host
def test_fit_with_the_base_of_means_and_with_another(host: str) -> None:
    model, config = tiny("gpt2", host), LOOSE
    steering = dsas.fit(model, SETS, config, **QUIET)
    assert [leaf.hook_name for leaf in steering.interventions] == POINTS
    for leaf in steering.interventions:
        target, source = (
            means(model, items, leaf.hook_name).mean(0) for items in (SETS.target, SETS.source)
        )
        torch.testing.assert_close(leaf.transform.along.vector, target - source)
        assert repr(leaf.positions) == "everywhere"
    gated = found("gpt2", host).steering()
    given = dsas.fit(model, SETS, config, base=BASE, **QUIET)
    assert repr(given) == repr(gated)

    def base(model: Any, data: Sets, *, progress: bool = True) -> sl.Steering:
        assert data is SETS
        assert not progress
        return BASE

    assert repr(dsas.fit(model, SETS, config, base=base, **QUIET)) == repr(gated)


@EACH_HOST
@pytest.mark.host
def test_any_base_its_own_gates_and_positions(host: str) -> None:
    """Shares are gated too; a gate that is there multiplies; saved and pickled as any other."""
    model = tiny("gpt2", host)
    base = sl.ablate(direction(POINTS[0]), positions="prompt").when(0.5)
    base = base >> sl.add(direction(POINTS[2]), 3)
    steering = dsas.gated(model, base, SETS, LOOSE, **QUIET)
    assert ">>" in repr(steering)
    first = steering.interventions[0]
    assert repr(first).startswith("1 * 0.5 * probe('source', ")
    assert repr(first.positions) == "prompt"
    tokens = torch.tensor([SETS.source[0]])
    twin = pickle.loads(pickle.dumps(steering))
    both = steering + sl.add(direction(POINTS[1]))
    with torch.no_grad():
        with twin.on(model):
            again = model(tokens)
        with steering.on(model):
            assert torch.equal(model(tokens), again)
        with both.where("last_prompt_token").trace(model) as trace:
            model(tokens)
    assert trace.texts[0].picked[:, 0].sum(1).tolist() == [1, 1, 1]


@EACH_HOST
@pytest.mark.host
@pytest.mark.parametrize("of_prompt", [False, True])
def test_generation_with_a_cache_and_pads(host: str, of_prompt: bool) -> None:
    model = tiny("llama", host)
    steering = 4 * replace(found("llama", host), of_prompt=of_prompt).steering()
    prompts = random_rows([4, 7], seed=3)
    with steering.on(model):
        alone = [
            model.generate(
                each[None], max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False
            )[0]
            for each in prompts
        ]
    tokens, mask = padded(alone, "right")
    with torch.no_grad(), steering.on(model, prompt_lengths=[4, 7]):
        logits = model(tokens, attention_mask=mask)
    for i, (prompt, whole) in enumerate(zip(prompts, alone, strict=True)):
        for place in range(len(prompt), len(whole)):
            top = logits[i, place - 1].topk(2)
            if top.values[0] - top.values[1] > 1e-3:
                assert top.indices[0] == whole[place]


@pytest.mark.host
def test_refusals() -> None:
    model = tiny("gpt2", hosts()[0])
    with pytest.raises(BadInputError, match=r"DSAS learns from a control set"):
        dsas.fit(model, Sets([[1, 5]], [[1, 6]]), **QUIET)
    few = Sets(SETS.source[:3], SETS.target, SETS.control)
    with pytest.raises(BadInputError, match=r"3 source texts.*accuracy_on='train'"):
        dsas.gates(model, BASE, few, **QUIET)
    small = Sets(SETS.source[:2], SETS.target, SETS.control[:2])
    with pytest.warns(UserWarning, match=r"asked for in 5 components.*there are 3"):
        assert dsas.gates(model, BASE, small, LOOSE, **QUIET)[POINTS[0]].components == 3
    with pytest.raises(UnknownNameError, match=r"no gate at 'blocks.9.x'"):
        found("gpt2", hosts()[0])["blocks.9.x"]
    for wrong in (
        dict(components=0),
        dict(c=0.0),
        dict(min_accuracy=1.5),
        dict(tokens_per_text=0),
    ):
        with pytest.raises(BadInputError):
            dsas.Config(**wrong)
