r"""Weight edits against activation steering, at matched utility: what a behaviour gains.

    python docs/edit_study.py run --out seed0.json                      Steerling
    python docs/edit_study.py run --folder SEED1 --out seed1.json       another training seed of it
    python docs/edit_study.py stories STORIES --pairs sentiment.jsonl --texts stories.json \
        --out sadness.json
    python docs/edit_study.py report seed0.json seed1.json seed2.json   the tables, models pooled
    python docs/edit_study.py pictures                                  an edit, drawn

`SEED1` is a folder of another Steerling (`docs/seeds/1`, `docs/seeds/2`). Every method has a grid
of strengths; the point that scores highest on validation items among those whose utility there is
at most 5 points below the unedited model's is read on test items. Seed 0, one thread, about 12
minutes a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from behaviours import TEST, VALIDATION, Behaviour, in_stories, in_world
from pictures import photograph
from results import Results, loaded
from tables import gains
from tqdm import tqdm

import steerlens as sl
from steerlens import editing, host, views
from steerlens.demo import load_model, world
from steerlens.editing import Null
from steerlens.statistics import band, paired_difference, rank_among

SLACK = 0.05
"""How far utility may fall on validation items, in points of accuracy (or nats a token)."""
PLACEBOS = 20
Change = sl.Edit | sl.Steering | None
Scored = dict[str, list[float]]


def grids(
    model: Any, contrast: sl.Contrast, found: editing.Candidates
) -> dict[str, dict[str, Change]]:
    """Every method's points, by a label; Steer2Edit's among the candidates found."""
    kinds = {"both": (1, 1), "heads": (1, 0), "neurons": (0, 1)}
    sparse: dict[str, Change] = {}
    for q in (0.5, 0.8, 0.95, 0.99):
        for kind, (heads, neurons) in kinds.items():
            for alpha in (0.15, 0.35, 0.6, 0.8):
                edit = editing.elastic_net(
                    found,
                    rho_attn=Null(q) if heads else None,
                    rho_mlp=Null(q) if neurons else None,
                    alpha=alpha,
                )
                if edit.factors:
                    sparse[f"quantile {q}, {kind}, alpha {alpha}"] = edit
    outputs = sl.find_directions(
        model,
        contrast,
        hook_names=["attn_out", "mlp_out"],
        positions="predicting",
        quality=False,
        progress=False,
    )
    stream = sl.find_directions(model, contrast, quality=False, progress=False)
    return {
        "steer2edit": sparse,
        "steering": {f"{a} v": a * sl.add(outputs) for a in (0.1, 0.2, 0.4, 0.7, 1, 1.5, 2.5)},
        "thinkedit": {
            f"{share:.0%} of heads, {w} times": editing.thinkedit(
                model, contrast, share=share, strength=w, progress=False
            )
            for share in (0.04, 0.1, 0.25)
            for w in (1.0, 2.0)
        },
        "orthogonalise": {
            f"layer {each.layer}": editing.orthogonalise(model, each) for each in stream.values()
        },
    }


def scored(model: Any, behaviour: Behaviour, change: Change, split: str, n: int) -> Scored:
    """Attribute and utility of each item under a change."""
    steering = change if isinstance(change, sl.Steering) else None
    with change.applied(model) if isinstance(change, sl.Edit) else nullcontext():
        return {
            "attribute": behaviour.attribute(model, steering, split, n),
            "utility": behaviour.utility(model, steering, split, n),
        }


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def chosen(
    model: Any, behaviour: Behaviour, points: dict[str, Change], least: float
) -> tuple[str, Change]:
    """The point of highest attribute on validation items among those of enough utility there."""
    best, label = -float("inf"), "none that keeps its utility"
    for name, change in points.items():
        found = scored(model, behaviour, change, "validation", VALIDATION)
        if mean(found["utility"]) >= least and mean(found["attribute"]) > best:
            best, label = mean(found["attribute"]), name
    return label, points.get(label)


def study(model: Any, behaviour: Behaviour) -> dict[str, Any]:
    """Every method's chosen point on test items, and the placebos of Steer2Edit's."""
    base = scored(model, behaviour, None, "validation", VALIDATION)
    least = mean(base["utility"]) - SLACK
    candidates = editing.candidates(model, behaviour.contrast, progress=False)
    points = grids(model, behaviour.contrast, candidates)
    found: dict[str, Any] = {"none": {"point": "", **_test(model, behaviour, None)}}
    largest = max(float(each.importance.abs().max()) for each in candidates.of("attn"))
    found["largest |g| of a head"] = largest
    best: Change = None
    for name in tqdm([*points, "top by |g|"], desc=behaviour.name):
        mine = points[name] if name in points else _tops(candidates, best)
        label, change = chosen(model, behaviour, mine, least)
        best = change if name == "steer2edit" else best
        found[name] = {"point": label, **_test(model, behaviour, change)}
    if isinstance(best, sl.Edit):
        found["placebos"] = [
            _test(model, behaviour, editing.random_components(candidates, best, seed))
            for seed in tqdm(range(PLACEBOS), desc="random components")
        ]
        found["edit"] = repr(best)
    return found


def _test(model: Any, behaviour: Behaviour, change: Change) -> Scored:
    return scored(model, behaviour, change, "test", TEST)


def _tops(candidates: editing.Candidates, like: Change) -> dict[str, Change]:
    if not isinstance(like, sl.Edit):
        return {}
    n = len(like.frame())
    return {
        f"{n} components, {times} times |λ|": editing.top_components(
            candidates, n, times * like.total
        )
        for times in (0.5, 1.0, 2.0)
    }


def report(results: Sequence[dict[str, Any]]) -> None:
    """Print a table a behaviour, models pooled, and Steer2Edit's rank among its placebos."""
    for name in results[0]:
        runs = [each[name] for each in results]
        methods = [key for key, each in runs[0].items() if isinstance(each, dict)]
        scores = {m: torch.tensor([run[m]["attribute"] for run in runs]) for m in methods}
        kept = {m: torch.tensor([run[m]["utility"] for run in runs]) for m in methods}
        print(f"\n{name}: {len(runs)} models, {scores['none'].shape[1]} test items each")
        utility = {m: float(each.mean()) for m, each in kept.items()}
        print(gains(scores, utility=utility).to_string(index=False))
        lead = paired_difference(scores["steer2edit"], scores["steering"])
        low, high = lead.interval
        print(
            f"steer2edit over steering {lead.mean:+.3f} [{low:+.3f}, {high:+.3f}], p {lead.p:.3f}"
        )
        _print_placebos([run for run in runs if "placebos" in run])
        for run in runs:
            print("; ".join(f"{m}: {run[m]['point']}" for m in methods[1:]), run.get("edit", ""))
            print(f"largest |g| of a head {run['largest |g| of a head']:.2f}")


