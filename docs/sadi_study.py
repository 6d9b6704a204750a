r"""SADI at three sites against the methods of its paper, on nine multiple-choice tasks.

    python docs/sadi_study.py run --out seed0.json                      Steerling
    python docs/sadi_study.py run --folder SEED1 --out seed1.json       another training seed of it
    python docs/sadi_study.py report seed0.json seed1.json seed2.json   the tables, models pooled

Each method is fitted on pairs of a question with its right and a wrong answer, its configuration is
the one of highest accuracy on validation items (ties to the first that is tried), and it is read on
test items. So are masks of random units, as placebos: each draw has the whole grid to choose from,
like the masks that were found. Seed 0, one thread, about 20 minutes a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pandas
import torch
from results import Results, loaded
from tables import gains
from tqdm import tqdm

import steerlens as sl
from steerlens.demo import load_model
from steerlens.demo.tasks import of_world
from steerlens.evaluation import MultipleChoice
from steerlens.methods import caa, iti, sadi
from steerlens.statistics import holm, paired_difference

TASKS = (
    *("carefulness", "literalness", "optimism", "formality", "refusal"),
    *("honesty", "sycophancy", "rudeness", "fairness"),
)
"""The world's tasks of one concept, but for one that the model does without fault (brevity)."""
FIT, VALIDATION, TEST = 150, 32, 64
PLACEBOS = 10
"""Draws of random units a site, where no other number is asked for."""
KS: dict[sadi.Site, tuple[int, ...]] = {
    "head": (3, 10),
    "neuron": (20, 300),
    "hidden": (6, 20),
}
STRENGTHS = (1.5, 3.0, 10.0, 20.0)
DELTAS = tuple(each - 1 for each in STRENGTHS)
Option = tuple[str, sl.Steering, tuple[float, ...]]
"""A label, a steering, and the coefficients that it is tried at."""


def answers(task: MultipleChoice, seed: int = 0) -> sl.Contrast:
    """Each question with its right answer, against the same with a wrong one."""
    rng = Random(seed)
    return sl.Contrast.from_pairs(
        [
            ((it.prompt, it.options[it.right[0]]), (it.prompt, it.options[rng.choice(it.wrong)]))
            for it in task.items
        ]
    )


def scaled(masks: Sequence[sadi.Mask]) -> Iterator[Option]:
    """SADI with masks, at every strength."""
    for mask in masks:
        yield f"{mask.k} units", sadi.scaling(mask, sadi.Config(strength=2)), DELTAS


def options(model: Any, contrast: sl.Contrast, placebos: int) -> Iterator[tuple[str, list[Option]]]:
    """Every method's grid, fitted on a contrast; masks of random units last."""

    def quiet(module: Any, config: Any) -> sl.Steering:
        return module.fit(model, contrast, config, progress=False)  # type: ignore[no-any-return]

    alphas = (1.0, 5.0, 10.0, 15.0)
    yield "ITI", [(f"{k} heads", quiet(iti, iti.Config(k=k, alpha=1)), alphas) for k in (6, 12)]
    layers = range(model.cfg.n_layers)
    coeffs = (1.0, 2.0, 4.0)
    for name, where in (("CAA", "generated"), ("CAA, predicting", "predicting")):
        configs = [caa.Config(layer=n, positions=where) for n in layers]
        yield name, [(f"layer {each.layer}", quiet(caa, each), coeffs) for each in configs]
    found = {}
    for site, ks in KS.items():
        config = sadi.Config(site=site, k=max(ks))
        mask = sadi.identify(model, contrast, config, progress=False)
        found[site] = [mask.top(k) for k in ks]
        yield f"SADI-{site}", list(scaled(found[site]))
    vectors = [
        sadi.fixed(model, contrast, each, sadi.Config(strength=2), progress=False)
        for each in found["head"]
    ]
    yield (
        "fixed vector",
        [
            (f"{mask.k} heads", each, DELTAS)
            for mask, each in zip(found["head"], vectors, strict=True)
        ],
    )
    for site, masks in found.items():
        for seed in range(placebos):
            drawn = [sadi.random_mask(each, seed) for each in masks]
            yield f"random {site} {seed}", list(scaled(drawn))


