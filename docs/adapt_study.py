r"""Composition of a domain's concepts against every baseline, on twelve tasks of two domains.

    python docs/adapt_study.py run --out seed0.json                      Steerling
    python docs/adapt_study.py run --folder SEED1 --out seed1.json       another training seed of it
    python docs/adapt_study.py report seed0.json seed1.json seed2.json   the tables, models pooled
    python docs/adapt_study.py curves --out curves.json                  examples and budget

Each task gives 12 examples, 6 that the model gets right and 6 that it gets wrong, in five draws.
Every method sees the same examples, may add vectors as long, and has 50 candidates, chosen by the
same objective (several weights are searched by optuna's TPE); figures are accuracies on test items.
Competence is facts, harmless requests and sums (`behaviours.useful`), for three of the methods.
Seed 0, one thread; about half an hour a model, and ten minutes for the curves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas
import torch
from behaviours import useful
from results import Results, loaded
from tables import gains
from tqdm import tqdm

import steerlens as sl
from steerlens.demo import load_model, world
from steerlens.demo.tasks import of_world
from steerlens.errors import BadInputError
from steerlens.evaluation import Choice, MultipleChoice, Neutral
from steerlens.methods import steer2adapt
from steerlens.methods.steer2adapt import Search
from steerlens.statistics import holm, paired_difference

HOME = {
    **dict.fromkeys(("carefulness", "literalness", "optimism", "formality"), "reasoning"),
    "brief_care": "reasoning",
    **dict.fromkeys(("refusal", "honesty", "sycophancy", "rudeness", "fairness"), "safety"),
    **dict.fromkeys(("polite_refusal", "casual_truth"), "safety"),
}
"""The tasks, each with the domain whose basis is its own; brevity is without fault already."""
DRAWS, POOL, TEST, FIT = 5, 96, 64, 96
BUDGET = 50
SHOTS = 2
"""How many of the examples stand before a prompt in context: more do not fit every task."""
COSTED, COST_ITEMS = ("composition", "best single concept", "random subspace"), 48
"""Whose price in competence is measured, and on how many items."""
CURVED = ("refusal", "fairness", "polite_refusal")
Found = sl.Steering | None


def concepts(model: Any, domain: str) -> sl.Basis:
    """The basis of a domain: its five concepts."""
    named = [each for each, home in world.CONCEPTS.items() if home == domain]
    pairs = {each: sl.Contrast.from_pairs(world.contrast(each, "fit", FIT)) for each in named}
    return steer2adapt.prior(model, pairs, name=domain, progress=False)


def turned(like: sl.Basis, seed: int) -> sl.Basis:
    """A random subspace: the basis under one rotation, so that it adds up over layers as it did."""
    width = next(iter(like.vectors.values())).shape[-1]
    dice = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=dice)).Q
    labels = [f"random {i}" for i in range(len(like))]
    return sl.Basis({h: v @ rotation for h, v in like.vectors.items()}, labels, name="random")


def searched(model: Any, basis: sl.Basis, examples: MultipleChoice, search: Search) -> Found:
    """What a search over a basis finds, or None where nothing gains."""
    config = steer2adapt.Config(search=search)
    found = steer2adapt.adapt(model, basis, examples, config, progress=False)
    return found.steering if found.gained else None


def single(model: Any, basis: sl.Basis, examples: MultipleChoice) -> Found:
    """The best of single concepts, each at as many weights as the budget has for it."""
    base = steer2adapt.answers(model, examples)
    reach = 3 * len(basis) ** 0.5  # as long as a composition may be
    weights = torch.linspace(-reach, reach, BUDGET // len(basis))
    candidates = torch.cat([weights[:, None] * row for row in torch.eye(len(basis))])
    family = steer2adapt.family(basis, candidates)
    value = steer2adapt.objective(steer2adapt.answers(model, examples, family), base).value
    if not float(value.max()) > 0:
        return None
    return steer2adapt.composed(basis, candidates[int(value.argmax())].tolist())


def task_vector(model: Any, examples: MultipleChoice) -> sl.Basis:
    """The mean difference of right and wrong answers to the examples, at the same layers."""
    pairs = [
        ((it.prompt, it.options[it.right[0]]), (it.prompt, it.options[it.wrong[0]]))
        for it in examples.items
    ]
    contrast = sl.Contrast.from_pairs(pairs)
    return steer2adapt.prior(model, {"task": contrast}, name="task vector", progress=False)


def in_context(task: MultipleChoice, examples: MultipleChoice) -> MultipleChoice:
    """The task with answered examples before each prompt."""
    shown = " ".join(f"{it.prompt}{it.options[it.right[0]]}" for it in examples.items[:SHOTS])
    items = [Choice(f"{shown} {it.prompt}", it.options, it.right) for it in task.items]
    return replace(task, items=items)


def one_draw(
    model: Any, bases: dict[str, sl.Basis], name: str, draw: int, test: MultipleChoice
) -> dict[str, Any]:
    """Every method's scores on test items, fitted on one draw of examples."""
    pool = of_world(name, "fit", POOL, seed=draw)
    examples = steer2adapt.calibration_set(model, pool, seed=draw)
    own = bases[HOME[name]]
    other = bases["safety" if HOME[name] == "reasoning" else "reasoning"]
    tpe = Search("tpe", budget=BUDGET, seed=draw, patience=None)
    methods: dict[str, Callable[[], Found]] = {
        "composition": lambda: searched(model, own, examples, tpe),
        "random search": lambda: searched(model, own, examples, replace(tpe, method="random")),
        "best single concept": lambda: single(model, own, examples),
        "task vector": lambda: searched(
            model,
            task_vector(model, examples),
            examples,
            replace(tpe, method="random", bound=3 * len(own) ** 0.5),
        ),
        "random subspace": lambda: searched(model, turned(own, draw), examples, tpe),
        "other domain": lambda: searched(model, other, examples, tpe),
    }
    plain = Neutral("plain", world.control("sentiment", "test", 24), "kl")
    found: dict[str, Any] = {}
    for method, make in methods.items():
        steering = make()
        cost = 0.0 if steering is None else -float(plain.scores(model, steering).mean)
        found[method] = {"scores": test.scores(model, steering).values[0].tolist(), "kl": cost}
        if method in COSTED:
            found[method]["useful"] = _mean(useful(model, steering, "test", COST_ITEMS))
    shown = in_context(test, examples)
    found["in context"] = {"scores": shown.scores(model).values[0].tolist(), "kl": float("nan")}
    return found


