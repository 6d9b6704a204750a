"""Results of a study, kept in a file one by one, so that a run that was killed goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steerlens.storage import replacing


class Results(dict[str, Any]):
    """A dictionary that is written whenever something is put into it, if it has a path."""

    def __init__(self, path: str | None) -> None:
        """Take what the file holds already."""
        self._path = None if path is None else Path(path)
        if self._path is not None and self._path.exists():
            super().__init__(json.loads(self._path.read_text(encoding="utf-8")))

    def __setitem__(self, name: str, value: Any) -> None:
        """Put a result in, and write the file anew."""
        super().__setitem__(name, value)
        if self._path is not None:
            with replacing(self._path) as file:
                file.write_text(json.dumps(self) + "\n", encoding="utf-8")


def loaded(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The results in some files."""
    return [json.loads(Path(each).read_text(encoding="utf-8")) for each in paths]
