"""Files: safetensors with provenance, written whole or not at all, checked before believed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from steerlens.errors import BadInputError

VERSION = 3
"""Of the layout of files: 2 added hashes, 3 leaves out what is made of the rest. Those before are
read, a later one is refused."""
_SEAL = "sha256 of the rest"
"""The name of a description's hash of itself."""
_LONGEST = 90_000_000
"""Bytes of a description: safetensors reads no header beyond 100 MB."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write a file or folder at, and move it to `path` once all is written.

    What was at `path` stays until then, and stays for good where writing fails; a folder that is
    there already is an error. A kill leaves the old or the new, and may leave a hidden folder
    beside it, `.NAME.*`, which nothing reads.

    >>> with TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "note.txt")) as fresh:
    ...         _ = fresh.write_text("all of it")
    ...     Path(folder, "note.txt").read_text()
    'all of it'
    """
    check_path(path)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        yield fresh
        if fresh.is_file():
            with fresh.open("rb+") as file:
                os.fsync(file.fileno())  # or a power cut could leave the new name without its bytes
        os.replace(fresh, path)


def check_path(path: Path) -> None:
    """Raise BadInputError where a path is a folder, or lies in none that is there.

    What takes minutes asks before it begins.
    """
    if path.is_dir():
        raise BadInputError(f"{path} is a folder that is there already. Give a new name.")
    if not path.parent.is_dir():
        raise BadInputError(
            f"There is no folder {path.parent} to write {path.name!r} in. Make it first."
        )


def write(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON description of them as one safetensors file, with their hashes.

    Raises BadInputError where there is no such folder; then, and whenever writing fails, what was
    there before is there still.
    """
    from safetensors.torch import save

    whole = {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
    with replacing(Path(path)) as fresh:
        # save_file would make a file that its owner alone may read, whatever the umask
        fresh.write_bytes(save(whole, metadata=signed({"kind": kind, **about}, whole)))


def signed(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the metadata of a file: its description, with a hash a tensor, and one of itself.

    `about` holds its `kind`. Raises BadInputError on a description that no file can hold.
    """
    own = {"version": VERSION, "library": version("steerlens")}
    hashes = {name: hash_of(each) for name, each in tensors.items()}
    whole = {**own, **about, "sha256": hashes}
    text = json.dumps(whole | {_SEAL: _hash_about(whole)})
    if len(text.encode()) > _LONGEST:
        raise BadInputError(
            f"The {about['kind']} takes {len(text):,} characters to describe, and a file holds "
            f"{_LONGEST:,}. Save its parts, or texts as JSON lines."
        )
    return {"steerlens": text}


def describe(path: str | Path) -> dict[str, Any]:
    """Return the description in a file that `write` wrote, without reading its tensors.

    Raises BadInputError on a file that is not there, is none of ours, of a later layout or broken.
    """
    return _opened(path)[0]


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the description of a file that `write` wrote.

    Raises BadInputError on a file that is not there, is none of ours, of another kind, of a later
    layout, or broken: cut, changed since it was written, or not what its header says.
    """
    about, tensors = _opened(path, kind)
    hashes = about.pop("sha256", None)
    hashed = about["version"] > 1 or hashes is not None
    if hashed and hashes != {name: hash_of(each) for name, each in tensors.items()}:
        raise BadInputError(_changed(path))
    return tensors, about


def _opened(path: str | Path, kind: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description, and with a kind the tensors too, once the description is believed."""
    from safetensors import SafetensorError, safe_open

    if not isinstance(path, str | os.PathLike):
        raise BadInputError(
            f"A file goes here; got {type(path).__name__}. The file comes first: load(path, model)."
        )
    if Path(path).is_dir():
        raise BadInputError(f"{path} is a folder. Give the file that was saved.")
    try:
        with safe_open(path, framework="pt") as file:
            _check_names(path)
            about = _checked(path, file.metadata() or {}, kind)
            names = () if kind is None else file.keys()
            return about, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise BadInputError(f"There is no file {path}.") from None
    except RecursionError:
        raise BadInputError(f"{path} is no whole file of ours: it is nested too deeply.") from None
    except BadInputError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BadInputError(f"{path} is no whole safetensors file: {error}.") from None


def _check_names(path: str | Path) -> None:
    """Raise ValueError where the header of a safetensors file names something twice."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        json.loads(file.read(size), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!r} stands in it twice")
    return found


def _checked(path: str | Path, metadata: Mapping[str, str], kind: str | None) -> dict[str, Any]:
    """The description in a file's metadata. Raises BadInputError on one that is not ours."""
    about = json.loads(metadata.get("steerlens", "null"), object_pairs_hook=_once)
    if not isinstance(about, dict) or not isinstance(about.get("kind"), str):
        raise BadInputError(f"{path} was not written by SteerLens: it holds tensors alone.")
    if kind is not None and about["kind"] != kind:
        raise BadInputError(f"{path} holds {about['kind']!r}, and {kind!r} is wanted.")
    layout, sealed = about.get("version"), about.pop(_SEAL, None)
    if layout not in range(1, VERSION + 1):
        raise BadInputError(
            f"{path} was written by a later SteerLens (layout {layout}, this one reads up to "
            f"{VERSION}). Install a newer one."
        )
    if (layout != 1 or sealed is not None) and sealed != _hash_about(about):
        raise BadInputError(_changed(path))
    return about


def _changed(path: str | Path) -> str:
    return (
        f"{path} is not as it was written: its content does not give the hashes that stand in it. "
        "Take another copy, or save the value again."
    )


def _hash_about(about: Mapping[str, Any]) -> str:
    """Of a description as JSON writes it."""
    return sha256(json.dumps(about).encode()).hexdigest()


def hash_of(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's dtype, shape and bytes.

    >>> hash_of(torch.ones(2)) == hash_of(torch.ones(2, 1))
    False
    """
    told = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    raw = tensor.detach().cpu().contiguous().reshape(-1)
    some = raw.view(torch.uint8).numpy().tobytes() if len(raw) else b""
    return sha256(told + some).hexdigest()
