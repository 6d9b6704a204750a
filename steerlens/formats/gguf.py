"""The gguf container: a strict reader, and a writer of what control vectors need.

The reader believes no number of a file before it has seen that the file is long enough for it, so
that what it allocates is bounded by the file. (The `gguf` package's, at 0.19.0, takes lengths on
trust: 49 bytes keep it busy for good.) Layout: ggml's gguf specification, versions 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.storage import replacing

DTYPES = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
"""The types of tensors that are plain numbers; the rest are quantised, or integers."""
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_DIMS = 4
_LONGEST_NAME = 2**10
_LONGEST_TEXT = 2**20
_NUMBERS = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"},
    **{10: "<Q", 11: "<q", 12: "<d"},
}
_TEXT, _ARRAY = 8, 9
_SMALLEST = 8
"""Bytes of an array's item that is a text or an array: a length at least."""


@dataclass(frozen=True)
class Held:
    """Where a tensor lies in a file."""

    shape: tuple[int, ...]
    """As torch has it: gguf's the other way round."""
    kind: int
    """ggml's number of its type."""
    offset: int
    """From the start of the file."""


@dataclass(frozen=True)
class Gguf:
    """What a gguf file says of itself, and where its tensors lie."""

    path: Path
    fields: Mapping[str, Any]
    """Numbers, texts and truths; of an array, how many it holds, as a text."""
    tensors: Mapping[str, Held]

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, in float32. Raises BadInputError on one that is not plain numbers."""
        held = self.tensors[name]
        if held.kind not in DTYPES:
            raise BadInputError(
                f"{name!r} in {self.path} is quantised, or no floating point (ggml type "
                f"{held.kind}). Convert it to F32 first."
            )
        dtype = DTYPES[held.kind]
        if not prod(held.shape):
            return torch.zeros(held.shape)
        with self.path.open("rb") as file:
            file.seek(held.offset)
            raw = bytearray(file.read(prod(held.shape) * dtype.itemsize))
        return torch.frombuffer(raw, dtype=dtype).reshape(held.shape).float()


def read(path: str | Path) -> Gguf:
    """Return what a gguf file holds, without its tensors' numbers.

    Raises BadInputError, naming the file, on one that is not there, that is no gguf, of another
    version or byte order, cut, or that contradicts itself.
    """
    target = Path(path)
    if target.is_dir():
        raise BadInputError(f"{path} is a folder. Give a gguf file.")
    try:
        with target.open("rb") as file:
            return _parsed(target, _Reader(file, target.stat().st_size))
    except FileNotFoundError:
        raise BadInputError(f"There is no file {path}.") from None
    except (BadInputError, OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is no whole gguf file: {error}") from None


class _Reader:
    """Takes numbers and texts off a file, none beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    @property
    def left(self) -> int:
        return self.size - self.file.tell()

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise BadInputError(f"it ends where {length:,} bytes more should follow.")
        return self.file.read(length)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, of: str, each: int) -> int:
        """How many of something follow, of so many bytes each or more."""
        found: int = self.number("<Q")
        if found * each > self.left:
            raise BadInputError(f"it has no room for the {found:,} {of} that it declares.")
        return found

    def text(self, longest: int) -> str:
        length = self.count("bytes of a text", 1)
        if length > longest:
            raise BadInputError(f"a text in it has {length:,} bytes, and {longest:,} are the most.")
        return self.take(length).decode("utf-8")

    def value(self) -> Any:
        kind = self.number("<I")
        if kind == _TEXT:
            return self.text(_LONGEST_TEXT)
        if kind == _ARRAY:
            return self.array()
        if kind not in _NUMBERS:
            raise BadInputError(f"a field in it is of an unknown type {kind}.")
        return self.number(_NUMBERS[kind])

    def array(self) -> str:
        """Go over an array, and say how many it holds."""
        kind = self.number("<I")
        if kind in _NUMBERS:
            width = struct.calcsize(_NUMBERS[kind])
            n = self.count("items of an array", width)
            self.file.seek(n * width, 1)
        elif kind == _TEXT:
            n = self.count("texts of an array", _SMALLEST)
            for _ in range(n):
                self.file.seek(self.count("bytes of a text", 1), 1)
        else:
            raise BadInputError(f"an array in it is of type {kind}.")
        return f"{n} items"


