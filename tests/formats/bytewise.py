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
