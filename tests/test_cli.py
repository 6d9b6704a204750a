"""The command line, as a user has it: what it writes, what it shows, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import values, write_all
from gguf_bytes import BODY, FIELDS, TENSORS, file, named
from typer.testing import CliRunner, Result

import steerlens as sl
from steerlens.cli import app
from steerlens.demo import world

HEADER = '{"sweep": "mine", "format": 1, "grid": [["layer", [0, 1, 2]]]}'


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "100"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "sentiment.jsonl"
    made = world.contrast("sentiment", "fit", 12)
    lines = [
        {"prompt": up[0], "positive_response": up[1], "negative_response": down[1]}
        for up, down in made
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.mark.host
def test_find_inspect_report(pairs: Path, tmp_path: Path) -> None:
    """The whole way: pairs, directions, what they are, a page."""
    out, page = tmp_path / "joy.safetensors", tmp_path / "page.html"
    found = run("find", pairs, "--out", out, "--placebos", 5, "--site", "mlp_out")
    assert found.exit_code == 0, found.output
    assert "6 directions, found in 12 pairs" in found.output
    assert "mlp_out 5" in found.output
    directions = sl.load(out)
    assert directions.layers == tuple(range(6))
    assert directions["mlp_out", 3].name == "sentiment"
    assert directions["mlp_out", 3].quality.placebos == 5
    seen = run("inspect", out)
    assert seen.exit_code == 0
    for told in ("directions", "hashes right", "held-out AUC", "steerling", "5 placebos, seed 0"):
        assert told in seen.output
    assert run("report", out, "--out", page).exit_code == 0
    assert "blocks.3.hook_mlp_out" in page.read_text(encoding="utf-8")


def test_every_kind_is_shown_and_reported(saved: dict[str, Path], tmp_path: Path) -> None:
    for kind, path in saved.items():
        found = run("inspect", path)
        assert found.exit_code == 0, (kind, found.output)
        assert kind in found.output
        assert len(found.output.splitlines()) > 4
    page = tmp_path / "all.html"
    found = run("report", *saved.values(), "--out", page, "--title", "Everything")
    assert found.exit_code == 0, found.output
    text = page.read_text(encoding="utf-8")
    assert "Everything" in text
    for kind in values():
        assert f">{kind}<" in text


def test_a_sweep_on_its_way_is_shown(tmp_path: Path) -> None:
    def part(layer: int) -> dict[str, float]:
        if layer == 2:
            raise ZeroDivisionError
        return {"score": 0.5}

    path = tmp_path / "sweep.jsonl"
    with pytest.raises(sl.SteerLensError):
        sl.evaluation.sweep(part, {"layer": [0, 1, 2]}, name="mine", path=path, progress=False)
    found = run("inspect", path)
    assert found.exit_code == 0
    assert "mine" in found.output
    assert "2 of 3 cells" in found.output
    for torn in (HEADER, HEADER + "\n", HEADER + '\n{"cell": 0'):
        path.write_text(torn)
        assert "0 of 3 cells" in run("inspect", path).output


def test_a_hostile_file_says_nothing_to_the_terminal(tmp_path: Path) -> None:
    """Neither escape codes nor rich's markup nor text that turns around are acted on."""
    hostile = "\x1b[2J\x1b]0;owned\x07[bold red]x[/] \u202eabc\r"
    path = tmp_path / "hostile.gguf"
    path.write_bytes(file((*FIELDS, named("general.name", hostile)), TENSORS, BODY))
    sl.save(sl.Direction("blocks.0.hook_resid_post", torch.ones(2), hostile), tmp_path / "ours")
    for each in (path, tmp_path / "ours"):
        found = run("inspect", each)
        assert found.exit_code == 0
        assert "[bold red]" in found.output
        assert not set(found.output) & {"\x1b", "\x07", "\u202e", "\r"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["find", "nowhere.jsonl"], "There is no file nowhere.jsonl"),
        (["find", "{pairs}", "--method", "nope"], "There is no method 'nope'"),
        (["find", "{pairs}", "--site", "resid_pst"], "resid_post"),
        (["find", "{pairs}", "--model", "./nowhere"], "There is no folder ./nowhere with a model"),
        (["find", "{pairs}", "--out", "nowhere/a"], "There is no folder nowhere"),
        (["find", "{pairs}", "--out", "."], "is a folder that is there already"),
        (["demo", "--out", "nowhere/a.html"], "There is no folder nowhere"),
        (["demo", "--out", "."], "is a folder that is there already"),
        (["find", "{pairs}", "--positions", "nowhere"], "nowhere"),
        (["inspect", "nowhere"], "There is no file nowhere"),
        (["inspect", "."], "is a folder"),
        (["report", "{sweep}"], "is the file of a sweep"),
        (["inspect", "{pairs}"], "no whole safetensors file"),
        (["report", "{pairs}"], "no whole safetensors file"),
        (["report", "{saved}", "--out", "nowhere/a.html"], "folder"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], told: str, pairs: Path, saved: dict[str, Path]
) -> None:
    sweep = pairs.with_name("sweep.jsonl")
    sweep.write_text(HEADER)
    at = {"pairs": pairs, "saved": saved["direction"], "sweep": sweep}
    given = [each.format(**at) for each in arguments]
    found = run(*given)
    assert found.exit_code == 1
    assert found.stderr.startswith("steerlens: ")
    assert told in found.stderr
    assert found.stderr.count("\n") == 1
    assert found.stdout == ""


def test_what_is_not_understood_is_2() -> None:
    assert run("find").exit_code == 2
    assert run("fnd").exit_code == 2
    assert run("report").exit_code == 2


def test_help_reads_without_loading_models() -> None:
    code = "import sys; from steerlens.cli import app; app(['--help'], standalone_mode=False); "
    code += "print([x for x in ('transformer_lens', 'matplotlib') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for command in ("demo", "find", "inspect", "report"):
        assert command in done.stdout
        shown: Any = run(command, "--help")
        assert shown.exit_code == 0