def _parsed(path: Path, file: _Reader) -> Gguf:
    magic = file.take(4)
    if magic != b"GGUF":
        raise BadInputError(f"it begins with {magic!r}, and a gguf file with b'GGUF'.")
    version = file.number("<I")
    if version not in _VERSIONS:
        big = version & 0xFFFF == 0
        raise BadInputError(
            f"it is of version {version}{' (of another byte order?)' * big}; {_VERSIONS} are read."
        )
    n_tensors, n_fields = (file.count(noun, 13) for noun in ("tensors", "fields"))
    fields: dict[str, Any] = {}
    for _ in range(n_fields):
        _add(fields, file.text(_LONGEST_NAME), file.value, "field")
    tensors: dict[str, Held] = {}
    for _ in range(n_tensors):
        _add(tensors, file.text(_LONGEST_NAME), lambda: _held(file), "tensor")
    return Gguf(path, fields, _placed(tensors, fields.get("general.alignment", _ALIGNMENT), file))


def _add(found: dict[str, Any], name: str, make: Any, noun: str) -> None:
    if name in found:
        raise BadInputError(f"its {noun} {name[:60]!r} stands in it twice.")
    found[name] = make()


def _held(file: _Reader) -> Held:
    dims = file.number("<I")
    if not 0 < dims <= _MOST_DIMS:
        raise BadInputError(f"a tensor in it has {dims:,} dimensions; {_MOST_DIMS} are the most.")
    shape = tuple(file.number("<Q") for _ in range(dims))[::-1]
    return Held(shape, file.number("<I"), file.number("<Q"))


def _placed(tensors: Mapping[str, Held], alignment: Any, file: _Reader) -> dict[str, Held]:
    """Tensors by their place in the file, each within it and none over another."""
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise BadInputError(f"its alignment is {str(alignment)[:40]!r}, and no power of 2.")
    start = -(-file.file.tell() // alignment) * alignment
    placed = {}
    taken = start
    for name, held in sorted(tensors.items(), key=lambda pair: pair[1].offset):
        at, size = start + held.offset, prod(held.shape) * _width(held.kind)
        if at < taken or at % alignment:
            raise BadInputError(f"its tensor {name[:60]!r} lies over another, or askew.")
        if at + size > file.size:
            raise BadInputError(
                f"it ends before the tensor {name[:60]!r} of shape {held.shape} does."
            )
        placed[name] = Held(held.shape, held.kind, at)
        taken = at + size
    return {name: placed[name] for name in tensors}


def _width(kind: int) -> int:
    """Bytes of a number; 0 where they are not known, so that nothing is read."""
    return DTYPES[kind].itemsize if kind in DTYPES else 0


def write(path: str | Path, fields: Mapping[str, str | int], tensors: Mapping[str, Tensor]) -> None:
    """Write a gguf file of version 3 with texts, whole numbers and float32 tensors.

    Whole or not at all. Raises BadInputError where there is no such folder.
    """
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(fields))]
    for name, value in fields.items():
        kind, raw = (
            (_TEXT, _text(value)) if isinstance(value, str) else (4, struct.pack("<I", value))
        )
        head += [_text(name), struct.pack("<I", kind), raw]
    bodies = [
        each.detach().cpu().float().contiguous().numpy().tobytes() for each in tensors.values()
    ]
    at = 0
    for (name, each), body in zip(tensors.items(), bodies, strict=True):
        shape = struct.pack(f"<I{each.ndim}Q", each.ndim, *reversed(each.shape))
        head += [_text(name), shape, struct.pack("<IQ", 0, at)]
        at += len(_padded(body))
    with replacing(Path(path)) as fresh, fresh.open("wb") as file:
        file.write(_padded(b"".join(head)))
        file.writelines(map(_padded, bodies))


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % _ALIGNMENT)
