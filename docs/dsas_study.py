r"""Gated against ungated steering: whole fronts of rudeness and of what unrelated text pays for it.

    python docs/dsas_study.py run --out seed0.json                      Steerling's rudeness
    python docs/dsas_study.py run --attribute sentiment --out happy0.json
    python docs/dsas_study.py run --folder SEED1 --out seed1.json       another training seed of it
    python docs/dsas_study.py stories STORIES --texts stories.json --out happy.json
    python docs/dsas_study.py report seed0.json seed1.json seed2.json   the tables, models pooled

Every base steering has the same grid of λ with the gate and without. A point is the share of
replies as wanted (not rude; happy) and the log-probability of text that should not be touched. A
front's volume is what its points dominate above the unsteered attribute and down to 0.05 nats a
token below the unsteered log-probability, over these 0.05: the attribute gained, a mean over
budgets from nothing to 5% of perplexity. Seed 0, one thread, about a quarter of an hour a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas
import torch
from gated_settings import COEFFS, Setting, in_stories, in_world, variants
from results import Results, loaded
from tqdm import tqdm

import steerlens as sl
from steerlens import host
from steerlens.demo import load_model
from steerlens.evaluation.pareto import hypervolume
from steerlens.statistics import Interval, students

ROOM = 0.05
"""What may be lost before a point counts for nothing: nats a token (5% of perplexity, the paper's
operating point), or points of accuracy."""
RESAMPLES = 500
Points = dict[str, list[list[float]]]


def measured(model: Any, setting: Setting, steering: sl.Steering | None) -> Points:
    """Scores of every item by measure, a row a λ; the first row is λ = 0."""
    coeffs = (0.0,) if steering is None else COEFFS
    return {
        name: task.scores(model, steering, coeffs).values.tolist()
        for name, task in setting.measures.items()
    }


def study(model: Any, setting: Setting, found: Results) -> Results:
    """The points of every variant of every base; None where no gate is right often enough."""
    if "none" not in found:
        found["none"] = measured(model, setting, None)
    for name, make in tqdm(variants(model, setting), desc=setting.name):
        if name in found:
            continue
        try:
            steering = make()
        except sl.SteerLensError as error:
            print(f"{name}: {error}")
            found[name] = None
            continue
        found[name] = measured(model, setting, steering)
    return found


@dataclass(frozen=True)
class Front:
    """The points of a variant, and those of the unsteered model, as (model, λ, item)."""

    points: dict[str, torch.Tensor]
    base: dict[str, torch.Tensor]

    def volume(self, rows: dict[str, torch.Tensor], cost: str, models: Sequence[int]) -> float:
        """The volume of attribute and `cost` on some items, a mean over some models.

        A point that loses nothing counts as one that loses nothing, not as one that wins.
        """
        sizes = []
        for at in models:
            means, start = (
                [part[m][at][:, rows[m]].mean(1) for m in ("attribute", cost)]
                for part in (self.points, self.base)
            )
            floor = torch.stack([start[0][0], start[1][0] - ROOM])
            points = torch.stack([means[0], means[1].clamp_max(start[1][0])], dim=1)
            sizes.append(hypervolume(points, floor) / ROOM)
        return sum(sizes) / len(sizes)


def fronts(results: Sequence[dict[str, Any]]) -> dict[str, Front]:
    """Every variant's front, over models; where one refused to steer, it is the unsteered one."""
    base = {m: torch.tensor([run["none"][m] for run in results]) for m in results[0]["none"]}
    found = {}
    for name in [each for each in results[0] if each != "none"]:
        points = {
            m: torch.stack([torch.tensor((run[name] or _still(run))[m]) for run in results])
            for m in base
        }
        found[name] = Front(points, base)
    for name in [each for each in found if "," not in each]:
        oracle = dict(found[name].points)
        for m in oracle:
            if m != "attribute":
                oracle[m] = base[m].expand_as(oracle[m])
        found[f"{name}, oracle gate"] = Front(oracle, base)
    return found


def _still(run: dict[str, Any]) -> Points:
    return {m: rows * len(COEFFS) for m, rows in run["none"].items()}


def compared(first: Front, second: Front, cost: str) -> tuple[float, float, Interval]:
    """Both volumes, and the interval of their difference over models and items.

    Both are maxima over the same grid on the same items. A volume is a mean over models; what
    another draw of items would change is seen by resampling them, all models alike. Not corrected
    for how many are compared.
    """
    sizes = {m: each.shape[-1] for m, each in first.base.items()}
    models = range(len(first.base["attribute"]))

    def gap(rows: dict[str, torch.Tensor], drawn: Sequence[int]) -> float:
        return first.volume(rows, cost, drawn) - second.volume(rows, cost, drawn)

    whole = {m: torch.arange(n) for m, n in sizes.items()}
    generator = torch.Generator().manual_seed(0)
    resamples = [
        gap({m: torch.randint(n, (n,), generator=generator) for m, n in sizes.items()}, models)
        for _ in range(RESAMPLES)
    ]
    parts = [(float(torch.tensor(resamples).var()), min(sizes.values()) - 1)]
    if len(models) > 1:
        gaps = torch.tensor([gap(whole, [each]) for each in models])
        parts.append((float(gaps.var()) / len(models), len(models) - 1))
    interval, _ = students(gap(whole, models), parts)
    volumes = (each.volume(whole, cost, models) for each in (first, second))
    return *volumes, interval


def report(results: Sequence[dict[str, Any]]) -> None:
    """Print each variant's volume against its base's, for each cost."""
    found = fronts(results)
    refused = sorted({n for run in results for n, each in run.items() if each is None})
    start = {
        m: float(torch.tensor([r["none"][m] for r in results]).mean()) for m in results[0]["none"]
    }
    print(f"{len(results)} models, unsteered", {m: round(v, 3) for m, v in start.items()})
    if refused:
        print("No gate was right often enough, nothing steered:", "; ".join(refused))
    for cost in [m for m in start if m != "attribute"]:
        lines = []
        for name, front in sorted(found.items()):
            base, _, variant = name.partition(", ")
            if variant:
                with_it, without, (low, high) = compared(front, found[base], cost)
                lines.append(
                    {
                        "base": base,
                        "gate": variant,
                        "volume": with_it,
                        "ungated": without,
                        "gain": with_it - without,
                        "low": low,
                        "high": high,
                    }
                )
        print(f"\nattribute against {cost}, volumes")
        print(pandas.DataFrame(lines).round(3).to_string(index=False))


def main() -> None:
    """Run one model, or report on several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "stories", "report"])
    parser.add_argument("given", nargs="*", help="a folder of stories260K, or results to report on")
    parser.add_argument("--attribute", default="rudeness", help="or sentiment")
    parser.add_argument("--folder", help="of another Steerling; by default the bundled one")
    parser.add_argument("--texts", help="JSON list of stories")
    parser.add_argument("--out", help="where the results go; a run that was killed goes on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "report":
        report(loaded(arguments.given))
        return
    if arguments.what == "run":
        model: Any = load_model(folder=arguments.folder)
        setting = in_world(arguments.attribute)
    else:
        model = host.load(arguments.given[0])
        setting = in_stories(arguments.texts)
    report([study(model, setting, Results(arguments.out))])


if __name__ == "__main__":
    main()