def _print_placebos(runs: Sequence[dict[str, Any]]) -> None:
    if not runs:
        return
    drawn = torch.tensor([[p["attribute"] for p in run["placebos"]] for run in runs]).mean((0, 2))
    cost = torch.tensor([[p["utility"] for p in run["placebos"]] for run in runs]).mean()
    real = mean([mean(run["steer2edit"]["attribute"]) for run in runs])
    low, high = band(drawn)
    print(
        f"random components {float(drawn.mean()):.3f} [{low:.3f}, {high:.3f}], utility "
        f"{float(cost):.3f}; steer2edit has rank {rank_among(real, drawn).rank} of {PLACEBOS + 1}"
    )


def pictures() -> None:
    """Draw the edit of docs/editing.md, and the tokens that its strongest head acts on."""
    model = load_model()
    contrast = sl.Contrast.from_pairs(world.contrast("refusal", "fit", 96))
    edit = sl.steer2edit(model, contrast, rho_attn=Null(0.8), rho_mlp=Null(0.999), progress=False)
    photograph(views.edit_map(edit), "edit-map.png", 560, 540)
    head = edit.frame().query("block == 'attn'")["component"].iloc[0]
    texts = [item for pair in world.contrast("refusal", "validation", 1) for item in pair]
    photograph(views.acts_on(edit, model, texts, head), "edit-tokens.png", 760, 270)


def main() -> None:
    """Run one model, or report on several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "stories", "report", "pictures"])
    parser.add_argument("given", nargs="*", help="a folder of stories260K, or results to report on")
    parser.add_argument("--folder", help="of another Steerling; by default the bundled one")
    parser.add_argument("--pairs", help="JSONL of happy and sad pairs")
    parser.add_argument("--texts", help="JSON list of stories")
    parser.add_argument("--only", help="one behaviour")
    parser.add_argument("--out", help="where the results go; a run that was killed goes on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "pictures":
        pictures()
        return
    if arguments.what == "report":
        report(loaded(arguments.given))
        return
    if arguments.what == "run":
        model, behaviours = load_model(folder=arguments.folder), in_world()
    else:
        model = host.load(arguments.given[0])
        behaviours = [in_stories(arguments.pairs, arguments.texts)]
    wanted = [each for each in behaviours if arguments.only in (None, each.name)]
    results = Results(arguments.out)
    for each in wanted:
        if each.name not in results:
            results[each.name] = study(model, each)
    report([results])


if __name__ == "__main__":
    main()
