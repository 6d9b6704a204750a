"""Gguf files byte by byte, right ones and wrong ones, without the code under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

Tensor = tuple[bytes, Sequence[int], int, int]
"""Name, dimensions as they stand, ggml's type, offset."""


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def field(name: str | bytes, kind: int, raw: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + raw


def named(name: str | bytes, value: str | bytes) -> bytes:
    return field(name, 8, text(value))


def array(kind: int, n: int, raw: bytes) -> bytes:
    return struct.pack("<IQ", kind, n) + raw


def tensor(name: str | bytes, dims: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


ARCHITECTURE = named("general.architecture", "controlvector")
HINT = named("controlvector.model_hint", "llama")
FIELDS = (ARCHITECTURE, HINT)
TENSORS = (tensor("direction.1", [4]), tensor("direction.2", [4], offset=32))
BODY = struct.pack("<4f", 1, 2, 3, 4) + bytes(16) + struct.pack("<4f", 5, 6, 7, 8)


def file(
    fields: Sequence[bytes] = FIELDS,
    tensors: Sequence[bytes] = TENSORS,
    body: bytes = BODY,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[Any, Any] = (None, None),
    alignment: int = 32,
) -> bytes:
    told = [len(tensors) if counts[0] is None else counts[0]]
    told += [len(fields) if counts[1] is None else counts[1]]
    head = magic + struct.pack("<IQQ", version, *told) + b"".join([*fields, *tensors])
    return head + bytes(-len(head) % alignment) + body


HUGE = 2**63
DIRECTION = "direction.1"
TWICE = (TENSORS[0], tensor(DIRECTION, [4], offset=32))
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends where 4 bytes more should follow"),
    "wrong magic": (file(magic=b"GGML"), "begins with b'GGML'"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "begins with"),
    "version 1": (file(version=1), r"of version 1; \(2, 3\) are read"),
    "big endian": (file(version=3 << 24), "another byte order"),
    "tensors without end": (file(counts=(HUGE, None)), "no room for the .* tensors"),
    "fields without end": (file(counts=(None, HUGE)), "no room for the .* fields"),
    "a field too many": (file(counts=(None, 3)), "no whole gguf file"),
    "a long name": (file([*FIELDS, struct.pack("<Q", HUGE)]), "no room for the .* bytes of a text"),
    "a long text": (
        file([*FIELDS, field("a", 8, struct.pack("<Q", 2**32))]),
        "no room for the 4,294,967,296 bytes",
    ),
    "text that is none": (file([*FIELDS, named("a", b"\xff\xfe")]), "no whole gguf file: 'utf-8'"),
    "a name that is none": (file([*FIELDS, named(b"\xff", "a")]), "no whole gguf file: 'utf-8'"),
    "unknown type": (file([*FIELDS, field("a", 99, bytes(8))]), "unknown type 99"),
    "an array without end": (
        file([*FIELDS, field("a", 9, array(8, HUGE, b""))]),
        "no room for the .* texts of an array",
    ),
    "numbers without end": (
        file([*FIELDS, field("a", 9, array(0, HUGE, b""))]),
        "no room for the .* items of an array",
    ),
    "arrays in arrays": (
        file([*FIELDS, field("a", 9, array(9, 1, array(9, 1, b"")))]),
        "an array in it is of type 9",
    ),
    "a field twice": (file([*FIELDS, ARCHITECTURE]), "'general.architecture' stands in it twice"),
    "a tensor twice": (file(tensors=TWICE), "'direction.1' stands in it twice"),
    "a huge tensor": (file(tensors=[tensor(DIRECTION, [2**62])]), "ends before the tensor"),
    "a shape that wraps": (
        file(tensors=[tensor(DIRECTION, [2**32, 2**32])]),
        "ends before the tensor",
    ),
    "many dimensions": (file(tensors=[tensor(DIRECTION, [1] * 5)]), "has 5 dimensions"),
    "no dimensions": (file(tensors=[tensor(DIRECTION, [])]), "has 0 dimensions"),
    "over another": (file(tensors=[TENSORS[0], tensor("direction.2", [4])]), "lies over another"),
    "askew": (file(tensors=[tensor(DIRECTION, [4], offset=4)]), "or askew"),
    "far away": (file(tensors=[tensor(DIRECTION, [4], offset=2**40)]), "ends before the tensor"),
    "cut": (file()[:-1], "ends before the tensor 'direction.2'"),
    "alignment": (
        file([*FIELDS, field("general.alignment", 4, struct.pack("<I", 0))]),
        "its alignment is '0'",
    ),
    "alignment of text": (file([*FIELDS, named("general.alignment", "a")]), "no power of 2"),
    "quantised": (file(tensors=[tensor(DIRECTION, [4], kind=2)]), "is quantised"),
    "another architecture": (file([named("general.architecture", "llama")]), "file of 'llama'"),
    "no architecture": (file([HINT]), "file of 'None'"),
    "a path as a name": (file(tensors=[tensor("direction.../../etc", [4])]), "no direction.N"),
    "a negative layer": (file(tensors=[tensor("direction.-1", [4])]), "no direction.N"),
    "a layer with zeros": (file(tensors=[tensor("direction.01", [4])]), "no direction.N"),
    "a far layer": (file(tensors=[tensor("direction.999999", [4])]), "no direction.N"),
    "digits of elsewhere": (file(tensors=[tensor("direction.١", [4])]), "no direction.N"),
    "another tensor": (file(tensors=[tensor("bias", [4])]), "'bias', which is no direction.N"),
    "no tensor": (file(tensors=[]), "no vector at any layer"),
    "nothing in it": (file(tensors=[tensor(DIRECTION, [0])]), "shape"),
    "two widths": (file(tensors=[TENSORS[0], tensor("direction.2", [3], offset=32)]), "one width"),
    "a matrix": (file(tensors=[tensor(DIRECTION, [2, 2])]), "one width"),
    "NaN": (file(body=BODY[:-4] + struct.pack("<f", float("nan"))), "not finite"),
}  # fmt: skip