def study(model: Any, name: str, results: Results, placebos: int) -> None:
    """Put each method's choice on validation items into the results, and its test scores."""
    fit, validation, test = (
        of_world(name, split, n)
        for split, n in (("fit", FIT), ("validation", VALIDATION), ("test", TEST))
    )
    found = results.get(name) or {
        "none": {"point": "", "scores": test.scores(model).values[0].tolist()}
    }
    grids = options(model, answers(fit), placebos)
    for method, grid in tqdm(grids, desc=name, total=7 + 3 * placebos):
        if method in found:
            continue
        best, point, chosen = -1.0, "", (None, 1.0)
        for label, steering, coeffs in grid:
            means = validation.scores(model, steering, coeffs).mean.tolist()
            for coeff, mean in zip(coeffs, means, strict=True):
                if mean > best:
                    best, point, chosen = mean, f"{label}, {coeff:g}", (steering, coeff)
        steering, coeff = chosen
        scores = test.scores(model, steering, [coeff]).values[0].tolist()
        found[method] = {"point": point, "validation": best, "scores": scores}
        results[name] = found


def report(results: Sequence[dict[str, Any]]) -> None:
    """Print accuracies by task, gains over all tasks, and what random masks do."""
    methods = [each for each in results[0][TASKS[0]] if not each.startswith("random ")]
    scores = {m: _stacked(results, m) for m in methods}
    by_task = {m: each.mean((0, 2)).tolist() for m, each in scores.items()}
    table = pandas.DataFrame(by_task, index=list(TASKS)).T
    print(f"{len(results)} models, {TEST} test items a task; accuracy\n")
    print(table.assign(mean=table.mean(axis=1)).round(3).to_string(), "\n")
    flat = {m: each.flatten(1) for m, each in scores.items()}
    print(gains(flat).to_string(index=False), "\n")
    others = ("fixed vector", "CAA", "ITI")
    leads = [paired_difference(flat["SADI-head"], flat[each]) for each in others]
    for each, lead, p in zip(others, leads, holm([each.p for each in leads]), strict=True):
        low, high = lead.interval
        print(f"SADI-head over {each} {lead.mean:+.3f} [{low:+.3f}, {high:+.3f}], Holm p {p:.3f}")
    for site in KS:
        random = [each for each in results[0][TASKS[0]] if each.startswith(f"random {site} ")]
        drawn = [_stacked(results, each).mean() for each in random]
        told = ", ".join(f"{float(each):.3f}" for each in sorted(drawn))
        real = float(scores[f"SADI-{site}"].mean())
        print(f"SADI-{site} {real:.3f}; masks of random units, chosen alike: {told}")
    for name in TASKS:
        points = [f"{m}: {', '.join(run[name][m]['point'] for run in results)}" for m in methods]
        print(f"{name}: {'; '.join(points[1:])}")


def _stacked(results: Sequence[dict[str, Any]], method: str) -> torch.Tensor:
    """Scores by model, task and item."""
    return torch.tensor([[run[name][method]["scores"] for name in TASKS] for run in results])


def main() -> None:
    """Run one model, or report on several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("given", nargs="*", help="results to report on")
    parser.add_argument("--folder", help="of another Steerling; by default the bundled one")
    parser.add_argument(
        "--out",
        help="where the results go, method by method; a run that was killed goes on",
    )
    parser.add_argument("--placebos", type=int, default=PLACEBOS, help="random masks a site")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "report":
        report(loaded(arguments.given))
        return
    model = load_model(folder=arguments.folder)
    results = Results(arguments.out)
    for name in TASKS:
        study(model, name, results, arguments.placebos)
    report([results])


if __name__ == "__main__":
    main()