def study(model: Any, results: Results) -> Results:
    """Every task and draw; None where the model does not get six wrong."""
    bases = {domain: concepts(model, domain) for domain in ("reasoning", "safety")}
    able = _mean(useful(model, None, "test", COST_ITEMS))
    for name in tqdm(HOME, desc="tasks"):
        if name in results:
            continue
        test = of_world(name, "test", TEST)
        base = test.scores(model).values[0].tolist()
        try:
            draws = [one_draw(model, bases, name, draw, test) for draw in range(DRAWS)]
        except BadInputError as error:  # the model makes too few mistakes
            print(f"{name}: {error}")
            results[name] = None
            continue
        results[name] = {"none": {"scores": base, "kl": 0.0, "useful": able}, "draws": draws}
    return results


def curves(model: Any) -> pandas.DataFrame:
    """Gain on test items by number of examples and by budget, over three tasks and three draws."""
    lines = []
    settings = [(n, BUDGET) for n in (4, 8, 12, 16, 24)] + [(12, b) for b in (10, 25, 100)]
    for name in tqdm(CURVED, desc="curves"):
        basis, test = concepts(model, HOME[name]), of_world(name, "test", TEST)
        base = float(test.scores(model).mean)
        for draw in range(3):
            pool = of_world(name, "fit", POOL, seed=draw)
            for size, budget in settings:
                half = size // 2
                examples = steer2adapt.calibration_set(model, pool, half, half, seed=draw)
                search = Search("tpe", budget=budget, seed=draw, patience=None)
                steering = searched(model, basis, examples, search)
                gain = float(test.scores(model, steering).mean) - base
                lines.append({"examples": size, "budget": budget, "task": name, "gain": gain})
    return pandas.DataFrame(lines)


def report(results: Sequence[dict[str, Any]]) -> None:
    """Print accuracies by task, and what composition gains over each baseline."""
    tasks = [task for task in results[0] if all(run[task] for run in results)]
    if left := [task for task in results[0] if task not in tasks]:
        print("Left out, as a model makes too few mistakes there:", ", ".join(left))
    methods = list(results[0][tasks[0]]["draws"][0])
    scores = {"none": _stacked(results, tasks, lambda task: [task["none"]])}
    for m in methods:
        scores[m] = _stacked(results, tasks, lambda task, m=m: [d[m] for d in task["draws"]])  # type: ignore[misc]
    cost = {"none": 0.0} | {
        m: _mean([d[m]["kl"] for run in results for t in tasks for d in run[t]["draws"]])
        for m in methods
    }
    by_task = {m: each.mean((0, 2)).tolist() for m, each in scores.items()}
    table = pandas.DataFrame(by_task, index=tasks).T
    print(f"{len(results)} models, {TEST} test items a task, {DRAWS} draws; accuracy\n")
    print(table.assign(mean=table.mean(axis=1)).round(3).to_string(), "\n")
    flat = {m: each.flatten(1) for m, each in scores.items()}
    print(gains(flat, kl=cost).to_string(index=False), "\n")
    able = _mean([run[t]["none"]["useful"] for run in results for t in tasks])
    for m in COSTED:
        left = _mean([d[m]["useful"] for run in results for t in tasks for d in run[t]["draws"]])
        print(f"competence {able:.3f}, under {m} {left:.3f}")
    leads = [paired_difference(flat["composition"], flat[m]) for m in methods[1:]]
    for m, lead, p in zip(methods[1:], leads, holm([each.p for each in leads]), strict=True):
        low, high = lead.interval
        print(f"composition over {m} {lead.mean:+.3f} [{low:+.3f}, {high:+.3f}], Holm p {p:.3f}")
    base = float(flat["none"].mean())
    print(f"share of the headroom {(float(flat['composition'].mean()) - base) / (1 - base):.0%}")


def _stacked(
    results: Sequence[dict[str, Any]], tasks: Sequence[str], of: Callable[[Any], list[Any]]
) -> torch.Tensor:
    """Scores by model, task and item, the mean over draws."""
    return torch.stack(
        [
            torch.stack([torch.tensor([d["scores"] for d in of(run[t])]).mean(0) for t in tasks])
            for run in results
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Run one model, report on several, or draw curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "report", "curves"])
    parser.add_argument("given", nargs="*", help="results to report on")
    parser.add_argument("--folder", help="of another Steerling; by default the bundled one")
    parser.add_argument(
        "--out", help="where the results go, task by task; a run that was killed goes on"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "report":
        report(loaded(arguments.given))
        return
    model = load_model(folder=arguments.folder)
    if arguments.what == "curves":
        found = curves(model)
        if arguments.out:
            found.to_json(arguments.out)
        by = found.groupby(["examples", "budget"])["gain"]
        print(by.agg(["mean", "sem", "count"]).round(3).to_string())
        return
    report([study(model, Results(arguments.out))])


if __name__ == "__main__":
    main()
