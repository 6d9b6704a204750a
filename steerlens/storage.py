"""Files: safetensors with provenance, written whole or not at all, checked before believed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from steerlens.errors import BadInputError

VERSION = 1
"""Of the layout of files; a later one is refused."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write a file or folder at, and move it to `path` once all is written.

    What was at `path` stays until then, and stays for good where writing fails; a folder that is
    there already is an error.

    >>> with TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "note.txt")) as fresh:
    ...         _ = fresh.write_text("all of it")
    ...     Path(folder, "note.txt").read_text()
    'all of it'
    """
    if path.is_dir():
        raise BadInputError(f"{path} is a folder that is there already. Give a new name.")
    if not path.parent.is_dir():
        raise BadInputError(f"There is no folder {path.parent} to write {path.name!r} in.")
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        yield fresh
        os.replace(fresh, path)


def write(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON description of them as one safetensors file.

    Raises BadInputError where there is no such folder; then, and whenever writing fails, what was
    there before is there still.
    """
    from safetensors.torch import save_file

    header = {"steerlens": json.dumps({"kind": kind, "version": VERSION, **about})}
    whole = {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
    with replacing(Path(path)) as fresh:
        save_file(whole, fresh, metadata=header)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the description of a file that `write` wrote.

    Raises BadInputError on a file that is not there, is none of ours, of another kind, of a later
    layout, or broken.
    """
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise BadInputError(f"{path} is a folder. Give the file that was saved.")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("steerlens", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise BadInputError(f"There is no file {path}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInputError(f"{path} is no whole safetensors file: {error}.") from None
    if not isinstance(about, dict) or "kind" not in about:
        raise BadInputError(f"{path} was not written by SteerLens: it holds tensors alone.")
    if about["kind"] != kind:
        raise BadInputError(f"{path} holds {about['kind']!r}, and {kind!r} is wanted.")
    if about.get("version", 0) not in range(VERSION + 1):
        raise BadInputError(
            f"{path} was written by a later SteerLens (layout {about['version']}, this one reads "
            f"up to {VERSION}). Install a newer one."
        )
    return tensors, about
