"""Files: written whole or not at all, and checked before they are believed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steerlens import storage
from steerlens.errors import BadInputError
from steerlens.storage import VERSION, describe, read, replacing, write

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, -2])}


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    about = {"name": "ü", "parts": [1, None, {"x": 0.1}], "none": None}
    write(path, "direction", TENSORS, about)
    tensors, found = read(path, "direction")
    own = {"kind": "direction", "version": VERSION, "library": metadata.version("steerlens")}
    assert found == {**own, **about}
    assert tensors.keys() == TENSORS.keys()
    for name, each in TENSORS.items():
        assert tensors[name].dtype == each.dtype
        assert torch.equal(tensors[name], each)
    assert names(tmp_path) == ["kept.safetensors"]
    write(str(path), "direction", {}, {})  # over what was there, and by a name as text
    assert read(str(path), "direction")[0] == {}


def test_tensors_as_users_have_them(tmp_path: Path) -> None:
    """Views, expanded, transposed, shared, with gradients, none of them a reason to fail."""
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {
        "row": whole[1],
        "turned": whole.T,
        "same": whole,
        "again": whole,
        "wide": torch.ones(1, 2).expand(3, 2),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }
    write(tmp_path / "views", "edit", tensors, {})
    found, _ = read(tmp_path / "views", "edit")
    for name, each in tensors.items():
        assert found[name].dtype == each.dtype
        assert torch.equal(found[name], each)


def test_whoever_may_read_other_files_may_read_ours(tmp_path: Path) -> None:
    write(tmp_path / "ours.safetensors", "direction", {"v": torch.ones(2)}, {})
    (tmp_path / "plain.txt").write_text("")
    ours, plain = ((tmp_path / name).stat() for name in ("ours.safetensors", "plain.txt"))
    assert ours.st_mode == plain.st_mode


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with pytest.raises(ZeroDivisionError), replacing(path) as fresh:
        fresh.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as fresh:
        fresh.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    with pytest.raises(TypeError):
        write(path, "edit", TENSORS, {"not JSON": object()})
    assert path.read_text() == "before"
    assert names(tmp_path) == ["kept"]


def test_what_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("before")
    with replacing(path) as fresh:
        fresh.write_text("after")
        assert path.read_text() == "before"
        assert fresh != path
    assert path.read_text() == "after"
    assert names(tmp_path) == ["kept"]


def test_folders_too(tmp_path: Path) -> None:
    with replacing(tmp_path / "model") as fresh:
        fresh.mkdir()
        (fresh / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path / "model") == ["config.json"]
    reached = False
    with pytest.raises(BadInputError, match="there already"), replacing(tmp_path / "model"):
        reached = True
    assert not reached
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "other") as fresh:
        fresh.mkdir()
        (fresh / "config.json").write_text("{}")
        raise ZeroDivisionError
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["config.json"]


@pytest.mark.parametrize("within", [False, True])
def test_no_folder_to_write_in(within: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / ("file" if within else "nowhere") / "kept"
    with pytest.raises(BadInputError, match=r"There is no folder .* to write 'kept' in"):
        write(path, "edit", TENSORS, {})
    assert names(tmp_path) == ["file"]


def test_a_name_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("kept", "edit", TENSORS, {})
    assert names(tmp_path) == ["kept"]


def test_what_is_no_file_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with pytest.raises(BadInputError, match="There is no file"):
        read(path, "edit")
    with pytest.raises(BadInputError, match="is a folder"):
        read(tmp_path, "edit")
    path.write_bytes(b"")
    with pytest.raises(BadInputError, match="no whole safetensors file"):
        read(path, "edit")
    save_file(TENSORS, path)
    with pytest.raises(BadInputError, match="not written by SteerLens"):
        read(path, "edit")
    for header in ("[]", "3", '"edit"', "{}", "null"):
        save_file(TENSORS, path, metadata={"steerlens": header})
        with pytest.raises(BadInputError, match="not written by SteerLens"):
            read(path, "edit")
    save_file(TENSORS, path, metadata={"steerlens": "{"})
    with pytest.raises(BadInputError, match="no whole safetensors file"):
        read(path, "edit")
    write(path, "direction", TENSORS, {})
    with pytest.raises(BadInputError, match="holds 'direction', and 'edit' is wanted"):
        read(path, "edit")


@pytest.mark.parametrize("version", [VERSION + 1, "2", None])
def test_a_later_layout_is_refused(version: Any, tmp_path: Path) -> None:
    header = {"kind": "edit", "version": version}
    save_file(TENSORS, tmp_path / "kept", metadata={"steerlens": json.dumps(header)})
    with pytest.raises(BadInputError, match="later SteerLens"):
        read(tmp_path / "kept", "edit")


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path, "edit", TENSORS, {"name": "x"})
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInputError, match="no whole safetensors file"):
            read(path, "edit")
    path.write_bytes(whole)
    assert storage.read(path, "edit")[1]["name"] == "x"


def rewritten(path: Path, tensors: dict[str, torch.Tensor] | None = None, **about: Any) -> None:
    """The file at `path` with other tensors or another description, its hashes as they were."""
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = file.metadata()
    told["steerlens"] = json.dumps({**json.loads(told["steerlens"]), **about})
    save_file(kept if tensors is None else tensors, path, told)


@pytest.mark.parametrize(
    "changed",
    [
        {**TENSORS, "b": torch.tensor([1, -1])},
        {**TENSORS, "a": TENSORS["a"].reshape(3, 2)},
        {**TENSORS, "b": TENSORS["b"].int()},
        {"a": TENSORS["a"]},
        {**TENSORS, "c": torch.ones(1)},
    ],
)
def test_a_changed_tensor_is_told(changed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path, "edit", TENSORS, {"name": "x"})
    rewritten(path, TENSORS)
    assert read(path, "edit")[1]["name"] == "x"
    rewritten(path, changed)
    with pytest.raises(BadInputError, match=r"kept is not as it was written"):
        read(path, "edit")


def test_a_changed_description_is_told(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path, "edit", TENSORS, {"coeff": 4})
    assert describe(path)["coeff"] == 4
    rewritten(path, coeff=5)
    for look in (describe, lambda path: read(path, "edit")):
        with pytest.raises(BadInputError, match="not as it was written"):
            look(path)


def test_layout_1_had_no_hashes_and_is_read(tmp_path: Path) -> None:
    about = {"kind": "edit", "version": 1, "name": "old"}
    save_file(TENSORS, tmp_path / "kept", metadata={"steerlens": json.dumps(about)})
    tensors, found = read(tmp_path / "kept", "edit")
    assert found == about
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_a_description_that_no_file_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_LONGEST", 1000)
    with pytest.raises(BadInputError, match=r"takes .* characters to describe"):
        write(tmp_path / "kept", "contrast", {}, {"value": "x" * 1000})
    assert names(tmp_path) == []


SAVER = """
import sys, torch
from steerlens import storage
for i in range(100_000):
    storage.write(sys.argv[1], "edit", {"a": torch.full((200_000,), float(i))}, {"i": i})
    print(i, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """A process that saves without end is killed 12 times, each a little later in a save."""
    path = tmp_path / "kept"
    write(path, "edit", {"a": torch.full((200_000,), -1.0)}, {"i": -1})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for kill in range(12):
        command = [sys.executable, "-c", SAVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as saving:
            assert saving.stdout is not None
            said = int(saving.stdout.readline())
            time.sleep(0.002 * kill)
            saving.send_signal(signal.SIGKILL)
            said = int((saving.stdout.read().split() or [said])[-1])
        tensors, about = read(path, "edit")
        assert about["i"] in (said, said + 1)
        assert bool((tensors["a"] == float(about["i"])).all())
    left = {name for name in names(tmp_path) if not name.startswith(".kept.")}
    assert left == {"kept"}
