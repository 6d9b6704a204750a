"""Every public feature in a few lines each, to be run on a tiny model of any architecture.

A feature runs, or raises a SteerLensError that says why it cannot; it asserts what shows that it
did something. `cell` says which of the two. docs/architectures.py makes its table of them.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import models
import torch
from models import N_HEADS, forward, random_rows
from torch import Tensor
from tqdm.auto import tqdm

import steerlens as sl
from steerlens import editing, effects, evaluation, signals, transforms
from steerlens.directions.erasure import Eraser
from steerlens.directions.finding import FINDERS
from steerlens.evaluation import Choice, MultipleChoice
from steerlens.methods import (  # fmt: skip
    act,
    actadd,
    angular,
    caa,
    cast,
    dsas,
    e2e_dsas,
    iti,
    lineas,
    refusal,
    repe,
    riser,
    sadi,
    steer2adapt,
)
from steerlens.methods.data import Sets
from steerlens.methods.distilling import Learning
from steerlens.methods.searching import Search

ROWS = random_rows([5, 7, 4, 6, 8, 5] * 2, seed=3)
CONTRAST = sl.Contrast(ROWS[:6], ROWS[6:])
PROMPTS = ["good w1 w2", "the bad w9 w12 w3"]
ANSWERS = (" happy", " sad")
SITES = (
    *("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"),
    *("q", "k", "v", "z", "mlp_post"),
)
LAYER, STREAM = 1, "blocks.1.hook_resid_post"
QUIET: dict[str, Any] = dict(progress=False)
GREEDY: dict[str, Any] = dict(do_sample=False, stop_at_eos=False, verbose=False)


@dataclass
class Bench:
    """A tiny model, and what most features start from."""

    architecture: str
    host: str
    folder: Path
    """A place for files."""

    @cached_property
    def model(self) -> Any:
        return models.build(self.architecture, self.host)

    @cached_property
    def directions(self) -> sl.Directions:
        return sl.find_directions(self.model, CONTRAST, placebos=2, **QUIET)

    @property
    def direction(self) -> sl.Direction:
        return self.directions[STREAM]

    @property
    def steering(self) -> sl.Steering:
        return sl.add(self.direction, coeff=2, positions="predicting")

    def file(self, name: str) -> Path:
        return self.folder / f"{self.architecture}-{self.host}-{name}"

    def logits(self, steering: sl.Steering | None = None) -> Tensor:
        """Of one row of tokens. With a steering, they are finite and others than without."""
        with torch.no_grad():
            plain = forward(self.model, ROWS[0][None])
            if steering is None:
                return plain
            with steering.on(self.model):
                steered = forward(self.model, ROWS[0][None])
        assert steered.isfinite().all()
        assert not torch.allclose(steered, plain, atol=1e-4), "nothing was steered"
        return steered


NAMES = {
    "gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3", "mistral": "Mistral", "pythia": "Pythia",
    "gemma2": "Gemma-2", "gemma3": "Gemma-3", "olmo2": "OLMo-2", "phi": "Phi", "mixtral": "Mixtral",
}  # fmt: skip
Feature = Callable[[Bench], None]


# Finding and steering


def finders(bench: Bench) -> None:
    for method in FINDERS:
        found = sl.find_directions(bench.model, CONTRAST, method=method, placebos=2, **QUIET)
        assert len(found) == models.N_LAYERS
        assert found[STREAM].vector.isfinite().all()
        assert found[STREAM].quality is not None
    evaluation.causal_check(bench.model, bench.direction, CONTRAST, randoms=2)


def site(bench: Bench, name: str) -> None:
    """What is added stands there, and reaches the logits; so does what is ablated."""
    found = sl.find_directions(bench.model, CONTRAST, hook_names=name, quality=False, **QUIET)
    direction = found[name, LAYER]
    bench.logits(sl.ablate(direction))
    added = sl.add(direction, coeff=3)
    bench.logits(added)
    read: list[Tensor] = []
    hook = [(direction.hook_name, lambda x, hook: read.append(x.detach().clone()))]
    for steering in (None, added):
        with torch.no_grad(), (steering or sl.add(direction, 0)).on(bench.model):
            bench.model.run_with_hooks(ROWS[0][None], fwd_hooks=hook)
    moved = (read[1] - read[0])[0, 1:]
    torch.testing.assert_close(moved, 3 * direction.vector.expand_as(moved), atol=1e-4, rtol=1e-4)


def other_transforms(bench: Bench) -> None:
    one, other = bench.direction, bench.directions["resid_post", 2].at(STREAM)
    stored = transforms.stored_pass(bench.model, [row.tolist() for row in ROWS[6:7]], STREAM)
    eraser = Eraser.of(torch.stack([one.vector, other.vector]), stored[0])
    for each in (
        transforms.MeanAblate(one, other.vector),
        transforms.Clamp(one, high=-1.0),
        transforms.Scale(torch.full((models.D_MODEL,), 0.5), STREAM),
        transforms.Affine(torch.full((models.D_MODEL,), 0.5), one.vector, hook_name=STREAM),
        transforms.Erase(eraser, STREAM),
        transforms.Function(torch.tanh, STREAM),
        transforms.Rotate(one, other),
        transforms.RotateTo(one, other, angle=0.7),
        transforms.KeepNorm(transforms.Add(one)),
        transforms.Piecewise(one),
        transforms.Interchange(one, stored, by_index=True),
        transforms.Replace(stored, by_index=True, hook_name=STREAM),
    ):
        bench.logits(sl.steer(each))


def gates(bench: Bench) -> None:
    probe = signals.Probe.fit(bench.model, CONTRAST, STREAM)
    there = signals.Probe.fit(bench.model, CONTRAST, "blocks.0.hook_resid_post")
    for gate in (
        probe,
        ~probe | (probe & 0.5),
        signals.Latch(probe),
        signals.OfPrompt(probe),
        signals.Relu(signals.Cosine(bench.direction), start=-1.0),
        signals.Hysteresis(signals.Projection(bench.direction), -9.0, -99.0),
        signals.Decay(2.0),
        there.at("blocks.0.hook_resid_post"),
    ):
        bench.logits(bench.steering.when(gate))
    bench.logits(sl.add(bench.direction, sl.of_stream(0.3)))


def generates(bench: Bench) -> None:
    """The tokens of a steered generation, cached or not, are those that scoring predicts."""
    n = len(ROWS[0])
    for cached in (True, False):
        with torch.no_grad():
            with bench.steering.on(bench.model):
                ids = bench.model.generate(
                    ROWS[0][None], max_new_tokens=3, use_past_kv_cache=cached, **GREEDY
                )
            with bench.steering.on(bench.model, prompt_lengths=[n]):
                scored = forward(bench.model, ids)
        assert scored[0, n - 1 : -1].argmax(-1).tolist() == ids[0, n:].tolist()


def trace(bench: Bench) -> None:
    with bench.steering.trace(bench.model) as found:
        bench.model.generate(PROMPTS[0], max_new_tokens=3, verbose=False)
    assert found.texts[0].change_norm.sum() > 0
    sl.views.tokens(found)


# Evaluating and explaining


def compare(bench: Bench) -> None:
    found = sl.compare(bench.model, bench.steering, PROMPTS, max_new_tokens=4)
    assert found.mean_kl.isfinite().all()
    assert (found.mean_kl > 0).all()


def calibrate(bench: Bench) -> None:
    steering = sl.calibrate(
        bench.steering, bench.model, PROMPTS, kl=0.1, max_new_tokens=4, tolerance=0.1
    )
    assert 0 < steering.dose.kl < 0.2
    evaluation.log_probability(bench.model, [(PROMPTS[0], ANSWERS[0])])


def effect(bench: Bench) -> None:
    found = sl.effect(bench.model, bench.steering, PROMPTS, ANSWERS)
    parts = found.direct + found.mediated + found.remainder
    assert abs(parts - found.change) < 1e-3
    with torch.no_grad():
        last = [bench.model(bench.model.to_tokens(text))[0, -1] for text in PROMPTS]
        with bench.steering.on(bench.model):
            after = [bench.model(bench.model.to_tokens(text))[0, -1] for text in PROMPTS]
    first, second = (bench.model.tokenizer.encode(word)[-1] for word in ANSWERS)
    change = [(b - a)[first] - (b - a)[second] for a, b in zip(last, after, strict=True)]
    assert abs(float(sum(change)) / len(change) - found.change) < 1e-3
    sl.effect(bench.model, bench.steering, PROMPTS)


def mediation(bench: Bench) -> None:
    found = effects.mediation(bench.model, bench.steering, PROMPTS, ANSWERS)
    assert found.without.shape == (models.N_LAYERS, N_HEADS + 1)
    assert found.without.isfinite().all()


def closer(bench: Bench) -> None:
    effects.look(bench.model, bench.steering, PROMPTS[0], [(2, 0)], ANSWERS)
    effects.readers(bench.model, bench.direction)
    effects.logit_lens(bench.model, bench.direction, 3, randoms=5)


def attribute(bench: Bench) -> None:
    found = sl.attribute(
        bench.model, CONTRAST, bench.direction, metric=lambda x: x[:, 5] - x[:, 6], **QUIET
    )
    assert found.heads.contribution.shape == (models.N_LAYERS, N_HEADS)
    assert found.heads.gradient is not None
    assert found.heads.gradient.isfinite().all()


# Edits


def _edit(bench: Bench, rho_mlp: float | None = 0.1) -> sl.Edit:
    return sl.steer2edit(
        bench.model, CONTRAST, bench.direction, rho_attn=0.05, rho_mlp=rho_mlp, **QUIET
    )


def _checked(bench: Bench, edit: sl.Edit) -> None:
    """As hooks and in the weights the same; applied and undone bit by bit."""
    certificate = edit.certify(bench.model, PROMPTS)
    assert certificate.holds, certificate
    plain = bench.logits()
    handle = edit.apply_(bench.model)
    edited = bench.logits()
    handle.undo()
    assert not torch.allclose(edited, plain, atol=1e-4), "nothing was edited"
    assert torch.equal(bench.logits(), plain)


def steer2edit(bench: Bench) -> None:
    _checked(bench, _edit(bench))


def of_heads(bench: Bench) -> None:
    _checked(bench, _edit(bench, rho_mlp=None))


def removing(bench: Bench) -> None:
    _checked(bench, editing.orthogonalise(bench.model, bench.direction))


def thinkedit(bench: Bench) -> None:
    _checked(bench, editing.thinkedit(bench.model, CONTRAST, bench.direction, share=0.3, **QUIET))


def fold_gates(bench: Bench) -> None:
    gains = {LAYER: torch.linspace(0, 1, N_HEADS)[:, None]}
    _checked(bench, editing.fold_gates(bench.model, gains))


def export(bench: Bench) -> None:
    source = models.folder(bench.architecture)
    found = _edit(bench, rho_mlp=None).export(
        bench.model, bench.file("checkpoint"), checkpoint=source
    )
    assert found.difference < 1e-3


# Methods


def sets() -> Sets:
    tokens = [row.tolist() for row in random_rows([5, 6, 7, 4, 8, 6], seed=9)]
    return Sets([row.tolist() for row in ROWS[:6]], [row.tolist() for row in ROWS[6:]], tokens)


def conditional() -> cast.Conditional:
    return cast.Conditional(CONTRAST, CONTRAST)


def routes() -> riser.Routes:
    dice, texts = torch.Generator().manual_seed(0), sets()
    basis = sl.Basis.of({"a": sl.Direction(STREAM, torch.randn(models.D_MODEL, generator=dice))})
    labelled = {"x": texts.source, "y": texts.target}
    return riser.Routes(basis, labelled, {"x": [1.0], "y": [-2.0]})


LOOSE = refusal.Config(tokens=["the"], clear=False, validation=0.5, most_kl=99, least_induced=-99)
"""Takes the best candidate, however bad it is."""


CHOICES = [Choice(f"good w{i} the", [" good", " bad"], [i % 2]) for i in range(6)]


def _steer2adapt(bench: Bench) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = sl.Basis({STREAM: torch.randn(2, models.D_MODEL, generator=generator)}, ["a", "b"])
    config = steer2adapt.Config(search=Search("random", budget=4))
    task = MultipleChoice("words", CHOICES)
    found = steer2adapt.adapt(bench.model, basis, task, config, **QUIET)
    assert len(found.trials) == 5
    assert len({trial.value for trial in found.trials}) > 1, "nothing was steered"


def _method(fit: Callable[..., sl.Steering], data: Any, config: Any = None) -> Feature:
    """A method's fit steers; its positions are every token's, where they are free."""

    def run(bench: Bench) -> None:
        given = data() if callable(data) else data
        made = fit(bench.model, given, *([] if config is None else [config]), **QUIET)
        bench.logits(made if fit is actadd.fit else made.where("every_token"))

    return run


# Files


def files(bench: Bench) -> None:
    probe = signals.Probe.fit(bench.model, CONTRAST, STREAM)
    kept: list[Any] = [bench.direction, bench.directions, bench.steering.when(probe)]
    kept.append(_edit(bench, rho_mlp=None))
    for number, value in enumerate(kept):
        path = bench.file(f"{number}.safetensors")
        sl.save(value, path)
        assert repr(sl.load(path, bench.model)) == repr(value)


DESCENT: dict[str, Any] = dict(steps=2, sites=STREAM)
MASKS = {"head": 2, "neuron": 4, "hidden": 6, "resid_post": 6}
"""How many units SADI masks at each site."""
FEATURES: dict[str, dict[str, Feature]] = {
    "Finding": {"`find_directions`, every finder": finders},
    "Steering: add and ablate": {f"at `{name}`": partial(site, name=name) for name in SITES},
    "Steering: the rest": {
        "twelve other transforms": other_transforms,
        "gates and shares of the stream": gates,
        "`generate`, cached or not": generates,
        "trace and token view": trace,
    },
    "Evaluating": {"`compare`": compare, "`calibrate`, scoring": calibrate},
    "Explaining": {
        "`effect`": effect,
        "`mediation`": mediation,
        "`look`, `readers`, `logit_lens`": closer,
        "`attribute`, with gradients": attribute,
    },
    "Editing": {
        "`steer2edit`": steer2edit,
        "`steer2edit`, heads alone": of_heads,
        "`orthogonalise`": removing,
        "`thinkedit`": thinkedit,
        "`fold_gates`": fold_gates,
        "export to a checkpoint": export,
    },
    "Methods": {
        **{
            f"SADI at `{name}`": _method(
                sadi.fit, CONTRAST, sadi.Config(site=name, k=k, strength=3.0)
            )
            for name, k in MASKS.items()
        },
        "DSAS": _method(dsas.fit, sets, dsas.Config(min_accuracy=0)),
        "E2E-DSAS": _method(e2e_dsas.fit, sets, e2e_dsas.Config(**DESCENT)),
        "LinEAS": _method(lineas.fit, sets, lineas.Config(**DESCENT)),
        "Linear-AcT": _method(act.fit, CONTRAST, act.Config(support="all")),
        "CAA": _method(caa.fit, CONTRAST, caa.Config(layer=LAYER)),
        "ActAdd": _method(actadd.fit, sl.Contrast(["good w1"], ["bad w1"])),
        "ITI": _method(iti.fit, CONTRAST, iti.Config(k=2)),
        "RepE": _method(repe.fit, CONTRAST),
        "CAST": _method(cast.fit, conditional, cast.Config(layers=[2], condition_layers=[0])),
        "refusal direction": _method(refusal.fit, CONTRAST, LOOSE),
        "angular steering": _method(angular.fit, CONTRAST),
        "RISER's router": _method(riser.fit, routes, riser.Config(learning=Learning(steps=5))),
        "Steer2Adapt": _steer2adapt,
    },
    "Files": {"directions, steerings, edits": files},
}
"""By chapter and name."""


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fact(error: str) -> str:
    """The first sentence of an error, which is the fact, for any layer."""
    return re.sub(r"blocks\.\d+", "blocks.i", re.split(r"\. (?=[A-Z])", error)[0])


def refusal_of(feature: Feature, bench: Bench) -> str | None:
    """Run a feature: None where it ran, else the words of its SteerLensError."""
    try:
        with _quietly():
            feature(bench)
    except sl.SteerLensError as error:
        return str(error)
    return None


def refusals(host: str, folder: Path) -> dict[str, dict[str, str | None]]:
    """Each feature on each architecture on a host: None where it ran, else the fact."""
    told: dict[str, dict[str, str | None]] = {}
    for architecture in tqdm(NAMES, desc=host):
        bench = Bench(architecture, host, folder)
        for features in FEATURES.values():
            for name, feature in features.items():
                why = refusal_of(feature, bench)
                told.setdefault(name, {})[architecture] = None if why is None else fact(why)
    return told


if __name__ == "__main__":
    # In a process of its own it is four times as fast as under pytest, which checks every call.
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        print(json.dumps(refusals(sys.argv[1], Path(place))))
