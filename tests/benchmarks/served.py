"""The other end of serve.py: a run elsewhere, called as if it were here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from benchmarks.measuring import Usage
from benchmarks.results import ROOT

_SERVE = Path(__file__).with_name("serve.py")


class Served:
    """A run in a process of its own, in this environment or in another one's Python.

    `target` names a function of a module, which sets up under `arguments` and returns the run.
    """

    def __init__(
        self,
        target: str,
        python: str | Path = sys.executable,
        *,
        variables: Mapping[str, str] = MappingProxyType({}),
        **arguments: Any,
    ) -> None:
        """Start the process and wait until it has set up. Raises RuntimeError where it fails."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = subprocess.Popen(
            [str(python), str(_SERVE), target, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", **variables},
        )
        self._answer()

    def __call__(self) -> Usage:
        """Run once; return what it took."""
        assert self._process.stdin is not None
        print(file=self._process.stdin)
        return Usage(**json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(self._log.read().strip().splitlines()[-1])
        return line

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def peak(
    target: str,
    python: str | Path = sys.executable,
    *,
    hoarding: bool = False,
    **arguments: Any,
) -> Usage:
    """Return what the first run takes in a fresh process; later ones use what it left behind.

    Freed blocks of a MB or more go back to the system at once, so that the peak is of what was
    held; under glibc's own setting (`hoarding`) it grows with the number of passes, bare ones too.
    """
    variables = {} if hoarding else {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    with Served(target, python, variables=variables, **arguments) as run:
        return run()
