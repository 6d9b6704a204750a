"""The cases by name. A case yields rows; `tiny` asks for the smallest that runs all its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks import candidates, collecting, components, growth, importing, stepping
from benchmarks.results import Row

Case = Callable[[bool], Iterator[Row]]
CASES: dict[str, Case] = {
    "all-layers": collecting.all_layers,
    "one-layer": collecting.one_layer,
    "realistic-pairs": collecting.realistic,
    "memory": growth.memory,
    "fitting": growth.fitting,
    "growth": growth.growth,
    "workers": growth.workers,
    "steps": stepping.steps,
    "edits": components.edits,
    "attribution": components.attribution,
    "rows": candidates.rows,
    "imports": importing.imports,
    "hosts": stepping.hosts,
}
"""In the order in which they run. Each has its mark in docs/performance.md."""
