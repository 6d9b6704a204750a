"""What gated steering is studied on: sets of texts, tasks, and every variant of a gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import steerlens as sl
from steerlens.demo import world
from steerlens.demo.tasks import of_world
from steerlens.evaluation import Continuation, MultipleChoice, Neutral
from steerlens.evaluation.tasks import Task
from steerlens.interventions import mapped
from steerlens.methods import Sets, act, caa, cast, dsas, e2e_dsas, iti, lineas
from steerlens.names import layer_of
from steerlens.transforms import Affine, Extrapolate

COEFFS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 4.0)
"""λ, for every base, with a gate and without."""
STEPS = 100
"""Of LinEAS and of the joint training."""
SHUFFLES = 5
FIT, TEST = 96, 96
Make = Callable[[], sl.Steering]


@dataclass(frozen=True)
class Setting:
    """Texts to fit on, and what is measured: the attribute, and what it must not cost."""

    name: str
    sets: Sets
    measures: dict[str, Task]


def in_world(attribute: str) -> Setting:
    """Steerling's replies: fewer rude ones, or more happy reviews, and what must not be touched.

    Control and neutral text are half texts of another kind, some with the words that mark the
    attribute, and half texts of the source's own kind that are as wanted already: a gate that
    knows kinds of text alone is of no use there.
    """
    pole = "negative" if attribute == "rudeness" else "positive"

    def wanted(prompt: str, text: str) -> float | None:
        label = world.judge(attribute, prompt, text).label
        return None if label == "unparsed" else float(label == pole)

    pairs = world.contrast(attribute, "fit", FIT)
    good = 1 if pole == "negative" else 0

    def untouched(split: Any, seed: int) -> list[Any]:
        fine = [pair[good] for pair in world.contrast(attribute, split, FIT // 2, seed)]
        return [*fine, *begun(world.control(attribute, split, FIT // 2))]

    tasks = ("honesty", "fairness", "refusal")
    items = [it for name in tasks for it in of_world(name, "test", TEST // 3).items]
    return Setting(
        attribute,
        Sets(
            source=[pair[1 - good] for pair in pairs],
            target=[pair[good] for pair in pairs],
            control=untouched("fit", 1),
        ),
        {
            "attribute": Continuation(
                attribute, world.prompts(attribute, "test", TEST), wanted, max_new_tokens=28
            ),
            "neutral text": Neutral("neutral", untouched("test", 0)),
            "other tasks": MultipleChoice("others", items),
        },
    )


def in_stories(texts: str) -> Setting:
    """Stories of a pretrained model: how sad they go on, and the likelihood of calm ones."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()

    def happiness(text: str) -> float:
        return float(analyser.polarity_scores(text)["compound"])

    told = json.loads(Path(texts).read_text(encoding="utf-8"))
    ends = [" ".join(story.split()[-24:]) for story in told[:400]]
    ranked = sorted(ends, key=happiness)
    calm = [each for each in ends if abs(happiness(each)) < 0.3]
    control = [*calm[: FIT // 2], *ranked[-FIT - FIT // 2 : -FIT]]
    sets = Sets(ranked[:FIT], ranked[-FIT:], control)
    late = told[400:]
    sad = sorted((" ".join(story.split()[:24]) for story in late), key=happiness)
    middles = (" ".join(story.split()[20:44]) for story in late)
    neutral = [each for each in middles if abs(happiness(each)) < 0.3]
    return Setting(
        "sad endings",
        sets,
        {
            "attribute": Continuation(
                "happy", sad[:TEST], lambda _, text: happiness(text), max_new_tokens=40
            ),
            "neutral text": Neutral("neutral", begun(neutral[:TEST])),
        },
    )


def begun(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Texts as items whose first third is a prompt, so that a condition has something to read."""
    cut = [(words := text.split(), max(2, len(words) // 3)) for text in texts]
    return [(" ".join(words[:n]), " " + " ".join(words[n:])) for words, n in cut]


def bases(model: Any, sets: Sets) -> dict[str, Make]:
    """The steerings to gate, at all layers and tokens."""

    def fitted(module: Any, config: Any, data: Any = sets) -> sl.Steering:
        return boundless(module.fit(model, data, config, progress=False))

    def shifts() -> sl.Steering:
        configs = [caa.Config(n, positions="everywhere") for n in range(model.cfg.n_layers)]
        first, *others = (fitted(caa, each, sets.contrast) for each in configs)
        return sum(others, start=first)

    return {
        "CAA": shifts,
        "ITI": lambda: fitted(iti, iti.Config(positions="everywhere"), sets.contrast),
        "Mean-AcT": lambda: fitted(act, act.Config(map="mean")),
        "Linear-AcT": lambda: fitted(act, act.Config()),
        "LinEAS": lambda: fitted(lineas, lineas.Config(steps=STEPS)),
    }


def boundless(steering: sl.Steering) -> sl.Steering:
    """The steering with maps that may be followed past where they lead, for λ above 1."""
    return sl.Steering(
        mapped(
            steering.expression,
            lambda leaf: (
                replace(leaf, transform=Extrapolate(leaf.transform))
                if isinstance(leaf.transform, Affine)
                else leaf
            ),
        )
    )


def variants(model: Any, setting: Setting) -> list[tuple[str, Make]]:
    """Each base as it is and under each gate, by "base, gate"; ablations on the first base."""
    sets = setting.sets
    found: list[tuple[str, Make]] = []
    made: dict[str, sl.Steering] = {}

    def base(name: str) -> sl.Steering:
        if name not in made:
            made[name] = bases(model, sets)[name]()
        return made[name]

    def gated(name: str, config: dsas.Config) -> Make:
        return lambda: dsas.gated(model, base(name), sets, config, progress=False)

    def jointly(kind: Any) -> sl.Steering:
        config = e2e_dsas.Config(gate=kind, steps=STEPS)
        return boundless(e2e_dsas.fit(model, sets, config, progress=False))

    for name in bases(model, sets):
        found.append((name, partial(base, name)))
        found.append((f"{name}, DSAS", gated(name, dsas.Config())))
        found.append((f"{name}, CAST", partial(conditional, model, sets, partial(base, name))))
    found += [(f"CAA, {label}", gated("CAA", config)) for label, config in ABLATIONS.items()]
    found += [
        (f"CAA, shuffled labels {seed}", partial(shuffled, model, sets, partial(base, "CAA"), seed))
        for seed in range(SHUFFLES)
    ]
    found += [(f"LinEAS, joint {kind}", partial(jointly, kind)) for kind in ("sigmoid", "relu")]
    return found


ABLATIONS = {
    **{f"r = {r}": dsas.Config(components=r) for r in (1, 2, 10, 32)},
    **{f"bound {bound}": dsas.Config(min_accuracy=bound) for bound in (0.5, 0.6, 0.9)},
    "hard": dsas.Config(hard=True),
    "of the prompt": dsas.Config(applied_to="prompt"),
    "trained on tokens": dsas.Config(trained_on="tokens"),
    "weighed by accuracy": dsas.Config(weigh=True),
}


def conditional(model: Any, sets: Sets, base: Make) -> sl.Steering:
    """The base where CAST's condition is met, at the layers above that it is read at."""
    n = min(len(sets.source), len(sets.control))
    contrast = sl.Contrast(sets.source[:n], sets.control[:n])
    condition = cast.find_condition(model, contrast, progress=False)
    above = base().layers(*range(condition.layer + 1, model.cfg.n_layers))
    return above.when(condition.gate)


def shuffled(model: Any, sets: Sets, base: Make, seed: int) -> sl.Steering:
    """The base under gates that were told by lot which text is source and which is control.

    At the hook points where the true gates are kept.
    """
    kept = dsas.gates(model, base(), sets, progress=False).kept
    texts = [*sets.source, *sets.control]
    Random(seed).shuffle(texts)
    lots = Sets(texts[: len(sets.source)], sets.target, texts[len(sets.source) :])
    some = base().layers(*(layer for name in kept if (layer := layer_of(name)) is not None))
    return dsas.gated(model, some, lots, dsas.Config(min_accuracy=0), progress=False)
