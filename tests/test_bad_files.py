"""Files that do harm, or were harmed: one clear error each, and no memory that they do not fill.

    STEERLENS_FUZZ=20000 python -m pytest tests/test_bad_files.py

spoils so many more.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import look, write_all
from gguf_bytes import BAD
from safetensors.torch import save_file

import steerlens as sl
from steerlens.errors import BadInputError

FUZZ = int(os.environ.get("STEERLENS_FUZZ", "1200"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
pytestmark = pytest.mark.timeout(7200 if FUZZ > 1200 else 300)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("whole"))


def test_what_is_whole_is_read(files: dict[str, Path]) -> None:
    for kind, path in files.items():
        look(path, kind)


# Spoilt at random


def test_spoilt_files_are_told() -> None:
    """Byte by byte, and part by part with hashes that fit; in a process without type checks."""
    command = [sys.executable, str(Path(__file__).parent / "fuzzing.py"), str(FUZZ)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    print(done.stdout)


# Made to do harm


def raw_safetensors(header: str | bytes, body: bytes = b"", size: int | None = None) -> bytes:
    told = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(told) if size is None else size) + told + body


def ours(value: str, kind: str = "steering") -> str:
    """A header whose description holds `value`, as text; of layout 1, which has no hashes."""
    text = f'{{"kind": "{kind}", "version": 1, "value": {value}}}'
    return json.dumps({"__metadata__": {"steerlens": text}})


def entry(shape: list[int], end: int) -> str:
    return json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}})


TWICE = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2
HARM: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": bytes(7),
    "wrong magic": b"PK\x03\x04" + bytes(60),
    "a pickle": b"\x80\x02ctorch\n_utils\n" + bytes(40),
    "a header without end": raw_safetensors("{}", size=2**63),
    "a header beyond the file": raw_safetensors("{}", size=2**20),
    "a header of half the memory": raw_safetensors("{}", size=2**33),
    "a huge shape": raw_safetensors(entry([2**30, 2**30], 2**62)),
    "a shape that wraps": raw_safetensors(entry([2**32, 2**32], 0)),
    "a shape beyond its bytes": raw_safetensors(entry([2**20], 4), bytes(4)),
    "bytes beyond the file": raw_safetensors(entry([2**20], 2**22), bytes(4)),
    "a tensor twice": raw_safetensors(TWICE[:-1] + "}", bytes(4)),
    "a key twice": raw_safetensors(ours('{"tensor": "0", "tensor": "1"}')),
    "no text": raw_safetensors(b'{"__metadata__":{"steerlens":"\xff\xfe"}}'),
    "half a character": raw_safetensors(json.dumps({"__metadata__": {"steerlens": '"\ud800"'}})),
    "nested": raw_safetensors(ours("[" * 100_000 + "]" * 100_000)),
    "nested values": raw_safetensors(ours('{"tuple": [' * 400 + "]}" * 400)),
    "nested header": raw_safetensors('{"a":' * 50_000 + "1" + "}" * 50_000),
    "many small": raw_safetensors(ours("[" + "[]," * 300_000 + "[]]")),
    "a number without end": raw_safetensors(ours("9" * 100_000)),
    "a float without end": raw_safetensors(ours('{"float": "' + "9" * 100_000 + '"}')),
    "a path as a name": raw_safetensors(
        json.dumps(
            {
                "../../etc/passwd": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                **json.loads(ours('{"interventions.Group": {}}')),
            }
        ),
        bytes(4),
    ),
    "a path as a class": raw_safetensors(ours('{"../../os.system": {"command": "true"}}')),
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_told(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "harm"
    path.write_bytes(HARM[harm])
    for load in (sl.load, sl.Steering.load, sl.Edit.load):
        with pytest.raises(BadInputError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 600
        str(caught.value).encode()  # can be printed
    assert [each.name for each in tmp_path.iterdir()] == ["harm"]


PROBE = """
import gc, resource, sys
from pathlib import Path
import steerlens as sl
from steerlens.formats import from_gguf
from steerlens.errors import SteerLensError

good, folder = Path(sys.argv[1]), Path(sys.argv[2])
def status(what):
    lines = Path("/proc/self/status").read_text().split("\\n")
    return int(next(x for x in lines if what in x).split()[1])

sl.load(good)
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") * 1024 + 2**29, -1))  # half a GB more
for path in sorted(folder.iterdir()):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmHWM")
    try:
        (from_gguf if path.suffix == ".gguf" else sl.load)(path)
        print("READ", path.name)
    except SteerLensError:
        print(path.name.replace(" ", "_"), status("VmHWM") - before, path.stat().st_size // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in /proc")
def test_memory_is_bounded_by_the_file(files: dict[str, Path], tmp_path: Path) -> None:
    """In a process that may take half a GB: each file takes at most 8 MB, or 100 times its size."""
    for name, raw in HARM.items():
        (tmp_path / name).write_bytes(raw)
    for name, (raw, _) in BAD.items():
        (tmp_path / f"{name}.gguf").write_bytes(raw)
    command = [sys.executable, "-c", PROBE, str(files["steering"]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(HARM) + len(BAD)
    for name, taken, size in lines:
        assert int(taken) < max(8 * 1024, 100 * int(size)), f"{name} took {taken} KB"


# NaN, and texts


def test_nan_where_a_number_acts(files: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("direction", "basis", "steering", "edit"):
        from safetensors import safe_open

        from steerlens.storage import signed

        with safe_open(files[kind], framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about: dict[str, Any] = json.loads(file.metadata()["steerlens"])
        del about["sha256 of the rest"]
        acting = [name for name in tensors if not name.startswith("importance")]
        for name in [name for name in acting if tensors[name].is_floating_point()]:
            spoiled = {**tensors, name: torch.full_like(tensors[name], torch.nan)}
            save_file(spoiled, tmp_path / "nan", signed(about, spoiled))
            with pytest.raises(BadInputError):
                sl.load(tmp_path / "nan")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b'{"positive": "a", "negative": ', "line 1 is not JSON"),
        (b"[" * 100_000, "line 1 is nested too deeply"),
        (b'{"positive": 1, "negative": "a"}', "none of the known sets"),
        (b"", "is empty"),
    ],
)
def test_pairs_that_are_none(raw: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(raw)
    with pytest.raises(BadInputError, match=told):
        sl.Contrast.from_jsonl(path)
    with pytest.raises(BadInputError, match="There is no file"):
        sl.Contrast.from_jsonl(tmp_path / "nowhere")
