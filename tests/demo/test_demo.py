"""The demo, small: on Steerling with its judge, on a file of pairs without one, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import steerlens as sl
from steerlens.cli import app
from steerlens.demo import load_model, world
from steerlens.demo.choosing import Cell, best, score
from steerlens.demo.first_steering import run
from steerlens.demo.setting import of_pairs, of_world
from steerlens.demo.telling import sentence, write_report


def cell(effect: float, kl: float, parsed: float = 1.0) -> Cell:
    return Cell(layer=0, coeff=1.0, share=0.1, effect=effect, kl=kl, parsed=parsed)


def test_best_is_the_largest_effect_that_is_affordable_and_parses() -> None:
    cells = [cell(0.9, 3.0), cell(0.8, 0.5, parsed=0.2), cell(0.5, 0.5), cell(0.4, 0.1)]
    assert best(cells, kl_budget=1.0, parsed=0.8) == cells[2]
    with pytest.raises(sl.SteerLensError, match="No dose costs"):
        best(cells, kl_budget=0.01)


def test_what_does_not_parse_never_counts() -> None:
    assert [score(v) for v in ("positive", "negative", "neutral", "unparsed")] == [1, -1, 0, 0]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "sentiment.jsonl"
    made = world.contrast("sentiment", "fit", 30)
    lines = [
        {"prompt": up[0], "positive_response": up[1], "negative_response": down[1]}
        for up, down in made
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.mark.host
def test_the_demo_steers_steerling_both_ways(tmp_path: Path) -> None:
    model: Any = load_model()
    outcome = run(
        model,
        of_world(fit=48, validation=12, test=40),
        max_new_tokens=24,
        progress=False,
    )
    base, up, down = outcome.conditions
    assert up.share("positive") > base.share("positive") > down.share("positive")
    assert all(up.measure > random.measure > down.measure for random in outcome.placebos)
    assert base.kl == 0 < up.kl
    assert len({len(each.completions) for each in outcome.conditions}) == 1
    page = write_report(model, outcome, tmp_path / "report.html").read_text()
    assert sentence(outcome).split(";")[0] in page
    assert "://" not in page.split("<script")[0]


@pytest.mark.host
def test_a_file_of_pairs_needs_no_judge(pairs: Path, tmp_path: Path) -> None:
    model: Any = load_model()
    outcome = run(model, of_pairs(model, pairs), max_new_tokens=12, progress=False)
    base, up, down = outcome.conditions
    assert up.measure > base.measure > down.measure
    assert base.verdicts == ()
    write_report(model, outcome, tmp_path / "report.html")


@pytest.mark.host
@pytest.mark.parametrize("times", [1, 3])
def test_splits_share_no_prompt(times: int, tmp_path: Path) -> None:
    """Pairs of one prompt stay together; one a prompt is split as the contrast itself."""
    pairs = [
        {"prompt": f"Prompt {i}", "positive_response": f"good {j}", "negative_response": f"bad {j}"}
        for j in range(times)
        for i in range(20)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)))
    model: Any = load_model()
    found = of_pairs(model, path, seed=1)
    prompts = [{item[0] for item in part.positive} for part in (found.fit, found.test)]
    prompts.append(set(found.validation_prompts))
    assert [len(each) for each in prompts] == [12, 4, 4]
    assert len(set().union(*prompts)) == 20
    assert len(found.fit) == 12 * times
    if times == 1:
        fit, rest = sl.Contrast.from_jsonl(path).split(0.6, seed=1)
        assert (found.fit, found.test) == (fit, rest.split(0.5, seed=1)[1])
    few = [each for each in pairs if int(each["prompt"].split()[1]) < 9]
    path.write_text("\n".join(map(json.dumps, few)))
    with pytest.raises(sl.SteerLensError, match=f"{9 * times} pairs of 9 prompts"):
        of_pairs(model, path)


@pytest.mark.host
def test_too_few_pairs_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text('{"positive": "a good day", "negative": "a bad day"}\n' * 5)
    with pytest.raises(sl.SteerLensError, match="need 20 pairs of 10 prompts"):
        of_pairs(load_model(), path)


def test_the_command_line_tells_errors_in_one_line(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["demo", "--model", "nowhere"])
    assert found.exit_code == 1
    assert found.stderr.startswith("steerlens: --model and --contrast go together")
    assert found.stderr.count("\n") == 1
