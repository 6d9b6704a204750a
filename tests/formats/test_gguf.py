"""Control vectors as gguf: written as llama.cpp reads them, read as strictly as it does."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_bytes import (
    ARCHITECTURE,
    BAD,
    BODY,
    FIELDS,
    HINT,
    array,
    field,
    file,
    named,
    tensor,
    text,
)

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.formats import from_gguf, from_layers, gguf, to_gguf, to_layers


def written(raw: bytes, path: Path) -> Path:
    path.write_bytes(raw)
    return path


def test_a_file_byte_by_byte(tmp_path: Path) -> None:
    found = from_gguf(written(file(), tmp_path / "joy.gguf"))
    assert list(found) == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    assert found["resid_post", 1].vector.tolist() == [1, 2, 3, 4]
    assert found["resid_post", 2].vector.tolist() == [5, 6, 7, 8]
    assert found["resid_post", 1].name == "joy"
    assert found["resid_post", 1].provenance == {
        "format": "gguf",
        "model_hint": "llama",
        "file": "joy.gguf",
    }
    other = (*FIELDS, named("general.name", "glee"), field("tokens", 9, array(8, 2, text("a") * 2)))
    odd = written(file(other, version=2), tmp_path / "odd.gguf")
    assert from_gguf(odd)["resid_post", 1].name == "glee"
    assert gguf.read(odd).fields["tokens"] == "2 items"
    assert from_gguf(odd, name="mine")["resid_post", 1].name == "mine"


def test_what_is_written_is_what_llama_cpp_reads(tmp_path: Path) -> None:
    """The bytes are those of the builder: names, order, padding, no layer 0, all in float32."""
    vectors = from_layers({1: [1.0, 2, 3, 4], 2: [5.0, 6, 7, 8]}, name="joy")
    to_gguf(vectors, tmp_path / "ours.gguf", model_hint="llama")
    count = field("controlvector.layer_count", 4, struct.pack("<I", 2))
    fields = (ARCHITECTURE, named("general.name", "joy"), HINT, count)
    assert (tmp_path / "ours.gguf").read_bytes() == file(fields, body=BODY + bytes(16))


@pytest.mark.parametrize("seed", range(5))
def test_round_trips_are_bit_for_bit(seed: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    d = int(torch.randint(1, 70, (), generator=generator))
    vectors = {i: torch.randn(d, generator=generator) * 10.0 ** (i - 20) for i in (1, 2, 7, 38)}
    to_gguf(from_layers(vectors, name="joy ü"), tmp_path / "a.gguf")
    found = from_gguf(tmp_path / "a.gguf")
    for layer, vector in to_layers(found).items():
        assert torch.equal(vector, vectors[layer])
    assert {each.name for each in found.values()} == {"joy ü"}
    to_gguf(found, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_steering_is_written_with_its_coefficients(tmp_path: Path) -> None:
    up = sl.Direction("blocks.1.hook_resid_post", torch.tensor([3.0, 4.0]), name="up")
    steering = sl.add(up, 2, positions="every_token") - 0.5 * sl.add(up, positions="every_token")
    to_gguf(steering, tmp_path / "a.gguf")
    assert from_gguf(tmp_path / "a.gguf")["resid_post", 1].vector.tolist() == [4.5, 6.0]
    assert gguf.read(tmp_path / "a.gguf").fields["general.name"] == "up"


def test_halves_and_doubles_are_read(tmp_path: Path) -> None:
    for kind, dtype in gguf.DTYPES.items():
        raw = torch.tensor([1.5, -2.0]).to(dtype).view(torch.uint8).numpy().tobytes()
        path = written(file(tensors=[tensor("direction.3", [2], kind)], body=raw), tmp_path / "a")
        assert from_gguf(path)["resid_post", 3].vector.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (sl.Direction("blocks.0.hook_resid_post", torch.ones(2)), "cannot act at layer 0"),
        (from_layers({1: [1.0], 2: [1.0, 2.0]}), "one width"),
        (from_layers({1: torch.ones(4, 8)}, site="resid_post"), "one width"),
        (from_layers({1: torch.ones(4, 8)}, site="z"), "is no 'resid_post' of a layer"),
        (sl.ablate(sl.Direction("blocks.1.hook_resid_post", torch.ones(2))), "does more than add"),
    ],
)
def test_what_the_format_cannot_hold_is_told(value: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=told):
        to_gguf(value, tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", BAD)
def test_bad_files_are_told(bad: str, tmp_path: Path) -> None:
    raw, told = BAD[bad]
    path = written(raw, tmp_path / "bad.gguf")
    with pytest.raises(BadInputError, match=told) as caught:
        from_gguf(path)
    assert "bad.gguf" in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no file"):
        from_gguf(tmp_path / "nowhere.gguf")
    with pytest.raises(BadInputError, match="is a folder"):
        from_gguf(tmp_path)
    with pytest.raises(BadInputError, match="no folder"):
        to_gguf(from_layers({1: [1.0]}), tmp_path / "none" / "a.gguf")
