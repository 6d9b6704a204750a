"""A run in a process of its own: `python serve.py module:function '{"argument": ...}'`.

The function sets up and returns what is to be run. Each line on standard input runs it once, and
the answer is one line of JSON: CPU seconds, and resident memory in MB before and at its peak. Only
the standard library, so that a peer's environment can serve its own run.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident(field: str) -> float:
    """Return this process's resident memory in MB: VmRSS now, or VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) / 1024


def measured(run: Callable[[], Any]) -> dict[str, float]:
    """Run once; the peak is of this run alone: the kernel is told to forget the earlier one."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident("VmRSS"), time.process_time()
    run()
    seconds = time.process_time() - start
    return {"seconds": seconds, "before": before, "peak": resident("VmHWM")}


def hoard(megabytes: int) -> Callable[[], object]:
    """Set up a run that holds so much while it lasts, to see that a peak is measured."""
    return lambda: bytearray(megabytes * 2**20).count(1)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    module, function = sys.argv[1].split(":")
    run = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print("ready", file=answers)
    for _ in sys.stdin:
        print(json.dumps(measured(run)), file=answers)


if __name__ == "__main__":
    main()
